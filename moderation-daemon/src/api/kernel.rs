//! The operators' routes about the kernel and about the daemon's own state:
//! status, metrics, who is busy, what is dropped. They only read.

use axum::{extract::State, http::header, response::IntoResponse};
use moderation_common::{Alarm, Counter, Reason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Context, Problem,
    input::Query,
    paths::{Operation, Paths},
    view::{DenialJson, alarms_by_name, packets_by_reason},
};
use crate::{
    clock,
    config::AttachMode,
    feed::Sampled,
    metrics::Snapshot,
    moderator::DriftSeen,
    network::{
        self, Attachment, Counters, Dropped, Epoch, NetworkError, Pins, Rates, Table, XdpMode,
    },
};
#[cfg(feature = "mongodb")]
use crate::{
    share::{MessagesView, RecordsView, ShareStatus},
    sharing::Fault,
    store::mongo::MongoError,
};

pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn routes() -> Paths {
    let how = Operation::get("/v1/status", "How daemon, store and kernel are");
    let busy = Operation::get("/v1/top", "Sources by connections, what the kernel counted");
    let dropped = Operation::get("/v1/watch", "Dropped packets since the last question");
    let denied = Operation::get("/v1/denials", "What was denied lately, with what to quote");
    let counted = Operation::get("/metrics", "What is counted, for Prometheus");
    Paths::new()
        .on(how.answers::<Value>(), status)
        .on(busy.query::<TopQuery>().answers::<Value>(), top)
        .on(dropped.query::<WatchQuery>().answers::<Value>(), watch)
        .on(denied.query::<DenialsQuery>().answers::<DenialList>(), denials)
        .on(counted.answers_as::<String>(OPEN_METRICS), metrics)
}

/// Asking the kernel blocks.
async fn status(State(context): State<Context>) -> Result<axum::Json<Value>, Problem> {
    let status = tokio::task::spawn_blocking(move || status_of(&context)).await;
    status.map(axum::Json).map_err(|_| Problem::Unreadable)
}

fn status_of(context: &Context) -> Value {
    let board = context.moderator.board();
    let (active, enforced) = board.ban_counts();
    let (length, capacity) = context.moderator.queue();
    let size = board.size();
    let (lists, fill, bounds) = (board.lists(), board.fill(), context.config.rules.bounds);
    let uptime_ms = clock::now().boot_ms.saturating_sub(context.started_at_boot_ms);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": uptime_ms,
        "bans": { "active": active, "enforced": enforced },
        "automatic_bans": automatic_bans(context),
        "imports": {
            "lists": lists.len(),
            "entries": lists.iter().map(|list| list.entries).sum::<usize>(),
        },
        "prefixes": {
            "exact": { "wanted": fill.exact, "capacity": bounds.bans },
            "networks": { "wanted": fill.networks, "capacity": bounds.networks },
            "enforced": fill.enforced,
        },
        "network": network_status(context),
        "store": {
            "path": context.config.store.path,
            "failures": context.metrics.store_failures.get(),
        },
        "sharing": sharing(context),
        "redis": context.moderator.sharing(),
        "queue": { "length": length, "capacity": capacity },
        "memory": { "scores": size.scores, "windows": size.windows, "leases": size.leases },
    })
}

/// How bans are shared with other hosts; null: they are not.
#[cfg(feature = "mongodb")]
fn sharing(context: &Context) -> Value {
    let Some(status) = &context.sharing else { return Value::Null };
    let (view, outbox) = (status.view(), status.outbox());
    let oldest = outbox.oldest_unix_ms();
    let waits_ms = clock::now().unix_ms.saturating_sub(oldest);
    json!({
        "state": view.state.name(),
        "problem": view.problem.as_ref().map(ToString::to_string).or(view.trouble),
        "advice": view.problem.as_ref().map(MongoError::advice),
        "host": context.config.mongodb.as_ref().map(|mongodb| mongodb.host.as_str()),
        "same_name": view.has_twin,
        "outbox": {
            "rows": outbox.rows(),
            "oldest_ms": (oldest > 0).then_some(waits_ms),
            "gap": outbox.has_gap(),
        },
        "messages": messages(context, view.messages),
        "violations": violations(context, status),
        "clock_skew_ms": view.skew_ms,
        "documents": view.documents,
        "foreign": view.foreign,
    })
}

/// How bans travel by message; null: they do not.
#[cfg(feature = "mongodb")]
fn messages(context: &Context, view: MessagesView) -> Value {
    let (counts, fault) = (&context.metrics.messages, view.fault.map(Fault::name));
    let (sent, heard) = (counts.sent.get(), counts.heard.get());
    let shown = json!({
        "listening": view.is_listening, "fault": fault, "sent": sent, "heard": heard,
    });
    if view.is_used { shown } else { Value::Null }
}

