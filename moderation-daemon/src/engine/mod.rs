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
mod directory;
mod dossier;
mod elsewhere;
mod event;
mod factor;
mod key;
mod kind;
mod ladder;
mod lease;
mod memory;
mod neighbour;
mod offence;
mod overlay;
mod pardon;
mod pass;
mod penalty;
mod prefix;
mod prepare;
mod profile;
mod repeat;
mod rule;
mod score;
mod subject;
mod takeover;
mod tier;
mod transfer;
mod trust;
mod violation;
mod window;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use circuit::Circuit;
use directory::Directory;
use lease::Leases;
use memory::Memory;
use prepare::Prepared;
use score::ScoreBook;
use window::Windows;

pub(crate) use ban::longest;
pub use ban::{Ban, BanId, BanIndex};
pub use browser::is_browser;
pub use decision::{
    BanRefusal, Cause, Change, Counts, Decision, EndPenalties, EndPenalty, Lift, Outcome,
    Remembered, Verdict, Violation,
};
pub use dossier::Dossier;
pub use elsewhere::{Asked, Elsewhere, Told, Want};
pub use event::{Act, Cost, Request, RequestId};
pub use factor::{Adaptive, Factor, Since, Standing, Traits};
pub use key::{Key, Keys};
pub use kind::{EventType, Limiter, MAX_CUSTOM, TooManyKinds, ViolationType};
pub use ladder::{Author, Ladder, Penalty, PenaltyId, PenaltyKind, Severity, Step};
pub use lease::{Lease, LeaseId};
pub use memory::Forgotten;
pub(crate) use neighbour::SEEN_FOR_MS;
pub use offence::Offence;
pub use overlay::{LiftTarget, NewBan, Overlay};
pub use pardon::Lifted;
pub(crate) use prefix::Lengths;
pub use prefix::{InvalidPrefix, Prefix};
pub use prepare::Queue;
pub use repeat::Run;
pub use rule::{
    Anonymous, BanLength, BanRule, Bounds, By, ByViolation, Commit, Concurrency, Counting,
    Crossing, Decay, Escalation, EventRule, Growth, Limit, LimiterRule, Mapped, NetworkBlock,
    NetworkBlocks, Protected, Repeats, Rules, Scoring, SharedRule, Shown, Tiers, Unit, Windowing,
};
pub use score::{Score, ScoreKey};
pub use subject::{
    Account, Address, Bearer, InvalidAddress, InvalidUserId, NoSubject, Subject, UserId,
};
pub use trust::{PrefixSet, Trust, Trusted};
pub use window::{BadSnapshot, Charge, Count, Pass, RestoredWindows, Shape, Usage, snapshot_seed};

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
    directory: Directory,
    trust: PrefixSet,
    keys: Keys,
    windows: Windows,
    scores: ScoreBook,
    bans: BanIndex,
    leases: Leases,
    memory: Memory,
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
    /// Penalties that no person took back; ladders look at those that are over
    /// too.
    pub penalties: Vec<Penalty>,
    /// The highest number that a penalty ever had.
    pub last_penalty: PenaltyId,
    /// How often somebody has been banned.
    pub offences: Vec<(Bearer, Offence)>,
    /// Users who are banned for what they did at an address, and when, in
    /// milliseconds since 1970; the oldest first.
    pub blamed: Vec<(UserId, IpAddr, u64)>,
    /// What is known about users, and when it last changed, in milliseconds since
    /// 1970.
    pub traits: Vec<(UserId, Traits, u64)>,
    /// How their limits stand.
    pub factors: Vec<(UserId, Factor)>,
    /// Leases of an earlier life, with the names of the requests that they were
    /// given for. They begin anew: when they ended was told by another clock.
    pub leases: Vec<(LeaseId, Bearer, Option<RequestId>)>,
}

/// Places in the kernel that are taken by others than the engine's bans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Exact prefixes.
    pub exact: usize,
    /// Networks.
    pub networks: usize,
}

/// What is forgotten of a window is in its file after so long: twice as long as may
/// be lost.
const WRITTEN_WITHIN_MS: u64 = 10_000;

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
    /// What of people had to be forgotten before its time, or was not remembered.
    pub forgotten: Forgotten,
}

impl Engine {
    /// An engine that goes on where the store's left off. `seed` is a secret
    /// that decides who would share a window if digests met.
    pub fn new(
        rules: Rules,
        trust: PrefixSet,
        restored: Restored,
        seed: [u64; 2],
        now: Moment,
    ) -> Self {
        let mut engine = Self {
            circuit: Circuit::new(rules.ban.max_per_minute),
            taken: Taken::default(),
            keys: Keys::new(seed),
            windows: Windows::new(&rules),
            directory: Directory::new(&rules),
            rules,
            trust,
            scores: ScoreBook::default(),
            bans: BanIndex::default(),
            leases: Leases::default(),
            memory: Memory::alone(restored.last_penalty),
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
            engine.memory.recall_violation(&key, score.updated_at_unix_ms, &engine.rules);
            engine.scores.put(key, score);
        }
        let penalties = restored.penalties.into_iter();
        let offences = restored.offences.into_iter();
        let traits = restored.traits.into_iter();
        let known = penalties
            .map(|penalty| Change::Penalty(Arc::new(penalty)))
            .chain(offences.map(|(bearer, offence)| Change::Offence(bearer, offence)))
            .chain(traits.map(|(user, traits, at)| Change::Traits(user, traits, at)))
            .chain(restored.factors.into_iter().map(|(user, factor)| Change::Factor(user, factor)));
        known.for_each(|change| engine.memory.note(None, &change, &engine.rules));
        engine.memory.recall_blames(restored.blamed, &engine.rules);
        for (id, outcome) in restored.answers {
            engine.remember(id, outcome, now);
        }
        for (id, bearer, request) in restored.leases {
            engine.take_lease(id, bearer, request, now);
        }
        engine.trim();
        engine
    }

