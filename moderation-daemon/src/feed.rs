//! What the kernel tells as it happens, on its way to who wants it: handshakes
//! beyond the limit to the moderator, samples of dropped packets to operators
//! who watch; and making room for what it has to count. It judges nothing. What it cannot keep up with is counted.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::Notify, time::timeout};

use crate::{
    clock,
    engine::Subject,
    metrics::Metrics,
    moderator::Moderator,
    network::{Dropped, Epoch, NetworkError, Overruns, Pins, Rates, Samples, Table},
};

/// How often to look whether the pins are others, or there at all.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Records that are taken from a ring at once.
const BATCH: usize = 64;

/// Hands handshakes beyond the limit to the moderator, one violation each, for
/// as long as the daemon lives.
pub async fn follow_overruns(pins: Pins, moderator: Moderator, metrics: Arc<Metrics>) {
    loop {
        let identity = pins.identity();
        if let Some(mut ring) = opened(&pins, Overruns::open) {
            while pins.identity() == identity {
                match timeout(LOOK_INTERVAL, ring.next(BATCH)).await {
                    Ok(Ok(overruns)) => {
                        metrics.overruns.inc_by(overruns.len() as u64);
                        let reports = overruns.iter().map(|overrun| report(&moderator, overrun.ip));
                        join_all(reports).await;
                    }
                    Ok(Err(error)) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "lost a ring");
                        break;
                    }
                    Err(_) => {} // a quiet second
                }
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Takes sources that have been quiet for a window out of the kernel's exact
/// table, once a window, for as long as the daemon lives: a table that only fills
/// would one day shed nobody more.
pub async fn forget_quiet_sources(pins: Pins, window: Duration) {
    loop {
        tokio::time::sleep(window.max(LOOK_INTERVAL)).await;
        let pins = pins.clone();
        // Asking the kernel blocks. A panic has been reported by the runtime already.
        drop(tokio::task::spawn_blocking(move || forget_quiet(&pins, window)).await);
    }
}

fn forget_quiet(pins: &Pins, window: Duration) {
    let Some(mut rates) = opened(pins, |pins| Rates::open(pins, Table::Heavy)) else { return };
    if let Err(error) = rates.forget_quiet(Epoch::at(clock::monotonic_ns(), window)) {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot forget quiet sources");
    }
}

/// Connections of a banned source that were under way tell nothing new.
async fn report(moderator: &Moderator, ip: std::net::IpAddr) {
    let subject = Subject::new(None, Some(ip)).expect("it has an address");
    if moderator.check(&subject).is_none() {
        // Refused for want of room or of a disk: counted there.
        drop(moderator.too_many_connections(ip).await);
    }
}

/// A ring, if there is one that may be opened; why not is in the status, by way
/// of the maps beside it.
fn opened<T>(pins: &Pins, open: impl FnOnce(&Pins) -> Result<T, NetworkError>) -> Option<T> {
    if !pins.exist() {
        return None;
    }
    let ring = open(pins);
    if let Err(error) = &ring {
        tracing::debug!(error = error as &dyn std::error::Error, "cannot open a ring");
    }
    ring.ok()
}

/// Samples that are kept for those who ask.
const KEPT: usize = 1_024;
/// Samples that are kept of one second.
const MOST_PER_SECOND: usize = 500;
/// For so long after a question the kernel goes on sampling.
const LEASE: Duration = Duration::from_secs(5);
/// For so long a question waits for samples.
const PATIENCE: Duration = Duration::from_secs(1);

/// Dropped packets for those who watch. While nobody asks, the kernel takes no
/// samples.
#[derive(Debug, Default)]
pub struct Watch {
    kept: Mutex<Kept>,
    news: Notify,
    asked: Notify,
    /// Sample one dropped packet in so many, until that moment of the boot clock.
    every: AtomicU64,
    until_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    samples: VecDeque<(u64, Dropped)>,
    next: u64,
    lost: u64,
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
    /// Samples after the `after`th, and keeps the kernel sampling one dropped
    /// packet in `every` for a while. Waits a moment if there are none.
    pub async fn ask(&self, after: Option<u64>, every: u32) -> Seen {
        let until = clock::now().boot_ms + u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
        self.every.store(u64::from(every.max(1)), Ordering::Relaxed);
        self.until_ms.store(until, Ordering::Relaxed);
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

    fn since(&self, after: u64) -> Seen {
        let kept = self.kept();
        let samples = kept.samples.iter().filter(|(number, _)| *number >= after);
        Seen {
            samples: samples.map(|(_, sample)| *sample).collect(),
            next: kept.next,
            lost: kept.lost,
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
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

    fn is_wanted(&self) -> bool {
        clock::now().boot_ms < self.until_ms.load(Ordering::Relaxed)
    }

    /// Serves those who ask, for as long as the daemon lives.
    pub async fn serve(&self, pins: Pins, moderator: Moderator) {
        loop {
            self.asked.notified().await;
            while self.is_wanted() {
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
        while self.is_wanted() && pins.identity() == identity {
            let wanted = u32::try_from(self.every.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
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
