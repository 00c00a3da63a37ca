//! The commands that work on the kernel: the one-shot loader. They need root,
//! and neither daemon nor store.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use ipnet::IpNet;
use nix::unistd::{Uid, User};
use serde_json::{Value, json};

use super::{
    command::{PinRoot, Xdp},
    keep,
    output::{Output, field, list, table},
};
use crate::{
    api::view::{alarms_by_name, packets_by_reason},
    clock,
    config::{AttachMode, Config},
    exit::{NeedsRoot, tell, tell_line},
    guard::Sources,
    keeper::{Guardian, SourceFiles},
    network::{
        self, AttachOptions, Attached, BanMaps, Counters, Epoch, Loaded, NetworkError, Pins, Rates,
        Table, Verified, attachments,
    },
};

pub(super) fn run(
    command: Xdp,
    config: &Config,
    files: &SourceFiles,
    output: Output,
) -> anyhow::Result<()> {
    // The kernel says itself what closing connections takes.
    if !matches!(command, Xdp::Reap { .. }) {
        NeedsRoot::check()?;
    }
    let sources = || files.sources(&config.network.guard_hosts);
    let pins = |given: PinRoot| {
        Pins::new(given.pin_root.unwrap_or_else(|| config.network.pin_root.clone()))
    };
    match command {
        Xdp::Attach { pins: given, interface, mode, owner, confirm_within } => {
            let owner = owner.as_deref().map(find_user).transpose()?;
            let interfaces = interfaces(interface, config)?;
            let mut options = AttachOptions::new(&config.network, interfaces, owner);
            options.mode = mode.unwrap_or(options.mode);
            let pins = pins(given);
            options.guards = guards(&pins, config, sources());
            match confirm_within {
                Some(patience) => attach_for(&pins, &options, patience, output),
                None => attach(&pins, &options, output),
            }
        }
        Xdp::Confirm { pins: given, interface } => {
            confirm(&pins(given), &interfaces(interface, config)?, output)
        }
        Xdp::Detach { pins: given, interface } => detach(&pins(given), &interface, output),
        Xdp::Off { pins: given } => off(&pins(given), output),
        Xdp::Status { pins: given } => status(&pins(given), config, output),
        Xdp::Verify { pins: given } => verify(&pins(given), output),
        Xdp::Guard { pins: given, watch } => {
            keep::guard(pins(given), config, sources(), watch, output)
        }
        Xdp::Reap { pins: given, watch } => keep::reap(&pins(given), config, watch, output),
    }
}

/// Whoever must not be locked out is guarded before the first packet is judged.
pub(super) fn guards(pins: &Pins, config: &Config, sources: Sources) -> Vec<IpNet> {
    let mut guardian = Guardian::new(&config.network, sources);
    let look = guardian.look(pins);
    keep::tell_problems(&look);
    guardian.prefixes(&look).into_iter().collect()
}

/// Those of the command line, else those of the configuration.
fn interfaces(given: Vec<String>, config: &Config) -> anyhow::Result<Vec<String>> {
    let interfaces = if given.is_empty() { config.network.interfaces.clone() } else { given };
    if interfaces.is_empty() {
        bail!("no interface: name one with --interface, or in network.interfaces");
    }
    Ok(interfaces)
}

fn find_user(name: &str) -> anyhow::Result<Uid> {
    if let Ok(uid) = name.parse() {
        return Ok(Uid::from_raw(uid));
    }
    let user = User::from_name(name).with_context(|| format!("cannot look up user {name}"))?;
    user.map(|user| user.uid).ok_or_else(|| anyhow!("there is no user {name}"))
}

fn attach(pins: &Pins, options: &AttachOptions, output: Output) -> anyhow::Result<()> {
    let Attached { attachments, failures } = network::attach(pins, options)?;
    let owner = pins.owner().map(Uid::as_raw);
    let result = json!({
        "attached": attachments,
        "failures": failures.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "pin_root": pins.root(),
        "owner": owner,
    });
    let owner = owner.unwrap_or_default();
    output.show(&result, |_| {
        let root = pins.root().display();
        if options.mode == AttachMode::Off {
            return format!("loaded and pinned in {root}; attached to nothing");
        }
        let lines = attachments.iter().map(|attached| {
            let (interface, mode) = (&attached.interface, attached.mode);
            format!("attached to {interface} in {mode} mode; pins in {root}, the daemon's for uid {owner}\n")
        });
        lines.collect()
    })?;
    first(failures)
}

/// One trouble is enough to fail; the others are told first.
fn first(failures: Vec<NetworkError>) -> anyhow::Result<()> {
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else { return Ok(()) };
    for other in failures {
        tell("and", &other);
    }
    Err(first.into())
}

/// How often to look for a confirmation.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Attaches for a while, and for good once that is confirmed. Meanwhile the
/// program stays only as long as this process does: whatever ends it, a lost
/// connection or the time, detaches.
fn attach_for(
    pins: &Pins,
    options: &AttachOptions,
    patience: Duration,
    output: Output,
) -> anyhow::Result<()> {
    let mut loaded = Loaded::load(pins, options)?;
    let (mut waiting, mut failures) = (Vec::new(), Vec::new());
    for interface in &options.interfaces {
        network::forget_confirmation(pins, interface);
        match loaded.attach_unpinned(interface) {
            Ok(fresh) => waiting.extend(fresh),
            Err(error) => failures.push(error),
        }
    }
    let seconds = patience.as_secs();
    let asked = waiting.len();
    if asked > 0 {
        tell_line(&format!(
            "attached; to keep it, run within {seconds} s: moderationctl xdp confirm"
        ));
    }
    let deadline = clock::boot_ns() + u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
    while !waiting.is_empty() && clock::boot_ns() < deadline {
        let (confirmed, rest): (Vec<_>, _) =
            waiting.into_iter().partition(network::Fresh::is_confirmed);
        confirmed.into_iter().try_for_each(network::Fresh::keep)?;
        waiting = rest;
        std::thread::sleep(LOOK_INTERVAL);
    }
    if !waiting.is_empty() {
        drop(waiting);
        bail!("not confirmed within {seconds} s: detached again");
    }
    // Only now: their link is one that stays.
    failures.extend(loaded.count_handshakes().err());
    let result = json!({
        "confirmed": asked,
        "failures": failures.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "pin_root": pins.root(),
    });
    output.show(&result, |_| match asked {
        0 => "nothing new was attached: there is nothing to confirm".to_owned(),
        _ => "attached for good".to_owned(),
    })?;
    first(failures)
}

