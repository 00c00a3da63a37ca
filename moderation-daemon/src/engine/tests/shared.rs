//! Addresses that several people use, and that a ban never spreads.

use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000;
const OFFICE: &str = "192.0.2.7";

fn script(user: &str) -> Request {
    request(by_agent(EventType::MESSAGE, Some("curl/8.5.0")), subject(user, OFFICE))
}

/// An engine that has seen these users at the office.
fn office(users: &[&str]) -> Engine {
    let mut engine = engine_with(Rules::hardened());
    for user in users {
        judge_one(&mut engine, message(user, OFFICE), NOW);
    }
    engine
}

/// The active bans: whom, whether on an address, for how long in minutes.
fn rows(engine: &Engine) -> Vec<(Option<String>, bool, u64)> {
    let minutes = |ban: &Ban| (ban.ends() - ban.created_at_unix_ms) / MINUTE;
    let row = |ban: &Arc<Ban>| {
        (ban.user.as_ref().map(ToString::to_string), ban.prefix.is_some(), minutes(ban))
    };
    engine.bans().iter().map(row).collect()
}

#[test]
fn whoever_is_alone_at_an_address_is_banned_with_it() {
    let mut engine = office(&["anna"]);
    judge_one(&mut engine, script("anna"), NOW);
    assert_eq!(rows(&engine), [(Some("anna".to_owned()), true, 120)]);
}

#[test]
fn at_a_shared_address_one_culprit_is_banned_without_it() {
    let mut engine = office(&["anna", "bert"]);
    judge_one(&mut engine, script("anna"), NOW);
    assert_eq!(rows(&engine), [(Some("anna".to_owned()), false, 120)]);
    assert_eq!(judge_one(&mut engine, message("bert", OFFICE), NOW).verdict, Verdict::Allow);
}

#[test]
fn a_second_culprit_within_the_hour_has_the_address_banned_for_a_short_while() {
    for (wait_ms, want) in [(60 * MINUTE - 1, 2), (60 * MINUTE, 1)] {
        let mut engine = office(&["anna", "bert", "carl"]);
        judge_one(&mut engine, violation(ViolationType::LOGINS, None, "bert", OFFICE), NOW);
        let outcome = judge_one(&mut engine, script("anna"), later(wait_ms));
        let main = outcome.ban.expect("twenty points");
        assert_eq!(engine.bans().len(), want, "after {wait_ms} ms");
        if want == 2 {
            let both = [(Some("anna".to_owned()), false, 120), (None, true, 15)];
            assert_eq!(rows(&engine), both);
            let address = engine.bans().iter().last().expect("two");
            assert_eq!((address.with, address.blocks), (Some(main.id), true));
        }
    }
}

#[test]
fn strangers_who_broke_rules_at_a_shared_address_count_as_several() {
    let mut engine = office(&["anna", "bert"]);
    judge_one(&mut engine, violation(ViolationType::LOGINS, None, "", OFFICE), NOW);
    judge_one(&mut engine, script("anna"), NOW);
    assert_eq!(rows(&engine).len(), 2);
    let mut engine = office(&["anna", "bert"]);
    judge_one(&mut engine, script(""), NOW);
    assert_eq!(rows(&engine), [(None, true, 15)], "a stranger at a shared address");
    let mut engine = office(&["anna"]);
    judge_one(&mut engine, script(""), NOW);
    assert_eq!(rows(&engine), [(None, true, 120)], "that is anna, not logged in");
}

#[test]
fn an_address_is_no_longer_shared_a_day_after_the_others_left() {
    let mut engine = office(&["anna", "bert"]);
    let day = 24 * 60 * MINUTE;
    judge_one(&mut engine, message("anna", OFFICE), later(day - 1));
    judge_one(&mut engine, script("anna"), later(day));
    assert_eq!(rows(&engine), [(Some("anna".to_owned()), true, 120)]);
}

