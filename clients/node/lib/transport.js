// HTTP/1.1 over the daemon's Unix socket: a bounded number of kept connections, a
// bounded queue before them, a deadline for each call, and one repetition where that
// is safe. It knows neither routes nor what a failure means for the app.
'use strict';

const http = require('node:http');
const { ModerationError } = require('./error.js');

// The daemon closes connections that were idle for 10 s. One that was idle for half of
// that is not used again, as the daemon may be closing it just while it is written to.
const KEPT_MS = 5_000;
// A full batch is answered with about 1 MiB.
const MAX_ANSWER_BYTES = 16 * 1024 * 1024;
// Connections that cannot even be opened: the request was certainly not received.
const UNREACHABLE = new Set(['ENOENT', 'ECONNREFUSED', 'EACCES', 'EAGAIN', 'ENOTSOCK', 'EPERM']);

/** Connections that forget themselves in time, also if the event loop stood still. */
class Connections extends http.Agent {
  constructor(most) {
    super({ keepAlive: true, maxSockets: most, maxFreeSockets: most, timeout: KEPT_MS });
    this.opened = 0;
  }

  createConnection(...parameters) {
    this.opened += 1;
    return super.createConnection(...parameters);
  }

  keepSocketAlive(socket) {
    socket.idleSince = performance.now();
    return super.keepSocketAlive(socket);
  }

  dropStale() {
    const before = performance.now() - KEPT_MS;
    for (const sockets of Object.values(this.freeSockets)) {
      for (const socket of sockets) if (socket.idleSince < before) socket.destroy();
    }
  }

  get open() {
    const lists = [...Object.values(this.sockets), ...Object.values(this.freeSockets)];
    return lists.flat().filter((socket) => !socket.destroyed).length;
  }
}

class Transport {
  constructor({ socket, connections, waiting }) {
    this.socketPath = socket;
    this.most = connections;
    this.mostWaiting = waiting;
    this.agent = new Connections(connections);
    this.running = 0;
    this.queue = [];
    this.isClosed = false;
  }

  /**
   * Asks once, or twice if the first attempt broke and a second cannot do harm.
   * `isSafe`: the daemon may get it twice. `late` is called with the answer, if it
   * comes after the deadline but within `lingerMs`; it is not called otherwise.
   * Resolves to `{status, type, text}`.
   */
  call({ method, path, type, body, timeoutMs, isSafe, late, lingerMs = 0 }) {
    if (this.isClosed) return Promise.reject(new ModerationError('closed', 'the client is closed'));
    return new Promise((resolve, reject) => {
      const call = { method, path, type, body, isSafe, resolve, reject, late, request: null };
      const expire = () => this.#expire(call, timeoutMs, late ? lingerMs : 0);
      // Where the event loop stood still, the answer may be there and only be unread:
      // it is read before what setImmediate begins.
      call.timer = setTimeout(() => setImmediate(expire), timeoutMs);
      this.#enter(call);
    });
  }

  close() {
    this.isClosed = true;
    const closed = new ModerationError('closed', 'the client is closed');
    for (const call of this.queue.splice(0)) this.#settle(call, closed);
    this.agent.destroy();
  }

