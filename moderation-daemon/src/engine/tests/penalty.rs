//! What follows from a score: whether the kernel blocks, when rules have run
//! away, when many /64s become one block, what connections count for.

use proptest::prelude::*;

use super::*;

fn bad(ip: &str) -> Request {
    violation(ViolationType::NON_BROWSER, None, "", ip)
}

#[test]
fn the_kernel_blocks_at_once_at_the_second_ban_or_never() {
    let cases = [
        (NetworkBlock::Always, [true, true]),
        (NetworkBlock::Repeat, [false, true]),
        (NetworkBlock::Never, [false, false]),
    ];
    for (block, want) in cases {
        let mut rules = rules();
        rules.ban.network_block = NetworkBlocks::all(NetworkBlock::Always);
        rules.ban.network_block.set(ViolationType::NON_BROWSER, block);
        let mut engine = engine_with(rules);
        let blocks = [NOW, later(1)].map(|now| {
            let outcome = judge_one(&mut engine, bad("192.0.2.7"), now);
            outcome.ban.expect("20 points are a ban").blocks
        });
        assert_eq!(blocks, want, "{block:?}");
        let other = violation(ViolationType::LOGINS, Some(20.0), "", "192.0.2.8");
        assert!(judge_one(&mut engine, other, NOW).ban.expect("a ban").blocks, "another type");
    }
}

#[test]
fn when_rules_run_away_automatic_bans_stop_until_it_is_quiet() {
    let mut rules = rules();
    rules.ban.max_per_minute = 3;
    let mut engine = engine_with(rules);
    let visitors: Vec<_> = (1..=10).map(|i| bad(&format!("192.0.2.{i}"))).collect();
    for batch in [1, 4] {
        let start = later(batch as u64 * 600_000);
        let outcomes = judge(&mut engine, &visitors, batch, start);
        assert_eq!(bans(&outcomes), 3, "in batches of {batch}");
        assert_eq!(violations(&outcomes), 10, "scoring goes on");
        assert!(outcomes[3..].iter().all(|it| it.refusal == Some(BanRefusal::Runaway)));
        assert!(engine.is_runaway(start));
    }
    let stop = later(4 * 600_000 + 59_999);
    assert!(engine.is_runaway(stop));
    let operator = NewBan {
        user: None,
        prefix: "198.51.100.7".parse().ok(),
        blocks: true,
        reason: "test".to_owned(),
        duration_ms: None,
        by: "root".into(),
    };
    assert!(engine.overlay().ban(operator, stop).is_ok(), "operators are not affected");
    let quiet = later(4 * 600_000 + 60_000);
    assert!(!engine.is_runaway(quiet));
    assert!(judge_one(&mut engine, bad("198.51.100.8"), quiet).ban.is_some());
}

#[test]
fn when_there_is_no_room_for_another_address_the_user_is_banned_all_the_same() {
    let mut engine = engine();
    engine.set_taken(Taken { exact: 1_000_000, networks: 0 });
    let known = violation(ViolationType::NON_BROWSER, None, "anna", "192.0.2.7");
    let outcome = judge_one(&mut engine, known, NOW);
    let ban = outcome.ban.expect("the user can be banned");
    assert_eq!((ban.user.is_some(), ban.prefix), (true, None));
    assert_eq!(outcome.refusal, Some(BanRefusal::Full), "and it is counted");
    let outcome = judge_one(&mut engine, bad("192.0.2.8"), NOW);
    assert_eq!((outcome.ban, outcome.refusal), (None, Some(BanRefusal::Full)));
}

#[test]
fn calls_for_bans_that_cannot_fall_do_not_stop_those_that_can() {
    let mut rules = rules();
    rules.ban.max_per_minute = 1;
    let mut engine = engine_with(rules);
    engine.set_trust(trust("192.0.2.0/24", Trust::Guard));
    judge(&mut engine, &vec![bad("192.0.2.7"); 10], 3, NOW);
    assert!(judge_one(&mut engine, bad("198.51.100.7"), NOW).ban.is_some());
}

/// Bans `count` /64s of 2001:db8:1::/48, each in the /56 that `block` says.
fn ban_64s(engine: &mut Engine, count: u16, batch: usize, block: impl Fn(u16) -> u16) {
    let requests: Vec<_> =
        (0..count).map(|i| bad(&format!("2001:db8:1:{:x}::1", (block(i) << 8) | i))).collect();
    judge(engine, &requests, batch, NOW);
}

fn wide(engine: &Engine) -> Vec<String> {
    let prefixes = engine.bans().iter().filter_map(|ban| ban.prefix);
    let mut wide: Vec<_> =
        prefixes.filter(|it| !it.is_exact()).map(|prefix| prefix.to_string()).collect();
    wide.sort();
    wide
}

fn escalating(v6_56: Option<u32>, v6_48: Option<u32>) -> Engine {
    let mut rules = rules();
    rules.ban.max_per_minute = 10_000;
    rules.ban.escalation = Escalation { v6_56, v6_48 };
    engine_with(rules)
}

