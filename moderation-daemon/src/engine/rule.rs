//! The rules, as the configuration states them, checked. The engine knows no
//! profile, only the switches here; what the profiles set them to is in
//! `profile`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Address, Bearer, EventType, Ladder, Limiter, Request, Subject, UserId, ViolationType,
    factor::Adaptive, kind::MAX_KINDS,
};

/// Everything that the engine goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// How is counted.
    pub counting: Counting,
    /// What is asked about each type of event; of types that are not here
    /// nothing is known.
    pub events: Vec<EventRule>,
    /// The limiters that are on.
    pub limiters: Vec<LimiterRule>,
    /// Generations at once by user.
    pub concurrency: Option<Concurrency>,
    /// What violations count for.
    pub scoring: Scoring,
    /// When a score becomes a ban, and how long.
    pub ban: BanRule,
    /// What a violation brings instead of points alone.
    pub ladders: ByViolation<Option<Ladder>>,
    /// How long a critical violation suspends, in milliseconds, until a person
    /// has looked at it.
    pub suspension_ms: u64,
    /// Maxima of limiters that differ by tier.
    pub tiers: Tiers,
    /// Limits that follow what is known about a user; `None`: they do not.
    pub adaptive: Option<Adaptive>,
    /// How much may be remembered.
    pub bounds: Bounds,
}

/// How is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counting {
    /// What a window is.
    pub windows: Windowing,
    /// What a rejected event uses up of the limits that it did not exceed.
    pub commit: Commit,
    /// The width at which IPv6 addresses are counted and scored: 64 or 128.
    pub v6_bits: u8,
    /// Whose an IPv4-mapped address is.
    pub mapped: Mapped,
}

/// What a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Windowing {
    /// It begins with a key's first event and starts anew when it is over, as
    /// express-rate-limit has it.
    Fixed,
    /// Every stretch of its length is one.
    Sliding,
}

/// What an event uses up when one of several limits rejects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Commit {
    /// Those before the one that rejects.
    InOrder,
    /// None.
    AllOrNone,
}

/// Whose an IPv4-mapped IPv6 address is, where it is counted. Bans never tell
/// the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapped {
    /// Another one than the IPv4 address.
    Apart,
    /// The IPv4 address.
    AsIpv4,
}

impl Counting {
    /// The address of a subject at the width of limits and scores.
    pub fn address(&self, subject: &Subject) -> Option<Address> {
        self.ip(subject).map(|ip| Address::new(ip, self.v6_bits))
    }

    /// The address of a subject as it is counted, at its full width.
    #[inline]
    pub(super) fn ip(&self, subject: &Subject) -> Option<IpAddr> {
        match self.mapped {
            Mapped::Apart => subject.ip_as_given(),
            Mapped::AsIpv4 => subject.ip(),
        }
    }
}

/// What is asked about one type of event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRule {
    /// Which.
    pub kind: EventType,
    /// Whether only browsers may cause it.
    pub browser: bool,
    /// The limiters that it counts towards, in the order in which they are
    /// asked. Those that are off are passed over.
    pub limiters: Vec<Limiter>,
    /// The limiters that must not be used up, but towards which it does not
    /// count. Where they are, it is denied and that is all: others may have been it.
    pub peeks: Vec<Limiter>,
    /// The limiters whose counts it takes back.
    pub refunds: Vec<Limiter>,
}

/// One limiter.
#[derive(Clone, Debug, PartialEq)]
pub struct LimiterRule {
    /// Which.
    pub limiter: Limiter,
    /// Whom it counts.
    pub by: By,
    /// How much it allows.
    pub limit: Limit,
    /// What it counts.
    pub unit: Unit,
    /// The violation that exceeding it is; `None`: it is none.
    pub violation: Option<ViolationType>,
    /// Points for that; `None`: those of the violation's type.
    pub points: Option<f64>,
    /// Whether what it rejects counts.
    pub count_rejected: bool,
    /// Whether the user's tier says how much it allows.
    pub is_tiered: bool,
    /// What records of the violation call it, as LibreChat does.
    pub label: Option<&'static str>,
    /// What LibreChat tells those whom it rejects; `{w}`: the window's length
    /// in minutes.
    pub said: &'static str,
}

/// Whom a limiter counts. Whoever lacks what is counted is not limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The address.
    Address,
    /// The user.
    User,
    /// The user, without one the account, without either the address.
    UserElseAccountElseAddress,
    /// The account, without one the user.
    AccountElseUser,
    /// The account.
    Account,
}

