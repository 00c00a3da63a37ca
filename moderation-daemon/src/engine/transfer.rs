//! Scores from elsewhere: a user who moves to this host brings them along.

use super::{Change, Crossing, Overlay, Score, ScoreKey};

impl Overlay<'_> {
    /// Takes over a score, as of a moment in milliseconds since 1970; `false`
    /// if ours is as high already. The same one twice counts once.
    pub fn take_score(&mut self, key: ScoreKey, points: f64, at_unix_ms: u64) -> bool {
        let known = self.score(&key);
        let ours = known.map_or(0.0, |score| score.shown());
        if !points.is_finite() || points <= ours {
            return false;
        }
        if known.is_none() {
            let in_the_way = self.score_in_the_way().map(Change::ForgetScore);
            in_the_way.into_iter().for_each(|change| self.record(change));
        }
        let rule = &self.engine.rules.ban;
        // What was over the line there has led to a ban there.
        let spent = match rule.crossing {
            Crossing::Total => 0.0,
            Crossing::Consumed => (points / rule.interval).floor() * rule.interval,
        };
        let score = Score {
            points: points - spent,
            spent,
            decayed_at_unix_ms: at_unix_ms,
            updated_at_unix_ms: at_unix_ms,
        };
        self.record(Change::Score(key, score));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Bearer, Engine, Moment, PrefixSet, Restored, Rules, ViolationType};

    fn engine(rules: Rules) -> Engine {
        let now = Moment { boot_ms: 0, unix_ms: 0 };
        Engine::new(rules, PrefixSet::default(), Restored::default(), [0, 0], now)
    }

    fn key() -> ScoreKey {
        let bearer = Bearer::User("anna".parse().expect("an id"));
        ScoreKey { bearer, kind: ViolationType::LOGINS }
    }

    #[test]
    fn of_two_scores_the_higher_one_counts_however_often_it_is_brought() {
        let mut engine = engine(Rules::librechat());
        for (points, is_taken, want) in [
            (19.0, true, 19.0),
            (19.0, false, 19.0),
            (7.0, false, 19.0),
            (f64::NAN, false, 19.0),
            (52.0, true, 52.0),
        ] {
            let mut overlay = engine.overlay();
            assert_eq!(overlay.take_score(key(), points, 7), is_taken, "{points}");
            let changes = overlay.into_changes();
            engine.apply(changes);
            assert_eq!(engine.scores.get(&key()).map(|score| score.shown()), Some(want));
        }
    }

    #[test]
    fn where_points_are_consumed_those_over_the_line_are_spent() {
        let engine = engine(Rules::hardened());
        let mut overlay = engine.overlay();
        assert!(overlay.take_score(key(), 52.0, 7));
        let score = overlay.score(&key()).expect("just taken");
        assert_eq!((score.points, score.spent, score.updated_at_unix_ms), (12.0, 40.0, 7));
    }
}
