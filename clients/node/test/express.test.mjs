// The middleware in a real Express, with real requests, against the real daemon.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import http from 'node:http';
import { once } from 'node:events';
import test from 'node:test';

import { protect } from '../index.mjs';
import { Daemon, until } from './daemon.mjs';

const express = createRequire(`${process.env.MODERATION_CLIENT_PACKAGES}/`)('express');

/** The app, with what the tests need to look at. */
async function serve(t, handler) {
  const server = http.createServer(handler).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const origin = `http://127.0.0.1:${server.address().port}`;
  return async (path, { method = 'POST', user, ...options } = {}) => {
    const headers = { ...(user && { 'x-test-user': user }), ...options.headers };
    return fetch(origin + path, { ...options, method, headers });
  };
}

const ROUTES = [
  { method: 'POST', path: '/api/auth/login', event: 'login', outcome: { 401: 'login_failure' } },
  { method: 'POST', path: '/api/agents/chat/:endpoint', event: 'message', userAgent: true },
  { method: 'GET', path: '/stream/:id', lease: true },
  { path: '/files/*', event: 'file_upload' },
];

/** A chat host in a few lines; whoever says so in a header has logged in. */
function chat(client, options = {}) {
  const app = express();
  app.set('trust proxy', 1);
  app.use(express.json());
  app.use((req, res, next) => {
    if (req.headers['x-test-user']) req.user = { id: req.headers['x-test-user'] };
    next();
  });
  app.use(protect(client, { routes: ROUTES, account: (req) => req.body?.email, ...options }));
  app.post('/api/auth/login', (req, res) => {
    res.status(req.body?.password === 'right' ? 200 : 401).json({});
  });
  app.post('/api/agents/chat/:endpoint', (req, res) => res.json({ streamId: '1' }));
  app.get('/stream/:id', (req, res) => {
    res.write('data: begun\n\n');
    app.open.add(res);
  });
  app.all('/files{/*rest}', (req, res) => res.json({}));
  app.get('/free', (req, res) => res.json({ moderated: req.moderation !== undefined }));
  app.use((error, req, res, next) => res.status(500).json({ name: error.name, code: error.code }));
  app.open = new Set();
  return app;
}

const browser = { 'user-agent': 'Mozilla/5.0 (X11; Linux x86_64) Chrome/130.0.0.0 Safari/537.36' };
const limits = { message_ip: { enabled: false }, message_user: { enabled: true, max: 3, window: '10m' } };
const lasting = { bans: { enabled: false } };
// On the loopback everybody has the same address, which is guarded: nobody is banned by it.
const plain = { limits, ...lasting };

test('a route trips at its number, and says when to come again', async (t) => {
  const client = (await Daemon.start(t, plain)).client();
  const ask = await serve(t, chat(client));
  const say = (user) => ask('/api/agents/chat/openAI', { user, headers: browser });
  for (const left of [2, 1, 0]) {
    const response = await say('anna');
    assert.equal(response.status, 200);
    assert.deepEqual(await response.json(), { streamId: '1' });
    assert.equal(response.headers.get('ratelimit-policy'), '"message_user";q=3;w=600');
    assert.match(response.headers.get('ratelimit'), new RegExp(`^"message_user";r=${left};t=\\d+$`));
  }
  const denied = await say('anna');
  assert.equal(denied.status, 429);
  assert.match(denied.headers.get('content-type'), /^application\/json/);
  assert.match(denied.headers.get('ratelimit'), /^"message_user";r=0;t=\d+$/);
  const seconds = Number(denied.headers.get('retry-after'));
  assert.ok(seconds > 0 && seconds <= 600, `${seconds} s`);
  const body = await denied.json();
  assert.deepEqual([body.type, body.max], ['message_limit', 3]);
  assert.equal(body.message, 'Too many messages. Try again later');
  assert.equal('score' in body || 'violation' in body, false, 'nobody is told how far to go');
  assert.equal((await say('bob')).status, 200, 'somebody else');
});

test('routes that are not listed are not looked at', async (t) => {
  const client = (await Daemon.start(t, plain)).client();
  const ask = await serve(t, chat(client));
  const response = await ask('/free', { method: 'GET' });
  assert.deepEqual(await response.json(), { moderated: false });
  assert.equal(client.stats().opened, 0);
});

