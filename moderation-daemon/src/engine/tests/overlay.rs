//! What one batch sees of itself: tables that fill up within it, and what it takes back.

use proptest::prelude::*;

use super::*;

fn bounded(bounds: Bounds) -> Engine {
    engine_with(Rules { bounds, ..rules() })
}

fn bad(user: &str) -> Request {
    violation(ViolationType::LOGINS, None, user, "")
}

/// Judges on an overlay, and lays what comes of it over the engine.
fn decide(overlay: &mut Overlay<'_>, request: &Request) -> Outcome {
    let decision = overlay.decide(request, &overlay.counts(request, NOW), NOW);
    overlay.push(&decision);
    decision.outcome
}

fn by_hand(prefix: &str) -> NewBan {
    NewBan {
        user: None,
        prefix: prefix.parse().ok(),
        blocks: true,
        reason: "by hand".to_owned(),
        duration_ms: None,
        by: "root".into(),
    }
}

#[test]
fn newcomers_share_a_window_in_batches_of_any_size_and_who_has_one_of_his_own_does_not() {
    for batch in [1, 2, 5, 100] {
        let mut engine = bounded(Bounds { windows: 3, ..Bounds::default() });
        let visits: Vec<_> =
            (0..100).map(|i| event(EventType::LOGIN, "", &format!("192.0.2.{i}"))).collect();
        let outcomes = judge(&mut engine, &visits, batch, NOW);
        assert_eq!(allowed(&outcomes), 3 + 7, "in batches of {batch}");
        assert!(engine.size().windows <= 4, "in batches of {batch}");
    }
    let mut engine = bounded(Bounds { windows: 1, ..Bounds::default() });
    let twice = vec![event(EventType::LOGIN, "", "192.0.2.1"); 2];
    let mut overlay = engine.overlay();
    let in_one_batch = twice.iter().map(|it| overlay.judge(it, NOW)).collect();
    for outcomes in [in_one_batch, judge(&mut engine, &twice, 2, NOW)] {
        let is_shared = |outcome: &Outcome| outcome.counts[0].is_shared;
        assert!(!outcomes.iter().any(is_shared), "it is his from then on");
    }
}

#[test]
fn a_score_makes_room_only_if_there_is_none() {
    let users = |engine: &Engine| {
        let mut users: Vec<_> = engine.scores.keys().map(|key| key.bearer.clone()).collect();
        users.sort();
        users
    };
    let named = |names: &[&str]| names.iter().map(|it| Bearer::User(user(it))).collect::<Vec<_>>();
    // Four have room: two are there, one comes often, and another one.
    let mut engine = bounded(Bounds { scores: 4, ..Bounds::default() });
    judge(&mut engine, &["anna", "bert"].map(bad), 1, NOW);
    judge(&mut engine, &["carl", "carl", "carl", "dora"].map(bad), 4, NOW);
    assert_eq!(users(&engine), named(&["anna", "bert", "carl", "dora"]));

    // One who is forgiven leaves room, whether of this batch or before it.
    for lifted in ["bert", "carl"] {
        let mut engine = bounded(Bounds { scores: 3, ..Bounds::default() });
        judge(&mut engine, &["anna", "bert"].map(bad), 1, NOW);
        let mut overlay = engine.overlay();
        decide(&mut overlay, &bad("carl"));
        overlay.lift(&LiftTarget::User(user(lifted)), "root", NOW);
        decide(&mut overlay, &bad("dora"));
        let changes = overlay.into_changes();
        engine.apply(changes);
        let mut want = named(&["anna", "bert", "carl", "dora"]);
        want.retain(|bearer| *bearer != Bearer::User(user(lifted)));
        assert_eq!(users(&engine), want, "without {lifted}");
    }
}

