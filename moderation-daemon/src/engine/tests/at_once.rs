//! What passes at once, counted without an overlay: which requests do, where they no
//! longer do, and that it can be taken back. That this leads where the long way does is
//! tested beside that.

use super::*;

const HERE: &str = "192.0.2.7";
const CHROME: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36";

/// Lets as many pass as do; what limiters said of them is in the queue.
fn pass(engine: &mut Engine, requests: &[Request], now: Moment) -> (usize, Queue) {
    let mut queue = Queue::default();
    engine.prepare(&mut queue, requests);
    (engine.pass_all(&mut queue, requests, now), queue)
}

fn passed(engine: &mut Engine, requests: &[Request]) -> usize {
    pass(engine, requests, NOW).0
}

/// The hardened rules, and users who are known where they are, which takes no window.
fn at_home(bounds: Bounds, users: &[&str]) -> Engine {
    let mut engine = engine_with(Rules { bounds, ..Rules::hardened() });
    for user in users {
        judge_one(&mut engine, event(EventType::LOGIN_SUCCESS, user, HERE), NOW);
    }
    assert_eq!(engine.size().windows, 0);
    engine
}

fn fork(user: &str) -> Request {
    event(EventType::FORK, user, HERE)
}

#[test]
fn plain_events_pass_at_once_until_the_first_of_their_limits_is_used_up() {
    let by = |agent| request(by_agent(EventType::MESSAGE, Some(agent)), subject("", HERE));
    let account = Some(Account::of("anna"));
    let named = Request { id: Some("one".into()), ..message("", HERE) };
    let said = Request { traits: Some(Traits::default()), ..message("", HERE) };
    let cases = [
        ("of an address", message("", HERE), 40),
        ("of a browser", by(CHROME), 40),
        ("of a user without an address", event(EventType::PROMPT_USAGE, "anna", ""), 30),
        ("of a user where he is known", event(EventType::PROMPT_USAGE, "anna", HERE), 30),
        ("for two limiters, of which the second is lower", fork("anna"), 7),
        ("for two limiters, of which one counts nobody", fork(""), 30),
        ("that no limiter counts", event(EventType::LOGIN_FAILURE, "", HERE), 100),
        ("of a user who is new there", message("anna", "192.0.2.8"), 0),
        ("of a script", by("curl/8.5.0"), 0),
        ("that has a name", named, 0),
        ("of somebody of whom something is said", said, 0),
        ("that peeks", event(EventType::LOGIN, "", HERE), 0),
        ("that takes back", Request { account, ..event(EventType::LOGIN_SUCCESS, "", HERE) }, 0),
        ("that is none", request(Act::Acquire, subject("anna", HERE)), 0),
    ];
    for (what, request, want) in cases {
        let mut engine = at_home(Bounds::default(), &["anna"]);
        let requests = vec![request.clone(); 100];
        let before = fingerprint(&engine);
        let (passed, queue) = pass(&mut engine, &requests, NOW);
        assert_eq!(passed, want, "{what}");
        assert_eq!(fingerprint(&engine), before, "{what}: counts alone have changed");
        for place in 0..passed {
            let counts = queue.counts(place);
            let used = |count: &Count| (count.usage.used, count.is_shared) == (place as u64, false);
            assert!(counts.iter().all(used), "{what}: {counts:?}");
        }
        let counts = engine.overlay().counts(&request, NOW);
        assert!(counts.iter().all(|count| count.usage.used == want as u64), "{what}: {counts:?}");
    }
}

#[test]
fn adaptive_and_tiered_limits_are_no_matter_of_a_moment() {
    let mut tiered = Rules::hardened();
    tiered.limiter_mut(Limiter::MESSAGE_IP).expect("it is on").is_tiered = true;
    for rules in [tiered, property::strict_hardened()] {
        assert_eq!(passed(&mut engine_with(rules), &[message("", HERE)]), 0);
    }
}

#[test]
fn a_ban_keeps_from_passing_at_once_whom_it_may_be_about_and_nobody_else() {
    let mut engine = at_home(Bounds::default(), &["anna"]);
    by_hand(&mut engine, Some("bert"), "");
    by_hand(&mut engine, None, "198.51.100.0/24");
    let prompt = |user, ip| event(EventType::PROMPT_USAGE, user, ip);
    let cases = [
        ("anna", HERE, 1),
        ("anna", "", 1),
        ("", HERE, 1),
        ("bert", "", 0),
        ("bert", HERE, 0),
        ("", "198.51.100.7", 0),
        ("anna", "198.51.100.7", 0),
    ];
    for (user, ip, want) in cases {
        assert_eq!(passed(&mut engine, &[prompt(user, ip)]), want, "{user} {ip}");
    }
}

