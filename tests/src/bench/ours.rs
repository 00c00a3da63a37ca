//! Our side of the benchmarks, as far as it depends on how the project is built inside:
//! the program with bans of its own choosing. Measures nothing.

use std::fs::File;
use std::io::BufReader;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use ipnet::IpNet;
use moderation_common::BanEntry;
use moderation_daemon::blocklist::{self, OnBadLine, Options};
use moderation_daemon::clock;
use moderation_daemon::config::{AttachMode, Config, Syn};
use moderation_daemon::engine::Prefix;
use moderation_daemon::network::{self, AttachOptions, Desired, Pins, attach};
use nix::unistd::Uid;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::kernel::Kernel;

/// The program as a host has it by default, on no interface.
pub(super) struct Filter {
    kernel: Kernel,
    program: Xdp,
    patient: Xdp,
}

impl Filter {
    /// Loads it, with the guards and the capacity of the default configuration.
    pub(super) fn load() -> Result<Self> {
        let config = Config::parse("").context("the default configuration")?;
        let options = AttachOptions {
            mode: AttachMode::Off,
            ..AttachOptions::new(&config.network, Vec::new(), Some(Uid::effective()))
        };
        let kernel = Kernel::with(&options)?;
        let pinned = || Xdp::from_pin(kernel.pins().program(), XdpAttachType::Interface);
        let program = pinned()?;
        // On the same maps, and pinned in the place of the first.
        let window = std::time::Duration::from_millis(2);
        let syn = Syn { limit: u32::MAX, window, ..options.syn };
        attach(kernel.pins(), &AttachOptions { syn, ..options })?;
        let patient = pinned()?;
        Ok(Self { kernel, program, patient })
    }

    /// The same program with a limit of connection attempts and a window that few
    /// sources do not exceed: a benchmark's innocents would.
    pub(super) const fn patient(&self) -> &Xdp {
        &self.patient
    }

    /// The program.
    pub(super) const fn program(&self) -> &Xdp {
        &self.program
    }

    /// Blocks them for good.
    pub(super) fn ban(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<()> {
        self.block(addresses.into_iter().map(|ip| Prefix::around(ip, 64)).collect())
    }

    /// Blocks whom a list names, for good: the way of an import, but for the store.
    pub(super) fn ban_listed(&mut self, list: &Path) -> Result<()> {
        let what = || format!("cannot read {}", list.display());
        let file = BufReader::new(File::open(list).with_context(what)?);
        let (now_unix_ms, on_bad_line) = (clock::now().unix_ms, OnBadLine::Refuse);
        let options = Options { now_unix_ms, expires_at_unix_ms: None, on_bad_line };
        let read = blocklist::read(file, &options).with_context(what)?;
        self.block(read.entries.into_iter().map(|(prefix, _)| prefix).collect())
    }

    fn block(&mut self, prefixes: Vec<Prefix>) -> Result<()> {
        let entry = BanEntry { expires_at_ns: BanEntry::NEVER };
        let bans: Desired = prefixes.into_iter().map(|prefix| (prefix, entry)).collect();
        self.kernel.network.block_new(&bans).result.context("cannot block")?;
        Ok(())
    }

    /// Whether the kernel holds a ban of this address.
    pub(super) fn holds(&self, address: IpAddr) -> Result<bool> {
        Ok(self.kernel.network.bans().get(Prefix::around(address, 64))?.is_some())
    }

    /// Makes this the operator's allowlist.
    pub(super) fn allow(&mut self, prefixes: &[IpNet]) -> Result<()> {
        self.kernel.allow(prefixes)
    }
}

/// Has the daemon ban whom a list names, and returns when all are enforced.
pub(super) fn import(daemon: &Daemon, list: &Path) -> Result<()> {
    let path = list.to_str().context("the list's path is text")?;
    daemon.ctl(&["import", path, "--json"])?.success().map(drop)
}

/// The configuration of a daemon that is measured: room for `bans`, and nothing that
/// would brake a benchmark's many bans.
pub(super) fn configuration(bans: u32) -> Value {
    json!({
        "network": { "max_bans": bans },
        "bans": { "max_per_minute": 1_000_000 },
    })
}

/// How many bans are in force, by the daemon's own account.
pub(super) fn enforced(daemon: &Daemon) -> Result<u64> {
    let status = daemon.status()?;
    let enforced = status["prefixes"]["enforced"].as_u64();
    enforced.with_context(|| format!("no prefixes in the status: {status}"))
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
