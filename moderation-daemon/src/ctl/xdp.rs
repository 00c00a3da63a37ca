//! The commands that work on the kernel: the one-shot loader. They need root,
//! and neither daemon nor store.

use anyhow::{Context as _, anyhow};
use nix::unistd::{Uid, User};
use serde_json::{Value, json};

use super::{
    command::{PinRoot, Xdp},
    output::{Output, field, list, table},
};
use crate::{
    api::view::packets_by_reason,
    clock,
    config::{AttachMode, Config},
    exit::NeedsRoot,
    network::{self, AttachOptions, BanMaps, Counters, Pins, Syns, attachments},
};

pub(super) fn run(command: Xdp, config: &Config, output: Output) -> anyhow::Result<()> {
    NeedsRoot::check()?;
    let pins = |given: PinRoot| {
        Pins::new(given.pin_root.unwrap_or_else(|| config.network.pin_root.clone()))
    };
    match command {
        Xdp::Attach { pins: given, interface, mode, owner } => {
            let owner = owner.as_deref().map(find_user).transpose()?;
            let mut options = AttachOptions::new(&config.network, interface, owner);
            options.mode = mode.unwrap_or(options.mode);
            attach(&pins(given), &options, output)
        }
        Xdp::Detach { pins: given, interface } => detach(&pins(given), &interface, output),
        Xdp::Off { pins: given } => off(&pins(given), output),
        Xdp::Status { pins: given } => status(&pins(given), config, output),
    }
}

fn find_user(name: &str) -> anyhow::Result<Uid> {
    if let Ok(uid) = name.parse() {
        return Ok(Uid::from_raw(uid));
    }
    let user = User::from_name(name).with_context(|| format!("cannot look up user {name}"))?;
    user.map(|user| user.uid).ok_or_else(|| anyhow!("there is no user {name}"))
}

fn attach(pins: &Pins, options: &AttachOptions, output: Output) -> anyhow::Result<()> {
    let attached = network::attach(pins, options)?;
    let owner = pins.owner().map(Uid::as_raw);
    let result = json!({ "attached": attached, "pin_root": pins.root(), "owner": owner });
    let owner = owner.unwrap_or_default();
    Ok(output.show(&result, |_| match &attached {
        Some(attached) => format!(
            "attached to {} in {} mode; pins in {}, the daemon's for uid {owner}",
            attached.interface,
            attached.mode,
            pins.root().display(),
        ),
        None if options.mode == AttachMode::Off => {
            format!("loaded and pinned in {}; attached to nothing", pins.root().display())
        }
        None => format!("{} has gone again", options.interface),
    })?)
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
        let window_ns = u64::try_from(config.network.syn.window.as_nanos()).unwrap_or(u64::MAX);
        let since_ns = clock::boot_ns().saturating_sub(window_ns);
        status["blocked"] = json!(BanMaps::open(pins)?.all()?.len());
        status["counters"] = packets_by_reason(&counters);
        status["busiest"] = json!(Syns::open(pins)?.busiest(BUSIEST, since_ns)?);
    }
    Ok(output.show(&status, status_text)?)
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
    let busiest = status["busiest"].as_array().cloned().unwrap_or_default();
    let busiest = busiest.iter().map(|count| [field(&count["source"]), field(&count["syns"])]);
    let busiest = table(["SOURCE", "CONNECTION ATTEMPTS"], busiest);
    [summary, attachments, counters, busiest].join("\n")
}
