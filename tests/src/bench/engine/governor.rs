//! The peer of `bench engine`: the `governor` crate's keyed limiter, with the map, the
//! hasher and the clock that it has by default. It counts the same keys in the same order.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use governor::clock::{Clock, DefaultClock, FakeRelativeClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use moderation_daemon::engine::UserId;

use super::Limiter;
use super::keys::{By, Counted, Keys};

/// As many as an address may send messages in a minute.
const MAX: u32 = 40;

type Limits<K, C> = RateLimiter<K, DashMapStateStore<K>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The limiter, by what it counts.
pub(super) enum Peer<C: Clock> {
    Addresses(Limits<IpAddr, C>),
    Users(Limits<UserId, C>),
}

impl<C: Clock> Peer<C> {
    fn of(by: By, quota: Quota, clock: C) -> Self {
        match by {
            By::Address | By::Both => {
                Self::Addresses(RateLimiter::dashmap_with_clock(quota, clock))
            }
            By::User => Self::Users(RateLimiter::dashmap_with_clock(quota, clock)),
        }
    }
}

fn burst() -> Result<NonZeroU32> {
    NonZeroU32::new(MAX).context("more than none")
}

impl Peer<DefaultClock> {
    /// Its clock cannot be hurried, so what it allows comes back at once: else it would
    /// deny nearly all of a round.
    pub(super) fn new(by: By) -> Result<Self> {
        let quota = Quota::with_period(Duration::from_nanos(1)).context("no quota")?;
        Ok(Self::of(by, quota.allow_burst(burst()?), DefaultClock::default()))
    }
}

impl Peer<FakeRelativeClock> {
    /// The same without what a clock takes; told, and no goal.
    pub(super) fn with_fake_clock(by: By) -> Self {
        // Enough for every round, as time stands still.
        let quota = Quota::per_minute(NonZeroU32::MAX);
        Self::of(by, quota, FakeRelativeClock::default())
    }
}

impl<C: Clock> Limiter for Peer<C> {
    fn decide(&mut self, keys: &Keys, chunk: &[u32]) -> (Duration, usize) {
        match self {
            Self::Addresses(limits) => check(limits, keys, chunk),
            Self::Users(limits) => check(limits, keys, chunk),
        }
    }
}

fn check<K: Counted + Hash + Eq + Clone, C: Clock>(
    limits: &Limits<K, C>,
    keys: &Keys,
    chunk: &[u32],
) -> (Duration, usize) {
    let chunk: Vec<K> = chunk.iter().map(|number| K::of(keys.subject(*number))).collect();
    let begin = Instant::now();
    let denied = chunk.iter().filter(|key| limits.check_key(key).is_err()).count();
    (begin.elapsed(), denied)
}

/// Sees it allow as much as it should, and no more at once.
pub(super) fn judge(by: By) -> Result<()> {
    let keys = Keys::new(by, 1);
    let mut peer = Peer::of(by, Quota::per_minute(burst()?), FakeRelativeClock::default());
    let (_, denied) = peer.decide(&keys, &[0; 2 * MAX as usize]);
    ensure!(denied == MAX as usize, "governor denied {denied} of {}", 2 * MAX);
    Ok(())
}
