//! A server of the kind that is counted here, people who do with it what they like, and an
//! access log that comes late, in disorder, or not at all: never more run than have a
//! place.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::engine::UserId;

const MOST: usize = 2;
/// Conversations, each of which is a stream, time and again.
const STREAMS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Post(usize),
    /// The server gets an earlier request, and refuses it or not.
    Arrive(usize, bool),
    Get(usize),
    Head(usize),
    Drop(usize),
    Finish(usize),
    AskAbort,
    /// Which one is meant is said later.
    Abort(usize, usize),
    Hear(usize),
    Lose(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let stream = || 0..STREAMS;
    let any = || 0..8_usize;
    prop_oneof![
        3 => stream().prop_map(Step::Post),
        4 => (any(), prop::bool::weighted(0.2)).prop_map(|(at, no)| Step::Arrive(at, no)),
        4 => stream().prop_map(Step::Get),
        1 => stream().prop_map(Step::Head),
        2 => any().prop_map(Step::Drop),
        3 => stream().prop_map(Step::Finish),
        2 => Just(Step::AskAbort),
        2 => (any(), stream()).prop_map(|(at, stream)| Step::Abort(at, stream)),
        9 => any().prop_map(Step::Hear),
        1 => any().prop_map(Step::Lose),
    ]
}

/// Whatever has been asked about and not come to an end.
#[derive(Debug)]
struct World {
    us: Generations,
    bearer: Bearer,
    number: u64,
    runs: [bool; STREAMS],
    /// On their way to the server.
    posts: Vec<(usize, RequestName, LeaseId)>,
    aborts: Vec<(RequestName, Part)>,
    open: Vec<(usize, RequestName)>,
    lines: VecDeque<(RequestName, Part, Answered)>,
    ends: usize,
}

fn stream(number: usize) -> StreamId {
    StreamId::parse(format!("stream-{number}").as_bytes()).expect("it is one")
}

fn answered(status: u16, is_complete: bool) -> Answered {
    Answered { status, upstream: Some(status), is_complete, is_get: true }
}

impl World {
    fn new() -> Self {
        let bearer = Bearer::User("anna".parse::<UserId>().expect("it is one"));
        Self {
            us: Generations::new(Patience { watched_ms: 1_000, unwatched_ms: 1_000, sweep_ms: 0 }),
            bearer,
            number: 0,
            runs: [false; STREAMS],
            posts: Vec::new(),
            aborts: Vec::new(),
            open: Vec::new(),
            lines: VecDeque::new(),
            ends: 0,
        }
    }

    fn name(&mut self) -> RequestName {
        self.number += 1;
        RequestName::parse(&format!("{:032x}", self.number)).expect("it is one")
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Post(stream) if self.us.held_by(&self.bearer) < MOST => {
                let name = self.name();
                self.us.start(&self.bearer, self.number, 0);
                self.posts.push((stream, name, self.number));
            }
            Step::Arrive(at, refuses) if !self.posts.is_empty() => {
                let (stream, name, lease) = self.posts.remove(at % self.posts.len());
                if !refuses {
                    // One of the same name is ended by it.
                    self.finish(stream);
                    self.runs[stream] = true;
                }
                let answer = answered(if refuses { 400 } else { 200 }, true);
                self.lines.push_back((name, Part::Start(lease), answer));
            }
            Step::Get(number) => {
                let name = self.name();
                self.us.watch(&self.bearer, &stream(number), name, 0);
                if self.runs[number] {
                    self.open.push((number, name));
                } else {
                    self.lines.push_back((name, Part::Stream(stream(number)), answered(404, true)));
                }
            }
            Step::Head(number) => {
                let name = self.name();
                self.us.watch(&self.bearer, &stream(number), name, 0);
                let status = if self.runs[number] { 200 } else { 404 };
                let answer = Answered { is_get: false, ..answered(status, true) };
                self.lines.push_back((name, Part::Stream(stream(number)), answer));
            }
            Step::Drop(at) if !self.open.is_empty() => {
                let (number, name) = self.open.remove(at % self.open.len());
                self.lines.push_back((name, Part::Stream(stream(number)), answered(200, false)));
            }
            Step::Finish(number) => self.finish(number),
            Step::AskAbort => {
                let (name, part) = (self.name(), self.us.abort());
                self.aborts.push((name, part));
            }
            Step::Abort(at, number) if !self.aborts.is_empty() => {
                let (name, part) = self.aborts.remove(at % self.aborts.len());
                let status = if self.runs[number] { 200 } else { 404 };
                self.finish(number);
                self.lines.push_back((name, part, answered(status, true)));
            }
            Step::Hear(at) if !self.lines.is_empty() => {
                let at = at % self.lines.len();
                if let Some((name, part, answer)) = self.lines.remove(at) {
                    self.us.hear(&self.bearer, name, &part, answer, 0);
                    for (held, _) in self.us.take_over() {
                        self.us.forget(&held);
                        self.ends += 1;
                    }
                }
            }
            Step::Lose(at) if !self.lines.is_empty() => {
                let at = at % self.lines.len();
                self.lines.remove(at);
            }
            _ => {}
        }
    }

    fn finish(&mut self, number: usize) {
        self.runs[number] = false;
        let lines = &mut self.lines;
        self.open.retain(|(stream_of, name)| {
            if *stream_of == number {
                lines.push_back((*name, Part::Stream(stream(number)), answered(200, true)));
            }
            *stream_of != number
        });
    }

    fn running(&self) -> usize {
        self.runs.iter().filter(|runs| **runs).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]
    #[test]
    fn never_more_run_than_have_a_place(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        for (at, step) in steps.iter().enumerate() {
            world.take(step);
            let held = world.us.held_by(&world.bearer);
            prop_assert!(world.running() + world.posts.len() <= held, "{at}: {step:?} {world:?}");
            prop_assert!(held <= MOST);
        }
    }
}

#[test]
fn ends_are_found() {
    let mut world = World::new();
    let story = [
        Step::Post(0),
        Step::Arrive(0, false),
        Step::Hear(0),
        Step::Get(0),
        Step::Finish(0),
        Step::Hear(0),
        Step::Post(0),
        Step::Arrive(0, false),
        Step::Hear(0),
        Step::AskAbort,
        Step::Abort(0, 0),
        Step::Hear(0),
        Step::Post(1),
        Step::Arrive(0, true),
        Step::Hear(0),
    ];
    story.iter().for_each(|step| world.take(step));
    assert_eq!((world.ends, world.us.len()), (3, 0));
}