#[test]
fn while_somebody_s_limits_are_reduced_nobody_passes_at_once_and_afterwards_all_do() {
    let mut rules = Rules::hardened();
    let steps = vec![Step::Reduce { factor_permille: 500, for_ms: 1_000 }];
    let ladder = Ladder { steps, forget_after_ms: 10_000, severity: Severity::Medium };
    rules.ladders.set(ViolationType::LOGINS, Some(ladder));
    let mut engine = engine_with(rules);
    judge_one(&mut engine, violation(ViolationType::LOGINS, Some(20.0), "bert", ""), NOW);
    for (after_ms, want) in [(0, 0), (999, 0), (1_000, 1)] {
        let prompt = event(EventType::PROMPT_USAGE, "anna", "");
        assert_eq!(pass(&mut engine, &[prompt], later(after_ms)).0, want, "{after_ms}");
    }
}

#[test]
fn a_new_key_passes_at_once_only_if_it_may_have_a_window() {
    let visits = [HERE, HERE, "192.0.2.8", "192.0.2.9"].map(|ip| message("", ip));
    // The address is one key, and each user one more.
    let forks = ["anna", "anna", "bert", "carl"].map(fork);
    let cases = [(0, 0, 0), (1, 2, 0), (2, 3, 2), (3, 4, 3), (4, 4, 4)];
    for (windows, want_visits, want_forks) in cases {
        let engine = || at_home(Bounds { windows, ..Bounds::default() }, &["anna", "bert", "carl"]);
        assert_eq!(passed(&mut engine(), &visits), want_visits, "{windows} windows");
        assert_eq!(passed(&mut engine(), &forks), want_forks, "{windows} windows");
    }
}

#[test]
fn what_costs_nothing_takes_no_window_and_passes_at_a_limit_that_is_used_up() {
    let mut rules = Rules::hardened();
    let rule = rules.limiter_mut(Limiter::MESSAGE_IP).expect("it is on");
    (rule.limit, rule.unit) = (Limit::new(1_000, 60_000), Unit::Bytes);
    let of = |bytes| {
        let act = Act::event(EventType::MESSAGE);
        let Act::Event { kind, user_agent, .. } = act else { panic!("it is one") };
        let cost = Cost { bytes, ..Cost::default() };
        request(Act::Event { kind, user_agent, cost }, subject("", HERE))
    };
    let mut engine = engine_with(rules);
    for _ in 0..2 {
        let outcome = judge_one(&mut engine, of(0), NOW);
        assert_eq!((outcome.verdict, outcome.counts[0].cost), (Verdict::Allow, 0));
    }
    assert_eq!(engine.size().windows, 0);
    assert_eq!(passed(&mut engine, &[of(1_001)]), 0);
    assert_eq!(engine.size().windows, 0, "what does not pass takes none either");
    let requests = [of(999), of(0), of(1), of(0), of(0), of(1)];
    let (passed, queue) = pass(&mut engine, &requests, NOW);
    let used: Vec<_> = (0..passed).map(|place| queue.counts(place)[0].usage.used).collect();
    assert_eq!(used, [0, 999, 999, 1_000, 1_000]);
    (0..passed).rev().for_each(|place| engine.take_back(queue.counts(place), NOW));
    assert_eq!(engine.overlay().counts(&of(1), NOW)[0].usage.used, 0);
}

#[test]
fn what_passed_at_once_is_taken_back_from_every_limit() {
    let mut engine = at_home(Bounds::default(), &["anna"]);
    let used = |engine: &Engine| {
        let counts = engine.overlay().counts(&fork("anna"), NOW);
        counts.iter().map(|count| count.usage.used).collect::<Vec<_>>()
    };
    let (passed, queue) = pass(&mut engine, &vec![fork("anna"); 3], NOW);
    assert_eq!((passed, used(&engine)), (3, vec![3, 3]));
    engine.take_back(queue.counts(1), NOW);
    assert_eq!(used(&engine), [2, 2]);
    for place in [0, 2] {
        engine.take_back(queue.counts(place), NOW);
    }
    assert_eq!(used(&engine), [0, 0]);
}
