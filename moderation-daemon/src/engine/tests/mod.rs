//! The engine by its public face, against what is specified.

mod account;
mod at_once;
mod bounds;
mod browser;
mod dossier;
mod factor;
mod forgive;
mod ladder;
mod lift;
mod overlay;
mod passes;
mod penalty;
mod property;
mod protect;
mod repeat;
mod score;
mod shape;
mod shared;
mod short;
mod switch;

use super::*;

const NOW: Moment = Moment { boot_ms: 1_000_000, unix_ms: 1_800_000_000_000 };

fn later(ms: u64) -> Moment {
    Moment { boot_ms: NOW.boot_ms + ms, unix_ms: NOW.unix_ms + ms }
}

/// LibreChat's `.env.example`, with addresses counted, scored and banned as those
/// who have them.
fn rules() -> Rules {
    let mut rules = Rules::librechat();
    rules.counting.v6_bits = 64;
    rules.counting.mapped = Mapped::AsIpv4;
    rules.scoring.decay = Decay::Never;
    rules.scoring.anonymous = Anonymous::Address;
    rules.ban.v6_prefix = 64;
    rules
}

fn set(rules: &mut Rules, limiter: Limiter, max: u64, window_ms: u64) {
    let known = rules.limiter_mut(limiter).map(|rule| rule.limit = Limit::new(max, window_ms));
    if known.is_none() {
        assert_eq!(limiter, Limiter::MESSAGE_USER, "the only one that is off");
        let limit = Limit::new(max, window_ms);
        rules.limiters.push(LimiterRule { limit, ..LimiterRule::message_user() });
    }
}

/// So that windows have the same keys wherever tests run.
const SEED: [u64; 2] = [1, 2];

fn engine_with(rules: Rules) -> Engine {
    Engine::new(rules, PrefixSet::default(), Restored::default(), SEED, NOW)
}

fn engine() -> Engine {
    engine_with(rules())
}

fn trust(prefix: &str, trust: Trust) -> PrefixSet {
    [(prefix.parse().expect("a prefix"), trust)].into_iter().collect()
}

fn subject(user: &str, ip: &str) -> Subject {
    Subject::new(user.parse().ok(), ip.parse().ok()).expect("a user or an address")
}

fn request(act: Act, subject: Subject) -> Request {
    Request::new(act, subject)
}

fn event(kind: EventType, user: &str, ip: &str) -> Request {
    request(Act::event(kind), subject(user, ip))
}

fn by_agent(kind: EventType, user_agent: Option<&str>) -> Act {
    Act::Event { kind, user_agent: user_agent.map(str::to_owned), cost: Cost::default() }
}

fn message(user: &str, ip: &str) -> Request {
    event(EventType::MESSAGE, user, ip)
}

fn violation(kind: ViolationType, points: Option<f64>, user: &str, ip: &str) -> Request {
    let act = Act::Violation { kind, points, severity: None, details: None };
    request(act, subject(user, ip))
}

/// Judges requests in batches, as the moderator does, and returns what each
/// was told.
fn judge(engine: &mut Engine, requests: &[Request], batch: usize, now: Moment) -> Vec<Outcome> {
    let (mut outcomes, mut queue) = (Vec::new(), Queue::default());
    for batch in requests.chunks(batch) {
        engine.prepare(&mut queue, batch);
        let passed = engine.pass_all(&mut queue, batch, now);
        let rest = &batch[passed..];
        outcomes.extend((0..passed).map(|place| Outcome::passed(queue.counts(place))));
        let mut overlay = engine.overlay();
        outcomes.extend(rest.iter().map(|it| overlay.judge_next(&mut queue, it, now)));
        let changes = overlay.into_changes();
        engine.apply(changes);
    }
    outcomes
}

/// The same in so many words, without any short way.
fn decide_one_by_one(engine: &mut Engine, requests: &[Request], now: Moment) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for request in requests {
        let overlay = engine.overlay();
        let decision = overlay.decide(request, &overlay.counts(request, now), now);
        engine.apply(&decision.changes);
        outcomes.push(decision.outcome);
    }
    outcomes
}

