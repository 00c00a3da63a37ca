//! How much a limiter allows whom: by tier, by what is known about the user, by
//! penalties. Reads the overlay, changes nothing but what is said about users.

use std::sync::Arc;

use super::{
    Bearer, Change, Factor, LimiterRule, Moment, Overlay, PenaltyKind, Request, Rules, Standing,
    Traits, UserId, Violation, ViolationType, factor::Known, memory::Holder,
};

/// What is neither more nor less.
const ONE_PERMILLE: u64 = 1_000;

impl Rules {
    /// The most that a limiter ever allows anybody.
    pub fn largest_max(&self, rule: &LimiterRule) -> u64 {
        let tiers = self.tiers.0.values().copied().filter(|_| rule.is_tiered);
        let base = tiers.chain([rule.limit.max]).max().unwrap_or(rule.limit.max);
        let factor = self
            .adaptive
            .map_or(ONE_PERMILLE, |adaptive| u64::from(adaptive.max_permille).max(ONE_PERMILLE));
        scaled(base, factor)
    }

    /// Whether a limiter allows everybody as much, but for those whose limits a penalty
    /// reduces.
    #[inline]
    pub(super) const fn is_the_same_for_all(&self, rule: &LimiterRule) -> bool {
        self.adaptive.is_none() && !rule.is_tiered
    }
}

/// So many thousandths of a maximum; what allows something allows at least one.
fn scaled(max: u64, permille: u64) -> u64 {
    if max == 0 || permille == ONE_PERMILLE {
        return max;
    }
    let scaled = u128::from(max) * u128::from(permille) / u128::from(ONE_PERMILLE);
    u64::try_from(scaled).unwrap_or(u64::MAX).max(1)
}

