//! A view of the engine with the changes of the current batch laid over it:
//! each decision sees those before it, and dropping the overlay undoes them
//! all.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Author, Ban, BanId, BanIndex, BanRefusal, Bearer, Change, Charge, Decision, Engine, Key, Lease,
    LeaseId, Lift, Limiter, Moment, Prefix, Remembered, RequestId, Score, ScoreKey, Subject, Usage,
    UserId, ViolationType, ban::longest,
};

/// See the module.
#[derive(Debug)]
pub struct Overlay<'e> {
    pub(super) engine: &'e Engine,
    changes: Vec<Change>,
    /// What the batch counted, less what it took back.
    charges: HashMap<Key, i64>,
    scores: HashMap<ScoreKey, Score>,
    /// Keys in `scores` that the engine does not have.
    fresh_scores: usize,
    /// Keys that the engine has and should no longer have.
    forgotten: HashSet<ScoreKey>,
    bans: BanIndex,
    /// Bans that the engine has and should no longer have.
    lifted: HashSet<BanId>,
    leases: HashMap<LeaseId, Option<Lease>>,
    answers: HashMap<RequestId, Remembered>,
    /// Moments of the boot clock at which automatic bans were called for.
    calls: Vec<u64>,
    pub(super) next_ban: BanId,
    pub(super) next_lease: LeaseId,
}

/// A ban that a person wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBan {
    /// The user to ban.
    pub user: Option<UserId>,
    /// The addresses to ban.
    pub prefix: Option<Prefix>,
    /// Whether the kernel is to drop their packets.
    pub blocks: bool,
    /// Why, for people.
    pub reason: String,
    /// For how long; `None` for ever.
    pub duration_ms: Option<u64>,
    /// Who wants it.
    pub by: Arc<str>,
}

impl<'e> Overlay<'e> {
    pub(super) fn new(engine: &'e Engine) -> Self {
        Self {
            engine,
            changes: Vec::new(),
            charges: HashMap::new(),
            scores: HashMap::new(),
            fresh_scores: 0,
            forgotten: HashSet::new(),
            bans: BanIndex::default(),
            lifted: HashSet::new(),
            leases: HashMap::new(),
            answers: HashMap::new(),
            calls: Vec::new(),
            next_ban: engine.next_ban,
            next_lease: engine.next_lease,
        }
    }

    /// Lays a decision's changes over the engine, so that the next one sees
    /// them.
    pub fn push(&mut self, decision: &Decision) {
        for change in &decision.changes {
            self.lay(change);
        }
        self.changes.extend(decision.changes.iter().cloned());
    }

    fn lay(&mut self, change: &Change) {
        match change {
            Change::Charge(charge) => self.add_to(charge.key, signed(charge.cost)),
            Change::Refund(charge) => self.add_to(charge.key, -signed(charge.cost)),
            Change::Refunded(id) => {
                if let Some(answer) = self.answer(id) {
                    let answer = Remembered { charged_at_boot_ms: None, ..answer.clone() };
                    self.answers.insert(Arc::clone(id), answer);
                }
            }
            Change::Score(key, score) => {
                self.forgotten.remove(key);
                let known = self.scores.insert(key.clone(), *score).is_some();
                self.fresh_scores += usize::from(!known && self.engine.scores.get(key).is_none());
            }
            Change::ForgetScore(key) => {
                let known = self.scores.remove(key).is_some();
                if self.engine.scores.get(key).is_some() {
                    self.forgotten.insert(key.clone());
                } else {
                    self.fresh_scores -= usize::from(known);
                }
            }
            Change::Pardon(bearer) => {
                for kind in ViolationType::all() {
                    let key = ScoreKey { bearer: bearer.clone(), kind };
                    if self.score(&key).is_some() {
                        self.lay(&Change::ForgetScore(key));
                    }
                }
            }
            // No decision asks for these within their own batch.
            Change::Violation(_)
            | Change::Repeat(_)
            | Change::Penalty(_)
            | Change::EndPenalty(_)
            | Change::Offence(..)
            | Change::Traits(..)
            | Change::Factor(..)
            | Change::Seen(..) => {}
            Change::BanCall(at_boot_ms) => self.calls.push(*at_boot_ms),
            Change::Ban(ban) => {
                self.next_ban = ban.id + 1;
                self.bans.insert(Arc::clone(ban));
            }
            Change::Lift(lift) => {
                if self.bans.remove(lift.ban.id).is_none() {
                    self.lifted.insert(lift.ban.id);
                }
            }
            Change::Lease(lease, _) => {
                self.next_lease = self.next_lease.max(lease.id + 1);
                self.leases.insert(lease.id, Some(lease.clone()));
            }
            Change::Renew(id, ends_at_boot_ms) => {
                let known =
                    self.leases.get(id).map_or_else(|| self.engine.leases.get(*id), Option::as_ref);
                let renewed =
                    known.map(|lease| Lease { ends_at_boot_ms: *ends_at_boot_ms, ..lease.clone() });
                self.leases.insert(*id, renewed);
            }
            Change::Release(id) => drop(self.leases.insert(*id, None)),
            Change::Answer(id, answer, _) => {
                self.answers.insert(Arc::clone(id), answer.clone());
            }
        }
    }