fn judge_one(engine: &mut Engine, request: Request, now: Moment) -> Outcome {
    judge(engine, &[request], 1, now).remove(0)
}

/// A ban as a store has it.
fn ban(id: BanId, who: Option<&str>, ip: &str, with: Option<BanId>) -> Ban {
    Ban {
        id,
        user: who.map(user),
        prefix: ip.parse().ok(),
        blocks: true,
        reason: "test".to_owned(),
        violation: None,
        score: None,
        created_at_unix_ms: NOW.unix_ms,
        expires_at_unix_ms: None,
        by: Author::Rule,
        with,
        severity: None,
        review: false,
    }
}

/// A ban on a person's word, for ever.
fn by_hand(engine: &mut Engine, who: Option<&str>, prefix: &str) {
    let new = NewBan {
        user: who.map(user),
        prefix: prefix.parse().ok(),
        blocks: true,
        reason: "by hand".to_owned(),
        duration_ms: None,
        by: "root".into(),
    };
    let mut overlay = engine.overlay();
    overlay.ban(new, NOW).expect("there is room");
    let changes = overlay.into_changes();
    engine.apply(changes);
}

/// A person's word, and what it changed.
fn pardon(engine: &mut Engine, target: &LiftTarget, now: Moment) -> Lifted {
    let mut overlay = engine.overlay();
    let lifted = overlay.lift(target, "root", now);
    let changes = overlay.into_changes();
    engine.apply(changes);
    lifted
}

fn user(id: &str) -> UserId {
    id.parse().expect("an id")
}

/// All that an engine remembers, but for windows, numbers and what bans were
/// called for, in an order that does not depend on hashes.
fn fingerprint(engine: &Engine) -> Vec<String> {
    fn lines<'a, K: std::fmt::Debug + 'a, V: std::fmt::Debug + 'a>(
        name: &str,
        of: impl IntoIterator<Item = (K, V)>,
    ) -> Vec<String> {
        of.into_iter().map(|(key, value)| format!("{name} {key:?}: {value:?}")).collect()
    }
    let memory = &engine.memory;
    let mut all = [
        lines("score", engine.scores.keys().map(|key| (key, engine.scores.get(key)))),
        lines("ban", engine.bans.iter().map(|ban| (ban.id, ban))),
        lines("answer", engine.answers.by_id.iter()),
        lines("run", memory.runs.iter()),
        lines("offence", memory.offences.iter()),
        lines("traits", memory.traits.iter()),
        lines("factor", memory.factors.iter()),
        lines("violated", memory.violated.iter()),
        lines("crowd", memory.crowds.iter()),
        lines("known", memory.known.iter()),
        lines("penalty", memory.penalties.iter()),
    ]
    .concat();
    all.sort();
    all
}

fn allowed(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Allow).count()
}

fn violations(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.violation.is_some()).count()
}

/// Bans that fell, as opposed to bans that held.
fn bans(outcomes: &[Outcome]) -> usize {
    let fell = |outcome: &&Outcome| outcome.ban.is_some() && outcome.violation.is_some();
    outcomes.iter().filter(fell).count()
}

const BATCHES: [usize; 8] = [1, 2, 3, 40, 41, 64, 256, 1_000];

#[test]
fn of_a_thousand_messages_at_once_forty_pass_and_one_ban_falls_at_any_batch_size() {
    for batch in BATCHES {
        let mut engine = engine();
        let requests = vec![message("anna", "192.0.2.7"); 1_000];
        let outcomes = judge(&mut engine, &requests, batch, NOW);
        assert_eq!(allowed(&outcomes), 40, "in batches of {batch}");
        assert_eq!(violations(&outcomes), 20, "in batches of {batch}");
        assert_eq!(bans(&outcomes), 1, "in batches of {batch}");
        assert_eq!(engine.bans().len(), 1, "in batches of {batch}");
        let banned = outcomes.iter().filter(|outcome| outcome.cause == Some(Cause::Banned));
        assert_eq!(banned.count(), 940, "in batches of {batch}");
    }
}

