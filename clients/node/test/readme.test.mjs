// What README.md shows, done as it stands there.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { Moderation } from '../index.mjs';
import { Daemon } from './daemon.mjs';

const run = promisify(execFile);
const root = fileURLToPath(new URL('..', import.meta.url));
const text = readFileSync(join(root, 'README.md'), 'utf8');

/** The code of one language, in its order. */
function blocks(language) {
  const found = [...text.matchAll(new RegExp(`\`\`\`${language}\n([^]*?)\`\`\``, 'g'))];
  return found.map((block) => block[1]);
}

/** The same with more patience, as this machine may be busy with other tests. */
function patient(code, impatient, better) {
  assert.ok(code.includes(impatient), impatient);
  return code.replace(impatient, better);
}

/** A daemon that lets two messages of an address through, and how to reach it. */
async function strict(t) {
  const limits = { message_ip: { max: 2, window: '10m' } };
  const daemon = await Daemon.start(t, { limits, bans: { enabled: false } });
  return { daemon, env: { ...process.env, MODERATION_SOCKET: daemon.socket } };
}

/** A folder in which the package and Express are installed. */
function project(daemon) {
  const folder = mkdtempSync(join(daemon.folder, 'app-'));
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(root, join(folder, 'node_modules/moderation-client'));
  const packages = join(process.env.MODERATION_CLIENT_PACKAGES, 'node_modules');
  symlinkSync(join(packages, 'express'), join(folder, 'node_modules/express'));
  return folder;
}

test('the example with curl is answered', async (t) => {
  const { env } = await strict(t);
  const [script] = blocks('sh');
  const answers = [];
  for (let time = 0; time < 3; time += 1) {
    const { stdout } = await run('sh', ['-c', script], { env });
    answers.push(JSON.parse(stdout).decision);
  }
  assert.deepEqual(answers, ['allow', 'allow', 'deny']);
});

test('the example in Python is answered, and fails open', async (t) => {
  const { daemon, env } = await strict(t);
  const script = patient(blocks('python')[0], 'timeout=0.25', 'timeout=20');
  const ask = async () => (await run('python3', ['-c', script], { env })).stdout.trim();
  assert.deepEqual([await ask(), await ask(), await ask()], ['allow', 'allow', 'deny']);
  await daemon.kill();
  assert.equal(await ask(), 'allow');
});

test('the example with Express protects the app that it is', async (t) => {
  const { daemon, env } = await strict(t);
  const folder = project(daemon);
  const app = patient(blocks('js')[0], 'new Moderation({', 'new Moderation({ timeoutMs: 20_000,');
  const ask = `
    const server = app.listen(0, '127.0.0.1', async () => {
      const statuses = [];
      for (let time = 0; time < 3; time += 1) {
        const url = 'http://127.0.0.1:' + server.address().port + '/chat';
        statuses.push((await fetch(url, { method: 'POST' })).status);
      }
      console.log(JSON.stringify(statuses));
      process.exit();
    });
  `;
  writeFileSync(join(folder, 'app.mjs'), app + ask);
  const { stdout } = await run(process.execPath, [join(folder, 'app.mjs')], { env });
  assert.deepEqual(JSON.parse(stdout), [200, 200, 429]);
});

test('the example without Express runs', async (t) => {
  const { daemon, env } = await strict(t);
  const folder = project(daemon);
  const [, calls] = blocks('js');
  const begin = `
    import { Moderation } from 'moderation-client';
    const moderation = new Moderation({ socket: process.env.MODERATION_SOCKET, timeoutMs: 5000 });
    await moderation.event({ type: 'message', ip: '192.0.2.7' });
    await moderation.event({ type: 'message', ip: '192.0.2.7' });
  `;
  writeFileSync(join(folder, 'app.mjs'), begin + calls);
  const { stdout } = await run(process.execPath, [join(folder, 'app.mjs')], { env });
  assert.match(stdout, /^Too many messages\. Try again later \d+$/m);
});

test('the defaults are those of the table', async () => {
  const { defaults } = Moderation;
  for (const name of ['socket', 'timeoutMs', 'connections', 'waiting', 'failClosed', 'errorIntervalMs']) {
    const row = new RegExp(`^\\| \`${name}\` \\| \`?([^\`|]+?)\`? \\|`, 'm').exec(text);
    assert.equal(row?.[1], String(defaults[name]), name);
  }
});
