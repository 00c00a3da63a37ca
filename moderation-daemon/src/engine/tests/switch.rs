//! What each switch of the rules changes, one at a time.

use super::*;

fn used(engine: &Engine, request: &Request, now: Moment) -> Vec<(&'static str, u64)> {
    let counts = engine.overlay().counts(request, now);
    counts.iter().map(|count| (count.limiter.name(), count.usage.used)).collect()
}

#[test]
fn what_a_rejected_event_uses_up_is_as_the_rules_say() {
    let cases = [
        (Commit::InOrder, true, [7, 7]),
        (Commit::InOrder, false, [7, 4]),
        (Commit::AllOrNone, true, [4, 7]),
        (Commit::AllOrNone, false, [4, 4]),
    ];
    for (commit, count_rejected, want) in cases {
        for batch in [1, 3, 10] {
            let mut rules = rules();
            rules.ban.enabled = false;
            rules.counting.commit = commit;
            set(&mut rules, Limiter::MESSAGE_IP, 100, 1_000);
            set(&mut rules, Limiter::MESSAGE_USER, 4, 1_000);
            for rule in &mut rules.limiters {
                rule.count_rejected = count_rejected;
            }
            let mut engine = engine_with(rules);
            let request = message("anna", "192.0.2.7");
            let outcomes = judge(&mut engine, &vec![request.clone(); 7], batch, NOW);
            assert_eq!((allowed(&outcomes), violations(&outcomes)), (4, 3));
            let want = vec![("message_ip", want[0]), ("message_user", want[1])];
            assert_eq!(used(&engine, &request, NOW), want, "{commit:?} {count_rejected} {batch}");
        }
    }
}

#[test]
fn a_limiter_counts_events_bytes_or_tokens() {
    let cost = Cost { bytes: 600, tokens: 20 };
    for (unit, max, want) in [(Unit::Events, 3, 3), (Unit::Bytes, 1_500, 2), (Unit::Tokens, 19, 0)]
    {
        let mut rules = rules();
        set(&mut rules, Limiter::MESSAGE_IP, max, 1_000);
        rules.limiter_mut(Limiter::MESSAGE_IP).expect("it is on").unit = unit;
        let mut engine = engine_with(rules);
        let act = Act::Event { kind: EventType::MESSAGE, user_agent: None, cost };
        let requests = vec![request(act, subject("anna", "192.0.2.7")); 4];
        assert_eq!(allowed(&judge(&mut engine, &requests, 3, NOW)), want, "{unit:?}");
    }
}

#[test]
fn a_limit_that_is_no_violation_only_says_no() {
    let mut engine = engine();
    let requests = vec![event(EventType::PROMPT_USAGE, "anna", ""); 31];
    let outcomes = judge(&mut engine, &requests, 7, NOW);
    assert_eq!((allowed(&outcomes), violations(&outcomes)), (30, 0));
    assert_eq!(outcomes[30].cause, Some(Cause::Limited));
    assert_eq!(engine.size().scores, 0);
}

#[test]
fn what_was_counted_in_vain_is_taken_back_once_while_it_counts() {
    for batch in [1, 10] {
        let mut engine = engine();
        let named = Request { id: Some("one".into()), ..message("anna", "192.0.2.7") };
        let refund = request(Act::Refund("one".into()), subject("anna", "192.0.2.7"));
        let steps = [named.clone(), message("anna", "192.0.2.7"), refund.clone(), refund.clone()];
        let outcomes = judge(&mut engine, &steps, batch, NOW);
        assert_eq!(outcomes[2].verdict, Verdict::Allow, "in batches of {batch}");
        assert_eq!(outcomes[3].cause, Some(Cause::NothingToRefund), "in batches of {batch}");
        assert_eq!(used(&engine, &named, NOW), [("message_ip", 1)], "in batches of {batch}");
        let retry = judge_one(&mut engine, named.clone(), NOW);
        assert_eq!(retry.verdict, Verdict::Allow);
        assert_eq!(used(&engine, &named, NOW), [("message_ip", 1)], "a retry counts nothing");
    }
}

#[test]
fn a_refund_takes_nothing_from_a_later_window() {
    for batch in [1, 10] {
        let mut engine = engine();
        let named = Request { id: Some("one".into()), ..message("anna", "192.0.2.7") };
        judge_one(&mut engine, named.clone(), NOW);
        let after = later(60_000);
        let refund = request(Act::Refund("one".into()), subject("anna", "192.0.2.7"));
        let outcomes = judge(&mut engine, &[message("anna", "192.0.2.7"), refund], batch, after);
        assert_eq!(allowed(&outcomes), 2, "it is remembered");
        assert_eq!(used(&engine, &named, after), [("message_ip", 1)], "in batches of {batch}");
    }
}

