// Leases against the real daemon: kept for as long as the work takes, given back when it
// ends however it ends, and never more of them than the cap; also when the daemon goes
// away in between.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { DeniedError } from '../index.mjs';
import { Daemon, until } from './daemon.mjs';

const capped = (max, lease) => ({ concurrency: { max, lease }, bans: { enabled: false } });

test('no more than the cap are given out, and what is released is free', async (t) => {
  const client = (await Daemon.start(t, capped(2, '1m'))).client();
  const [one, two] = [await client.acquire({ user: 'anna' }), await client.acquire({ user: 'anna' })];
  assert.ok(one.allowed && one.held && two.held);
  const three = await client.acquire({ user: 'anna' });
  assert.deepEqual([three.allowed, three.held, three.id], [false, false, null]);
  assert.equal(three.answer.reason, 'concurrent');
  assert.ok((await client.acquire({ user: 'bob' })).allowed, 'somebody else');
  await one.release();
  await one.release();
  assert.equal(one.held, false);
  assert.ok((await client.acquire({ user: 'anna' })).allowed);
  await three.release();
  assert.equal((await client.acquire({ user: 'anna' })).allowed, false, 'a denied one gives nothing');
});

test('a lease is renewed over several lifetimes and its place stays taken', async (t) => {
  const client = (await Daemon.start(t, capped(1, '1500ms'))).client();
  const lease = await client.acquire({ user: 'anna' });
  const begun = performance.now();
  while (performance.now() - begun < 5_000) {
    assert.equal((await client.acquire({ user: 'anna' })).allowed, false);
    assert.ok(lease.held);
    await pause(50); // paces: asks often enough to find any gap
  }
  assert.equal(lease.signal.aborted, false);
  await lease.release();
  assert.ok((await client.acquire({ user: 'anna' })).allowed);
  assert.deepEqual(client.errors, []);
});

test('work gets its place back to others whether it returns or throws', async (t) => {
  const client = (await Daemon.start(t, capped(1, '1m'))).client();
  const done = await client.withLease('anna', async (lease) => {
    assert.ok(lease.held);
    await assert.rejects(client.withLease({ user: 'anna' }, assert.fail), DeniedError);
    return 'done';
  });
  assert.equal(done, 'done');
  const wrong = new Error('wrong');
  const throwing = () => client.withLease('anna', () => { throw wrong; });
  await assert.rejects(throwing(), wrong);
  assert.ok((await client.acquire({ user: 'anna' })).allowed);
  assert.equal(client.stats().leases, 1);
});

test('a lease is given back at the end of its scope', { skip: !Symbol.asyncDispose }, async (t) => {
  const client = (await Daemon.start(t, capped(1, '1m'))).client();
  const lease = await client.acquire({ user: 'anna' });
  await lease[Symbol.asyncDispose]();
  assert.ok((await client.acquire({ user: 'anna' })).allowed);
});

test('however many ask at once no more than the cap work at once', async (t) => {
  const client = (await Daemon.start(t, capped(3, '1s'))).client();
  let [running, most, worked] = [0, 0, 0];
  const work = async () => {
    running += 1;
    most = Math.max(most, running);
    await pause(5); // paces: long enough for others to come
    running -= 1;
    worked += 1;
  };
  for (let round = 0; round < 20; round += 1) {
    const tries = Array.from({ length: 10 }, () => client.withLease('anna', work));
    const denied = (await Promise.allSettled(tries)).filter((it) => it.status === 'rejected');
    assert.ok(denied.every((it) => it.reason instanceof DeniedError));
  }
  assert.equal(most, 3);
  assert.ok(worked >= 60);
  assert.equal(client.stats().leases, 0);
});

test('a lease that is longer than timers can be is not renewed at once', async (t) => {
  const daemon = await Daemon.start(t, capped(1, '100d'));
  const client = daemon.client();
  await client.acquire({ user: 'anna' });
  await daemon.kill();
  await pause(200); // paces: a renewal that came at once would have failed by then
  assert.deepEqual(client.errors, []);
});

test('a lease outlives a daemon that is back within its lifetime', async (t) => {
  const daemon = await Daemon.start(t, capped(1, '15s'));
  const client = daemon.client();
  const lease = await client.acquire({ user: 'anna' });
  await daemon.kill();
  daemon.launch();
  await daemon.ready();
  assert.equal((await client.acquire({ user: 'anna' })).allowed, false, 'its place is taken still');
  assert.ok(lease.held);
  await lease.release();
  assert.ok((await client.acquire({ user: 'anna' })).allowed);
});

test('renewing goes on while the daemon is away and is heard when it is back', async (t) => {
  const daemon = await Daemon.start(t, capped(1, '8s'));
  const client = daemon.client({ errorIntervalMs: 0 });
  const lease = await client.acquire({ user: 'anna' });
  const begun = performance.now();
  await daemon.kill();
  await until('a renewal to fail', () => client.errors.length > 0);
  daemon.launch();
  await daemon.ready();
  await until('more than a lifetime to be over', () => performance.now() - begun > 9_000);
  assert.ok(lease.held);
  assert.equal((await client.acquire({ user: 'anna' })).allowed, false);
});

