//! Wrong passwords by account, wherever they come from.

use super::*;

const DAY: u64 = 24 * 3_600_000;
const MINUTE: u64 = 60_000;

fn of(kind: EventType, account: &str, ip: &str) -> Request {
    let subject = if ip.is_empty() { subject("anna", "") } else { subject("", ip) };
    Request { account: Some(Account::of(account)), ..request(Act::event(kind), subject) }
}

fn login(engine: &mut Engine, ip: &str, now: Moment) -> Outcome {
    judge_one(engine, of(EventType::LOGIN, "anna@example.org", ip), now)
}

/// Wrong passwords, each from an address of its own.
fn failures(engine: &mut Engine, count: u64, now: Moment) -> Vec<Outcome> {
    let from =
        |i: u64| of(EventType::LOGIN_FAILURE, "Anna@example.org", &format!("198.51.100.{i}"));
    (0..count).map(|i| judge_one(engine, from(i), now)).collect()
}

#[test]
fn ten_wrong_passwords_from_ten_addresses_shut_the_account_for_all_that_it_does_not_know() {
    let mut engine = engine_with(Rules::hardened());
    assert_eq!(allowed(&failures(&mut engine, 9, NOW)), 9);
    assert_eq!(login(&mut engine, "203.0.113.7", NOW).verdict, Verdict::Allow);
    failures(&mut engine, 1, NOW);
    let denied = login(&mut engine, "203.0.113.8", NOW);
    assert_eq!((denied.verdict, denied.cause), (Verdict::Deny, Some(Cause::Limited)));
    let other = of(EventType::LOGIN, "bert@example.org", "203.0.113.8");
    assert_eq!(judge_one(&mut engine, other, NOW).verdict, Verdict::Allow, "another account");
    assert_eq!(login(&mut engine, "203.0.113.9", later(15 * MINUTE)).verdict, Verdict::Allow);
}

#[test]
fn asking_whether_it_is_used_up_uses_nothing_up() {
    let mut engine = engine_with(Rules::hardened());
    failures(&mut engine, 9, NOW);
    for i in 0..30 {
        let outcome = login(&mut engine, &format!("203.0.113.{i}"), NOW);
        assert_eq!(outcome.verdict, Verdict::Allow);
        let count = outcome.counts.last().expect("it was asked");
        assert_eq!((count.limiter, count.cost, count.remaining()), (Limiter::LOGIN_ACCOUNT, 0, 1));
    }
}

#[test]
fn who_logs_in_is_never_shut_out_of_the_addresses_that_the_account_uses() {
    for batch in [1, 2] {
        let mut engine = engine_with(Rules::hardened());
        let home = "203.0.113.7";
        let success = of(EventType::LOGIN_SUCCESS, "anna@example.org", home);
        judge(&mut engine, &[success.clone(), success], batch, NOW);
        failures(&mut engine, 20, NOW);
        assert_eq!(login(&mut engine, home, NOW).verdict, Verdict::Allow, "{batch}");
        assert_eq!(login(&mut engine, "203.0.113.8", NOW).verdict, Verdict::Deny, "{batch}");
        let almost = later(30 * DAY - 1);
        failures(&mut engine, 20, almost);
        assert_eq!(login(&mut engine, home, almost).verdict, Verdict::Allow, "{batch}");
        let month = later(30 * DAY);
        failures(&mut engine, 20, month);
        assert_eq!(login(&mut engine, home, month).verdict, Verdict::Deny, "it is forgotten");
    }
}

#[test]
fn a_right_password_takes_the_wrong_ones_back() {
    for batch in [1, 4] {
        let mut engine = engine_with(Rules::hardened());
        failures(&mut engine, 8, NOW);
        let requests = [
            of(EventType::LOGIN_FAILURE, "anna@example.org", "203.0.113.1"),
            of(EventType::LOGIN_SUCCESS, "anna@example.org", "203.0.113.1"),
            of(EventType::LOGIN_FAILURE, "anna@example.org", "203.0.113.2"),
            of(EventType::LOGIN, "anna@example.org", "203.0.113.2"),
        ];
        let outcomes = judge(&mut engine, &requests, batch, NOW);
        assert_eq!(allowed(&outcomes), 4);
        let last = outcomes[3].counts.last().expect("it was asked");
        assert_eq!((last.limiter, last.usage.used), (Limiter::LOGIN_ACCOUNT, 1), "{batch}");
    }
}

