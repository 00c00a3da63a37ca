//! What a lift finds to forgive, each thing by itself; and whose bans it leaves alone.

use super::*;

const HOUR: u64 = 3_600_000;

fn anna() -> LiftTarget {
    LiftTarget::User(user("anna"))
}

/// The hardened rules, by which nothing is worth a point.
fn worthless() -> Rules {
    let mut rules = Rules::hardened();
    ViolationType::all().for_each(|kind| rules.scoring.points.set(kind, 0.0));
    rules
}

#[test]
fn each_thing_that_is_held_against_somebody_is_enough_for_a_lift() {
    let warned = {
        let mut rules = rules();
        rules.scoring.decay = Decay::Ttl { ms: 1_000 };
        let steps = vec![Step::Warning { message: "slowly".into() }];
        let ladder = Ladder { steps, forget_after_ms: HOUR, severity: Severity::Medium };
        rules.ladders.set(ViolationType::LOGINS, Some(ladder));
        rules
    };
    let adaptive = Rules { adaptive: property::strict_hardened().adaptive, ..worthless() };
    let script = request(by_agent(EventType::MESSAGE, Some("curl/8.5.0")), subject("anna", ""));
    let logins = |points| violation(ViolationType::LOGINS, Some(points), "anna", "");
    let cases = [
        ("points", rules(), logins(1.0), 0),
        ("part of a limit", rules(), event(EventType::PROMPT_USAGE, "anna", ""), 0),
        ("a penalty that is over", warned, logins(20.0), 1_000),
        ("that a rule was broken", adaptive, logins(0.0), 0),
        ("a run of repeats", worthless(), script, 0),
        ("nothing", rules(), violation(ViolationType::LOGINS, None, "bert", ""), 0),
    ];
    for (what, rules, deed, wait_ms) in cases {
        let mut engine = engine_with(rules);
        judge_one(&mut engine, deed, NOW);
        let lifted = pardon(&mut engine, &anna(), later(wait_ms));
        let want = if what == "nothing" { vec![] } else { vec![Bearer::User(user("anna"))] };
        assert_eq!((lifted.bans.len(), &lifted.bearers), (0, &want), "{what}");
        let again = pardon(&mut engine, &anna(), later(wait_ms));
        assert_eq!(again, Lifted::default(), "{what}: nothing is left of it");
    }
}

#[test]
fn what_an_operator_banned_stays_when_somebody_else_is_let_in_there() {
    let mut engine = engine_with(Rules::hardened());
    by_hand(&mut engine, None, "192.0.2.7");
    judge_one(&mut engine, violation(ViolationType::NON_BROWSER, None, "anna", "192.0.2.7"), NOW);
    let lifted = pardon(&mut engine, &anna(), NOW);
    assert_eq!(lifted.bans.len(), 1, "the rule's");
    let left: Vec<_> = engine.bans().iter().map(|ban| ban.id).collect();
    assert_eq!(left, [1]);
}

#[test]
fn a_neighbour_who_was_banned_with_the_address_in_one_stays_so() {
    // LibreChat shares no address.
    let mut engine = engine_with(Rules::librechat());
    for who in ["anna", "bert"] {
        let bad = violation(ViolationType::NON_BROWSER, None, who, "192.0.2.7");
        judge_one(&mut engine, bad, NOW);
    }
    pardon(&mut engine, &anna(), NOW);
    let left: Vec<_> = engine.bans().iter().map(|ban| ban.user.clone()).collect();
    assert_eq!(left, [Some(user("bert"))]);
}

