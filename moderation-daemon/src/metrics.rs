//! What the daemon counts about itself, in OpenMetrics.

mod log;
mod messages;
mod nginx;
#[cfg(all(test, feature = "mongodb"))]
mod observability;
#[cfg(feature = "mongodb")]
mod records;
mod sharing;
mod store;

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moderation_common::{Alarm, Counter as PacketCounter, Reason};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[cfg(feature = "mongodb")]
use crate::share::{ShareState, ShareStatus};
use crate::{
    engine::{
        Act, BanRefusal, Forgotten, PenaltyKind, RestoredWindows, Size, Verdict, ViolationType,
    },
    ledger,
    moderator::{Added, Fill},
    network::{Changes, XdpMode},
};

pub use log::LogMetrics;
pub use messages::MessageMetrics;
pub use nginx::NginxMetrics;
#[cfg(feature = "mongodb")]
pub use records::RecordMetrics;
pub use sharing::SharingMetrics;
pub use store::StoreMetrics;

/// Labels of `moderation_events_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EventLabels {
    r#type: &'static str,
    decision: &'static str,
}

/// Labels of `moderation_violations_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ViolationLabels {
    r#type: &'static str,
}

/// Labels of `moderation_packets_total` and `moderation_packet_bytes_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PacketLabels {
    action: &'static str,
    reason: &'static str,
}

/// Labels of the gauges of prefixes.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// Labels of `moderation_kernel_interface`. Interfaces are root's to name, not
/// strangers'.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InterfaceLabels {
    interface: String,
    mode: String,
}

/// Labels of counters of refusals.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// Labels of `moderation_ledger_state`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// Labels of `moderation_snapshot_windows`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// A table with a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Limiter windows.
    Windows,
    /// Scores.
    Scores,
    /// Leases.
    Leases,
    /// Remembered request ids.
    RequestIds,
    /// What is remembered of people: offences, traits, factors, repeats.
    People,
    /// Holders of penalties.
    Penalties,
    /// Accounts and the addresses that they are used from.
    Pairs,
    /// Addresses of which is remembered who was seen there.
    Addresses,
    /// How finely those who watch want it.
    Watchers,
    /// What was taken of shared counters for requests that can be taken back.
    Refundable,
    /// Lifts of bans that are not known here.
    Lifts,
    /// Messages of other hosts.
    Messages,
}

impl Table {
    const fn labels(self) -> TableLabels {
        let table = match self {
            Self::Windows => "windows",
            Self::Scores => "scores",
            Self::Leases => "leases",
            Self::RequestIds => "request_ids",
            Self::People => "people",
            Self::Penalties => "penalties",
            Self::Pairs => "pairs",
            Self::Addresses => "addresses",
            Self::Watchers => "watchers",
            Self::Refundable => "refundable",
            Self::Lifts => "lifts",
            Self::Messages => "messages",
        };
        TableLabels { table }
    }
}

/// Labels of `moderation_overflows_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TableLabels {
    table: &'static str,
}

/// What was judged, as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct What(&'static str);

impl What {
    /// The name of such requests.
    pub fn of(act: &Act) -> Self {
        Self(match act {
            Act::Event { kind, .. } => kind.name(),
            Act::Violation { .. } => "violation",
            Act::Acquire => "lease",
            Act::Refund(_) => "refund",
        })
    }
}

