//! Lifting is one act, and leaves no trace.

use proptest::prelude::*;

use super::*;

const HOUR: u64 = 3_600_000;

fn target(id: &str) -> LiftTarget {
    LiftTarget::User(user(id))
}

fn used(engine: &Engine, request: &Request) -> Vec<u64> {
    engine.overlay().counts(request, NOW).iter().map(|count| count.usage.used).collect()
}

#[test]
fn the_user_every_address_the_scores_the_windows_and_the_answers_are_let_go_in_one_act() {
    let mut engine = engine_with(Rules::hardened());
    let named = Request {
        id: Some("one".into()),
        ..violation(ViolationType::NON_BROWSER, None, "anna", "192.0.2.8")
    };
    judge(&mut engine, &vec![message("anna", "192.0.2.7"); 5], 2, NOW);
    let kinds = [ViolationType::LOGINS, ViolationType::NON_BROWSER];
    for kind in kinds {
        judge_one(&mut engine, violation(kind, Some(20.0), "anna", "192.0.2.7"), NOW);
    }
    assert!(judge_one(&mut engine, named.clone(), NOW).ban.is_some());
    let lifted = pardon(&mut engine, &target("anna"), NOW);
    assert_eq!(lifted.bans.len(), 3);
    let address = |text: &str| Bearer::Address(text.parse().expect("an address"));
    let bearers = [Bearer::User(user("anna")), address("192.0.2.7"), address("192.0.2.8")];
    assert_eq!(lifted.bearers, bearers);
    assert!(engine.bans().is_empty());
    assert_eq!(engine.size().scores, 0);
    assert_eq!(used(&engine, &message("anna", "192.0.2.7")), [0]);
    assert!(engine.answers.by_id.is_empty() && engine.answers.by_age.is_empty());
    let retry = judge_one(&mut engine, named, NOW);
    assert_eq!(retry.ban, None, "it is not told of a ban that is no more");
    assert_eq!(judge_one(&mut engine, message("anna", "192.0.2.7"), NOW).verdict, Verdict::Allow);
}

#[test]
fn the_next_single_violation_does_not_ban_again_whatever_its_points() {
    let worst = || violation(ViolationType::NON_BROWSER, Some(1e6), "anna", "192.0.2.7");
    for rules in [Rules::librechat(), Rules::hardened()] {
        for batch in [1, 2] {
            let mut engine = engine_with(rules.clone());
            judge_one(&mut engine, worst(), NOW);
            pardon(&mut engine, &target("anna"), NOW);
            let outcomes = judge(&mut engine, &[worst(), worst()], batch, NOW);
            assert_eq!(outcomes[0].ban, None);
            let record = outcomes[0].violation.as_ref().expect("it is recorded");
            assert_eq!((record.points, record.total), (10.0, 10.0), "and scored");
            assert!(outcomes[1].ban.is_some(), "only the first one is spared");
        }
    }
}

#[test]
fn without_an_interval_there_is_no_half_of_it_to_which_points_are_cut_after_a_lift() {
    let mut rules = rules();
    rules.ban.interval = 0.0;
    let mut engine = engine_with(rules);
    let bad = || violation(ViolationType::LOGINS, Some(3.0), "anna", "");
    assert!(judge_one(&mut engine, bad(), NOW).ban.is_some(), "as LibreChat has it");
    pardon(&mut engine, &target("anna"), NOW);
    let spared = judge_one(&mut engine, bad(), NOW);
    assert_eq!(spared.violation.map(|it| (it.points, it.ban)), Some((3.0, None)));
}