#[test]
fn without_bans_every_rejected_message_is_a_violation_at_any_batch_size() {
    for batch in BATCHES {
        let mut rules = rules();
        rules.ban.enabled = false;
        let mut engine = engine_with(rules);
        let requests = vec![message("anna", "192.0.2.7"); 1_000];
        let outcomes = judge(&mut engine, &requests, batch, NOW);
        assert_eq!((allowed(&outcomes), violations(&outcomes)), (40, 960), "{batch}");
        assert_eq!(engine.bans().len(), 0, "{batch}");
    }
}

#[test]
fn each_crossing_of_the_interval_brings_one_ban_at_any_batch_size() {
    for batch in BATCHES {
        let mut engine = engine();
        let requests =
            vec![violation(ViolationType::MESSAGE_LIMIT, None, "anna", "192.0.2.7"); 1_000];
        let outcomes = judge(&mut engine, &requests, batch, NOW);
        assert_eq!(bans(&outcomes), 50, "in batches of {batch}");
        let totals = outcomes.iter().filter_map(|outcome| outcome.violation.as_ref());
        let totals: Vec<_> = totals.map(|violation| violation.total).collect();
        let want: Vec<_> = (1..=1_000).map(f64::from).collect();
        assert_eq!(totals, want, "in batches of {batch}");
    }
}

#[test]
fn the_defaults_are_those_of_the_env_example() {
    let anyone = ("anna", "192.0.2.7");
    let cases = [
        (EventType::LOGIN, 7, 5 * 60_000, ViolationType::LOGINS),
        (EventType::REGISTRATION, 5, 60 * 60_000, ViolationType::REGISTRATIONS),
        (EventType::MESSAGE, 40, 60_000, ViolationType::MESSAGE_LIMIT),
    ];
    for (kind, max, window_ms, violation) in cases {
        let mut engine = engine();
        let requests = vec![event(kind, anyone.0, anyone.1); max + 1];
        let outcomes = judge(&mut engine, &requests, 1, NOW);
        assert_eq!(allowed(&outcomes), max, "{kind:?}");
        assert_eq!(outcomes[max].cause, Some(Cause::Violation(violation)), "{kind:?}");
        let almost = judge_one(&mut engine, requests[0].clone(), later(window_ms - 1));
        assert_eq!(almost.verdict, Verdict::Deny, "{kind:?}: the window lasts to its end");
        let next = judge_one(&mut engine, requests[0].clone(), later(window_ms));
        assert_eq!(next.verdict, Verdict::Allow, "{kind:?}: and no longer");
    }
    let rules = rules();
    let points = ViolationType::BUILT_IN[..7].iter().map(|kind| *rules.scoring.points.of(*kind));
    assert_eq!(points.collect::<Vec<_>>(), [1.0, 1.0, 1.0, 1.0, 20.0, 5.0, 1.0]);
    assert_eq!(rules.limiter(Limiter::MESSAGE_USER), None);
    assert_eq!(rules.concurrency, Some(Concurrency { max: 2, lease_ms: 60_000 }));
    let ban = rules.ban;
    let want = (true, 20.0, BanLength::For(2 * 60 * 60_000));
    assert_eq!((ban.enabled, ban.interval, ban.length), want);
}

#[test]
fn the_limits_by_address_and_by_user_are_asked_in_order_and_the_first_ends_it() {
    let mut rules = rules();
    set(&mut rules, Limiter::MESSAGE_IP, 2, 1_000);
    set(&mut rules, Limiter::MESSAGE_USER, 1, 1_000);
    let mut engine = engine_with(rules);
    let names = |outcome: &Outcome| {
        let names = outcome.counts.iter().map(|count| count.limiter.name());
        names.collect::<Vec<_>>()
    };
    let first = judge_one(&mut engine, message("anna", "192.0.2.7"), NOW);
    assert_eq!(
        (first.verdict, names(&first)),
        (Verdict::Allow, vec!["message_ip", "message_user"])
    );
    let second = judge_one(&mut engine, message("anna", "192.0.2.7"), NOW);
    let limiter = second.violation.and_then(|violation| violation.limiter.clone());
    assert_eq!(limiter, Some((Limiter::MESSAGE_USER, Limit::new(1, 1_000))));
    // The address is over its limit: the user's own count must not suffer.
    let third = judge_one(&mut engine, message("bert", "192.0.2.7"), NOW);
    assert_eq!((third.verdict, names(&third)), (Verdict::Deny, vec!["message_ip"]));
    let elsewhere = judge_one(&mut engine, message("bert", "192.0.2.8"), NOW);
    assert_eq!(elsewhere.verdict, Verdict::Allow);
}

