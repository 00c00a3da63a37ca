//! What is counted about records of violations that are sent to the shared database.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use crate::store::Backlog;

/// See the module.
#[derive(Debug, Default)]
pub struct RecordMetrics {
    /// Records that the shared database took.
    pub sent: Counter,
    /// Records that were too old before it did.
    pub lost: Counter,
    waiting: Gauge,
    age: Gauge<f64, AtomicU64>,
}

impl RecordMetrics {
    #[rustfmt::skip]
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("ledger_violations_sent", "Records of violations that the shared database took", self.sent.clone());
        registry.register("ledger_violations_lost", "Records of violations that were forgotten here before it did", self.lost.clone());
        registry.register("ledger_violations_waiting", "Records of violations that wait for it", self.waiting.clone());
        registry.register("ledger_violations_age_seconds", "Since when the oldest of them does", self.age.clone());
    }

    pub(super) fn take(&self, backlog: Backlog, now_unix_ms: u64) {
        self.waiting.set(i64::try_from(backlog.waiting()).unwrap_or(i64::MAX));
        let oldest = backlog.oldest_unix_ms;
        let age_ms = if oldest == 0 { 0 } else { now_unix_ms.saturating_sub(oldest) };
        self.age.set(Duration::from_millis(age_ms).as_secs_f64());
    }
}
