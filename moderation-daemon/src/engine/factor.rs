//! What is known about a user, and how limits follow it: in thousandths, so
//! that nothing depends on how fractions are rounded. What is limited is not
//! known here.

use std::sync::Arc;

/// What the app says about a user. What it does not say stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// The tier.
    pub tier: Option<Arc<str>>,
    /// The role.
    pub role: Option<Arc<str>>,
    /// When the account was made, in milliseconds since 1970.
    pub created_at_unix_ms: Option<u64>,
    /// Whether the e-mail address is verified.
    pub email_verified: Option<bool>,
    /// Whether the user pays.
    pub paying: Option<bool>,
}

impl Traits {
    /// The same with what is said now.
    pub fn with(&self, said: &Self) -> Self {
        Self {
            tier: said.tier.clone().or_else(|| self.tier.clone()),
            role: said.role.clone().or_else(|| self.role.clone()),
            created_at_unix_ms: said.created_at_unix_ms.or(self.created_at_unix_ms),
            email_verified: said.email_verified.or(self.email_verified),
            paying: said.paying.or(self.paying),
        }
    }
}

/// How a user's limits stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Factor {
    /// In thousandths, as of `at_unix_ms`.
    pub permille: u32,
    /// As of when, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Content of this user that was flagged since `flagged_since_unix_ms`.
    pub flagged: u32,
    /// When the first of it was flagged, in milliseconds since 1970. It is
    /// counted by windows that begin with it.
    pub flagged_since_unix_ms: u64,
}

/// How limits follow what is known. All factors are in thousandths and are
/// multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// For accounts older than so many milliseconds.
    pub account_age: Since,
    /// For a verified e-mail address.
    pub verified_email_permille: u32,
    /// For those who pay.
    pub paying_permille: u32,
    /// For no violation in so many milliseconds.
    pub clean_history: Since,
    /// For a violation within so many milliseconds.
    pub recent_violations: Since,
    /// For more than so much flagged content within `flagged_within_ms`.
    pub flagged_over: u32,
    /// In how long it counts.
    pub flagged_within_ms: u64,
    /// The factor for that.
    pub flagged_permille: u32,
    /// The product is at least this.
    pub min_permille: u32,
    /// And at most this.
    pub max_permille: u32,
    /// How much it rises in an hour; it drops at once.
    pub rise_permille_per_hour: u32,
}

/// A factor, and the stretch of time that it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// The stretch, in milliseconds.
    pub ms: u64,
    /// The factor, in thousandths.
    pub permille: u32,
}

/// How a user's limits stand at a moment, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What they are multiplied by, in thousandths.
    pub permille: u32,
    /// Where that is going, in thousandths: downward it is there at once.
    pub target_permille: u32,
    /// What holds now, by its name in the configuration, in thousandths each.
    pub factors: Vec<(&'static str, u32)>,
}

/// What a factor depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) traits: &'a Traits,
    /// When the user last broke a rule.
    pub(super) violated_at_unix_ms: Option<u64>,
    /// How it stood at the last change; `None`: nothing has changed yet.
    pub(super) factor: Option<Factor>,
}

const HOUR_MS: u64 = 3_600_000;

impl Adaptive {
    /// What holds at a moment, by what is known then.
    fn holding(
        &self,
        known: &Known<'_>,
        unix_ms: u64,
    ) -> impl Iterator<Item = (&'static str, u32)> + use<> {
        let since = |begin: u64, stretch: Since| unix_ms >= begin.saturating_add(stretch.ms);
        let traits = known.traits;
        let age = |stretch| traits.created_at_unix_ms.is_some_and(|born| since(born, stretch));
        let quiet = |stretch| known.violated_at_unix_ms.is_none_or(|last| since(last, stretch));
        let flagged = known.factor.is_some_and(|factor| {
            factor.flagged > self.flagged_over
                && unix_ms < factor.flagged_since_unix_ms.saturating_add(self.flagged_within_ms)
        });
        let factors = [
            (age(self.account_age), "account_age", self.account_age.permille),
            (traits.email_verified == Some(true), "verified_email", self.verified_email_permille),
            (traits.paying == Some(true), "paying", self.paying_permille),
            // Whoever is new has no history to be clean.
            (
                quiet(self.clean_history) && age(self.clean_history),
                "clean_history",
                self.clean_history.permille,
            ),
            (!quiet(self.recent_violations), "recent_violations", self.recent_violations.permille),
            (flagged, "flagged", self.flagged_permille),
        ];
        let holding = factors.into_iter().filter(|(holds, ..)| *holds);
        holding.map(|(_, name, permille)| (name, permille))
    }