#[test]
fn what_is_critical_is_not_spared_whoever_says_so() {
    let kind = ViolationType::FLAGGED_CONTENT;
    let says = |severity| {
        let act = Act::Violation { kind, points: Some(1.0), severity, details: None };
        request(act, subject("anna", "192.0.2.7"))
    };
    let step = vec![Step::Warning { message: "slowly".into() }];
    let critical = Ladder { steps: step, forget_after_ms: HOUR, severity: Severity::Critical };
    for (ladder, severity) in [(None, Some(Severity::Critical)), (Some(critical), None)] {
        let mut rules = Rules::hardened();
        rules.ladders.set(kind, ladder);
        let mut engine = engine_with(rules);
        judge_one(&mut engine, violation(ViolationType::NON_BROWSER, None, "anna", ""), NOW);
        pardon(&mut engine, &target("anna"), NOW);
        let suspended = judge_one(&mut engine, says(severity), NOW);
        assert!(suspended.ban.is_some_and(|ban| ban.review), "said: {severity:?}");
        let points = suspended.violation.expect("it is recorded").points;
        assert_eq!(points, 1.0);
    }
}

#[test]
fn grace_is_the_user_s_and_the_address_s() {
    let mut engine = engine_with(Rules::hardened());
    let bad = |user| violation(ViolationType::NON_BROWSER, None, user, "192.0.2.7");
    judge_one(&mut engine, bad("anna"), NOW);
    pardon(&mut engine, &target("anna"), NOW);
    assert_eq!(judge_one(&mut engine, bad(""), NOW).ban, None);
    assert_eq!(judge_one(&mut engine, bad("anna"), NOW).ban, None);
    assert!(judge_one(&mut engine, bad(""), NOW).ban.is_some());
}

#[test]
fn one_offence_less_for_each_ban_that_is_lifted() {
    let mut engine = engine_with(Rules::hardened());
    let bad = || violation(ViolationType::NON_BROWSER, None, "anna", "");
    let level = |engine: &Engine| {
        engine.offence(&Bearer::User(user("anna"))).map_or(0.0, |offence| offence.level)
    };
    judge_one(&mut engine, bad(), NOW);
    engine.expire(later(2 * HOUR));
    judge_one(&mut engine, bad(), later(2 * HOUR));
    assert!((level(&engine) - 2.0).abs() < 0.01);
    pardon(&mut engine, &target("anna"), later(2 * HOUR));
    assert!((level(&engine) - 1.0).abs() < 0.01, "one had run out, it was earned");
    pardon(&mut engine, &target("anna"), later(2 * HOUR));
    assert!((level(&engine) - 1.0).abs() < 0.01, "nothing to lift, nothing to forgive");
}

#[test]
fn nothing_to_lift_is_nothing_to_forget() {
    let mut engine = engine_with(Rules::hardened());
    judge_one(&mut engine, violation(ViolationType::LOGINS, None, "anna", "192.0.2.7"), NOW);
    let before = fingerprint(&engine);
    for target in [
        target("bert"),
        LiftTarget::Ban(1),
        LiftTarget::Penalty(1),
        LiftTarget::Address("192.0.2.7".parse().expect("one")),
        LiftTarget::Prefix("192.0.2.7".parse().expect("one")),
        LiftTarget::Prefix("192.0.2.0/24".parse().expect("one")),
    ] {
        assert_eq!(pardon(&mut engine, &target, NOW), Lifted::default());
    }
    assert_eq!(fingerprint(&engine), before);
}

#[test]
fn what_has_led_to_no_ban_is_forgiven_whoever_is_named() {
    let mut soft = Rules::librechat();
    soft.ban.length = BanLength::Soft;
    let cases = [
        ("points below the line", Rules::hardened(), 5.0, "anna", ""),
        ("a ban without a length", soft, 20.0, "anna", ""),
        ("points of an address", Rules::hardened(), 5.0, "", "192.0.2.7"),
    ];
    for (what, rules, points, who, ip) in cases {
        let mut engine = engine_with(rules);
        let bad = violation(ViolationType::LOGINS, Some(points), who, ip);
        judge_one(&mut engine, bad, NOW);
        judge(&mut engine, &vec![message(who, ip); 3], 2, NOW);
        assert!(engine.bans().is_empty(), "{what}");
        let target = match ip.parse() {
            Ok(ip) => LiftTarget::Address(ip),
            Err(_) => target(who),
        };
        let lifted = pardon(&mut engine, &target, NOW);
        assert_eq!((lifted.bans.len(), lifted.bearers.len()), (0, 1), "{what}");
        let scores = lifted.scores.iter().map(|(key, points)| (key.kind, *points));
        assert_eq!(scores.collect::<Vec<_>>(), [(ViolationType::LOGINS, points)], "{what}");
        assert_eq!(engine.size().scores, 0, "{what}");
        assert!(used(&engine, &message(who, ip)).iter().all(|used| *used == 0), "{what}");
        assert_eq!(pardon(&mut engine, &target, NOW), Lifted::default(), "{what}, again");
    }
}

