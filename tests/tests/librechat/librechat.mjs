// What LibreChat v0.8.7 does with its libraries when a request comes in, told again in
// our own words: its order of checks, its stores, its arithmetic. Limiters, stores and
// parsers are the real ones. Left out are HTTP, sessions and MongoDB: bans are kept in
// a store of the same library.

import { join } from 'node:path';
import { limiters, ROUTES, reports } from './routes.mjs';
import { isEnabled, math } from './settings.mjs';

const MINUTE = 60_000;

// How many milliseconds of the longest of these bans are left; null: it lasts for ever,
// which is no number in JSON.
function left(records) {
  const ends = records.map(({ expiresAt }) => (typeof expiresAt === 'number' ? expiresAt : Infinity));
  const most = Math.max(...ends) - Date.now();
  return Number.isFinite(most) ? most : null;
}

export class LibreChat {
  constructor(load, env, folder) {
    const { Keyv } = load('keyv');
    const { rateLimit } = load('express-rate-limit');
    this.parseAgent = load('ua-parser-js');
    this.env = env;
    const number = (name, fallback) => math(load('mathjs').evaluate, env[name], fallback);
    this.interval = number('BAN_INTERVAL', 20);
    this.duration = number('BAN_DURATION', 7_200_000);
    this.bans = new Keyv({ namespace: 'BANS', ttl: this.duration });
    this.copiedBans = new Keyv({ namespace: 'ban', ttl: 0 });
    this.scoreFile = file(load, join(folder, 'violations.json'));
    this.logFile = file(load, join(folder, 'logs.json'));
    this.logs = new Keyv({ store: this.logFile, namespace: 'violations' });
    const ttl = number('VIOLATION_SCORE_TTL', 3_600_000);
    this.newScores = (type) =>
      new Keyv({ store: this.scoreFile, namespace: `violations:${type}`, ttl: ttl > 0 ? ttl : undefined });
    this.scoresByType = new Map();
    this.pending = new Keyv({ namespace: 'pending_req' });
    this.concurrency = {
      enabled: isEnabled(env.LIMIT_CONCURRENT_MESSAGES),
      limit: Math.max(number('CONCURRENT_MESSAGE_MAX', 2), 1),
      score: number('CONCURRENT_VIOLATION_SCORE', 1),
    };
    this.reports = reports(env);
    this.limiters = limiters(load, env);
    for (const limiter of Object.values(this.limiters)) {
      limiter.middleware = rateLimit({
        windowMs: limiter.windowMs,
        max: limiter.max,
        keyGenerator: limiter.key,
        skip: limiter.skip,
        // It only complains; what it does is the same.
        validate: false,
        // What LibreChat's handlers do follows below, where it can be waited for.
        handler: (_request, response) => {
          response.isRejected = true;
        },
      });
    }
  }

  // One request. `banned` is what the other side says; where LibreChat says otherwise,
  // that is the answer, and nothing else happens.
  async judge(event) {
    const ban = await this.checkBan(event);
    return ban || event.banned ? { ...ban } : this.proceed(event);
  }

  // The same, with no other side, and with the check for bans where LibreChat has it.
  async judgeApart(event) {
    const { checked = 'first' } = ROUTES[event.kind] ?? {};
    if (checked === 'first') {
      return (await this.checkBan(event)) ?? this.proceed(event);
    }
    const answer = await this.proceed(event);
    const passes = checked === 'later' && answer.verdict === 'allow';
    return (passes && (await this.checkBan(event))) || answer;
  }

  async proceed(event) {
    if (event.kind === 'acquire') {
      return this.acquire(event);
    }
    if (event.kind in this.reports) {
      const { type, score } = this.reports[event.kind];
      return { verdict: 'deny', counts: [], ...(await this.violate(event, { type }, score)) };
    }
    return this.route(event);
  }

  async route(event) {
    const { browsers, steps } = ROUTES[event.kind];
    if (browsers && !this.parseAgent(event.agent).browser.name) {
      const score = this.env.NON_BROWSER_VIOLATION_SCORE ?? 20;
      return { verdict: 'deny', counts: [], ...(await this.violate(event, { type: 'non_browser' }, score)) };
    }
    const counts = [];
    for (const name of steps) {
      const limiter = this.limiters[name];
      if (!limiter) {
        continue;
      }
      const { count, isRejected } = await hit(limiter, event);
      if (count) {
        counts.push({ name, ...count });
      }
      if (isRejected) {
        const { record: said, score, message } = limiter;
        const found = said && (await this.violate(event, said, score));
        return { verdict: 'deny', counts, message, ...found };
      }
    }
    return { verdict: 'allow', counts };
  }

