//! The line to those who keep shared counters: asked while it is well, left alone while it
//! is not, with what is owed to them meanwhile. A task of its own looks after it, so that no
//! decision has to find out. Its lock is never held over an await.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::sync::Notify;

use crate::{
    clock,
    engine::Moment,
    metrics::Metrics,
    random::{self, NoRandomness},
    sharing::{Act, Arrears, Breaker, Failure, Fault, Group, Health, Reserved, State},
    store::Counters,
};

/// How often it is looked at while all is well.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Patience with the last acts when the daemon stops.
const LAST_ACTS: Duration = Duration::from_millis(500);
/// Acts that can be owed: some ten megabytes.
const MOST_OWED: usize = 65_536;
/// Acts that are sent together when they were owed.
const AT_ONCE: usize = 512;
/// Batches of acts that are on their way. More of them are owed.
const SETTLING: usize = 64;

/// How counting together stands, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SharingStatus {
    /// Whether decisions go by shared counters.
    pub shared: bool,
    /// Why not, if not.
    pub fault: Option<&'static str>,
    /// Since when not, in milliseconds since 1970.
    pub since_unix_ms: Option<u64>,
    /// What is owed to them.
    pub owed: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Line {
    counters: Arc<Counters>,
    bound: Duration,
    state: Mutex<Inner>,
    /// Acts that were on their way are done.
    settled: Notify,
    /// The state changed: whoever looks after it is to look now.
    changed: Notify,
    metrics: Arc<Metrics>,
    /// An epoch that begins with one of its probes has this name, and the probe's number.
    own_epoch: String,
    probes: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    breaker: Breaker,
    owed: Arrears,
    settling: usize,
    /// How far the server's clock is ahead of the boot clock, in milliseconds.
    ahead_ms: Option<i64>,
    epoch: Option<String>,
    /// All was forgotten there, and nobody has seen to it yet.
    is_lost: bool,
}

impl Line {
    pub(super) fn new(
        counters: Arc<Counters>,
        bound: Duration,
        longest_pause: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Self, NoRandomness> {
        let breaker = Breaker::new(longest_pause, clock::now().boot_ms);
        let state = Inner {
            breaker,
            owed: Arrears::new(MOST_OWED),
            settling: 0,
            ahead_ms: None,
            epoch: None,
            is_lost: false,
        };
        Ok(Self {
            counters,
            bound,
            state: Mutex::new(state),
            settled: Notify::new(),
            changed: Notify::new(),
            metrics,
            own_epoch: random::name()?,
            probes: AtomicU64::new(0),
        })
    }

    // Whoever panicked while writing left single values, all of them whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ahead_ms(&self) -> Option<i64> {
        self.lock().ahead_ms
    }

    pub(super) fn take_lost(&self) -> bool {
        std::mem::take(&mut self.lock().is_lost)
    }

    pub(crate) fn status(&self) -> SharingStatus {
        let inner = self.lock();
        let now = clock::now();
        let since = inner.breaker.since_ms();
        let ago = |since: u64| now.unix_ms.saturating_sub(now.boot_ms.saturating_sub(since));
        SharingStatus {
            shared: inner.breaker.is_closed(),
            fault: inner.breaker.fault().map(Fault::name),
            since_unix_ms: since.map(ago),
            owed: inner.owed.len(),
        }
    }

