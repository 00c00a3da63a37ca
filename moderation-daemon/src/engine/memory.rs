//! What the engine remembers about people besides windows, scores and bans:
//! runs of repeats, offences, traits, factors, who shares an address, known
//! log-ins, penalties. An overlay has one of its own, laid over the engine's.
//! What follows from any of it is decided elsewhere.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{
    Account, Address, Author, Bearer, Bounds, Change, EndPenalty, Factor, Moment, Offence, Penalty,
    PenaltyId, PenaltyKind, Prefix, Rules, ScoreKey, Traits, UserId, Violation, ViolationType,
    neighbour::{self, Crowd},
    repeat::Run,
};

/// How much would be lost with an entry: those that are worth less are forgotten
/// first, and of these the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// What can be found out again.
    Plain,
    /// What somebody has said, and may not say again.
    Said,
    /// What keeps somebody from being punished who must not be: never forgotten for
    /// want of room.
    Kept,
}

impl Worth {
    /// There are as many with a protected role as the app says, which no stranger
    /// becomes.
    fn of_traits(traits: &Traits, rules: &Rules) -> Self {
        match (&traits.role, &traits.tier) {
            (Some(role), _) if rules.ban.protected.roles.contains(role) => Self::Kept,
            (None, None) => Self::Plain,
            _ => Self::Said,
        }
    }
}

/// Entries by key, each as of a moment in milliseconds since 1970.
#[derive(Debug)]
pub(super) struct Layer<K, V> {
    /// In an overlay `None` is what the engine has and should no longer have.
    by_key: HashMap<K, (Worth, u64, Option<V>), RandomState>,
    by_age: BTreeSet<(Worth, u64, K)>,
    is_laid_over: bool,
}

impl<K: Clone + Eq + Hash + Ord, V> Layer<K, V> {
    fn new(is_laid_over: bool) -> Self {
        Self { by_key: HashMap::default(), by_age: BTreeSet::new(), is_laid_over }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Every entry, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.by_key.iter().filter_map(|(key, (_, _, value))| Some((key, value.as_ref()?)))
    }

    fn own(&self, key: &K) -> Option<&V> {
        self.by_key.get(key).and_then(|(_, _, value)| value.as_ref())
    }

    fn put(&mut self, key: K, at_unix_ms: u64, value: Option<V>) {
        self.put_worth(key, Worth::Plain, at_unix_ms, value);
    }

    fn put_worth(&mut self, key: K, worth: Worth, at_unix_ms: u64, value: Option<V>) {
        if let Some((old, at, _)) = self.by_key.get(&key) {
            self.by_age.remove(&(*old, *at, key.clone()));
        }
        if value.is_none() && !self.is_laid_over {
            self.by_key.remove(&key);
            return;
        }
        self.by_age.insert((worth, at_unix_ms, key.clone()));
        self.by_key.insert(key, (worth, at_unix_ms, value));
    }

    fn forget_oldest(&mut self) {
        if let Some((_, _, key)) = self.by_age.pop_first() {
            self.by_key.remove(&key);
        }
    }

    /// For layers in which all is worth the same.
    fn forget_before(&mut self, unix_ms: u64) {
        while self.by_age.first().is_some_and(|(_, at, _)| *at < unix_ms) {
            self.forget_oldest();
        }
    }

    /// Forgets the oldest beyond so many, as far as they may be forgotten, and
    /// says how many that were.
    fn trim(&mut self, most: usize) -> u64 {
        let mut forgotten = 0;
        let may_go = |(worth, _, _): &(Worth, u64, K)| *worth != Worth::Kept;
        while self.len() > most && self.by_age.first().is_some_and(may_go) {
            self.forget_oldest();
            forgotten += 1;
        }
        forgotten
    }
}

/// Whose a penalty is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Holder {
    User(UserId),
    Prefix(Prefix),
}

impl Holder {
    pub(super) fn of(penalty: &Penalty) -> Option<Self> {
        let user = penalty.user.clone().map(Self::User);
        user.or_else(|| penalty.prefix.map(Self::Prefix))
    }

