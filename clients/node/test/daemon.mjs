// The real daemon as a child with files of its own, for the tests beside this file. It
// drops nothing in the kernel, so that it needs no privilege.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, closeSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { Moderation } from '../index.mjs';

const built = fileURLToPath(new URL('../../../target/debug', import.meta.url));
const program = join(process.env.MODERATION_BIN_DIR ?? built, 'moderationd');
const PATIENCE_MS = 20_000;
// What the daemon logs once its sockets take connections.
const READY = 'INFO ready';

/** Looks until it finds something. */
export async function until(what, look) {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (performance.now() > deadline) throw new Error(`waited ${PATIENCE_MS} ms for ${what}`);
    await pause(10); // paces: between two looks
  }
}

/** Stands still, the event loop included. */
export function block(ms) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

export class Daemon {
  /** Starts one with these keys of the configuration different; it goes with the test. */
  static async start(test, overrides = {}) {
    const daemon = new Daemon(overrides);
    test.after(() => daemon.remove());
    daemon.launch();
    await daemon.ready();
    return daemon;
  }

  constructor(overrides) {
    this.folder = mkdtempSync(join(process.env.MODERATION_TEST_FOLDER ?? tmpdir(), 'node-'));
    this.socket = join(this.folder, 'api.sock');
    this.admin = join(this.folder, 'admin.sock');
    const configuration = {
      ...overrides,
      api: { socket: this.socket, group: null, ...overrides.api },
      admin: { socket: this.admin, group: null },
      store: { path: join(this.folder, 'moderation.db') },
      network: { mode: 'off' },
    };
    writeFileSync(this.#file('moderation.yaml'), JSON.stringify(configuration));
    this.clients = [];
  }

  /** A client of it; failures are collected in `errors`. */
  client(options = {}) {
    const errors = [];
    const onError = (error, more) => errors.push({ code: error.code, error, ...more });
    const client = new Moderation({ socket: this.socket, timeoutMs: 5_000, onError, ...options });
    this.clients.push(client);
    return Object.assign(client, { errors });
  }

  launch() {
    const log = openSync(this.#file('log'), 'a');
    this.logged = readFileSync(this.#file('log'), 'utf8').length;
    // The kernel ends it with us, also when nobody is left to do so.
    const command = ['--pdeathsig', 'KILL', '--', program, '--config', this.#file('moderation.yaml')];
    this.child = spawn('setpriv', command, { stdio: ['ignore', log, log] });
    closeSync(log);
  }

  async ready() {
    const client = new Moderation({ socket: this.socket, timeoutMs: 1_000 });
    await until('the daemon to be ready', () => {
      if (this.child.exitCode !== null) throw new Error(readFileSync(this.#file('log'), 'utf8'));
      return client.ready();
    });
    await client.close();
  }

  /** Waits for its end without a turn of the event loop, and without reaping it. */
  awaitEndBlocking() {
    const deadline = performance.now() + PATIENCE_MS;
    const stat = `/proc/${this.child.pid}/stat`;
    while (existsSync(stat) && !/ Z /.test(readFileSync(stat, 'utf8'))) {
      if (performance.now() > deadline) throw new Error('the daemon does not end');
      block(5);
    }
  }

  /** The same without a turn of the event loop. */
  readyBlocking() {
    const deadline = performance.now() + PATIENCE_MS;
    while (!readFileSync(this.#file('log'), 'utf8').slice(this.logged).includes(READY)) {
      if (performance.now() > deadline) throw new Error('the daemon does not start');
      block(5);
    }
  }

  async kill(signal = 'SIGKILL') {
    const exited = once(this.child, 'exit');
    this.child.kill(signal);
    await exited;
  }

  async restart() {
    await this.kill('SIGTERM');
    this.launch();
    await this.ready();
  }

  /** Stops it in its tracks, without its connections closing; `thaw` lets it go on. */
  async freeze() {
    this.child.kill('SIGSTOP');
    const stat = `/proc/${this.child.pid}/stat`;
    await until('the daemon to stand still', () => / T /.test(readFileSync(stat, 'utf8')));
  }

  thaw() {
    this.child.kill('SIGCONT');
  }

  async remove() {
    for (const client of this.clients) await client.close();
    if (this.child.exitCode === null && this.child.signalCode === null) await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }

  #file(name) {
    return join(this.folder, name);
  }
}