test('a lease that outlives its daemon for too long is lost in time and says so', async (t) => {
  const daemon = await Daemon.start(t, capped(1, '1s'));
  const client = daemon.client();
  const lease = await client.acquire({ user: 'anna' });
  const begun = performance.now();
  await daemon.kill();
  await until('the lease to be lost', () => lease.signal.aborted);
  const took = performance.now() - begun;
  assert.equal(lease.signal.reason.code, 'lost');
  assert.ok(took < 10_000, `${took} ms`);
  assert.equal(lease.held, false);
  daemon.launch();
  await daemon.ready();
  await until('the place to be free', async () => (await client.acquire({ user: 'anna' })).held);
  await lease.release();
  assert.equal((await client.acquire({ user: 'anna' })).allowed, false, 'it took nobody along');
});

test('without a daemon work goes on uncounted, or not at all', async (t) => {
  const daemon = await Daemon.start(t, capped(1, '1m'));
  const [open, closed] = [daemon.client(), daemon.client({ failClosed: true })];
  await daemon.kill();
  const lease = await open.acquire({ user: 'anna' });
  assert.deepEqual([lease.allowed, lease.held, lease.answer.failedOpen], [true, false, true]);
  assert.equal(await open.withLease('anna', () => 'done'), 'done');
  await lease.release();
  assert.equal(open.stats().leases, 0);
  await assert.rejects(closed.withLease('anna', assert.fail), DeniedError);
});

test('a place that was given late is taken over', async (t) => {
  const daemon = await Daemon.start(t, capped(1, '1m'));
  const client = daemon.client({ timeoutMs: 200 });
  await daemon.freeze();
  const lease = await client.acquire({ user: 'anna' });
  assert.deepEqual([lease.allowed, lease.held], [true, false]);
  daemon.thaw();
  await until('the place to be heard of', () => lease.held);
  const patient = daemon.client();
  assert.equal((await patient.acquire({ user: 'anna' })).allowed, false);
  await lease.release();
  await until('the place', async () => (await patient.acquire({ user: 'anna' })).allowed);
});

test('a place that was given too late to be of use is given back', async (t) => {
  const daemon = await Daemon.start(t, capped(2, '1m'));
  const open = daemon.client({ timeoutMs: 200 });
  const closed = daemon.client({ timeoutMs: 200, failClosed: true });
  await daemon.freeze();
  const [released, denied] = await Promise.all([open, closed].map((it) => it.acquire({ user: 'anna' })));
  assert.deepEqual([released.allowed, denied.allowed], [true, false]);
  await released.release();
  daemon.thaw();
  const patient = daemon.client();
  await until('both places to be free', async () => {
    const tries = [await patient.acquire({ user: 'anna' }), await patient.acquire({ user: 'anna' })];
    for (const lease of tries) await lease.release();
    return tries.every((lease) => lease.allowed);
  });
  assert.equal(released.held || denied.held, false);
});

test('what is released while the daemon is away is free soon after it is back', async (t) => {
  const daemon = await Daemon.start(t, capped(1, '20s'));
  const client = daemon.client({ timeoutMs: 1_000 });
  const lease = await client.acquire({ user: 'anna' });
  const begun = performance.now();
  await daemon.kill();
  await lease.release();
  assert.ok(performance.now() - begun < 10_000, 'nobody waits for that');
  daemon.launch();
  await daemon.ready();
  await until('the place to be free', async () => (await client.acquire({ user: 'anna' })).allowed);
  assert.ok(performance.now() - begun < 19_000, 'before it would have ended by itself');
});

test('closing gives all places back', async (t) => {
  const daemon = await Daemon.start(t, capped(2, '1m'));
  const client = daemon.client();
  await client.acquire({ user: 'anna' });
  await client.acquire({ user: 'anna' });
  await client.close();
  assert.equal(client.stats().leases, 0);
  const other = daemon.client();
  assert.ok((await other.acquire({ user: 'anna' })).allowed);
  assert.ok((await other.acquire({ user: 'anna' })).allowed);
});

test('a process that holds a lease ends when it has nothing else to do', async (t) => {
  const daemon = await Daemon.start(t, capped(1, '1m'));
  const index = fileURLToPath(new URL('../index.mjs', import.meta.url));
  const script = `
    import { Moderation } from ${JSON.stringify(index)};
    const lease = await new Moderation({ socket: process.argv[1], timeoutMs: 5000 }).acquire({ user: 'anna' });
    console.log(lease.held);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, daemon.socket], {
    timeout: 20_000,
  });
  const [[said], [code]] = await Promise.all([once(child.stdout, 'data'), once(child, 'exit')]);
  assert.deepEqual([String(said).trim(), code], ['true', 0], 'by itself');
});