#[test]
fn an_address_of_which_nothing_can_be_known_is_taken_for_a_shared_one() {
    let bounds = Bounds { addresses: 1, ..Bounds::default() };
    let mut engine = engine_with(Rules { bounds, ..Rules::hardened() });
    judge_one(&mut engine, message("bert", "198.51.100.7"), NOW);
    judge_one(&mut engine, script("anna"), NOW);
    assert_eq!(rows(&engine), [(Some("anna".to_owned()), false, 120)]);
    assert_eq!(engine.memory.crowds.len(), 1);
}

#[test]
fn who_is_where_is_written_once_an_hour() {
    let engine = office(&["anna"]);
    let sightings = |ms| {
        let (overlay, request) = (engine.overlay(), message("anna", OFFICE));
        let decision = overlay.decide(&request, &overlay.counts(&request, NOW), later(ms));
        decision.changes.iter().filter(|change| matches!(change, Change::Seen(..))).count()
    };
    assert_eq!((sightings(60 * MINUTE - 1), sightings(60 * MINUTE)), (0, 1));
}

#[test]
fn both_rows_of_a_ban_are_lifted_by_either() {
    for by_main in [true, false] {
        let mut engine = office(&["anna", "bert"]);
        judge_one(&mut engine, script("bert"), NOW);
        judge_one(&mut engine, script("anna"), NOW);
        let numbers: Vec<_> = engine.bans().iter().map(|ban| ban.id).collect();
        assert_eq!(numbers.len(), 3, "bert; anna and the address");
        let target = LiftTarget::Ban(if by_main { numbers[1] } else { numbers[2] });
        let lifted: Vec<_> =
            pardon(&mut engine, &target, NOW).bans.iter().map(|ban| ban.id).collect();
        assert_eq!(lifted, numbers[1..], "bert stays banned");
        assert_eq!(judge_one(&mut engine, message("anna", OFFICE), NOW).verdict, Verdict::Allow);
    }
}

#[test]
fn who_is_lifted_is_let_in_where_a_neighbour_has_the_address_banned_and_the_neighbour_stays_out() {
    // Bert was the first, and banned alone; anna's ban took the address along.
    for (who, other) in [("bert", "anna"), ("anna", "bert")] {
        let mut engine = office(&["anna", "bert"]);
        judge_one(&mut engine, script("bert"), NOW);
        judge_one(&mut engine, script("anna"), NOW);
        for user in [who, other] {
            let outcome = judge_one(&mut engine, message(user, OFFICE), NOW);
            assert_eq!(outcome.cause, Some(Cause::Banned), "{user}");
        }
        let lifted = pardon(&mut engine, &LiftTarget::User(user(who)), NOW);
        let bans = lifted.bans.iter().map(|ban| (ban.user.clone(), ban.prefix.is_some()));
        let mut bans: Vec<_> = bans.collect();
        bans.sort();
        assert_eq!(bans, [(None, true), (Some(user(who)), false)], "it is told");
        let outcome = judge_one(&mut engine, message(who, OFFICE), NOW);
        assert_eq!(outcome.verdict, Verdict::Allow, "{who}");
        let outcome = judge_one(&mut engine, message(other, OFFICE), NOW);
        assert_eq!(outcome.cause, Some(Cause::Banned), "{other}");
    }
}

#[test]
fn who_is_lifted_stays_one_of_the_address_s_users_also_when_time_goes_on() {
    let mut engine = office(&["anna", "bert"]);
    judge_one(&mut engine, script("anna"), NOW);
    pardon(&mut engine, &LiftTarget::User(user("anna")), NOW);
    engine.expire(later(24 * 60 * MINUTE - 1));
    assert_eq!(engine.memory.crowds.len(), 1);
    // Carl comes in; were the two forgotten, he would be banned with the address.
    judge_one(&mut engine, message("carl", OFFICE), later(MINUTE));
    judge_one(&mut engine, script("carl"), later(MINUTE));
    assert_eq!(rows(&engine), [(Some("carl".to_owned()), false, 120)]);
}