    /// An account has no penalties: it may be anybody's.
    pub(super) fn from_bearer(bearer: &Bearer) -> Option<Self> {
        match bearer {
            Bearer::User(user) => Some(Self::User(user.clone())),
            Bearer::Address(address) => {
                let net = address.prefix();
                Some(Self::Prefix(Prefix::around(net.addr(), net.prefix_len())))
            }
            Bearer::Account(_) => None,
        }
    }
}

/// Of one holder so many penalties are remembered, the last ones, and all that hold:
/// of these there are no more than bans and types of violations.
const MOST_PENALTIES: usize = 32;
/// How long a log-in makes an address one that its account uses.
const KNOWN_FOR_MS: u64 = 30 * 24 * 3_600_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) runs: Layer<ScoreKey, Run>,
    pub(super) offences: Layer<Bearer, Offence>,
    pub(super) traits: Layer<UserId, Traits>,
    pub(super) factors: Layer<UserId, Factor>,
    /// When a user last broke a rule.
    pub(super) violated: Layer<UserId, u64>,
    pub(super) crowds: Layer<Address, Crowd>,
    /// When an account was last logged into from an address.
    pub(super) known: Layer<(Account, Address), u64>,
    pub(super) penalties: Layer<Holder, Vec<Arc<Penalty>>>,
    holders: Layer<PenaltyId, Holder>,
    /// When the last reduction that anybody ever got is over, in milliseconds since 1970.
    reduced_until_unix_ms: u64,
    pub(super) next_penalty: PenaltyId,
    pub(super) forgotten: Forgotten,
}

/// What there was no room for, by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Runs of repeats, offences, traits, factors and last violations that were
    /// forgotten before their time.
    pub people: u64,
    /// Accounts and addresses that belong together, the same.
    pub pairs: u64,
    /// Holders of penalties, the same: those whose penalties are over first.
    pub penalties: u64,
    /// Times that somebody was seen at an address of which nothing more could be
    /// remembered.
    pub addresses: u64,
}

/// A memory, and what is laid over it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    fresh: Option<&'a Memory>,
    base: &'a Memory,
}

impl Memory {
    fn new(is_laid_over: bool, next_penalty: PenaltyId) -> Self {
        Self {
            runs: Layer::new(is_laid_over),
            offences: Layer::new(is_laid_over),
            traits: Layer::new(is_laid_over),
            factors: Layer::new(is_laid_over),
            violated: Layer::new(is_laid_over),
            crowds: Layer::new(is_laid_over),
            known: Layer::new(is_laid_over),
            penalties: Layer::new(is_laid_over),
            holders: Layer::new(is_laid_over),
            reduced_until_unix_ms: 0,
            next_penalty,
            forgotten: Forgotten::default(),
        }
    }

    /// An engine's.
    pub(super) fn alone(last_penalty: PenaltyId) -> Self {
        Self::new(false, last_penalty + 1)
    }

    /// One in which only the differences to the engine's are.
    pub(super) fn over(base: &Self) -> Self {
        Self::new(true, base.next_penalty)
    }

    /// It alone, or over another one.
    pub(super) fn view<'a>(&'a self, base: Option<&'a Self>) -> View<'a> {
        match base {
            Some(base) => View { fresh: Some(self), base },
            None => View { fresh: None, base: self },
        }
    }

    /// Makes a change; `base` is what this one is laid over.
    pub(super) fn note(&mut self, base: Option<&Self>, change: &Change, rules: &Rules) {
        match change {
            Change::Run(key, run) => self.runs.put(key.clone(), run.from_unix_ms, Some(*run)),
            Change::Offence(bearer, offence) => {
                let kept = (!offence.is_nothing()).then_some(*offence);
                self.offences.put(bearer.clone(), offence.at_unix_ms, kept);
            }
            Change::Traits(user, traits, at) => {
                let worth = Worth::of_traits(traits, rules);
                self.traits.put_worth(user.clone(), worth, *at, Some(traits.clone()));
            }
            Change::Factor(user, factor) => {
                self.factors.put(user.clone(), factor.at_unix_ms, Some(*factor));
            }
            Change::Known(account, address, at) => {
                self.known.put((*account, *address), *at, Some(*at));
            }
            Change::Seen(address, user, at) => {
                self.change_crowd(base, *address, *at, rules, |crowd| crowd.see(*user, *at));
            }
            Change::Violation(violation) => self.note_violation(base, violation, rules),
            Change::Penalty(penalty) => self.note_penalty(base, penalty),
            Change::EndPenalty(end) => self.end_penalty(base, end),
            Change::Pardon(bearer) => self.pardon(base, bearer),
            _ => {}
        }
    }

