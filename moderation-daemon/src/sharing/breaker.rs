//! When to ask and when to leave alone whom we ask: closed while all is well; open after the
//! first failure, so that no decision waits twice; half open while one probe, which is no
//! decision, finds out. Waits between probes double, with jitter. Pure: time and chance
//! are arguments.

use std::time::Duration;

/// The first wait.
const SHORTEST_MS: u64 = 50;

/// Why somebody is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// No answer within the bound.
    Slow,
    /// There is no connection.
    Gone,
    /// The name, the password or the rights are not, or no longer, right.
    Refused,
    /// A script of somebody's runs and does not end.
    Busy,
    /// It has no memory for more.
    Full,
    /// It is a replica, or writes nothing.
    ReadOnly,
    /// It is starting, or its cluster is not whole.
    NotReady,
    /// A script failed.
    Script,
    /// An answer that makes no sense.
    Nonsense,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Slow,
        Self::Gone,
        Self::Refused,
        Self::Busy,
        Self::Full,
        Self::ReadOnly,
        Self::NotReady,
        Self::Script,
        Self::Nonsense,
    ];

    /// As metrics and the status have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::NotReady => "not_ready",
            Self::Script => "script",
            Self::Nonsense => "nonsense",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All is asked.
    Closed,
    /// Nothing is asked before that moment, in milliseconds.
    Open {
        /// Of the clock that it is told.
        until_ms: u64,
    },
    /// A probe is under way.
    HalfOpen,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    wait_ms: u64,
    longest_ms: u64,
    /// When it opened, in milliseconds; `None` while it is closed.
    since_ms: Option<u64>,
    fault: Option<Fault>,
}

impl Breaker {
    /// One that is open, so that the first to ask is a probe, and that waits so long at
    /// most between two.
    pub fn new(longest: Duration, now_ms: u64) -> Self {
        let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX).max(SHORTEST_MS);
        Self {
            state: State::Open { until_ms: now_ms },
            wait_ms: SHORTEST_MS,
            longest_ms,
            since_ms: Some(now_ms),
            fault: None,
        }
    }

    /// How it stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether decisions ask.
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// What went wrong last, if it is not closed.
    pub const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Since when decisions do not ask, in milliseconds.
    pub const fn since_ms(&self) -> Option<u64> {
        self.since_ms
    }

    /// Something failed. `chance` is evenly between 0 and `u32::MAX`. Whether it was closed.
    pub fn fail(&mut self, fault: Fault, now_ms: u64, chance: u32) -> bool {
        self.fault = Some(fault);
        match self.state {
            // Others who asked before it opened fail as well; that is no news.
            State::Open { .. } => false,
            State::HalfOpen => {
                self.wait_ms = self.wait_ms.saturating_mul(2).min(self.longest_ms);
                self.open(now_ms, chance);
                false
            }
            State::Closed => {
                self.wait_ms = SHORTEST_MS;
                self.since_ms = Some(now_ms);
                self.open(now_ms, chance);
                true
            }
        }
    }

    /// Between half the wait and all of it, so that hosts do not come back at once.
    fn open(&mut self, now_ms: u64, chance: u32) {
        let half = self.wait_ms / 2;
        let more = (u128::from(half) * u128::from(chance)) >> 32;
        let wait = self.wait_ms - half + u64::try_from(more).unwrap_or(half);
        self.state = State::Open { until_ms: now_ms.saturating_add(wait) };
    }

    /// Whether a probe is due; if so it is under way from now on, and there is no other.
    pub const fn probe(&mut self, now_ms: u64) -> bool {
        match self.state {
            State::Open { until_ms } if until_ms <= now_ms => {
                self.state = State::HalfOpen;
                true
            }
            State::Open { .. } | State::HalfOpen | State::Closed => false,
        }
    }

    /// The probe came back, and nothing is owed any more.
    pub const fn close(&mut self) {
        if matches!(self.state, State::HalfOpen) {
            self.state = State::Closed;
            self.since_ms = None;
            self.fault = None;
        }
    }
}