  // A generation begins. `admitted` is what the other side says.
  async acquire(event) {
    const { enabled, limit, score } = this.concurrency;
    if (!enabled) {
      return { verdict: 'allow', counts: [] };
    }
    const pendingRequests = (await this.pending.get(`:${event.user}`)) ?? 0;
    const verdict = pendingRequests >= limit ? 'deny' : 'allow';
    if (event.admitted !== undefined && event.admitted !== (verdict === 'allow')) {
      return { verdict, pending: pendingRequests };
    }
    if (verdict === 'allow') {
      await this.pending.set(`:${event.user}`, pendingRequests + 1, MINUTE);
      return { verdict, counts: [] };
    }
    const said = { type: 'concurrent', limit, pendingRequests, score };
    return { verdict, counts: [], ...(await this.violate(event, said, score)) };
  }

  // A generation is over.
  async release({ user }) {
    if (!this.concurrency.enabled) {
      return null;
    }
    const pending = (await this.pending.get(`:${user}`)) ?? 0;
    if (pending >= 1) {
      await this.pending.set(`:${user}`, pending - 1, MINUTE);
    } else {
      await this.pending.delete(`:${user}`);
    }
    return null;
  }

  // Who bans, as `ban`: "record" for a ban on this user or address, "copy" for one of
  // somebody else's that was seen here. `left` is how many milliseconds of it are left;
  // null: it lasts for ever.
  async checkBan({ user, ip }) {
    if (!isEnabled(this.env.BAN_VIOLATIONS)) {
      return null;
    }
    const keys = [ip, user].filter(Boolean);
    const find = async (store) => {
      const records = [];
      for (const key of keys) {
        records.push(await store.get(key));
      }
      return records.filter(Boolean);
    };
    const records = await find(this.bans);
    const copies = await find(this.copiedBans);
    const answer = { ban: 'record', left: left(records) };
    if (copies.length > 0) {
      return records.length > 0 ? answer : { ban: 'copy', left: left(copies) };
    }
    if (this.duration <= 0 || records.length === 0) {
      return null;
    }
    const [record] = records;
    if (typeof record.expiresAt !== 'number') {
      return answer;
    }
    const rest = record.expiresAt - Date.now();
    for (const key of keys) {
      await (rest <= 0 ? this.bans.delete(key) : this.copiedBans.set(key, record, rest));
    }
    return rest <= 0 ? null : answer;
  }

  // Points for a user, perhaps a ban, and an entry in the user's log.
  async violate({ user, ip }, said, score = 1) {
    if (!user) {
      return {};
    }
    const { type } = said;
    if (!this.scoresByType.has(type)) {
      this.scoresByType.set(type, this.newScores(type));
    }
    const scores = this.scoresByType.get(type);
    const key = isEnabled(this.env.USE_REDIS) ? `${type}:${user}` : user;
    const before = (await scores.get(key)) ?? 0;
    const after = +before + +score;
    await scores.set(key, after);
    const { loggedOut, ...ban } = await this.ban({ user, ip }, type, before, after);
    const date = new Date().toISOString();
    const record = { ...said, prev_count: before, violation_count: after, date, ...ban };
    const log = (await this.logs.get(key)) ?? [];
    log.push(record);
    await this.logs.set(key, log);
    return { record, loggedOut };
  }

  async ban({ user, ip }, type, before, after) {
    if (!isEnabled(this.env.BAN_VIOLATIONS)) {
      return {};
    }
    if (Math.floor(before / this.interval) >= Math.floor(after / this.interval)) {
      return {};
    }
    const { duration } = this;
    if (duration <= 0) {
      return { loggedOut: true };
    }
    const expiresAt = Date.now() + duration;
    const ban = { type, violation_count: after, duration, expiresAt };
    await this.bans.set(user, ban);
    if (ip) {
      await this.bans.set(ip, { ...ban, user_id: user });
    }
    return { loggedOut: true, ban: true, ban_duration: duration };
  }

  // Ends the bans of these keys, as if they had never been.
  async forgive({ keys }) {
    for (const key of keys) {
      await this.bans.delete(key);
      await this.copiedBans.delete(key);
    }
    return null;
  }

  async writeFiles() {
    await this.scoreFile.saveToDisk();
    await this.logFile.saveToDisk();
    return null;
  }
}

// The store that LibreChat uses, which writes its whole file a while after each
// change; here only when it is told to.
function file(load, filename) {
  const { KeyvFile } = load('keyv-file');
  class LazyFile extends KeyvFile {
    async save() {
      this.clearExpire();
    }
  }
  const store = new LazyFile({ filename });
  // Each type of violation listens to it for errors.
  store.setMaxListeners(0);
  return store;
}

async function hit(limiter, event) {
  const request = { ...event };
  const response = { headersSent: false, setHeader() {} };
  await limiter.middleware(request, response, (error) => {
    if (error) {
      throw error;
    }
  });
  const { rateLimit: found, isRejected = false } = { ...request, ...response };
  if (!found) {
    return { isRejected };
  }
  const { limit, used, resetTime } = found;
  return { count: { limit, used, reset: resetTime.getTime() }, isRejected };
}
