// What can go wrong with a call, by a closed set of codes. What follows from it (let
// through, refuse, throw) is decided in client.js.
'use strict';

/**
 * Why a call has no answer.
 *
 * - `timeout`      none came in time
 * - `unreachable`  nobody listens on the socket, or we may not open it
 * - `broken`       the connection broke off before the answer
 * - `crowded`      too many calls of this process wait already
 * - `unavailable`  the daemon says that it cannot answer now (5xx, 408, foreign peer)
 * - `malformed`    what answered is not the daemon
 * - `lost`         a lease ended although it was not released
 * - `closed`       the client was closed
 * - `refused`      the call makes no sense (4xx): a mistake in the app
 */
class ModerationError extends Error {
  constructor(code, message, details = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'ModerationError';
    this.code = code;
    /** The HTTP status, if there was an answer. */
    this.status = details.status;
    /** The problem's name, such as `unknown-type`, if the daemon named one. */
    this.problem = details.problem;
    /** Whether the daemon may have got the request and done what it says. */
    this.mayHaveArrived = details.mayHaveArrived ?? false;
  }
}

module.exports = { ModerationError };
