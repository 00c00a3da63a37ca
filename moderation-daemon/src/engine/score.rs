//! Points per bearer and violation type: how they go down, go up, and when they
//! cross a line. They are never summed over types. What a crossing brings is
//! not decided here.

use std::collections::{BTreeSet, HashMap};

use super::{BanRule, Bearer, Crossing, Decay, ViolationType};

/// Whose points, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScoreKey {
    /// Who bears them.
    pub bearer: Bearer,
    /// What for.
    pub kind: ViolationType,
}

/// Points so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Those that have led to no ban yet; where nothing is consumed, all.
    pub points: f64,
    /// Those that have.
    pub spent: f64,
    /// Up to when they have decayed, in milliseconds since 1970.
    pub decayed_at_unix_ms: u64,
    /// When the last ones were added, in milliseconds since 1970.
    pub updated_at_unix_ms: u64,
}

/// What comes of more points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scored {
    /// The score now, as if nothing came of it.
    pub(super) score: Score,
    /// What was shown before.
    pub(super) previous: f64,
    /// What is shown now.
    pub(super) total: f64,
    /// Whether a ban is due.
    pub(super) crosses: bool,
    /// Whether these points are what made it due; a ban that could not fall
    /// then is due still.
    pub(super) is_news: bool,
}

impl Score {
    /// What callers and records are told.
    pub fn shown(&self) -> f64 {
        self.points + self.spent
    }

    /// What is left of it at a moment, in milliseconds since 1970.
    pub fn now(self, decay: Decay, unix_ms: u64) -> Self {
        match decay {
            Decay::Never | Decay::Ttl { ms: 0 } => self,
            Decay::Ttl { ms } => {
                let is_over = unix_ms.saturating_sub(self.updated_at_unix_ms) >= ms;
                if is_over { Self::default() } else { self }
            }
            Decay::HalfLife { ms, step_ms } => self.halved(ms, step_ms, unix_ms),
        }
    }

    /// Only whole steps count, and what is left over of one is not lost: who
    /// breaks a rule a minute would see no decay otherwise.
    fn halved(self, half_life_ms: u64, step_ms: u64, unix_ms: u64) -> Self {
        let elapsed_ms = unix_ms.saturating_sub(self.decayed_at_unix_ms);
        let whole_ms = elapsed_ms - elapsed_ms % step_ms.max(1);
        if whole_ms == 0 {
            return self;
        }
        let left = 0.5_f64.powf(whole_ms as f64 / half_life_ms.max(1) as f64);
        Self {
            points: self.points * left,
            spent: self.spent * left,
            decayed_at_unix_ms: self.decayed_at_unix_ms + whole_ms,
            ..self
        }
    }

    /// Adds points at a moment up to which it has decayed.
    pub(super) fn add(self, points: f64, rule: &BanRule, unix_ms: u64) -> Scored {
        let is_new = self == Self::default();
        let (before, previous) = (self.points, self.shown());
        let points = before + points;
        let points = match rule.crossing {
            Crossing::Total => points,
            Crossing::Consumed if points.is_nan() => 0.0,
            Crossing::Consumed => points.clamp(0.0, f64::MAX),
        };
        let decayed_at_unix_ms = if is_new { unix_ms } else { self.decayed_at_unix_ms };
        let score = Self { points, decayed_at_unix_ms, updated_at_unix_ms: unix_ms, ..self };
        let total = score.shown();
        let is_news = match rule.crossing {
            Crossing::Total => rule.crosses(previous, total),
            Crossing::Consumed => rule.crosses(before, points),
        };
        let crosses = match rule.crossing {
            Crossing::Consumed if rule.interval > 0.0 => points >= rule.interval,
            // An interval that is none is LibreChat's affair.
            Crossing::Total | Crossing::Consumed => is_news,
        };
        Scored { score, previous, total, crosses, is_news }
    }

    /// The same after something came of it.
    pub(super) fn spend(self, rule: &BanRule) -> Self {
        if rule.crossing == Crossing::Total || rule.interval.is_nan() || rule.interval <= 0.0 {
            return self;
        }
        let rest = self.points % rule.interval;
        Self { points: rest, spent: (self.spent + (self.points - rest)).min(f64::MAX), ..self }
    }
}

/// All scores, by key and by age.
#[derive(Debug, Default)]
pub(super) struct ScoreBook {
    scores: HashMap<ScoreKey, Score>,
    by_age: BTreeSet<(u64, ScoreKey)>,
}

impl ScoreBook {
    pub(super) fn get(&self, key: &ScoreKey) -> Option<Score> {
        self.scores.get(key).copied()
    }

    pub(super) fn put(&mut self, key: ScoreKey, score: Score) {
        self.by_age.insert((score.updated_at_unix_ms, key.clone()));
        if let Some(old) = self.scores.insert(key.clone(), score)
            && old.updated_at_unix_ms != score.updated_at_unix_ms
        {
            self.by_age.remove(&(old.updated_at_unix_ms, key));
        }
    }

