//! What the engine concludes, and what that changes.

use std::{net::IpAddr, sync::Arc};

use super::{
    Ban, Bearer, Count, Lease, LeaseId, Limiter, RequestId, Score, ScoreKey, Trusted, UserId,
    ViolationType, Window, WindowKey,
};

/// A conclusion about one request: what to answer, and what it changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// For the caller.
    pub outcome: Outcome,
    /// For the store, and then for the engine.
    pub changes: Vec<Change>,
}

/// Whether it may go ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The subject is banned.
    Banned,
    /// It broke a rule.
    Violation(ViolationType),
    /// There is no room to remember another lease.
    LeasesFull,
    /// There is no room to count this one apart, and those who are counted
    /// together have used up their limit. Nobody's fault: no violation.
    WindowsFull,
}

/// What the caller is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Whether it may go ahead.
    pub verdict: Verdict,
    /// Why not.
    pub cause: Option<Cause>,
    /// The limiters that were asked.
    pub counts: Vec<Count>,
    /// The violation that this was.
    pub violation: Option<Violation>,
    /// The ban that holds, or that fell just now.
    pub ban: Option<Arc<Ban>>,
    /// Why no ban fell though the score called for one.
    pub refusal: Option<BanRefusal>,
    /// The lease that was given.
    pub lease: Option<Lease>,
}

impl Outcome {
    pub(super) const fn allow() -> Self {
        Self {
            verdict: Verdict::Allow,
            cause: None,
            counts: Vec::new(),
            violation: None,
            ban: None,
            refusal: None,
            lease: None,
        }
    }

    /// Denied, for a cause.
    pub fn deny(cause: Cause) -> Self {
        Self { verdict: Verdict::Deny, cause: Some(cause), ..Self::allow() }
    }

    /// Denied, because that ban holds.
    pub fn banned(ban: Arc<Ban>) -> Self {
        Self { ban: Some(ban), ..Self::deny(Cause::Banned) }
    }
}

/// Why no ban falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BanRefusal {
    /// The address is on the allowlist or guarded, or holds what is guarded,
    /// and no user is known.
    Protected(Trusted),
    /// There are as many bans, or banned prefixes, as there may be.
    Full,
    /// More bans were called for within a minute than there may be.
    Runaway,
}

/// One broken rule, as it is recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Which rule.
    pub kind: ViolationType,
    /// Who did it, if known.
    pub user: Option<UserId>,
    /// From where, if known.
    pub ip: Option<IpAddr>,
    /// Who bears the points.
    pub bearer: Bearer,
    /// How many.
    pub points: f64,
    /// The score of this type before.
    pub previous: f64,
    /// The score of this type now.
    pub total: f64,
    /// The limiter that was exceeded, if it was one.
    pub limiter: Option<Limiter>,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// The caller's name for the request.
    pub request: Option<RequestId>,
}

/// The early end of a ban.
#[derive(Clone, Debug, PartialEq)]
pub struct Lift {
    /// The ban.
    pub ban: Arc<Ban>,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Who lifted it.
    pub by: String,
}

/// One change of state. Bans, lifts, scores and violations are durable, the
/// rest lives in memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A limiter counted.
    Count(WindowKey, Window),
    /// A score grew.
    Score(ScoreKey, Score),
    /// A score made room for another.
    ForgetScore(ScoreKey),
    /// A rule was broken.
    Violation(Box<Violation>),
    /// An automatic ban was called for, at a moment of the boot clock.
    BanCall(u64),
    /// A ban fell.
    Ban(Arc<Ban>),
    /// A ban was lifted.
    Lift(Lift),
    /// A lease was given or renewed.
    Lease(Lease),
    /// A lease was given back.
    Release(LeaseId),
    /// An answer to remember until a moment of the boot clock.
    Answer(RequestId, Arc<Outcome>, u64),
}