#[test]
fn a_right_password_takes_nothing_back_where_there_is_nothing() {
    let engine = engine_with(Rules::hardened());
    let success = of(EventType::LOGIN_SUCCESS, "anna@example.org", "203.0.113.1");
    let overlay = engine.overlay();
    let decision = overlay.decide(&success, &overlay.counts(&success, NOW), NOW);
    assert!(matches!(decision.changes[..], [Change::Known(..)]), "{:?}", decision.changes);
}

#[test]
fn the_address_bears_the_points_and_neither_the_account_nor_its_user_does() {
    let mut engine = engine_with(Rules::hardened());
    failures(&mut engine, 10, NOW);
    let mut claimed = of(EventType::LOGIN_FAILURE, "anna@example.org", "203.0.113.7");
    claimed.subject = subject("anna", "203.0.113.7");
    let record = judge_one(&mut engine, claimed, NOW).violation.expect("it is one");
    let address = Bearer::Address("203.0.113.7".parse().expect("an address"));
    assert_eq!((record.bearer.clone(), record.user.clone()), (address, None));
    let nowhere = of(EventType::LOGIN_FAILURE, "anna@example.org", "");
    let outcome = judge_one(&mut engine, nowhere, NOW);
    assert_eq!((outcome.verdict, outcome.violation), (Verdict::Deny, None));
}

#[test]
fn whoever_comes_from_a_new_address_while_strangers_try_is_told_no_and_nothing_is_scored() {
    for batch in [1, 7] {
        let mut engine = engine_with(Rules::hardened());
        failures(&mut engine, 10, NOW);
        let mut login = of(EventType::LOGIN, "anna@example.org", "203.0.113.7");
        login.subject = subject("anna", "203.0.113.7");
        let outcomes = judge(&mut engine, &vec![login; 40], batch, NOW);
        let limited = |outcome: &&Outcome| outcome.cause == Some(Cause::Limited);
        assert_eq!(outcomes.iter().filter(limited).count(), 40, "in batches of {batch}");
        assert_eq!((violations(&outcomes), bans(&outcomes)), (0, 0), "in batches of {batch}");
        assert_eq!(engine.scores.keys().count(), 0, "in batches of {batch}");
        assert!(outcomes.iter().all(|outcome| outcome.counts.last().is_some_and(Count::exceeds)));
    }
}

#[test]
fn trying_on_is_a_ban_of_the_address_alone() {
    let mut engine = engine_with(Rules::hardened());
    failures(&mut engine, 10, NOW);
    let mut banned = Vec::new();
    for i in 0..40 {
        let mut attempt = of(EventType::LOGIN_FAILURE, "anna@example.org", "203.0.113.7");
        attempt.subject = subject("anna", "203.0.113.7");
        banned.extend(judge_one(&mut engine, attempt, later(i * 10)).ban);
    }
    let ban = banned.first().expect("hammering is one");
    assert_eq!((ban.user.clone(), ban.prefix), (None, "203.0.113.7".parse().ok()));
    let elsewhere = judge_one(&mut engine, message("anna", "192.0.2.7"), NOW);
    assert_eq!(elsewhere.verdict, Verdict::Allow);
}

#[test]
fn pairs_of_account_and_address_are_bounded() {
    let bounds = Bounds { pairs: 2, ..Bounds::default() };
    let mut engine = engine_with(Rules { bounds, ..Rules::hardened() });
    for i in 0..9 {
        let ip = format!("203.0.113.{i}");
        judge_one(&mut engine, of(EventType::LOGIN_SUCCESS, "anna@example.org", &ip), later(i));
    }
    assert_eq!(engine.memory.known.len(), 2);
    assert_eq!(engine.size().forgotten, Forgotten { pairs: 7, ..Forgotten::default() });
    failures(&mut engine, 10, later(9));
    assert_eq!(login(&mut engine, "203.0.113.8", later(9)).verdict, Verdict::Allow, "the last");
    assert_eq!(login(&mut engine, "203.0.113.0", later(9)).verdict, Verdict::Deny, "the first");
}