impl By {
    /// Of three whom a request may name the one that is counted.
    #[inline]
    pub(super) fn one_of<T>(
        self,
        user: impl FnOnce() -> Option<T>,
        account: impl FnOnce() -> Option<T>,
        address: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        match self {
            Self::Address => address(),
            Self::User => user(),
            Self::UserElseAccountElseAddress => user().or_else(account).or_else(address),
            Self::AccountElseUser => account().or_else(user),
            Self::Account => account(),
        }
    }
}

/// What a limiter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Each event is one.
    Events,
    /// Bytes, as the caller states them.
    Bytes,
    /// Tokens, as the caller states them.
    Tokens,
}

/// So much in a window.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// What is allowed in one window; 0 rejects everything.
    pub max: u64,
    /// Its length.
    pub window_ms: u64,
    /// What records say instead of these two.
    pub shown: Shown,
}

/// How LibreChat's records tell a limit, where that is not the limit itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// The maximum as it stands in the environment, as text.
    pub max: Option<Arc<str>>,
    /// The window's length in minutes.
    pub window_minutes: Option<f64>,
}

impl Limit {
    /// One that records tell as it is.
    pub fn new(max: u64, window_ms: u64) -> Self {
        Self { max, window_ms, shown: Shown::default() }
    }
}

/// So many generations at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// Leases that one user can hold.
    pub max: usize,
    /// How long a lease lives without renewal.
    pub lease_ms: u64,
}

/// What violations count for.
#[derive(Clone, Debug, PartialEq)]
pub struct Scoring {
    /// Points by violation type; finite.
    pub points: ByViolation<f64>,
    /// How scores go down by themselves.
    pub decay: Decay,
    /// Who bears the points of those without a user.
    pub anonymous: Anonymous,
    /// Which repeats count once; `None`: none do.
    pub repeats: Option<Repeats>,
}

/// How scores go down by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// They do not.
    Never,
    /// All at once, so long after the last points.
    Ttl {
        /// How long.
        ms: u64,
    },
    /// By half in so long, in steps: a total that went down by a hair between
    /// two violations would cross no line any more.
    HalfLife {
        /// How long a half takes.
        ms: u64,
        /// How long a step is.
        step_ms: u64,
    },
}

/// Who bears the points of those without a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anonymous {
    /// Nobody: they are told no, and nothing is recorded.
    Nobody,
    /// Their address.
    Address,
}

/// Which repeats count once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeats {
    /// How soon after a violation that counted another one of its type is a
    /// repeat.
    pub window_ms: u64,
    /// How many of them in that time count for nothing. If there are more, it
    /// is no tab but hammering: then these count, too, and all that follow.
    pub free: u32,
}

impl Default for Repeats {
    /// Those of a tab that reloads three times a second: it has six. One that goes
    /// faster does not wait for an answer.
    fn default() -> Self {
        Self { window_ms: 2_000, free: 6 }
    }
}

/// Something for each violation type, custom ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByViolation<T>(Vec<T>);

impl<T> ByViolation<T> {
    /// The same for all.
    pub fn all(value: T) -> Self
    where
        T: Clone,
    {
        Self(vec![value; MAX_KINDS])
    }

    /// Another one for `kind`.
    pub fn set(&mut self, kind: ViolationType, value: T) {
        self.0[usize::from(kind.index())] = value;
    }

    /// That of `kind`.
    pub fn of(&self, kind: ViolationType) -> &T {
        &self.0[usize::from(kind.index())]
    }
}

/// Whether the kernel enforces bans, by violation type.
pub type NetworkBlocks = ByViolation<NetworkBlock>;

/// When a score becomes a ban.
#[derive(Clone, Debug, PartialEq)]
pub struct BanRule {
    /// Off: violations are scored, and rules ban nobody.
    pub enabled: bool,
    /// A ban falls whenever the score of one type reaches or jumps over a
    /// multiple of this.
    pub interval: f64,
    /// What a crossing is of.
    pub crossing: Crossing,
    /// How long a first ban lasts.
    pub length: BanLength,
    /// How the bans of those who come back grow; `None`: they do not.
    pub growth: Option<Growth>,
    /// How an address that several subjects share is spared; `None`: it is not.
    pub shared: Option<SharedRule>,
    /// Who is never banned automatically.
    pub protected: Protected,
    /// The width at which an IPv6 address is banned.
    pub v6_prefix: u8,
    /// Which bans the kernel is to enforce.
    pub network_block: NetworkBlocks,
    /// Bans called for within a minute beyond which none falls.
    pub max_per_minute: u32,
    /// When many banned /64s become one wider block.
    pub escalation: Escalation,
}

