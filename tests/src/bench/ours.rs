//! Our side of the benchmarks, as far as it depends on how the project is built inside:
//! the program with bans of its own choosing. Measures nothing.

use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use ipnet::IpNet;
use moderation_daemon::config::{AttachMode, Config, Syn};
use moderation_daemon::network::{AttachOptions, attach};
use nix::unistd::Uid;

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
        let syn = Syn { limit: u32::MAX, ..options.syn.clone() };
        attach(kernel.pins(), &AttachOptions { syn, ..options })?;
        let patient = pinned()?;
        Ok(Self { kernel, program, patient })
    }

    /// The same program with a limit of connection attempts that no one source
    /// exceeds: a benchmark's only innocent would.
    pub(super) const fn patient(&self) -> &Xdp {
        &self.patient
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

    /// Makes this the operator's allowlist.
    pub(super) fn allow(&mut self, prefixes: &[IpNet]) -> Result<()> {
        self.kernel.allow(prefixes)
    }
}
