//! Scores as they go down, and bans that wait until they can fall.

use proptest::prelude::*;

use super::*;

const HOUR: u64 = 3_600_000;

fn bad(points: f64) -> Request {
    violation(ViolationType::MESSAGE_LIMIT, Some(points), "anna", "192.0.2.7")
}

fn totals(rules: Rules, steps: &[(u64, f64)]) -> Vec<(f64, bool)> {
    let mut engine = engine_with(rules);
    let mut now = NOW;
    let judged = steps.iter().map(|(wait_ms, points)| {
        now = Moment { boot_ms: now.boot_ms + wait_ms, unix_ms: now.unix_ms + wait_ms };
        engine.expire(now);
        let outcome = judge_one(&mut engine, bad(*points), now);
        (outcome.violation.map_or(0.0, |it| it.total), outcome.ban.is_some())
    });
    judged.collect()
}

#[test]
fn twenty_points_at_once_are_a_ban_and_a_day_later_they_are_half() {
    let steps = [(0, 19.0), (0, 1.0), (24 * HOUR, 1.0), (0, 18.5), (0, 0.5)];
    let want = [(19.0, false), (20.0, true), (11.0, false), (29.5, false), (30.0, true)];
    assert_eq!(totals(Rules::hardened(), &steps), want);
}

#[test]
fn a_score_goes_down_by_whole_hours_from_its_first_violation_on_whatever_the_time_of_day() {
    for minute in [0, 1, 30, 59] {
        let begin = later(minute * 60_000);
        for (wait_ms, left) in [(HOUR - 1, 8.0), (HOUR, 8.0 * 0.5_f64.powf(1.0 / 24.0))] {
            let mut engine = engine_with(Rules::hardened());
            judge_one(&mut engine, bad(8.0), begin);
            let next = judge_one(&mut engine, bad(1.0), later(minute * 60_000 + wait_ms));
            let total = next.violation.expect("it is recorded").total;
            assert!((total - left - 1.0).abs() < 1e-9, "{total}, {wait_ms} ms after {begin:?}");
        }
    }
}

#[test]
fn librechat_forgets_all_of_it_after_an_hour_of_quiet() {
    let steps = [(0, 19.0), (HOUR - 1, 0.5), (HOUR, 19.0), (HOUR, 1.0)];
    let want = [(19.0, false), (19.5, false), (19.0, false), (1.0, false)];
    assert_eq!(totals(Rules::librechat(), &steps), want);
}

#[test]
fn a_line_that_was_crossed_is_not_crossed_again_on_the_way_down() {
    let steps: Vec<_> = [(0, 20.0)].into_iter().chain([(HOUR, 1.0); 10]).collect();
    let bans: Vec<_> = totals(Rules::hardened(), &steps).into_iter().map(|(_, ban)| ban).collect();
    assert_eq!(bans.iter().filter(|ban| **ban).count(), 1, "{bans:?}");
}

#[test]
fn a_ban_that_could_not_fall_falls_with_the_next_violation() {
    let mut rules = Rules::hardened();
    rules.ban.max_per_minute = 1;
    let mut engine = engine_with(rules);
    judge_one(&mut engine, violation(ViolationType::NON_BROWSER, None, "bert", "192.0.2.8"), NOW);
    let refused = judge_one(&mut engine, bad(20.0), NOW);
    assert_eq!((refused.ban, refused.refusal), (None, Some(BanRefusal::Runaway)));
    for _ in 0..50 {
        let still = judge_one(&mut engine, bad(0.1), later(59_999));
        assert_eq!(still.refusal, Some(BanRefusal::Runaway));
    }
    let next = judge_one(&mut engine, bad(0.1), later(60_000));
    assert!(next.ban.is_some(), "who waits does not keep the circuit open: {next:?}");
}

/// The hardened rules without what makes them differ in time and in kind.
fn plain_hardened() -> Rules {
    let mut rules = Rules::hardened();
    rules.scoring.decay = Decay::Never;
    rules.scoring.repeats = None;
    rules.ban.growth = None;
    rules.ban.shared = None;
    rules
}

fn plain_librechat() -> Rules {
    let mut rules = Rules::librechat();
    rules.scoring.decay = Decay::Never;
    rules
}

proptest! {
    #[test]
    fn without_decay_repeats_and_growth_the_hardened_rules_are_librechat_s(
        steps in prop::collection::vec(
            (0_u64..HOUR, (0_u32..60).prop_map(|half| f64::from(half) / 2.0)), 1..60),
    ) {
        prop_assert_eq!(totals(plain_hardened(), &steps), totals(plain_librechat(), &steps));
    }

    #[test]
    fn no_score_is_ever_negative(
        steps in prop::collection::vec((0_u64..30 * HOUR, -50.0..50.0), 1..60),
    ) {
        for (total, _) in totals(Rules::hardened(), &steps) {
            prop_assert!(total >= 0.0);
        }
    }
}
