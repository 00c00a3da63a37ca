//! What is gathered about a subject: all that holds, and nothing of anybody else.

use super::*;

fn laddered() -> Rules {
    let mut rules = rules();
    let steps = vec![Step::Reduce { factor_permille: 500, for_ms: 1_000 }];
    let ladder = Ladder { steps, forget_after_ms: 10_000, severity: Severity::Medium };
    rules.ladders.set(ViolationType::LOGINS, Some(ladder));
    rules
}

fn about(engine: &Engine, user: &str, ip: &str, now: Moment) -> Dossier {
    engine.dossier(&subject(user, ip), now)
}

#[test]
fn bans_are_those_that_hold_for_the_user_or_around_the_address() {
    let mut engine = engine();
    judge_one(&mut engine, violation(ViolationType::NON_BROWSER, None, "anna", "192.0.2.7"), NOW);
    judge_one(&mut engine, violation(ViolationType::NON_BROWSER, None, "bert", "192.0.2.8"), NOW);
    let ids = |user, ip, now| {
        about(&engine, user, ip, now).bans.iter().map(|ban| ban.id).collect::<Vec<_>>()
    };
    for (user, ip) in [("anna", ""), ("", "192.0.2.7"), ("anna", "192.0.2.7"), ("anna", "10.0.0.1")]
    {
        assert_eq!(ids(user, ip, NOW), [1], "{user} at {ip}");
    }
    assert_eq!(ids("anna", "192.0.2.8", NOW), [1, 2]);
    assert_eq!(ids("carl", "192.0.2.9", NOW), [0; 0]);
    assert_eq!(ids("anna", "", later(2 * 3_600_000)), [0; 0], "it has run out");
}

#[test]
fn penalties_are_those_that_hold_for_the_user_or_around_the_address() {
    let mut engine = engine_with(laddered());
    let bad = |user, ip| violation(ViolationType::LOGINS, Some(20.0), user, ip);
    for (user, ip) in [("anna", "192.0.2.7"), ("bert", "192.0.2.8"), ("", "192.0.2.9")] {
        judge_one(&mut engine, bad(user, ip), NOW);
    }
    let ids = |user, ip, now| {
        about(&engine, user, ip, now).penalties.iter().map(|it| it.id).collect::<Vec<_>>()
    };
    assert_eq!(ids("anna", "", NOW), [1]);
    assert_eq!(ids("anna", "192.0.2.9", NOW), [1, 3]);
    assert_eq!(ids("", "192.0.2.9", NOW), [3]);
    assert_eq!(ids("", "192.0.2.7", NOW), [0; 0], "it is anna's");
    assert_eq!(ids("carl", "192.0.2.7", NOW), [0; 0]);
    assert_eq!(ids("anna", "192.0.2.9", later(1_000)), [0; 0], "they are over");
}

#[test]
fn scores_are_the_user_s_and_the_address_s_of_which_something_is_left() {
    let mut rules = rules();
    rules.scoring.decay = Decay::Ttl { ms: 1_000 };
    let mut engine = engine_with(rules);
    judge_one(&mut engine, violation(ViolationType::LOGINS, Some(3.0), "anna", "192.0.2.7"), NOW);
    judge_one(&mut engine, violation(ViolationType::CONCURRENT, Some(0.0), "anna", ""), NOW);
    judge_one(&mut engine, violation(ViolationType::LOGINS, Some(5.0), "", "192.0.2.7"), NOW);
    let scores = |user, ip, now| {
        let scores = about(&engine, user, ip, now).scores;
        scores.iter().map(|(key, score)| (key.kind, score.shown())).collect::<Vec<_>>()
    };
    let logins = ViolationType::LOGINS;
    assert_eq!(scores("anna", "192.0.2.7", later(999)), [(logins, 3.0), (logins, 5.0)]);
    assert_eq!(scores("anna", "", NOW), [(logins, 3.0)]);
    assert_eq!(scores("anna", "192.0.2.7", later(1_000)), []);
    assert_eq!(scores("bert", "192.0.2.8", NOW), []);
}

#[test]
fn limits_are_those_of_which_something_is_used_up_each_once() {
    let mut engine = engine();
    judge(&mut engine, &vec![message("anna", "192.0.2.7"); 3], 1, NOW);
    let limits = |user, ip| {
        let limits = about(&engine, user, ip, NOW).limits;
        limits.iter().map(|it| (it.limiter, it.usage.used)).collect::<Vec<_>>()
    };
    assert_eq!(limits("anna", "192.0.2.7"), [(Limiter::MESSAGE_IP, 3)]);
    assert_eq!(limits("bert", "192.0.2.7"), [(Limiter::MESSAGE_IP, 3)], "by address");
    assert_eq!(limits("anna", "192.0.2.8"), []);
}

#[test]
fn a_window_that_newcomers_share_says_nothing_about_one_of_them() {
    let bounds = Bounds { windows: 1, ..Bounds::default() };
    let mut engine = engine_with(Rules { bounds, ..rules() });
    for ip in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        judge_one(&mut engine, message("", ip), NOW);
    }
    assert_eq!(about(&engine, "", "192.0.2.1", NOW).limits.len(), 1);
    assert_eq!(about(&engine, "", "192.0.2.2", NOW).limits, []);
}

#[test]
fn leases_are_those_that_have_not_ended() {
    let mut engine = engine();
    let acquire = request(Act::Acquire, subject("anna", ""));
    let lease = judge_one(&mut engine, acquire, NOW).lease.expect("there is room");
    let ids =
        |user, now| about(&engine, user, "", now).leases.iter().map(|it| it.id).collect::<Vec<_>>();
    assert_eq!(ids("anna", later(59_999)), [lease.id]);
    assert_eq!(ids("anna", later(60_000)), [0; 0]);
    assert_eq!(ids("bert", NOW), [0; 0]);
}

#[test]
fn offences_are_as_much_as_is_left_of_them_now() {
    let mut engine = engine_with(Rules::hardened());
    judge_one(&mut engine, violation(ViolationType::NON_BROWSER, None, "anna", ""), NOW);
    let half_life = Rules::hardened().ban.growth.expect("it is on").half_life_ms;
    for (now, want) in [(NOW, 1.0), (later(half_life), 0.5)] {
        let offences = about(&engine, "anna", "192.0.2.7", now).offences;
        let levels: Vec<_> = offences.iter().map(|(_, offence)| offence.level).collect();
        assert_eq!(levels, [want]);
    }
    assert_eq!(about(&engine, "bert", "", NOW).offences, []);
}

#[test]
fn whoever_is_protected_or_trusted_is_told_to_be() {
    let mut rules = rules();
    rules.ban.protected.users.insert(user("root"));
    let mut engine = engine_with(rules);
    engine.set_trust(trust("192.0.2.0/24", Trust::Allowlist));
    let of = |user, ip| {
        let dossier = about(&engine, user, ip, NOW);
        (dossier.is_protected, dossier.trusted.map(|it| it.trust))
    };
    assert_eq!(of("root", "198.51.100.7"), (true, None));
    assert_eq!(of("anna", "192.0.2.7"), (false, Some(Trust::Allowlist)));
    assert_eq!(about(&engine, "anna", "", NOW), Dossier::default(), "nothing is known");
}