#[test]
fn bans_have_room_by_what_stands_what_is_new_and_what_is_lifted() {
    let non_browser = |ip: &str| violation(ViolationType::NON_BROWSER, None, "", ip);
    let mut engine = bounded(Bounds { bans: 3, ..Bounds::default() });
    judge(&mut engine, &["192.0.2.1", "192.0.2.2"].map(non_browser), 1, NOW);
    let more = ["192.0.2.3", "192.0.2.4", "192.0.2.5"].map(non_browser);
    assert_eq!(bans(&judge(&mut engine, &more, 3, NOW)), 1);

    let mut overlay = engine.overlay();
    assert_eq!(overlay.ban(by_hand("192.0.2.9"), NOW), Err(BanRefusal::Full));
    overlay.lift(&LiftTarget::Ban(1), "root", NOW);
    let of_user = |name| NewBan { user: Some(user(name)), prefix: None, ..by_hand("") };
    assert!(overlay.ban(of_user("anna"), NOW).is_ok(), "in the place of the one lifted");
    assert_eq!(overlay.ban(of_user("bert"), NOW), Err(BanRefusal::Full));
}

#[test]
fn places_in_the_kernel_are_those_that_stand_those_that_are_new_and_others_ones() {
    let exact = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let wide = ["198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/24"];
    for prefixes in [exact, wide] {
        let mut engine = bounded(Bounds { bans: 5, networks: 5, ..Bounds::default() });
        engine.set_taken(Taken { exact: 3, networks: 3 });
        let mut overlay = engine.overlay();
        assert!(overlay.ban(by_hand(prefixes[0]), NOW).is_ok());
        let changes = overlay.into_changes();
        engine.apply(changes);
        let mut overlay = engine.overlay();
        assert!(overlay.ban(by_hand(prefixes[1]), NOW).is_ok(), "the fifth place");
        assert_eq!(overlay.ban(by_hand(prefixes[2]), NOW), Err(BanRefusal::Full));
        assert!(overlay.ban(by_hand(prefixes[1]), NOW).is_ok(), "it has its place");
        let user = NewBan { user: Some(user("anna")), prefix: None, ..by_hand("") };
        assert!(overlay.ban(user, NOW).is_ok(), "it needs none");
    }
}

#[test]
fn a_ban_by_hand_is_enforced_unless_nobody_wants_that_or_it_is_a_proxy_s() {
    let mut engine = engine();
    engine.set_trust(trust("198.51.100.0/24", Trust::Proxy));
    let cases = [
        ("192.0.2.7", true, true),
        ("192.0.2.7", false, false),
        ("198.51.100.7", true, false),
        ("198.51.100.7", false, false),
    ];
    for (prefix, blocks, want) in cases {
        let new = NewBan { blocks, ..by_hand(prefix) };
        let ban = engine.overlay().ban(new, NOW).expect("there is room");
        assert_eq!(ban.blocks, want, "{prefix}, wanted: {blocks}");
    }
}

#[test]
fn a_lease_is_renewed_and_given_back_as_long_as_it_runs_also_within_a_batch() {
    let mut engine = engine();
    let acquire = request(Act::Acquire, subject("anna", ""));
    let id = judge_one(&mut engine, acquire, NOW).lease.expect("there is room").id;
    let ends = |lease: Option<Lease>| lease.map(|lease| lease.ends_at_boot_ms);
    for is_late in [false, true] {
        let mut overlay = engine.overlay();
        let at = later(if is_late { 60_000 } else { 59_999 });
        let want = (!is_late).then_some(at.boot_ms + 60_000);
        assert_eq!(ends(overlay.renew(id, at)), want);
        assert_eq!(overlay.release(id, at), !is_late);
        assert!(!overlay.release(id, at), "once only");
        assert_eq!(overlay.renew(id, at), None, "it is given back");
    }
    let mut overlay = engine.overlay();
    assert!(overlay.renew(id, later(50_000)).is_some());
    assert_eq!(ends(overlay.renew(id, later(90_000))), Some(later(150_000).boot_ms));
    assert!(!overlay.release(id + 1, NOW), "there is none of that number");
}

