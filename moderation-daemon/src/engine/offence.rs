//! How often somebody has been banned, which is forgotten by and by, and how
//! much longer that makes the next ban. Whether one falls is not decided here.

use super::Growth;

/// What is remembered of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Offence {
    /// Bans, less what has been forgotten up to `at_unix_ms`.
    pub level: f64,
    /// As of when, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Whether the next violation that is not critical is spared: the last ban was
    /// lifted.
    pub has_grace: bool,
}

/// A length doubled more often than this is over every cap there is.
const MOST: f64 = 62.0;

impl Offence {
    /// What is left of it at a moment, in milliseconds since 1970.
    pub fn now(self, growth: Growth, unix_ms: u64) -> Self {
        let elapsed_ms = unix_ms.saturating_sub(self.at_unix_ms);
        let left = 0.5_f64.powf(elapsed_ms as f64 / growth.half_life_ms.max(1) as f64);
        Self { level: self.level * left, at_unix_ms: unix_ms, ..self }
    }

    /// How long the next ban lasts that would be `base_ms` long, in
    /// milliseconds. A level that went down by a hair counts still: it is
    /// rounded.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is not negative, and what is beyond a u64 becomes the largest one"
    )]
    pub fn length_ms(self, base_ms: u64, growth: Growth) -> u64 {
        let times = growth.factor.powf(self.level.round().clamp(0.0, MOST));
        ((base_ms as f64 * times) as u64).min(growth.cap_ms)
    }

    /// One ban more, or some less.
    pub(super) fn add(self, bans: f64) -> Self {
        Self { level: (self.level + bans).max(0.0), ..self }
    }

    /// The same after a violation has been spared.
    pub(super) const fn without_grace(self) -> Self {
        Self { has_grace: false, ..self }
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_nothing(self) -> bool {
        self.level <= 0.0 && !self.has_grace
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;
    const GROWTH: Growth = Growth { factor: 2.0, cap_ms: 30 * DAY, half_life_ms: 30 * DAY };

    #[test]
    fn each_ban_is_twice_as_long_as_the_last_up_to_the_cap() {
        let mut offence = Offence::default();
        let mut now = 0;
        let hours: Vec<_> = (0..11)
            .map(|_| {
                offence = offence.now(GROWTH, now);
                let length_ms = offence.length_ms(2 * HOUR, GROWTH);
                offence = offence.add(1.0);
                now += HOUR; // lifted early, or by hand
                length_ms / HOUR
            })
            .collect();
        assert_eq!(hours, [2, 4, 8, 16, 32, 64, 128, 256, 512, 720, 720]);
    }

    #[test]
    fn what_was_done_is_forgotten_by_half_lives() {
        let level = |level: f64, days: u64| {
            let offence = Offence { level, ..Offence::default() }.now(GROWTH, days * DAY);
            offence.length_ms(2 * HOUR, GROWTH) / (2 * HOUR)
        };
        let cases =
            [(1.0, 0, 2), (1.0, 29, 2), (1.0, 31, 1), (4.0, 0, 16), (4.0, 30, 4), (4.0, 300, 1)];
        for (was, days, want) in cases {
            assert_eq!(level(was, days), want, "{was} after {days} days");
        }
    }

    #[test]
    fn grace_is_spent_once_and_as_long_as_it_is_there_there_is_something_to_remember() {
        for (level, has_grace, is_nothing) in
            [(0.0, false, true), (0.0, true, false), (0.5, false, false), (0.5, true, false)]
        {
            let offence = Offence { level, at_unix_ms: 7, has_grace };
            assert_eq!(offence.is_nothing(), is_nothing, "{offence:?}");
            assert_eq!(offence.without_grace(), Offence { has_grace: false, ..offence });
        }
    }

    #[test]
    fn a_cap_below_the_base_holds_too() {
        let growth = Growth { cap_ms: HOUR, ..GROWTH };
        assert_eq!(Offence::default().length_ms(2 * HOUR, growth), HOUR);
    }

    proptest! {
        #[test]
        fn no_ban_is_longer_than_the_cap_nor_shorter_than_the_first(
            level in 0.0..1e9, base_ms in 1..30 * DAY, factor in 1.0..100.0, days in 0_u64..1_000,
        ) {
            let growth = Growth { factor, ..GROWTH };
            let offence = Offence { level, ..Offence::default() }.now(growth, days * DAY);
            let length_ms = offence.length_ms(base_ms, growth);
            prop_assert!(length_ms <= growth.cap_ms && length_ms >= base_ms.min(growth.cap_ms));
            prop_assert!(offence.add(-1.0).length_ms(base_ms, growth) <= length_ms);
        }
    }
}
