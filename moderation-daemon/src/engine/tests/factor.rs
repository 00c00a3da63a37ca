//! Limits by tier, by what is known, and shrunk by penalties.

use super::*;

const DAY: u64 = 24 * 3_600_000;

fn tiered() -> Rules {
    let mut rules = rules();
    rules.limiters.retain(|rule| rule.limiter != Limiter::MESSAGE_IP);
    set(&mut rules, Limiter::MESSAGE_USER, 10, 60_000);
    rules.limiter_mut(Limiter::MESSAGE_USER).expect("it is on").is_tiered = true;
    let tiers = [("pro", 100), ("enterprise", 1_000), ("banned", 0)];
    rules.tiers = Tiers(tiers.map(|(name, max)| (name.into(), max)).into());
    rules
}

fn adaptive() -> Adaptive {
    Adaptive {
        account_age: Since { ms: 30 * DAY, permille: 1_200 },
        verified_email_permille: 1_100,
        paying_permille: 1_500,
        clean_history: Since { ms: 30 * DAY, permille: 1_200 },
        recent_violations: Since { ms: DAY, permille: 500 },
        flagged_over: 5,
        flagged_within_ms: 30 * DAY,
        flagged_permille: 700,
        min_permille: 250,
        max_permille: 3_000,
        rise_permille_per_hour: 50,
    }
}

fn max(engine: &Engine, request: &Request, now: Moment) -> u64 {
    engine.overlay().counts(request, now)[0].max
}

fn said(traits: Traits) -> Request {
    Request { traits: Some(traits), ..message("anna", "192.0.2.7") }
}

fn tier(name: &str) -> Traits {
    Traits { tier: Some(name.into()), ..Traits::default() }
}

#[test]
fn a_tier_says_how_much_is_allowed_and_is_remembered() {
    let mut engine = engine_with(tiered());
    assert_eq!(max(&engine, &message("anna", ""), NOW), 10);
    for (name, want) in [("pro", 100), ("enterprise", 1_000), ("unheard of", 10), ("banned", 0)] {
        assert_eq!(max(&engine, &said(tier(name)), NOW), want, "{name}");
    }
    judge_one(&mut engine, said(tier("pro")), NOW);
    assert_eq!(max(&engine, &message("anna", ""), NOW), 100);
    assert_eq!(max(&engine, &message("bert", ""), NOW), 10);
    let outcomes = judge(&mut engine, &vec![message("anna", "192.0.2.7"); 101], 9, NOW);
    assert_eq!(allowed(&outcomes), 99);
}

#[test]
fn only_tiered_limiters_ask_for_the_tier() {
    let mut rules = tiered();
    rules.limiter_mut(Limiter::MESSAGE_USER).expect("it is on").is_tiered = false;
    let engine = engine_with(rules);
    assert_eq!(max(&engine, &said(tier("pro")), NOW), 10);
}

#[test]
fn what_is_said_adds_to_what_is_known_and_is_written_once() {
    let mut engine = engine_with(tiered());
    let anna = user("anna");
    let verified = Traits { email_verified: Some(true), ..Traits::default() };
    for batch in [1, 4] {
        judge(&mut engine, &[said(tier("pro")), said(verified.clone())], batch, NOW);
    }
    let want = Traits { tier: Some("pro".into()), ..verified.clone() };
    assert_eq!(engine.traits(&anna), Some(&want));
    assert_eq!(engine.overlay().described(&anna), Some(&want));
    assert_eq!(engine.overlay().described(&user("bert")), None);
    let mut overlay = engine.overlay();
    assert_eq!(overlay.know(&anna, &verified, NOW), want);
    assert!(overlay.into_changes().is_empty(), "it was known");
    let mut overlay = engine.overlay();
    let admin = Traits { role: Some("admin".into()), ..Traits::default() };
    assert_eq!(overlay.know(&anna, &admin, NOW).role.as_deref(), Some("admin"));
    assert_eq!(overlay.into_changes().len(), 1);
}

#[test]
fn limits_follow_what_is_known_drop_at_once_and_rise_slowly() {
    let mut engine = engine_with(Rules { adaptive: Some(adaptive()), ..tiered() });
    let anna = user("anna");
    let factor = |engine: &Engine, now| engine.overlay().factor(&anna, now);
    assert_eq!(factor(&engine, NOW), Some(1_000));
    let paying = Traits { paying: Some(true), ..Traits::default() };
    judge_one(&mut engine, said(paying), NOW);
    assert_eq!(factor(&engine, NOW), Some(1_000), "it rises slowly");
    assert_eq!(factor(&engine, later(2 * 3_600_000)), Some(1_100));
    assert_eq!(max(&engine, &message("anna", ""), later(2 * 3_600_000)), 11);
    let day = later(DAY);
    assert_eq!(factor(&engine, day), Some(1_500));
    judge_one(&mut engine, violation(ViolationType::LOGINS, None, "anna", ""), day);
    assert_eq!(factor(&engine, day), Some(750), "it drops at once");
    assert_eq!(max(&engine, &message("anna", ""), day), 7);
    assert_eq!(factor(&engine, later(2 * DAY + 3_600_000)), Some(800), "a day later it rises");
}

