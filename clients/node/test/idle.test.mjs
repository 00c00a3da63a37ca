// Connections that nothing is asked over: the daemon closes them after ten seconds.
// Apart from client.test.mjs, because this takes as long.
import assert from 'node:assert/strict';
import test from 'node:test';

import { block, Daemon, until } from './daemon.mjs';

const event = { type: 'message', ip: '192.0.2.1' };

test('an idle connection is closed before the daemon would close it', async (t) => {
  const client = (await Daemon.start(t)).client();
  await client.event(event);
  const begun = performance.now();
  await until('the connection to close', () => client.stats().connections === 0);
  const took = performance.now() - begun;
  assert.ok(took > 4_000 && took < 9_500, `${took} ms`);
});

test('a connection that was idle while the event loop stood still is not used again', async (t) => {
  const client = (await Daemon.start(t)).client();
  for (const wait of [6_000, 11_000]) {
    await client.event(event);
    const { opened } = client.stats();
    block(wait);
    // Nothing turned in between: neither our timer nor the daemon's end was seen.
    const answer = await client.event(event);
    assert.equal(answer.failedOpen, undefined, answer.error?.message);
    assert.equal(client.stats().opened, opened + 1);
  }
  assert.deepEqual(client.errors, []);
});