    /// What the factor is to be, by what is known at a moment.
    pub(super) fn target(&self, known: &Known<'_>, unix_ms: u64) -> u32 {
        let product = self.holding(known, unix_ms).fold(1_000_u64, |product, (_, permille)| {
            product.saturating_mul(u64::from(permille)) / 1_000
        });
        let (min, max) = (u64::from(self.min_permille), u64::from(self.max_permille));
        u32::try_from(product.min(max).max(min)).unwrap_or(u32::MAX)
    }

    /// How the factor stands at a moment, and why.
    pub(super) fn standing(&self, known: &Known<'_>, unix_ms: u64) -> Standing {
        Standing {
            permille: self.current(known, unix_ms),
            target_permille: self.target(known, unix_ms),
            factors: self.holding(known, unix_ms).collect(),
        }
    }

    /// How the factor stands at a moment: at its target, if that is below it,
    /// else on the way there.
    pub(super) fn current(&self, known: &Known<'_>, unix_ms: u64) -> u32 {
        let Some(factor) = known.factor else { return self.target(known, unix_ms) };
        let mut value = factor.permille;
        let mut from = factor.at_unix_ms;
        for until in self.turns(known, from, unix_ms) {
            let risen = value.saturating_add(self.rise(until - from));
            value = risen.min(self.target(known, from));
            from = until;
        }
        value.min(self.target(known, unix_ms))
    }

    /// The moments between two at which the target changes, and the last one.
    fn turns(&self, known: &Known<'_>, from: u64, until: u64) -> Vec<u64> {
        let (born, last) = (known.traits.created_at_unix_ms, known.violated_at_unix_ms);
        let flagged = known.factor.map(|factor| factor.flagged_since_unix_ms);
        let turns = [
            (born, self.account_age.ms),
            (born, self.clean_history.ms),
            (last, self.clean_history.ms),
            (last, self.recent_violations.ms),
            (flagged, self.flagged_within_ms),
        ];
        let turns = turns.into_iter().filter_map(|(begin, ms)| Some(begin?.saturating_add(ms)));
        let mut turns: Vec<_> = turns.filter(|turn| (from..until).contains(turn)).collect();
        // A clock that went back makes nothing rise.
        turns.push(until.max(from));
        turns.sort_unstable();
        turns
    }

    fn rise(&self, elapsed_ms: u64) -> u32 {
        let risen = elapsed_ms.saturating_mul(u64::from(self.rise_permille_per_hour)) / HOUR_MS;
        u32::try_from(risen).unwrap_or(u32::MAX)
    }

    /// One more piece of flagged content.
    pub(super) fn flag(&self, factor: Factor, unix_ms: u64) -> Factor {
        let ends = factor.flagged_since_unix_ms.saturating_add(self.flagged_within_ms);
        if factor.flagged == 0 || unix_ms >= ends {
            return Factor { flagged: 1, flagged_since_unix_ms: unix_ms, ..factor };
        }
        Factor { flagged: factor.flagged.saturating_add(1), ..factor }
    }

