//! When a place is given back, and when not.

use super::*;
use crate::engine::UserId;

const PATIENCE: Patience = Patience { watched_ms: 1_000, unwatched_ms: 100, sweep_ms: 0 };
const LEASE: LeaseId = 7;

fn anna() -> Bearer {
    Bearer::User("anna".parse::<UserId>().expect("it is one"))
}

fn name(number: u8) -> RequestName {
    RequestName::parse(&format!("{number:032x}")).expect("it is one")
}

fn id(text: &str) -> StreamId {
    StreamId::parse(text.as_bytes()).expect("it is one")
}

fn answered(status: u16, is_complete: bool) -> Answered {
    Answered { status, upstream: Some(status), is_complete, is_get: true }
}

/// With one place, taken at 0.
fn one() -> Generations {
    let mut places = Generations::new(PATIENCE);
    places.start(&anna(), LEASE, 0);
    places
}

/// Why places were given back.
fn ends(places: &mut Generations) -> Vec<End> {
    let over = places.take_over();
    over.iter().for_each(|(held, _)| places.forget(held));
    over.into_iter().map(|(_, why)| why).collect()
}

/// A request that carries a stream, from its question to its line.
fn carry(places: &mut Generations, stream: &str, number: u8, answer: Answered) -> Vec<End> {
    places.watch(&anna(), &id(stream), name(number), 0);
    places.hear(&anna(), name(number), &Part::Stream(id(stream)), answer, 0);
    ends(places)
}

#[test]
fn what_the_server_refused_to_begin_has_no_place() {
    let none = |status| Answered { upstream: None, ..answered(status, true) };
    let asked = |status, upstream| Answered { upstream: Some(upstream), ..answered(status, true) };
    let cases = [
        ("it began", answered(200, true), None),
        ("it began elsewhere", answered(302, true), None),
        ("a bad message", answered(400, true), Some(End::Refused)),
        ("an error", answered(500, true), Some(End::Refused)),
        ("the server is down", answered(502, true), Some(End::Refused)),
        ("it was never asked", none(413), Some(End::Refused)),
        ("it did not answer in time", answered(504, true), None),
        ("nginx gave up later", asked(504, 200), None),
        ("the client went away", none(499), None),
        ("the client went away before it was told", asked(499, 200), None),
        ("the client went away when it had been refused", asked(499, 400), None),
    ];
    for (what, answer, want) in cases {
        let mut places = one();
        places.hear(&anna(), name(1), &Part::Start(LEASE), answer, 0);
        assert_eq!(ends(&mut places), Vec::from_iter(want), "{what}");
    }
}

#[test]
fn what_is_a_request_ends_with_it_however_it_ends() {
    for answer in [answered(200, true), answered(200, false), answered(499, false)] {
        let mut places = Generations::new(PATIENCE);
        places.start_whole(&anna(), LEASE, 0);
        places.sweep(999);
        assert_eq!(ends(&mut places), []);
        places.hear(&anna(), name(1), &Part::Whole(LEASE), answer, 0);
        assert_eq!(ends(&mut places), [End::Ended], "{answer:?}");
        assert!(places.is_empty());
    }
}

#[test]
fn what_was_carried_to_its_end_has_ended_and_what_was_not_goes_on() {
    let head = Answered { is_get: false, ..answered(200, true) };
    let cases = [
        ("to its end", answered(200, true), true),
        ("the client went away", answered(200, false), false),
        ("no body was asked for", head, false),
        ("nothing was carried", answered(204, true), false),
        ("a part", answered(206, true), false),
        ("it was not known, but may not have been it", answered(404, true), false),
        ("it is another's", answered(403, true), false),
        ("an error", answered(502, true), false),
    ];
    for (what, answer, ended) in cases {
        let mut places = one();
        let want = if ended { vec![End::Ended] } else { Vec::new() };
        assert_eq!(carry(&mut places, "a", 1, answer), want, "{what}");
        assert_eq!(places.held_by(&anna()), usize::from(!ended), "{what}");
    }
}

#[test]
fn what_ran_and_is_not_known_any_more_has_ended() {
    let mut places = one();
    assert_eq!(carry(&mut places, "a", 1, answered(200, false)), []);
    assert_eq!(carry(&mut places, "b", 2, answered(404, true)), [], "that is another one");
    assert_eq!(carry(&mut places, "a", 3, answered(404, true)), [End::Ended]);
}

#[test]
fn one_end_counts_once_whoever_watches_it() {
    let mut places = one();
    places.start(&anna(), LEASE + 1, 0);
    for number in 1..=3 {
        places.watch(&anna(), &id("a"), name(number), 0);
    }
    for number in 1..=3 {
        let part = Part::Stream(id("a"));
        places.hear(&anna(), name(number), &part, answered(200, true), 0);
        // A line that comes twice.
        places.hear(&anna(), name(number), &part, answered(200, true), 0);
    }
    assert_eq!(ends(&mut places), [End::Ended]);
    assert_eq!(places.held_by(&anna()), 1, "the other one runs");
    // A stream of that name is begun again.
    assert_eq!(carry(&mut places, "a", 4, answered(200, true)), [End::Ended]);
}

