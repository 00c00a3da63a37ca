//! What is counted about counting together with other hosts.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::ReasonLabels;
use crate::sharing::Fault;

/// See the module.
#[derive(Debug, Default)]
pub struct SharingMetrics {
    /// Decisions that went by shared counters.
    pub asked: Counter,
    /// Decisions that asked and got no answer in time.
    pub in_vain: Counter,
    /// Decisions that did not ask, because the counters were left alone.
    pub alone: Counter,
    /// Acts that brought the counters into line with what was decided.
    pub settled: Counter,
    /// Acts that were not done, because a key holds something else.
    pub foreign: Counter,
    /// Acts that were owed and had to be forgotten.
    pub dropped: Counter,
    /// Times that all was forgotten there.
    pub forgotten: Counter,
    faults: Family<ReasonLabels, Counter>,
    shared: Gauge,
    owed: Gauge,
}

impl SharingMetrics {
    #[rustfmt::skip]
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("redis_shared", "1 if limits are counted together with other hosts, in Redis", self.shared.clone());
        registry.register("redis_decisions", "Decisions that went by shared counters", self.asked.clone());
        registry.register("redis_decisions_in_vain", "Decisions that asked for shared counters and got no answer in time", self.in_vain.clone());
        registry.register("redis_decisions_alone", "Decisions that did not ask, because Redis is left alone", self.alone.clone());
        registry.register("redis_faults", "Times that Redis failed, by fault", self.faults.clone());
        registry.register("redis_settled", "Acts that brought Redis into line with what was decided", self.settled.clone());
        registry.register("redis_foreign", "Acts that were not done, because a key holds something else", self.foreign.clone());
        registry.register("redis_owed", "Acts that wait until Redis can be reached", self.owed.clone());
        registry.register("redis_owed_dropped", "Those of them that had to be forgotten, because there were too many", self.dropped.clone());
        registry.register("redis_forgotten", "Times that Redis had forgotten all", self.forgotten.clone());
    }

    /// Something failed.
    pub fn failed(&self, fault: Fault) {
        self.faults.get_or_create(&ReasonLabels { reason: fault.name() }).inc();
    }

    /// Whether counters are shared.
    pub fn set_shared(&self, is_shared: bool) {
        self.shared.set(i64::from(is_shared));
    }

    /// How much is owed.
    pub fn set_owed(&self, acts: usize) {
        self.owed.set(super::gauge(acts));
    }
}
