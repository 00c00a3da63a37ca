//! What happens when a table is full.

use super::*;

fn bounded(bounds: Bounds) -> Engine {
    engine_with(Rules { bounds, ..rules() })
}

#[test]
fn when_windows_run_out_newcomers_share_one() {
    let mut engine = bounded(Bounds { windows: 3, ..Bounds::default() });
    let outcomes: Vec<_> = (0..100)
        .map(|i| judge_one(&mut engine, event(EventType::LOGIN, "", &format!("192.0.2.{i}")), NOW))
        .collect();
    assert_eq!(allowed(&outcomes), 3 + 7);
    assert_eq!(violations(&outcomes), 0, "the newcomers did nothing wrong");
    assert_eq!(outcomes[99].cause, Some(Cause::WindowsFull));
    assert!(engine.size().windows <= 4, "three, and the shared one");
    // Those who came before are not affected by the crowd.
    let regular = judge_one(&mut engine, event(EventType::LOGIN, "", "192.0.2.0"), NOW);
    assert_eq!(regular.verdict, Verdict::Allow);
    engine.expire(later(5 * 60_000));
    assert_eq!(engine.size().windows, 0);
}

#[test]
fn an_event_that_two_limiters_count_takes_no_more_places_than_there_are() {
    let mut rules = rules();
    set(&mut rules, Limiter::MESSAGE_USER, 4, 1_000);
    rules.bounds.windows = 3;
    let requests = [message("anna", "192.0.2.1"), message("bert", "192.0.2.2")];
    for batch in [1, 2] {
        let mut engine = engine_with(rules.clone());
        let outcomes = judge(&mut engine, &requests, batch, NOW);
        assert_eq!(allowed(&outcomes), 2);
        let shared = |of: &Outcome| of.counts.iter().map(|it| it.is_shared).collect::<Vec<_>>();
        assert_eq!(shared(&outcomes[0]), [false, false]);
        assert_eq!(shared(&outcomes[1]), [false, true], "one place was left");
        assert_eq!(engine.size().windows, 3 + 1, "and the one that newcomers share");
    }
}

#[test]
fn when_scores_run_out_the_one_that_was_quiet_longest_goes() {
    let mut engine = bounded(Bounds { scores: 3, ..Bounds::default() });
    for batch in [1, 5] {
        for i in 0..10 {
            let bad = violation(ViolationType::LOGINS, None, "", &format!("192.0.2.{i}"));
            judge(&mut engine, &[bad.clone(), bad], batch, later(i));
        }
        assert_eq!(engine.size().scores, 3, "in batches of {batch}");
    }
    let many: Vec<_> = (0..50)
        .map(|i| violation(ViolationType::LOGINS, None, "", &format!("198.51.100.{i}")))
        .collect();
    judge(&mut engine, &many, 50, later(100));
    assert_eq!(engine.size().scores, 3, "within one batch too");
}

#[test]
fn when_bans_run_out_none_falls_and_the_caller_is_told() {
    let mut engine = bounded(Bounds { bans: 2, ..Bounds::default() });
    let bad: Vec<_> = (0..5)
        .map(|i| violation(ViolationType::NON_BROWSER, None, "", &format!("192.0.2.{i}")))
        .collect();
    let outcomes = judge(&mut engine, &bad, 5, NOW);
    assert_eq!(bans(&outcomes), 2);
    assert_eq!(outcomes[4].refusal, Some(BanRefusal::Full));
}

#[test]
fn when_leases_run_out_none_is_given() {
    let mut engine = bounded(Bounds { leases: 2, ..Bounds::default() });
    let users = ["anna", "bert", "carl"];
    let requests = users.map(|user| request(Act::Acquire, subject(user, "")));
    let outcomes = judge(&mut engine, &requests, 3, NOW);
    assert_eq!(outcomes[2].cause, Some(Cause::LeasesFull));
    assert_eq!(violations(&outcomes), 0, "the user did nothing wrong");
    // Nothing was counted, so that a retry may try again.
    let mut named = requests[2].clone();
    named.id = Some("once more".into());
    assert_eq!(judge_one(&mut engine, named.clone(), NOW).cause, Some(Cause::LeasesFull));
    engine.expire(later(60_000));
    assert_eq!(judge_one(&mut engine, named, later(60_000)).verdict, Verdict::Allow);
}

#[test]
fn request_ids_are_bounded() {
    let mut engine = bounded(Bounds { request_ids: 10, ..Bounds::default() });
    for i in 0..100 {
        let mut request = message(&format!("user {i}"), "");
        request.id = Some(format!("id {i}").into());
        judge_one(&mut engine, request, NOW);
    }
    assert_eq!(engine.answers.len(), 10);
    assert_eq!(engine.answers.by_id.len(), 10);
    assert_eq!(engine.size().forgotten_ids, 90, "and counted");
}

#[test]
fn when_people_run_out_all_that_was_forgotten_of_them_is_counted_together() {
    let mut rules = property::strict_hardened();
    rules.bounds.people = 2;
    let mut engine = engine_with(rules);
    let paying = Traits { paying: Some(true), ..Traits::default() };
    for i in 0..5 {
        // A run of repeats and a violation; a ban, and with it an offence; traits, and
        // with them a factor.
        let who = format!("user {i}");
        let visit = Request { traits: Some(paying.clone()), ..message(&who, "") };
        let bad = violation(ViolationType::NON_BROWSER, None, &who, "");
        let mut all = vec![visit; 5];
        all.push(bad);
        judge(&mut engine, &all, 6, later(i));
    }
    let people = 5 * 3;
    assert_eq!(engine.size().forgotten, Forgotten { people, ..Forgotten::default() });
}

#[test]
fn when_addresses_run_out_it_is_counted_who_was_not_noted_there() {
    for batch in [1, 4] {
        let mut rules = Rules::hardened();
        rules.bounds.addresses = 2;
        let mut engine = engine_with(rules);
        let visits: Vec<_> =
            (0..10).map(|i| message(&format!("user {i}"), &format!("192.0.2.{i}"))).collect();
        judge(&mut engine, &visits, batch, NOW);
        assert_eq!(engine.memory.crowds.len(), 2, "in batches of {batch}");
        assert_eq!(engine.size().forgotten.addresses, 8, "in batches of {batch}");
        let bad = violation(ViolationType::LOGINS, None, "user 9", "192.0.2.9");
        judge_one(&mut engine, bad, NOW);
        assert_eq!(engine.size().forgotten.addresses, 9, "in batches of {batch}");
    }
}

#[test]
fn when_people_run_out_it_is_counted_how_much_was_forgotten() {
    let mut engine = bounded(Bounds { people: 3, ..Bounds::default() });
    let said = |i: u64| Request {
        traits: Some(Traits { paying: Some(true), ..Traits::default() }),
        ..message(&format!("user {i}"), "")
    };
    for i in 0..10 {
        judge_one(&mut engine, said(i), later(i));
    }
    assert_eq!(engine.size().forgotten, Forgotten { people: 7, ..Forgotten::default() });
}
