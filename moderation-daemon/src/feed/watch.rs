//! Dropped packets for operators who watch, each of whom asks again and again.
//! While nobody asks, the kernel takes no samples.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use moderation_common::Reason;
use tokio::{sync::Notify, time::timeout};

use super::{BATCH, LOOK_INTERVAL, opened};
use crate::{
    clock,
    metrics::{Metrics, Table},
    moderator::Moderator,
    network::{Dropped, Pins, Samples},
};

/// Samples that are kept for those who ask.
const KEPT: usize = 1_024;
/// Samples that are kept of one second.
const MOST_PER_SECOND: usize = 500;
/// For so long after a question the kernel goes on sampling.
const LEASE: Duration = Duration::from_secs(5);
/// Different wishes that are remembered at once.
const MAX_WISHES: usize = 32;
/// For so long a question waits for samples.
const PATIENCE: Duration = Duration::from_secs(1);

/// Dropped packets for those who watch. While nobody asks, the kernel takes no
/// samples.
#[derive(Debug)]
pub struct Watch {
    kept: Mutex<Kept>,
    news: Notify,
    asked: Notify,
    wishes: Mutex<Wishes>,
    metrics: Arc<Metrics>,
}

/// How finely those who watch want it: one dropped packet in so many, each until
/// a moment of the boot clock.
#[derive(Debug, Default)]
struct Wishes(BTreeMap<u32, u64>);

impl Wishes {
    /// Keeps a wish for a while. Too many at once: the coarsest is forgotten,
    /// whose watcher is shown more than he asked for, and asks again anyway.
    /// `false` if that was so.
    fn add(&mut self, every: u32, now_boot_ms: u64) -> bool {
        let lease_ms = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
        self.0.retain(|_, until_ms| now_boot_ms < *until_ms);
        self.0.insert(every, now_boot_ms + lease_ms);
        let is_surplus = self.0.len() > MAX_WISHES;
        if is_surplus {
            self.0.pop_last();
        }
        !is_surplus
    }

    /// The finest of those that hold.
    fn finest(&self, now_boot_ms: u64) -> Option<u32> {
        self.0.iter().find(|(_, until_ms)| now_boot_ms < **until_ms).map(|(every, _)| *every)
    }
}

#[derive(Debug, Default)]
struct Kept {
    samples: VecDeque<(u64, Dropped)>,
    next: u64,
    lost: u64,
}

/// Of how far back the sources are that drop most.
const BUSY_NS: u64 = 10_000_000_000;

/// From whom dropped packets came lately, by samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampled {
    /// Samples of the last ten seconds.
    pub samples: usize,
    /// Sources with the most of them, the busiest first: which, how many, and why the
    /// last of them was dropped.
    pub sources: Vec<(IpAddr, usize, Reason)>,
}

/// An answer to somebody who watches.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Samples, oldest first.
    pub samples: Vec<Dropped>,
    /// Where to go on from.
    pub next: u64,
    /// Samples since the start that came too quickly to be kept.
    pub lost: u64,
}

