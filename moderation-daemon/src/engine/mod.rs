//! The judgement, pure: limiters, concurrency, violations, scores, bans, trust.
//!
//! Nothing here does I/O, reads a clock or draws a random number: time is an
//! argument ([`Moment`]), and so are counts that may come from elsewhere
//! ([`Count`]). Deciding ([`Overlay::decide`]) and changing
//! ([`Engine::apply`]) are apart, so that a decision can be written down
//! between the two.

mod ban;
mod browser;
mod circuit;
mod decide;
mod decision;
mod event;
mod lease;
mod overlay;
mod penalty;
mod prefix;
mod rule;
mod score;
mod subject;
mod trust;
mod window;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use circuit::Circuit;
use lease::Leases;
use score::ScoreBook;
use window::Windows;

pub(crate) use ban::longest;
pub use ban::{Ban, BanId, BanIndex};
pub use browser::is_browser;
pub use decision::{BanRefusal, Cause, Change, Decision, Lift, Outcome, Verdict, Violation};
pub use event::{Act, EventType, Request, RequestId, ViolationType};
pub use lease::{Lease, LeaseId};
pub use overlay::{LiftTarget, NewBan, Overlay};
pub(crate) use prefix::Lengths;
pub use prefix::{InvalidPrefix, Prefix};
pub use rule::{
    BanRule, Bounds, Concurrency, Escalation, Limit, Limiter, NetworkBlock, NetworkBlocks, Rules,
    Scores,
};
pub use score::{Score, ScoreKey};
pub use subject::{Address, Bearer, InvalidAddress, InvalidUserId, NoSubject, Subject, UserId};
pub use trust::{PrefixSet, Trust, Trusted};
pub use window::{Count, Window, WindowKey};

/// Now, by both clocks that matter: limits and leases must not jump when the
/// wall clock is set, bans end at a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds of `CLOCK_BOOTTIME`.
    pub boot_ms: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// All that the engine remembers between decisions.
#[derive(Debug)]
pub struct Engine {
    rules: Rules,
    trust: PrefixSet,
    windows: Windows,
    scores: ScoreBook,
    bans: BanIndex,
    leases: Leases,
    answers: Answers,
    circuit: Circuit,
    taken: Taken,
    next_ban: BanId,
    next_lease: LeaseId,
}

/// What a store kept from an earlier life.
#[derive(Debug, Default)]
pub struct Restored {
    /// Active bans.
    pub bans: Vec<Ban>,
    /// Scores.
    pub scores: Vec<(ScoreKey, Score)>,
    /// Requests that broke a rule a short while ago, so that their retries do
    /// not count again.
    pub answers: Vec<(RequestId, Outcome)>,
    /// The highest number that a ban ever had.
    pub last_ban: BanId,
}

/// Places in the kernel that are taken by others than the engine's bans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Exact prefixes.
    pub exact: usize,
    /// Networks.
    pub networks: usize,
}

/// How full the engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Active bans.
    pub bans: usize,
    /// Scores.
    pub scores: usize,
    /// Limiter windows.
    pub windows: usize,
    /// Leases.
    pub leases: usize,
    /// Request ids that had to be forgotten before their time.
    pub forgotten_ids: u64,
}

impl Engine {
    /// An engine that goes on where the store's left off.
    pub fn new(rules: Rules, trust: PrefixSet, restored: Restored, now: Moment) -> Self {
        let mut engine = Self {
            circuit: Circuit::new(rules.ban.max_per_minute),
            taken: Taken::default(),
            rules,
            trust,
            windows: Windows::default(),
            scores: ScoreBook::default(),
            bans: BanIndex::default(),
            leases: Leases::default(),
            answers: Answers::default(),
            next_ban: restored.last_ban + 1,
            // Never a number of an earlier life, whose holders may still renew
            // it; below 2^53, which JavaScript can count to.
            next_lease: now.unix_ms.saturating_mul(1_000) + 1,
        };
        for ban in restored.bans {
            engine.bans.insert(Arc::new(ban));
        }
        for (key, score) in restored.scores {
            engine.scores.put(key, score);
        }
        let until = now.boot_ms.saturating_add(engine.rules.bounds.request_id_ms);
        for (id, outcome) in restored.answers {
            engine.answers.put(id, Arc::new(outcome), until);
        }
        engine
    }

