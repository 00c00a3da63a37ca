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
        (flagged(None, "anna", ""), later(60 * DAY - 1), "warning"),
        (flagged(None, "dora", ""), NOW, "warning"),
        (flagged(None, "dora", ""), later(30 * DAY), "warning"),
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

fn reducing() -> Rules {
    let mut rules = laddered();
    set(&mut rules, Limiter::MESSAGE_USER, 40, 60_000);
    let steps = vec![
        Step::Reduce { factor_permille: 500, for_ms: 7 * DAY },
        Step::Reduce { factor_permille: 400, for_ms: 7 * DAY },
        Step::Ban { for_ms: 2 * HOUR },
    ];
    let ladder = Ladder { steps, forget_after_ms: 30 * DAY, severity: Severity::Medium };
    rules.ladders.set(ViolationType::FLAGGED_CONTENT, Some(ladder));
    rules
}

fn max_of(engine: &Engine, who: &str, now: Moment) -> u64 {
    let counts = engine.overlay().counts(&message(who, ""), now);
    counts.iter().find(|it| it.limiter == Limiter::MESSAGE_USER).expect("it is on").max
}

#[test]
fn a_reduction_takes_the_place_of_the_last_one_and_the_ladder_goes_on() {
    for batch in [1, 2] {
        let mut engine = engine_with(reducing());
        let outcomes = judge(&mut engine, &vec![flagged(None, "anna", ""); 2], batch, NOW);
        let taken: Vec<_> = outcomes.iter().map(step).collect();
        assert_eq!(taken, ["reduce", "reduce"]);
        assert_eq!(max_of(&engine, "anna", NOW), 16, "40 percent, not 20");
        // As the store gives it back.
        let all = engine.penalties_of(&Bearer::User(user("anna"))).iter();
        let penalties: Vec<_> = all.map(|it| it.as_ref().clone()).collect();
        let ended: Vec<_> = penalties.iter().map(|it| it.ended.clone()).collect();
        assert_eq!(ended, [Some((NOW.unix_ms, "rule".to_owned())), None]);
        let restored = Restored { penalties, last_penalty: 2, ..Restored::default() };
        let mut engine = Engine::new(reducing(), PrefixSet::default(), restored, SEED, later(1));
        assert_eq!(max_of(&engine, "anna", later(1)), 16);
        assert_eq!(step(&judge_one(&mut engine, flagged(None, "anna", ""), later(1))), "ban");
        pardon(&mut engine, &LiftTarget::User(user("anna")), later(2));
        assert_eq!(max_of(&engine, "anna", later(2)), 40);
        let spared = judge_one(&mut engine, flagged(None, "anna", ""), later(2));
        assert_eq!(step(&spared), "none");
    }
}

#[test]
fn a_reduction_leaves_alone_what_is_for_something_else_or_is_no_reduction() {
    let mut rules = reducing();
    let all = rules.ladders.of(ViolationType::FLAGGED_CONTENT).clone();
    rules.ladders.set(ViolationType::MESSAGE_LIMIT, all);
    let banning = vec![
        Step::Ban { for_ms: 2 * HOUR },
        Step::Reduce { factor_permille: 500, for_ms: 7 * DAY },
    ];
    let ladder = Ladder { steps: banning, forget_after_ms: DAY, severity: Severity::Medium };
    rules.ladders.set(ViolationType::LOGINS, Some(ladder));
    let mut engine = engine_with(rules);
    let bad = |kind| violation(kind, Some(20.0), "anna", "");
    for kind in [ViolationType::FLAGGED_CONTENT, ViolationType::LOGINS, ViolationType::LOGINS] {
        judge_one(&mut engine, bad(kind), NOW);
    }
    judge_one(&mut engine, bad(ViolationType::MESSAGE_LIMIT), NOW);
    let all = engine.penalties_of(&Bearer::User(user("anna"))).iter();
    let all: Vec<_> = all.map(|it| (it.kind.name(), it.ended.is_some())).collect();
    let want = [("reduce", false), ("ban", false), ("reduce", false), ("reduce", false)];
    assert_eq!(all, want);
    let (once, gone) = (&engine.overlay(), later(7 * DAY));
    let again = bad(ViolationType::FLAGGED_CONTENT);
    let changes = once.decide(&again, &once.counts(&again, gone), gone).changes;
    let ends = |change: &Change| matches!(change, Change::EndPenalty(_));
    assert!(!changes.iter().any(ends), "the last one is over: {changes:?}");
}