    /// Remembers from now on what an address saw; not of more addresses than
    /// there may be.
    pub(super) fn change_crowd(
        &mut self,
        base: Option<&Self>,
        address: Address,
        at_unix_ms: u64,
        rules: &Rules,
        change: impl FnOnce(&mut Crowd),
    ) {
        let view = self.view(base);
        let known = view.crowd(&address).cloned();
        if known.is_none() && view.crowds() >= rules.bounds.addresses {
            self.forgotten.addresses += 1;
            return;
        }
        let mut crowd = known.unwrap_or_default();
        change(&mut crowd);
        self.crowds.put(address, at_unix_ms, Some(crowd));
    }

    fn note_violation(&mut self, base: Option<&Self>, violation: &Violation, rules: &Rules) {
        let at = violation.at_unix_ms;
        if rules.adaptive.is_some()
            && let Bearer::User(user) = &violation.bearer
        {
            self.violated.put(user.clone(), at, Some(at));
        }
        let (Some(_), Some(ip)) = (rules.ban.shared, violation.ip) else { return };
        let address = Address::new(ip, rules.counting.v6_bits);
        let user = violation.user.as_ref().map(neighbour::digest);
        // Strangers alone do not make an address one that people share.
        if user.is_some() || self.view(base).crowd(&address).is_some() {
            self.change_crowd(base, address, at, rules, |crowd| crowd.blame(user, at));
        }
    }

    /// Takes over from a score of an earlier life when a rule was last broken.
    pub(super) fn recall_violation(&mut self, key: &ScoreKey, at_unix_ms: u64, rules: &Rules) {
        if rules.adaptive.is_some()
            && let Bearer::User(user) = &key.bearer
            && self.violated.own(user).is_none_or(|last| *last < at_unix_ms)
        {
            self.violated.put(user.clone(), at_unix_ms, Some(at_unix_ms));
        }
    }

    fn note_penalty(&mut self, base: Option<&Self>, penalty: &Arc<Penalty>) {
        self.next_penalty = self.next_penalty.max(penalty.id + 1);
        if matches!(penalty.kind, PenaltyKind::Reduce { .. }) {
            let until = penalty.ends_at_unix_ms.unwrap_or(u64::MAX);
            self.reduced_until_unix_ms = self.reduced_until_unix_ms.max(until);
        }
        let Some(holder) = Holder::of(penalty) else { return };
        let mut all = self.view(base).penalties(&holder).to_vec();
        all.push(Arc::clone(penalty));
        let mut surplus = all.len().saturating_sub(MOST_PENALTIES);
        let at = penalty.starts_at_unix_ms;
        all.retain(|one| {
            let goes = surplus > 0 && one.id != penalty.id && !one.holds_at(at);
            if goes {
                surplus -= 1;
                self.holders.put(one.id, at, None);
            }
            !goes
        });
        self.holders.put(penalty.id, at, Some(holder.clone()));
        self.put_penalties(holder, all);
    }

    /// One that a rule ended counts on ladders still; one that a person took back
    /// never was.
    fn end_penalty(&mut self, base: Option<&Self>, end: &EndPenalty) {
        let Some(holder) = self.view(base).holder(end.penalty).cloned() else { return };
        let mut all = self.view(base).penalties(&holder).to_vec();
        match end.by {
            Author::Operator(_) => {
                all.retain(|penalty| penalty.id != end.penalty);
                self.holders.put(end.penalty, end.at_unix_ms, None);
            }
            Author::Rule => {
                for penalty in all.iter_mut().filter(|penalty| penalty.id == end.penalty) {
                    let ended = Some((end.at_unix_ms, end.by.name().to_owned()));
                    *penalty = Arc::new(Penalty { ended, ..penalty.as_ref().clone() });
                }
            }
        }
        self.put_penalties(holder, all);
    }