#[test]
fn what_was_ended_by_request_has_ended_unless_that_is_told_otherwise() {
    let granted = answered(200, true);
    let ask = |places: &mut Generations| places.abort();
    let mut places = one();
    let abort = ask(&mut places);
    places.hear(&anna(), name(1), &abort, answered(404, true), 0);
    assert_eq!(ends(&mut places), [], "there was none");
    let abort = ask(&mut places);
    places.hear(&anna(), name(1), &abort, granted, 0);
    assert_eq!(ends(&mut places), [End::Aborted]);

    // While it is carried, the end of that tells it.
    let mut places = one();
    places.start(&anna(), LEASE + 1, 0);
    places.watch(&anna(), &id("a"), name(1), 0);
    let abort = ask(&mut places);
    places.hear(&anna(), name(2), &abort, granted, 0);
    assert_eq!(ends(&mut places), []);
    places.hear(&anna(), name(1), &Part::Stream(id("a")), granted, 0);
    assert_eq!(ends(&mut places), [End::Ended]);

    // In the other order, too.
    let mut places = one();
    places.start(&anna(), LEASE + 1, 0);
    places.watch(&anna(), &id("a"), name(1), 0);
    let abort = ask(&mut places);
    places.hear(&anna(), name(1), &Part::Stream(id("a")), granted, 0);
    places.hear(&anna(), name(2), &abort, granted, 0);
    assert_eq!(ends(&mut places), [End::Ended], "once");
}

#[test]
fn what_nothing_is_heard_of_is_over_in_time() {
    let mut places = one();
    places.sweep(99);
    assert_eq!(ends(&mut places), []);
    places.sweep(100);
    assert_eq!(ends(&mut places), [End::Silent]);

    // While somebody watches, that is longer; when he has gone, it is as long again.
    let mut places = one();
    places.watch(&anna(), &id("a"), name(1), 50);
    places.sweep(1_049);
    assert_eq!(ends(&mut places), []);
    places.hear(&anna(), name(1), &Part::Stream(id("a")), answered(200, false), 1_000);
    places.sweep(1_099);
    assert_eq!(ends(&mut places), []);
    places.sweep(1_100);
    assert_eq!(ends(&mut places), [End::Silent]);

    // Whose line is lost.
    let mut places = one();
    places.watch(&anna(), &id("a"), name(1), 50);
    places.sweep(1_050);
    assert_eq!(ends(&mut places), [End::Silent]);
}

#[test]
fn a_place_of_which_nothing_is_heard_does_not_live_on_others() {
    let mut places = one();
    places.start(&anna(), LEASE + 1, 10);
    places.watch(&anna(), &id("a"), name(1), 20);
    places.sweep(500);
    let over = places.take_over();
    assert_eq!(over, [((anna(), LEASE), End::Silent)], "the newer one is what is watched");
    over.iter().for_each(|(held, _)| places.forget(held));
    assert_eq!(places.running(), [(anna(), LEASE + 1)]);
}

#[test]
fn a_place_that_cannot_be_given_back_is_tried_again_and_counts() {
    let mut places = one();
    places.hear(&anna(), name(1), &Part::Start(LEASE), answered(400, true), 0);
    let over = places.take_over();
    assert_eq!((over.len(), places.take_over().len()), (1, 0));
    for (held, why) in over {
        places.put_back(held, why);
    }
    assert_eq!((places.held_by(&anna()), places.running()), (1, vec![]));
    places.sweep(1_000_000);
    assert_eq!(ends(&mut places), [End::Refused], "once");
    assert_eq!(places.len(), 0);
}

#[test]
fn who_holds_no_place_leaves_nothing_behind() {
    let mut places = Generations::new(PATIENCE);
    assert_eq!(carry(&mut places, "a", 1, answered(200, true)), []);
    let abort = places.abort();
    places.hear(&anna(), name(1), &abort, answered(200, true), 0);
    assert_eq!((places.is_empty(), places.take_over().len()), (true, 0));
}

#[test]
fn what_is_known_of_streams_is_bounded() {
    let mut places = one();
    for number in 0..200 {
        places.watch(&anna(), &id(&format!("{number}")), name(number), 0);
        places.watch(&anna(), &id("0"), name(number), 0);
    }
    let book = &places.books[&anna()];
    assert_eq!(book.streams.len(), MAX_STREAMS);
    assert!(book.streams.iter().all(|(_, stream)| stream.watchers.len() <= MAX_WATCHERS));
}

#[test]
fn all_places_are_looked_at_now_and_then() {
    let mut places = Generations::new(Patience { sweep_ms: 50, ..PATIENCE });
    places.start(&anna(), LEASE, 0);
    let looks = [0, 49, 50, 99, 100, 101].map(|now| places.sweep(now));
    assert_eq!(looks, [Some(1), None, Some(1), None, Some(1), None]);
    assert_eq!(ends(&mut places), [End::Silent]);
    assert_eq!(places.sweep(150), Some(0));
}
