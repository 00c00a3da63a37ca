//! The short way of plain events leads where the long one does: the same answer, the
//! same changes.

use proptest::prelude::*;

use super::{property::strict_hardened, *};

const CHROME: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36";

/// What one request is told and changes, by the short way and by the long one.
fn both_ways(engine: &Engine, request: &Request, now: Moment) -> [(Outcome, Vec<Change>); 2] {
    let mut short = engine.overlay();
    let outcome = short.judge(request, now);
    let short = (outcome, short.into_changes());
    let mut long = engine.overlay();
    let decision = long.decide(request, &long.counts(request, now), now);
    long.push(&decision);
    [short, (decision.outcome, long.into_changes())]
}

fn said(request: Request) -> Request {
    Request { traits: Some(Traits { paying: Some(true), ..Traits::default() }), ..request }
}

fn named(request: Request) -> Request {
    Request { id: Some("once".into()), ..request }
}

fn account(kind: EventType) -> Request {
    Request { account: Some(Account::of("anna@example.org")), ..event(kind, "", "192.0.2.7") }
}

fn by(user_agent: &str, ip: &str) -> Request {
    request(by_agent(EventType::MESSAGE, Some(user_agent)), subject("anna", ip))
}

#[test]
fn whatever_makes_an_event_more_than_plain_is_seen_on_the_short_way() {
    let mut engine = engine_with(strict_hardened());
    // Seen before, so that plain events of anna's are plain; limits that are used up;
    // an account that is attacked; a ban.
    for user in ["anna", "carl"] {
        judge_one(&mut engine, message(user, "192.0.2.7"), NOW);
    }
    judge(&mut engine, &vec![event(EventType::PROMPT_USAGE, "anna", "192.0.2.7"); 30], 1, NOW);
    judge(&mut engine, &vec![account(EventType::LOGIN_FAILURE); 10], 1, NOW);
    judge_one(&mut engine, violation(ViolationType::NON_BROWSER, None, "bert", "192.0.2.9"), NOW);
    let cases = [
        ("plain", message("anna", "192.0.2.7"), Verdict::Allow),
        ("a browser", by(CHROME, "192.0.2.7"), Verdict::Allow),
        ("a script", by("curl/8.5.0", "192.0.2.7"), Verdict::Deny),
        ("named", named(message("anna", "192.0.2.7")), Verdict::Allow),
        (
            "of somebody of whom something is said",
            said(message("anna", "192.0.2.7")),
            Verdict::Allow,
        ),
        ("at a new place", message("anna", "192.0.2.8"), Verdict::Allow),
        ("of a stranger", message("", "192.0.2.7"), Verdict::Allow),
        ("of somebody banned", message("bert", "192.0.2.7"), Verdict::Deny),
        ("over a limit", event(EventType::PROMPT_USAGE, "anna", "192.0.2.7"), Verdict::Deny),
        ("about an account", account(EventType::LOGIN), Verdict::Deny),
        ("a success", account(EventType::LOGIN_SUCCESS), Verdict::Allow),
        ("no event", violation(ViolationType::LOGINS, None, "anna", "192.0.2.7"), Verdict::Deny),
        ("a lease", request(Act::Acquire, subject("anna", "192.0.2.7")), Verdict::Allow),
    ];
    for (what, request, verdict) in cases {
        let [short, long] = both_ways(&engine, &request, NOW);
        assert_eq!(short.0.verdict, verdict, "{what}");
        assert_eq!(short, long, "{what}");
    }
}

/// Judges a batch whose windows are looked for before the first is judged.
fn judge_prepared(engine: &mut Engine, events: &[Request], now: Moment) -> Vec<Outcome> {
    let mut queue = Queue::default();
    engine.prepare(&mut queue, events);
    let mut overlay = engine.overlay();
    let outcomes = events.iter().map(|it| overlay.judge_next(&mut queue, it, now)).collect();
    let changes = overlay.into_changes();
    engine.apply(changes);
    outcomes
}

#[test]
fn a_batch_that_was_prepared_is_judged_alike_also_where_there_are_many_windows() {
    let [mut prepared, mut at_once, mut plain] = [(), (), ()].map(|()| engine());
    let address = |i: u32| std::net::Ipv4Addr::from_bits(0xc633_0000 + i).to_string();
    let crowd: Vec<_> = (0..5_000).map(|i| message("", &address(i))).collect();
    for engine in [&mut prepared, &mut at_once, &mut plain] {
        judge(engine, &crowd, 1_000, NOW);
    }
    let batch: Vec<_> = [1, 1, 2, 9_999, 1, 2]
        .into_iter()
        .flat_map(|i| {
            let acquire = request(Act::Acquire, subject("", &address(i)));
            [message("anna", &address(i)), event(EventType::LOGIN, "", &address(i)), acquire]
        })
        .collect();
    let want = decide_one_by_one(&mut plain, &batch, NOW);
    assert_eq!(judge_prepared(&mut prepared, &batch, NOW), want);
    assert_eq!(judge(&mut at_once, &batch, batch.len(), NOW), want);
    for engine in [&prepared, &at_once] {
        assert_eq!(fingerprint(engine), fingerprint(&plain));
    }
}

fn any_event() -> impl Strategy<Value = Request> {
    let kind = prop::sample::select(vec![
        EventType::LOGIN,
        EventType::MESSAGE,
        EventType::LOGIN_FAILURE,
        EventType::LOGIN_SUCCESS,
        EventType::PROMPT_USAGE,
    ]);
    let agent = prop::sample::select(vec![None, Some(CHROME), Some("curl/8.5.0")]);
    let user = prop::sample::select(vec!["anna", "bert", ""]);
    let ip = prop::sample::select(vec!["192.0.2.7", "198.51.100.7"]);
    let rest = (prop::bool::weighted(0.1), prop::bool::weighted(0.1), any::<bool>());
    (kind, agent, user, ip, rest).prop_map(
        |(kind, agent, user, ip, (is_named, is_said, account))| {
            let plain = request(by_agent(kind, agent), subject(user, ip));
            let plain = if is_named { named(plain) } else { plain };
            let plain = if is_said { said(plain) } else { plain };
            Request { account: account.then(|| Account::of("anna@example.org")), ..plain }
        },
    )
}

proptest! {
    #[test]
    fn events_go_the_short_way_and_the_long_one_to_the_same_end(
        batches in prop::collection::vec(
            (prop::collection::vec(any_event(), 1..12), 0_u64..3_000), 1..20),
        is_hardened in any::<bool>(),
    ) {
        let rules = if is_hardened { strict_hardened() } else { Rules::librechat() };
        let [mut short, mut long, mut prepared, mut at_once] =
            [(), (), (), ()].map(|()| engine_with(rules.clone()));
        let mut now = NOW;
        for (events, wait_ms) in batches {
            now = Moment { boot_ms: now.boot_ms + wait_ms, unix_ms: now.unix_ms + wait_ms };
            let mut overlay = short.overlay();
            let outcomes: Vec<_> = events.iter().map(|event| overlay.judge(event, now)).collect();
            let changes = overlay.into_changes();
            short.apply(changes);
            prop_assert_eq!(&outcomes, &decide_one_by_one(&mut long, &events, now));
            prop_assert_eq!(&outcomes, &judge_prepared(&mut prepared, &events, now));
            prop_assert_eq!(&outcomes, &judge(&mut at_once, &events, events.len(), now));
            for engine in [&long, &prepared, &at_once] {
                prop_assert_eq!(fingerprint(&short), fingerprint(engine));
                prop_assert_eq!(short.size(), engine.size());
            }
        }
    }
}
