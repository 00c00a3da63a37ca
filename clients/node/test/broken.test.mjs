// Connections that break after the daemon has read the request and before its answer is
// there: what is asked again, and that nothing counts twice. Between the client and the
// real daemon there is a relay that loses answers.
import assert from 'node:assert/strict';
import { createConnection, createServer } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import test from 'node:test';

import { Daemon } from './daemon.mjs';

/** Hands everything on, but loses as many answers as `lose` says, with their connections. */
class Relay {
  static async start(t, daemon) {
    const relay = new Relay();
    const server = createServer((client) => relay.#join(client, createConnection(daemon.socket)));
    relay.socket = join(daemon.folder, 'relay.sock');
    server.listen(relay.socket);
    t.after(() => server.close());
    await once(server, 'listening');
    return relay;
  }

  lose = 0;

  #join(client, daemon) {
    client.pipe(daemon);
    daemon.on('data', (answer) => {
      if (this.lose === 0) return client.write(answer);
      this.lose -= 1;
      client.destroy();
      return daemon.destroy();
    });
    daemon.on('close', () => client.destroy());
    for (const side of [client, daemon]) side.on('error', () => side.destroy());
  }
}

const overrides = {
  limits: { message_ip: { max: 10, window: '10m' } },
  concurrency: { max: 1, lease: '1m' },
  bans: { enabled: false },
};

async function broken(t) {
  const daemon = await Daemon.start(t, overrides);
  const relay = await Relay.start(t, daemon);
  return { relay, client: daemon.client({ socket: relay.socket }), sure: daemon.client() };
}

const event = { type: 'message', ip: '192.0.2.1' };

test('an event without an id is not sent again once it may have arrived', async (t) => {
  const { relay, client, sure } = await broken(t);
  relay.lose = 1;
  const answer = await client.event(event);
  assert.equal(answer.failedOpen, true);
  assert.deepEqual([answer.error.code, answer.error.mayHaveArrived], ['broken', true]);
  assert.equal((await sure.limits(event))[0].remaining, 9);
  relay.lose = 1;
  const answers = await client.batch([{ ...event, id: 'a' }, event]);
  assert.deepEqual(answers.map((one) => one.failedOpen), [true, true]);
  assert.equal((await sure.limits(event))[0].remaining, 7);
});

test('whatever has an id is sent again and counts once', async (t) => {
  const { relay, client, sure } = await broken(t);
  relay.lose = 1;
  const answer = await client.event({ ...event, id: 'one' });
  assert.equal(answer.failedOpen, undefined);
  assert.equal(answer.limits[0].remaining, 9);
  relay.lose = 1;
  const answers = await client.batch([{ ...event, id: 'a' }, { ...event, peek: true }]);
  assert.deepEqual(answers.map((one) => one.limits[0].remaining), [8, 7], 'as it would be');
  assert.equal((await sure.limits(event))[0].remaining, 8);
});

test('a violation always has an id and is scored once', async (t) => {
  const { relay, client } = await broken(t);
  relay.lose = 1;
  const violation = { type: 'illegal_model_request', user: 'anna', score: 2 };
  assert.equal((await client.violation(violation)).score, 2);
  assert.equal((await client.violation(violation)).score, 4, 'another one');
});

test('a place whose answer was lost is got by asking again', async (t) => {
  const { relay, client, sure } = await broken(t);
  relay.lose = 1;
  const lease = await client.acquire({ user: 'anna' });
  assert.ok(lease.held);
  relay.lose = 1;
  await lease.release();
  assert.deepEqual(client.errors, [], 'the second time it is no longer there, which is as good');
  assert.ok((await sure.acquire({ user: 'anna' })).held);
});

test('a connection that breaks twice is given up', async (t) => {
  const { relay, client, sure } = await broken(t);
  relay.lose = 2;
  const answer = await client.event({ ...event, id: 'one' });
  assert.deepEqual([answer.failedOpen, answer.error.code], [true, 'broken']);
  assert.equal(relay.lose, 0);
  assert.equal((await sure.limits(event))[0].remaining, 9);
});