#[test]
fn bans_and_penalties_say_in_a_word_why_and_how_bad_it_was_and_who_did_it() {
    let mut engine = engine_with(Rules::hardened());
    let bad = violation(ViolationType::LOGINS, Some(20.0), "anna", "");
    let ban = judge_one(&mut engine, bad, NOW).ban.expect("twenty points");
    assert_eq!((ban.reason.as_str(), ban.by.name()), ("logins score reached 20", "rule"));
    let worst = judge_one(&mut engine, flagged(Some(Severity::Critical), "bert", ""), NOW);
    let why = "critical violation of flagged_content";
    assert_eq!(worst.ban.map(|ban| ban.reason.clone()), Some(why.to_owned()));
    assert_eq!(worst.penalty.map(|penalty| penalty.reason.clone()), Some(why.to_owned()));
    assert_eq!(Author::Operator("root".into()).name(), "root");
    let names = [Severity::Low, Severity::Medium, Severity::High, Severity::Critical];
    assert_eq!(names.map(Severity::name), ["low", "medium", "high", "critical"]);
    assert_eq!(names.map(|it| Severity::from_name(it.name())), names.map(Some));
    assert_eq!(Severity::from_name("worst"), None);
}

#[test]
fn whatever_holds_is_remembered_however_many_penalties_come_after_it() {
    let mut rules = laddered();
    let one = |step| Ladder { steps: vec![step], forget_after_ms: DAY, severity: Severity::Medium };
    let reduce = Step::Reduce { factor_permille: 500, for_ms: 7 * DAY };
    rules.ladders.set(ViolationType::FLAGGED_CONTENT, Some(one(reduce)));
    let warning = Step::Warning { message: "slowly".into() };
    rules.ladders.set(ViolationType::MESSAGE_LIMIT, Some(one(warning)));
    for batch in [1, 7, 100] {
        let mut engine = engine_with(rules.clone());
        let first = judge_one(&mut engine, flagged(None, "anna", ""), NOW).penalty.expect("one");
        let slight = violation(ViolationType::MESSAGE_LIMIT, Some(20.0), "anna", "");
        judge(&mut engine, &vec![slight; 60], batch, later(1));
        assert!(engine.penalty(first.id).is_some(), "in batches of {batch}");
        let all = engine.penalties_of(&Bearer::User(user("anna")));
        assert_eq!((all.len(), all.last().map(|it| it.id)), (32, Some(61)), "the last ones");
        let lifted = pardon(&mut engine, &LiftTarget::Penalty(first.id), later(2));
        assert_eq!(lifted.penalties.len(), 1);
    }
}

#[test]
fn when_holders_of_penalties_run_out_those_that_are_over_go_first() {
    let mut rules = reducing();
    rules.bounds.people = 3;
    let warning = vec![Step::Warning { message: "slowly".into() }];
    let ladder = Ladder { steps: warning, forget_after_ms: DAY, severity: Severity::Medium };
    rules.ladders.set(ViolationType::MESSAGE_LIMIT, Some(ladder));
    let mut engine = engine_with(rules);
    let reduced = judge_one(&mut engine, flagged(None, "anna", ""), NOW).penalty.expect("one");
    for i in 0..20 {
        let who = format!("user {i}");
        let slight = violation(ViolationType::MESSAGE_LIMIT, Some(20.0), &who, "");
        judge_one(&mut engine, slight, later(i));
    }
    assert!(engine.penalty(reduced.id).is_some());
    assert_eq!(engine.memory.penalties.len(), 3);
    assert_eq!(engine.size().forgotten.penalties, 18);
}

#[test]
fn a_penalty_of_which_only_the_store_knows_is_taken_back_all_the_same() {
    let mut engine = engine_with(laddered());
    let record = judge_one(&mut engine, flagged(None, "anna", ""), NOW).penalty.expect("one");
    let mut engine = engine_with(laddered());
    let mut overlay = engine.overlay();
    let lifted = overlay.lift(&LiftTarget::Record(Arc::clone(&record)), "root", NOW);
    assert_eq!(lifted.penalties, [Arc::clone(&record)]);
    let end = EndPenalty {
        penalty: record.id,
        at_unix_ms: NOW.unix_ms,
        by: Author::Operator("root".into()),
    };
    let changes = overlay.into_changes();
    assert_eq!(changes, [Change::EndPenalty(end)]);
    engine.apply(changes);
}

#[test]
fn a_lift_ends_what_the_store_has_of_whoever_is_named() {
    let engine = engine_with(laddered());
    let mut overlay = engine.overlay();
    overlay.lift(&LiftTarget::User(user("anna")), "root", NOW);
    let is_of_anna = |change: &Change| matches!(change, Change::EndPenalties(end) if end.user == Some(user("anna")));
    assert!(overlay.into_changes().iter().any(is_of_anna));
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
    // The first one after the lift was spared.
    assert_eq!(engine.memory.next_penalty, 45);
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