#[test]
fn the_first_event_with_traits_is_allowed_what_those_after_it_are() {
    let hour = 3_600_000;
    let paying = Traits { paying: Some(true), ..Traits::default() };
    let poor = Traits { paying: Some(false), ..Traits::default() };
    // Whether the user is known already, and what the last ten hours were worth.
    for (begins, wait_ms) in [(None, 0), (None, 10 * hour), (Some(&poor), 10 * hour)] {
        let mut engine = engine_with(Rules { adaptive: Some(adaptive()), ..tiered() });
        if let Some(begin) = begins {
            judge_one(&mut engine, said(begin.clone()), NOW);
        }
        let now = later(wait_ms);
        let asked = max(&engine, &said(paying.clone()), now);
        let outcomes = judge(&mut engine, &vec![said(paying.clone()); 10], 4, now);
        let maxima: Vec<_> = outcomes.iter().map(|outcome| outcome.counts[0].max).collect();
        assert_eq!((asked, maxima), (10, vec![10; 10]), "{begins:?}, {wait_ms} ms later");
        assert_eq!(allowed(&outcomes), 10, "{begins:?}");
        let risen = Moment { unix_ms: now.unix_ms + 4 * hour, boot_ms: now.boot_ms + 4 * hour };
        assert_eq!(max(&engine, &said(paying.clone()), risen), 12, "it rises from then on");
        assert_eq!(max(&engine, &said(poor.clone()), risen), 10, "and drops at once");
    }
}

#[test]
fn flagged_content_lowers_limits_and_a_lift_forgives_it() {
    let mut engine = engine_with(Rules { adaptive: Some(adaptive()), ..tiered() });
    let flagged = violation(ViolationType::FLAGGED_CONTENT, Some(3.5), "anna", "");
    judge(&mut engine, &vec![flagged; 6], 4, NOW);
    let factor = |engine: &Engine| engine.overlay().factor(&user("anna"), NOW);
    assert_eq!(factor(&engine), Some(350));
    pardon(&mut engine, &LiftTarget::User(user("anna")), NOW);
    assert_eq!(factor(&engine), Some(1_000));
}

#[test]
fn whoever_is_forgiven_stands_at_once_where_an_innocent_does() {
    let mut engine = engine_with(Rules { adaptive: Some(adaptive()), ..tiered() });
    // Of age in an hour: from there it would take a while to rise.
    let born = NOW.unix_ms - 30 * DAY + 3_600_000;
    let of_age = Traits { created_at_unix_ms: Some(born), ..Traits::default() };
    judge_one(&mut engine, said(of_age), NOW);
    let now = later(2 * 3_600_000);
    let standing = |engine: &Engine| engine.overlay().standing(&user("anna"), now);
    assert_eq!(standing(&engine).map(|it| it.permille), Some(1_050));
    judge_one(&mut engine, violation(ViolationType::LOGINS, None, "anna", ""), now);
    assert_eq!(standing(&engine).map(|it| it.permille), Some(600));
    pardon(&mut engine, &LiftTarget::User(user("anna")), now);
    let told = standing(&engine).expect("limits follow what is known");
    assert_eq!((told.permille, told.target_permille), (1_440, 1_440));
    assert_eq!(told.factors, [("account_age", 1_200), ("clean_history", 1_200)]);
    assert_eq!(engine_with(tiered()).overlay().standing(&user("anna"), now), None);
}

#[test]
fn when_a_rule_was_last_broken_is_remembered_for_as_long_as_it_makes_a_difference() {
    let mut engine = engine_with(Rules { adaptive: Some(adaptive()), ..tiered() });
    judge_one(&mut engine, violation(ViolationType::LOGINS, None, "anna", ""), NOW);
    let violated = |engine: &Engine| engine.memory.violated.len();
    engine.expire(later(30 * DAY));
    assert_eq!(violated(&engine), 1);
    engine.expire(later(30 * DAY + 1));
    assert_eq!(violated(&engine), 0);
}

#[test]
fn what_allows_nothing_allows_nothing_whatever_is_known() {
    let mut engine = engine_with(Rules { adaptive: Some(adaptive()), ..tiered() });
    let paying = Traits { paying: Some(true), ..tier("banned") };
    judge_one(&mut engine, said(paying), NOW);
    assert_eq!(max(&engine, &message("anna", ""), later(DAY)), 0);
}