    /// Everything that was decided, for the store and for [`Engine::apply`].
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// What is used up of a limit. All of a batch happens at one moment, so what
    /// it counted is a sum.
    pub(super) fn usage(&self, limiter: Limiter, key: Key, now: Moment) -> Usage {
        let usage = self.engine.windows.usage(limiter, key, now.boot_ms);
        let fresh = self.charges.get(&key).copied().unwrap_or(0);
        Usage { used: usage.used.saturating_add_signed(fresh), ..usage }
    }

    /// Whether a window has its place.
    pub(super) fn knows(&self, key: Key) -> bool {
        self.charges.contains_key(&key) || self.engine.windows.knows(key)
    }

    /// An upper bound: a key that is in both counts twice.
    pub(super) fn windows_at_most(&self) -> usize {
        self.engine.windows.len() + self.charges.len()
    }

    fn add_to(&mut self, key: Key, cost: i64) {
        let sum = self.charges.entry(key).or_default();
        *sum = sum.saturating_add(cost);
    }

    /// Whether what was charged counts still, so that it can be taken back.
    pub(super) fn counts_still(&self, charge: &Charge, now: Moment) -> bool {
        let is_fresh = charge.at_boot_ms == now.boot_ms && self.charges.contains_key(&charge.key);
        is_fresh || self.engine.windows.counts(charge, now.boot_ms)
    }

    pub(super) fn score(&self, key: &ScoreKey) -> Option<Score> {
        if self.forgotten.contains(key) {
            return None;
        }
        self.scores.get(key).copied().or_else(|| self.engine.scores.get(key))
    }

    /// The score to forget for a new one, if there is no room for both.
    pub(super) fn score_in_the_way(&self) -> Option<ScoreKey> {
        let len = self.engine.scores.len() + self.fresh_scores - self.forgotten.len();
        if len < self.engine.rules.bounds.scores {
            return None;
        }
        let untouched =
            |key: &&ScoreKey| !self.scores.contains_key(*key) && !self.forgotten.contains(*key);
        let old = self.engine.scores.oldest().map(|(_, key)| key).find(untouched);
        let young = || {
            let by_age = self.scores.iter().map(|(key, score)| (score.updated_at_unix_ms, key));
            by_age.min().map(|(_, key)| key)
        };
        old.or_else(young).cloned()
    }

    pub(super) fn answer(&self, id: &RequestId) -> Option<&Remembered> {
        self.answers.get(id).or_else(|| self.engine.answers.get(id))
    }

    pub(super) fn ban_count(&self) -> usize {
        self.engine.bans.len() + self.bans.len() - self.lifted.len()
    }

    /// Whether there is room for a ban on that prefix. An upper bound: a prefix
    /// that is new to the batch and was banned before counts twice.
    pub(super) fn has_room(&self, prefix: Option<Prefix>) -> bool {
        let (bounds, taken) = (&self.engine.rules.bounds, self.engine.taken);
        if self.ban_count() >= bounds.bans {
            return false;
        }
        let Some(prefix) = prefix else { return true };
        if self.bans_of_prefix(prefix).next().is_some() {
            return true;
        }
        let (standing, fresh) = (self.engine.bans.prefix_counts(), self.bans.prefix_counts());
        if prefix.is_exact() {
            standing.0 + fresh.0 + taken.exact < bounds.bans
        } else {
            standing.1 + fresh.1 + taken.networks < bounds.networks
        }
    }