#[test]
fn counts_from_elsewhere_decide_as_given() {
    let engine = engine();
    let request = message("anna", "192.0.2.7");
    let overlay = engine.overlay();
    let mut counts = overlay.counts(&request, NOW);
    counts[0].usage.used = 40;
    let decision = overlay.decide(&request, &counts, NOW);
    assert_eq!(decision.outcome.cause, Some(Cause::Violation(ViolationType::MESSAGE_LIMIT)));
}

#[test]
fn a_user_bears_the_score_and_an_anonymous_visitor_s_address_does() {
    let mut engine = engine();
    let outcome = judge_one(
        &mut engine,
        violation(ViolationType::ILLEGAL_MODEL_REQUEST, None, "anna", "192.0.2.7"),
        NOW,
    );
    let record = outcome.violation.expect("one");
    assert_eq!(record.bearer, rules().bearer(&subject("anna", "")));
    let outcome =
        judge_one(&mut engine, violation(ViolationType::LOGINS, None, "", "192.0.2.7"), NOW);
    let violation = outcome.violation.expect("one");
    assert_eq!(violation.bearer, rules().bearer(&subject("", "192.0.2.7")));
    assert_eq!(violation.total, 1.0, "the user's points are not the address's");
}

#[test]
fn scores_of_different_types_are_never_summed() {
    let mut engine = engine();
    for kind in [ViolationType::MESSAGE_LIMIT, ViolationType::CONCURRENT, ViolationType::LOGINS] {
        let requests = vec![violation(kind, None, "anna", "192.0.2.7"); 19];
        let outcomes = judge(&mut engine, &requests, 5, NOW);
        assert_eq!(bans(&outcomes), 0, "{kind}");
    }
}

#[test]
fn a_ban_covers_the_user_everywhere_and_the_address_for_everyone() {
    let mut engine = engine();
    let script = by_agent(EventType::MESSAGE, Some("curl/8.5.0"));
    let outcome = judge_one(&mut engine, request(script, subject("anna", "192.0.2.7")), NOW);
    assert_eq!(outcome.cause, Some(Cause::Violation(ViolationType::NON_BROWSER)));
    let ban = outcome.ban.expect("20 points are a ban");
    assert_eq!(ban.expires_at_unix_ms, Some(NOW.unix_ms + 2 * 60 * 60_000));
    let cases = [
        ("anna", "192.0.2.7", true),
        ("anna", "198.51.100.1", true),
        ("bert", "192.0.2.7", true),
        ("", "192.0.2.7", true),
        ("anna", "", true),
        ("bert", "198.51.100.1", false),
    ];
    for (user, ip, banned) in cases {
        let outcome = judge_one(&mut engine, message(user, ip), NOW);
        assert_eq!(outcome.cause == Some(Cause::Banned), banned, "{user} {ip}");
    }
    let after = later(2 * 60 * 60_000);
    assert_eq!(judge_one(&mut engine, message("anna", "192.0.2.7"), after).verdict, Verdict::Allow);
    assert_eq!(engine.expire(after), [ban]);
}

#[test]
fn only_messages_are_asked_for_a_browser_and_only_if_the_caller_knows() {
    let mut engine = engine();
    let cases = [
        (EventType::LOGIN, Some("curl/8.5.0"), Verdict::Allow),
        (EventType::MESSAGE, None, Verdict::Allow),
        (EventType::MESSAGE, Some("Mozilla/5.0 Firefox/121.0"), Verdict::Allow),
        (EventType::MESSAGE, Some(""), Verdict::Deny),
    ];
    for (kind, user_agent, want) in cases {
        let act = by_agent(kind, user_agent);
        let outcome = judge_one(&mut engine, request(act, subject("anna", "192.0.2.7")), NOW);
        assert_eq!(outcome.verdict, want, "{kind:?} {user_agent:?}");
    }
}

