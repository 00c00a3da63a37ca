//! Bans of every shape: whom they hold for, at what width they fall, who can
//! be banned at all, how they are lifted.

use super::*;

fn new(prefix: &str) -> NewBan {
    NewBan {
        user: None,
        prefix: prefix.parse().ok(),
        blocks: true,
        reason: "test".to_owned(),
        duration_ms: None,
        by: "root".into(),
    }
}

fn ban(engine: &mut Engine, new: NewBan, now: Moment) -> Result<Arc<Ban>, BanRefusal> {
    let mut overlay = engine.overlay();
    let ban = overlay.ban(new, now);
    let changes = overlay.into_changes();
    engine.apply(changes);
    ban
}

fn is_banned(engine: &Engine, ip: &str) -> bool {
    engine.overlay().ban_of(&subject("", ip), NOW).is_some()
}

#[test]
fn a_ban_holds_for_every_address_of_its_prefix_and_for_no_other() {
    let cases = [
        ("192.0.2.7", &["192.0.2.7", "::ffff:192.0.2.7"][..], &["192.0.2.8"][..]),
        ("192.0.2.0/24", &["192.0.2.0", "192.0.2.255"], &["192.0.3.0", "192.0.1.255"]),
        ("10.0.0.0/8", &["10.255.255.255"], &["11.0.0.0"]),
        ("2001:db8::/64", &["2001:db8::", "2001:db8::ffff"], &["2001:db8:0:1::"]),
        ("2001:db8::/48", &["2001:db8:0:ffff::1"], &["2001:db8:1::"]),
        ("2001:db8::5/128", &["2001:db8::5"], &["2001:db8::6"]),
    ];
    for (prefix, within, without) in cases {
        let mut engine = engine();
        ban(&mut engine, new(prefix), NOW).expect("nobody is protected");
        for ip in within {
            assert!(is_banned(&engine, ip), "{ip} in {prefix}");
        }
        for ip in without {
            assert!(!is_banned(&engine, ip), "{ip} in {prefix}");
        }
    }
}

#[test]
fn of_several_bans_around_an_address_the_longest_is_told() {
    let mut engine = engine();
    let durations =
        [("192.0.2.7", Some(1_000)), ("192.0.2.0/24", Some(3_000)), ("192.0.0.0/16", Some(2_000))];
    for (prefix, duration_ms) in durations {
        let new = NewBan { duration_ms, ..new(prefix) };
        ban(&mut engine, new, NOW).expect("nobody is protected");
    }
    let visitor = subject("", "192.0.2.7");
    let told = |engine: &Engine, now| {
        let overlay = engine.overlay();
        overlay.ban_of(&visitor, now).and_then(|ban| ban.prefix).map(|prefix| prefix.to_string())
    };
    assert_eq!(told(&engine, NOW).as_deref(), Some("192.0.2.0/24"));
    let mut overlay = engine.overlay();
    let forever = overlay.ban(new("192.0.2.0/25"), NOW).expect("there is room");
    assert_eq!(overlay.ban_of(&visitor, NOW), Some(&forever), "within a batch, too");
    drop(overlay);
    assert_eq!(told(&engine, later(3_000)), None);
}

#[test]
fn ipv6_is_banned_at_the_configured_width() {
    let cases = [
        (64, "2001:db8:1:2::/64"),
        (56, "2001:db8:1::/56"),
        (48, "2001:db8:1::/48"),
        (128, "2001:db8:1:2::3/128"),
    ];
    for (v6_prefix, want) in cases {
        let mut rules = rules();
        rules.ban.v6_prefix = v6_prefix;
        let mut engine = engine_with(rules);
        let bad = violation(ViolationType::NON_BROWSER, None, "", "2001:db8:1:2::3");
        let banned = judge_one(&mut engine, bad, NOW).ban.expect("20 points are a ban");
        assert_eq!(banned.prefix.map(|prefix| prefix.to_string()).as_deref(), Some(want));
        assert!(is_banned(&engine, "2001:db8:1:2::3"));
    }
}

