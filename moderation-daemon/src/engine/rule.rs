//! The rules, as the configuration states them, checked.

use serde::{Deserialize, Serialize};

use super::{EventType, ViolationType};

/// Everything that the engine goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Logins by address.
    pub login: Limit,
    /// Registrations by address.
    pub registration: Limit,
    /// Messages by address.
    pub message_ip: Option<Limit>,
    /// Messages by user.
    pub message_user: Option<Limit>,
    /// Generations at once by user.
    pub concurrency: Option<Concurrency>,
    /// Points by violation type.
    pub scores: Scores,
    /// When a score becomes a ban, and how long.
    pub ban: BanRule,
    /// How much may be remembered.
    pub bounds: Bounds,
}

/// So many events in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Events that are allowed in one window.
    pub max: u64,
    /// Its length.
    pub window_ms: u64,
}

/// So many generations at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// Leases that one user can hold.
    pub max: usize,
    /// How long a lease lives without renewal.
    pub lease_ms: u64,
}

/// Points by violation type; finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// `logins`.
    pub logins: f64,
    /// `registrations`.
    pub registrations: f64,
    /// `message_limit`.
    pub message_limit: f64,
    /// `concurrent`.
    pub concurrent: f64,
    /// `non_browser`.
    pub non_browser: f64,
    /// `illegal_model_request`.
    pub illegal_model_request: f64,
    /// `connection_rate`.
    pub connection_rate: f64,
}

impl Scores {
    /// The points for one violation of `kind`.
    pub const fn of(&self, kind: ViolationType) -> f64 {
        match kind {
            ViolationType::Logins => self.logins,
            ViolationType::Registrations => self.registrations,
            ViolationType::MessageLimit => self.message_limit,
            ViolationType::Concurrent => self.concurrent,
            ViolationType::NonBrowser => self.non_browser,
            ViolationType::IllegalModelRequest => self.illegal_model_request,
            ViolationType::ConnectionRate => self.connection_rate,
        }
    }
}

/// When a score becomes a ban.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BanRule {
    /// Off: violations are scored, nobody is banned.
    pub enabled: bool,
    /// A ban falls whenever the score of one type reaches or jumps over a
    /// multiple of this.
    pub interval: f64,
    /// How long a ban lasts.
    pub duration_ms: u64,
    /// The width at which an IPv6 address is banned.
    pub v6_prefix: u8,
    /// Which bans the kernel is to enforce.
    pub network_block: NetworkBlocks,
    /// Bans called for within a minute beyond which none falls.
    pub max_per_minute: u32,
    /// When many banned /64s become one wider block.
    pub escalation: Escalation,
}

/// Whether packets of a banned address are dropped in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkBlock {
    /// From the first ban on.
    Always,
    /// From the second ban for the same violation type on.
    Repeat,
    /// Not at all: the ban holds at the API only.
    Never,
}

/// A [`NetworkBlock`] for each violation type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkBlocks([NetworkBlock; ViolationType::ALL.len()]);

impl NetworkBlocks {
    /// The same for all.
    pub const fn all(block: NetworkBlock) -> Self {
        Self([block; ViolationType::ALL.len()])
    }

    /// Another one for `kind`.
    pub const fn set(&mut self, kind: ViolationType, block: NetworkBlock) {
        self.0[kind as usize] = block;
    }

    /// That of `kind`.
    pub const fn of(&self, kind: ViolationType) -> NetworkBlock {
        self.0[kind as usize]
    }
}

/// How many banned /64s in one wider block make the block banned; `None`: no
/// number does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escalation {
    /// In a /56.
    pub v6_56: Option<u32>,
    /// In a /48.
    pub v6_48: Option<u32>,
}

impl BanRule {
    /// LibreChat's rule: floor(previous / interval) < floor(now / interval).
    ///
    /// Written as a negation, as LibreChat has it, so that the division by
    /// zero of an interval of 0 comes out the same (NaN is not ≥ anything).
    pub fn crosses(&self, previous: f64, now: f64) -> bool {
        let reached = (previous / self.interval).floor() >= (now / self.interval).floor();
        !reached
    }
}

