//! Made-up traffic: users who share addresses, bursts that go over limits, scripts,
//! generations, and time that likes to stop where something ends.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use moderation_tests::random::Random;
use serde::Serialize;

/// One request, as both sides see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Event {
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) kind: &'static str,
    pub(crate) user: Option<String>,
    pub(crate) ip: String,
    pub(crate) agent: &'static str,
}

/// What happens, the likelier ones more often, and whether a user is known then.
const KINDS: [(&str, bool); 32] = [
    ("message", true),
    ("message", true),
    ("message", true),
    ("message", true),
    ("message", true),
    ("message", true),
    ("message", true),
    ("message", true),
    ("login", false),
    ("login", false),
    ("registration", false),
    ("password_reset", false),
    ("password_reset_submission", false),
    ("email_verification", false),
    ("email_verification_submission", false),
    ("two_factor", true),
    ("two_factor", true),
    ("file_upload", true),
    ("file_usage", true),
    ("import", true),
    ("fork", true),
    ("tts", true),
    ("stt", true),
    ("tool_call", true),
    ("prompt_usage", true),
    ("context_projection", true),
    ("shared_link", true),
    ("shared_link", false),
    ("agent_event", true),
    ("convo_access", true),
    ("illegal_model_request", true),
    ("token_balance", true),
];
/// Of these there are as many again.
const GENERATIONS_IN: u64 = 5;

pub(crate) const CHROME: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36";
const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "curl/8.5.0",
    "",
    "Dart/3.2 (dart:io)",
];

const USERS: u64 = 400;
const ADDRESSES: u64 = 150;
/// Every so many users keep generations longer than a minute.
const SLOW: u64 = 10;
const MINUTE: u64 = 60_000;
/// Moments at which something ends, of which so many are remembered.
const MOMENTS: usize = 500;

/// Whether a user's generations may take longer than LibreChat remembers them.
pub(crate) fn is_slow(user: &str) -> bool {
    u64::from_str_radix(&user[8..], 16).is_ok_and(|number| number % SLOW == 0)
}

/// What comes next.
pub(crate) enum Next {
    Event(Event),
    /// A user's generations go on.
    Renew {
        user: String,
        at: u64,
    },
    /// A user's oldest generation is over.
    Release {
        user: String,
        at: u64,
    },
}

/// What follows from something that happened.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Renewal(String),
    Release(String),
    Again(Event),
}

pub(crate) struct Traffic {
    random: Random,
    now: u64,
    burst: Option<(Event, u64)>,
    due: BinaryHeap<Reverse<(u64, Due)>>,
    ends: BTreeSet<u64>,
}

impl Traffic {
    pub(crate) fn new(seed: u64, begin: u64) -> Self {
        let random = Random::new(seed);
        Self { random, now: begin, burst: None, due: BinaryHeap::new(), ends: BTreeSet::new() }
    }

    /// Something ends then: a good moment for the next event.
    pub(crate) fn ends_at(&mut self, at: u64) {
        if at > self.now {
            self.ends.insert(at);
        }
        if self.ends.len() > MOMENTS {
            self.ends.pop_first();
        }
    }

    /// The same will happen again then.
    pub(crate) fn again(&mut self, event: &Event, at: u64) {
        self.due.push(Reverse((at, Due::Again(event.clone()))));
    }

    /// A generation was admitted; it will be over some time.
    pub(crate) fn admitted(&mut self, event: &Event) {
        let Some(user) = &event.user else { return };
        let most = if is_slow(user) { 5 * MINUTE } else { MINUTE / 3 };
        let end = self.now + 1 + self.random.below(most);
        let renewals = (1..).map(|count| self.now + count * MINUTE / 2);
        for at in renewals.take_while(|at| *at < end) {
            self.due.push(Reverse((at, Due::Renewal(user.clone()))));
        }
        self.due.push(Reverse((end, Due::Release(user.clone()))));
        // Once more, when LibreChat has forgotten.
        if end > self.now + 3 * MINUTE && self.random.below(4) == 0 {
            self.again(event, self.now + 2 * MINUTE);
        }
    }

    pub(crate) fn next(&mut self) -> Next {
        let at = self.later();
        if let Some(Reverse((due, ..))) = self.due.peek()
            && *due <= at
            && let Some(Reverse((due, what))) = self.due.pop()
        {
            self.now = self.now.max(due);
            let at = self.now;
            return match what {
                Due::Renewal(user) => Next::Renew { user, at },
                Due::Release(user) => Next::Release { user, at },
                Due::Again(event) => Next::Event(Event { at, ..event }),
            };
        }
        self.now = at;
        Next::Event(self.event(at))
    }

    /// When the next event is: mostly soon, often when something ends.
    fn later(&mut self) -> u64 {
        let random = &mut self.random;
        if self.burst.is_some() && random.below(50) > 0 {
            return self.now + random.below(40);
        }
        let pause = match random.below(100) {
            0..10 => return self.at_an_end(),
            10..55 => random.below(50),
            55..90 => random.below(20_000),
            90..99 => random.below(5 * MINUTE),
            _ => random.below(150 * MINUTE),
        };
        self.now + pause
    }

    /// Exactly then, or a millisecond before or after.
    fn at_an_end(&mut self) -> u64 {
        while let Some(at) = self.ends.pop_first() {
            let at = at - 1 + self.random.below(3);
            if at >= self.now && at < self.now + 300 * MINUTE {
                return at;
            }
        }
        self.now
    }

    fn event(&mut self, at: u64) -> Event {
        if let Some((event, left)) = self.burst.take() {
            if left > 1 {
                self.burst = Some((event.clone(), left - 1));
            }
            return Event { at, ..event };
        }
        let event = self.fresh(at);
        if self.random.below(3) == 0 {
            self.burst = Some((event.clone(), 1 + self.random.below(60)));
        }
        event
    }

    fn fresh(&mut self, at: u64) -> Event {
        let random = &mut self.random;
        let (kind, has_user) =
            if random.below(GENERATIONS_IN) == 0 { ("acquire", true) } else { random.pick(&KINDS) };
        let number = random.below(USERS);
        // Some are at home nearly always, with a few others.
        let place =
            if random.below(12) == 0 { random.below(ADDRESSES) } else { number % ADDRESSES };
        // Of shared links alone LibreChat counts mapped addresses as what they are
        // (differences.toml, network_of_shared_links).
        let is_apart = kind == "shared_link" && place % 10 < 2;
        let place = if is_apart { place + 5 } else { place };
        let agent = if random.below(25) == 0 { random.pick(&AGENTS) } else { CHROME };
        let user = has_user.then(|| format!("64b5f0c2{number:016x}"));
        Event { at, kind, user, ip: address(place), agent }
    }
}

/// IPv4, some of which come mapped as well, and IPv6, each in a network of its own.
fn address(place: u64) -> String {
    let (kind, place) = (place % 10, place / 10);
    match kind {
        0 => format!("::ffff:203.0.113.{}", place % 10 + 1),
        1 => format!("203.0.113.{}", place + 1),
        2..5 => format!("2001:db8:{:x}:100::{:x}", place * 10 + kind, place + 1),
        _ => format!("198.{}.{}.{}", kind, place, place + 1),
    }
}
