// The types of what the package exports. Answers are as the socket gives them, names
// included; what the client adds is in camelCase.
/// <reference types="node" />
import type { IncomingMessage, ServerResponse } from 'node:http';

export interface Options {
  /** Path of the daemon's socket for apps. Default: `/run/moderation/api.sock`. */
  socket?: string;
  /** How long a call takes at most, waiting included. Default: 250. */
  timeoutMs?: number;
  /** Connections at once. Default: 16; the daemon takes 256 of all apps together. */
  connections?: number;
  /** Calls that can wait for a connection; one more fails at once. Default: 1000. */
  waiting?: number;
  /** Without a decision, `true` denies, `false` allows. Default: false. */
  failClosed?: boolean;
  /** `onError` is called at most once in this time. Default: 60000. */
  errorIntervalMs?: number;
  /** Hears of failures; `suppressed` were not told. Default: `process.emitWarning`. */
  onError?: (error: ModerationError, more: { suppressed: number }) => void;
}

export interface CallOptions {
  /** Instead of the client's `timeoutMs`. */
  timeoutMs?: number;
}

/** A user, an address, or both. */
export interface Subject {
  user?: string;
  ip?: string;
}

export interface Traits {
  tier?: string;
  role?: string;
  /** RFC 3339. */
  created_at?: string;
  email_verified?: boolean;
  paying?: boolean;
}

export interface Event extends Subject {
  type: string;
  /** What somebody who is not logged in calls the account. */
  account?: string;
  /** The header as it came; `''`: there was none. Left out: not asked for. */
  user_agent?: string;
  bytes?: number;
  tokens?: number;
  tier?: string;
  traits?: Traits;
  /** The same one about the same subject counts once; such calls are repeated safely. */
  id?: string;
  /** Only asks. */
  peek?: boolean;
}

export interface Violation extends Subject {
  type: string;
  score?: number;
  severity?: 'low' | 'medium' | 'high' | 'critical';
  details?: string;
  /** Made up unless given. */
  id?: string;
}

export interface Limit {
  name: string;
  limit: number;
  window_ms: number;
  remaining: number;
  reset_ms: number;
}

export interface Ban {
  id?: number;
  import?: string;
  user?: string;
  address?: string;
  reason: string;
  violation?: string;
  created_at: string;
  /** `null`: it does not end. */
  expires_at: string | null;
  remaining_ms: number | null;
  enforced: boolean;
  network?: 'blocked' | 'pending' | 'never' | 'off';
  note?: string;
}

export interface Penalty {
  id: number;
  kind: 'warning' | 'remove_content' | 'reduce' | 'ban' | 'suspension';
  message?: string;
  factor?: number;
  ban?: number;
  starts_at: string;
  ends_at: string | null;
  reason: string;
}

/** What is there if the daemon did not answer. */
export interface Failed {
  /** Allowed, because nobody decided. */
  failedOpen?: true;
  /** Denied, because nobody decided and `failClosed` is set. */
  failedClosed?: true;
  /** Why nobody did. */
  error?: ModerationError;
}

export interface Answer extends Failed {
  decision: 'allow' | 'deny';
  reason: string | null;
  message?: string;
  limits: Limit[];
  violation?: { type: string; score: number; repeat?: true };
  score?: number;
  penalty?: Penalty;
  ban?: Ban;
  logout?: true;
  lease?: { id: number; expires_in_ms: number };
  retry_after_ms?: number | null;
  /** Of a lease that there is no place for. */
  concurrency?: { limit: number; pending: number };
}

/** What is wrong with one line of a batch (RFC 9457). */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
}

export type BatchAnswer = (Answer & { problem?: undefined }) | { problem: Problem };

export interface Checked extends Failed {
  banned: boolean;
  ban?: Ban;
}

export interface KnownSubject {
  user: string;
  tier: string | null;
  role: string | null;
  created_at: string | null;
  email_verified: boolean | null;
  paying: boolean | null;
  factor?: number;
  factor_target?: number;
  factors?: Record<string, number>;
}