#[test]
fn whoever_covers_or_holds_what_is_protected_cannot_be_banned() {
    let mut engine = engine();
    let trusted = [
        ("203.0.113.7/32", Trust::Guard),
        ("2001:db8:8::5/128", Trust::Guard),
        ("198.51.100.0/24", Trust::Allowlist),
        ("192.0.2.0/24", Trust::Proxy),
    ];
    let trusted = trusted.map(|(net, trust)| (net.parse().expect("a prefix"), trust));
    engine.set_trust(trusted.into_iter().collect());
    let cases = [
        ("203.0.113.7", false),
        ("203.0.113.0/24", false),
        ("2001:db8:8::/64", false),
        ("2001:db8::/32", false),
        ("198.51.100.9", false),
        ("198.51.100.0/24", false),
        ("198.51.0.0/16", true),
        ("192.0.2.9", true),
    ];
    for (prefix, can) in cases {
        let result = ban(&mut engine, new(prefix), NOW);
        assert_eq!(result.is_ok(), can, "{prefix}: {result:?}");
    }
    // The guarded address itself is elsewhere in the same /64: its neighbour is
    // banned alone.
    let bad = violation(ViolationType::NON_BROWSER, None, "", "2001:db8:8::99");
    let banned = judge_one(&mut engine, bad, NOW).ban.expect("a ban").prefix;
    assert_eq!(banned, "2001:db8:8::99/128".parse().ok());
    assert!(!is_banned(&engine, "198.51.100.9"), "it is allowed within a banned block");
    assert!(is_banned(&engine, "198.51.101.9"));
}

#[test]
fn a_ban_on_a_proxy_holds_and_asks_nothing_of_the_kernel() {
    let mut engine = engine();
    engine.set_trust(trust("192.0.2.0/24", Trust::Proxy));
    let by_hand = ban(&mut engine, new("192.0.2.9"), NOW).expect("it can be banned");
    let bad = violation(ViolationType::NON_BROWSER, None, "", "192.0.2.7");
    let by_rule = judge_one(&mut engine, bad, NOW).ban.expect("it can be banned");
    assert!(!by_hand.blocks && !by_rule.blocks);
    assert!(is_banned(&engine, "192.0.2.9") && is_banned(&engine, "192.0.2.7"));
}

#[test]
fn lifting_an_address_leaves_blocks_that_are_about_others_too() {
    let prefixes =
        ["192.0.2.7", "192.0.2.0/24", "2001:db8::/64", "2001:db8::5/128", "2001:db8::/48"];
    let cases = [
        (LiftTarget::Address("192.0.2.7".parse().expect("one")), &["192.0.2.7"][..]),
        (LiftTarget::Address("192.0.2.8".parse().expect("one")), &[]),
        (
            LiftTarget::Address("2001:db8::5".parse().expect("one")),
            &["2001:db8::/64", "2001:db8::5/128"],
        ),
        (LiftTarget::Prefix("192.0.2.0/24".parse().expect("one")), &["192.0.2.0/24"]),
        (LiftTarget::Prefix("2001:db8::/64".parse().expect("one")), &["2001:db8::/64"]),
    ];
    for (target, want) in cases {
        let mut engine = engine();
        for prefix in prefixes {
            ban(&mut engine, new(prefix), NOW).expect("nobody is protected");
        }
        let lifted = engine.overlay().lift(&target, "root", NOW).bans;
        let lifted: Vec<_> =
            lifted.iter().filter_map(|ban| Some(ban.prefix?.to_string())).collect();
        assert_eq!(lifted, want, "{target:?}");
    }
}

#[test]
fn there_is_room_for_so_many_exact_prefixes_and_so_many_networks() {
    let mut rules = rules();
    rules.bounds = Bounds { bans: 5, networks: 2, ..Bounds::default() };
    let mut engine = engine_with(rules);
    let mut result = |prefix: &str| ban(&mut engine, new(prefix), NOW).map(drop);
    assert_eq!(result("192.0.2.0/24"), Ok(()));
    assert_eq!(result("198.51.100.0/24"), Ok(()));
    assert_eq!(result("203.0.113.0/24"), Err(BanRefusal::Full));
    assert_eq!(result("192.0.2.0/24"), Ok(()), "it has its place already");
    assert_eq!(result("192.0.2.7"), Ok(()));
    engine.set_taken(Taken { exact: 4, networks: 0 });
    let mut result = |prefix: &str| ban(&mut engine, new(prefix), NOW).map(drop);
    assert_eq!(result("192.0.2.8"), Err(BanRefusal::Full), "imports took the others");
    assert_eq!(result("192.0.2.7"), Ok(()));
}
