// That the types say what there is: by the compiler, and by names.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import * as client from '../index.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const packages = join(process.env.MODERATION_CLIENT_PACKAGES, 'node_modules');

const USAGE = `
const moderation = new Moderation({ timeoutMs: 100, onError: (error, { suppressed }) => {
  const code: 'timeout' | string = error.code;
  console.log(code, suppressed.toFixed());
} });
async function use(): Promise<number | undefined> {
  const answer = await moderation.event({ type: 'message', user: 'anna', ip: '192.0.2.1' });
  if (answer.decision === 'deny') return answer.retry_after_ms ?? undefined;
  for (const line of await moderation.batch([{ type: 'login', ip: '192.0.2.1' }])) {
    if (line.problem) console.log(line.problem.detail);
    else console.log(line.limits[0]?.remaining.toFixed());
  }
  // @ts-expect-error -- a type is needed
  await moderation.event({ user: 'anna' });
  // @ts-expect-error -- there is no such option
  new Moderation({ timeout: 5 });
  // @ts-expect-error -- only acquire makes them
  new Lease();
  await using lease = await moderation.acquire({ user: 'anna' });
  lease.signal.throwIfAborted();
  try {
    return await moderation.withLease('anna', async (held) => held.id ?? 0);
  } catch (error) {
    if (error instanceof DeniedError) return error.answer.ban?.id;
    throw error;
  }
}
const app = express();
app.use(protect(moderation, {
  routes: [{ method: 'POST', path: /^\\/chat$/, event: 'message', lease: true, outcome: { 401: 'login_failure' } }],
  user: (req: express.Request) => req.header('x-user'),
  onDeny: (req, res, answer) => { if (answer.logout) res.setHeader('x-logout', '1'); },
}));
app.use(protect(moderation));
export { use };
`;

test('the types hold for import and for require', async (t) => {
  const folder = mkdtempSync(join(process.env.MODERATION_TEST_FOLDER ?? tmpdir(), 'types-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(root, join(folder, 'node_modules/moderation-client'));
  for (const name of readdirSync(packages)) {
    symlinkSync(join(packages, name), join(folder, 'node_modules', name));
  }
  const names = '{ Moderation, Lease, DeniedError, protect }';
  const header = `import express = require('express');\nimport client = require('moderation-client');\n`;
  writeFileSync(join(folder, 'a.mts'), `import express from 'express';\nimport ${names} from 'moderation-client';\n${USAGE}`);
  writeFileSync(join(folder, 'b.cts'), `${header}import ${names} from 'moderation-client';\nconsole.log(client.Moderation === Moderation);\n${USAGE}`);
  const compilerOptions = {
    module: 'nodenext', target: 'es2022', lib: ['es2022', 'esnext.disposable'], strict: true,
    noEmit: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true,
    preserveSymlinks: true, typeRoots: ['node_modules/@types'], types: ['node'],
  };
  const project = { compilerOptions, files: ['a.mts', 'b.cts'] };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(project));
  const compiler = join(packages, 'typescript/bin/tsc');
  const compiled = promisify(execFile)(process.execPath, [compiler, '-p', folder]);
  await compiled.catch((error) => assert.fail(error.stdout));
});

test('what is declared is what there is', () => {
  const text = readFileSync(join(root, 'index.d.ts'), 'utf8');
  const declared = [...text.matchAll(/^export (?:class|function) (\w+)/gm)].map((found) => found[1]);
  assert.deepEqual(declared.sort(), Object.keys(client).sort());
  const body = /export class Moderation \{([^]*?)\n\}/.exec(text)[1];
  const methods = [...body.matchAll(/^ {2}(\w+)[(<]/gm)].map((found) => found[1]);
  const real = Object.getOwnPropertyNames(client.Moderation.prototype);
  assert.deepEqual(methods.sort(), real.sort());
});
