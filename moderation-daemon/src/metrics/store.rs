//! What is counted about the embedded store, for which decisions wait.

use std::time::Duration;

use prometheus_client::{
    metrics::histogram::{Histogram, exponential_buckets},
    registry::Registry,
};

/// See the module.
#[derive(Debug)]
pub struct StoreMetrics {
    commit: Histogram,
}

/// A quarter of a millisecond is what a good disk takes; the last of 14 that double is two
/// seconds, after which nobody waits any more.
const QUICKEST_SECONDS: f64 = 0.000_25;
const BUCKETS: u16 = 14;

impl Default for StoreMetrics {
    fn default() -> Self {
        Self { commit: Histogram::new(exponential_buckets(QUICKEST_SECONDS, 2.0, BUCKETS)) }
    }
}

impl StoreMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "How long a batch of decisions waited until it was written down";
        registry.register("store_commit_seconds", help, self.commit.clone());
    }

    /// A batch was written down, or was not, after so long.
    pub fn committed(&self, after: Duration) {
        self.commit.observe(after.as_secs_f64());
    }
}