export interface Stats {
  /** Connections that are open. */
  connections: number;
  /** Connections that were opened so far. */
  opened: number;
  /** Calls that have a connection. */
  running: number;
  /** Calls that wait for one. */
  waiting: number;
  /** Leases that are looked after. */
  leases: number;
  /** Failures so far. */
  failures: number;
}

/** Calls that decide never reject for want of a daemon; mistakes (`refused`) do. */
export class Moderation {
  static readonly defaults: Readonly<Options>;
  constructor(options?: Options);
  event(event: Event, options?: CallOptions): Promise<Answer>;
  batch(events: readonly Event[], options?: CallOptions): Promise<BatchAnswer[]>;
  violation(violation: Violation, options?: CallOptions): Promise<Answer>;
  check(subject: Subject, options?: CallOptions): Promise<Checked>;
  acquire(subject: Subject & { id?: string }, options?: CallOptions): Promise<Lease>;
  withLease<T>(
    subject: string | (Subject & { id?: string }),
    work: (lease: Lease) => T | PromiseLike<T>,
    options?: CallOptions,
  ): Promise<T>;
  /** Rejects also for want of a daemon, as the calls below do. */
  refund(of: Subject & { type: string; id: string }, options?: CallOptions): Promise<boolean>;
  limits(
    about: Subject & { type: string; account?: string },
    options?: CallOptions,
  ): Promise<Limit[]>;
  subject(user: string, options?: CallOptions): Promise<KnownSubject | null>;
  describe(user: string, traits: Traits, options?: CallOptions): Promise<KnownSubject>;
  /** Never rejects for want of a daemon. */
  ready(options?: CallOptions): Promise<boolean>;
  stats(): Stats;
  close(): Promise<void>;
}

/** One generation's place; made by `acquire`. */
export class Lease implements AsyncDisposable {
  private constructor();
  readonly answer: Answer;
  readonly allowed: boolean;
  /** Whether the daemon counts it; not so while it failed open. */
  readonly held: boolean;
  readonly id: number | null;
  /** Aborts when the place is lost although it was not released. */
  readonly signal: AbortSignal;
  /** Never rejects; does it once. */
  release(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

export type ErrorCode =
  | 'timeout'
  | 'unreachable'
  | 'broken'
  | 'crowded'
  | 'unavailable'
  | 'malformed'
  | 'lost'
  | 'closed'
  | 'refused';

export class ModerationError extends Error {
  private constructor();
  readonly code: ErrorCode;
  readonly status: number | undefined;
  readonly problem: string | undefined;
  readonly mayHaveArrived: boolean;
}

/** `withLease` found no place. */
export class DeniedError extends Error {
  private constructor();
  readonly answer: Answer;
}

export interface Route {
  /** Default: any. `GET` stands for `HEAD`, too. */
  method?: string;
  /** `/a/:b`, `/a/*`, or a RegExp for the whole path. */
  path: string | RegExp;
  /** The event that a request is. */
  event?: string;
  /** Whether a request takes a place until its answer has ended. */
  lease?: boolean;
  /** Whether the event names the user agent. */
  userAgent?: boolean;
  /** Events by the status that the app answers with, about address and account. */
  outcome?: Record<number, string>;
}

/** What the middleware leaves at `req.moderation`. */
export interface Moderated {
  answer: Answer | null;
  lease: Lease | null;
}

export interface ProtectOptions<Req extends IncomingMessage, Res extends ServerResponse> {
  /** The first one that matches counts; other requests are not looked at. */
  routes?: readonly Route[];
  /** Default: `req.user?.id`. */
  user?: (req: Req) => unknown;
  /** Default: `req.ip`, and where that is no address the peer's. */
  ip?: (req: Req) => string | undefined;
  /** Default: none. */
  account?: (req: Req) => unknown;
  /** Called before a denial is sent; may send one itself. */
  onDeny?: (req: Req, res: Res, answer: Answer) => void | Promise<void>;
  /** Whether `RateLimit` and `RateLimit-Policy` are set. Default: true. */
  headers?: boolean;
}

export function protect<
  Req extends IncomingMessage = any,
  Res extends ServerResponse = ServerResponse,
>(
  moderation: Moderation,
  options?: ProtectOptions<Req, Res>,
): (req: Req, res: Res, next: (error?: unknown) => void) => void | Promise<void>;