test('no spelling of a path that the app serves gets past its limit', async (t) => {
  const client = (await Daemon.start(t, plain)).client();
  const ask = await serve(t, chat(client));
  const spellings = ['/api/agents/chat/x', '/API/Agents/CHAT/x', '/api/agents/chat/x/', '/api/agents/chat/x?y#z'];
  for (const [index, path] of [...spellings, ...spellings].entries()) {
    const { status } = await ask(path, { user: 'anna', headers: browser });
    assert.equal(status, index < 3 ? 200 : 429, path);
  }
  for (const [method, path] of [['GET', '/files'], ['DELETE', '/files/a/b'], ['HEAD', '/FILES/a/']]) {
    const { headers } = await ask(path, { method });
    assert.match(headers.get('ratelimit-policy'), /file_upload_ip/, path);
  }
});

test('odd targets are refused by the app or counted, never served beyond the limit', async (t) => {
  const client = (await Daemon.start(t, { ...lasting, limits: { message_user: { enabled: true, max: 1 } } })).client();
  const server = http.createServer(chat(client)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const { port } = server.address();
  const headers = { ...browser, 'x-test-user': 'anna' };
  const ask = async (path) => {
    const request = http.request({ port, host: '127.0.0.1', method: 'POST', path, headers, agent: false });
    const [response] = await once(request.end(), 'response');
    response.resume();
    return response.statusCode;
  };
  assert.equal(await ask('/api/agents/chat/x'), 200);
  const targets = [
    ['http://elsewhere.example/api/agents/chat/x', 429],
    ['http://elsewhere.example:80/API/agents/chat/x/?a', 429],
    ['/api/agents/chat/%2e%2e', 429],
    ['/api/agents/chat/a%2fb', 429],
    ['/api/agents/chat/x#y', 429],
    ['//api/agents/chat/x', 404],
    ['/api/%61gents/chat/x', 404],
    ['/api/agents//chat/x', 404],
    ['/api/./agents/chat/x', 404],
    ['/api\\agents\\chat\\x', 404],
    ['\\api\\agents\\chat\\x', 400],
  ];
  for (const [target, status] of targets) assert.equal(await ask(target), status, target);
});

test('whoever is banned is told so as the chat client shows it', async (t) => {
  const client = (await Daemon.start(t, { limits })).client();
  const seen = [];
  const onDeny = (req, res, answer) => seen.push(answer.logout);
  const ask = await serve(t, chat(client, { onDeny }));
  const violation = { type: 'illegal_model_request', user: 'anna', score: 20 };
  const { ban } = await client.violation(violation);
  const response = await ask('/api/agents/chat/x', { user: 'anna', headers: browser });
  assert.equal(response.status, 403);
  const body = await response.json();
  assert.deepEqual([body.type, body.ban, body.until], ['ban', ban.id, ban.expires_at]);
  assert.match(body.message, /temporarily banned/);
  assert.ok(Number(response.headers.get('retry-after')) > 0);
  assert.deepEqual(seen, [true]);
});

test('a script that pretends nothing is told that its request is illegal', async (t) => {
  const client = (await Daemon.start(t, plain)).client();
  const ask = await serve(t, chat(client));
  const headers = { 'user-agent': 'curl/8.0' };
  const response = await ask('/api/agents/chat/x', { user: 'anna', headers });
  assert.equal(response.status, 403);
  const body = await response.json();
  assert.deepEqual([body.type, body.message], ['non_browser', 'Illegal request']);
});

test('a stream takes a place until it ends, however it ends', async (t) => {
  const client = (await Daemon.start(t, { ...lasting, concurrency: { max: 1, lease: '1m' } })).client();
  const app = chat(client);
  const ask = await serve(t, app);
  const begin = async (signal) => ask('/stream/1', { method: 'GET', user: 'anna', signal });
  const isFree = async () => {
    const response = await begin();
    await response.body.cancel();
    return response.status === 200;
  };
  const response = await begin();
  assert.equal(response.status, 200);
  const denied = await begin();
  assert.equal(denied.status, 429);
  const body = await denied.json();
  assert.deepEqual([body.type, body.limit], ['concurrent', 1]);
  assert.match(body.message, /^Only 1 messages at a time/);
  for (const open of app.open) open.end('data: end\n\n');
  assert.match(await response.text(), /begun[^]*end/);
  await until('the place of a stream that ended', isFree);
  const abort = new AbortController();
  await until('a place', async () => (await begin(abort.signal)).status === 200);
  abort.abort();
  await until('the place of a stream that was broken off', isFree);
});

test('a place for somebody who went away while it was asked for is given back', async (t) => {
  const daemon = await Daemon.start(t, { ...lasting, concurrency: { max: 1, lease: '1m' } });
  const client = daemon.client({ timeoutMs: 20_000 });
  const app = chat(client);
  const ask = await serve(t, app);
  await daemon.freeze();
  const abort = new AbortController();
  const asked = ask('/stream/1', { method: 'GET', user: 'anna', signal: abort.signal });
  await until('the app to ask', () => client.stats().running === 1);
  abort.abort();
  await assert.rejects(asked, { name: 'AbortError' });
  daemon.thaw();
  await until('the place to be given back', () => client.stats().running + client.stats().leases === 0);
  const lease = await client.acquire({ user: 'anna' });
  assert.ok(lease.held);
});

test('wrong passwords count against the account and name no user', async (t) => {
  const accounts = { login: { max: 1_000 }, login_account: { max: 2, window: '10m' } };
  const daemon = await Daemon.start(t, { ...lasting, limits: accounts });
  const client = daemon.client();
  const ask = await serve(t, chat(client));
  const login = (email, password, more = {}) => ask('/api/auth/login', {
    body: JSON.stringify({ email, password }),
    headers: { 'content-type': 'application/json', 'x-forwarded-for': '203.0.113.7' },
    ...more,
  });
  assert.equal((await login('a@example.org', 'right')).status, 200);
  for (let attempt = 0; attempt < 2; attempt += 1) {
    assert.equal((await login('a@example.org', 'wrong', { user: 'victim' })).status, 401);
  }
  const left = { type: 'login_failure', ip: '203.0.113.7', account: 'a@example.org' };
  await until('both to be counted', async () => (await client.limits(left)).at(-1).remaining === 0);
  assert.equal((await login('a@example.org', 'right')).status, 429);
  assert.equal((await login('b@example.org', 'right')).status, 200, 'another account');
});

test('nothing that a client sends gets it past its limits', async (t) => {
  const client = (await Daemon.start(t, { ...lasting, limits: { login: { max: 8, window: '10m' } } })).client();
  const ask = await serve(t, chat(client));
  const emails = ['x'.repeat(600), '', 7, { $gt: '' }, ['a'], null, '\ud800', 'ä'.repeat(300)];
  const statuses = [];
  for (const [index, email] of [...emails, 'x', 'y'].entries()) {
    // With garbage for an address the peer's own counts.
    const headers = { 'content-type': 'application/json', 'x-forwarded-for': `garbage ${index}` };
    const response = await ask('/api/auth/login', { body: JSON.stringify({ email, password: 'right' }), headers });
    statuses.push(response.status);
  }
  assert.deepEqual(statuses, [...Array(8).fill(200), 429, 429]);
  assert.deepEqual(client.errors, []);
});

test('without the daemon the app goes on, or says 503 where that is wanted', async (t) => {
  const daemon = await Daemon.start(t, plain);
  const [open, closed] = [daemon.client(), daemon.client({ failClosed: true })];
  const [asks, asksClosed] = [await serve(t, chat(open)), await serve(t, chat(closed))];
  await daemon.kill();
  const request = { user: 'anna', headers: browser };
  for (let attempt = 0; attempt < 5; attempt += 1) {
    const response = await asks('/api/agents/chat/x', request);
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('ratelimit'), null);
  }
  const denied = await asksClosed('/api/agents/chat/x', request);
  assert.equal(denied.status, 503);
  assert.equal(denied.headers.get('retry-after'), '1');
  assert.equal((await denied.json()).type, 'unavailable');
  assert.equal(open.errors.length, 1);
});

