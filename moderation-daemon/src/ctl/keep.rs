//! `moderationctl xdp guard` and `xdp reap`: what keeps a host reachable and
//! bans complete while it runs, once or until a signal comes. What they do is
//! `keeper`'s affair.

use std::{collections::BTreeMap, future::pending, time::Duration};

use anyhow::bail;
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use super::output::{Output, field, table};
use crate::{
    config::Config,
    exit::tell_line,
    guard::Sources,
    keeper::{self, Closer, Guardian, Keeper, Look},
    network::{Changes, Pins},
    telemetry,
};

/// Guards once, or until told to stop.
pub(super) fn guard(
    pins: Pins,
    config: &Config,
    sources: Sources,
    watch: bool,
    output: Output,
) -> anyhow::Result<()> {
    if watch {
        telemetry::start(&config.log)?;
        let mut signals = Signals::new()?;
        Keeper::new(&config.network, pins, sources).watch(|interval| signals.pause(interval));
        return Ok(());
    }
    require_loaded(&pins)?;
    let mut guardian = Guardian::new(&config.network, sources);
    let look = guardian.look(&pins);
    let changes = guardian.write(&pins, &look)?.unwrap_or_default();
    tell_problems(&look);
    let result = json(&guardian, &look, changes, &pins);
    Ok(output.show(&result, text)?)
}

/// Closes connections of banned peers that are there now and a second later, or
/// goes on so until told to stop.
pub(super) fn reap(
    pins: &Pins,
    config: &Config,
    watch: bool,
    output: Output,
) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut closer = Closer::open(pins.clone())?;
    if watch {
        telemetry::start(&config.log)?;
        if !config.network.close_connections {
            // Not an end, after which systemd would start it again.
            tracing::warn!("network.close_connections is false: closing none");
            while signals.pause(keeper::INTERVAL) {}
            return Ok(());
        }
        return keeper::watch_connections(&mut closer, |interval| signals.pause(interval));
    }
    require_loaded(pins)?;
    closer.round()?;
    let closed = if signals.pause(keeper::CLOSING_INTERVAL) { closer.round()? } else { 0 };
    let result = json!({ "closed": closed });
    Ok(output.show(&result, |_| format!("closed {closed} connections of banned peers"))?)
}

fn require_loaded(pins: &Pins) -> anyhow::Result<()> {
    if !pins.exist() {
        bail!("nothing is loaded at {}; moderationctl xdp attach does it", pins.root().display());
    }
    Ok(())
}

/// Who cannot be protected is told, and the others are.
pub(super) fn tell_problems(look: &Look) {
    for problem in &look.problems {
        tell_line(&format!("warning: {problem}"));
    }
}

fn json(guardian: &Guardian, look: &Look, changes: Changes, pins: &Pins) -> Value {
    let mut reasons: BTreeMap<IpNet, Vec<&str>> = BTreeMap::new();
    for prefix in guardian.configured() {
        reasons.entry(*prefix).or_default().push("configured");
    }
    for guard in &look.guards {
        reasons.entry(guard.prefix).or_default().push(guard.why.name());
    }
    for prefix in &look.inherited {
        reasons.entry(*prefix).or_insert_with(|| vec!["inherited"]);
    }
    let guards = reasons.iter().map(|(prefix, why)| json!({ "prefix": prefix, "why": why }));
    json!({
        "guards": guards.collect::<Vec<_>>(),
        "proxies": guardian.proxies(),
        "changes": changes,
        "problems": look.problems,
        "pin_root": pins.root(),
    })
}

fn text(result: &Value) -> String {
    let array = |name: &str| result[name].as_array().cloned().unwrap_or_default();
    let guards = array("guards").into_iter().map(|guard| {
        let why = guard["why"].as_array().map(Vec::as_slice).unwrap_or_default();
        let why: Vec<_> = why.iter().filter_map(Value::as_str).collect();
        [field(&guard["prefix"]), why.join(", ")]
    });
    let proxies = array("proxies").into_iter().map(|prefix| [field(&prefix), "proxy".to_owned()]);
    table(["PREFIX", "WHY"], guards.chain(proxies))
}

/// SIGTERM and SIGINT, waited for beside the time.
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        drop(inside);
        Ok(Self { runtime, terminate, interrupt })
    }

    /// `false` if a signal has come.
    fn pause(&mut self, interval: Duration) -> bool {
        let Self { runtime, terminate, interrupt } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => false,
                _ = interrupt.recv() => false,
                _ = tokio::time::timeout(interval, pending::<()>()) => true,
            }
        })
    }
}