#[test]
fn many_banned_64s_in_one_block_make_the_block_banned_once() {
    for batch in [1, 3, 100] {
        let mut engine = escalating(Some(4), None);
        ban_64s(&mut engine, 3, batch, |_| 0);
        assert_eq!(wide(&engine), Vec::<String>::new(), "in batches of {batch}");
        ban_64s(&mut engine, 8, batch, |_| 0);
        assert_eq!(wide(&engine), ["2001:db8:1::/56"], "in batches of {batch}");
        assert_eq!(
            judge_one(&mut engine, message("", "2001:db8:1:ff::1"), NOW).cause,
            Some(Cause::Banned)
        );
        let block = engine.bans().iter().find(|ban| ban.prefix.is_some_and(|it| !it.is_exact()));
        let block = block.expect("it is banned");
        assert_eq!(block.expires_at_unix_ms, Some(NOW.unix_ms + 2 * 60 * 60_000));
        assert_eq!(block.reason, "4 of its /64s are banned");
        assert!(block.user.is_none() && block.blocks);
    }
}

#[test]
fn blocks_of_both_widths_fall_each_at_its_own_count() {
    for batch in [1, 100] {
        let mut engine = escalating(Some(5), Some(8));
        // Never five in one /56.
        ban_64s(&mut engine, 8, batch, |i| i % 2);
        assert_eq!(wide(&engine), ["2001:db8:1::/48"], "in batches of {batch}");
    }
    let mut engine = escalating(None, None);
    ban_64s(&mut engine, 100, 7, |_| 0);
    assert_eq!(wide(&engine), Vec::<String>::new());
}

#[test]
fn a_block_is_banned_for_nobody_s_sake_and_by_itself() {
    let address = "2001:db8:1:1::1";
    // Alone at the address, whose ban is the user's; and beside somebody else who broke
    // rules there, so that it has a ban of its own.
    for (other, want) in [(None, 2), (Some("bert"), 3)] {
        let mut rules = Rules::hardened();
        rules.ban.escalation = Escalation { v6_56: Some(1), v6_48: None };
        let mut engine = engine_with(rules);
        if let Some(other) = other {
            judge_one(&mut engine, violation(ViolationType::LOGINS, None, other, address), NOW);
        }
        judge_one(&mut engine, violation(ViolationType::NON_BROWSER, None, "anna", address), NOW);
        let bans: Vec<_> = engine.bans().iter().collect();
        assert_eq!(bans.len(), want, "{bans:?}");
        let wide = bans[want - 1];
        assert_eq!(wide.prefix, "2001:db8:1::/56".parse().ok());
        assert_eq!((&wide.user, wide.with, wide.score), (&None, None, None));
    }
}

#[test]
fn a_block_that_holds_what_is_trusted_is_not_escalated_to() {
    for (net, trust_as) in
        [("2001:db8:1:ffff::1/128", Trust::Guard), ("2001:db8::/32", Trust::Proxy)]
    {
        let mut engine = escalating(None, Some(4));
        engine.set_trust(trust(net, trust_as));
        ban_64s(&mut engine, 10, 3, |_| 0);
        assert_eq!(wide(&engine), Vec::<String>::new(), "{net}");
    }
    let mut engine = escalating(None, Some(4));
    engine.set_trust(trust("2001:db8:1:ffff::1/128", Trust::Allowlist));
    ban_64s(&mut engine, 10, 3, |_| 0);
    assert_eq!(wide(&engine), ["2001:db8:1::/48"], "what is allowed within it passes by itself");
}

#[test]
fn the_same_64_over_and_over_is_one() {
    let mut engine = escalating(Some(3), Some(3));
    judge(&mut engine, &vec![bad("2001:db8:1::1"); 20], 3, NOW);
    assert_eq!(engine.bans().len(), 20);
    assert_eq!(wide(&engine), Vec::<String>::new());
}

#[test]
fn connections_score_like_any_other_violation_unless_the_source_is_trusted() {
    let connections = |ip| violation(ViolationType::CONNECTION_RATE, None, "", ip);
    let mut engine = engine();
    engine.set_trust(
        [
            ("192.0.2.0/24".parse().expect("a prefix"), Trust::Proxy),
            ("198.51.100.0/24".parse().expect("a prefix"), Trust::Guard),
        ]
        .into_iter()
        .collect(),
    );
    for ip in ["192.0.2.7", "198.51.100.7"] {
        let outcomes = judge(&mut engine, &vec![connections(ip); 40], 7, NOW);
        assert_eq!((violations(&outcomes), bans(&outcomes)), (0, 0), "{ip}");
    }
    let outcomes = judge(&mut engine, &vec![connections("203.0.113.7"); 20], 7, NOW);
    assert_eq!((violations(&outcomes), bans(&outcomes)), (20, 1));
    assert_eq!(engine.size().scores, 1);
}

proptest! {
    /// However violations come, no minute sees more automatic bans of subjects
    /// than the limit, and it makes no difference where batches end.
    #[test]
    fn no_minute_has_more_automatic_bans_than_the_limit(
        limit in 1_u32..8,
        steps in prop::collection::vec((0_u64..20_000, 1_usize..6), 1..60),
    ) {
        let mut rules = rules();
        rules.ban.max_per_minute = limit;
        let mut engine = engine_with(rules);
        let mut fell = Vec::new();
        let mut now = NOW;
        let mut visitor = 0_u32;
        for (wait_ms, crowd) in steps {
            now.boot_ms += wait_ms;
            now.unix_ms += wait_ms;
            let requests: Vec<_> = (0..crowd)
                .map(|_| {
                    visitor += 1;
                    bad(&std::net::Ipv4Addr::from_bits(0xc633_0000 + visitor).to_string())
                })
                .collect();
            let outcomes = judge(&mut engine, &requests, 3, now);
            fell.extend(std::iter::repeat_n(now.boot_ms, bans(&outcomes)));
        }
        for window in fell.windows(limit as usize + 1) {
            prop_assert!(window[limit as usize] >= window[0] + 60_000, "{window:?}");
        }
    }
}