impl Overlay<'_> {
    /// What a limiter allows whomever it counts for a request.
    #[inline(always)]
    pub(super) fn allowance(&self, rule: &LimiterRule, request: &Request, now: Moment) -> u64 {
        let is_the_same_for_all =
            self.engine.rules.is_the_same_for_all(rule) && !self.memory().may_reduce(now);
        if is_the_same_for_all { rule.limit.max } else { self.own_max(rule, request, now) }
    }

    fn own_max(&self, rule: &LimiterRule, request: &Request, now: Moment) -> u64 {
        let rules = &self.engine.rules;
        let tiered = rule.is_tiered.then(|| self.tier_max(request)).flatten();
        let mut max = tiered.unwrap_or(rule.limit.max);
        let Some(bearer) = rules.counted(rule.by, request) else { return max };
        if rules.adaptive.is_some()
            && let Bearer::User(user) = &bearer
        {
            let factor = self.factor_with(user, request.traits.as_ref(), now);
            max = scaled(max, factor.map_or(ONE_PERMILLE, u64::from));
        }
        if self.memory().may_reduce(now) {
            for permille in self.reductions(&bearer, now) {
                max = scaled(max, u64::from(permille));
            }
        }
        max
    }

    fn tier_max(&self, request: &Request) -> Option<u64> {
        let user = request.subject.user();
        let known = user.and_then(|user| self.memory().traits(user));
        let said = request.traits.as_ref().and_then(|traits| traits.tier.as_ref());
        let tier = said.or_else(|| known.and_then(|traits| traits.tier.as_ref()))?;
        self.engine.rules.tiers.0.get(tier).copied()
    }

    /// The reductions that hold for a bearer, in thousandths each.
    fn reductions(&self, bearer: &Bearer, now: Moment) -> Vec<u16> {
        let Some(holder) = Holder::from_bearer(bearer) else { return Vec::new() };
        let penalties = self.memory().penalties(&holder).iter();
        let holding = penalties.filter(|penalty| penalty.holds_at(now.unix_ms));
        let factors = holding.filter_map(|penalty| match penalty.kind {
            PenaltyKind::Reduce { factor_permille } => Some(factor_permille),
            _ => None,
        });
        factors.collect()
    }

    /// What the app has said about a user.
    pub fn described(&self, user: &UserId) -> Option<&Traits> {
        self.memory().traits(user)
    }

    /// All that is known about a user, with what is said now.
    fn traits(&self, user: &UserId, said: Option<&Traits>) -> Traits {
        let known = self.memory().traits(user).cloned().unwrap_or_default();
        said.map_or_else(|| known.clone(), |said| known.with(said))
    }

    /// The role of whoever a request is about.
    pub(super) fn role(&self, request: &Request) -> Option<Arc<str>> {
        let known = request.subject.user().and_then(|user| self.memory().traits(user));
        let said = request.traits.as_ref().and_then(|traits| traits.role.as_ref());
        said.or_else(|| known.and_then(|traits| traits.role.as_ref())).cloned()
    }

    /// How a user's limits stand now, in thousandths; `None`: they follow
    /// nothing.
    pub fn factor(&self, user: &UserId, now: Moment) -> Option<u32> {
        self.factor_with(user, None, now)
    }

    /// The same, and why.
    pub fn standing(&self, user: &UserId, now: Moment) -> Option<Standing> {
        let adaptive = self.engine.rules.adaptive?;
        let traits = self.traits(user, None);
        Some(adaptive.standing(&self.known(user, &traits), now.unix_ms))
    }

    /// What is said just now lowers it at once, and raises it only from now on:
    /// how long it was so, nobody knows.
    fn factor_with(&self, user: &UserId, said: Option<&Traits>, now: Moment) -> Option<u32> {
        let adaptive = self.engine.rules.adaptive?;
        let before = self.traits(user, None);
        let known = self.known(user, &before);
        let value = adaptive.current(&known, now.unix_ms);
        let Some(said) = said else { return Some(value) };
        let after = before.with(said);
        Some(value.min(adaptive.target(&Known { traits: &after, ..known }, now.unix_ms)))
    }

    fn known<'a>(&self, user: &UserId, traits: &'a Traits) -> Known<'a> {
        let view = self.memory();
        Known { traits, violated_at_unix_ms: view.violated(user), factor: view.factor(user) }
    }

    /// What a request says about its user that was not known.
    pub(super) fn learn(&self, request: &Request, now: Moment) -> Vec<Change> {
        match (request.subject.user(), &request.traits) {
            (Some(user), Some(said)) => self.learned(user, said, now),
            _ => Vec::new(),
        }
    }

    fn learned(&self, user: &UserId, said: &Traits, now: Moment) -> Vec<Change> {
        let before = self.traits(user, None);
        let after = before.with(said);
        if after == before {
            return Vec::new();
        }
        let factor = self.factor_with(user, Some(said), now).map(|permille| {
            let factor = self.memory().factor(user).unwrap_or_default();
            let factor = Factor { permille, at_unix_ms: now.unix_ms, ..factor };
            Change::Factor(user.clone(), factor)
        });
        [Change::Traits(user.clone(), after, now.unix_ms)].into_iter().chain(factor).collect()
    }

    /// Takes over what the app says about a user; returns all that is known
    /// then. What it does not say stays as it was.
    pub fn know(&mut self, user: &UserId, said: &Traits, now: Moment) -> Traits {
        for change in self.learned(user, said, now) {
            self.record(change);
        }
        self.traits(user, None)
    }

    /// How a user's limits stand after a violation.
    pub(super) fn factor_after(&self, violation: &Violation, now: Moment) -> Option<Change> {
        let adaptive = self.engine.rules.adaptive?;
        let Bearer::User(user) = &violation.bearer else { return None };
        let traits = self.traits(user, None);
        let before = self.known(user, &traits);
        let value = adaptive.current(&before, now.unix_ms);
        let mut factor = before.factor.unwrap_or_default();
        if violation.kind == ViolationType::FLAGGED_CONTENT {
            factor = adaptive.flag(factor, now.unix_ms);
        }
        let violated_at_unix_ms = Some(now.unix_ms);
        let after = Known { factor: Some(factor), violated_at_unix_ms, ..before };
        let permille = value.min(adaptive.target(&after, now.unix_ms));
        Some(Change::Factor(user.clone(), Factor { permille, at_unix_ms: now.unix_ms, ..factor }))
    }

    /// How a user's limits stand when all is forgiven.
    pub(super) fn factor_forgiven(&self, user: &UserId, now: Moment) -> Option<Change> {
        let adaptive = self.engine.rules.adaptive?;
        self.memory().factor(user)?;
        let traits = self.traits(user, None);
        let innocent = Known { traits: &traits, violated_at_unix_ms: None, factor: None };
        let permille = adaptive.target(&innocent, now.unix_ms);
        let factor = Factor { permille, at_unix_ms: now.unix_ms, ..Factor::default() };
        Some(Change::Factor(user.clone(), factor))
    }
}