fn confirm(pins: &Pins, interfaces: &[String], output: Output) -> anyhow::Result<()> {
    if !pins.exist() {
        bail!("nothing is loaded at {}: nothing waits to be confirmed", pins.root().display());
    }
    for interface in interfaces {
        network::confirm(pins, interface)?;
    }
    let result = json!({ "confirmed": interfaces });
    Ok(output.show(&result, |_| format!("confirmed {}", interfaces.join(", ")))?)
}

/// Fails if a ban is hidden.
fn verify(pins: &Pins, output: Output) -> anyhow::Result<()> {
    let verified = network::verify(pins)?;
    let Verified { entries, hidden, switched_off } = verified;
    output.show(&json!(verified), |_| {
        format!("{entries} exact entries; {hidden} hidden, {switched_off} not looked for")
    })?;
    if hidden + switched_off > 0 {
        bail!("{} bans have no effect: restart the daemon, which mends it", hidden + switched_off);
    }
    Ok(())
}

fn detach(pins: &Pins, interface: &str, output: Output) -> anyhow::Result<()> {
    let was_attached = network::detach(pins, interface)?;
    let result = json!({ "interface": interface, "detached": was_attached });
    Ok(output.show(&result, |_| {
        if was_attached {
            format!("detached from {interface}; bans are kept, and dropped are no packets")
        } else {
            format!("nothing of ours was attached to {interface}")
        }
    })?)
}

fn off(pins: &Pins, output: Output) -> anyhow::Result<()> {
    let was_loaded = pins.exist();
    let interfaces = network::off(pins)?;
    let result = json!({ "detached": interfaces, "pin_root": pins.root() });
    Ok(output.show(&result, |_| {
        if !was_loaded {
            return format!("nothing was loaded at {}", pins.root().display());
        }
        let from = if interfaces.is_empty() { "nothing".to_owned() } else { interfaces.join(", ") };
        format!("detached from {from} and removed the pins in {}", pins.root().display())
    })?)
}

/// Busiest sources that are shown.
const BUSIEST: usize = 10;

fn status(pins: &Pins, config: &Config, output: Output) -> anyhow::Result<()> {
    let ours = pins.interfaces();
    let attached: Vec<_> = attachments()?
        .into_iter()
        .map(|attachment| {
            let is_ours = ours.contains(&attachment.interface);
            json!({
                "interface": attachment.interface,
                "mode": attachment.mode,
                "program_id": attachment.program_id,
                "ours": is_ours,
            })
        })
        .collect();
    let mut status =
        json!({ "pin_root": pins.root(), "loaded": pins.exist(), "attached": attached });
    if pins.exist() {
        let counters = Counters::open(pins)?.all()?;
        status["blocked"] = json!(BanMaps::open(pins)?.all()?.len());
        status["counters"] = packets_by_reason(&counters);
        status["alarms"] = alarms_by_name(&network::alarms(pins)?);
        status["busiest"] = json!(busiest(pins, config)?);
    }
    Ok(output.show(&status, status_text)?)
}

/// Connections by source: attempts of those that stand out, and handshakes.
fn busiest(pins: &Pins, config: &Config) -> Result<Value, NetworkError> {
    let now_ns = clock::monotonic_ns();
    let network = &config.network;
    let tables =
        [(Table::Heavy, network.syn.window), (Table::Handshakes, network.connections.window)];
    let [attempts, handshakes] = tables.map(|(table, window)| {
        Rates::open(pins, table)?.busiest(BUSIEST, Epoch::at(now_ns, window))
    });
    Ok(json!({ "attempts": attempts?, "handshakes": handshakes? }))
}

fn status_text(status: &Value) -> String {
    if status["loaded"] == false {
        return format!("nothing is loaded at {}", field(&status["pin_root"]));
    }
    let attached = status["attached"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = attached.iter().map(|attached| {
        let whose = if attached["ours"] == true { "ours" } else { "not ours" };
        [field(&attached["interface"]), field(&attached["mode"]), whose.to_owned()]
    });
    let attachments = table(["INTERFACE", "MODE", "PROGRAM"], rows);
    let summary =
        list(&[("pins", field(&status["pin_root"])), ("blocked", field(&status["blocked"]))]);
    let counters = status["counters"].as_object().cloned().unwrap_or_default();
    let counters = counters
        .into_iter()
        .map(|(reason, counts)| [reason, field(&counts["packets"]), field(&counts["bytes"])]);
    let counters = table(["REASON", "PACKETS", "BYTES"], counters);
    let rates = |name: &str, head| {
        let rates = status["busiest"][name].as_array().cloned().unwrap_or_default();
        table(
            ["SOURCE", head],
            rates.iter().map(|rate| [field(&rate["source"]), field(&rate["count"])]),
        )
    };
    let attempts = rates("attempts", "CONNECTION ATTEMPTS");
    let handshakes = rates("handshakes", "HANDSHAKES");
    [summary, attachments, counters, attempts, handshakes].join("\n")
}