#[test]
fn what_limits_counted_and_penalties_are_forgiven_without_a_ban_and_told() {
    let mut rules = Rules::hardened();
    let steps = vec![Step::Warning { message: "slowly".into() }];
    let ladder = Ladder { steps, forget_after_ms: HOUR, severity: Severity::Medium };
    rules.ladders.set(ViolationType::LOGINS, Some(ladder));
    let mut engine = engine_with(rules);
    let address = LiftTarget::Address("192.0.2.7".parse().expect("one"));
    judge(&mut engine, &vec![message("", "192.0.2.7"); 5], 2, NOW);
    let lifted = pardon(&mut engine, &address, NOW);
    let limits: Vec<_> = lifted.limits.iter().map(|(_, limiter)| *limiter).collect();
    assert_eq!((limits, lifted.scores), (vec![Limiter::MESSAGE_IP], vec![]));
    let bad = violation(ViolationType::LOGINS, Some(20.0), "anna", "");
    judge_one(&mut engine, bad, NOW);
    let lifted = pardon(&mut engine, &target("anna"), NOW);
    assert_eq!((lifted.bans.len(), lifted.penalties.len()), (0, 1));
    assert!(engine.penalties_of(&Bearer::User(user("anna"))).is_empty());
}

#[test]
fn the_automatic_block_around_a_lifted_address_goes_too_and_its_neighbours_stay_banned() {
    let mut rules = Rules::hardened();
    rules.ban.escalation = Escalation { v6_56: Some(3), v6_48: None };
    let mut engine = engine_with(rules);
    for i in 1..=3 {
        let ip = format!("2001:db8:1:{i}::1");
        judge_one(&mut engine, violation(ViolationType::NON_BROWSER, None, "", &ip), NOW);
    }
    assert_eq!(engine.bans().len(), 4);
    let first = LiftTarget::Address("2001:db8:1:1::1".parse().expect("one"));
    let lifted = pardon(&mut engine, &first, NOW);
    let prefixes: Vec<_> =
        lifted.bans.iter().filter_map(|ban| Some(ban.prefix?.to_string())).collect();
    assert_eq!(prefixes, ["2001:db8:1:1::/64", "2001:db8:1::/56"]);
    for (ip, banned) in
        [("2001:db8:1:1::1", false), ("2001:db8:1:2::1", true), ("2001:db8:1:9::1", false)]
    {
        let outcome = judge_one(&mut engine, message("", ip), NOW);
        assert_eq!(outcome.cause == Some(Cause::Banned), banned, "{ip}");
    }
}

#[test]
fn a_block_that_a_person_banned_stays() {
    let mut engine = engine_with(Rules::hardened());
    by_hand(&mut engine, None, "2001:db8:1::/56");
    let bad = violation(ViolationType::NON_BROWSER, None, "", "2001:db8:1:1::1");
    judge_one(&mut engine, bad, NOW);
    let narrow = LiftTarget::Address("2001:db8:1:1::1".parse().expect("one"));
    assert_eq!(pardon(&mut engine, &narrow, NOW).bans.len(), 1);
    assert_eq!(engine.bans().len(), 1);
}

