//! Ladders, suspensions, growing bans: what comes instead of the one ban.

use super::*;

const DAY: u64 = 24 * 3_600_000;
const HOUR: u64 = 3_600_000;

fn steps() -> Vec<Step> {
    vec![
        Step::Warning { message: "slowly".into() },
        Step::RemoveContent,
        Step::Reduce { factor_permille: 500, for_ms: 7 * DAY },
        Step::Ban { for_ms: 2 * HOUR },
        Step::Permanent,
    ]
}

fn laddered() -> Rules {
    let mut rules = Rules::hardened();
    let ladder = Ladder { steps: steps(), forget_after_ms: 30 * DAY, severity: Severity::Medium };
    rules.ladders.set(ViolationType::FLAGGED_CONTENT, Some(ladder));
    rules
}

fn flagged(severity: Option<Severity>, user: &str, ip: &str) -> Request {
    let (kind, points, details) = (ViolationType::FLAGGED_CONTENT, Some(20.0), None);
    request(Act::Violation { kind, points, severity, details }, subject(user, ip))
}

fn step(outcome: &Outcome) -> &'static str {
    outcome.penalty.as_ref().map_or("none", |penalty| penalty.kind.name())
}

#[test]
fn a_ladder_is_climbed_step_by_step_and_its_last_one_stays() {
    let mut engine = engine_with(laddered());
    let outcomes: Vec<_> =
        (0..6).map(|_| judge_one(&mut engine, flagged(None, "anna", "192.0.2.7"), NOW)).collect();
    let taken: Vec<_> = outcomes.iter().map(step).collect();
    assert_eq!(taken, ["warning", "remove_content", "reduce", "ban", "ban", "ban"]);
    let ends: Vec<_> =
        outcomes.iter().map(|it| it.ban.as_ref().map(|ban| ban.expires_at_unix_ms)).collect();
    let until = Some(Some(NOW.unix_ms + 2 * HOUR));
    assert_eq!(ends, [None, None, None, until, Some(None), Some(None)]);
    for (number, outcome) in outcomes.iter().enumerate() {
        let penalty = outcome.penalty.as_ref().expect("each is one");
        assert_eq!(penalty.id, number as u64 + 1);
        assert_eq!((&penalty.by, penalty.starts_at_unix_ms), (&Author::Rule, NOW.unix_ms));
        assert_eq!(penalty.user, Some(user("anna")));
        assert_eq!(penalty.ban(), outcome.ban.as_ref().map(|ban| ban.id));
        let record = outcome.violation.as_ref().expect("each is one");
        assert_eq!((record.penalty, record.ban), (Some(penalty.id), penalty.ban()));
    }
}

#[test]
fn where_rules_do_not_ban_all_other_steps_are_taken() {
    let mut rules = laddered();
    rules.ban.enabled = false;
    for batch in [1, 6] {
        let mut engine = engine_with(rules.clone());
        let outcomes = judge(&mut engine, &vec![flagged(None, "anna", "192.0.2.7"); 6], batch, NOW);
        let taken: Vec<_> = outcomes.iter().map(step).collect();
        assert_eq!(taken, ["warning", "remove_content", "reduce", "none", "none", "none"]);
        let critical = flagged(Some(Severity::Critical), "bert", "192.0.2.8");
        assert_eq!(step(&judge_one(&mut engine, critical, NOW)), "none", "a suspension is a ban");
        assert_eq!((bans(&outcomes), engine.bans().len()), (0, 0), "in batches of {batch}");
        assert!(outcomes.iter().all(|outcome| !outcome.logout && outcome.refusal.is_none()));
    }
}

#[test]
fn a_step_is_taken_only_when_the_score_crosses_the_line() {
    let mut engine = engine_with(laddered());
    let slight = violation(ViolationType::FLAGGED_CONTENT, Some(1.0), "anna", "");
    let outcomes = judge(&mut engine, &vec![slight; 40], 7, NOW);
    let taken: Vec<_> = outcomes.iter().map(step).filter(|step| *step != "none").collect();
    assert_eq!(taken, ["warning", "remove_content"]);
}