#[test]
fn a_factor_goes_on_where_it_stood_after_a_restart() {
    let rules = Rules { adaptive: Some(adaptive()), ..tiered() };
    let mut engine = engine_with(rules.clone());
    judge_one(&mut engine, violation(ViolationType::LOGINS, None, "anna", ""), NOW);
    let anna = user("anna");
    assert_eq!(engine.factor(&user("bert")), None, "nothing has changed bert's");
    let key = ScoreKey { bearer: Bearer::User(anna.clone()), kind: ViolationType::LOGINS };
    let restored = Restored {
        factors: vec![(anna.clone(), engine.factor(&anna).expect("it changed"))],
        scores: vec![(key.clone(), engine.scores.get(&key).expect("it has one"))],
        ..Restored::default()
    };
    let restarted = Engine::new(rules, PrefixSet::default(), restored, SEED, NOW);
    for ms in [0, DAY - 1, DAY + 3_600_000, 40 * DAY] {
        let at = later(ms);
        assert_eq!(restarted.overlay().factor(&anna, at), engine.overlay().factor(&anna, at));
    }
}

#[test]
fn a_factor_is_as_low_after_a_restart_where_nothing_else_tells_of_the_violation() {
    let rules = Rules { adaptive: Some(adaptive()), ..tiered() };
    let cases = [(ViolationType::LOGINS, 1, 500), (ViolationType::FLAGGED_CONTENT, 6, 350)];
    for (kind, count, want) in cases {
        let mut engine = engine_with(rules.clone());
        let bad = violation(kind, Some(1.0), "anna", "");
        judge(&mut engine, &vec![bad; count], 4, NOW);
        let factor = engine.factor(&user("anna")).expect("it changed");
        let restored = Restored { factors: vec![(user("anna"), factor)], ..Restored::default() };
        let engine = Engine::new(rules.clone(), PrefixSet::default(), restored, SEED, NOW);
        let at = |ms| engine.overlay().factor(&user("anna"), later(ms));
        assert_eq!((at(0), at(3_600_000)), (Some(want), Some(want + 50)), "{kind}");
    }
}

#[test]
fn of_several_scores_the_latest_tells_when_a_rule_was_last_broken() {
    let rules = Rules { adaptive: Some(adaptive()), ..tiered() };
    let anna = Bearer::User(user("anna"));
    let at = |kind, ago_ms: u64| {
        let updated_at_unix_ms = NOW.unix_ms - ago_ms;
        let score = Score { points: 1.0, updated_at_unix_ms, ..Score::default() };
        (ScoreKey { bearer: anna.clone(), kind }, score)
    };
    let both = [at(ViolationType::LOGINS, 5), at(ViolationType::CONCURRENT, 2 * DAY)];
    let reversed = [both[1].clone(), both[0].clone()];
    for scores in [both, reversed] {
        let restored = Restored { scores: scores.to_vec(), ..Restored::default() };
        let engine = Engine::new(rules.clone(), PrefixSet::default(), restored, SEED, NOW);
        assert_eq!(engine.overlay().factor(&user("anna"), NOW), Some(500), "5 ms ago");
    }
}

#[test]
fn a_reduction_shrinks_the_limits_of_its_bearer_until_it_ends() {
    let mut rules = tiered();
    let reduce = |factor_permille| Step::Reduce { factor_permille, for_ms: 7 * DAY };
    let steps = vec![reduce(500), reduce(1)];
    let ladder = Ladder { steps, forget_after_ms: 30 * DAY, severity: Severity::Medium };
    rules.ladders.set(ViolationType::LOGINS, Some(ladder));
    let mut engine = engine_with(rules);
    judge_one(&mut engine, violation(ViolationType::LOGINS, Some(20.0), "anna", ""), NOW);
    assert_eq!(max(&engine, &message("anna", ""), NOW), 5);
    let prompt = event(EventType::PROMPT_USAGE, "anna", "");
    assert_eq!(max(&engine, &prompt, NOW), 15, "without tiers, too");
    assert_eq!(max(&engine, &message("bert", ""), NOW), 10);
    assert_eq!(max(&engine, &message("anna", ""), later(7 * DAY)), 10);
    let bad = violation(ViolationType::LOGINS, Some(20.0), "anna", "");
    judge(&mut engine, &vec![bad; 10], 3, NOW);
    assert_eq!(max(&engine, &message("anna", ""), NOW), 1, "what allows something allows one");
    pardon(&mut engine, &LiftTarget::User(user("anna")), NOW);
    assert_eq!(max(&engine, &message("anna", ""), NOW), 10);
}

#[test]
fn the_largest_maximum_is_that_of_the_best_tier_at_the_best_factor() {
    let rules = Rules { adaptive: Some(adaptive()), ..tiered() };
    let of = |rules: &Rules, limiter| rules.largest_max(rules.limiter(limiter).expect("it is on"));
    assert_eq!(of(&rules, Limiter::MESSAGE_USER), 3_000);
    assert_eq!(of(&rules, Limiter::LOGIN), 21);
    assert_eq!(of(&tiered(), Limiter::MESSAGE_USER), 1_000);
    assert_eq!(of(&tiered(), Limiter::LOGIN), 7);
}