    fn remember(&mut self, id: RequestId, outcome: Outcome, now: Moment) {
        let until = now.boot_ms.saturating_add(self.rules.bounds.request_id_ms);
        let answer = Remembered { outcome: Arc::new(outcome), charged_at_boot_ms: None };
        self.answers.put(id, answer, until);
    }

    /// Takes over a lease of an earlier life; none if there is no limit now.
    fn take_lease(&mut self, id: LeaseId, bearer: Bearer, request: Option<RequestId>, now: Moment) {
        let Some(rule) = self.rules.concurrency else { return self.leases.decline(id) };
        let ends_at_boot_ms = now.boot_ms.saturating_add(rule.lease_ms);
        let lease = Lease { id, bearer, ends_at_boot_ms };
        if let Some(request) = request {
            let outcome = Outcome { lease: Some(lease.clone()), ..Outcome::allow() };
            self.remember(request, outcome, now);
        }
        self.next_lease = self.next_lease.max(id + 1);
        self.leases.put(lease);
    }

    /// A view on which decisions build on each other before any is applied.
    pub fn overlay(&self) -> Overlay<'_> {
        Overlay::new(self)
    }

    /// Makes decisions the state. Cannot fail: whatever could has been asked
    /// before.
    pub fn apply(&mut self, changes: impl AsRef<[Change]>) {
        let mut is_counting_only = true;
        for change in changes.as_ref() {
            if let Change::Charge(charge) = change {
                self.windows.charge(charge);
            } else {
                is_counting_only = false;
                self.change(change);
            }
        }
        if !is_counting_only {
            self.trim();
        }
    }

    /// Forgets the oldest of what is too much.
    fn trim(&mut self) {
        while self.answers.len() > self.rules.bounds.request_ids {
            self.answers.forget_oldest();
            self.answers.forgotten_early += 1;
        }
        self.memory.trim(&self.rules.bounds);
    }

    fn change(&mut self, change: &Change) {
        self.memory.note(None, change, &self.rules);
        match change {
            Change::Charge(charge) => self.windows.charge(charge),
            Change::Refund(charge) => self.windows.refund(charge),
            Change::Refunded(id) => self.answers.refunded(id),
            Change::Score(key, score) => self.scores.put(key.clone(), *score),
            Change::ForgetScore(key) => self.scores.remove(key),
            Change::ForgetWindow(key) => self.windows.forget(*key),
            Change::Pardon(bearer) => self.pardon(bearer),
            // A violation is a record, of which the engine keeps the score; the
            // memory has noted the others.
            Change::Violation(_)
            | Change::Repeat(_)
            | Change::Run(..)
            | Change::Penalty(_)
            | Change::EndPenalty(_)
            | Change::EndPenalties(_)
            | Change::Offence(..)
            | Change::Traits(..)
            | Change::Factor(..)
            | Change::Known(..)
            | Change::Seen(..) => {}
            Change::BanCall(at_boot_ms) => self.circuit.call(*at_boot_ms),
            Change::Ban(ban) => {
                self.next_ban = self.next_ban.max(ban.id + 1);
                self.bans.insert(Arc::clone(ban));
            }
            Change::Lift(lift) => drop(self.bans.remove(lift.ban.id)),
            Change::Lease(lease, _) => {
                self.next_lease = self.next_lease.max(lease.id + 1);
                self.leases.put(lease.clone());
            }
            Change::Renew(id, ends_at_boot_ms) => self.leases.renew(*id, *ends_at_boot_ms),
            Change::Release(id) => self.leases.remove(*id),
            Change::Answer(id, answer, until) => {
                self.answers.put(Arc::clone(id), answer.clone(), *until);
            }
        }
    }

    fn pardon(&mut self, bearer: &Bearer) {
        for kind in ViolationType::all() {
            self.scores.remove(&ScoreKey { bearer: bearer.clone(), kind });
        }
        let keys: Vec<_> = self.keys_of(bearer).collect();
        keys.into_iter().for_each(|key| self.windows.forget(key));
        self.answers.forget(bearer);
    }

    /// The keys of every window that somebody can have.
    fn keys_of(&self, bearer: &Bearer) -> impl Iterator<Item = Key> {
        self.rules.limiters.iter().map(|rule| self.keys.of(rule.limiter, bearer))
    }

    /// Forgets scores that have been quiet since before a moment, in
    /// milliseconds since 1970.
    pub fn forget_scores(&mut self, before_unix_ms: u64) {
        self.scores.expire(before_unix_ms);
    }

    /// Forgets what is over, and returns the bans that have run out.
    pub fn expire(&mut self, now: Moment) -> Vec<Arc<Ban>> {
        self.windows.sweep(now.boot_ms);
        self.leases.expire(now.boot_ms);
        self.answers.expire(now.boot_ms);
        self.memory.expire(&self.rules, now.unix_ms);
        self.bans.expire(now.unix_ms)
    }

    /// The head of a file of windows. `boot` tells this boot of the host from
    /// others. From now on what is forgotten early is written down as such.
    pub fn windows_head(&mut self, boot: &str) -> Vec<u8> {
        self.windows.file_head(self.keys.seed(), boot)
    }

    /// Appends the next windows of a pass to a file of windows, after looking at up
    /// to `most` of them.
    pub fn write_windows(&mut self, pass: &mut Pass, most: usize, now: Moment, into: &mut Vec<u8>) {
        self.windows.write(pass, most, now, into);
    }

    /// Takes over what an earlier life wrote down, for an engine with that life's
    /// seed; not of whoever was pardoned since.
    ///
    /// # Errors
    ///
    /// If nothing of it can be read, or the seed is another.
    pub fn restore_windows(
        &mut self,
        bytes: &[u8],
        boot: &str,
        now: Moment,
    ) -> Result<RestoredWindows, BadSnapshot> {
        let restored = self.windows.restore(bytes, (self.keys.seed(), boot), now)?;
        let is_missed = |offence: &Offence| {
            let written = offence.at_unix_ms.saturating_add(WRITTEN_WITHIN_MS);
            offence.has_grace && written > restored.as_of_unix_ms
        };
        let pardoned = self.memory.offences.iter().filter(|(_, offence)| is_missed(offence));
        let keys: Vec<_> = pardoned.flat_map(|(bearer, _)| self.keys_of(bearer)).collect();
        keys.into_iter().for_each(|key| self.windows.forget(key));
        Ok(restored)
    }

    /// The leases that have ended by themselves since the last call: nobody
    /// gave them back.
    pub fn take_lapsed_leases(&mut self) -> Vec<LeaseId> {
        self.leases.take_lapsed()
    }

    /// Gives those back that could not be forgotten, for another time.
    pub fn put_lapsed_leases(&mut self, ids: Vec<LeaseId>) {
        ids.into_iter().for_each(|id| self.leases.decline(id));
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

    /// A penalty that no person took back.
    pub fn penalty(&self, id: PenaltyId) -> Option<&Arc<Penalty>> {
        self.memory.view(None).penalty(id)
    }

    /// Somebody's penalties that no person took back, the oldest first.
    pub fn penalties_of(&self, bearer: &Bearer) -> &[Arc<Penalty>] {
        let holder = memory::Holder::from_bearer(bearer);
        holder.map_or(&[], |holder| self.memory.view(None).penalties(&holder))
    }

    /// How often somebody has been banned.
    pub fn offence(&self, bearer: &Bearer) -> Option<Offence> {
        self.memory.view(None).offence(bearer)
    }

    /// What the app said about a user.
    pub fn traits(&self, user: &UserId) -> Option<&Traits> {
        self.memory.view(None).traits(user)
    }

    /// How a user's limits stood when something last changed them; how they
    /// stand now says [`Overlay::factor`].
    pub fn factor(&self, user: &UserId) -> Option<Factor> {
        self.memory.view(None).factor(user)
    }

    /// How full it is.
    pub fn size(&self) -> Size {
        Size {
            bans: self.bans.len(),
            scores: self.scores.len(),
            windows: self.windows.len(),
            leases: self.leases.len(),
            forgotten_ids: self.answers.forgotten_early,
            forgotten: self.memory.forgotten,
        }
    }
}

/// Answers to recent requests by id, so that a retry gets the same one.
#[derive(Debug, Default)]
struct Answers {
    by_id: HashMap<RequestId, Remembered>,
    by_age: VecDeque<(u64, RequestId)>,
    forgotten_early: u64,
}

impl Answers {
    fn get(&self, id: &RequestId) -> Option<&Remembered> {
        self.by_id.get(id)
    }

    fn len(&self) -> usize {
        self.by_age.len()
    }

    fn put(&mut self, id: RequestId, answer: Remembered, until_boot_ms: u64) {
        self.by_age.push_back((until_boot_ms, Arc::clone(&id)));
        self.by_id.insert(id, answer);
    }

    fn refunded(&mut self, id: &RequestId) {
        if let Some(answer) = self.by_id.get_mut(id) {
            answer.charged_at_boot_ms = None;
        }
    }

    /// Forgets what is held against somebody. Looks at every answer: for
    /// operators only.
    fn forget(&mut self, bearer: &Bearer) {
        self.by_id.retain(|_, answer| !answer.outcome.is_held_against(bearer));
        self.by_age.retain(|(_, id)| self.by_id.contains_key(id));
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
