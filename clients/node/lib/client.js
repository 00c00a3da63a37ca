// What can be asked on the app's socket, typed, and what follows from a daemon that
// does not answer. How requests get there is in transport.js, how leases are kept in
// lease.js. It counts and decides nothing itself.
'use strict';

const { randomUUID } = require('node:crypto');
const { ModerationError } = require('./error.js');
const { Lease } = require('./lease.js');
const { Transport } = require('./transport.js');

const JSON_TYPE = 'application/json';
const NDJSON_TYPE = 'application/x-ndjson';

const DEFAULTS = {
  socket: '/run/moderation/api.sock',
  timeoutMs: 250,
  connections: 16,
  waiting: 1_000,
  failClosed: false,
  errorIntervalMs: 60_000,
  onError: undefined,
};

// How long an answer to an acquisition is waited for after its deadline: the place that
// it may hold is then taken over or given back, rather than be lost for a lifetime.
const LATE_MS = 10_000;
// What somebody is told whom a failure keeps out, and when to come again.
const UNAVAILABLE = 'The service cannot be used right now. Try again later';
const RETRY_AFTER_MS = 1_000;

/** Somebody may not go ahead; `answer` says why. */
class DeniedError extends Error {
  constructor(answer) {
    super(answer.message ?? `denied: ${answer.reason}`);
    this.name = 'DeniedError';
    this.answer = answer;
  }
}

class Moderation {
  /** What options are unless they are given. */
  static defaults = Object.freeze({ ...DEFAULTS });

  #options;
  #transport;
  #reports = { at: -Infinity, suppressed: 0 };
  #leases = new Set();
  #failures = 0;

  constructor(options = {}) {
    this.#options = checked(options);
    this.#transport = new Transport(this.#options);
  }

  /** Counts an event, then allows or denies it. */
  async event(event, options) {
    const isSafe = event.id !== undefined || event.peek === true;
    return this.#decide('/v1/events', event, { ...options, isSafe });
  }

  /** The same for up to 1,000 events, answered in their order. */
  async batch(events, options) {
    if (events.length === 0) return [];
    const isSafe = events.every((event) => event.id !== undefined || event.peek === true);
    const body = events.map((event) => JSON.stringify(event)).join('\n');
    const request = { method: 'POST', path: '/v1/events/batch', type: NDJSON_TYPE, body, isSafe };
    try {
      const answer = await this.#call(request, options);
      const lines = answer.text.trimEnd().split('\n').map((line) => parsed(line, answer));
      if (lines.length === events.length) return lines;
      throw new ModerationError('malformed', `${lines.length} answers to ${events.length} events`);
    } catch (error) {
      const failed = this.#failed(error);
      return events.map(() => ({ ...failed }));
    }
  }

  /** Reports what the app itself found. */
  async violation(violation, options) {
    // Scored twice would be punished twice, so that there is always an id.
    const body = { ...violation, id: violation.id ?? randomUUID() };
    return this.#decide('/v1/violations', body, { ...options, isSafe: true });
  }

  /** Takes back what the event with this id counted; whether there was anything. */
  async refund(refund, options) {
    const answer = await this.#json('POST', '/v1/refunds', refund, { ...options, isSafe: true });
    return answer.refunded;
  }

  /** Whether somebody is banned. */
  async check(subject, options) {
    try {
      return await this.#json('GET', `/v1/check?${query(subject)}`, undefined, options);
    } catch (error) {
      const failed = this.#failed(error);
      const { failedOpen, failedClosed } = failed;
      if (failedOpen) return { banned: false, failedOpen, error };
      return { banned: true, failedClosed, error };
    }
  }

  /** What is left of the limits of an event type. */
  async limits(about, options) {
    const answer = await this.#json('GET', `/v1/limits?${query(about)}`, undefined, options);
    return answer.limits;
  }

  /** What is known about a user; `null`: nothing. */
  async subject(user, options) {
    try {
      return await this.#json('GET', subjectPath(user), undefined, options);
    } catch (error) {
      if (error.problem === 'no-such-thing') return null;
      throw error;
    }
  }

  /** Says what limits can follow; what is left out stays as it was. */
  async describe(user, traits, options) {
    return this.#json('PUT', subjectPath(user), traits, options);
  }

