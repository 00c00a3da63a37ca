//! What is counted about nginx's access log, by which it tells what became of requests.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::ReasonLabels;

/// See the module.
#[derive(Debug, Default)]
pub struct LogMetrics {
    /// Lines that were read.
    pub lines: Counter,
    /// Lines about requests that nobody waits for: asked about by another daemon, or
    /// given up before.
    pub unknown: Counter,
    /// Lines that became events.
    pub events: Counter,
    /// Requests of which no line came in time.
    pub lost: Counter,
    /// Requests whose line is awaited.
    pub pending: Gauge,
    refused: Family<ReasonLabels, Counter>,
}

impl LogMetrics {
    #[rustfmt::skip]
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("nginx_log_lines", "Lines of nginx's access log that were read", self.lines.clone());
        registry.register("nginx_log_unknown", "Lines about requests that nobody waits for any more", self.unknown.clone());
        registry.register("nginx_log_events", "Lines that became events", self.events.clone());
        registry.register("nginx_log_lost", "Requests of which no line came in time, or for which there was no room", self.lost.clone());
        registry.register("nginx_log_pending", "Requests whose line is awaited", self.pending.clone());
        registry.register("nginx_log_refused", "Datagrams that were not heeded, by reason", self.refused.clone());
    }

    /// A datagram was not heeded.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }
}