#[test]
fn history_is_by_bearer_and_type_and_is_forgotten() {
    let mut rules = laddered();
    let ladder = rules.ladders.of(ViolationType::FLAGGED_CONTENT).clone();
    rules.ladders.set(ViolationType::MESSAGE_LIMIT, ladder);
    let mut engine = engine_with(rules);
    let first = judge_one(&mut engine, flagged(None, "anna", ""), NOW);
    let other_type = violation(ViolationType::MESSAGE_LIMIT, Some(20.0), "anna", "");
    let cases = [
        (other_type, NOW, "warning"),
        (flagged(None, "bert", ""), NOW, "warning"),
        (flagged(None, "", "192.0.2.7"), NOW, "warning"),
        (flagged(None, "", "192.0.2.7"), NOW, "remove_content"),
        (flagged(None, "", "192.0.2.8"), NOW, "warning"),
        (flagged(None, "anna", ""), later(30 * DAY - 1), "remove_content"),
        (flagged(None, "anna", ""), later(60 * DAY), "warning"),
    ];
    assert_eq!(step(&first), "warning");
    for (request, now, want) in cases {
        let outcome = judge_one(&mut engine, request.clone(), now);
        assert_eq!(step(&outcome), want, "{request:?}");
    }
}

#[test]
fn high_severity_is_a_step_further_and_critical_is_suspended_until_a_person_has_looked() {
    let cases = [
        (None, "warning"),
        (Some(Severity::Low), "warning"),
        (Some(Severity::Medium), "warning"),
        (Some(Severity::High), "remove_content"),
        (Some(Severity::Critical), "suspension"),
    ];
    for (severity, want) in cases {
        let mut engine = engine_with(laddered());
        let outcome = judge_one(&mut engine, flagged(severity, "anna", "192.0.2.7"), NOW);
        assert_eq!(step(&outcome), want);
        let review = outcome.ban.as_ref().map(|ban| (ban.review, ban.expires_at_unix_ms));
        let until = Some(NOW.unix_ms + 72 * HOUR);
        assert_eq!(review, (want == "suspension").then_some((true, until)));
    }
}

#[test]
fn critical_needs_neither_a_ladder_nor_a_score_but_bans_must_be_on() {
    for (enabled, want) in [(true, "suspension"), (false, "none")] {
        let mut rules = Rules::hardened();
        rules.ban.enabled = enabled;
        let mut engine = engine_with(rules);
        let kind = ViolationType::CONVO_ACCESS;
        let (severity, details) = (Some(Severity::Critical), None);
        let act = Act::Violation { kind, points: Some(0.0), severity, details };
        let outcome = judge_one(&mut engine, request(act, subject("anna", "")), NOW);
        assert_eq!(step(&outcome), want);
    }
}

#[test]
fn a_type_whose_severity_is_critical_suspends_by_itself() {
    let mut rules = laddered();
    let ladder = Ladder { steps: steps(), forget_after_ms: DAY, severity: Severity::Critical };
    rules.ladders.set(ViolationType::FLAGGED_CONTENT, Some(ladder));
    let mut engine = engine_with(rules);
    assert_eq!(step(&judge_one(&mut engine, flagged(None, "anna", ""), NOW)), "suspension");
    let said = judge_one(&mut engine, flagged(Some(Severity::Low), "bert", ""), NOW);
    assert_eq!(step(&said), "warning", "the reporter knows better");
}

