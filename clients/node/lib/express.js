// A middleware for Express (or anything that calls `(req, res, next)`): which route is
// which event, who asks, and what a denial looks like to LibreChat's client. What may
// be done is the daemon's decision; what happens without one is client.js's.
'use strict';

const { isIP } = require('node:net');
const { ModerationError } = require('./error.js');

const DEFAULTS = {
  routes: [],
  user: (req) => req.user?.id,
  ip: (req) => req.ip ?? req.socket.remoteAddress,
  account: () => undefined,
  onDeny: undefined,
  headers: true,
};

const ROUTE_FIELDS = new Set(['method', 'path', 'event', 'lease', 'userAgent', 'outcome']);

// Those who may not do it at all; all others may, later.
const FORBIDDEN = new Set(['banned', 'non_browser', 'illegal_model_request', 'convo_access']);
// The daemon takes no longer ones.
const MAX_ACCOUNT_BYTES = 512;
// LibreChat's client has a text of its own for this type, under another name.
const TYPE_OF_BAN = 'ban';

/** See README.md for the options. */
function protect(moderation, options = {}) {
  for (const name of Object.keys(options)) {
    if (!(name in DEFAULTS)) throw new TypeError(`there is no option ${name}`);
  }
  const how = { ...DEFAULTS, ...options };
  const routes = how.routes.map(compiled);
  return function moderated(req, res, next) {
    const path = pathOf(req);
    const route = routes.find((one) => one.matches(req.method, path));
    if (route === undefined) return next();
    return judge(moderation, how, route, req, res).then(
      (mayGoOn) => (mayGoOn ? next() : undefined),
      next,
    );
  };
}

async function judge(moderation, how, route, req, res) {
  const subject = subjectOf(how, req);
  const moderated = { answer: null, lease: null };
  req.moderation = moderated;
  if (route.outcome) tellOutcome(moderation, how, route, req, res);
  if (subject.user === undefined && subject.ip === undefined) {
    const text = 'neither a user nor an address: see the options user and ip of protect';
    throw new ModerationError('refused', text);
  }
  if (route.event) {
    const event = { type: route.event, ...subject, ...accountOf(how, req) };
    if (route.userAgent) event.user_agent = req.headers['user-agent'] ?? '';
    moderated.answer = await moderation.event(event);
    if (how.headers) limitHeaders(res, moderated.answer.limits);
    if (moderated.answer.decision === 'deny') return deny(how, req, res, moderated.answer);
  }
  if (route.lease) {
    const lease = await moderation.acquire(subject);
    if (!lease.allowed) return deny(how, req, res, lease.answer);
    moderated.lease = lease;
    // Also where the client went away meanwhile, so that there is no more "close".
    if (res.closed || res.destroyed || res.writableFinished) lease.release();
    else res.once('close', () => lease.release());
  }
  return true;
}

/** A user is named only by somebody who has logged in; a wrong password names nobody. */
function tellOutcome(moderation, how, route, req, res) {
  res.once('finish', () => {
    const type = route.outcome[res.statusCode];
    const { ip } = subjectOf(how, req);
    if (type === undefined || ip === undefined) return;
    // Whoever could be told of a mistake has been answered: the process is told.
    const told = moderation.event({ type, ip, ...accountOf(how, req) });
    told.catch((error) => process.emitWarning(error));
  });
}

function subjectOf(how, req) {
  const user = how.user(req);
  const subject = {};
  if (user !== undefined && user !== null && user !== '') subject.user = wellFormed(String(user));
  // What a client can write into a header must not get it past its limits.
  const ip = [how.ip(req), req.socket.remoteAddress].find((text) => isIP(text ?? '') !== 0);
  if (ip !== undefined) subject.ip = withoutZone(ip);
  return subject;
}

/** Typed by strangers: what is no account name is left out, as it can be no account. */
function accountOf(how, req) {
  const account = how.account(req);
  if (typeof account !== 'string') return {};
  const text = wellFormed(account);
  const bytes = Buffer.byteLength(text);
  return bytes > 0 && bytes <= MAX_ACCOUNT_BYTES ? { account: text } : {};
}

/** Half a character is no text; the daemon would refuse the request for it. */
function wellFormed(text) {
  return Buffer.from(text, 'utf8').toString('utf8');
}