test('a mistake in the set-up is an error and not a way through', async (t) => {
  const client = (await Daemon.start(t, plain)).client();
  assert.throws(() => protect(client, { route: [] }), /no option route/);
  assert.throws(() => protect(client, { routes: [{ path: '/a', events: 'x' }] }), /no events/);
  assert.throws(() => protect(client, { routes: [{ path: '/a' }] }), /asks for nothing/);
  assert.throws(() => protect(client, { routes: [{ path: 'a', lease: true }] }), /slash/);
  const routes = [{ path: '/files/*', event: 'no_such_event' }];
  const ask = await serve(t, chat(client, { routes }));
  const response = await ask('/files/a');
  assert.equal(response.status, 500);
  assert.deepEqual(await response.json(), { name: 'ModerationError', code: 'refused' });
});

test('without Express it works just as well', async (t) => {
  const client = (await Daemon.start(t, plain)).client();
  const guard = protect(client, { routes: ROUTES, user: (req) => req.headers['x-test-user'] });
  const ask = await serve(t, (req, res) => guard(req, res, () => res.end('in')));
  const statuses = [];
  for (let attempt = 0; attempt < 4; attempt += 1) {
    statuses.push((await ask('/api/agents/chat/x', { user: 'anna', headers: browser })).status);
  }
  assert.deepEqual(statuses, [200, 200, 200, 429]);
});