/// How records of violations are sent; null: they are not.
#[cfg(feature = "mongodb")]
fn violations(context: &Context, status: &ShareStatus) -> Value {
    let wanted = context.config.mongodb.as_ref().and_then(|mongodb| mongodb.violations.as_ref());
    let Some(wanted) = wanted else { return Value::Null };
    let RecordsView { backlog, problem } = status.records();
    let oldest = backlog.oldest_unix_ms;
    let waits_ms = clock::now().unix_ms.saturating_sub(oldest);
    json!({
        "collection": wanted.collection,
        "waiting": backlog.waiting(),
        "oldest_ms": (oldest > 0).then_some(waits_ms),
        "problem": problem,
    })
}

#[cfg(not(feature = "mongodb"))]
const fn sharing(_: &Context) -> Value {
    Value::Null
}

/// Stopped: a rule has run away.
fn automatic_bans(context: &Context) -> &'static str {
    match (context.config.rules.ban.enabled, context.moderator.board().is_runaway()) {
        (false, _) => "off",
        (true, false) => "on",
        (true, true) => "stopped",
    }
}

fn network_status(context: &Context) -> Value {
    let network = &context.config.network;
    let (kernel, fill) = (context.moderator.board().kernel(), context.moderator.board().fill());
    // Without an attachment nothing is dropped, pins or no pins.
    let attached = attachments(context);
    let state = match (network.mode, kernel.open, attached.is_empty()) {
        (AttachMode::Off, ..) => "off",
        (_, false, _) => "unavailable",
        (_, true, true) => "detached",
        (_, true, false) => "attached",
    };
    let first = attached.first();
    json!({
        "state": state,
        "enforce": network.enforce,
        "mode": first.map(|attached| attached.mode),
        "interface": first.map(|attached| attached.interface.as_str()),
        "attachments": attached,
        "missing": missing(&network.interfaces, &attached),
        "pin_root": network.pin_root,
        "problem": kernel.problem,
        "desired": if state == "off" { 0 } else { fill.exact + fill.networks },
        "enforced": fill.enforced,
        "last_drift": kernel.last_drift,
        "drift_seen": kernel.drift_seen.map(drift_seen),
        "counters": packets_by_reason(&packets(context)),
        "alarms": alarms_by_name(&alarms(context)),
    })
}

fn drift_seen(seen: DriftSeen) -> Value {
    let mut view = json!(seen.changes);
    view["at"] = json!(clock::rfc3339(seen.at_unix_ms));
    view
}

/// Where the program runs; nowhere if the kernel cannot be asked.
fn attachments(context: &Context) -> Vec<Attachment> {
    let attached = context.pins.as_ref().and_then(|pins| pins.attachments().ok());
    attached.unwrap_or_default()
}

/// Every interface that runs the program or should, with the program's mode.
fn interfaces(context: &Context) -> Vec<(String, Option<XdpMode>)> {
    let attached = attachments(context);
    let configured: &[String] =
        if context.pins.is_some() { &context.config.network.interfaces } else { &[] };
    let missing = missing(configured, &attached).into_iter().map(|name| (name.clone(), None));
    let attached = attached.iter().map(|one| (one.interface.clone(), Some(one.mode)));
    attached.chain(missing).collect()
}

/// Configured interfaces that do not run the program.
fn missing<'a>(configured: &'a [String], attached: &[Attachment]) -> Vec<&'a String> {
    let is_attached =
        |name: &&String| attached.iter().any(|attachment| attachment.interface == **name);
    configured.iter().filter(|name| !is_attached(name)).collect()
}

/// The kernel's counters; none if they cannot be read, which the status and
/// `moderation_kernel_open` say.
fn packets(context: &Context) -> Vec<(Reason, Counter)> {
    let counters = context.pins.as_ref().map(|pins| Counters::open(pins)?.all());
    counters.and_then(Result::ok).unwrap_or_default()
}

/// What the kernel programs lost; none if that cannot be read, as above.
fn alarms(context: &Context) -> Vec<(Alarm, u64)> {
    let alarms = context.pins.as_ref().map(network::alarms);
    alarms.and_then(Result::ok).unwrap_or_default()
}

/// Asking the kernel blocks.
async fn metrics(State(context): State<Context>) -> Result<impl IntoResponse, Problem> {
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], metrics_text(context).await?))
}

/// All metrics, as OpenMetrics.
pub(super) async fn metrics_text(context: Context) -> Result<String, Problem> {
    let text = tokio::task::spawn_blocking(move || metrics_of(&context)).await;
    text.map_err(|_| Problem::Unreadable)
}