/// Every metric. Its label sets are closed: no stranger can add a series.
#[derive(Debug, Default)]
pub struct Metrics {
    registry: Registry,
    /// About counting together with other hosts.
    pub sharing: SharingMetrics,
    /// About bans that hosts tell each other by message.
    pub messages: MessageMetrics,
    /// What nginx tells afterwards.
    pub log: LogMetrics,
    /// About the embedded store.
    pub store: StoreMetrics,
    /// About nginx, which asks before it passes a request on.
    pub nginx: NginxMetrics,
    /// About records of violations.
    #[cfg(feature = "mongodb")]
    pub records: RecordMetrics,
    events: Family<EventLabels, Counter>,
    violations: Family<ViolationLabels, Counter>,
    violations_repeated: Family<ViolationLabels, Counter>,
    penalties: Family<KindLabels, Counter>,
    /// Requests whose counts were taken back.
    pub refunds: Counter,
    /// Rows of the store that were not read, because their type is not known.
    pub rows_skipped: Counter,
    /// Bans that fell.
    pub bans: Counter,
    bans_refused: Family<ReasonLabels, Counter>,
    /// Requests that found the queue full.
    pub queue_rejected: Counter,
    /// Batches that the store did not take.
    pub store_failures: Counter,
    /// Times that what limits counted could not be written down.
    pub snapshot_failures: Counter,
    /// 1 if what an earlier life wrote down could not be read, or not all of it.
    pub snapshot_damaged: Gauge,
    snapshot_windows: Family<OutcomeLabels, Gauge>,
    snapshot_age: Gauge<f64, AtomicU64>,
    /// Times that the kernel refused.
    pub enforcement_failures: Counter,
    /// Bans that the prefilter hid from the program.
    pub hidden_bans: Counter,
    /// Handshakes beyond the limit that were reported, by what became of it.
    pub overruns: Counter,
    /// Lines that the kernel programs wrote.
    pub kernel_lines: Counter,
    /// Those of them that were too many to be written down.
    pub kernel_lines_suppressed: Counter,
    /// Changes of bans that the shared database took.
    pub ledger_shipped: Counter,
    /// Changes of bans by other hosts, or by hand, that hold here.
    pub ledger_followed: Counter,
    ledger_failures: Family<ReasonLabels, Counter>,
    ledger_alarms: Family<ReasonLabels, Counter>,
    ledger_state: Family<StateLabels, Gauge>,
    ledger_outbox: Gauge,
    ledger_outbox_age: Gauge<f64, AtomicU64>,
    ledger_outbox_gap: Gauge,
    ledger_skew: Gauge<f64, AtomicU64>,
    ledger_documents: Family<KindLabels, Gauge>,
    ledger_same_name: Gauge,
    drift: Counter,
    problems: Family<ReasonLabels, Counter>,
    alarms: Family<ReasonLabels, Counter>,
    imports_accepted: Counter,
    imports_refused: Family<ReasonLabels, Counter>,
    prefixes: Family<KindLabels, Gauge>,
    prefixes_max: Family<KindLabels, Gauge>,
    prefixes_enforced: Gauge,
    imported: Gauge,
    overflows: Family<TableLabels, Counter>,
    packets: Family<PacketLabels, Counter>,
    packet_bytes: Family<PacketLabels, Counter>,
    bans_active: Gauge,
    bans_enforced: Gauge,
    bans_stopped: Gauge,
    scores: Gauge,
    windows: Gauge,
    windows_max: Gauge,
    leases: Gauge,
    queue_length: Gauge,
    kernel_open: Gauge,
    kernel_attached: Gauge,
    kernel_interfaces: Family<InterfaceLabels, Gauge>,
    /// Held while the series of interfaces are made anew and read.
    rendering: Mutex<()>,
}

