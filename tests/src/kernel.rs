//! The program and its maps without an interface, for judging frames one by
//! one through the kernel's `BPF_PROG_TEST_RUN`.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use moderation_common::{Alarm, BanEntry, Counter, Reason};
use moderation_daemon::clock;
use moderation_daemon::config::{AttachMode, Connections, Ports, Syn};
use moderation_daemon::engine::{Address, Prefix};
use moderation_daemon::network::{
    AttachOptions, Counters, Epoch, Network, Pins, Rates, Table, TestProgram, alarms, attach,
};
use nix::unistd::Uid;

use crate::bpffs::PinFolder;
use crate::{name, sweep};

/// A folder in bpffs that nothing else uses, for pins.
#[derive(Debug)]
pub struct Pinboard {
    folder: PinFolder,
    pins: Pins,
}

impl Pinboard {
    /// Reserves the folder; makes nothing.
    pub fn reserve() -> Result<Self> {
        sweep::sweep()?;
        let folder = PinFolder::reserve(&name::fresh()?)?;
        let pins = Pins::new(folder.path());
        Ok(Self { folder, pins })
    }

    /// The pins in it.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The folder.
    pub fn path(&self) -> &std::path::Path {
        self.folder.path()
    }
}

/// Options that attach nothing and make small maps that are root's.
pub fn detached() -> AttachOptions {
    AttachOptions {
        interfaces: Vec::new(),
        mode: AttachMode::Off,
        owner: Some(Uid::effective()),
        enforce: true,
        guards: Vec::new(),
        proxies: Vec::new(),
        ports: Ports { exempt: Vec::new(), cover_bans: false, explanation: None },
        max_bans: 4_096,
        max_networks: 256,
        syn: Syn { enabled: true, limit: 1_000_000, window: HOUR, flood: 100_000, table: 1_024 },
        connections: Connections { enabled: false, limit: 1, window: HOUR, cgroup: None },
    }
}

/// Longer than any test.
const HOUR: Duration = Duration::from_secs(3600);

/// A loaded program with maps of its own.
#[derive(Debug)]
pub struct Kernel {
    /// The daemon's hands on the maps.
    pub network: Network,
    counters: Counters,
    syn_window: Duration,
    program: TestProgram,
    board: Pinboard,
}

impl Kernel {
    /// Loads it with [`detached`] options.
    pub fn new() -> Result<Self> {
        Self::with(&detached())
    }

    /// Loads it.
    pub fn with(options: &AttachOptions) -> Result<Self> {
        let board = Pinboard::reserve()?;
        let attached = attach(board.pins(), options)?;
        ensure!(attached.attachments.is_empty(), "something was attached: {attached:?}");
        ensure!(attached.failures.is_empty(), "something failed: {attached:?}");
        let network = Network::open(board.pins())?;
        let program = TestProgram::open(board.pins())?;
        let (counters, syn_window) = (Counters::open(board.pins())?, options.syn.window);
        Ok(Self { network, counters, syn_window, program, board })
    }

    /// Opens the maps anew, as a daemon does at its start; what was in the hands
    /// of the last one is dropped as by its death.
    pub fn reopen(&mut self) -> Result<()> {
        self.network = Network::open(self.board.pins())?;
        Ok(())
    }

    /// Loads the program anew on the same maps, as an upgrade does. The maps
    /// stay open.
    pub fn reload(&mut self, options: &AttachOptions) -> Result<()> {
        attach(self.board.pins(), options)?;
        self.program = TestProgram::open(self.board.pins())?;
        self.syn_window = options.syn.window;
        Ok(())
    }

    /// Its pins.
    pub fn pins(&self) -> &Pins {
        self.board.pins()
    }

    /// Blocks an address for good.
    pub fn ban(&mut self, ip: impl Into<IpAddr>) -> Result<()> {
        self.ban_until(ip, BanEntry::NEVER)
    }

    /// Blocks an address until then, by `CLOCK_BOOTTIME`.
    pub fn ban_until(&mut self, ip: impl Into<IpAddr>, expires_at_ns: u64) -> Result<()> {
        let prefix = Prefix::from(Address::from(ip.into()));
        self.ban_prefix(prefix, expires_at_ns)
    }

    /// Blocks a prefix until then.
    pub fn ban_prefix(&mut self, prefix: Prefix, expires_at_ns: u64) -> Result<()> {
        Ok(self.network.block(prefix, BanEntry { expires_at_ns })?)
    }

    /// Makes this the operator's allowlist.
    pub fn allow(&mut self, prefixes: &[IpNet]) -> Result<()> {
        self.network.reconcile_allowlist(prefixes)?;
        Ok(())
    }

    /// Runs the program on a frame and says what it counted the frame as. An
    /// error if it was not counted exactly once, with all its bytes, or if the
    /// action is not the one that belongs to the reason.
    pub fn judge(&self, frame: &[u8]) -> Result<Reason> {
        let before = self.counters.all()?;
        let drops = self.program.drops(frame)?;
        let after = self.counters.all()?;
        let mut counted = before.into_iter().zip(after).filter(|(before, after)| before != after);
        let ((reason, before), (_, after)) = counted.next().context("the frame was not counted")?;
        ensure!(counted.next().is_none(), "the frame was counted under two reasons");
        let bytes = before.bytes + u64::try_from(frame.len())?;
        let expected = Counter { packets: before.packets + 1, bytes };
        ensure!(after == expected, "{reason:?} went from {before:?} to {after:?}");
        ensure!(drops == reason.drops(), "{reason:?}, but dropped: {drops}");
        Ok(reason)
    }

    /// Whether the program drops a frame, without a look at the counters.
    pub fn drops(&self, frame: &[u8]) -> Result<bool> {
        Ok(self.program.drops(frame)?)
    }

    /// Packets counted for a reason.
    pub fn packets(&self, reason: Reason) -> Result<u64> {
        Ok(self.counters.read(reason)?.packets)
    }

    /// How often that was lost or did not fit.
    pub fn alarms(&self, alarm: Alarm) -> Result<u64> {
        let all = alarms(self.pins())?;
        let found = all.into_iter().find(|(other, _)| *other == alarm);
        found.map(|(_, count)| count).context("there is no such alarm")
    }

    /// Connection attempts that are counted exactly, by source.
    pub fn attempts(&self) -> Result<Vec<(String, u64)>> {
        let now = Epoch::at(clock::monotonic_ns(), self.syn_window);
        let rates = Rates::open(self.pins(), Table::Heavy)?.busiest(usize::MAX, now)?;
        Ok(rates.into_iter().map(|rate| (rate.source, rate.count)).collect())
    }

    /// The same for one source, an address or a /64.
    pub fn attempts_of(&self, source: &str) -> Result<u64> {
        let attempts = self.attempts()?;
        Ok(attempts.iter().find(|(name, _)| name == source).map_or(0, |(_, count)| *count))
    }
}
