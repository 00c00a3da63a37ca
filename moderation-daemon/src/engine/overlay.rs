//! A view of the engine with the changes of the current batch laid over it:
//! each decision sees those before it, and dropping the overlay undoes them
//! all.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use super::{
    Author, Ban, BanId, BanIndex, BanRefusal, Bearer, Change, Charge, Decision, Engine, Key, Lease,
    LeaseId, Moment, Outcome, Penalty, PenaltyId, Prefix, Prepared, Remembered, Request, RequestId,
    Score, ScoreKey, Subject, Usage, UserId, ViolationType,
    ban::longest,
    memory::{Memory, View},
    window::Fresh,
};

/// See the module.
#[derive(Debug)]
pub struct Overlay<'e> {
    pub(super) engine: &'e Engine,
    changes: Vec<Change>,
    /// What the batch counted.
    counted: Fresh,
    /// What it changed besides; most batches change nothing else.
    laid: Option<Box<Laid>>,
    pub(super) next_ban: BanId,
    pub(super) next_lease: LeaseId,
    /// Leases that the bearer of the next one holds on whatever hosts, if they are told.
    pub(super) leases_elsewhere: usize,
}

/// What is laid over the engine, but for what is counted.
#[derive(Debug)]
struct Laid {
    memory: Memory,
    /// Whose answers of before are no longer remembered.
    pardoned: HashSet<Bearer>,
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
}

impl Laid {
    fn over(memory: &Memory) -> Self {
        Self {
            memory: Memory::over(memory),
            pardoned: HashSet::new(),
            scores: HashMap::new(),
            fresh_scores: 0,
            forgotten: HashSet::new(),
            bans: BanIndex::default(),
            lifted: HashSet::new(),
            leases: HashMap::new(),
            answers: HashMap::new(),
            calls: Vec::new(),
        }
    }
}

