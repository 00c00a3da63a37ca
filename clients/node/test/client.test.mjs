// Calls against the real daemon: what they answer, and what becomes of them when it is
// killed, frozen, restarted or crowded.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import test from 'node:test';

import { Moderation, ModerationError } from '../index.mjs';
import { block, Daemon } from './daemon.mjs';

const limited = (max) => ({
  limits: { message_ip: { max, window: '10m' } },
  bans: { enabled: false },
});
const message = (last, more = {}) => ({ type: 'message', ip: `192.0.2.${last}`, ...more });

test('a limit trips at its number and not before', async (t) => {
  const client = (await Daemon.start(t, limited(3))).client();
  for (const left of [2, 1, 0]) {
    const answer = await client.event(message(1, { user: 'anna' }));
    assert.equal(answer.decision, 'allow');
    assert.equal(answer.failedOpen, undefined);
    const [limit] = answer.limits;
    assert.deepEqual([limit.name, limit.limit, limit.remaining], ['message_ip', 3, left]);
  }
  const denied = await client.event(message(1, { user: 'anna' }));
  assert.equal(denied.decision, 'deny');
  assert.equal(denied.reason, 'message_limit');
  assert.ok(denied.retry_after_ms > 0);
  assert.equal((await client.event(message(2))).decision, 'allow', 'another address');
});

test('every call is answered as the socket answers it', async (t) => {
  const client = (await Daemon.start(t, limited(10))).client();
  assert.equal(await client.ready(), true);

  const about = { type: 'message', ip: '192.0.2.1' };
  const peeked = await client.event({ ...about, peek: true });
  assert.equal(peeked.decision, 'allow');
  assert.equal((await client.limits(about))[0].remaining, 10, 'a peek counts nothing');
  for (const attempt of [1, 2]) {
    const { limits } = await client.event({ ...about, id: 'one' });
    assert.equal(limits[0].remaining, 9, `attempt ${attempt}`);
  }
  assert.equal(await client.refund({ ...about, id: 'one' }), true);
  assert.equal(await client.refund({ ...about, id: 'one' }), false);
  assert.equal((await client.limits(about))[0].remaining, 10);

  assert.equal(await client.subject('anna/ä ?'), null);
  const described = await client.describe('anna/ä ?', { tier: 'gold', paying: true });
  assert.deepEqual([described.user, described.tier], ['anna/ä ?', 'gold']);
  assert.equal((await client.subject('anna/ä ?')).paying, true);

  assert.deepEqual(await client.check({ user: 'anna', ip: '192.0.2.1' }), { banned: false });
  const violation = { type: 'illegal_model_request', user: 'anna', id: 'a', score: 2 };
  assert.equal((await client.violation(violation)).score, 2);
  assert.equal((await client.violation(violation)).score, 2, 'once');
  assert.equal((await client.violation({ ...violation, id: undefined })).score, 4, 'another one');
});

test('a ban is seen by a check and answers events', async (t) => {
  const client = (await Daemon.start(t)).client();
  const violation = { type: 'illegal_model_request', user: 'bob', ip: '192.0.2.9', score: 20 };
  const { ban } = await client.violation(violation);
  assert.equal(ban.user, 'bob');
  const checked = await client.check({ user: 'bob' });
  assert.equal(checked.banned, true);
  assert.equal(checked.ban.id, ban.id);
  const answer = await client.event({ type: 'message', user: 'bob' });
  assert.deepEqual([answer.decision, answer.reason, answer.logout], ['deny', 'banned', true]);
});

test('a batch is answered line by line and one bad line hinders no other', async (t) => {
  const client = (await Daemon.start(t, limited(2))).client();
  const lines = [message(1), message(1), { type: 'nonsense', ip: '192.0.2.1' }, message(1)];
  const answers = await client.batch(lines);
  const told = answers.map((one) => one.decision ?? one.problem.type.split(':').pop());
  assert.deepEqual(told, ['allow', 'allow', 'unknown-type', 'deny']);
  assert.deepEqual(await client.batch([]), []);
  const many = Array.from({ length: 1_000 }, (_, index) => message(7, { user: `u${index}` }));
  assert.equal((await client.batch(many)).length, 1_000);
  const more = [...many, message(7)];
  await assert.rejects(client.batch(more), { code: 'refused', problem: 'too-many-lines' });
});