    /// Whether one more automatic ban is one too many for this minute.
    pub(super) fn is_runaway(&self, now: Moment) -> bool {
        self.engine.circuit.is_one_too_many(&self.calls, now.boot_ms)
    }

    /// How many different /64s are banned in a wider block, `with` included.
    pub(super) fn banned_64s(&self, block: Prefix, with: Prefix) -> usize {
        let stands = |prefix: &Prefix| {
            self.engine.bans.of_prefix(*prefix).any(|ban| !self.lifted.contains(&ban.id))
        };
        let lifted: HashSet<Prefix> = self
            .lifted
            .iter()
            .filter_map(|id| self.engine.bans.get(*id)?.prefix)
            .filter(|prefix| prefix.block_of_64(64).is_some() && block.covers(*prefix))
            .filter(|prefix| !stands(prefix))
            .collect();
        let fresh = self
            .bans
            .prefixes()
            .filter(|prefix| prefix.block_of_64(64).is_some() && block.covers(*prefix))
            .filter(|prefix| *prefix != with && !stands(prefix));
        let itself = usize::from(!stands(&with));
        self.engine.bans.banned_64s(block) - lifted.len() + fresh.count() + itself
    }

    /// Active bans of a user: those of the engine, then those of the batch.
    fn bans_of_user<'a>(
        &'a self,
        user: &UserId,
    ) -> impl Iterator<Item = &'a Arc<Ban>> + use<'a, 'e> {
        let standing = self.engine.bans.of_user(user).filter(|ban| !self.lifted.contains(&ban.id));
        standing.chain(self.bans.of_user(user))
    }

    /// Active bans of a prefix: those of the engine, then those of the batch.
    pub(super) fn bans_of_prefix(&self, prefix: Prefix) -> impl Iterator<Item = &Arc<Ban>> {
        let standing = self.engine.bans.of_prefix(prefix);
        standing.filter(|ban| !self.lifted.contains(&ban.id)).chain(self.bans.of_prefix(prefix))
    }

    fn bans_of_address(&self, ip: IpAddr) -> Vec<Arc<Ban>> {
        let as_banned = Prefix::around(ip, self.engine.rules.ban.v6_prefix);
        let around = self.engine.bans.prefixes_around(ip).chain(self.bans.prefixes_around(ip));
        let prefixes: HashSet<Prefix> =
            around.filter(|prefix| prefix.is_exact() || *prefix == as_banned).collect();
        prefixes.into_iter().flat_map(|prefix| self.bans_of_prefix(prefix)).cloned().collect()
    }

    /// The ban that holds for a subject longest. A protected address is not
    /// banned, whatever the index says.
    pub fn ban_of(&self, subject: &Subject, now: Moment) -> Option<&Arc<Ban>> {
        let (standing, fresh) = (&self.engine.bans, &self.bans);
        let stands = |ban: &&Arc<Ban>| !self.lifted.contains(&ban.id);
        let user = subject.user();
        let ip = subject.ip().filter(|ip| !self.engine.trust.protects(*ip));
        let of_user = [
            user.and_then(|user| standing.of_user(user).find(stands)),
            user.and_then(|user| fresh.of_user(user).next()),
        ];
        let of_ip = ip.into_iter().flat_map(|ip| {
            let standing = standing
                .prefixes_around(ip)
                .map(move |prefix| standing.of_prefix(prefix).find(stands));
            let fresh = fresh.prefixes_around(ip).map(move |prefix| fresh.of_prefix(prefix).next());
            standing.chain(fresh)
        });
        longest(of_user.into_iter().chain(of_ip), now.unix_ms)
    }

    pub(super) fn leases_of(&self, bearer: &Bearer, now: Moment) -> usize {
        let standing =
            self.engine.leases.of(bearer).filter(|lease| !self.leases.contains_key(&lease.id));
        let fresh = self.leases.values().flatten().filter(|lease| lease.bearer == *bearer);
        standing.chain(fresh).filter(|lease| now.boot_ms < lease.ends_at_boot_ms).count()
    }

    /// An upper bound, like [`Overlay::windows_at_most`].
    pub(super) fn leases_at_most(&self) -> usize {
        self.engine.leases.len() + self.leases.len()
    }

    fn lease(&self, id: LeaseId, now: Moment) -> Option<&Lease> {
        let lease = match self.leases.get(&id) {
            Some(fresh) => fresh.as_ref(),
            None => self.engine.leases.get(id),
        };
        lease.filter(|lease| now.boot_ms < lease.ends_at_boot_ms)
    }

    /// Prolongs a lease from now on; `None` if there is none of that number.
    pub fn renew(&mut self, id: LeaseId, now: Moment) -> Option<Lease> {
        let lifetime_ms = self.engine.rules.concurrency?.lease_ms;
        let ends_at_boot_ms = now.boot_ms.saturating_add(lifetime_ms);
        let lease = Lease { ends_at_boot_ms, ..self.lease(id, now)?.clone() };
        self.record(Change::Renew(id, ends_at_boot_ms));
        Some(lease)
    }

    /// Gives a lease back; `false` if there is none of that number.
    pub fn release(&mut self, id: LeaseId, now: Moment) -> bool {
        let known = self.lease(id, now).is_some();
        if known {
            self.record(Change::Release(id));
        }
        known
    }

    /// Bans on a person's word.
    ///
    /// # Errors
    ///
    /// If the address is protected, or there are as many bans as there may be.
    pub fn ban(&mut self, new: NewBan, now: Moment) -> Result<Arc<Ban>, BanRefusal> {
        let trust = &self.engine.trust;
        if let Some(trusted) = new.prefix.and_then(|prefix| trust.forbidding(prefix)) {
            return Err(BanRefusal::Protected(trusted));
        }
        if !self.has_room(new.prefix) {
            return Err(BanRefusal::Full);
        }
        let is_proxy = new.prefix.is_some_and(|prefix| trust.proxy(prefix).is_some());
        let ban = Arc::new(Ban {
            id: self.next_ban,
            user: new.user,
            prefix: new.prefix,
            blocks: new.blocks && !is_proxy,
            reason: new.reason,
            violation: None,
            score: None,
            created_at_unix_ms: now.unix_ms,
            expires_at_unix_ms: new.duration_ms.map(|ms| now.unix_ms.saturating_add(ms)),
            by: Author::Operator(new.by),
            with: None,
            severity: None,
            review: false,
        });
        self.record(Change::Ban(Arc::clone(&ban)));
        Ok(ban)
    }

    /// Lifts every active ban that `target` names; returns them, oldest first.
    pub fn lift(&mut self, target: &LiftTarget, by: &str, now: Moment) -> Vec<Arc<Ban>> {
        let mut bans: Vec<Arc<Ban>> = match target {
            LiftTarget::Ban(id) => {
                let standing = self.engine.bans.get(*id).filter(|_| !self.lifted.contains(id));
                standing.or_else(|| self.bans.get(*id)).cloned().into_iter().collect()
            }
            LiftTarget::User(user) => self.bans_of_user(user).cloned().collect(),
            LiftTarget::Address(ip) => self.bans_of_address(*ip),
            LiftTarget::Prefix(prefix) => self.bans_of_prefix(*prefix).cloned().collect(),
        };
        bans.sort_by_key(|ban| ban.id);
        for ban in &bans {
            let (ban, by) = (Arc::clone(ban), by.to_owned());
            self.record(Change::Lift(Lift { ban, at_unix_ms: now.unix_ms, by }));
        }
        bans
    }

    fn record(&mut self, change: Change) {
        self.lay(&change);
        self.changes.push(change);
    }
}

fn signed(cost: u64) -> i64 {
    i64::try_from(cost).unwrap_or(i64::MAX)
}

/// Which bans to lift.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiftTarget {
    /// The one with this number.
    Ban(BanId),
    /// Those of a user.
    User(UserId),
    /// Those on an address, by itself or as automatic bans have it; not those
    /// on a wider block, which are about others too.
    Address(IpAddr),
    /// Those on exactly this prefix.
    Prefix(Prefix),
}
