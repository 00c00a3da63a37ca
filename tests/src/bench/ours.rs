//! Our side of the benchmarks, as far as it depends on how the project is built inside:
//! the program with bans of its own choosing. Measures nothing.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use ipnet::IpNet;
use moderation_daemon::config::{AttachMode, Config};
use moderation_daemon::network::{self, AttachOptions, Pins};
use nix::unistd::Uid;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::kernel::Kernel;

/// The program as a host has it by default, on no interface.
pub(super) struct Filter {
    kernel: Kernel,
    program: Xdp,
}

impl Filter {
    /// Loads it, with the guards and the capacity of the default configuration.
    pub(super) fn load() -> Result<Self> {
        let config = Config::parse("").context("the default configuration")?;
        let options = AttachOptions {
            mode: AttachMode::Off,
            ..AttachOptions::new(&config.network, String::new(), Some(Uid::effective()))
        };
        let kernel = Kernel::with(&options)?;
        let program = Xdp::from_pin(kernel.pins().program(), XdpAttachType::Interface)?;
        Ok(Self { kernel, program })
    }

    /// The program.
    pub(super) const fn program(&self) -> &Xdp {
        &self.program
    }

    /// Blocks them for good.
    pub(super) fn ban(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<()> {
        for address in addresses {
            self.kernel.ban(address)?;
        }
        Ok(())
    }

    /// Blocks whom a list names, one address a line, for good.
    pub(super) fn ban_listed(&mut self, list: &Path) -> Result<()> {
        let what = || format!("cannot read {}", list.display());
        for line in BufReader::new(File::open(list).with_context(what)?).lines() {
            let line = line.with_context(what)?;
            let address: IpAddr =
                line.parse().with_context(|| format!("{line:?} is no address"))?;
            self.kernel.ban(address)?;
        }
        Ok(())
    }

    /// Whether the kernel holds a ban of this address.
    pub(super) fn holds(&self, address: IpAddr) -> Result<bool> {
        Ok(self.kernel.network.bans().get(address.into())?.is_some())
    }

    /// Makes this the operator's allowlist.
    pub(super) fn allow(&mut self, prefixes: &[IpNet]) -> Result<()> {
        self.kernel.allow(prefixes)
    }
}

/// This part of ours is to be measured once it exists.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not built yet")]
pub(super) struct NotBuilt(&'static str);

/// Has the daemon ban whom a list names, and returns when all are enforced.
pub(super) fn import(_daemon: &Daemon, _list: &Path) -> Result<()> {
    bail!(NotBuilt("bulk import"))
}

/// The configuration of a daemon that is measured: room for `bans`, and nothing that
/// would brake a benchmark's many bans.
pub(super) fn configuration(bans: u32) -> Value {
    json!({ "network": { "max_bans": bans } })
}

/// How many bans are in force, by the daemon's own account.
pub(super) fn enforced(daemon: &Daemon) -> Result<u64> {
    let status = daemon.status()?;
    status["bans"]["enforced"].as_u64().with_context(|| format!("no bans in the status: {status}"))
}

/// How many entries the daemon added to the kernel when it last compared it with the store.
pub(super) fn readded(daemon: &Daemon) -> Result<u64> {
    let status = daemon.status()?;
    let added = status["network"]["last_drift"]["added"].as_u64();
    added.with_context(|| format!("no drift in the status: {status}"))
}

/// Takes the program off and removes every pin; the daemon must not run.
pub(super) fn remove_pins(daemon: &Daemon) -> Result<()> {
    network::off(&Pins::new(daemon.pin_root())).context("cannot remove the pins")?;
    Ok(())
}