    /// As of when the last of them is over, so that if there are too many those go
    /// first that no longer hold.
    fn put_penalties(&mut self, holder: Holder, all: Vec<Arc<Penalty>>) {
        let until = all.iter().map(|penalty| match &penalty.ended {
            Some((at, _)) => *at,
            None => penalty.ends_at_unix_ms.unwrap_or(u64::MAX),
        });
        let until = until.max().unwrap_or(0);
        self.penalties.put(holder, until, (!all.is_empty()).then_some(all));
    }

    fn pardon(&mut self, base: Option<&Self>, bearer: &Bearer) {
        for kind in ViolationType::all() {
            let key = ScoreKey { bearer: bearer.clone(), kind };
            if self.view(base).run(&key).is_some() {
                self.runs.put(key, 0, None);
            }
        }
        match bearer {
            Bearer::User(user) => {
                if self.view(base).violated(user).is_some() {
                    self.violated.put(user.clone(), 0, None);
                }
                let digest = neighbour::digest(user);
                for (address, crowd) in self.view(base).blaming(digest) {
                    self.crowds.put(address, crowd.last_seen_unix_ms(), Some(crowd));
                }
            }
            Bearer::Address(address) => {
                if self.view(base).crowd(address).is_some() {
                    self.crowds.put(*address, 0, None);
                }
            }
            Bearer::Account(_) => {}
        }
    }

    /// Forgets the oldest of what is too much, and counts how much that was.
    pub(super) fn trim(&mut self, bounds: &Bounds) {
        let people = self.runs.trim(bounds.people)
            + self.offences.trim(bounds.people)
            + self.traits.trim(bounds.people)
            + self.factors.trim(bounds.people)
            + self.violated.trim(bounds.people);
        self.forgotten.people += people;
        self.forgotten.pairs += self.known.trim(bounds.pairs);
        self.forgotten.penalties += self.trim_penalties(bounds.people);
    }

    fn trim_penalties(&mut self, most: usize) -> u64 {
        let forgotten = self.penalties.trim(most);
        if forgotten > 0 {
            let penalties = &self.penalties;
            let lost = self.holders.iter().filter(|(_, of)| penalties.own(of).is_none());
            let lost: Vec<_> = lost.map(|(id, _)| *id).collect();
            lost.into_iter().for_each(|id| self.holders.put(id, 0, None));
        }
        forgotten
    }

    /// Forgets what no longer says anything.
    pub(super) fn expire(&mut self, rules: &Rules, unix_ms: u64) {
        if let Some(repeats) = rules.scoring.repeats {
            self.runs.forget_before(unix_ms.saturating_sub(2 * repeats.window_ms));
        }
        self.crowds.forget_before(unix_ms.saturating_sub(neighbour::SEEN_FOR_MS));
        self.known.forget_before(unix_ms.saturating_sub(KNOWN_FOR_MS));
        if let Some(adaptive) = &rules.adaptive {
            self.violated.forget_before(unix_ms.saturating_sub(adaptive.remembers_ms()));
        }
    }
}

impl<'a> View<'a> {
    fn look<K: Clone + Eq + Hash + Ord + 'a, V: 'a>(
        self,
        of: impl Fn(&'a Memory) -> &'a Layer<K, V>,
        key: &K,
    ) -> Option<&'a V> {
        match self.fresh.and_then(|fresh| of(fresh).by_key.get(key)) {
            Some((_, _, value)) => value.as_ref(),
            None => of(self.base).own(key),
        }
    }

    pub(super) fn run(self, key: &ScoreKey) -> Option<Run> {
        self.look(|memory| &memory.runs, key).copied()
    }

    pub(super) fn offence(self, bearer: &Bearer) -> Option<Offence> {
        self.look(|memory| &memory.offences, bearer).copied()
    }