/// How much may be remembered, whatever strangers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Limiter windows. Beyond, newcomers share one window per limiter, and
    /// are refused, not punished, when that is used up.
    pub windows: usize,
    /// Scores. Beyond, the one that has been quiet longest is forgotten.
    pub scores: usize,
    /// Active bans. Beyond, no ban falls, which is counted and logged.
    pub bans: usize,
    /// Banned networks, that is prefixes that the kernel does not look up
    /// exactly. Beyond, no ban on another one falls.
    pub networks: usize,
    /// Leases. Beyond, none is given.
    pub leases: usize,
    /// Remembered request ids. Beyond, the oldest is forgotten.
    pub request_ids: usize,
    /// How long a request id is remembered.
    pub request_id_ms: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            windows: 1_000_000,
            scores: 1_000_000,
            bans: 1_000_000,
            networks: 16_384,
            leases: 100_000,
            request_ids: 100_000,
            request_id_ms: 10 * 60 * 1_000,
        }
    }
}

/// Who is counted by a limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limiter {
    /// `login`, by address.
    Login,
    /// `registration`, by address.
    Registration,
    /// `message_ip`, by address.
    MessageIp,
    /// `message_user`, by user.
    MessageUser,
}

impl Limiter {
    /// Its name in the API and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Registration => "registration",
            Self::MessageIp => "message_ip",
            Self::MessageUser => "message_user",
        }
    }

    /// Whether it counts users; the others count addresses.
    pub const fn is_by_user(self) -> bool {
        matches!(self, Self::MessageUser)
    }

    /// The violation that exceeding it is.
    pub const fn violation(self) -> ViolationType {
        match self {
            Self::Login => ViolationType::Logins,
            Self::Registration => ViolationType::Registrations,
            Self::MessageIp | Self::MessageUser => ViolationType::MessageLimit,
        }
    }
}

impl Rules {
    /// The limiters of an event type, in the order in which they are asked.
    pub fn limiters(&self, kind: EventType) -> impl Iterator<Item = (Limiter, Limit)> {
        let (first, second) = match kind {
            EventType::Login => (Some((Limiter::Login, self.login)), None),
            EventType::Registration => (Some((Limiter::Registration, self.registration)), None),
            EventType::Message => (
                self.message_ip.map(|limit| (Limiter::MessageIp, limit)),
                self.message_user.map(|limit| (Limiter::MessageUser, limit)),
            ),
        };
        first.into_iter().chain(second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors taken from LibreChat v0.8.7's own arithmetic:
    /// previous score, points, interval, ban?
    #[test]
    fn a_ban_falls_when_a_multiple_of_the_interval_is_reached_or_jumped_over() {
        let vectors = [
            (0.0, 1.0, 20.0, false),
            (19.0, 1.0, 20.0, true),
            (20.0, 1.0, 20.0, false),
            (39.0, 1.0, 20.0, true),
            (0.0, 20.0, 20.0, true),
            (5.0, 20.0, 20.0, true),
            (0.0, 45.0, 20.0, true),
            (20.0, 20.0, 20.0, true),
            (0.0, 0.0, 20.0, false), // LibreChat reads "" as 0
            (0.0, 0.5, 20.0, false),
            (19.9, 0.2, 20.0, true),
            (20.0, -5.0, 20.0, false),
            (0.0, 1.0, 0.0, true),
            (1.0, 1.0, 0.0, false),
            (0.0, 1.0, -20.0, false),
            (0.0, 1.0, 1.0, true),
        ];
        let ban = crate::config::Config::parse("").expect("the defaults are valid").rules.ban;
        for (previous, points, interval, want) in vectors {
            let rule = BanRule { interval, ..ban };
            let got = rule.crosses(previous, previous + points);
            assert_eq!(got, want, "{previous} + {points}, interval {interval}");
        }
    }
}