#[test]
fn where_addresses_are_counted_narrower_than_they_are_banned_all_of_them_are_pardoned() {
    let mut rules = Rules::hardened();
    rules.counting.v6_bits = 128;
    let mut engine = engine_with(rules);
    let bad = |points, ip| violation(ViolationType::LOGINS, Some(points), "", ip);
    judge_one(&mut engine, bad(5.0, "2001:db8::1"), NOW);
    judge_one(&mut engine, bad(5.0, "2001:db8:0:1::1"), NOW);
    judge_one(&mut engine, bad(20.0, "2001:db8::2"), NOW);
    let lifted =
        pardon(&mut engine, &LiftTarget::Prefix("2001:db8::/64".parse().expect("one")), NOW);
    assert_eq!(lifted.bearers.len(), 2);
    assert_eq!(engine.size().scores, 1, "that of another /64");
}

#[test]
fn a_mapped_address_that_is_counted_apart_is_pardoned_with_its_ipv4_address() {
    let mut rules = Rules::librechat();
    rules.scoring.anonymous = Anonymous::Address;
    let mut engine = engine_with(rules);
    let mapped = "::ffff:192.0.2.7";
    judge_one(&mut engine, violation(ViolationType::LOGINS, Some(20.0), "", mapped), NOW);
    pardon(&mut engine, &LiftTarget::Address("192.0.2.7".parse().expect("one")), NOW);
    assert_eq!((engine.size().scores, engine.bans().len()), (0, 0));
}

#[test]
fn what_limits_counted_before_a_lift_is_not_brought_back_by_a_file_that_is_older() {
    let cases = [(0, 0), (9_999, 0), (10_000, 5)];
    let profiles = [Rules::hardened(), Rules::librechat()];
    for (rules, (written_after_ms, want)) in
        profiles.iter().flat_map(|it| cases.map(|case| (it, case)))
    {
        let mut engine = engine_with(rules.clone());
        judge(&mut engine, &vec![message("anna", "192.0.2.7"); 5], 1, NOW);
        let mut file = engine.windows_head("boot");
        let mut pass = Pass::whole();
        while !pass.is_done() {
            engine.write_windows(&mut pass, 1_000, later(written_after_ms), &mut file);
        }
        let bad = violation(ViolationType::NON_BROWSER, None, "anna", "192.0.2.7");
        judge_one(&mut engine, bad, NOW);
        let lifted = pardon(&mut engine, &target("anna"), NOW);
        // The next life has the store's word for it.
        let offences = lifted.bearers.iter();
        let offences = offences.map(|it| (it.clone(), engine.offence(it).expect("grace")));
        let restored = Restored { offences: offences.collect(), ..Restored::default() };
        let now = later(written_after_ms);
        let mut next = Engine::new(rules.clone(), PrefixSet::default(), restored, SEED, now);
        next.restore_windows(&file, "boot", now).expect("whole");
        let counts = next.overlay().counts(&message("anna", "192.0.2.7"), now);
        assert_eq!(counts[0].usage.used, want, "written {written_after_ms} ms after the lift");
    }
}

#[test]
fn a_file_of_windows_is_read_with_the_seed_that_it_was_written_with_and_with_no_other() {
    let mut engine = engine_with(Rules::hardened());
    judge_one(&mut engine, message("", "192.0.2.7"), NOW);
    let mut file = engine.windows_head("boot");
    let mut pass = Pass::whole();
    while !pass.is_done() {
        engine.write_windows(&mut pass, 1_000, NOW, &mut file);
    }
    for (seed, is_read) in [(SEED, true), ([2, 1], false), ([0, 0], false)] {
        let (trust, restored) = (PrefixSet::default(), Restored::default());
        let mut next = Engine::new(Rules::hardened(), trust, restored, seed, NOW);
        assert_eq!(next.restore_windows(&file, "boot", NOW).is_ok(), is_read, "{seed:?}");
        assert_eq!(next.size().windows, usize::from(is_read));
    }
    // Those that are over need not be written any more, whether they have changed since.
    judge_one(&mut engine, message("", "192.0.2.7"), NOW);
    judge_one(&mut engine, message("", "192.0.2.8"), NOW);
    engine.expire(later(HOUR));
    assert_eq!(engine.size().windows, 0);
}

