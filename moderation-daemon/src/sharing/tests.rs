//! Names and forms, and the breaker against a model of what it promises.

use std::{collections::HashSet, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::engine::{Account, Bearer, Limiter, ViolationType};

fn bearers() -> Vec<Bearer> {
    let address = |text: &str| Bearer::Address(text.parse().expect("an address"));
    vec![
        Bearer::User("anna".parse().expect("an id")),
        Bearer::User("192.0.2.7".parse().expect("an id")),
        Bearer::Account(Account::of("anna")),
        address("192.0.2.7"),
        address("2001:db8::/64"),
    ]
}

#[test]
fn hosts_with_one_key_call_everybody_the_same_and_nobody_like_another() {
    let (one, other) = (Tags::new([1; 16]), Tags::new([2; 16]));
    let tags: HashSet<_> =
        bearers().iter().flat_map(|bearer| [one.of(bearer), other.of(bearer)]).collect();
    assert_eq!(tags.len(), 2 * bearers().len());
    for bearer in bearers() {
        assert_eq!(one.of(&bearer), Tags::new([1; 16]).of(&bearer));
    }
    assert_eq!(format!("{one:?}"), "Tags(keyed)");
}

#[test]
fn all_keys_of_a_bearer_are_in_one_slot_and_say_whose_prefix_they_have() {
    let (names, tag) = (Names::new("chat::moderation"), Tag(7));
    let window = names.window(tag, Limiter::MESSAGE_USER, Window::Log { ms: 60_000 });
    assert_eq!(window, "chat::moderation:{00000000000000000000000000000007}:message_user:l60000");
    for key in [window, names.leases(tag), names.scores(tag), names.mark(tag, 1)] {
        let between = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        assert_eq!(between.map(|(tag, _)| tag), Some("00000000000000000000000000000007"), "{key}");
        assert!(key.starts_with("chat::moderation:"), "{key}");
    }
}

#[test]
fn what_no_script_of_ours_answers_is_refused() {
    assert!(read_group(&[], 0).is_err());
    assert!(read_group(&[0; 12], 1).is_err(), "too short");
    assert!(read_group(&[3; 13], 1).is_err(), "denied by a claim that there is not");
    let scores = [
        "",
        "1 2 3",
        "1 2 3 4 5",
        "-1 0 0 0",
        "nan 0 0 0",
        "inf 0 0 0",
        "1 0 0 -1",
        "1 0 0.5 0",
        "a b c d",
        "1  0 0 0",
    ];
    for text in scores {
        assert!(read_score(text.as_bytes()).is_err(), "{text:?}");
    }
    assert!(read_score(&[0xff, 0xfe]).is_err());
    assert!(read_score(b"1.5 0 1700000000000 1700000000001").is_ok());
}

#[test]
fn no_two_reservations_have_the_same_name() {
    let tickets = Tickets::new(u64::MAX - 50_000);
    let all: HashSet<_> = (0..100_000).map(|_| tickets.next().number()).collect();
    assert_eq!(all.len(), 100_000);
    assert!(all.iter().all(|number| *number < 1 << 48));
}

#[test]
fn a_group_is_split_by_bearer_and_each_claim_knows_its_place() {
    let claim = |tag| Claim {
        tag: Tag(tag),
        counted: Counted::Limiter(Limiter::LOGIN, Window::Log { ms: 9 }),
        max: 1,
        cost: 1,
        looks: false,
        counts_rejected: false,
        violation: Some(ViolationType::LOGINS),
    };
    let tickets = Tickets::new(1);
    let group = Group {
        ticket: tickets.next(),
        in_order: true,
        claims: [1, 2, 1].map(claim).into_iter().collect(),
        scored: Some(Tag(2)),
        alone: None,
    };
    let parts = group.split();
    let places: Vec<_> = parts.iter().map(|(_, places)| places.to_vec()).collect();
    assert_eq!(places, [vec![0, 2], vec![1]]);
    let scored: Vec<_> = parts.iter().map(|(part, _)| part.scored).collect();
    assert_eq!(scored, [None, Some(Tag(2))]);
}

#[test]
fn what_is_owed_is_kept_in_its_order_and_the_oldest_go_when_there_is_too_much() {
    let tickets = Tickets::new(1);
    let act = |at| {
        let deed = Deed::Add(Limiter::LOGIN, Window::Log { ms: 10 }, 1, at);
        Act { tag: Tag(1), ticket: tickets.next(), deed }
    };
    let mut owed = Arrears::new(3);
    let all: Vec<_> = (1..=5).map(|at| act(100 * at)).collect();
    owed.owe(all.clone());
    assert_eq!((owed.len(), owed.dropped), (3, 2));
    assert_eq!(owed.take(2, 0), all[2..4]);
    owed.put_back(all[2..4].to_vec());
    // The first of them counts no longer.
    assert_eq!(owed.take(9, 350), all[3..]);
    assert!(owed.is_empty());
}

/// What can happen to a breaker.
#[derive(Clone, Debug)]
enum Happens {
    Fails(u32),
    Passes(u64),
    Answers,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        any::<u32>().prop_map(Happens::Fails),
        (0_u64..8_000).prop_map(Happens::Passes),
        Just(Happens::Answers),
    ]
}

proptest! {
    #[test]
    fn a_breaker_has_one_probe_at_a_time_and_waits_longer_each_time_but_never_too_long(
        all in prop::collection::vec(happens(), 1..200),
    ) {
        const LONGEST: u64 = 5_000;
        let mut now = 1_000;
        let mut breaker = Breaker::new(Duration::from_millis(LONGEST), now);
        for it in all {
            let before = breaker.state();
            match it {
                Happens::Passes(ms) => now += ms,
                Happens::Fails(chance) => {
                    let opened = breaker.fail(Fault::Slow, now, chance);
                    prop_assert_eq!(opened, before == State::Closed, "only then is it news");
                    let State::Open { until_ms } = breaker.state() else {
                        return Err(TestCaseError::fail("it failed and is not open"));
                    };
                    if !matches!(before, State::Open { .. }) {
                        let wait = until_ms - now;
                        prop_assert!((25..=LONGEST).contains(&wait), "waits {} ms", wait);
                    }
                    prop_assert!(breaker.fault().is_some() && breaker.since_ms().is_some());
                }
                Happens::Answers => {
                    breaker.close();
                    prop_assert_eq!(breaker.is_closed(), before == State::HalfOpen || before == State::Closed);
                }
            }
            let is_due = matches!(breaker.state(), State::Open { until_ms } if until_ms <= now);
            prop_assert_eq!(breaker.probe(now), is_due);
            prop_assert!(!breaker.probe(now), "one at a time");
            prop_assert_eq!(breaker.is_closed(), breaker.since_ms().is_none());
        }
    }
}
