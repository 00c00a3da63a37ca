//! What the engine concludes, and what that changes.

use std::{net::IpAddr, sync::Arc};

use smallvec::SmallVec;

use super::{
    Account, Address, Author, Ban, BanId, Bearer, Charge, Count, Factor, Key, Lease, LeaseId,
    Limit, Limiter, Offence, Penalty, PenaltyId, Prefix, RequestId, Run, Score, ScoreKey, Severity,
    Traits, Trusted, UserId, ViolationType,
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
    /// It is over a limit, which is no violation.
    Limited,
    /// There is no room to remember another lease.
    LeasesFull,
    /// There is no room to count this one apart, and those who are counted
    /// together have used up their limit. Nobody's fault: no violation.
    WindowsFull,
    /// There is nothing to take back: no such request is remembered, or it
    /// counted nothing, or that has been taken back.
    NothingToRefund,
}

impl Cause {
    /// In one word, as callers are told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Banned => "banned",
            Self::Violation(kind) => kind.name(),
            Self::LeasesFull => "leases_full",
            Self::WindowsFull => "windows_full",
            Self::Limited => "rate_limited",
            Self::NothingToRefund => "nothing_to_refund",
        }
    }
}

/// The limiters' answers to one event, in the order in which they were asked.
/// There are rarely more than two.
pub type Counts = SmallVec<[Count; 2]>;

/// What the caller is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Whether it may go ahead.
    pub verdict: Verdict,
    /// Why not.
    pub cause: Option<Cause>,
    /// The limiters that were asked.
    pub counts: Counts,
    /// The violation that this was.
    pub violation: Option<Arc<Violation>>,
    /// The ban that holds, or that fell just now.
    pub ban: Option<Arc<Ban>>,
    /// Why no ban fell though the score called for one.
    pub refusal: Option<BanRefusal>,
    /// The lease that was given.
    pub lease: Option<Lease>,
    /// Whether the user's sessions are to end, though no ban fell.
    pub logout: bool,
    /// The penalty that fell, on a ladder or for something critical.
    pub penalty: Option<Arc<Penalty>>,
    /// Whether the violation is a repeat, which counts for nothing and is not
    /// recorded.
    pub is_repeat: bool,
}

impl Outcome {
    pub(super) fn allow() -> Self {
        Self {
            verdict: Verdict::Allow,
            cause: None,
            counts: Counts::new(),
            violation: None,
            ban: None,
            refusal: None,
            lease: None,
            logout: false,
            penalty: None,
            is_repeat: false,
        }
    }

    /// Allowed, with what the limiters said.
    pub fn passed(counts: &[Count]) -> Self {
        Self { counts: counts.into(), ..Self::allow() }
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
    /// The user, or the user's role, is never banned automatically.
    ProtectedUser,
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
    /// The limiter that was exceeded, if it was one, and its limit.
    pub limiter: Option<(Limiter, Limit)>,
    /// The generations that were running, if there were too many.
    pub pending: Option<usize>,
    /// How bad it is, if somebody said so.
    pub severity: Option<Severity>,
    /// What the reporter said about it.
    pub details: Option<Arc<str>>,
    /// How many repeats came before it that have no record of their own. Those
    /// of somebody who is hammering are in the points.
    pub repeats: u32,
    /// The ban that it led to.
    pub ban: Option<BanId>,
    /// The penalty that it led to.
    pub penalty: Option<PenaltyId>,
    /// Whether the user's sessions ended for it, though no ban fell.
    pub logout: bool,
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

/// The early end of a penalty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndPenalty {
    /// Which.
    pub penalty: PenaltyId,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Who ended it; a rule did if another penalty took its place.
    pub by: Author,
}

/// The early end of all penalties of somebody, also of those that only the store
/// remembers; bans that hold are not ended by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndPenalties {
    /// Of which user.
    pub user: Option<UserId>,
    /// Or of which addresses.
    pub prefix: Option<Prefix>,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Who ended them.
    pub by: Author,
}

/// An answer as it is remembered for retries.
#[derive(Clone, Debug, PartialEq)]
pub struct Remembered {
    /// The answer.
    pub outcome: Arc<Outcome>,
    /// When its counts were charged, on the boot clock; `None`: they were not,
    /// or have been taken back.
    pub charged_at_boot_ms: Option<u64>,
}

/// One change of state. What is about bans, penalties, scores, violations,
/// who holds a lease and what is known about users is durable, the rest lives
/// in memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A limiter counted.
    Charge(Charge),
    /// A limiter's count was taken back.
    Refund(Charge),
    /// What a remembered request counted was taken back.
    Refunded(RequestId),
    /// A score changed.
    Score(ScoreKey, Score),
    /// A score made room for another.
    ForgetScore(ScoreKey),
    /// A violation was a repeat that counts for nothing.
    Repeat(ScoreKey),
    /// How somebody's repeats stand.
    Run(ScoreKey, Run),
    /// A rule was broken.
    Violation(Arc<Violation>),
    /// An automatic ban was called for, at a moment of the boot clock.
    BanCall(u64),
    /// A ban fell.
    Ban(Arc<Ban>),
    /// A ban was lifted.
    Lift(Lift),
    /// A penalty fell.
    Penalty(Arc<Penalty>),
    /// A penalty was taken back, or replaced.
    EndPenalty(EndPenalty),
    /// All of somebody's were taken back.
    EndPenalties(EndPenalties),
    /// How often somebody has been banned.
    Offence(Bearer, Offence),
    /// Somebody's scores, windows and repeats were forgotten, and the answers
    /// that say banned.
    Pardon(Bearer),
    /// All that a window counted was taken back.
    ForgetWindow(Key),
    /// A lease was given, for a request of that name.
    Lease(Lease, Option<RequestId>),
    /// A lease was renewed until a moment of the boot clock.
    Renew(LeaseId, u64),
    /// A lease was given back.
    Release(LeaseId),
    /// The app said something about a user, at a moment in milliseconds since
    /// 1970; this is all that is known now.
    Traits(UserId, Traits, u64),
    /// A user's limits changed.
    Factor(UserId, Factor),
    /// A user, as a digest, was seen at an address, at a moment in milliseconds
    /// since 1970.
    Seen(Address, u64, u64),
    /// An account was logged into from an address, at a moment in milliseconds
    /// since 1970.
    Known(Account, Address, u64),
    /// An answer to remember until a moment of the boot clock.
    Answer(RequestId, Remembered, u64),
}