fn metrics_of(context: &Context) -> String {
    let board = context.moderator.board();
    let bounds = context.config.rules.bounds;
    let snapshot = Snapshot {
        size: board.size(),
        fill: board.fill(),
        max: (bounds.bans, bounds.networks),
        max_windows: bounds.windows,
        windows_age_ms: clock::now().boot_ms.saturating_sub(board.safe_until_boot_ms()),
        imported: board.lists().iter().map(|list| list.entries).sum(),
        bans_stopped: board.is_runaway(),
        bans_enforced: board.ban_counts().1,
        queue_length: context.moderator.queue().0,
        kernel_open: board.kernel().open,
        interfaces: interfaces(context),
        packets: packets(context),
        alarms: alarms(context),
    };
    #[cfg(feature = "mongodb")]
    if let Some(status) = &context.sharing {
        context.metrics.take_sharing(status, clock::now().unix_ms);
    }
    context.metrics.render(&snapshot)
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TopQuery {
    limit: Option<usize>,
    /// Whose packets are dropped is found out by looking at one in so many; without it at
    /// none.
    every: Option<u32>,
}

/// Sources that are shown at most.
const MAX_TOP: usize = 1_000;

/// Who is busy now. Asking the kernel blocks.
async fn top(
    State(context): State<Context>,
    Query(query): Query<TopQuery>,
) -> Result<axum::Json<Value>, Problem> {
    let most = query.limit.unwrap_or(20).clamp(1, MAX_TOP);
    let has_kernel = context.pins.as_ref().is_some_and(Pins::exist);
    let sampled = query.every.filter(|_| has_kernel);
    let sampled = sampled.map(|every| context.watch.busiest(most, every));
    let top = tokio::task::spawn_blocking(move || {
        let mut top = top_of(&context, most)?;
        top["drops"] = drops(sampled);
        Ok::<_, NetworkError>(top)
    });
    let top = top.await;
    top.map_err(|_| Problem::Unreadable)?.map(axum::Json).map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot tell who is busy");
        Problem::KernelUnavailable
    })
}

fn top_of(context: &Context, most: usize) -> Result<Value, NetworkError> {
    let network = &context.config.network;
    let rates = |table, window| -> Result<Value, NetworkError> {
        let Some(pins) = &context.pins else { return Ok(json!([])) };
        let now = Epoch::at(clock::monotonic_ns(), window);
        Ok(json!(Rates::open(pins, table)?.busiest(most, now)?))
    };
    Ok(json!({
        "attempts": {
            "limit": network.syn.enabled.then_some(network.syn.limit),
            "window_ms": milliseconds(network.syn.window),
            "sources": rates(Table::Heavy, network.syn.window)?,
        },
        "handshakes": {
            "limit": network.connections.enabled.then_some(network.connections.limit),
            "window_ms": milliseconds(network.connections.window),
            "sources": rates(Table::Handshakes, network.connections.window)?,
        },
        "packets": packets_by_reason(&packets(context)),
        "alarms": alarms_by_name(&alarms(context)),
        "at_ms": clock::now().boot_ms,
    }))
}

/// Whose packets are dropped, by samples; null: none were asked for, or there are none.
fn drops(sampled: Option<Sampled>) -> Value {
    let Some(Sampled { samples, sources }) = sampled else { return Value::Null };
    let sources = sources.iter().map(|(source, samples, reason)| {
        json!({ "source": source, "samples": samples, "reason": reason.name() })
    });
    json!({ "samples": samples, "sources": sources.collect::<Vec<_>>() })
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DenialsQuery {
    limit: Option<usize>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct DenialList {
    /// The newest first.
    denials: Vec<DenialJson>,
}

/// What was denied lately, from memory.
async fn denials(
    State(context): State<Context>,
    Query(query): Query<DenialsQuery>,
) -> axum::Json<DenialList> {
    let most = query.limit.unwrap_or(20).clamp(1, MAX_TOP);
    let latest = context.moderator.board().denials().latest(most);
    axum::Json(DenialList { denials: latest.iter().map(DenialJson::new).collect() })
}

fn milliseconds(window: std::time::Duration) -> u64 {
    u64::try_from(window.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WatchQuery {
    after: Option<u64>,
    every: Option<u32>,
}

/// Dropped packets since the last question, or those of the next second.
async fn watch(
    State(context): State<Context>,
    Query(query): Query<WatchQuery>,
) -> Result<axum::Json<Value>, Problem> {
    if !context.pins.as_ref().is_some_and(Pins::exist) {
        return Err(Problem::KernelUnavailable);
    }
    let seen = context.watch.ask(query.after, query.every.unwrap_or(1)).await;
    let (boot_ns, unix_ms) = (clock::boot_ns(), clock::now().unix_ms);
    let view = |sample: &Dropped| {
        let ago_ms = boot_ns.saturating_sub(sample.at_boot_ns) / 1_000_000;
        let mut view = json!(sample);
        view["at"] = json!(clock::rfc3339(unix_ms.saturating_sub(ago_ms)));
        view
    };
    let samples: Vec<_> = seen.samples.iter().map(view).collect();
    let lost = alarms(&context).into_iter().find(|(alarm, _)| *alarm == Alarm::SampleLost);
    let lost = seen.lost + lost.map_or(0, |(_, count)| count);
    Ok(axum::Json(json!({ "samples": samples, "next": seen.next, "lost": lost })))
}
