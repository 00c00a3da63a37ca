//! Users and roles that no rule ever bans.

use proptest::prelude::*;

use super::*;

fn protecting() -> Rules {
    let mut rules = Rules::hardened();
    rules.ban.max_per_minute = 100_000;
    rules.ban.protected.users.insert(user("anna"));
    rules.ban.protected.roles.insert("admin".into());
    let ladder = Ladder {
        steps: vec![Step::Ban { for_ms: 1_000 }, Step::Permanent],
        forget_after_ms: 1_000_000,
        severity: Severity::Medium,
    };
    rules.ladders.set(ViolationType::LOGINS, Some(ladder));
    rules
}

fn as_role(role: Option<&str>, request: Request) -> Request {
    let role = role.map(Into::into);
    Request { traits: Some(Traits { role, ..Traits::default() }), ..request }
}

fn bad(user: &str) -> Request {
    violation(ViolationType::NON_BROWSER, None, user, "192.0.2.7")
}

#[test]
fn neither_a_protected_user_nor_the_address_is_banned_and_the_score_grows_all_the_same() {
    let mut engine = engine_with(protecting());
    let outcomes = judge(&mut engine, &vec![bad("anna"); 3], 2, NOW);
    for outcome in &outcomes {
        assert_eq!((&outcome.ban, outcome.refusal), (&None, Some(BanRefusal::ProtectedUser)));
    }
    assert_eq!(outcomes[2].violation.as_ref().map(|it| it.total), Some(60.0));
    assert!(engine.bans().is_empty() && !engine.is_runaway(NOW));
    assert!(judge_one(&mut engine, bad("bert"), NOW).ban.is_some());
}

#[test]
fn a_role_protects_as_it_is_said_and_as_it_is_known() {
    let mut engine = engine_with(protecting());
    let said = judge_one(&mut engine, as_role(Some("admin"), bad("bert")), NOW);
    assert_eq!(said.refusal, Some(BanRefusal::ProtectedUser));
    let known = judge_one(&mut engine, bad("bert"), NOW);
    assert_eq!(known.refusal, Some(BanRefusal::ProtectedUser));
    let unsaid = judge_one(&mut engine, as_role(None, bad("bert")), NOW);
    assert_eq!(unsaid.refusal, Some(BanRefusal::ProtectedUser));
    let no_longer = judge_one(&mut engine, as_role(Some("user"), bad("bert")), NOW);
    assert!(no_longer.ban.is_some());
}

#[test]
fn nothing_critical_suspends_a_protected_user_and_no_ladder_bans_one() {
    let mut engine = engine_with(protecting());
    let (kind, severity) = (ViolationType::FLAGGED_CONTENT, Some(Severity::Critical));
    let critical = Act::Violation { kind, points: None, severity, details: None };
    let ladder = violation(ViolationType::LOGINS, Some(20.0), "anna", "192.0.2.7");
    for request in [request(critical, subject("anna", "192.0.2.7")), ladder] {
        let outcome = judge_one(&mut engine, request, NOW);
        assert_eq!((outcome.ban, outcome.penalty), (None, None));
        assert_eq!(outcome.refusal, Some(BanRefusal::ProtectedUser));
    }
}

#[test]
fn a_protected_user_is_let_in_where_others_had_the_address_banned() {
    let mut engine = engine_with(protecting());
    assert!(judge_one(&mut engine, bad("carl"), NOW).ban.is_some_and(|ban| ban.prefix.is_some()));
    let here = |user| message(user, "192.0.2.7");
    let cases = [
        ("anna", here("anna"), None),
        ("bert, whose role is not known", here("bert"), Some(Cause::Banned)),
        ("bert, whose role is said", as_role(Some("admin"), here("bert")), None),
        ("bert, whose role is known", here("bert"), None),
        ("carl", here("carl"), Some(Cause::Banned)),
        ("dora", here("dora"), Some(Cause::Banned)),
        ("a stranger", here(""), Some(Cause::Banned)),
    ];
    for (who, request, want) in cases {
        assert_eq!(judge_one(&mut engine, request, NOW).cause, want, "{who}");
    }
    let new = NewBan {
        user: None,
        prefix: "192.0.2.7".parse().ok(),
        blocks: true,
        reason: "test".to_owned(),
        // It ends before the rule's does.
        duration_ms: Some(1_000),
        by: "root".into(),
    };
    let mut overlay = engine.overlay();
    let ban = overlay.ban(new, NOW).expect("there is room");
    let changes = overlay.into_changes();
    engine.apply(changes);
    let told = judge_one(&mut engine, here("anna"), NOW);
    assert_eq!(told.ban.map(|ban| ban.id), Some(ban.id), "a person's word holds for all");
}

