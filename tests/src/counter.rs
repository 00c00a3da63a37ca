//! The kernel's own count of dropped packets, read from the pinned maps, for
//! when the daemon is dead or too slow a way. Writes nothing.

use std::path::Path;

use anyhow::Result;
use moderation_common::Reason;
use moderation_daemon::network::{Counters, Pins};

/// An open handle on the pinned counters; it outlives the pins and the daemon.
#[derive(Debug)]
pub struct KernelCounters(Counters);

impl KernelCounters {
    /// Opens the counters pinned under a daemon's pin root.
    pub fn open(pin_root: &Path) -> Result<Self> {
        Self::of(&Pins::new(pin_root))
    }

    /// Opens the counters among these pins.
    pub fn of(pins: &Pins) -> Result<Self> {
        Ok(Self(Counters::open(pins)?))
    }

    /// Packets dropped because their source or a block around it is banned,
    /// IPv4 and IPv6 together, over all CPUs.
    pub fn banned(&self) -> Result<u64> {
        let packets = |reason| self.0.read(reason).map(|counter| counter.packets);
        Ok(packets(Reason::BanV4)? + packets(Reason::BanV6)? + packets(Reason::BanNet)?)
    }
}