#[test]
fn every_penalty_has_an_inverse() {
    let mut engine = engine_with(laddered());
    let outcomes: Vec<_> =
        (0..5).map(|_| judge_one(&mut engine, flagged(None, "anna", "192.0.2.7"), NOW)).collect();
    for outcome in outcomes {
        let penalty = outcome.penalty.expect("each is one");
        let lifted = pardon(&mut engine, &LiftTarget::Penalty(penalty.id), NOW);
        let ended: Vec<_> = lifted.penalties.iter().map(|it| it.id).collect();
        assert_eq!(ended, [penalty.id]);
        assert_eq!(lifted.bans.iter().map(|ban| ban.id).next(), penalty.ban());
        assert_eq!(engine.penalty(penalty.id), None);
        let again = pardon(&mut engine, &LiftTarget::Penalty(penalty.id), NOW);
        assert_eq!(again, Lifted::default());
    }
    assert!(
        engine.bans().is_empty() && engine.penalties_of(&Bearer::User(user("anna"))).is_empty()
    );
}

#[test]
fn numbers_of_penalties_are_never_given_again() {
    let restored = Restored { last_penalty: 41, ..Restored::default() };
    let mut engine = Engine::new(laddered(), PrefixSet::default(), restored, SEED, NOW);
    for batch in [1, 2] {
        let requests = vec![flagged(None, "anna", ""); 2];
        let outcomes = judge(&mut engine, &requests, batch, NOW);
        let ids: Vec<_> = outcomes.iter().filter_map(|it| Some(it.penalty.as_ref()?.id)).collect();
        assert!(ids.is_sorted() && ids[0] > 41, "{ids:?}");
        pardon(&mut engine, &LiftTarget::User(user("anna")), NOW);
    }
    assert_eq!(engine.memory.next_penalty, 46);
}

#[test]
fn a_ladder_goes_on_where_it_stood_after_a_restart() {
    let mut engine = engine_with(laddered());
    let first = judge_one(&mut engine, flagged(None, "anna", ""), NOW).penalty.expect("one");
    let penalties = vec![first.as_ref().clone()];
    let restored = Restored { penalties, last_penalty: first.id, ..Restored::default() };
    let mut engine = Engine::new(laddered(), PrefixSet::default(), restored, SEED, later(1));
    let next = judge_one(&mut engine, flagged(None, "anna", ""), later(1));
    assert_eq!((step(&next), next.penalty.map(|it| it.id)), ("remove_content", Some(2)));
}

#[test]
fn bans_of_those_who_come_back_grow_and_are_forgotten_again() {
    let mut engine = engine_with(Rules::hardened());
    let bad = violation(ViolationType::NON_BROWSER, None, "anna", "");
    let mut hours = Vec::new();
    let mut now = NOW;
    for wait_ms in [0, 2 * HOUR, 4 * HOUR, 8 * HOUR, 60 * DAY] {
        now = Moment { boot_ms: now.boot_ms + wait_ms, unix_ms: now.unix_ms + wait_ms };
        engine.expire(now);
        let ban = judge_one(&mut engine, bad.clone(), now).ban.expect("twenty points");
        hours.push((ban.ends() - now.unix_ms) / HOUR);
    }
    assert_eq!(hours, [2, 4, 8, 16, 4], "a level of four has become one");
    let mut engine = engine_with(Rules::librechat());
    for _ in 0..3 {
        let ban = judge_one(&mut engine, bad.clone(), NOW).ban.expect("twenty points");
        assert_eq!(ban.ends() - NOW.unix_ms, 2 * HOUR, "LibreChat's do not");
    }
}

#[test]
fn a_growing_ban_never_becomes_one_for_ever_and_stops_at_the_cap() {
    let mut rules = Rules::hardened();
    rules.ban.max_per_minute = 10_000;
    let mut engine = engine_with(rules);
    let bad = violation(ViolationType::NON_BROWSER, None, "anna", "");
    for ban in judge(&mut engine, &vec![bad; 200], 7, NOW) {
        let ends = ban.ban.expect("twenty points").expires_at_unix_ms.expect("it ends");
        assert!(ends <= NOW.unix_ms + 30 * DAY);
    }
}
