//! Lifting, as one act: the bans that are named, those that fell with them, the
//! wide ones that came of them and the short ones of addresses that are shared; the penalties that they were; and of
//! everybody concerned the other penalties, so that ladders begin anew, the
//! scores, the windows, the repeats, the remembered answers and one offence
//! each. What they do next is spared once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Address, Author, Ban, Bearer, Change, EndPenalties, EndPenalty, Lift, LiftTarget, Limiter,
    Mapped, Moment, Offence, Outcome, Overlay, Penalty, Prefix, ScoreKey, ViolationType,
    memory::Holder,
};

/// What was lifted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lifted {
    /// The bans, oldest first.
    pub bans: Vec<Arc<Ban>>,
    /// The penalties, oldest first, as they were.
    pub penalties: Vec<Arc<Penalty>>,
    /// Whose scores and windows were forgotten.
    pub bearers: Vec<Bearer>,
    /// Those of their scores of which something was left, and how much.
    pub scores: Vec<(ScoreKey, f64)>,
    /// Those of their limits that something was used up of.
    pub limits: Vec<(Bearer, Limiter)>,
}

impl Overlay<'_> {
    /// Lifts every active ban and ends every penalty that `target` names, with all
    /// that came with them, and tells what it did. Of a user or an address that it
    /// names all is forgiven, also if there is no ban.
    pub fn lift(&mut self, target: &LiftTarget, by: &str, now: Moment) -> Lifted {
        let penalties = self.penalties_named(target, now);
        let bans = self.with_relatives(self.bans_named(target, &penalties), now);
        let mut concerned = self.concerned(bans.values());
        let named = self.bearers_named(target);
        for bearer in named.iter().filter(|bearer| self.is_anything_held(bearer, now)) {
            concerned.entry(bearer.clone()).or_insert(0);
        }
        let scores = concerned.keys().flat_map(|of| self.scores_held(of, now)).collect();
        let limits = concerned.keys().flat_map(|of| self.limits_held(of, now)).collect();
        let holders = holders(&bans, concerned.keys().chain(&named));
        let ended = self.penalties_to_end(penalties, &bans, &holders);
        let operator = Author::Operator(by.into());
        for ban in bans.values() {
            let (ban, by) = (Arc::clone(ban), by.to_owned());
            self.record(Change::Lift(Lift { ban, at_unix_ms: now.unix_ms, by }));
        }
        for penalty in &ended {
            let (penalty, at_unix_ms, by) = (penalty.id, now.unix_ms, operator.clone());
            self.record(Change::EndPenalty(EndPenalty { penalty, at_unix_ms, by }));
        }
        for holder in holders {
            let (user, prefix) = match holder {
                Holder::User(user) => (Some(user), None),
                Holder::Prefix(prefix) => (None, Some(prefix)),
            };
            let (at_unix_ms, by) = (now.unix_ms, operator.clone());
            self.record(Change::EndPenalties(EndPenalties { user, prefix, at_unix_ms, by }));
        }
        let bearers = concerned.keys().cloned().collect();
        for (bearer, count) in concerned {
            self.forgive_all(bearer, count, now);
        }
        Lifted { bans: bans.into_values().collect(), penalties: ended, bearers, scores, limits }
    }

    /// Whom a target names; a wider block is nobody in particular.
    fn bearers_named(&self, target: &LiftTarget) -> Vec<Bearer> {
        match target {
            LiftTarget::User(user) => vec![Bearer::User(user.clone())],
            LiftTarget::Address(ip) => {
                self.addresses_of(Prefix::around(*ip, self.engine.rules.counting.v6_bits))
            }
            LiftTarget::Prefix(prefix) => self.addresses_of(*prefix),
            LiftTarget::Ban(_) | LiftTarget::Penalty(_) | LiftTarget::Record(_) => Vec::new(),
        }
    }

    /// Whether there is anything to forgive. That bans which are over make the next
    /// one longer is not: they were earned.
    fn is_anything_held(&self, bearer: &Bearer, now: Moment) -> bool {
        let memory = self.memory();
        let has_broken = |user| memory.violated(user).is_some();
        let has_penalties = |holder| !memory.penalties(&holder).is_empty();
        let repeats = |kind| memory.run(&ScoreKey { bearer: bearer.clone(), kind }).is_some();
        self.scores_held(bearer, now).next().is_some()
            || self.limits_held(bearer, now).next().is_some()
            || Holder::from_bearer(bearer).is_some_and(has_penalties)
            || matches!(bearer, Bearer::User(user) if has_broken(user))
            || ViolationType::all().any(repeats)
    }

    fn scores_held(&self, bearer: &Bearer, now: Moment) -> impl Iterator<Item = (ScoreKey, f64)> {
        let decay = self.engine.rules.scoring.decay;
        ViolationType::all().filter_map(move |kind| {
            let key = ScoreKey { bearer: bearer.clone(), kind };
            let points = self.score(&key)?.now(decay, now.unix_ms).shown();
            (points != 0.0).then_some((key, points))
        })
    }

    fn limits_held(&self, bearer: &Bearer, now: Moment) -> impl Iterator<Item = (Bearer, Limiter)> {
        let limiters = self.engine.rules.limiters.iter().map(|rule| rule.limiter);
        let used = limiters
            .filter(move |limiter| self.usage(self.engine.keys.of(*limiter, bearer), now).used > 0);
        used.map(move |limiter| (bearer.clone(), limiter))
    }

    fn bans_named(&self, target: &LiftTarget, penalties: &[Arc<Penalty>]) -> Vec<Arc<Ban>> {
        let mut bans = match target {
            LiftTarget::Ban(id) => self.ban_by_id(*id).into_iter().collect(),
            LiftTarget::User(user) => self.bans_of_user(user).cloned().collect(),
            LiftTarget::Address(ip) => self.bans_of_address(*ip),
            LiftTarget::Prefix(prefix) => self.bans_of_prefix(*prefix).cloned().collect(),
            LiftTarget::Penalty(_) | LiftTarget::Record(_) => Vec::new(),
        };
        let ids = penalties.iter().filter_map(|penalty| penalty.ban());
        bans.extend(ids.filter_map(|id| self.ban_by_id(id)));
        bans
    }

    /// The penalties in force that a target names.
    fn penalties_named(&self, target: &LiftTarget, now: Moment) -> Vec<Arc<Penalty>> {
        let holder = match target {
            LiftTarget::Penalty(id) => {
                return self.memory().penalty(*id).cloned().into_iter().collect();
            }
            LiftTarget::Record(penalty) => return vec![Arc::clone(penalty)],
            LiftTarget::Ban(_) => return Vec::new(),
            LiftTarget::User(user) => Holder::User(user.clone()),
            LiftTarget::Address(ip) => {
                Holder::Prefix(Prefix::around(*ip, self.engine.rules.counting.v6_bits))
            }
            LiftTarget::Prefix(prefix) => Holder::Prefix(*prefix),
        };
        let all = self.memory().penalties(&holder).iter();
        all.filter(|penalty| penalty.holds_at(now.unix_ms)).cloned().collect()
    }

    /// Bans with all that fell together with them, the automatic blocks around them
    /// and the short bans of the addresses where their users broke rules: whoever is let in again must not be kept out by those.
    fn with_relatives(&self, named: Vec<Arc<Ban>>, now: Moment) -> BTreeMap<u64, Arc<Ban>> {
        let mut all = BTreeMap::new();
        for ban in named {
            // What falls together has numbers in a row.
            let after = self.ban_by_id(ban.id + 1).filter(|next| next.with == Some(ban.id));
            let before = ban.with.and_then(|id| self.ban_by_id(id));
            for ban in [Some(ban), after, before].into_iter().flatten() {
                for block in self.blocks_around(&ban, now) {
                    all.insert(block.id, block);
                }
                all.insert(ban.id, ban);
            }
        }
        for ban in self.short_bans_at(&all) {
            all.insert(ban.id, ban);
        }
        all
    }

    /// The short bans of shared addresses that are lifted with these: they fell with
    /// a neighbour's ban, who stays banned, and would keep out whoever is let in.
    fn short_bans_at(&self, lifted: &BTreeMap<u64, Arc<Ban>>) -> Vec<Arc<Ban>> {
        let bits = self.engine.rules.ban.v6_prefix;
        let users: BTreeSet<_> = lifted.values().filter_map(|ban| ban.user.as_ref()).collect();
        let blamed = users.into_iter().flat_map(|user| self.memory().blamed_at(user));
        let around = blamed.map(|address| Prefix::around(address.prefix().addr(), bits));
        let prefixes: BTreeSet<_> =
            lifted.values().filter_map(|ban| ban.prefix).chain(around).collect();
        let bans = prefixes.into_iter().flat_map(|prefix| self.bans_of_prefix(prefix));
        let is_short = |ban: &&Arc<Ban>| ban.by == Author::Rule && ban.with.is_some();
        bans.filter(is_short).cloned().collect()
    }

    fn blocks_around(&self, ban: &Ban, now: Moment) -> Vec<Arc<Ban>> {
        let Some(narrow) = ban.prefix else { return Vec::new() };
        let blocks = [56, 48].into_iter().filter_map(|bits| narrow.block_of_64(bits));
        let bans = blocks.flat_map(|block| self.bans_of_prefix(block));
        let is_escalated = |ban: &&Arc<Ban>| {
            ban.by == Author::Rule && ban.score.is_none() && ban.holds_at(now.unix_ms)
        };
        bans.filter(is_escalated).cloned().collect()
    }

    /// The penalties that are named, those that the lifted bans were, and all
    /// others of whoever is pardoned, but for bans that stand.
    fn penalties_to_end(
        &self,
        mut named: Vec<Arc<Penalty>>,
        bans: &BTreeMap<u64, Arc<Ban>>,
        holders: &BTreeSet<Holder>,
    ) -> Vec<Arc<Penalty>> {
        let stands = |ban| !bans.contains_key(&ban) && self.ban_by_id(ban).is_some();
        for holder in holders {
            let all = self.memory().penalties(holder).iter();
            named.extend(all.filter(|penalty| !penalty.ban().is_some_and(stands)).cloned());
        }
        named.sort_by_key(|penalty| penalty.id);
        named.dedup_by_key(|penalty| penalty.id);
        named
    }

    /// Whom the bans are about, and how many each.
    fn concerned<'b>(&self, bans: impl Iterator<Item = &'b Arc<Ban>>) -> BTreeMap<Bearer, u32> {
        let mut concerned = BTreeMap::new();
        for ban in bans {
            let addresses = ban.prefix.map_or_else(Vec::new, |prefix| self.addresses_of(prefix));
            let user = ban.user.clone().map(Bearer::User);
            for bearer in user.into_iter().chain(addresses) {
                *concerned.entry(bearer).or_insert(0) += 1;
            }
        }
        concerned
    }

    /// The addresses, as they are counted, that one banned prefix is about; a
    /// wider block is about nobody in particular.
    fn addresses_of(&self, prefix: Prefix) -> Vec<Bearer> {
        let counting = &self.engine.rules.counting;
        let (ip, bits) = (prefix.net().addr(), prefix.net().prefix_len());
        if !prefix.is_exact() {
            return Vec::new();
        }
        let mut all = match ip {
            IpAddr::V4(v4) if counting.mapped == Mapped::Apart => {
                vec![Address::new(v4.to_ipv6_mapped().into(), counting.v6_bits)]
            }
            IpAddr::V6(_) if bits < counting.v6_bits => return self.scored_within(prefix),
            _ => Vec::new(),
        };
        all.push(Address::new(ip, counting.v6_bits));
        all.into_iter().map(Bearer::Address).collect()
    }

    fn forgive_all(&mut self, bearer: Bearer, bans: u32, now: Moment) {
        let offence = self.memory().offence(&bearer).unwrap_or_default();
        let offence = match self.engine.rules.ban.growth {
            Some(growth) => offence.now(growth, now.unix_ms).add(-f64::from(bans)),
            None => offence,
        };
        self.record(Change::Pardon(bearer.clone()));
        if let Bearer::User(user) = &bearer
            && let Some(factor) = self.factor_forgiven(user, now)
        {
            self.record(factor);
        }
        let offence = Offence { has_grace: true, at_unix_ms: now.unix_ms, ..offence };
        self.record(Change::Offence(bearer, offence));
    }
}

/// Whose penalties all end: of whoever is named or pardoned.
fn holders<'b>(
    bans: &BTreeMap<u64, Arc<Ban>>,
    bearers: impl Iterator<Item = &'b Bearer>,
) -> BTreeSet<Holder> {
    let of_bans = bans.values().flat_map(|ban| {
        let prefix = ban.prefix.map(Holder::Prefix);
        ban.user.clone().map(Holder::User).into_iter().chain(prefix)
    });
    bearers.filter_map(Holder::from_bearer).chain(of_bans).collect()
}

impl Outcome {
    /// Whether it is about something that this bearer is pardoned for.
    pub(super) fn is_held_against(&self, bearer: &Bearer) -> bool {
        let broke = self.violation.as_ref().is_some_and(|it| it.bearer == *bearer);
        broke || self.ban.as_ref().is_some_and(|ban| is_about(ban, bearer))
    }
}

fn is_about(ban: &Ban, bearer: &Bearer) -> bool {
    match bearer {
        Bearer::User(user) => ban.user.as_ref() == Some(user),
        Bearer::Address(address) => {
            ban.prefix.is_some_and(|prefix| prefix.contains(address.prefix().addr()))
        }
        Bearer::Account(_) => false,
    }
}