#[test]
fn the_same_request_id_twice_counts_once_within_a_batch_and_later() {
    for batch in [1, 3] {
        let mut engine = engine();
        let mut once = violation(ViolationType::ILLEGAL_MODEL_REQUEST, None, "anna", "192.0.2.7");
        once.id = Some("request 1".into());
        let outcomes = judge(&mut engine, &[once.clone(), once.clone(), once.clone()], batch, NOW);
        assert_eq!(outcomes[0], outcomes[1]);
        assert_eq!(outcomes[0], outcomes[2]);
        let key = ScoreKey {
            bearer: rules().bearer(&once.subject),
            kind: ViolationType::ILLEGAL_MODEL_REQUEST,
        };
        assert_eq!(engine.scores.get(&key).map(|score| score.points), Some(5.0));
        let after = later(rules().bounds.request_id_ms);
        engine.expire(after);
        judge_one(&mut engine, once, after);
        assert_eq!(engine.scores.get(&key).map(|score| score.points), Some(10.0), "forgotten");
    }
}

#[test]
fn dropping_an_overlay_leaves_no_trace() {
    let mut engine = engine();
    judge(&mut engine, &vec![message("anna", "192.0.2.7"); 59], 7, NOW);
    let before = format!("{:?}", (engine.size(), engine.next_ban, engine.next_lease));
    let mut overlay = engine.overlay();
    for _ in 0..10 {
        let request = message("anna", "192.0.2.7");
        let decision = overlay.decide(&request, &overlay.counts(&request, NOW), NOW);
        overlay.push(&decision);
    }
    assert_eq!(overlay.ban_count(), 1);
    drop(overlay);
    assert_eq!(format!("{:?}", (engine.size(), engine.next_ban, engine.next_lease)), before);
    let next = judge_one(&mut engine, message("anna", "192.0.2.7"), NOW);
    assert_eq!(next.violation.map(|violation| violation.total), Some(20.0));
}

#[test]
fn a_lease_is_a_place_until_it_is_given_back_or_runs_out() {
    let mut engine = engine();
    let acquire = || request(Act::Acquire, subject("anna", "192.0.2.7"));
    let outcomes = judge(&mut engine, &[acquire(), acquire(), acquire()], 3, NOW);
    assert_eq!((allowed(&outcomes), violations(&outcomes)), (2, 1));
    assert_eq!(outcomes[2].cause, Some(Cause::Violation(ViolationType::CONCURRENT)));
    let first = outcomes[0].lease.clone().expect("allowed").id;
    let second = outcomes[1].lease.clone().expect("allowed").id;

    let mut overlay = engine.overlay();
    assert!(overlay.release(first, NOW));
    assert!(!overlay.release(first, NOW), "only once");
    let renewed = overlay.renew(second, later(59_999)).expect("still running");
    assert_eq!(renewed.ends_at_boot_ms, later(119_999).boot_ms);
    let changes = overlay.into_changes();
    engine.apply(changes);

    let outcomes = judge(&mut engine, &[acquire(), acquire()], 1, later(60_000));
    assert_eq!(allowed(&outcomes), 1, "the renewed one still holds its place");
    let mut overlay = engine.overlay();
    assert_eq!(overlay.renew(second, later(119_999)), None, "it has run out");
    assert_eq!(overlay.renew(4_711, NOW), None);
}

#[test]
fn protected_addresses_are_not_banned_but_their_users_are() {
    let mut engine = engine();
    engine.set_trust(trust("192.0.2.0/24", Trust::Allowlist));
    let bad = |user, ip| violation(ViolationType::NON_BROWSER, None, user, ip);
    let outcome = judge_one(&mut engine, bad("anna", "192.0.2.7"), NOW);
    let ban = outcome.ban.expect("the user can be banned");
    assert_eq!((ban.user.as_ref().map(UserId::as_str), ban.prefix), (Some("anna"), None));
    let outcome = judge_one(&mut engine, bad("", "192.0.2.7"), NOW);
    let by = Trusted { prefix: "192.0.2.0/24".parse().expect("one"), trust: Trust::Allowlist };
    assert_eq!((outcome.ban, outcome.refusal), (None, Some(BanRefusal::Protected(by))));
    let new = NewBan {
        user: None,
        prefix: "192.0.2.7".parse().ok(),
        blocks: true,
        reason: "test".to_owned(),
        duration_ms: None,
        by: "root".into(),
    };
    assert_eq!(engine.overlay().ban(new, NOW), Err(BanRefusal::Protected(by)));
}