test('a mistake is thrown and lets nobody through', async (t) => {
  const daemon = await Daemon.start(t);
  for (const failClosed of [false, true]) {
    const client = daemon.client({ failClosed });
    const cases = [
      [() => client.event({ type: 'nonsense', ip: '192.0.2.1' }), 'unknown-type'],
      [() => client.event({ type: 'message' }), 'no-subject'],
      [() => client.event(message(1, { colour: 'red' })), 'unknown-field'],
      [() => client.event(message('x')), 'invalid-address'],
      [() => client.violation({ type: 'message_limit', user: '' }), 'invalid-user'],
      [() => client.acquire({}), 'no-subject'],
      [() => client.check({}), 'no-subject'],
    ];
    for (const [call, problem] of cases) {
      await assert.rejects(call(), { name: 'ModerationError', code: 'refused', problem });
    }
    assert.deepEqual(client.errors, []);
    assert.equal(client.stats().leases, 0);
  }
});

test('a daemon that is killed fails open, is told of once, and is used again', async (t) => {
  const daemon = await Daemon.start(t, limited(100));
  const client = daemon.client({ timeoutMs: 2_000 });
  assert.equal((await client.event(message(1))).failedOpen, undefined);
  await daemon.kill();
  for (let call = 0; call < 20; call += 1) {
    const answer = await client.event(message(1));
    assert.equal(answer.decision, 'allow');
    assert.equal(answer.failedOpen, true);
    assert.ok(answer.error instanceof ModerationError);
    assert.deepEqual(answer.limits, []);
  }
  assert.deepEqual(await client.check({ user: 'anna' }).then((it) => it.banned), false);
  const answers = await client.batch([message(1), message(1)]);
  assert.deepEqual(answers.map((one) => one.failedOpen), [true, true]);
  assert.equal((await client.violation({ type: 'token_balance', user: 'anna' })).failedOpen, true);
  assert.equal(await client.ready(), false);
  await assert.rejects(client.limits({ type: 'message', ip: '192.0.2.1' }), ModerationError);
  assert.equal(client.errors.length, 1, 'one line for all of them');
  assert.equal(client.stats().failures, 23);
  daemon.launch();
  await daemon.ready();
  const answer = await client.event(message(1));
  assert.equal(answer.failedOpen, undefined, 'no connection of before is in the way');
});

test('what was not told in an interval is told with the next', async (t) => {
  const daemon = await Daemon.start(t);
  const client = daemon.client({ errorIntervalMs: 300 });
  await daemon.kill();
  for (let call = 0; call < 5; call += 1) await client.event(message(1));
  block(300);
  await client.event(message(1));
  const told = client.errors.map(({ code, suppressed }) => [code, suppressed]);
  assert.deepEqual(told, [['unreachable', 0], ['unreachable', 4]]);
});

test('unless the app listens the process is warned, once', async () => {
  const client = new Moderation({ socket: '/nonexistent/api.sock' });
  const warnings = [];
  const listen = (warning) => warnings.push(`${warning.name}: ${warning.message}`);
  process.on('warning', listen);
  for (let call = 0; call < 3; call += 1) await client.event(message(1));
  await new Promise(setImmediate);
  process.off('warning', listen);
  assert.equal(warnings.length, 1);
  assert.match(warnings[0], /^ModerationWarning: unreachable: cannot connect to .*: ENOENT$/);
});

test('whoever hears of failures cannot make a call fail', async (t) => {
  const daemon = await Daemon.start(t);
  const client = daemon.client({ onError: () => { throw new Error('a mistake of the app'); } });
  await daemon.kill();
  const warned = once(process, 'warning');
  assert.equal((await client.event(message(1))).failedOpen, true);
  assert.equal((await warned)[0].message, 'a mistake of the app');
});

test('where failing closed is wanted a missing daemon denies', async (t) => {
  const daemon = await Daemon.start(t);
  const client = daemon.client({ failClosed: true });
  assert.equal((await client.event(message(1))).decision, 'allow');
  await daemon.kill();
  const answer = await client.event(message(1));
  assert.deepEqual([answer.decision, answer.failedClosed], ['deny', true]);
  assert.equal(answer.reason, 'unavailable');
  assert.ok(answer.retry_after_ms > 0);
  const { banned, failedClosed } = await client.check({ user: 'anna' });
  assert.deepEqual([banned, failedClosed], [true, true]);
  assert.equal((await client.acquire({ user: 'anna' })).allowed, false);
  assert.equal(client.stats().leases, 0);
});

