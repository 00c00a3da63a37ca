//! `bench latency`: from an event on the socket to the first dropped packet of its
//! source; with no other bans, with a million, and while a million more are imported.
//! Beside fail2ban: from the line in the log to the first dropped packet. A ban is on disk
//! before it is in the kernel, so the disk is asked in each situation, while no bans are
//! timed, how long it takes to keep one page.

mod disk;
mod fail2ban;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use moderation_daemon::api::client::Client;

use super::list::{self, Language, MILLION};
use super::ours;
use super::report::{Goal, Report, Row};
use super::sample::{ROUNDS, Samples};
use crate::counter::KernelCounters;
use crate::daemon::{Daemon, Setup};
use crate::lab::{ABUSER_V4, INTERFACE, Lab};
use crate::namespace::Namespace;
use crate::range::Range;
use crate::times::{Times, milliseconds};
use disk::Disk;
use fail2ban::Fail2ban;

/// Bans timed in each case: enough for a 99th percentile.
const SAMPLES: usize = 350;
/// Where the indexes (see `moderation_ebpf::generator`) of the sources begin that are
/// banned one by one; those that are imported lie below.
const FIRST_SHOT: u32 = 1 << 25;
/// Room for what is imported and for the bans that are timed.
const CAPACITY: u32 = 4 * MILLION;

const PEER: &str = "fail2ban";

/// What stands when the bans are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    NoBans,
    Million,
    Importing,
}

impl Situation {
    const fn name(self) -> &'static str {
        match self {
            Self::NoBans => "0_bans",
            Self::Million => "1m_bans",
            Self::Importing => "importing_1m_more",
        }
    }

    /// Within which the 99th percentile is to be.
    const fn bound_ms(self) -> f64 {
        match self {
            Self::NoBans | Self::Million => 1.0,
            Self::Importing => 5.0,
        }
    }

    fn goal_name(self) -> String {
        format!("p99_ms_{}", self.name())
    }
}

/// Runs it.
pub(super) fn run() -> Result<Report> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    // What a build left to be written is not the daemon's affair.
    nix::unistd::sync();
    let lab = Lab::new()?;
    own_all(&lab.abuser, &lab.router, ABUSER_V4)?;
    let setup = Setup::new().inside(&lab.host).interface(INTERFACE).with_priority_of_unit();
    let daemon = setup.overrides(ours::configuration(CAPACITY)).start()?;
    let counters = KernelCounters::open(daemon.pin_root())?;
    let mut bench = Bench {
        range: Range::build(&lab, &counters)?,
        client: daemon.api(),
        daemon: &daemon,
        disk: Disk::beside(&daemon)?,
        next: FIRST_SHOT,
        rows: Vec::new(),
        goals: Vec::new(),
    };
    let peer = bench.beside_fail2ban()?;
    bench.full(folder.path(), &peer)?;
    Report::new("latency", bench.rows, bench.goals)
}

/// Has `end` own all addresses of the benchmarks' sources; `router` finds it there.
pub(super) fn own_all(end: &Namespace, router: &Namespace, end_address: Ipv4Addr) -> Result<()> {
    end.configure(&["route add local 32.0.0.0/3 dev lo"])?;
    router.configure(&[format!("route add 32.0.0.0/3 via {end_address}")])
}

/// What was measured in one situation.
#[derive(Default)]
struct Shots {
    bans: Vec<Duration>,
    /// What the disk took for a page.
    pages: Vec<Duration>,
}

struct Bench<'a> {
    range: Range<'a>,
    client: Client,
    daemon: &'a Daemon,
    disk: Disk,
    /// The next source that was never banned.
    next: u32,
    rows: Vec<Row>,
    goals: Vec<Goal>,
}

impl Bench<'_> {
    /// With no other bans, in turn with fail2ban; returns fail2ban's rounds.
    fn beside_fail2ban(&mut self) -> Result<Samples> {
        let mut peer = Fail2ban::start()?;
        let (mut ours, mut theirs) = (Shots::default(), Samples::default());
        for round in 0..ROUNDS {
            eprintln!("latency: without other bans, round {} of {ROUNDS}", round + 1);
            for _ in 0..SAMPLES / ROUNDS {
                ours.bans.push(self.shoot()?);
            }
            for _ in 0..SAMPLES / ROUNDS {
                ours.pages.push(self.disk.keep_a_page()?);
            }
            let source = self.source();
            theirs.push(milliseconds(peer.time(source).context(PEER)?));
        }
        self.conclude(Situation::NoBans, &ours, &theirs);
        Ok(theirs)
    }

    /// Among a million bans, and while a million more come in.
    fn full(&mut self, folder: &Path, peer: &Samples) -> Result<()> {
        eprintln!("latency: importing a million bans");
        ours::import(self.daemon, &list::write(folder, 0..MILLION, Language::Plain)?)?;
        eprintln!("latency: beside a million bans");
        let bans = (0..SAMPLES).map(|_| self.shoot()).collect::<Result<_>>()?;
        let pages = (0..SAMPLES).map(|_| self.disk.keep_a_page()).collect::<Result<_>>()?;
        self.conclude(Situation::Million, &Shots { bans, pages }, peer);
        let more = list::write(folder, MILLION..2 * MILLION, Language::Plain)?;
        eprintln!("latency: while a million more are imported");
        let bans = self.while_importing(&more, Self::shoot)?;
        let pages = self.while_importing(&more, |bench| bench.disk.keep_a_page())?;
        self.conclude(Situation::Importing, &Shots { bans, pages }, peer);
        Ok(())
    }

    /// Only what was begun while an import ran; where one is over before there are enough
    /// samples, the same list is imported again.
    fn while_importing(
        &mut self,
        list: &Path,
        sample: impl Fn(&mut Self) -> Result<Duration>,
    ) -> Result<Vec<Duration>> {
        let mut samples = Vec::new();
        while samples.len() < SAMPLES {
            let daemon = self.daemon;
            thread::scope(|scope| {
                let importing = scope.spawn(|| ours::import(daemon, list));
                while !importing.is_finished() {
                    samples.push(sample(self)?);
                }
                importing.join().map_err(|_| anyhow!("the import panicked"))?
            })?;
        }
        Ok(samples)
    }

    fn shoot(&mut self) -> Result<Duration> {
        let source = self.source();
        self.range.time(&mut self.client, source)
    }

    fn source(&mut self) -> IpAddr {
        self.next += 1;
        list::address(self.next)
    }

    fn conclude(&mut self, situation: Situation, shots: &Shots, peer: &Samples) {
        let name = situation.name();
        let times = |all: &[Duration]| all.iter().copied().collect::<Times>();
        let (bans, pages) = (times(&shots.bans), times(&shots.pages));
        for percent in [50, 99] {
            self.rows.push(Row::percentile(percent, name, &bans).beside(PEER, peer));
            self.rows.push(Row::percentile(percent, &format!("disk_{name}"), &pages));
        }
        let p99 = bans.percentile_ms(99);
        self.goals.push(Goal::below(&situation.goal_name(), situation.bound_ms(), p99));
    }
}