#[test]
fn when_people_run_out_no_protected_role_is_forgotten_and_tiers_and_other_roles_are_last() {
    let bounds = Bounds { people: 4, ..Bounds::default() };
    let says = |role: Option<&str>, tier: Option<&str>, request| Request {
        traits: Some(Traits {
            role: role.map(Into::into),
            tier: tier.map(Into::into),
            paying: Some(true),
            ..Traits::default()
        }),
        ..request
    };
    let here = |who: &str| message(who, "");
    let told = [
        says(Some("admin"), None, here("bert")),
        says(None, Some("gold"), here("carl")),
        says(Some("guest"), None, here("dora")),
    ];
    for batch in [1, 3, 100] {
        let rules = Rules { bounds, ..protecting() };
        let mut engine = engine_with(rules.clone());
        judge(&mut engine, &told, batch, NOW);
        let many: Vec<_> = (0..100).map(|i| says(None, None, here(&format!("user {i}")))).collect();
        judge(&mut engine, &many, batch, later(1));
        let known = |engine: &Engine, who: &str| engine.traits(&user(who)).is_some();
        for who in ["bert", "carl", "dora", "user 99"] {
            assert!(known(&engine, who), "{who}, in batches of {batch}");
        }
        let many: Vec<_> =
            (0..100).map(|i| says(None, Some("gold"), here(&format!("gold {i}")))).collect();
        judge(&mut engine, &many, batch, later(2));
        assert!(known(&engine, "bert") && !known(&engine, "carl") && !known(&engine, "dora"));
        let refused = judge_one(&mut engine, bad("bert"), later(3));
        assert_eq!(refused.refusal, Some(BanRefusal::ProtectedUser), "in batches of {batch}");
        // As it is read from a store that has kept more than there is room for.
        let traits =
            engine.memory.traits.iter().map(|(it, traits)| (it.clone(), traits.clone(), 1));
        let strangers = (0..9).map(|i| (user(&format!("a{i}")), Traits::default(), 9));
        let traits = traits.chain(strangers).collect();
        let restored = Restored { traits, ..Restored::default() };
        let next = Engine::new(rules, PrefixSet::default(), restored, SEED, NOW);
        assert!(known(&next, "bert") && known(&next, "gold 99") && !known(&next, "a8"));
    }
}

#[test]
fn a_person_can_ban_whom_no_rule_can() {
    let engine = engine_with(protecting());
    let new = NewBan {
        user: Some(user("anna")),
        prefix: None,
        blocks: true,
        reason: "test".to_owned(),
        duration_ms: None,
        by: "root".into(),
    };
    assert!(engine.overlay().ban(new, NOW).is_ok());
}

#[test]
fn a_ban_by_rules_elsewhere_does_not_reach_whom_no_rule_bans_here() {
    let mut engine = engine_with(protecting());
    judge_one(&mut engine, as_role(Some("admin"), message("bert", "")), NOW);
    judge_one(&mut engine, as_role(Some("guest"), message("carl", "")), NOW);
    let cases = [
        (Some("anna"), Author::Rule, false),
        (Some("anna"), Author::Operator("root".into()), true),
        (Some("bert"), Author::Rule, false),
        (Some("carl"), Author::Rule, true),
        (Some("dora"), Author::Rule, true),
        (None, Author::Rule, true),
    ];
    for (who, by, is_taken) in cases {
        let ban = Ban { by: by.clone(), ..ban(0, who, "198.51.100.7", None) };
        let taken = engine.overlay().take_ban(ban).map(|ban| ban.id);
        let want = if is_taken { Ok(1) } else { Err(BanRefusal::ProtectedUser) };
        assert_eq!(taken, want, "{who:?} by {by:?}");
    }
}

proptest! {
    /// Anna by name, bert by role, and the address that only bert uses; anna shares
    /// hers with dora, who is banned with it. Carl's is allowed.
    #[test]
    fn no_sequence_of_events_bans_a_protected_user_role_or_address(
        steps in prop::collection::vec((0_u8..4, 0_u8..7, 0_u64..60_000), 1..80),
        batch in 1_usize..5,
    ) {
        let mut engine = engine_with(protecting());
        engine.set_trust(trust("198.51.100.0/24", Trust::Allowlist));
        let mut now = NOW;
        for (who, what, wait_ms) in steps {
            now = Moment { boot_ms: now.boot_ms + wait_ms, unix_ms: now.unix_ms + wait_ms };
            engine.expire(now);
            let severity = (what == 4).then_some(Severity::Critical);
            let act = match what {
                0 => Act::event(EventType::LOGIN),
                1 => by_agent(EventType::MESSAGE, Some("curl/8.5.0")),
                2 => Act::Acquire,
                3 => Act::violation(ViolationType::NON_BROWSER),
                4 => Act::Violation {
                    kind: ViolationType::FLAGGED_CONTENT, points: None, severity, details: None,
                },
                5 => Act::Violation {
                    kind: ViolationType::LOGINS, points: Some(25.0), severity, details: None,
                },
                _ => Act::event(EventType::MESSAGE),
            };
            let request = match who {
                0 => request(act, subject("anna", "192.0.2.7")),
                1 => as_role(Some("admin"), request(act, subject("bert", "192.0.2.8"))),
                2 => request(act, subject("carl", "198.51.100.9")),
                _ => request(act, subject("dora", "192.0.2.7")),
            };
            let is_protected = who < 2;
            for outcome in judge(&mut engine, &vec![request; 5], batch, now) {
                prop_assert!(!is_protected || outcome.cause != Some(Cause::Banned));
            }
            let of_dora = Some("192.0.2.7".parse().expect("an address"));
            for ban in engine.bans().iter() {
                let user = ban.user.as_ref().map(UserId::as_str);
                prop_assert!(matches!(user, None | Some("carl" | "dora")), "{:?}", ban);
                prop_assert!(ban.prefix.is_none() || ban.prefix == of_dora, "{:?}", ban);
            }
            let anna = subject("anna", "192.0.2.7");
            let overlay = engine.overlay();
            prop_assert_eq!(overlay.ban_of(&anna, now), None);
        }
        let last = judge_one(&mut engine, violation(ViolationType::NON_BROWSER, None, "carl", ""), now);
        prop_assert!(last.ban.is_some());
    }
}
