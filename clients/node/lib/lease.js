// One generation's place under the concurrency limit: renewed well before it ends,
// given back when it is released, and never believed to be held for longer than the
// daemon may hold it. How it asks the daemon is client.js's affair.
'use strict';

const { ModerationError } = require('./error.js');

// A lease is renewed after a third of its life; a renewal that fails is tried again
// after a tenth of it, so that there are six more chances.
const RENEW_AFTER = 1 / 3;
const RETRY_AFTER = 1 / 10;
const SHORTEST_PAUSE_MS = 20;
// Timers of Node count to 25 days, and beyond begin at once.
const LONGEST_PAUSE_MS = 24 * 3_600 * 1_000;

class Lease {
  #daemon;
  #abort = new AbortController();
  #id = null;
  #lifeMs = 0;
  #endsAt = 0;
  #timer = null;
  #released = null;

  constructor(daemon) {
    this.#daemon = daemon;
    this.answer = null;
    const dispose = Symbol.asyncDispose;
    if (dispose) Object.defineProperty(this, dispose, { value: () => this.release() });
  }

  /** Whether the generation may start. */
  get allowed() {
    return this.answer?.decision === 'allow';
  }

  /** Whether the daemon counts it; not so if it failed open, or is over. */
  get held() {
    return this.#id !== null && this.#released === null && performance.now() < this.#endsAt;
  }

  /** The daemon's number for it, while there is one. */
  get id() {
    return this.#id;
  }

  /** Aborts when the place is lost although it was not released. */
  get signal() {
    return this.#abort.signal;
  }

  /**
   * For client.js: what the daemon answered to a request that was sent at `sentAt`. An
   * answer that comes late is of a lease that failed open until then.
   */
  begin(answer, sentAt, { isLate = false } = {}) {
    if (!isLate) this.answer = answer;
    const lease = answer.decision === 'allow' ? answer.lease : undefined;
    if (lease === undefined) {
      // One that failed open can be heard of yet.
      if (answer.error === undefined || !this.allowed) this.#end();
      return;
    }
    this.#id = lease.id;
    this.#lifeMs = lease.expires_in_ms;
    // From before it was sent, so that it ends here before it ends there.
    this.#endsAt = sentAt + this.#lifeMs;
    // Nobody uses what came late to somebody who was refused, or was done by then.
    if (this.#released !== null || !this.allowed) this.#released = this.#give();
    else this.#later(this.#lifeMs * RENEW_AFTER, () => this.#renew());
  }

  /**
   * Gives the place back. Never rejects, and does it once. If the daemon cannot be
   * told now, it is told again until the lease would have ended by itself.
   */
  release() {
    this.#released ??= this.#id === null ? this.#end() : this.#give();
    return this.#released;
  }

  /** For client.js: stops without telling anybody. */
  abandon() {
    this.#end();
  }

  #later(afterMs, work) {
    clearTimeout(this.#timer);
    const pauseMs = Math.min(Math.max(afterMs, SHORTEST_PAUSE_MS), LONGEST_PAUSE_MS);
    this.#timer = setTimeout(work, pauseMs);
    // A lease is no reason for a process to live on.
    this.#timer.unref();
  }

  async #renew() {
    const sentAt = performance.now();
    if (sentAt >= this.#endsAt) return this.#lose('no renewal got through in its lifetime');
    try {
      const { lease } = await this.#daemon.renew(this.#id);
      this.#endsAt = sentAt + lease.expires_in_ms;
      if (this.#released === null) this.#later(this.#lifeMs * RENEW_AFTER, () => this.#renew());
    } catch (error) {
      if (this.#released !== null) return undefined;
      if (error.problem === 'no-such-thing') return this.#lose('the daemon no longer has it');
      this.#daemon.report(error);
      // The last look is at its end.
      const left = this.#endsAt - performance.now();
      this.#later(Math.min(this.#lifeMs * RETRY_AFTER, left), () => this.#renew());
    }
    return undefined;
  }

  #lose(why) {
    const error = new ModerationError('lost', `a lease was lost: ${why}`);
    this.#end();
    this.#id = null;
    this.#daemon.report(error);
    this.#abort.abort(error);
  }

  async #give() {
    clearTimeout(this.#timer);
    try {
      await this.#daemon.release(this.#id);
      this.#end();
    } catch (error) {
      // It had ended already.
      if (error.problem === 'no-such-thing') return this.#end();
      if (error.code !== 'closed') this.#daemon.report(error);
      if (error.code === 'closed' || performance.now() >= this.#endsAt) return this.#end();
      this.#later(this.#lifeMs * RETRY_AFTER, () => this.#give());
    }
    return undefined;
  }

  async #end() {
    clearTimeout(this.#timer);
    this.#daemon.ended();
  }
}

module.exports = { Lease };