    /// For how long a violation makes a difference, in milliseconds.
    pub(super) fn remembers_ms(&self) -> u64 {
        self.clean_history.ms.max(self.recent_violations.ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 24 * HOUR_MS;
    const NOW: u64 = 1_000 * DAY;

    fn adaptive() -> Adaptive {
        Adaptive {
            account_age: Since { ms: 30 * DAY, permille: 1_200 },
            verified_email_permille: 1_100,
            paying_permille: 1_500,
            clean_history: Since { ms: 30 * DAY, permille: 1_200 },
            recent_violations: Since { ms: DAY, permille: 500 },
            flagged_over: 5,
            flagged_within_ms: 30 * DAY,
            flagged_permille: 700,
            min_permille: 250,
            max_permille: 2_000,
            rise_permille_per_hour: 50,
        }
    }

    #[test]
    fn each_fact_has_its_factor_and_the_product_is_clamped() {
        let old = Traits { created_at_unix_ms: Some(NOW - 30 * DAY), ..Traits::default() };
        let young = Traits { created_at_unix_ms: Some(NOW - 30 * DAY + 1), ..Traits::default() };
        let verified = Traits { email_verified: Some(true), ..Traits::default() };
        let paying = Traits { paying: Some(true), ..Traits::default() };
        let best = Traits { paying: Some(true), email_verified: Some(true), ..old.clone() };
        let nobody = Traits::default();
        let since = |flagged, flagged_since_unix_ms| {
            Some(Factor { flagged, flagged_since_unix_ms, ..Factor::default() })
        };
        let flagged = |flagged| since(flagged, NOW - DAY);
        let cases = [
            (&nobody, None, None, 1_000),
            (&old, None, None, 1_440),
            (&young, None, None, 1_000),
            (&old, Some(NOW - 30 * DAY), None, 1_440),
            (&old, Some(NOW - 30 * DAY + 1), None, 1_200),
            (&old, Some(NOW - DAY), None, 1_200),
            (&old, Some(NOW - DAY + 1), None, 600),
            (&verified, None, None, 1_100),
            (&paying, None, None, 1_500),
            (&best, None, None, 2_000),
            (&nobody, Some(NOW), flagged(6), 350),
            (&nobody, None, flagged(5), 1_000),
            (&nobody, None, flagged(6), 700),
            (&nobody, None, since(6, NOW - 30 * DAY + 1), 700),
            (&nobody, None, since(6, NOW - 30 * DAY), 1_000),
        ];
        for (traits, violated_at_unix_ms, factor, want) in cases {
            let known = Known { traits, violated_at_unix_ms, factor };
            assert_eq!(adaptive().target(&known, NOW), want, "{known:?}");
        }
    }

    #[test]
    fn it_drops_at_once_and_rises_slowly_once_the_reason_is_gone() {
        let traits = Traits::default();
        let factor = Some(Factor { permille: 500, at_unix_ms: NOW, ..Factor::default() });
        let known = Known { traits: &traits, violated_at_unix_ms: Some(NOW), factor };
        let at = |ms: u64| adaptive().current(&known, NOW + ms);
        let cases = [
            (0, 500),
            (DAY - 1, 500),
            (DAY, 500),
            (DAY + HOUR_MS, 550),
            (DAY + 10 * HOUR_MS, 1_000),
            (60 * DAY, 1_000),
        ];
        for (ms, want) in cases {
            assert_eq!(at(ms), want, "after {ms} ms");
        }
        assert_eq!(adaptive().current(&known, NOW - DAY), 500, "though the clock went back");
        let high = Some(Factor { permille: 1_900, at_unix_ms: NOW, ..Factor::default() });
        assert_eq!(adaptive().current(&Known { factor: high, ..known }, NOW), 500);
    }

    #[test]
    fn how_it_stands_is_told_with_where_it_goes_and_why() {
        let traits = Traits { paying: Some(true), ..Traits::default() };
        let factor = Some(Factor { permille: 500, at_unix_ms: NOW, ..Factor::default() });
        let known = Known { traits: &traits, violated_at_unix_ms: Some(NOW), factor };
        let standing = |at| adaptive().standing(&known, at);
        let both = vec![("paying", 1_500), ("recent_violations", 500)];
        let want = Standing { permille: 500, target_permille: 750, factors: both };
        assert_eq!(standing(NOW), want);
        let want =
            Standing { permille: 800, target_permille: 1_500, factors: vec![("paying", 1_500)] };
        assert_eq!(standing(NOW + DAY + HOUR_MS), want, "750 after five hours, then one more");
    }

    #[test]
    fn flagged_content_is_counted_by_windows() {
        let adaptive = adaptive();
        let mut factor = Factor::default();
        for day in [0, 1, 29, 30] {
            factor = adaptive.flag(factor, NOW + day * DAY);
        }
        assert_eq!((factor.flagged, factor.flagged_since_unix_ms), (1, NOW + 30 * DAY));
    }

    proptest! {
        /// However it got there: within the clamp, below its target at once,
        /// and never faster upwards than the rate.
        #[test]
        fn it_stays_in_the_clamp_and_rises_no_faster_than_the_rate(
            permille in 250_u32..=2_000, born in prop::option::of(0..NOW),
            violated in prop::option::of(NOW - 40 * DAY..NOW), flagged in 0_u32..10,
            paying in any::<bool>(), waits in prop::collection::vec(0..5 * DAY, 1..30),
        ) {
            let adaptive = adaptive();
            let traits = Traits {
                created_at_unix_ms: born, paying: Some(paying), ..Traits::default()
            };
            let since = NOW - 10 * DAY;
            let factor = Factor { permille, at_unix_ms: NOW, flagged, flagged_since_unix_ms: since };
            let known = Known { traits: &traits, violated_at_unix_ms: violated, factor: Some(factor) };
            let (mut now, mut before) = (NOW, permille);
            for wait_ms in waits {
                now += wait_ms;
                let value = adaptive.current(&known, now);
                prop_assert!((250..=2_000).contains(&value));
                prop_assert!(value <= adaptive.target(&known, now));
                prop_assert!(value <= before.saturating_add(adaptive.rise(wait_ms) + 1 + 5));
                before = value;
            }
        }
    }
}