#[test]
fn an_address_that_becomes_protected_is_no_longer_banned() {
    let mut engine = engine();
    judge_one(&mut engine, violation(ViolationType::NON_BROWSER, None, "", "192.0.2.7"), NOW);
    let visitor = subject("", "192.0.2.7");
    assert!(engine.overlay().ban_of(&visitor, NOW).is_some());
    engine.set_trust(trust("192.0.2.7/32", Trust::Allowlist));
    assert!(engine.overlay().ban_of(&visitor, NOW).is_none());
    assert!(engine.trust().protects([192, 0, 2, 7].into()), "and it can be asked who is");
}

#[test]
fn lifting_ends_a_ban_at_once_and_within_the_same_batch() {
    let mut engine = engine();
    judge_one(&mut engine, violation(ViolationType::NON_BROWSER, None, "anna", "192.0.2.7"), NOW);
    let mut overlay = engine.overlay();
    let prefix: Prefix = "192.0.2.7".parse().expect("an address");
    let lifted = overlay.lift(&LiftTarget::Prefix(prefix), "root", NOW).bans;
    assert_eq!(lifted.len(), 1);
    let again = overlay.lift(&LiftTarget::Ban(lifted[0].id), "root", NOW);
    assert_eq!(again, Lifted::default());
    assert!(overlay.ban_of(&subject("anna", "192.0.2.7"), NOW).is_none());
    let changes = overlay.into_changes();
    engine.apply(changes);
    assert!(engine.bans().is_empty());
    assert_eq!(judge_one(&mut engine, message("anna", "192.0.2.7"), NOW).verdict, Verdict::Allow);
}

#[test]
fn scores_that_were_quiet_too_long_are_forgotten() {
    let mut engine = engine();
    let bad = |user| violation(ViolationType::LOGINS, None, user, "");
    judge_one(&mut engine, bad("anna"), NOW);
    judge_one(&mut engine, bad("bert"), later(10));
    engine.forget_scores(later(5).unix_ms);
    let total = |outcome: Outcome| outcome.violation.map(|violation| violation.total);
    assert_eq!(total(judge_one(&mut engine, bad("anna"), later(10))), Some(1.0));
    assert_eq!(total(judge_one(&mut engine, bad("bert"), later(10))), Some(2.0));
}

#[test]
fn a_ban_that_is_lifted_in_its_own_batch_leaves_no_trace() {
    let mut engine = engine();
    let mut overlay = engine.overlay();
    let new = NewBan {
        user: "anna".parse().ok(),
        prefix: None,
        blocks: true,
        reason: "test".to_owned(),
        duration_ms: None,
        by: "root".into(),
    };
    let ban = overlay.ban(new, NOW).expect("there is room");
    assert_eq!(overlay.lift(&LiftTarget::Ban(ban.id), "root", NOW).bans, [ban]);
    assert_eq!(overlay.ban_count(), 0);
    assert!(overlay.ban_of(&subject("anna", ""), NOW).is_none());
    let changes = overlay.into_changes();
    engine.apply(changes);
    assert!(engine.bans().is_empty());
}

#[test]
fn lease_numbers_of_an_earlier_life_are_not_given_again() {
    let acquire = || request(Act::Acquire, subject("anna", "192.0.2.7"));
    let first = judge_one(&mut engine(), acquire(), NOW).lease.expect("there is room");
    let mut restarted =
        Engine::new(rules(), PrefixSet::default(), Restored::default(), SEED, later(1));
    assert!(
        judge_one(&mut restarted, acquire(), later(1)).lease.expect("there is room").id > first.id
    );
}
