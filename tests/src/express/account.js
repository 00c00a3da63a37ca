// Who is who: accounts, LibreChat's access tokens (HS256, in the Authorization header) and
// its refresh tokens (in a cookie, signed with another secret). Passwords are kept as they
// are, for nobody real has one here.
'use strict';

const crypto = require('node:crypto');
const express = require('express');
const jwt = require('jsonwebtoken');

const SECRET = process.env.JWT_SECRET;
if (!SECRET) {
  throw new Error('JWT_SECRET is not set');
}
const REFRESH_SECRET = crypto.randomBytes(32).toString('hex');
const SESSION_MS = Number(process.env.SESSION_EXPIRY ?? 15 * 60 * 1000);
const REFRESH_MS = 7 * 24 * 60 * 60 * 1000;
/** No more than this are kept, for registration is open to everybody. */
const MOST = 100_000;

/** By e-mail address. */
const accounts = new Map();

const create = (email, password, username) => {
  // As long as MongoDB's ids, and the same in each run.
  const id = crypto.createHash('sha256').update(email).digest('hex').slice(0, 24);
  accounts.set(email, { id, email, username, password });
};

for (const name of ['alice', 'bob', 'carol', 'mallory']) {
  create(`${name}@chat.example`, `${name}-password`, name);
}

/** As LibreChat hands it out, without the password. */
const shown = ({ id, email, username }) =>
  ({ _id: id, id, email, username, name: username, provider: 'local', role: 'USER' });

const session = (response, user) => {
  const { id, username, email } = user;
  const seconds = (ms) => ({ expiresIn: Math.trunc(ms / 1000) });
  const refresh = jwt.sign({ id }, REFRESH_SECRET, seconds(REFRESH_MS));
  const cookie = { httpOnly: true, sameSite: 'strict', maxAge: REFRESH_MS };
  response.cookie('refreshToken', refresh, cookie);
  const claims = { id, username, provider: 'local', email };
  const token = jwt.sign(claims, SECRET, { algorithm: 'HS256', ...seconds(SESSION_MS) });
  return { token, user: shown(user) };
};

const login = (request, response) => {
  const { email, password } = request.body ?? {};
  const user = typeof email === 'string' ? accounts.get(email.trim().toLowerCase()) : undefined;
  if (!user || user.password !== password) {
    const message = user ? 'Incorrect password.' : 'Email does not exist.';
    return response.status(404).json({ message });
  }
  return response.json(session(response, user));
};

const register = (request, response) => {
  const { email, password, confirm_password: again, username } = request.body ?? {};
  const isText = [email, password].every((it) => typeof it === 'string' && it.length >= 8);
  if (!isText || password !== again) {
    return response.status(404).json({ message: 'Invalid registration' });
  }
  const address = email.trim().toLowerCase();
  if (!accounts.has(address) && accounts.size < MOST) {
    create(address, password, String(username ?? address.split('@')[0]));
  }
  // Nobody learns from it who has an account.
  return response.json({ message: 'Please check your email to verify your email address.' });
};

const refresh = (request, response) => {
  const cookie = /(?:^|;\s*)refreshToken=([^;]+)/.exec(request.get('cookie') ?? '');
  if (!cookie) {
    return response.status(200).send('Refresh token not provided');
  }
  try {
    const { id } = jwt.verify(cookie[1], REFRESH_SECRET, { algorithms: ['HS256'] });
    const user = [...accounts.values()].find((it) => it.id === id);
    return user ? response.json(session(response, user)) : response.status(401).redirect('/login');
  } catch {
    return response.status(403).send('Invalid refresh token');
  }
};

/** An answer that is always the same. */
const answer = (status, message) => (_, response) => response.status(status).json({ message });

const router = express.Router()
  .post('/login', login)
  .post('/register', register)
  .post('/refresh', refresh)
  .post('/logout', answer(200, 'Logout successful'))
  .post('/requestPasswordReset', answer(200, 'If an account with that email exists, a link was sent.'))
  .post('/resetPassword', answer(400, 'Invalid or expired password reset token'))
  .post('/2fa/verify-temp', answer(401, 'Invalid or expired token'));

const bearer = (request) => /^Bearer (.+)$/i.exec(request.get('authorization') ?? '')?.[1] ?? '';

/** Lets in whoever has a token of this app, as `request.user`. */
const required = (request, response, next) => {
  try {
    const { id } = jwt.verify(bearer(request), SECRET, { algorithms: ['HS256'] });
    request.user = { id };
  } catch {
    return response.status(401).send('Unauthorized');
  }
  return next();
};

/** Lets in whoever has a key, as programs do. */
const keyRequired = (request, response, next) => {
  if (bearer(request).startsWith('sk-')) {
    return next();
  }
  const error = { message: 'Missing API key', type: 'invalid_request_error' };
  return response.status(401).json({ error });
};

module.exports = { router, login, required, keyRequired };
