//! What is counted about bans and lifts that hosts tell each other by message.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::ReasonLabels;

/// See the module.
#[derive(Debug, Default)]
pub struct MessageMetrics {
    /// Messages that were said.
    pub sent: Counter,
    /// Messages of other hosts that were believed.
    pub heard: Counter,
    /// 1 while it is listened.
    pub listening: Gauge,
    refused: Family<ReasonLabels, Counter>,
    missed: Family<ReasonLabels, Counter>,
}

impl MessageMetrics {
    #[rustfmt::skip]
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("ledger_messages_sent", "Bans and lifts of this host that others were told by message", self.sent.clone());
        registry.register("ledger_messages_heard", "Bans and lifts of other hosts that were heard by message", self.heard.clone());
        registry.register("ledger_messages_listening", "1 while messages of other hosts are heard", self.listening.clone());
        registry.register("ledger_messages_refused", "Messages that were not heeded, by reason", self.refused.clone());
        registry.register("ledger_messages_missed", "Bans and lifts that were not said or not heard by message, by reason; the database tells of them", self.missed.clone());
    }

    /// A message was not heeded.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// So many were not said or not heard.
    pub fn missed(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.missed.get_or_create(&ReasonLabels { reason }).inc_by(count);
        }
    }
}