#[test]
fn a_rejected_request_has_nothing_to_take_back() {
    let mut engine = engine();
    judge(&mut engine, &vec![message("anna", "192.0.2.7"); 40], 40, NOW);
    let named = Request { id: Some("one".into()), ..message("anna", "192.0.2.7") };
    assert_eq!(judge_one(&mut engine, named, NOW).verdict, Verdict::Deny);
    let refund = request(Act::Refund("one".into()), subject("anna", "192.0.2.7"));
    assert_eq!(judge_one(&mut engine, refund, NOW).cause, Some(Cause::NothingToRefund));
}

#[test]
fn where_nobody_bears_the_points_of_strangers_they_are_told_no_and_that_is_all() {
    let mut rules = rules();
    rules.scoring.anonymous = Anonymous::Nobody;
    let mut engine = engine_with(rules);
    let outcomes = judge(&mut engine, &vec![event(EventType::LOGIN, "", "192.0.2.7"); 40], 9, NOW);
    assert_eq!((allowed(&outcomes), violations(&outcomes), bans(&outcomes)), (7, 0, 0));
    assert_eq!(outcomes[39].cause, Some(Cause::Violation(ViolationType::LOGINS)));
    assert_eq!(engine.size().scores, 0);
    let known = violation(ViolationType::LOGINS, None, "anna", "192.0.2.7");
    assert!(judge_one(&mut engine, known, NOW).violation.is_some());
}

#[test]
fn addresses_are_counted_at_their_width_and_mapped_ones_apart_or_not() {
    let cases = [
        (64, Mapped::AsIpv4, "2001:db8::1", "2001:db8::2", true),
        (128, Mapped::AsIpv4, "2001:db8::1", "2001:db8::2", false),
        (64, Mapped::AsIpv4, "192.0.2.7", "::ffff:192.0.2.7", true),
        (128, Mapped::Apart, "192.0.2.7", "::ffff:192.0.2.7", false),
    ];
    for (v6_bits, mapped, one, other, is_same) in cases {
        let mut rules = rules();
        rules.counting = Counting { v6_bits, mapped, ..rules.counting };
        let mut engine = engine_with(rules);
        judge_one(&mut engine, event(EventType::LOGIN, "", one), NOW);
        let other = event(EventType::LOGIN, "", other);
        assert_eq!(used(&engine, &other, NOW), [("login", u64::from(is_same))], "{one}");
    }
}

#[test]
fn a_limiter_counts_whom_it_says_and_nobody_else() {
    let all =
        Request { account: Some(Account::of("anna@example.org")), ..message("anna", "192.0.2.7") };
    let bearer = |text: &str| match text {
        "user" => Some(Bearer::User("anna".parse().expect("an id"))),
        "address" => Some(Bearer::Address("192.0.2.7".parse().expect("an address"))),
        "account" => Some(Bearer::Account(Account::of("anna@example.org"))),
        _ => None,
    };
    let anonymous = Request { account: all.account, ..message("", "192.0.2.7") };
    let cases = [
        (By::Address, ["address", "address", "address"]),
        (By::User, ["user", "", ""]),
        (By::UserElseAccountElseAddress, ["user", "account", "address"]),
        (By::AccountElseUser, ["account", "account", ""]),
        (By::Account, ["account", "account", ""]),
    ];
    for (by, want) in cases {
        let requests = [all.clone(), anonymous.clone(), message("", "192.0.2.7")];
        let got = requests.map(|request| rules().counted(by, &request));
        assert_eq!(got, want.map(bearer), "{by:?}");
    }
}

#[test]
fn a_ban_is_soft_or_ends_or_does_not() {
    let cases = [
        (BanLength::Soft, None, true),
        (BanLength::For(5), Some(Some(NOW.unix_ms + 5)), false),
        (BanLength::Forever, Some(None), false),
    ];
    for (length, want, logout) in cases {
        let mut rules = rules();
        rules.ban.length = length;
        let mut engine = engine_with(rules);
        let bad = violation(ViolationType::NON_BROWSER, None, "anna", "192.0.2.7");
        let outcome = judge_one(&mut engine, bad, NOW);
        assert_eq!(outcome.ban.map(|ban| ban.expires_at_unix_ms), want, "{length:?}");
        assert_eq!(outcome.logout, logout, "{length:?}");
        let violation = outcome.violation.expect("it is recorded");
        assert_eq!(violation.logout, logout, "{length:?}: with what came of it");
    }
}

#[test]
fn after_a_soft_ban_the_next_one_waits_for_as_many_points_again() {
    for mut rules in [Rules::librechat(), Rules::hardened()] {
        rules.ban.length = BanLength::Soft;
        let mut engine = engine_with(rules);
        let bad = |points| violation(ViolationType::LOGINS, Some(points), "anna", "");
        let logouts =
            [20.0, 1.0, 18.0, 1.0].map(|points| judge_one(&mut engine, bad(points), NOW).logout);
        assert_eq!(logouts, [true, false, false, true]);
    }
}