impl Watch {
    /// Nobody watches yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let (kept, wishes) = (Mutex::default(), Mutex::default());
        Self { kept, news: Notify::new(), asked: Notify::new(), wishes, metrics }
    }

    /// Samples after the `after`th, and keeps the kernel sampling one dropped
    /// packet in `every` for a while, or more if another who watches wants it
    /// finer. Waits a moment if there are none.
    pub async fn ask(&self, after: Option<u64>, every: u32) -> Seen {
        if !self.wishes().add(every.max(1), clock::now().boot_ms) {
            self.metrics.overflow(Table::Watchers);
        }
        self.asked.notify_one();
        let after = after.unwrap_or_else(|| self.kept().next);
        let news = self.news.notified();
        let seen = self.since(after);
        if !seen.samples.is_empty() {
            return seen;
        }
        // Whether there are news or not.
        drop(timeout(PATIENCE, news).await);
        self.since(after)
    }

    /// From whom the packets come that are dropped most, and keeps the kernel sampling as
    /// [`Watch::ask`] does. Waits for nothing.
    pub fn busiest(&self, most: usize, every: u32) -> Sampled {
        if !self.wishes().add(every.max(1), clock::now().boot_ms) {
            self.metrics.overflow(Table::Watchers);
        }
        self.asked.notify_one();
        let since_ns = clock::boot_ns().saturating_sub(BUSY_NS);
        busiest(self.kept().samples.iter().map(|(_, sample)| sample), since_ns, most)
    }

    fn since(&self, after: u64) -> Seen {
        let kept = self.kept();
        let samples = kept.samples.iter().filter(|(number, _)| *number >= after);
        Seen {
            samples: samples.map(|(_, sample)| *sample).collect(),
            next: kept.next,
            lost: kept.lost,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Whoever panicked left whole samples.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, samples: &[Dropped], room: &mut usize) {
        let mut kept = self.kept();
        let fitting = samples.len().min(*room);
        *room -= fitting;
        kept.lost += (samples.len() - fitting) as u64;
        for sample in &samples[..fitting] {
            let number = kept.next;
            kept.next += 1;
            kept.samples.push_back((number, *sample));
        }
        let surplus = kept.samples.len().saturating_sub(KEPT);
        kept.samples.drain(..surplus);
        drop(kept);
        self.news.notify_waiters();
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        // As above: whole wishes.
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One dropped packet in so many is wanted now; `None`: nobody watches.
    fn wanted(&self) -> Option<u32> {
        self.wishes().finest(clock::now().boot_ms)
    }

    /// Serves those who ask, for as long as the daemon lives.
    pub async fn serve(&self, pins: Pins, moderator: Moderator) {
        loop {
            self.asked.notified().await;
            while self.wanted().is_some() {
                self.sample(&pins, &moderator).await;
            }
        }
    }

    /// Samples until nobody wants it any more, or the pins are others.
    async fn sample(&self, pins: &Pins, moderator: &Moderator) {
        let identity = pins.identity();
        let Some(mut ring) = opened(pins, Samples::open) else {
            return tokio::time::sleep(LOOK_INTERVAL).await;
        };
        let mut every = 0;
        while let Some(wanted) = self.wanted()
            && pins.identity() == identity
        {
            if wanted != every && moderator.sample(wanted).await.is_ok() {
                every = wanted;
            }
            let (mut room, second) = (MOST_PER_SECOND, clock::now().boot_ms + 1_000);
            while clock::now().boot_ms < second {
                match timeout(LOOK_INTERVAL, ring.next(BATCH)).await {
                    Ok(Ok(samples)) => self.keep(&samples, &mut room),
                    Ok(Err(_)) | Err(_) => break,
                }
            }
        }
        if let Err(error) = moderator.sample(0).await {
            tracing::debug!(%error, "the kernel goes on sampling until the daemon has restarted");
        }
    }
}

fn busiest<'a>(samples: impl Iterator<Item = &'a Dropped>, since_ns: u64, most: usize) -> Sampled {
    let mut counts = BTreeMap::<IpAddr, (usize, Reason)>::new();
    let mut all = 0;
    for sample in samples.filter(|sample| sample.at_boot_ns >= since_ns) {
        all += 1;
        let count = counts.entry(sample.source).or_insert((0, sample.reason));
        *count = (count.0 + 1, sample.reason);
    }
    let mut sources: Vec<_> =
        counts.into_iter().map(|(source, (count, reason))| (source, count, reason)).collect();
    sources.sort_by_key(|(source, count, _)| (std::cmp::Reverse(*count), *source));
    sources.truncate(most);
    Sampled { samples: all, sources }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_dropped_most_comes_first_and_what_is_long_ago_does_not_count() {
        let sample = |at_boot_ns, last: u8| Dropped {
            at_boot_ns,
            source: [192, 0, 2, last].into(),
            reason: Reason::BanV4,
            bytes: 60,
            protocol: None,
            port: None,
        };
        let kept = [sample(1, 1), sample(1, 1), sample(5, 2), sample(6, 3), sample(7, 3)];
        let found = busiest(kept.iter(), 5, 1);
        let third = (IpAddr::from([192, 0, 2, 3]), 2, Reason::BanV4);
        assert_eq!(found, Sampled { samples: 3, sources: vec![third] });
        assert_eq!(busiest(kept.iter(), 8, 9), Sampled::default());
    }

    const LEASE_MS: u64 = 5_000;

    #[test]
    fn the_finest_wish_wins_until_nobody_renews_it() {
        let mut wishes = Wishes::default();
        assert_eq!(wishes.finest(0), None);
        for (every, at_ms, finest) in [(10, 0, 10), (3, 1_000, 3), (100, 2_000, 3), (10, 4_000, 3)]
        {
            assert!(wishes.add(every, at_ms));
            assert_eq!(wishes.finest(at_ms), Some(finest), "{every} at {at_ms}");
        }
        assert_eq!(wishes.finest(1_000 + LEASE_MS - 1), Some(3));
        assert_eq!(wishes.finest(1_000 + LEASE_MS), Some(10), "the next one, which was renewed");
        assert_eq!(wishes.finest(4_000 + LEASE_MS), None);
    }

    #[test]
    fn of_too_many_wishes_the_coarsest_is_forgotten() {
        let mut wishes = Wishes::default();
        let most = u32::try_from(MAX_WISHES).expect("a few");
        assert!((1..=most).all(|every| wishes.add(every, 0)));
        assert!(!wishes.add(most + 1, 1));
        assert!(wishes.add(1, 2), "a wish that is known needs no room");
        assert_eq!((wishes.0.len(), wishes.finest(3)), (MAX_WISHES, Some(1)));
        assert!(wishes.add(most + 1, LEASE_MS + 1), "those that have lapsed make room");
        assert_eq!(wishes.0.len(), 2);
    }
}