#[test]
fn a_lift_within_a_batch_forgets_the_answers_of_whoever_is_lifted_and_of_nobody_else() {
    let mut rules = rules();
    set(&mut rules, Limiter::MESSAGE_IP, 1, 60_000);
    let engine = engine_with(rules);
    let named = |user: &str, ip: &str| Request { id: Some(user.into()), ..message(user, ip) };
    let (anna, bert) = (named("anna", "192.0.2.7"), named("bert", "192.0.2.8"));
    let mut overlay = engine.overlay();
    for request in [message("anna", "192.0.2.7"), message("bert", "192.0.2.8")] {
        assert_eq!(decide(&mut overlay, &request).verdict, Verdict::Allow);
    }
    for request in [&anna, &bert] {
        assert_eq!(decide(&mut overlay, request).verdict, Verdict::Deny);
    }
    overlay.lift(&LiftTarget::User(user("anna")), "root", NOW);
    overlay.lift(&LiftTarget::Address([192, 0, 2, 7].into()), "root", NOW);
    overlay.lift(&LiftTarget::Address([192, 0, 2, 8].into()), "root", NOW);
    assert_eq!(decide(&mut overlay, &anna).verdict, Verdict::Allow, "judged anew");
    assert_eq!(decide(&mut overlay, &bert).verdict, Verdict::Deny, "as it was told before");
}

/// A ban by hand of one of a few /64s, or the lift of one.
fn any_step() -> impl Strategy<Value = (bool, u8)> {
    (prop::bool::weighted(0.7), 0_u8..6)
}

fn prefix_of(number: u8) -> Prefix {
    // Two of them are in another /56.
    let block = if number < 4 { 0 } else { 1 };
    format!("2001:db8:0:{block}0{number}::/64").parse().expect("a prefix")
}

#[test]
fn what_counts_no_longer_is_not_taken_back_and_its_request_has_had_its_turn() {
    let visit = Request { id: Some("one".into()), ..message("", "192.0.2.7") };
    let refund = request(Act::Refund("one".into()), visit.subject.clone());
    for rules in [Rules::librechat(), Rules::hardened()] {
        let mut engine = engine_with(rules);
        judge_one(&mut engine, visit.clone(), NOW);
        for (after_ms, want) in [(0, 1), (59_999, 1), (60_000, 0)] {
            let decision = engine.overlay().decide(&refund, &[], later(after_ms));
            let is_refund = |change: &&Change| matches!(change, Change::Refund(_));
            let refunds = decision.changes.iter().filter(is_refund).count();
            assert_eq!((refunds, decision.changes.len()), (want, want + 1), "{after_ms} ms");
        }
    }
}

proptest! {
    /// Against counting one by one, whatever stood before the batch.
    #[test]
    fn the_64s_of_a_block_that_are_banned_are_counted_across_a_batch(
        before in prop::collection::vec(any_step(), 0..10),
        within in prop::collection::vec(any_step(), 0..10),
        // It is asked about blocks around the one that is banned.
        with in 0_u8..4,
    ) {
        let mut engine = engine();
        let take = |overlay: &mut Overlay<'_>, steps: &[(bool, u8)]| {
            for (is_ban, number) in steps {
                let prefix = prefix_of(*number);
                if *is_ban {
                    let new = NewBan { prefix: Some(prefix), ..by_hand("") };
                    overlay.ban(new, NOW).expect("there is room");
                } else {
                    overlay.lift(&LiftTarget::Prefix(prefix), "root", NOW);
                }
            }
        };
        let mut overlay = engine.overlay();
        take(&mut overlay, &before);
        let changes = overlay.into_changes();
        engine.apply(changes);
        let mut overlay = engine.overlay();
        take(&mut overlay, &within);
        let block: Prefix = "2001:db8::/56".parse().expect("a block");
        let is_banned = |number: &u8| {
            let prefix = prefix_of(*number);
            prefix == prefix_of(with) || overlay.bans_of_prefix(prefix).next().is_some()
        };
        let want = (0..4).filter(is_banned).count();
        prop_assert_eq!(overlay.banned_64s(block, prefix_of(with)), want);
    }
}