/// How long a ban lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BanLength {
    /// Not at all: the caller is told to end the user's sessions, and that is
    /// it.
    Soft,
    /// So many milliseconds.
    For(u64),
    /// Until somebody lifts it.
    Forever,
}

/// What the interval is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// The score as it stands, as LibreChat does.
    Total,
    /// The points that have led to no ban yet: a score that decays would cross
    /// the same line again.
    Consumed,
}

/// How the bans of those who come back grow: each is `factor` times as long as
/// the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// At least 1.
    pub factor: f64,
    /// No ban is longer.
    pub cap_ms: u64,
    /// In how long half of what was done is forgotten.
    pub half_life_ms: u64,
}

/// How a shared address is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedRule {
    /// How long.
    pub duration_ms: u64,
    /// How many different subjects must have broken rules there; anonymous
    /// ones are always enough.
    pub subjects: u32,
    /// Within how long.
    pub within_ms: u64,
}

/// Who is never banned automatically, nor the address that they come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protected {
    /// By id.
    pub users: BTreeSet<UserId>,
    /// By role.
    pub roles: BTreeSet<Arc<str>>,
}

/// Maxima by tier, for the limiters that are tiered. Who has no tier, or one
/// that is not here, has the limiter's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tiers(pub BTreeMap<Arc<str>, u64>);

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
    /// Users and addresses of which offences are remembered, and as many each
    /// with penalties, traits, factors and repeats. Beyond, the oldest is
    /// forgotten, of traits last those with a role or a tier. A protected role is
    /// not forgotten.
    pub people: usize,
    /// Addresses of which is remembered who was seen there. Beyond, an address
    /// is taken for a shared one, which punishes less.
    pub addresses: usize,
    /// Accounts and addresses that belong together. Beyond, the oldest is
    /// forgotten.
    pub pairs: usize,
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
            people: 100_000,
            addresses: 200_000,
            pairs: 100_000,
        }
    }
}

impl Rules {
    /// What is asked about a type of event.
    pub fn event(&self, kind: EventType) -> Option<&EventRule> {
        self.events.iter().find(|rule| rule.kind == kind)
    }

    /// One limiter, if it is on.
    pub fn limiter(&self, limiter: Limiter) -> Option<&LimiterRule> {
        self.limiters.iter().find(|rule| rule.limiter == limiter)
    }

    /// The same, to be changed.
    pub fn limiter_mut(&mut self, limiter: Limiter) -> Option<&mut LimiterRule> {
        self.limiters.iter_mut().find(|rule| rule.limiter == limiter)
    }

    /// The limiters of an event type, in the order in which they are asked.
    pub fn limiters(&self, kind: EventType) -> impl Iterator<Item = &LimiterRule> {
        let names = self.event(kind).into_iter().flat_map(|rule| &rule.limiters);
        names.filter_map(|limiter| self.limiter(*limiter))
    }

    /// The limiters that an event type must not have used up.
    pub fn peeks(&self, kind: EventType) -> impl Iterator<Item = &LimiterRule> {
        let names = self.event(kind).into_iter().flat_map(|rule| &rule.peeks);
        names.filter_map(|limiter| self.limiter(*limiter))
    }

    /// Whom a limiter counts for a request; `None`: nobody.
    pub fn counted(&self, by: By, request: &Request) -> Option<Bearer> {
        let address = || self.counting.address(&request.subject).map(Bearer::Address);
        let user = || request.subject.user().cloned().map(Bearer::User);
        let account = || request.account.map(Bearer::Account);
        by.one_of(user, account, address)
    }

    /// Who a subject is: the user, or the address of a visitor without one.
    pub fn bearer(&self, subject: &Subject) -> Bearer {
        match (subject.user(), self.counting.address(subject)) {
            (Some(user), _) => Bearer::User(user.clone()),
            (None, Some(address)) => Bearer::Address(address),
            (None, None) => unreachable!("Subject::new refuses a subject without either"),
        }
    }

    /// Who bears a subject's points, if anybody does.
    pub fn scored(&self, subject: &Subject) -> Option<Bearer> {
        match (self.scoring.anonymous, subject.user()) {
            (Anonymous::Nobody, None) => None,
            _ => Some(self.bearer(subject)),
        }
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
        let ban = Rules::librechat().ban;
        for (previous, points, interval, want) in vectors {
            let rule = BanRule { interval, ..ban.clone() };
            let got = rule.crosses(previous, previous + points);
            assert_eq!(got, want, "{previous} + {points}, interval {interval}");
        }
    }
}