/// What is laid over the engine by a batch that changes nothing.
static NOTHING: LazyLock<Laid> = LazyLock::new(|| Laid::over(&Memory::alone(0)));

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
            counted: Fresh::default(),
            laid: None,
            next_ban: engine.next_ban,
            next_lease: engine.next_lease,
            leases_elsewhere: 0,
        }
    }

    #[inline]
    fn laid(&self) -> &Laid {
        self.laid.as_deref().unwrap_or_else(|| &NOTHING)
    }

    fn laid_mut(&mut self) -> &mut Laid {
        self.laid.get_or_insert_with(|| Box::new(Laid::over(&self.engine.memory)))
    }

    /// Judges a request, and lays the decision over the engine. What most requests
    /// are, an event that nothing stands in the way of, goes a shorter way to the
    /// same end as [`Overlay::decide`] and [`Overlay::push`].
    pub fn judge(&mut self, request: &Request, now: Moment) -> Outcome {
        let keys = self.engine.keys_for(request);
        self.judge_prepared(Prepared { request, keys: &keys }, now)
    }

    /// Judges a request whose windows have been looked for, as [`Overlay::judge`] does.
    #[inline]
    pub(super) fn judge_prepared(&mut self, prepared: Prepared<'_>, now: Moment) -> Outcome {
        let mut outcome = Outcome::allow();
        if self.passes(prepared, now, &mut outcome.counts) {
            for count in &outcome.counts {
                self.charge(&count.charge(now.boot_ms));
            }
        } else {
            outcome = self.judge_at_length(prepared.request, now);
        }
        outcome
    }

    #[cold]
    fn judge_at_length(&mut self, request: &Request, now: Moment) -> Outcome {
        let decision = self.decide(request, &self.counts(request, now), now);
        self.push(&decision);
        decision.outcome
    }

    /// Lays a decision's changes over the engine, so that the next one sees
    /// them.
    pub fn push(&mut self, decision: &Decision) {
        for change in &decision.changes {
            self.record(change.clone());
        }
    }

    /// Counts; what is counted is told in the end, see [`Overlay::into_changes`].
    #[inline(always)]
    fn charge(&mut self, charge: &Charge) {
        if let Some(charge) = self.counted.charge(&self.engine.windows, charge) {
            self.changes.push(Change::Charge(charge));
        }
    }

    fn lay(&mut self, change: &Change) {
        match change {
            Change::Charge(charge) => self.charge(charge),
            Change::Refund(charge) => {
                let sum = self.counted.refund(&self.engine.windows, charge);
                self.changes.extend(sum.map(Change::Charge));
            }
            Change::ForgetWindow(key) => self.forget_window(*key),
            _ => self.lay_besides(change),
        }
    }

    /// Whatever is not about windows.
    fn lay_besides(&mut self, change: &Change) {
        let engine = self.engine;
        self.laid_mut().memory.note(Some(&engine.memory), change, &engine.rules);
        match change {
            Change::Refunded(id) => {
                if let Some(answer) = self.answer(id) {
                    let answer = Remembered { charged_at_boot_ms: None, ..answer.clone() };
                    self.laid_mut().answers.insert(Arc::clone(id), answer);
                }
            }
            Change::Score(key, score) => {
                let laid = self.laid_mut();
                laid.forgotten.remove(key);
                let known = laid.scores.insert(key.clone(), *score).is_some();
                laid.fresh_scores += usize::from(!known && engine.scores.get(key).is_none());
            }
            Change::ForgetScore(key) => {
                let laid = self.laid_mut();
                let known = laid.scores.remove(key).is_some();
                if engine.scores.get(key).is_some() {
                    laid.forgotten.insert(key.clone());
                } else {
                    laid.fresh_scores -= usize::from(known);
                }
            }
            Change::Pardon(bearer) => self.forgive(bearer),
            // A record, or for the memory; or about windows.
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
            | Change::Seen(..)
            | Change::Charge(_)
            | Change::Refund(_)
            | Change::ForgetWindow(_) => {}
            Change::BanCall(at_boot_ms) => self.laid_mut().calls.push(*at_boot_ms),
            Change::Ban(ban) => {
                self.next_ban = ban.id + 1;
                self.laid_mut().bans.insert(Arc::clone(ban));
            }
            Change::Lift(lift) => {
                let laid = self.laid_mut();
                if laid.bans.remove(lift.ban.id).is_none() {
                    laid.lifted.insert(lift.ban.id);
                }
            }
            Change::Lease(lease, _) => {
                self.next_lease = self.next_lease.max(lease.id + 1);
                self.laid_mut().leases.insert(lease.id, Some(lease.clone()));
            }
            Change::Renew(id, ends_at_boot_ms) => {
                let leases = &mut self.laid_mut().leases;
                let known = leases.get(id).map_or_else(|| engine.leases.get(*id), Option::as_ref);
                let renewed =
                    known.map(|lease| Lease { ends_at_boot_ms: *ends_at_boot_ms, ..lease.clone() });
                leases.insert(*id, renewed);
            }
            Change::Release(id) => drop(self.laid_mut().leases.insert(*id, None)),
            Change::Answer(id, answer, _) => {
                self.laid_mut().answers.insert(Arc::clone(id), answer.clone());
            }
        }
    }

    fn forgive(&mut self, bearer: &Bearer) {
        for kind in ViolationType::all() {
            let key = ScoreKey { bearer: bearer.clone(), kind };
            if self.score(&key).is_some() {
                self.lay(&Change::ForgetScore(key));
            }
        }
        let engine = self.engine;
        engine.keys_of(bearer).for_each(|key| self.forget_window(key));
        let laid = self.laid_mut();
        laid.answers.retain(|_, answer| !answer.outcome.is_held_against(bearer));
        laid.pardoned.insert(bearer.clone());
    }

    fn forget_window(&mut self, key: Key) {
        let sum = self.counted.forget(&self.engine.windows, key);
        self.changes.extend(sum.map(Change::Charge));
    }

    /// What is remembered about people.
    pub(super) fn memory(&self) -> View<'_> {
        match &self.laid {
            Some(laid) => laid.memory.view(Some(&self.engine.memory)),
            None => self.engine.memory.view(None),
        }
    }

    pub(super) fn next_penalty(&self) -> PenaltyId {
        self.memory().next_penalty()
    }

    /// Everything that was decided, for the store and for [`Engine::apply`]. What was
    /// counted for one key is one change.
    pub fn into_changes(self) -> Vec<Change> {
        let sums = self.counted.sums();
        let mut all = Vec::with_capacity(self.changes.len() + sums.len());
        all.extend(self.changes);
        all.extend(sums.iter().map(|sum| Change::Charge(*sum)));
        all
    }

    /// What is used up of a limit.
    pub(super) fn usage(&self, key: Key, now: Moment) -> Usage {
        self.look_up(key, now).1
    }

    /// The same, and the key, from now on found sooner if its window has a place in
    /// the engine.
    #[inline]
    pub(super) fn look_up(&self, key: Key, now: Moment) -> (Key, Usage) {
        self.counted.look_up(&self.engine.windows, key, now.boot_ms)
    }

    /// Whether the batch has counted for that key.
    pub(super) fn is_counted(&self, key: Key) -> bool {
        self.counted.knows(key)
    }

    /// An upper bound: a key that is in both counts twice.
    pub(super) fn windows_at_most(&self) -> usize {
        self.engine.windows.len() + self.counted.len()
    }

    /// Whether what was charged counts still, so that it can be taken back.
    pub(super) fn counts_still(&self, charge: &Charge, now: Moment) -> bool {
        self.counted.counts(&self.engine.windows, charge, now.boot_ms)
    }

    pub(super) fn score(&self, key: &ScoreKey) -> Option<Score> {
        if self.laid().forgotten.contains(key) {
            return None;
        }
        self.laid().scores.get(key).copied().or_else(|| self.engine.scores.get(key))
    }

    /// The score to forget for a new one, if there is no room for both.
    pub(super) fn score_in_the_way(&self) -> Option<ScoreKey> {
        let len = self.engine.scores.len() + self.laid().fresh_scores - self.laid().forgotten.len();
        if len < self.engine.rules.bounds.scores {
            return None;
        }
        let untouched = |key: &&ScoreKey| {
            !self.laid().scores.contains_key(*key) && !self.laid().forgotten.contains(*key)
        };
        let old = self.engine.scores.oldest().map(|(_, key)| key).find(untouched);
        let young = || {
            let by_age =
                self.laid().scores.iter().map(|(key, score)| (score.updated_at_unix_ms, key));
            by_age.min().map(|(_, key)| key)
        };
        old.or_else(young).cloned()
    }

    pub(super) fn answer(&self, id: &RequestId) -> Option<&Remembered> {
        let is_pardoned = |answer: &&Remembered| {
            self.laid().pardoned.iter().any(|bearer| answer.outcome.is_held_against(bearer))
        };
        let old = || self.engine.answers.get(id).filter(|answer| !is_pardoned(answer));
        self.laid().answers.get(id).or_else(old)
    }

    pub(super) fn ban_count(&self) -> usize {
        self.engine.bans.len() + self.laid().bans.len() - self.laid().lifted.len()
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
        let (standing, fresh) =
            (self.engine.bans.prefix_counts(), self.laid().bans.prefix_counts());
        if prefix.is_exact() {
            standing.0 + fresh.0 + taken.exact < bounds.bans
        } else {
            standing.1 + fresh.1 + taken.networks < bounds.networks
        }
    }

    /// Whether one more automatic ban is one too many for this minute.
    pub(super) fn is_runaway(&self, now: Moment) -> bool {
        self.engine.circuit.is_one_too_many(&self.laid().calls, now.boot_ms)
    }

    /// How many different /64s are banned in a wider block, `with` included.
    pub(super) fn banned_64s(&self, block: Prefix, with: Prefix) -> usize {
        let stands = |prefix: &Prefix| {
            self.engine.bans.of_prefix(*prefix).any(|ban| !self.laid().lifted.contains(&ban.id))
        };
        let laid = self.laid();
        let lifted: HashSet<Prefix> = laid
            .lifted
            .iter()
            .filter_map(|id| self.engine.bans.get(*id)?.prefix)
            .filter(|prefix| prefix.block_of_64(64).is_some() && block.covers(*prefix))
            .filter(|prefix| !stands(prefix))
            .collect();
        let fresh = laid
            .bans
            .prefixes()
            .filter(|prefix| prefix.block_of_64(64).is_some() && block.covers(*prefix))
            .filter(|prefix| *prefix != with && !stands(prefix));
        let itself = usize::from(!stands(&with));
        self.engine.bans.banned_64s(block) - lifted.len() + fresh.count() + itself
    }

    pub(super) fn ban_by_id(&self, id: BanId) -> Option<Arc<Ban>> {
        let standing = self.engine.bans.get(id).filter(|_| !self.laid().lifted.contains(&id));
        standing.or_else(|| self.laid().bans.get(id)).cloned()
    }

    /// Addresses within a prefix that have a score. Looks at every score: for
    /// operators only.
    pub(super) fn scored_within(&self, prefix: Prefix) -> Vec<Bearer> {
        let standing = self.engine.scores.keys().chain(self.laid().scores.keys());
        let within: HashSet<&Bearer> = standing
            .map(|key| &key.bearer)
            .filter(|bearer| match bearer {
                Bearer::Address(address) => prefix.contains(address.prefix().addr()),
                Bearer::User(_) | Bearer::Account(_) => false,
            })
            .collect();
        within.into_iter().cloned().collect()
    }

    /// Active bans of a user: those of the engine, then those of the batch.
    pub(super) fn bans_of_user<'a>(
        &'a self,
        user: &UserId,
    ) -> impl Iterator<Item = &'a Arc<Ban>> + use<'a, 'e> {
        let standing =
            self.engine.bans.of_user(user).filter(|ban| !self.laid().lifted.contains(&ban.id));
        standing.chain(self.laid().bans.of_user(user))
    }

    /// Active bans of a prefix: those of the engine, then those of the batch.
    pub(super) fn bans_of_prefix(&self, prefix: Prefix) -> impl Iterator<Item = &Arc<Ban>> {
        let standing = self.engine.bans.of_prefix(prefix);
        standing
            .filter(|ban| !self.laid().lifted.contains(&ban.id))
            .chain(self.laid().bans.of_prefix(prefix))
    }

    pub(super) fn bans_of_address(&self, ip: IpAddr) -> Vec<Arc<Ban>> {
        let as_banned = Prefix::around(ip, self.engine.rules.ban.v6_prefix);
        let around =
            self.engine.bans.prefixes_around(ip).chain(self.laid().bans.prefixes_around(ip));
        let prefixes: HashSet<Prefix> =
            around.filter(|prefix| prefix.is_exact() || *prefix == as_banned).collect();
        prefixes.into_iter().flat_map(|prefix| self.bans_of_prefix(prefix)).cloned().collect()
    }

    /// The ban that holds for a subject longest. A protected address is not
    /// banned, whatever the index says; nor is a protected user for what rules did
    /// to an address because of others.
    pub fn ban_of(&self, subject: &Subject, now: Moment) -> Option<&Arc<Ban>> {
        self.ban_under(subject, || None, now)
    }

    /// The same for a request, which may say what role its user has.
    #[inline]
    pub(super) fn ban_on(&self, request: &Request, now: Moment) -> Option<&Arc<Ban>> {
        self.ban_under(&request.subject, || self.role(request), now)
    }

    #[inline(always)]
    fn ban_under(
        &self,
        subject: &Subject,
        role: impl FnOnce() -> Option<Arc<str>>,
        now: Moment,
    ) -> Option<&Arc<Ban>> {
        let is_nobody_banned = self.laid.is_none() && self.engine.bans.is_empty();
        if is_nobody_banned { None } else { self.find_ban(subject, role, now) }
    }

    fn find_ban(
        &self,
        subject: &Subject,
        role: impl FnOnce() -> Option<Arc<str>>,
        now: Moment,
    ) -> Option<&Arc<Ban>> {
        let ban = self.longest_ban(subject, now, |_| true)?;
        let is_others = |ban: &Ban| ban.is_for_others(subject);
        let is_spared = is_others(ban) && self.is_protected(subject, role().as_ref());
        if is_spared { self.longest_ban(subject, now, |ban| !is_others(ban)) } else { Some(ban) }
    }

    fn longest_ban(
        &self,
        subject: &Subject,
        now: Moment,
        counts: impl Fn(&Ban) -> bool + Copy,
    ) -> Option<&Arc<Ban>> {
        let (standing, fresh) = (&self.engine.bans, &self.laid().bans);
        let stands = |ban: &&Arc<Ban>| !self.laid().lifted.contains(&ban.id) && counts(ban);
        let user = subject.user();
        let ip = subject.ip().filter(|ip| !self.engine.trust.protects(*ip));
        let of_user = [
            user.and_then(|user| standing.of_user(user).find(stands)),
            user.and_then(|user| fresh.of_user(user).find(stands)),
        ];
        let of_ip = ip.into_iter().flat_map(|ip| {
            let standing = standing
                .prefixes_around(ip)
                .map(move |prefix| standing.of_prefix(prefix).find(stands));
            let fresh =
                fresh.prefixes_around(ip).map(move |prefix| fresh.of_prefix(prefix).find(stands));
            standing.chain(fresh)
        });
        longest(of_user.into_iter().chain(of_ip), now.unix_ms)
    }

    /// Those that a bearer holds, and those that have ended but are in the store still.
    pub(super) fn leases_of(&self, bearer: &Bearer, now: Moment) -> (usize, Vec<LeaseId>) {
        let standing = self
            .engine
            .leases
            .of(bearer)
            .filter(|lease| !self.laid().leases.contains_key(&lease.id));
        let fresh = self.laid().leases.values().flatten().filter(|lease| lease.bearer == *bearer);
        let (held, ended): (Vec<_>, Vec<_>) =
            standing.chain(fresh).partition(|lease| now.boot_ms < lease.ends_at_boot_ms);
        (held.len(), ended.iter().map(|lease| lease.id).collect())
    }

    /// An upper bound, like [`Overlay::windows_at_most`].
    pub(super) fn leases_at_most(&self) -> usize {
        self.engine.leases.len() + self.laid().leases.len()
    }

    fn lease(&self, id: LeaseId, now: Moment) -> Option<&Lease> {
        let lease = match self.laid().leases.get(&id) {
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
        let NewBan { user, prefix, blocks, reason, duration_ms, by } = new;
        let ban = Ban {
            id: 0,
            user,
            prefix,
            blocks,
            reason,
            violation: None,
            score: None,
            created_at_unix_ms: now.unix_ms,
            expires_at_unix_ms: duration_ms.map(|ms| now.unix_ms.saturating_add(ms)),
            by: Author::Operator(by),
            with: None,
            severity: None,
            review: false,
        };
        self.take_ban(ban)
    }

    pub(super) fn record(&mut self, change: Change) {
        self.lay(&change);
        if !matches!(change, Change::Charge(_)) {
            self.changes.push(change);
        }
    }
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
    /// The one that is this penalty; if it is none, only the penalty ends.
    Penalty(PenaltyId),
    /// The same of a penalty that the engine may have forgotten and the store has not.
    Record(Arc<Penalty>),
}