    /// What asks, within the bound; nothing while they are left alone.
    pub(super) fn ask(
        self: &Arc<Self>,
        groups: Arc<[Group]>,
        now: Moment,
    ) -> Option<impl Future<Output = Result<Reserved, Failure>> + Send + 'static> {
        let ahead_ms = {
            let inner = self.lock();
            if !inner.breaker.is_closed() {
                return None;
            }
            inner.ahead_ms.unwrap_or(0)
        };
        let bound_ms = u64::try_from(self.bound.as_millis()).unwrap_or(u64::MAX);
        let until_ms = now.boot_ms.saturating_add_signed(ahead_ms).saturating_add(bound_ms);
        let line = Arc::clone(self);
        Some(async move {
            let reserved = line.counters.reserve(&groups, until_ms, line.bound).await;
            match &reserved {
                Ok(reserved) => {
                    line.hear_time(reserved.now_ms, now);
                    line.metrics.sharing.asked.inc_by(groups.len() as u64);
                }
                Err(failure) => {
                    line.fail(failure);
                    line.metrics.sharing.in_vain.inc_by(groups.len() as u64);
                }
            }
            reserved
        })
    }

    /// What does acts, unless they are owed instead.
    pub(super) fn settle(
        self: &Arc<Self>,
        acts: Vec<Act>,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        if acts.is_empty() {
            return None;
        }
        {
            let mut inner = self.lock();
            // What is owed comes first.
            let is_free = inner.owed.is_empty() && inner.settling < SETTLING;
            if !inner.breaker.is_closed() || !is_free {
                self.owe(&mut inner, acts);
                return None;
            }
            inner.settling += 1;
        }
        let line = Arc::clone(self);
        Some(async move {
            let result = line.counters.settle(&acts).await;
            line.lock().settling -= 1;
            line.settled.notify_one();
            match result {
                Ok(settled) => {
                    line.metrics.sharing.settled.inc_by(acts.len() as u64);
                    line.metrics.sharing.foreign.inc_by(settled.foreign as u64);
                }
                Err(failure) => {
                    line.owe(&mut line.lock(), acts);
                    line.fail(&failure);
                }
            }
        })
    }

    /// Waits, for a short time, until acts that are on their way are done.
    pub(super) async fn finish(&self) {
        let done = async {
            while self.lock().settling > 0 {
                self.settled.notified().await;
            }
        };
        if tokio::time::timeout(LAST_ACTS, done).await.is_err() {
            tracing::warn!("Redis was not told all that was decided last");
        }
    }

    fn owe(&self, inner: &mut Inner, acts: Vec<Act>) {
        inner.owed.owe(acts);
        self.count_owed(inner);
    }

    fn count_owed(&self, inner: &mut Inner) {
        let dropped = std::mem::take(&mut inner.owed.dropped);
        self.metrics.sharing.dropped.inc_by(dropped);
        self.metrics.sharing.set_owed(inner.owed.len());
    }

    fn fail(&self, failure: &Failure) {
        let opened = {
            let mut inner = self.lock();
            inner.breaker.fail(failure.fault, clock::now().boot_ms, random::jitter())
        };
        self.metrics.sharing.failed(failure.fault);
        if opened {
            self.metrics.sharing.set_shared(false);
            let error = failure as &dyn std::error::Error;
            tracing::warn!(error, "limits are counted on this host alone");
        }
        self.changed.notify_one();
    }

    fn hear_time(&self, now_ms: u64, sent: Moment) {
        let ahead = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let ahead = ahead.saturating_sub(i64::try_from(sent.boot_ms).unwrap_or(i64::MAX));
        self.lock().ahead_ms = Some(ahead);
    }

    fn hear(&self, health: Health, sent: Moment) {
        self.hear_time(health.now_ms, sent);
        let is_news = {
            let mut inner = self.lock();
            let before = inner.epoch.replace(health.epoch);
            let is_news = before.is_some() && before != inner.epoch;
            inner.is_lost |= is_news;
            is_news
        };
        if is_news {
            self.metrics.sharing.forgotten.inc();
            tracing::warn!("Redis has forgotten all that was counted; this host's counts hold on");
        }
    }

    /// Looks after it, for ever.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.changed.notified() => {}
            }
            pause = self.look().await;
        }
    }

    /// Until when to look away.
    async fn look(&self) -> Duration {
        let due = {
            let mut inner = self.lock();
            let now_ms = clock::now().boot_ms;
            match inner.breaker.state() {
                State::Closed => true,
                State::Open { .. } | State::HalfOpen => inner.breaker.probe(now_ms),
            }
        };
        if due {
            match self.probe().await {
                Ok(()) => self.catch_up().await,
                Err(failure) => self.fail(&failure),
            }
        }
        match self.lock().breaker.state() {
            State::Closed => HEARTBEAT,
            State::HalfOpen => Duration::ZERO,
            State::Open { until_ms } => {
                Duration::from_millis(until_ms.saturating_sub(clock::now().boot_ms).max(1))
            }
        }
    }

    /// Well is who answers within the bound; connecting may take longer.
    async fn probe(&self) -> Result<(), Failure> {
        let fresh = format!("{}-{}", self.own_epoch, self.probes.fetch_add(1, Ordering::Relaxed));
        self.counters.probe(&fresh).await?;
        let sent = clock::now();
        let health = tokio::time::timeout(self.bound, self.counters.probe(&fresh)).await;
        let health = health.unwrap_or_else(|_| Err(Failure::new(Fault::Slow, "")))?;
        self.hear(health, sent);
        Ok(())
    }

    /// Does what is owed, and then closes the breaker, if it was open.
    async fn catch_up(&self) {
        loop {
            let acts = {
                let mut inner = self.lock();
                let ahead = inner.ahead_ms.unwrap_or(0);
                let now_ms = clock::now().boot_ms.saturating_add_signed(ahead);
                let acts = inner.owed.take(AT_ONCE, now_ms);
                self.count_owed(&mut inner);
                if acts.is_empty() {
                    if !inner.breaker.is_closed() {
                        inner.breaker.close();
                        self.metrics.sharing.set_shared(true);
                        tracing::info!("limits are counted together with other hosts");
                    }
                    return;
                }
                acts
            };
            match self.counters.settle(&acts).await {
                Ok(settled) => {
                    self.metrics.sharing.settled.inc_by(acts.len() as u64);
                    self.metrics.sharing.foreign.inc_by(settled.foreign as u64);
                }
                Err(failure) => {
                    let mut inner = self.lock();
                    inner.owed.put_back(acts);
                    self.count_owed(&mut inner);
                    drop(inner);
                    self.fail(&failure);
                    return;
                }
            }
        }
    }
}