    /// A view on which decisions build on each other before any is applied.
    pub fn overlay(&self) -> Overlay<'_> {
        Overlay::new(self)
    }

    /// Makes decisions the state. Cannot fail: whatever could has been asked
    /// before.
    pub fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.change(change);
        }
        while self.answers.len() > self.rules.bounds.request_ids {
            self.answers.forget_oldest();
            self.answers.forgotten_early += 1;
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Count(key, window) => self.windows.put(key, window),
            Change::Score(key, score) => self.scores.put(key, score),
            Change::ForgetScore(key) => self.scores.remove(&key),
            Change::Violation(_) => {} // a record; the engine keeps its score
            Change::BanCall(at_boot_ms) => self.circuit.call(at_boot_ms),
            Change::Ban(ban) => {
                self.next_ban = self.next_ban.max(ban.id + 1);
                self.bans.insert(ban);
            }
            Change::Lift(lift) => drop(self.bans.remove(lift.ban.id)),
            Change::Lease(lease) => {
                self.next_lease = self.next_lease.max(lease.id + 1);
                self.leases.put(lease);
            }
            Change::Release(id) => self.leases.remove(id),
            Change::Answer(id, outcome, until) => self.answers.put(id, outcome, until),
        }
    }

    /// Forgets scores that have been quiet since before a moment, in
    /// milliseconds since 1970.
    pub fn forget_scores(&mut self, before_unix_ms: u64) {
        self.scores.expire(before_unix_ms);
    }

    /// Forgets what is over, and returns the bans that have run out.
    pub fn expire(&mut self, now: Moment) -> Vec<Arc<Ban>> {
        self.windows.expire(now.boot_ms);
        self.leases.expire(now.boot_ms);
        self.answers.expire(now.boot_ms);
        self.bans.expire(now.unix_ms)
    }

    /// Replaces the set of prefixes that are never banned.
    pub fn set_trust(&mut self, trust: PrefixSet) {
        self.trust = trust;
    }

    /// The set of prefixes that are never banned.
    pub const fn trust(&self) -> &PrefixSet {
        &self.trust
    }

    /// Says how many places others have taken; bans count on top of that.
    pub const fn set_taken(&mut self, taken: Taken) {
        self.taken = taken;
    }

    /// Whether a rule has run away: automatic bans have stopped.
    pub fn is_runaway(&self, now: Moment) -> bool {
        self.circuit.is_open(now.boot_ms)
    }

    /// The active bans.
    pub const fn bans(&self) -> &BanIndex {
        &self.bans
    }

    /// How full it is.
    pub fn size(&self) -> Size {
        Size {
            bans: self.bans.len(),
            scores: self.scores.len(),
            windows: self.windows.len(),
            leases: self.leases.len(),
            forgotten_ids: self.answers.forgotten_early,
        }
    }
}

/// Answers to recent requests by id, so that a retry gets the same one.
#[derive(Debug, Default)]
struct Answers {
    by_id: HashMap<RequestId, Arc<Outcome>>,
    by_age: VecDeque<(u64, RequestId)>,
    forgotten_early: u64,
}

impl Answers {
    fn get(&self, id: &RequestId) -> Option<&Arc<Outcome>> {
        self.by_id.get(id)
    }

    fn len(&self) -> usize {
        self.by_age.len()
    }

    fn put(&mut self, id: RequestId, outcome: Arc<Outcome>, until_boot_ms: u64) {
        self.by_age.push_back((until_boot_ms, Arc::clone(&id)));
        self.by_id.insert(id, outcome);
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.by_age.pop_front() {
            self.by_id.remove(&id);
        }
    }

    fn expire(&mut self, now_boot_ms: u64) {
        while self.by_age.front().is_some_and(|(until, _)| *until <= now_boot_ms) {
            self.forget_oldest();
        }
    }
}