/// What a user did at an address, and what others did elsewhere.
fn any_story() -> impl Strategy<Value = Vec<(bool, u8, u64)>> {
    prop::collection::vec((any::<bool>(), 0_u8..6, 0_u64..30_000), 1..60)
}

fn act(kind: u8) -> Act {
    match kind {
        0 => Act::event(EventType::LOGIN),
        1 => by_agent(EventType::MESSAGE, Some("curl/8.5.0")),
        2 => Act::violation(ViolationType::ILLEGAL_MODEL_REQUEST),
        3 => Act::violation(ViolationType::CONCURRENT),
        _ => Act::event(EventType::MESSAGE),
    }
}

proptest! {
    /// As if anna had never been there, but for the grace that a lift gives.
    #[test]
    fn lifting_leaves_no_trace(story in any_story(), batch in 1_usize..8, hardened in any::<bool>()) {
        let mut rules = if hardened { Rules::hardened() } else { Rules::librechat() };
        set(&mut rules, Limiter::MESSAGE_IP, 3, 10_000);
        rules.ban.max_per_minute = 10_000;
        let steps = vec![
            Step::Warning { message: "slowly".into() },
            Step::Reduce { factor_permille: 500, for_ms: HOUR },
            Step::Ban { for_ms: HOUR },
        ];
        let ladder = Ladder { steps, forget_after_ms: 24 * HOUR, severity: Severity::Medium };
        rules.ladders.set(ViolationType::ILLEGAL_MODEL_REQUEST, Some(ladder));
        let (mut seen, mut never) = (engine_with(rules.clone()), engine_with(rules));
        let mut now = NOW;
        let anna = |kind| Request {
            id: Some("hers".into()),
            ..request(act(kind), subject("anna", "192.0.2.7"))
        };
        for (is_anna, kind, wait_ms) in story {
            now = Moment { boot_ms: now.boot_ms + wait_ms, unix_ms: now.unix_ms + wait_ms };
            if is_anna {
                judge(&mut seen, &vec![Request { id: None, ..anna(kind) }; 3], batch, now);
            } else {
                let bert = request(act(kind), subject("bert", "198.51.100.7"));
                judge(&mut seen, &vec![bert.clone(); 2], batch, now);
                judge(&mut never, &vec![bert; 2], batch, now);
            }
        }
        judge_one(&mut seen, violation(ViolationType::LOGINS, Some(1e3), "anna", "192.0.2.7"), now);
        prop_assert!(!pardon(&mut seen, &target("anna"), now).bans.is_empty());
        let is_about_numbers = |line: &String| {
            line.starts_with("offence") && (line.contains("anna") || line.contains("192.0.2.7"))
        };
        let bans = |engine: &Engine| engine.bans().iter().map(|ban| {
            (ban.user.clone(), ban.prefix, ban.ends())
        }).collect::<Vec<_>>();
        prop_assert_eq!(bans(&seen), bans(&never));
        let penalties = |engine: &Engine| {
            let of_bert = engine.penalties_of(&Bearer::User(user("bert"))).iter();
            of_bert.map(|it| (it.kind.name(), it.starts_at_unix_ms)).collect::<Vec<_>>()
        };
        prop_assert_eq!(penalties(&seen), penalties(&never));
        prop_assert!(seen.penalties_of(&Bearer::User(user("anna"))).is_empty());
        let rest = |engine: &Engine| {
            let mut lines = fingerprint(engine);
            // Bans and penalties are compared above, but for their numbers.
            let is_numbered = |line: &String| line.starts_with("ban ") || line.starts_with("penalty ");
            lines.retain(|line| !is_about_numbers(line) && !is_numbered(line));
            lines
        };
        prop_assert_eq!(rest(&seen), rest(&never));
        let request = message("anna", "192.0.2.7");
        prop_assert_eq!(used(&seen, &request), used(&never, &request));
    }
}