  /** A place under the concurrency limit, renewed until it is released. */
  async acquire(subject, options) {
    const { timeoutMs } = options ?? {};
    const lease = new Lease({
      renew: (id) => this.#json('PUT', `/v1/leases/${id}`),
      release: (id) => this.#call({ method: 'DELETE', path: `/v1/leases/${id}`, isSafe: true }),
      report: (error) => this.#report(error),
      ended: () => this.#leases.delete(lease),
    });
    const begun = performance.now();
    const late = (answer) => lease.begin(parsed(answer.text, answer), begun, { isLate: true });
    // With an id, a repetition gets the same place and not another one.
    const body = JSON.stringify({ ...subject, id: subject.id ?? randomUUID() });
    const request = { method: 'POST', path: '/v1/leases', type: JSON_TYPE, body, isSafe: true };
    const asked = this.#call({ ...request, late, lingerMs: LATE_MS }, { timeoutMs });
    const answered = asked.then((answer) => parsed(answer.text, answer));
    const answer = await answered.catch((error) => this.#failed(error));
    this.#leases.add(lease);
    lease.begin(answer, begun);
    return lease;
  }

  /** Runs `work` in a place of its own; rejects with `DeniedError` if there is none. */
  async withLease(subject, work, options) {
    const of = typeof subject === 'string' ? { user: subject } : subject;
    const lease = await this.acquire(of, options);
    if (!lease.allowed) throw new DeniedError(lease.answer);
    try {
      return await work(lease);
    } finally {
      await lease.release();
    }
  }

  /** Whether the daemon serves. */
  async ready(options) {
    try {
      await this.#call({ method: 'GET', path: '/readyz', isSafe: true }, options);
      return true;
    } catch (error) {
      if (error instanceof ModerationError) return false;
      throw error;
    }
  }

  /** How it stands: for metrics. */
  stats() {
    const { agent, running, queue } = this.#transport;
    return {
      connections: agent.open,
      opened: agent.opened,
      running,
      waiting: queue.length,
      leases: this.#leases.size,
      failures: this.#failures,
    };
  }

  /** Releases all leases, and closes all connections. */
  async close() {
    await Promise.all([...this.#leases].map((lease) => lease.release()));
    for (const lease of this.#leases) lease.abandon();
    this.#transport.close();
  }

  async #decide(path, body, options) {
    try {
      return await this.#json('POST', path, body, options);
    } catch (error) {
      return this.#failed(error);
    }
  }

  async #json(method, path, value, { isSafe = method !== 'POST', timeoutMs } = {}) {
    const body = value === undefined ? undefined : JSON.stringify(value);
    const request = { method, path, type: JSON_TYPE, body, isSafe };
    const answer = await this.#call(request, { timeoutMs });
    return parsed(answer.text, answer);
  }

  async #call(request, { timeoutMs = this.#options.timeoutMs } = {}) {
    const accepted = (answer) => {
      if (answer.status >= 200 && answer.status < 300) return answer;
      throw problem(answer);
    };
    const late = request.late && ((answer) => this.#hear(() => request.late(accepted(answer))));
    return accepted(await this.#transport.call({ ...request, late, timeoutMs }));
  }

  /** What comes late finds nobody who would hear of its errors. */
  #hear(work) {
    try {
      work();
    } catch (error) {
      this.#report(error);
    }
  }

  /** What a call that decides comes to without a decision; mistakes are thrown. */
  #failed(error) {
    if (!(error instanceof ModerationError) || error.code === 'refused') throw error;
    this.#report(error);
    const base = { reason: null, limits: [], error };
    if (!this.#options.failClosed) return { decision: 'allow', ...base, failedOpen: true };
    const told = { reason: 'unavailable', message: UNAVAILABLE, retry_after_ms: RETRY_AFTER_MS };
    return { decision: 'deny', ...base, ...told, failedClosed: true };
  }

  /** Says so once in an interval, and how often it was not said. */
  #report(error) {
    this.#failures += 1;
    const now = performance.now();
    if (now - this.#reports.at < this.#options.errorIntervalMs) {
      this.#reports.suppressed += 1;
      return;
    }
    const { suppressed } = this.#reports;
    this.#reports = { at: now, suppressed: 0 };
    const { onError = warn } = this.#options;
    try {
      onError(error, { suppressed });
    } catch (mistake) {
      // A decision, or a renewal, must not fail because of who hears of failures.
      process.emitWarning(mistake);
    }
  }
}

function warn(error, { suppressed }) {
  const before = suppressed > 0 ? ` (and ${suppressed} more failures before)` : '';
  process.emitWarning(`${error.code}: ${error.message}${before}`, 'ModerationWarning');
}

/** A typo in an option must not go unnoticed. */
function checked(options) {
  for (const name of Object.keys(options)) {
    if (!(name in DEFAULTS)) throw new TypeError(`there is no option ${name}`);
  }
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const all = { ...DEFAULTS, ...Object.fromEntries(given) };
  for (const name of ['timeoutMs', 'connections', 'waiting', 'errorIntervalMs']) {
    const least = name === 'timeoutMs' || name === 'connections' ? 1 : 0;
    if (Number.isInteger(all[name]) && all[name] >= least) continue;
    throw new RangeError(`${name} is a whole number of at least ${least}`);
  }
  return all;
}

function query(fields) {
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  return new URLSearchParams(given).toString();
}

function subjectPath(user) {
  return `/v1/subjects/${encodeURIComponent(user)}`;
}

function parsed(text, { status }) {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ModerationError('malformed', 'the daemon answered with no JSON', { cause, status });
  }
}

/** Statuses that say nothing of the request, but of the daemon or who may ask it. */
const UNSERVED = new Set([403, 408]);

function problem({ status, type, text }) {
  const body = type === 'application/problem+json' ? parsed(text, { status }) : {};
  const name = String(body.type ?? '').split(':').pop() || undefined;
  const isMistake = status < 500 && !UNSERVED.has(status);
  const told = `the daemon answered ${status}: ${body.detail ?? text.slice(0, 200)}`;
  const details = { status, problem: name, mayHaveArrived: true };
  return new ModerationError(isMistake ? 'refused' : 'unavailable', told, details);
}

module.exports = { Moderation, DeniedError };