#[test]
fn nobody_who_was_lifted_is_blamed_anywhere_however_many_are_lifted_at_once() {
    let mut engine = office(&["anna", "bert", "carl"]);
    for user in ["anna", "bert"] {
        judge_one(&mut engine, message(user, "198.51.100.7"), NOW);
        for place in [OFFICE, "198.51.100.7"] {
            judge_one(&mut engine, violation(ViolationType::LOGINS, None, user, place), NOW);
        }
    }
    let blamed_at = |engine: &Engine, who| engine.memory.view(None).blamed_at(&user(who)).len();
    assert_eq!((blamed_at(&engine, "anna"), blamed_at(&engine, "bert")), (2, 2));
    let mut overlay = engine.overlay();
    for who in ["anna", "bert"] {
        overlay.lift(&LiftTarget::User(user(who)), "root", NOW);
    }
    // Nor within the batch: carl is the only one who breaks rules.
    let last = script("carl");
    let decision = overlay.decide(&last, &overlay.counts(&last, NOW), NOW);
    let bans = decision.changes.iter().filter(|change| matches!(change, Change::Ban(_)));
    assert_eq!(bans.count(), 1, "without the address");
    let changes = overlay.into_changes();
    engine.apply(changes);
    assert_eq!((blamed_at(&engine, "anna"), blamed_at(&engine, "bert")), (0, 0));
}

/// The engine as the next daemon has it: bans, and who was banned where.
fn restarted(engine: &Engine, blamed: &[(&str, u64)], bounds: Bounds) -> Engine {
    let office = OFFICE.parse().expect("an address");
    let blamed = blamed.iter().map(|(who, ago)| (user(who), office, NOW.unix_ms - ago));
    let bans: Vec<Ban> = engine.bans().iter().map(|ban| ban.as_ref().clone()).collect();
    let last_ban = bans.iter().map(|ban| ban.id).max().unwrap_or(0);
    let restored = Restored { bans, last_ban, blamed: blamed.collect(), ..Restored::default() };
    let rules = Rules { bounds, ..Rules::hardened() };
    Engine::new(rules, PrefixSet::default(), restored, [1, 2], NOW)
}

#[test]
fn after_a_restart_whoever_was_banned_without_the_address_is_let_in_there_by_a_lift() {
    let mut engine = office(&["anna", "bert"]);
    judge_one(&mut engine, script("bert"), NOW);
    judge_one(&mut engine, script("anna"), NOW);
    let blamed = [("bert", 0), ("anna", 0)];
    let mut engine = restarted(&engine, &blamed, Bounds::default());
    pardon(&mut engine, &LiftTarget::User(user("bert")), NOW);
    assert_eq!(judge_one(&mut engine, message("bert", OFFICE), NOW).verdict, Verdict::Allow);
    assert_eq!(rows(&engine), [(Some("anna".to_owned()), false, 120)]);
}

#[test]
fn after_a_restart_an_address_is_still_shared_with_whoever_was_banned_there() {
    let hour = 60 * MINUTE;
    for (ago, want) in [(hour - 1, 3), (hour, 2)] {
        let mut engine = office(&["anna", "bert"]);
        judge_one(&mut engine, script("bert"), NOW);
        let mut engine = restarted(&engine, &[("bert", ago)], Bounds::default());
        judge_one(&mut engine, script("anna"), NOW);
        assert_eq!(rows(&engine).len(), want, "{ago} ms later");
        assert_eq!(rows(&engine)[1], (Some("anna".to_owned()), false, 120), "without the address");
    }
}

#[test]
fn of_too_many_who_were_banned_somewhere_the_latest_are_remembered() {
    let bounds = Bounds { addresses: 1, ..Bounds::default() };
    let engine = restarted(&office(&[]), &[("anna", 9), ("bert", 8), ("carl", 7)], bounds);
    assert_eq!(engine.size().forgotten.addresses, 2);
    let blamed_at = |who| engine.memory.view(None).blamed_at(&user(who)).len();
    assert_eq!(["anna", "bert", "carl"].map(blamed_at), [0, 0, 1]);
}