#[test]
fn a_ban_with_the_next_number_is_no_relative_by_that() {
    let mut engine = engine_with(Rules::hardened());
    for who in ["anna", "bert", "carl"] {
        by_hand(&mut engine, Some(who), "");
    }
    let lifted = pardon(&mut engine, &LiftTarget::User(user("bert")), NOW);
    assert_eq!(lifted.bans.iter().map(|ban| ban.id).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_64_is_forgiven_what_its_limits_counted_also_if_it_has_no_score() {
    let mut engine = engine_with(Rules::hardened());
    let visit = message("", "2001:db8::7");
    judge(&mut engine, &vec![visit.clone(); 3], 2, NOW);
    let lifted = pardon(&mut engine, &LiftTarget::Address(visit.subject.ip().expect("one")), NOW);
    assert_eq!(lifted.limits.len(), 1);
    assert_eq!(engine.overlay().counts(&visit, NOW)[0].usage.used, 0);
}

#[test]
fn an_ipv4_address_is_forgiven_as_it_is_written_in_both_ways_where_these_are_apart() {
    for (rules, want) in [(Rules::librechat(), 2), (Rules::hardened(), 1)] {
        let mut engine = engine_with(rules);
        for ip in ["192.0.2.7", "::ffff:192.0.2.7"] {
            judge_one(&mut engine, message("", ip), NOW);
        }
        let target = LiftTarget::Address([192, 0, 2, 7].into());
        assert_eq!(pardon(&mut engine, &target, NOW).bearers.len(), want);
        for ip in ["192.0.2.7", "::ffff:192.0.2.7"] {
            let counts = engine.overlay().counts(&message("", ip), NOW);
            assert_eq!(counts[0].usage.used, 0, "{ip}");
        }
    }
}

#[test]
fn bans_that_fell_together_are_lifted_together_also_when_it_is_forgotten_who_was_where() {
    let together = [
        ban(4, Some("bert"), "", None),
        ban(5, Some("anna"), "", None),
        ban(6, None, "192.0.2.7", Some(5)),
        ban(7, Some("carl"), "", None),
    ];
    for id in [5, 6] {
        let restored = Restored { bans: together.to_vec(), last_ban: 7, ..Restored::default() };
        let mut engine = Engine::new(Rules::hardened(), PrefixSet::default(), restored, SEED, NOW);
        let lifted = pardon(&mut engine, &LiftTarget::Ban(id), NOW);
        assert_eq!(lifted.bans.iter().map(|ban| ban.id).collect::<Vec<_>>(), [5, 6], "by {id}");
    }
}

#[test]
fn the_penalty_that_a_lifted_ban_was_is_told_and_one_whose_ban_is_over_too() {
    let mut rules = Rules::hardened();
    let steps = vec![Step::Ban { for_ms: 1_000 }; 2];
    let ladder = Ladder { steps, forget_after_ms: HOUR, severity: Severity::Medium };
    rules.ladders.set(ViolationType::LOGINS, Some(ladder));
    let mut engine = engine_with(rules);
    let bad = || violation(ViolationType::LOGINS, Some(20.0), "anna", "");
    judge_one(&mut engine, bad(), NOW);
    engine.expire(later(1_000));
    judge_one(&mut engine, bad(), later(1_000));
    let lifted = pardon(&mut engine, &LiftTarget::Ban(2), later(1_000));
    let bans: Vec<_> = lifted.penalties.iter().map(|penalty| penalty.ban()).collect();
    assert_eq!((lifted.bans.len(), bans), (1, vec![Some(1), Some(2)]));
}

#[test]
fn an_answer_is_held_against_whom_its_ban_is_about() {
    let bearer = |text: &str| Bearer::Address(text.parse().expect("an address"));
    let anna = || Bearer::User(user("anna"));
    let both = Some(ban(1, Some("anna"), "192.0.2.0/24", None));
    let cases = [
        (both.clone(), anna(), true),
        (both.clone(), Bearer::User(user("bert")), false),
        (both.clone(), bearer("192.0.2.7"), true),
        (both.clone(), bearer("198.51.100.7"), false),
        (both, Bearer::Account(Account::of("anna")), false),
        (Some(ban(1, None, "192.0.2.7", None)), anna(), false),
        (Some(ban(1, Some("anna"), "", None)), bearer("192.0.2.7"), false),
        (None, anna(), false),
    ];
    for (ban, bearer, want) in cases {
        let ban = ban.map(Arc::new);
        let outcome = Outcome { ban, ..Outcome::deny(Cause::Limited) };
        assert_eq!(outcome.is_held_against(&bearer), want, "{bearer:?}, {:?}", outcome.ban);
    }
}

#[test]
fn a_lift_forgets_the_answers_that_are_held_against_whom_it_names_and_no_others() {
    let mut engine = engine_with(Rules::hardened());
    for who in ["anna", "bert"] {
        let bad = violation(ViolationType::LOGINS, None, who, "");
        judge_one(&mut engine, Request { id: Some(who.into()), ..bad }, NOW);
    }
    pardon(&mut engine, &anna(), NOW);
    let left: Vec<_> = engine.answers.by_id.keys().map(|id| &**id).collect();
    assert_eq!((left, engine.answers.len()), (vec!["bert"], 1));
}