    pub(super) fn remove(&mut self, key: &ScoreKey) {
        if let Some(old) = self.scores.remove(key) {
            self.by_age.remove(&(old.updated_at_unix_ms, key.clone()));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.scores.len()
    }

    pub(super) fn expire(&mut self, before_unix_ms: u64) {
        while let Some((updated, key)) = self.by_age.first()
            && *updated < before_unix_ms
        {
            self.scores.remove(key);
            self.by_age.pop_first();
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ScoreKey> {
        self.scores.keys()
    }

    /// Those that have been quiet longest, first.
    pub(super) fn oldest(&self) -> impl Iterator<Item = &(u64, ScoreKey)> {
        self.by_age.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Rules;
    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;
    const HARDENED: Decay = Decay::HalfLife { ms: DAY, step_ms: HOUR };

    fn rule(crossing: Crossing, interval: f64) -> BanRule {
        BanRule { crossing, interval, ..Rules::librechat().ban }
    }

    fn score(points: f64) -> Score {
        Score { points, spent: 0.0, decayed_at_unix_ms: 0, updated_at_unix_ms: 0 }
    }

    #[test]
    fn a_score_goes_down_as_the_rule_says() {
        let ttl = Decay::Ttl { ms: HOUR };
        let cases = [
            (Decay::Never, 1_000 * DAY, 16.0),
            (Decay::Ttl { ms: 0 }, 1_000 * DAY, 16.0),
            (ttl, HOUR - 1, 16.0),
            // Keyv's file store is the outer one, and ends it at the moment itself.
            (ttl, HOUR, 0.0),
            (HARDENED, HOUR - 1, 16.0),
            (HARDENED, DAY, 8.0),
            (HARDENED, DAY + HOUR - 1, 8.0),
            (HARDENED, 4 * DAY, 1.0),
            (HARDENED, u64::MAX, 0.0),
        ];
        for (decay, at, want) in cases {
            assert_eq!(score(16.0).now(decay, at).shown(), want, "{decay:?} at {at}");
        }
    }

    #[test]
    fn what_is_spent_goes_down_too_and_a_clock_that_goes_back_changes_nothing() {
        let spent = Score { spent: 20.0, decayed_at_unix_ms: DAY, ..score(4.0) };
        let now = spent.now(HARDENED, 2 * DAY);
        assert_eq!((now.points, now.spent, now.decayed_at_unix_ms), (2.0, 10.0, 2 * DAY));
        assert_eq!(spent.now(HARDENED, 0), spent);
        assert_eq!(
            Score { updated_at_unix_ms: DAY, ..spent }.now(Decay::Ttl { ms: 1 }, 0).shown(),
            24.0
        );
    }

    /// A violation a minute must not keep the clock of decay from moving.
    #[test]
    fn the_rest_of_a_step_is_not_lost() {
        let rule = rule(Crossing::Consumed, 1e9);
        let mut often = score(1_024.0);
        for minute in 1..=DAY / 60_000 {
            let at = minute * 60_000;
            often = often.now(HARDENED, at).add(0.0, &rule, at).score;
        }
        assert!((often.shown() - 512.0).abs() < 1e-6, "{}", often.shown());
    }

    /// LibreChat's own vectors, where nothing has been consumed yet.
    #[test]
    fn without_decay_consuming_crosses_where_librechat_does() {
        let vectors = [
            (0.0, 1.0, 20.0, false),
            (19.0, 1.0, 20.0, true),
            (20.0, 1.0, 20.0, false),
            (39.0, 1.0, 20.0, true),
            (0.0, 20.0, 20.0, true),
            (5.0, 20.0, 20.0, true),
            (0.0, 45.0, 20.0, true),
            (20.0, 20.0, 20.0, true),
            (0.0, 0.0, 20.0, false),
            (0.0, 0.5, 20.0, false),
            (19.9, 0.2, 20.0, true),
            (20.0, -5.0, 20.0, false),
            (0.0, 1.0, 0.0, true),
            (1.0, 1.0, 0.0, false),
            (0.0, 1.0, -20.0, false),
            (0.0, 1.0, 1.0, true),
        ];
        for (previous, points, interval, want) in vectors {
            for crossing in [Crossing::Total, Crossing::Consumed] {
                let rule = rule(crossing, interval);
                let before = score(previous).spend(&rule);
                let got = before.add(points, &rule, 0).crosses;
                assert_eq!(got, want, "{crossing:?}: {previous} + {points}, interval {interval}");
            }
        }
    }

    /// The seventeenth row: LibreChat bans at once for what is not a number.
    #[test]
    fn what_is_not_a_number_crosses_for_librechat_and_counts_nothing_when_hardened() {
        assert!(score(0.0).add(f64::NAN, &rule(Crossing::Total, 20.0), 0).crosses);
        let hardened = score(3.0).add(f64::NAN, &rule(Crossing::Consumed, 20.0), 0);
        assert_eq!((hardened.crosses, hardened.total), (false, 0.0));
    }

    #[test]
    fn a_score_that_went_down_below_a_line_does_not_cross_it_again() {
        let rule = rule(Crossing::Consumed, 20.0);
        let banned = score(19.0).add(1.0, &rule, 0);
        assert!(banned.crosses && banned.is_news);
        let later = banned.score.spend(&rule).now(HARDENED, HOUR);
        assert!(later.shown() > 19.0 && later.shown() < 20.0);
        assert!(!later.add(1.0, &rule, HOUR).crosses);
        let total = BanRule { crossing: Crossing::Total, ..rule };
        assert!(banned.score.now(HARDENED, HOUR).add(1.0, &total, HOUR).crosses, "as it would");
    }

    #[test]
    fn a_ban_that_could_not_fall_is_due_still_but_no_news() {
        let rule = rule(Crossing::Consumed, 20.0);
        let first = score(19.0).add(1.0, &rule, 0);
        let again = first.score.add(1.0, &rule, 1);
        assert_eq!((again.crosses, again.is_news), (true, false));
        assert_eq!(again.score.spend(&rule).points, 1.0);
    }

    #[test]
    fn nothing_is_spent_where_nothing_is_consumed_or_an_interval_is_none() {
        let before = Score { spent: 5.0, ..score(25.0) };
        for rule in [
            rule(Crossing::Total, 20.0),
            rule(Crossing::Consumed, 0.0),
            rule(Crossing::Consumed, -20.0),
            rule(Crossing::Consumed, f64::NAN),
        ] {
            assert_eq!(before.spend(&rule), before, "{rule:?}");
        }
        let after = before.spend(&rule(Crossing::Consumed, 20.0));
        assert_eq!((after.points, after.spent), (5.0, 25.0));
    }

    #[test]
    fn a_book_has_each_score_once_by_when_it_was_last_added_to() {
        let key = |user: &str| ScoreKey {
            bearer: Bearer::User(user.parse().expect("an id")),
            kind: ViolationType::LOGINS,
        };
        let at = |updated_at_unix_ms| Score { updated_at_unix_ms, ..score(1.0) };
        let ages = |book: &ScoreBook| book.oldest().cloned().collect::<Vec<_>>();
        let mut book = ScoreBook::default();
        for (user, updated) in [("anna", 5), ("bert", 6), ("anna", 7), ("bert", 6)] {
            book.put(key(user), at(updated));
        }
        assert_eq!(ages(&book), [(6, key("bert")), (7, key("anna"))]);
        book.expire(6);
        assert_eq!(book.len(), 2, "that is not before it");
        book.expire(7);
        assert_eq!(ages(&book), [(7, key("anna"))]);
        assert_eq!((book.get(&key("bert")), book.len()), (None, 1));
        book.remove(&key("anna"));
        assert_eq!((ages(&book), book.len()), (Vec::new(), 0));
    }

    proptest! {
        /// Points as they are in practice: halves are exact.
        #[test]
        fn without_decay_the_two_ways_to_cross_are_one(
            points in prop::collection::vec((0_u32..100).prop_map(|half| f64::from(half) / 2.0), 1..60),
            interval in (1_u32..80).prop_map(|half| f64::from(half) / 2.0),
        ) {
            let (total, consumed) =
                (rule(Crossing::Total, interval), rule(Crossing::Consumed, interval));
            let (mut one, mut other) = (Score::default(), Score::default());
            for (at, points) in points.into_iter().enumerate() {
                let (a, b) = (one.add(points, &total, at as u64), other.add(points, &consumed, at as u64));
                prop_assert_eq!(a.crosses, b.crosses);
                prop_assert_eq!((a.previous, a.total), (b.previous, b.total));
                one = a.score;
                other = if b.crosses { b.score.spend(&consumed) } else { b.score };
            }
        }

        #[test]
        fn a_score_is_never_negative_nor_not_a_number(
            steps in prop::collection::vec((any::<f64>(), 0_u64..3 * DAY), 1..60),
            interval in prop_oneof![Just(20.0), Just(0.1), any::<f64>()],
        ) {
            let rule = rule(Crossing::Consumed, interval);
            let (mut score, mut now) = (Score::default(), 0);
            for (points, wait_ms) in steps {
                now += wait_ms;
                let scored = score.now(HARDENED, now).add(points, &rule, now);
                score = if scored.crosses { scored.score.spend(&rule) } else { scored.score };
                prop_assert!(score.points >= 0.0 && score.spent >= 0.0, "{:?}", score);
                prop_assert!(scored.total >= 0.0, "{:?}", scored);
            }
        }

        #[test]
        fn nothing_but_points_makes_a_score_rise(
            points in 0.0..1e9, waits in prop::collection::vec(0_u64..DAY, 1..60),
        ) {
            let (mut score, mut now) = (score(points), 0);
            for wait_ms in waits {
                now += wait_ms;
                let next = score.now(HARDENED, now);
                prop_assert!(next.shown() <= score.shown());
                prop_assert!(next.decayed_at_unix_ms <= now && now - next.decayed_at_unix_ms < HOUR);
                score = next;
            }
        }
    }
}