/// What is looked up only when somebody asks.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// How full the engine is.
    pub size: Size,
    /// How many prefixes are banned or imported.
    pub fill: Fill,
    /// How many exact ones and how many networks there may be.
    pub max: (usize, usize),
    /// How many limiter windows there may be.
    pub max_windows: usize,
    /// How much of what limits counted a crash would forget, in milliseconds.
    pub windows_age_ms: u64,
    /// Entries of imported lists.
    pub imported: usize,
    /// Whether automatic bans have stopped.
    pub bans_stopped: bool,
    /// Bans that are in force in the kernel.
    pub bans_enforced: usize,
    /// Requests that wait.
    pub queue_length: usize,
    /// Whether the kernel's maps are open.
    pub kernel_open: bool,
    /// Configured interfaces and those that run the program, with its mode there.
    pub interfaces: Vec<(String, Option<XdpMode>)>,
    /// The kernel's packet counters.
    pub packets: Vec<(Reason, PacketCounter)>,
    /// What the kernel programs lost.
    pub alarms: Vec<(Alarm, u64)>,
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let mut metrics = Self::default();
        metrics.register();
        metrics
    }

    #[rustfmt::skip]
    fn register(&mut self) {
        let mut registry = Registry::with_prefix("moderation");
        registry.register("events", "Requests judged, by type and decision", self.events.clone());
        registry.register("violations", "Rules broken, by type", self.violations.clone());
        registry.register("violations_repeated", "Violations that were repeats and count for nothing, by type", self.violations_repeated.clone());
        registry.register("penalties", "Penalties that fell, by kind", self.penalties.clone());
        registry.register("refunds", "Requests whose counts were taken back", self.refunds.clone());
        registry.register("store_rows_skipped", "Rows of the store that were not read, because their violation type is not known", self.rows_skipped.clone());
        registry.register("bans", "Bans that fell", self.bans.clone());
        registry.register("bans_refused", "Bans that a score called for and that did not fall", self.bans_refused.clone());
        registry.register("bans_active", "Bans that hold now", self.bans_active.clone());
        registry.register("bans_enforced", "Bans of those that the kernel enforces", self.bans_enforced.clone());
        registry.register("bans_stopped", "1 if automatic bans have stopped because a rule has run away", self.bans_stopped.clone());
        registry.register("queue_length", "Requests that wait for a decision", self.queue_length.clone());
        registry.register("queue_rejected", "Requests that found the queue full", self.queue_rejected.clone());
        registry.register("store_failures", "Batches that the store did not take", self.store_failures.clone());
        registry.register("enforcement_failures", "Times that the kernel refused", self.enforcement_failures.clone());
        registry.register("kernel_hidden_bans", "Bans that the kernel's prefilter hid from the program, found and mended", self.hidden_bans.clone());
        registry.register("connection_overruns", "Handshakes beyond network.connections.limit", self.overruns.clone());
        registry.register("kernel_alarms", "What the kernel programs lost or had no room for, by name", self.alarms.clone());
        registry.register("kernel_log_lines", "Lines that the kernel programs wrote", self.kernel_lines.clone());
        registry.register("kernel_log_lines_suppressed", "Those of them that were too many for the log", self.kernel_lines_suppressed.clone());
        registry.register("kernel_drift", "Entries in which kernel and store were found apart", self.drift.clone());
        registry.register("kernel_open", "1 if the kernel's maps are open", self.kernel_open.clone());
        registry.register("kernel_attached", "1 if an interface runs the program", self.kernel_attached.clone());
        registry.register("kernel_interface", "1 if the interface runs the program, by its mode there; 0 for a configured one that does not", self.kernel_interfaces.clone());
        registry.register("overflows", "Times that a table in memory was full, by table", self.overflows.clone());
        registry.register("api_problems", "Requests that were answered with a problem, by its name", self.problems.clone());
        registry.register("packets", "Packets seen by the XDP program, by action and reason", self.packets.clone());
        registry.register("packet_bytes", "Their bytes", self.packet_bytes.clone());
        registry.register("import_entries", "Entries of lists that were accepted", self.imports_accepted.clone());
        registry.register("import_entries_refused", "Entries of lists that were not, by reason", self.imports_refused.clone());
        registry.register("prefixes", "Different prefixes that are banned or imported, by kind", self.prefixes.clone());
        registry.register("prefixes_max", "How many there may be (network.max_bans, network.max_networks)", self.prefixes_max.clone());
        registry.register("prefixes_enforced", "Those of them that the kernel holds", self.prefixes_enforced.clone());
        registry.register("imported", "Entries of imported lists that hold now", self.imported.clone());
        registry.register("scores", "Scores in memory", self.scores.clone());
        registry.register("windows", "Limiter windows in memory", self.windows.clone());
        registry.register("windows_max", "How many there may be; beyond, newcomers share one for each limiter", self.windows_max.clone());
        registry.register("snapshot_age_seconds", "How much of what limits counted a crash would forget", self.snapshot_age.clone());
        registry.register("snapshot_failures", "Times that what limits counted could not be written down", self.snapshot_failures.clone());
        registry.register("snapshot_damaged", "1 if what limits had counted could not be read at the start, or not all of it", self.snapshot_damaged.clone());
        registry.register("snapshot_windows", "Windows that were found at the start, by what became of them: restored, over, changed (their limiter is another now), surplus (no room)", self.snapshot_windows.clone());
        registry.register("leases", "Leases in memory", self.leases.clone());
        registry.register("ledger_shipped", "Changes of bans that the shared database took", self.ledger_shipped.clone());
        registry.register("ledger_followed", "Changes of bans by other hosts, or by hand, that hold here", self.ledger_followed.clone());
        registry.register("ledger_failures", "Sessions with the shared database that ended, by reason", self.ledger_failures.clone());
        registry.register("ledger_alarms", "What is not as it was in the shared database, by name", self.ledger_alarms.clone());
        registry.register("ledger_state", "1 for what sharing is about: connecting, comparing, following, polling, waiting", self.ledger_state.clone());
        registry.register("ledger_outbox_rows", "Changes that wait for the shared database", self.ledger_outbox.clone());
        registry.register("ledger_outbox_age_seconds", "Since when the oldest of them does", self.ledger_outbox_age.clone());
        registry.register("ledger_outbox_gap", "1 if there was no room for some; all bans are compared then", self.ledger_outbox_gap.clone());
        registry.register("ledger_clock_skew_seconds", "By how much this host's clock is ahead of the shared database's", self.ledger_skew.clone());
        registry.register("ledger_documents", "Documents of bans that were seen, by kind", self.ledger_documents.clone());
        registry.register("ledger_same_name", "1 if another host has this host's name among those that share bans", self.ledger_same_name.clone());
        self.sharing.register(&mut registry);
        self.store.register(&mut registry);
        self.log.register(&mut registry);
        self.messages.register(&mut registry);
        self.nginx.register(&mut registry);
        #[cfg(feature = "mongodb")]
        self.records.register(&mut registry);
        self.registry = registry;
    }

    /// Counts a judged request.
    pub fn judged(&self, What(r#type): What, verdict: Verdict) {
        let decision = match verdict {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        };
        self.events.get_or_create(&EventLabels { r#type, decision }).inc();
    }

    /// Counts a broken rule.
    pub fn violated(&self, kind: ViolationType) {
        self.violations.get_or_create(&ViolationLabels { r#type: kind.name() }).inc();
    }

    /// Counts a violation that was a repeat.
    pub fn repeated(&self, kind: ViolationType) {
        self.violations_repeated.get_or_create(&ViolationLabels { r#type: kind.name() }).inc();
    }

    /// Counts a penalty.
    pub fn punished(&self, kind: &PenaltyKind) {
        self.penalties.get_or_create(&KindLabels { kind: kind.name() }).inc();
    }

    /// Counts a ban that a score called for and that did not fall.
    pub fn ban_refused(&self, refusal: BanRefusal) {
        let reason = match refusal {
            BanRefusal::Protected(_) => "protected",
            BanRefusal::ProtectedUser => "protected_user",
            BanRefusal::Full => "full",
            BanRefusal::Runaway => "runaway",
        };
        self.bans_refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts what became of a part of a list.
    pub fn imported(&self, added: &Added) {
        self.imports_accepted.inc_by(added.accepted as u64);
        let reasons =
            [("protected", added.protected), ("full", added.full), ("expired", added.expired)];
        for (reason, count) in reasons {
            if count > 0 {
                self.imports_refused.get_or_create(&ReasonLabels { reason }).inc_by(count as u64);
            }
        }
    }

    /// Says what became of the windows that an earlier life wrote down, of which so
    /// many count on.
    pub fn restored(&self, windows: usize, read: &RestoredWindows) {
        let outcomes = [
            ("restored", windows),
            ("over", read.over),
            ("changed", read.changed),
            ("surplus", read.surplus),
        ];
        for (outcome, count) in outcomes {
            self.snapshot_windows.get_or_create(&OutcomeLabels { outcome }).set(gauge(count));
        }
    }

    /// Counts a session with the shared database that ended.
    pub fn ledger_failed(&self, reason: &'static str) {
        self.ledger_failures.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts something about the shared database that operators must know.
    pub fn ledger_alarm(&self, alarm: ledger::Alarm) {
        self.ledger_alarms.get_or_create(&ReasonLabels { reason: alarm.name() }).inc();
    }

    /// Shows how sharing stands.
    #[cfg(feature = "mongodb")]
    pub fn take_sharing(&self, status: &ShareStatus, now_unix_ms: u64) {
        let (view, outbox) = (status.view(), status.outbox());
        for state in ShareState::ALL {
            let labels = StateLabels { state: state.name() };
            self.ledger_state.get_or_create(&labels).set(i64::from(state == view.state));
        }
        self.ledger_outbox.set(i64::try_from(outbox.rows()).unwrap_or(i64::MAX));
        let oldest = outbox.oldest_unix_ms();
        let age_ms = if oldest == 0 { 0 } else { now_unix_ms.saturating_sub(oldest) };
        self.ledger_outbox_age.set(Duration::from_millis(age_ms).as_secs_f64());
        self.ledger_outbox_gap.set(i64::from(outbox.has_gap()));
        self.messages.missed("unsaid", outbox.take_missed());
        if let Some(skew_ms) = view.skew_ms {
            self.ledger_skew.set(skew_ms as f64 / 1_000.0);
        }
        let kinds = [("signed", view.documents - view.foreign), ("foreign", view.foreign)];
        for (kind, count) in kinds {
            self.ledger_documents.get_or_create(&KindLabels { kind }).set(gauge(count));
        }
        self.ledger_same_name.set(i64::from(view.has_twin));
        self.records.take(status.records().backlog, now_unix_ms);
    }

    /// Counts what a comparison of kernel and store mended.
    pub fn drift(&self, changes: Changes) {
        self.drift.inc_by(changes.drift() as u64);
    }

    /// Counts that a table was full.
    pub fn overflow(&self, table: Table) {
        self.overflows.get_or_create(&table.labels()).inc();
    }

    /// Counts an answer that was a problem.
    pub fn problem(&self, name: &'static str) {
        self.problems.get_or_create(&ReasonLabels { reason: name }).inc();
    }

    /// The OpenMetrics text.
    pub fn render(&self, snapshot: &Snapshot) -> String {
        // Whoever panicked was rendering, too, and left nothing that counts.
        let _alone = self.rendering.lock().unwrap_or_else(PoisonError::into_inner);
        self.take(snapshot);
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }

    fn take(&self, snapshot: &Snapshot) {
        self.bans_active.set(gauge(snapshot.size.bans));
        self.bans_enforced.set(gauge(snapshot.bans_enforced));
        let kinds = [
            ("exact", snapshot.fill.exact, snapshot.max.0),
            ("network", snapshot.fill.networks, snapshot.max.1),
        ];
        for (kind, count, max) in kinds {
            self.prefixes.get_or_create(&KindLabels { kind }).set(gauge(count));
            self.prefixes_max.get_or_create(&KindLabels { kind }).set(gauge(max));
        }
        self.prefixes_enforced.set(gauge(snapshot.fill.enforced));
        self.imported.set(gauge(snapshot.imported));
        self.bans_stopped.set(i64::from(snapshot.bans_stopped));
        self.scores.set(gauge(snapshot.size.scores));
        self.windows.set(gauge(snapshot.size.windows));
        self.windows_max.set(gauge(snapshot.max_windows));
        self.snapshot_age.set(Duration::from_millis(snapshot.windows_age_ms).as_secs_f64());
        self.leases.set(gauge(snapshot.size.leases));
        self.queue_length.set(gauge(snapshot.queue_length));
        self.kernel_open.set(i64::from(snapshot.kernel_open));
        self.take_interfaces(&snapshot.interfaces);
        self.take_overflows(&snapshot.size);
        for (alarm, count) in &snapshot.alarms {
            let labels = ReasonLabels { reason: alarm.name() };
            self.alarms.get_or_create(&labels).inner().store(*count, Ordering::Relaxed);
        }
        for (reason, counter) in &snapshot.packets {
            let action = if reason.drops() { "drop" } else { "pass" };
            let labels = PacketLabels { action, reason: reason.name() };
            self.packets.get_or_create(&labels).inner().store(counter.packets, Ordering::Relaxed);
            self.packet_bytes
                .get_or_create(&labels)
                .inner()
                .store(counter.bytes, Ordering::Relaxed);
        }
    }

    /// Of tables that the engine counts itself.
    fn take_overflows(&self, size: &Size) {
        let Forgotten { people, pairs, penalties, addresses } = size.forgotten;
        let tables = [
            (Table::RequestIds, size.forgotten_ids),
            (Table::People, people),
            (Table::Penalties, penalties),
            (Table::Pairs, pairs),
            (Table::Addresses, addresses),
        ];
        for (table, count) in tables {
            let overflows = self.overflows.get_or_create(&table.labels());
            overflows.inner().store(count, Ordering::Relaxed);
        }
    }

    /// A mode that is over leaves no series behind.
    fn take_interfaces(&self, interfaces: &[(String, Option<XdpMode>)]) {
        let is_attached = interfaces.iter().any(|(_, mode)| mode.is_some());
        self.kernel_attached.set(i64::from(is_attached));
        self.kernel_interfaces.clear();
        for (interface, mode) in interfaces {
            let labels = InterfaceLabels {
                interface: interface.clone(),
                mode: mode.map_or_else(|| "none".to_owned(), |mode| mode.to_string()),
            };
            self.kernel_interfaces.get_or_create(&labels).set(i64::from(mode.is_some()));
        }
    }
}

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_of_the_engine_that_overflowed_has_its_series() {
        let forgotten = Forgotten { people: 2, pairs: 3, penalties: 4, addresses: 5 };
        let metrics = Metrics::new();
        metrics.take_overflows(&Size { forgotten_ids: 1, forgotten, ..Size::default() });
        let mut text = String::new();
        encode(&mut text, &metrics.registry).expect("writing to a string cannot fail");
        let tables = ["request_ids", "people", "pairs", "penalties", "addresses"];
        for (table, count) in tables.into_iter().zip(1..) {
            let line = format!("moderation_overflows_total{{table=\"{table}\"}} {count}");
            assert!(text.lines().any(|it| it == line), "{line} in {text}");
        }
    }
}