  #enter(call) {
    if (this.running < this.most) {
      this.#run(call);
    } else if (this.queue.length < this.mostWaiting) {
      this.queue.push(call);
    } else {
      const text = `${this.queue.length} calls wait for the daemon already`;
      this.#settle(call, new ModerationError('crowded', text));
    }
  }

  async #run(call) {
    this.running += 1;
    try {
      this.#settle(call, null, await this.#attempts(call));
    } catch (error) {
      this.#settle(call, error);
    }
    this.running -= 1;
    while (this.running < this.most && this.queue.length > 0) this.#run(this.queue.shift());
  }

  async #attempts(call) {
    try {
      return await this.#exchange(call);
    } catch (error) {
      const isOver = call.isSettled || call.isLate || this.isClosed;
      const mayRepeat = call.isSafe || !error.mayHaveArrived;
      if (isOver || error.code !== 'broken' || !mayRepeat) throw error;
      // Whatever broke this connection broke those that were idle beside it.
      this.#dropIdle();
      const first = error.mayHaveArrived;
      return this.#exchange(call).catch((second) => {
        second.mayHaveArrived ||= first;
        throw second;
      });
    }
  }

  #dropIdle() {
    for (const sockets of Object.values(this.agent.freeSockets)) {
      for (const socket of [...sockets]) socket.destroy();
    }
  }

  #exchange(call) {
    this.agent.dropStale();
    const { method, path, type, body } = call;
    const headers = { host: 'moderation' };
    if (body !== undefined) {
      headers['content-type'] = type;
      headers['content-length'] = Buffer.byteLength(body);
    }
    return new Promise((resolve, reject) => {
      const options = { method, path, headers, agent: this.agent, socketPath: this.socketPath };
      const request = http.request(options, (response) => {
        read(response, resolve, reject);
      });
      call.request = request;
      request.on('error', (error) => reject(failure(error, this.socketPath)));
      request.end(body);
    });
  }

  /** The deadline: the caller is answered, and the request is given up or left to come. */
  #expire(call, timeoutMs, lingerMs) {
    if (call.isSettled) return;
    const waited = this.queue.indexOf(call);
    const wasSent = waited < 0;
    if (!wasSent) this.queue.splice(waited, 1);
    const text = `the daemon did not answer within ${timeoutMs} ms`;
    const error = new ModerationError('timeout', text, { mayHaveArrived: wasSent });
    call.reject(error);
    if (wasSent && lingerMs > 0) {
      call.isLate = true;
      call.timer = setTimeout(() => {
        call.isSettled = true;
        call.request?.destroy();
      }, lingerMs);
      call.timer.unref();
      call.request?.socket?.unref();
      return;
    }
    call.isSettled = true;
    call.request?.destroy();
  }

  #settle(call, error, answer) {
    if (call.isSettled) return;
    call.isSettled = true;
    clearTimeout(call.timer);
    if (!call.isLate && error) call.reject(error);
    else if (!call.isLate) call.resolve(answer);
    else if (!error) call.late(answer);
    // That it failed after all was told when the deadline passed.
  }
}

function read(response, resolve, reject) {
  const chunks = [];
  let length = 0;
  const fail = (code, text) => {
    reject(new ModerationError(code, text, { mayHaveArrived: true, status: response.statusCode }));
    response.destroy();
  };
  response.on('data', (chunk) => {
    length += chunk.length;
    if (length <= MAX_ANSWER_BYTES) chunks.push(chunk);
    else fail('malformed', `an answer longer than ${MAX_ANSWER_BYTES} bytes`);
  });
  response.on('end', () => {
    const type = (response.headers['content-type'] ?? '').split(';', 1)[0];
    const text = Buffer.concat(chunks).toString('utf8');
    resolve({ status: response.statusCode, type, text });
  });
  response.on('error', () => fail('broken', 'the daemon broke off in its answer'));
}

/**
 * On a Unix socket it can be told whether a request was received: a write after the
 * other end has closed fails whole (EPIPE), and a read is ECONNRESET if the other end
 * closed with something unread, which can only be of this request. An end without a
 * word ("socket hang up") says nothing: the request may have been read.
 */
function failure(error, socketPath) {
  if (error instanceof ModerationError) return error;
  if (error.syscall === 'connect' || UNREACHABLE.has(error.code)) {
    const text = `cannot connect to ${socketPath}: ${error.code}`;
    return new ModerationError('unreachable', text, { cause: error });
  }
  if (String(error.code).startsWith('HPE_')) {
    const details = { cause: error, mayHaveArrived: true };
    return new ModerationError('malformed', `${socketPath} does not answer in HTTP`, details);
  }
  const wasUnread = error.syscall === 'write' && error.code === 'EPIPE';
  const wasReset = error.syscall === 'read' && error.code === 'ECONNRESET';
  const details = { cause: error, mayHaveArrived: !wasUnread && !wasReset };
  return new ModerationError('broken', `the connection to ${socketPath} broke off`, details);
}

module.exports = { Transport };