function withoutZone(ip) {
  return ip.split('%', 1)[0];
}

async function deny(how, req, res, answer) {
  // Somebody else has answered, or nobody listens any more.
  if (res.headersSent || res.destroyed) return false;
  const { status, body } = denial(answer);
  res.statusCode = status;
  if (answer.retry_after_ms !== undefined && answer.retry_after_ms !== null) {
    res.setHeader('Retry-After', String(Math.ceil(answer.retry_after_ms / 1_000)));
  }
  if (how.onDeny) await how.onDeny(req, res, answer);
  if (res.writableEnded) return false;
  res.setHeader('Content-Type', 'application/json; charset=utf-8');
  res.setHeader('Cache-Control', 'no-store');
  res.end(JSON.stringify(body));
  return false;
}

/** The shape that LibreChat's client renders: 4xx with a `type`. No scores, no counts. */
function denial(answer) {
  const { reason, message, ban } = answer;
  const type = reason === 'banned' ? TYPE_OF_BAN : reason;
  const body = { type, message: message ?? 'Too many requests. Try again later' };
  if (answer.retry_after_ms !== undefined) body.retry_after_ms = answer.retry_after_ms;
  if (ban?.id !== undefined) body.ban = ban.id;
  if (ban !== undefined) body.until = ban.expires_at;
  const exceeded = answer.limits.at(-1);
  if (exceeded !== undefined) body.max = exceeded.limit;
  if (answer.concurrency) body.limit = answer.concurrency.limit;
  return { status: statusOf(answer), body };
}

function statusOf({ reason, failedClosed }) {
  if (failedClosed) return 503;
  return FORBIDDEN.has(reason) ? 403 : 429;
}

/** draft-ietf-httpapi-ratelimit-headers: lists of strings with parameters (RFC 9651). */
function limitHeaders(res, limits) {
  if (limits.length === 0 || res.headersSent) return;
  const policy = limits.map(({ name, limit, window_ms: windowMs }) => {
    return `"${name}";q=${limit};w=${Math.ceil(windowMs / 1_000)}`;
  });
  const left = limits.map(({ name, remaining, reset_ms: resetMs }) => {
    return `"${name}";r=${remaining};t=${Math.ceil(resetMs / 1_000)}`;
  });
  res.setHeader('RateLimit-Policy', policy.join(', '));
  res.setHeader('RateLimit', left.join(', '));
}

/** The path as Express routes by it, wherever the middleware is mounted. */
function pathOf(req) {
  if (typeof req.path === 'string') return (req.baseUrl ?? '') + req.path;
  const target = req.originalUrl ?? req.url;
  if (target.startsWith('/')) return target.split(/[?#]/, 1)[0];
  try {
    return new URL(target).pathname;
  } catch {
    return target;
  }
}

/** As Express's router by default: without regard to case and to a slash at the end. */
function compiled(route) {
  for (const name of Object.keys(route)) {
    if (!ROUTE_FIELDS.has(name)) throw new TypeError(`a route has no ${name}`);
  }
  if (!route.event && !route.lease && !route.outcome) {
    throw new TypeError(`the route ${route.path} asks for nothing: event, lease or outcome`);
  }
  const pattern = route.path instanceof RegExp ? route.path : patternOf(route.path);
  const method = route.method?.toUpperCase();
  const matches = (asked, path) => {
    // Express answers HEAD by what is there for GET.
    const isMethod = method === undefined || asked === method || (method === 'GET' && asked === 'HEAD');
    return isMethod && pattern.test(path);
  };
  return { ...route, matches };
}

/** `/a/:b/c`, where `:b` is one piece, and `/a/*`, where the star is all the rest. */
function patternOf(path) {
  if (typeof path !== 'string' || !path.startsWith('/')) {
    throw new TypeError(`a route's path begins with a slash or is a RegExp: ${path}`);
  }
  const pieces = path.replace(/\/$/, '').split('/').slice(1);
  const written = pieces.map((piece, index) => {
    if (piece === '*' && index === pieces.length - 1) return '(?:/.*)?';
    return piece.startsWith(':') ? '/[^/]+' : `/${piece.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}`;
  });
  return new RegExp(`^${written.join('')}/?$`, 'is');
}

module.exports = { protect };