test('a daemon that stands still costs each call its time and no more', async (t) => {
  const daemon = await Daemon.start(t, limited(1_000));
  const client = daemon.client({ timeoutMs: 250, connections: 4 });
  await client.event(message(1));
  await daemon.freeze();
  const begun = performance.now();
  const calls = Array.from({ length: 200 }, () => client.event(message(1)));
  const answers = await Promise.all(calls);
  const took = performance.now() - begun;
  daemon.thaw();
  assert.ok(answers.every((answer) => answer.failedOpen === true));
  assert.deepEqual([...new Set(answers.map((answer) => answer.error.code))], ['timeout']);
  // A busy machine is slow; one after the other they would have taken 12 s.
  assert.ok(took >= 240 && took < 8_000, `${took} ms`);
  const patient = { timeoutMs: 5_000 };
  assert.equal((await client.event(message(2), patient)).failedOpen, undefined);
  assert.equal(client.stats().waiting, 0);
});

test('an answer that came while the event loop stood still came in time', async (t) => {
  const daemon = await Daemon.start(t, limited(10));
  const client = daemon.client();
  await client.event(message(1));
  const asked = client.event(message(1), { timeoutMs: 250 });
  await new Promise(setImmediate);
  block(1_000);
  const answer = await asked;
  assert.equal(answer.failedOpen, undefined, answer.error?.message);
  assert.equal(answer.limits[0].remaining, 8);
});

test('200 calls at once stay within the bound of connections', async (t) => {
  // Two connections more, and the daemon would refuse one; the one that asked whether it is
  // ready may still be closing.
  const daemon = await Daemon.start(t, { ...limited(1_000), api: { max_connections: 5 } });
  const client = daemon.client({ connections: 4 });
  const answers = await Promise.all(Array.from({ length: 200 }, () => client.event(message(1))));
  assert.ok(answers.every((answer) => answer.failedOpen === undefined), 'all were answered');
  const left = answers.map((answer) => answer.limits[0].remaining).sort((a, b) => a - b);
  assert.deepEqual(left, Array.from({ length: 200 }, (_, index) => 800 + index), 'each once');
  assert.equal(client.stats().opened, 4, 'and they are kept');
  const crowd = daemon.client({ connections: 8 });
  const others = await Promise.all(Array.from({ length: 50 }, () => crowd.event(message(1))));
  const codes = new Set(others.filter((it) => it.failedOpen).map((it) => it.error.code));
  assert.deepEqual([...codes], ['unavailable'], 'the daemon says so, which fails open');
});

test('more calls than may wait fail at once', async (t) => {
  const daemon = await Daemon.start(t, limited(1_000));
  const client = daemon.client({ connections: 1, waiting: 5 });
  const answers = await Promise.all(Array.from({ length: 10 }, () => client.event(message(1))));
  const codes = answers.map((answer) => answer.error?.code);
  assert.deepEqual(codes, [...Array(6).fill(undefined), ...Array(4).fill('crowded')]);
});

test('a connection that closed unnoticed loses no call and counts none twice', async (t) => {
  const daemon = await Daemon.start(t, limited(100));
  const client = daemon.client({ timeoutMs: 20_000 });
  await Promise.all([1, 2, 3].map(() => client.event(message(1))));
  // The event loop does not turn from here on, so that it cannot have noticed.
  daemon.child.kill('SIGTERM');
  daemon.awaitEndBlocking();
  daemon.launch();
  daemon.readyBlocking();
  const answers = await Promise.all([4, 5, 6].map(() => client.event(message(1))));
  for (const answer of answers) assert.equal(answer.failedOpen, undefined, answer.error?.message);
  const left = answers.map((answer) => answer.limits[0].remaining).sort((a, b) => b - a);
  assert.deepEqual(left, [96, 95, 94]);
});

test('a client that was closed asks nothing', async (t) => {
  const client = (await Daemon.start(t)).client();
  await client.event(message(1));
  await client.close();
  assert.equal((await client.event(message(1))).error.code, 'closed');
  assert.equal(client.stats().connections, 0);
});

test('an option that does not exist or makes no sense is refused', () => {
  assert.throws(() => new Moderation({ timeout: 5 }), /no option timeout/);
  for (const wrong of [{ timeoutMs: 0 }, { connections: 0.5 }, { waiting: -1 }]) {
    assert.throws(() => new Moderation(wrong), RangeError);
  }
});

test('require and import give the same classes', () => {
  const required = createRequire(import.meta.url)('../index.js');
  assert.equal(required.Moderation, Moderation);
  assert.equal(required.ModerationError, ModerationError);
});
