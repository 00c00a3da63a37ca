//! One runaway tab counts once; hammering counts in full.

use super::*;

/// The hardened rules with one message a minute, so that all others break one.
fn strict() -> Engine {
    let mut rules = Rules::hardened();
    set(&mut rules, Limiter::MESSAGE_IP, 1, 60_000);
    let mut engine = engine_with(rules);
    assert_eq!(judge_one(&mut engine, message("anna", "192.0.2.7"), NOW).verdict, Verdict::Allow);
    engine
}

fn total(outcomes: &[Outcome]) -> Option<f64> {
    outcomes.last()?.violation.as_ref().map(|violation| violation.total)
}

#[test]
fn a_tab_that_reloads_every_300_ms_for_ten_seconds_scores_at_most_five() {
    let mut engine = strict();
    let outcomes: Vec<_> = (0..34)
        .map(|i| judge_one(&mut engine, message("anna", "192.0.2.7"), later(i * 300)))
        .collect();
    assert_eq!((allowed(&outcomes), bans(&outcomes)), (0, 0));
    assert_eq!(total(&outcomes), Some(5.0));
}

#[test]
fn twenty_rejected_within_five_seconds_are_a_ban() {
    for (every_ms, batch) in [(0, 1), (0, 7), (0, 20), (10, 1), (250, 1)] {
        let mut engine = strict();
        let outcomes: Vec<_> = if every_ms == 0 {
            judge(&mut engine, &vec![message("anna", "192.0.2.7"); 20], batch, NOW)
        } else {
            let one = message("anna", "192.0.2.7");
            (0..20).map(|i| judge_one(&mut engine, one.clone(), later(i * every_ms))).collect()
        };
        assert_eq!(total(&outcomes), Some(20.0), "every {every_ms} ms, {batch} at once");
        assert_eq!(bans(&outcomes), 1, "every {every_ms} ms, {batch} at once");
    }
}

#[test]
fn a_repeat_is_told_and_counted_and_nothing_of_it_is_written() {
    let engine = {
        let mut engine = strict();
        judge_one(&mut engine, message("anna", "192.0.2.7"), NOW);
        engine
    };
    let overlay = engine.overlay();
    let request = message("anna", "192.0.2.7");
    let decision = overlay.decide(&request, &overlay.counts(&request, NOW), later(1));
    assert!(decision.outcome.is_repeat);
    let record = decision.outcome.violation.expect("it is one");
    assert_eq!((record.points, record.previous, record.total), (0.0, 1.0, 1.0));
    let is_memory = |change: &Change| matches!(change, Change::Run(..) | Change::Repeat(_));
    assert!(decision.changes.iter().all(is_memory), "{:?}", decision.changes);
    assert!(decision.changes.iter().any(|change| matches!(change, Change::Repeat(_))));
}

#[test]
fn the_next_record_tells_how_many_repeats_there_were() {
    let mut engine = strict();
    let records: Vec<_> = [0, 100, 200, 2_000]
        .into_iter()
        .map(|ms| judge_one(&mut engine, message("anna", "192.0.2.7"), later(ms)))
        .filter_map(|outcome| outcome.violation.filter(|_| !outcome.is_repeat))
        .map(|record| (record.points, record.repeats))
        .collect();
    assert_eq!(records, [(1.0, 0), (1.0, 2)]);
}

#[test]
fn what_the_app_reports_is_no_repeat_and_types_and_bearers_are_apart() {
    let mut engine = engine_with(Rules::hardened());
    let reported = vec![violation(ViolationType::CONCURRENT, None, "anna", "192.0.2.7"); 4];
    assert_eq!(total(&judge(&mut engine, &reported, 2, NOW)), Some(4.0));
    let mut engine = strict();
    for who in ["anna", "bert"] {
        let outcome = judge_one(&mut engine, message(who, "192.0.2.7"), NOW);
        assert!(!outcome.is_repeat, "{who}");
    }
    let acquire = request(Act::Acquire, subject("anna", "192.0.2.7"));
    let outcomes = judge(&mut engine, &vec![acquire; 3], 1, NOW);
    assert!(outcomes[2].violation.is_some() && !outcomes[2].is_repeat);
}

#[test]
fn runs_are_forgotten_when_they_say_nothing_any_more() {
    let mut engine = strict();
    judge_one(&mut engine, message("anna", "192.0.2.7"), NOW);
    engine.expire(later(4_000));
    assert_eq!(engine.memory.runs.len(), 1);
    engine.expire(later(4_001));
    assert_eq!(engine.memory.runs.len(), 0);
}