#[test]
fn both_short_bans_of_an_address_go_when_one_of_its_users_is_let_in() {
    let mut engine = office(&["anna", "bert", "carl"]);
    let reported = |kind, user| violation(kind, None, user, OFFICE);
    judge_one(&mut engine, reported(ViolationType::LOGINS, "carl"), NOW);
    for user in ["bert", "anna"] {
        judge_one(&mut engine, reported(ViolationType::NON_BROWSER, user), NOW);
    }
    assert_eq!(rows(&engine).len(), 4);
    pardon(&mut engine, &LiftTarget::User(user("anna")), NOW);
    assert_eq!(rows(&engine), [(Some("bert".to_owned()), false, 120)]);
    assert_eq!(judge_one(&mut engine, message("anna", OFFICE), NOW).verdict, Verdict::Allow);
}

#[test]
fn a_ban_in_one_row_needs_room_for_one() {
    let bounds = Bounds { bans: 1, ..Bounds::default() };
    for (users, culprit) in [(vec!["anna"], "anna"), (vec!["anna", "bert"], "")] {
        let mut engine = engine_with(Rules { bounds, ..Rules::hardened() });
        for user in users {
            judge_one(&mut engine, message(user, OFFICE), NOW);
        }
        let outcome = judge_one(&mut engine, script(culprit), NOW);
        assert_eq!((outcome.refusal, rows(&engine).len()), (None, 1), "{culprit:?}");
        assert!(rows(&engine)[0].1, "with the address");
    }
}

#[test]
fn a_ban_in_two_rows_needs_room_for_two() {
    let bounds = Bounds { bans: 2, ..Bounds::default() };
    let mut engine = engine_with(Rules { bounds, ..Rules::hardened() });
    for user in ["anna", "bert"] {
        judge_one(&mut engine, message(user, OFFICE), NOW);
    }
    judge_one(&mut engine, script("bert"), NOW);
    let outcome = judge_one(&mut engine, script("anna"), NOW);
    assert_eq!(outcome.refusal, Some(BanRefusal::Full), "of the address");
    assert_eq!(rows(&engine).len(), 2);
}

proptest! {
    /// Who is banned and goes elsewhere takes the ban along, and gives it to
    /// nobody: LibreChat copies it from the user to the address and back.
    #[test]
    fn a_ban_never_spreads(
        visits in prop::collection::vec((0_u8..4, 0_u8..6, 0_u64..1_000), 1..60),
        hardened in any::<bool>(),
    ) {
        let mut engine =
            engine_with(if hardened { Rules::hardened() } else { Rules::librechat() });
        let culprit = violation(ViolationType::NON_BROWSER, None, "anna", OFFICE);
        let ban = judge_one(&mut engine, culprit, NOW).ban.expect("twenty points");
        let mut now = NOW;
        for (act, place, wait_ms) in visits {
            now = Moment { boot_ms: now.boot_ms + wait_ms, unix_ms: now.unix_ms + wait_ms };
            let place = format!("198.51.100.{place}");
            let act = match act {
                0 => Act::Acquire,
                1 => Act::event(EventType::LOGIN),
                2 => by_agent(EventType::MESSAGE, Some("curl/8.5.0")),
                _ => Act::event(EventType::MESSAGE),
            };
            let outcome = judge_one(&mut engine, request(act, subject("anna", &place)), now);
            prop_assert_eq!(outcome.ban.as_ref(), Some(&ban));
            let other = judge_one(&mut engine, event(EventType::PROMPT_USAGE, "bert", &place), now);
            prop_assert!(other.cause != Some(Cause::Banned));
        }
        prop_assert_eq!(engine.bans().len(), 1);
    }
}