#[test]
fn a_violation_is_recorded_with_what_led_to_it() {
    let mut rules = rules();
    rules.ban.interval = 1.0;
    let mut engine = engine_with(rules);
    let acquire = request(Act::Acquire, subject("anna", ""));
    let outcomes = judge(&mut engine, &vec![acquire; 3], 3, NOW);
    let record = outcomes[2].violation.as_ref().expect("two is the limit");
    assert_eq!((record.pending, record.ban), (Some(2), Some(1)));
    let act = Act::Violation {
        kind: ViolationType::FLAGGED_CONTENT,
        points: Some(3.0),
        severity: Some(Severity::High),
        details: Some("hate".into()),
    };
    let outcome = judge_one(&mut engine, request(act, subject("bert", "")), NOW);
    let ban = outcome.ban.expect("an interval of 1");
    assert_eq!((ban.severity, &ban.by), (Some(Severity::High), &Author::Rule));
    let record = outcome.violation.expect("one");
    assert_eq!((record.severity, record.details.as_deref()), (Some(Severity::High), Some("hate")));
    assert_eq!((record.points, record.ban), (3.0, Some(ban.id)));
}

#[test]
fn leases_of_an_earlier_life_hold_their_place_and_their_request_is_known() {
    let anna = Bearer::User("anna".parse().expect("an id"));
    let leases = vec![(7, anna.clone(), Some("one".into())), (9, anna, None)];
    let restored = Restored { leases, ..Restored::default() };
    let mut engine = Engine::new(rules(), PrefixSet::default(), restored, SEED, NOW);
    let acquire = request(Act::Acquire, subject("anna", ""));
    assert_eq!(judge_one(&mut engine, acquire.clone(), NOW).verdict, Verdict::Deny);
    let retry = Request { id: Some("one".into()), ..acquire.clone() };
    let lease = judge_one(&mut engine, retry, NOW).lease.expect("it has one");
    assert_eq!((lease.id, lease.ends_at_boot_ms), (7, later(60_000).boot_ms));
    assert_eq!(judge_one(&mut engine, acquire, later(60_000)).verdict, Verdict::Allow);
}

#[test]
fn a_limiter_has_points_of_its_own_or_those_of_its_violation() {
    for (own, want) in [(None, 2.0), (Some(3.0), 3.0)] {
        let mut rules = rules();
        rules.scoring.points.set(ViolationType::FILE_UPLOAD_LIMIT, 2.0);
        rules.limiter_mut(Limiter::FORK_USER).expect("it is on").points = own;
        let mut engine = engine_with(rules);
        let forks = vec![event(EventType::FORK, "anna", ""); 8];
        let last = judge(&mut engine, &forks, 3, NOW).pop().expect("eight");
        let record = last.violation.expect("one more than seven");
        assert_eq!((record.points, record.kind), (want, ViolationType::FILE_UPLOAD_LIMIT));
    }
}

#[test]
fn no_lease_has_the_number_of_one_of_an_earlier_life_also_if_the_clock_went_back() {
    let anna = Bearer::User(user("anna"));
    let far = (NOW.unix_ms + 1_000_000) * 1_000;
    let leases = vec![(far, anna, None)];
    let restored = Restored { leases, ..Restored::default() };
    let mut engine = Engine::new(rules(), PrefixSet::default(), restored, SEED, NOW);
    let acquire = request(Act::Acquire, subject("bert", ""));
    let lease = judge_one(&mut engine, acquire, NOW).lease.expect("there is room");
    assert_eq!(lease.id, far + 1);
}

#[test]
fn leases_that_ended_are_told_of_again_if_they_could_not_be_written_down() {
    let mut engine = engine();
    let acquire = request(Act::Acquire, subject("anna", ""));
    let lease = judge_one(&mut engine, acquire, NOW).lease.expect("there is room");
    engine.expire(later(60_000));
    let lapsed = engine.take_lapsed_leases();
    assert_eq!(lapsed, [lease.id]);
    engine.put_lapsed_leases(lapsed);
    assert_eq!(engine.take_lapsed_leases(), [lease.id]);
    assert_eq!(engine.take_lapsed_leases(), [0; 0]);
}

#[test]
fn a_pardon_forgets_every_score_and_nobody_else_s() {
    let mut engine = engine();
    let kinds = [ViolationType::LOGINS, ViolationType::CONCURRENT];
    for (user, kind) in [("anna", kinds[0]), ("anna", kinds[1]), ("bert", kinds[0])] {
        judge_one(&mut engine, violation(kind, None, user, ""), NOW);
    }
    engine.apply(vec![Change::Pardon(Bearer::User("anna".parse().expect("an id")))]);
    let total = |engine: &mut Engine, user| {
        let outcome = judge_one(engine, violation(kinds[0], None, user, ""), NOW);
        outcome.violation.map(|violation| violation.total)
    };
    assert_eq!(total(&mut engine, "anna"), Some(1.0));
    assert_eq!(total(&mut engine, "bert"), Some(2.0));
}