    pub(super) fn traits(self, user: &UserId) -> Option<&'a Traits> {
        self.look(|memory| &memory.traits, user)
    }

    pub(super) fn factor(self, user: &UserId) -> Option<Factor> {
        self.look(|memory| &memory.factors, user).copied()
    }

    pub(super) fn violated(self, user: &UserId) -> Option<u64> {
        self.look(|memory| &memory.violated, user).copied()
    }

    pub(super) fn crowd(self, address: &Address) -> Option<&'a Crowd> {
        self.look(|memory| &memory.crowds, address)
    }

    /// An upper bound: an address that is in both counts twice.
    pub(super) fn crowds(self) -> usize {
        self.base.crowds.len() + self.fresh.map_or(0, |fresh| fresh.crowds.len())
    }

    /// Whether an account is used from an address.
    pub(super) fn is_known(self, account: Account, address: Address, unix_ms: u64) -> bool {
        let at = self.look(|memory| &memory.known, &(account, address));
        at.is_some_and(|at| unix_ms < at.saturating_add(KNOWN_FOR_MS))
    }

    /// Those that no person took back, the oldest first.
    pub(super) fn penalties(self, holder: &Holder) -> &'a [Arc<Penalty>] {
        self.look(|memory| &memory.penalties, holder).map_or(&[], Vec::as_slice)
    }

    /// Whether somebody's limits may be reduced. One that was taken back counts too.
    #[inline]
    pub(super) fn may_reduce(self, now: Moment) -> bool {
        let until = |memory: &Memory| memory.reduced_until_unix_ms;
        now.unix_ms < until(self.base).max(self.fresh.map_or(0, until))
    }

    pub(super) fn next_penalty(self) -> PenaltyId {
        self.fresh.unwrap_or(self.base).next_penalty
    }

    fn holder(self, id: PenaltyId) -> Option<&'a Holder> {
        self.look(|memory| &memory.holders, &id)
    }

    pub(super) fn penalty(self, id: PenaltyId) -> Option<&'a Arc<Penalty>> {
        let all = self.penalties(self.holder(id)?);
        all.iter().find(|penalty| penalty.id == id)
    }

    /// The addresses at which a user is blamed. Like [`View::blaming`].
    pub(super) fn blamed_at(self, user: &UserId) -> Vec<Address> {
        let blaming = self.blaming(neighbour::digest(user)).into_iter();
        blaming.map(|(address, _)| address).collect()
    }

    /// The addresses at which a user is blamed, as they are without that. Looks
    /// at every address: for operators only.
    fn blaming(self, user: u64) -> Vec<(Address, Crowd)> {
        let fresh = self.fresh.into_iter().flat_map(|fresh| fresh.crowds.iter());
        let standing = self.base.crowds.iter().filter(|(address, _)| {
            self.fresh.is_none_or(|fresh| !fresh.crowds.by_key.contains_key(*address))
        });
        let all = fresh.chain(standing);
        all.filter_map(|(address, crowd)| Some((*address, crowd.without(user)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::PenaltyKind;

    #[test]
    fn numbers_of_penalties_are_forgotten_with_their_holders() {
        let rules = Rules::hardened();
        let bounds = Bounds { people: 2, ..Bounds::default() };
        let mut memory = Memory::alone(0);
        for id in 1..=5 {
            let penalty = Penalty {
                id,
                kind: PenaltyKind::RemoveContent,
                user: format!("user {}", id / 2).parse().ok(),
                prefix: None,
                violation: None,
                severity: None,
                reason: "test".to_owned(),
                starts_at_unix_ms: id,
                ends_at_unix_ms: Some(id),
                by: Author::Rule,
                ended: None,
            };
            memory.note(None, &Change::Penalty(Arc::new(penalty)), &rules);
            memory.trim(&bounds);
            let kept: usize = memory.penalties.iter().map(|(_, of_one)| of_one.len()).sum();
            assert_eq!(memory.holders.len(), kept, "after {id}");
        }
        assert_eq!((memory.penalties.len(), memory.forgotten.penalties), (2, 1));
    }
}
