//! `bench datapath`: what a packet costs, by `BPF_PROG_TEST_RUN`, beside xdp-filter with
//! two rules on the same frames. What the driver and the kernel's loop cost by
//! themselves is measured in the same rounds and taken off both sides.

mod case;
mod goals;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::driver::{Action, Driver, Flavour};
use super::ours::Filter;
use super::report::{Report, Row};
use super::sample::Samples;
use super::xdp_filter::XdpFilter;
use crate::interrupt;
use case::{Case, Family, LEVELS};
use goals::Measured;

/// The other benchmarks' rounds last seconds; these are short, and so are more.
const ROUNDS: usize = 11;
/// Packets a round, at most; each side's in turn, slice by slice, so that whatever else
/// goes on in the machine meets both alike.
const PACKETS: u32 = 1_000_000;
const SLICES: u32 = 10;
/// A round of slow packets ends early, so that all rows take a few minutes together.
const BUDGET: Duration = Duration::from_millis(100);
/// Packets looked at one by one before a case is measured.
const TRIALS: usize = 64;

/// Runs it.
pub(super) fn run() -> Result<Report> {
    stay_on_one_cpu()?;
    let mut peer = XdpFilter::denying(&case::denied())?;
    let mut measured = Vec::new();
    for family in [Family::V4, Family::V6] {
        let mut filter = Filter::load()?;
        filter.allow(&case::allowlist(family))?;
        let mut bench = Bench::new(&filter, &mut peer)?;
        let mut present = 0;
        for bans in LEVELS {
            let begin = Instant::now();
            filter.ban(case::banned(family, present, bans))?;
            present = bans;
            eprintln!("datapath: {family:?}, {bans} bans (filled in {:.1?})", begin.elapsed());
            for case in Case::all(family, bans) {
                measured.push(bench.measure(case).with_context(|| case.name())?);
            }
        }
    }
    let goals = goals::of(&measured);
    let rows = measured.into_iter().map(|one| one.row).collect();
    Report::new("datapath", rows, goals)
}

/// Caches and per-CPU maps are then the same ones in all rounds.
fn stay_on_one_cpu() -> Result<()> {
    let last = std::thread::available_parallelism()?.get() - 1;
    let mut one = CpuSet::new();
    one.set(last)?;
    sched_setaffinity(Pid::from_raw(0), &one).context("cannot stay on one CPU")
}

/// The programs to compare, each behind a driver of its flavour, and what the drivers
/// alone cost.
struct Bench {
    ours: Driver,
    /// Ours for a single source that opens millions of connections.
    patient: Driver,
    idle: Driver,
    theirs: Driver,
    their_idle: Driver,
}

impl Bench {
    fn new(filter: &Filter, peer: &mut XdpFilter) -> Result<Self> {
        Ok(Self {
            ours: Driver::before(filter.program(), Flavour::Frags).context("ours")?,
            patient: Driver::before(filter.patient(), Flavour::Frags).context("ours")?,
            idle: Driver::before_nothing(Flavour::Frags)?,
            theirs: Driver::before(peer.program()?, Flavour::Plain).context("xdp-filter")?,
            their_idle: Driver::before_nothing(Flavour::Plain)?,
        })
    }

    fn measure(&mut self, case: Case) -> Result<Measured> {
        let frame = case.frame();
        self.aim(&case)?;
        self.verify(&case, &frame)?;
        self.ours(&case).cost(&frame, case.forerunners(), case.expected())?;
        let mut costs = Costs::default();
        // The first round warms up, and is thrown away.
        self.round(&case, &frame)?;
        for _ in 0..ROUNDS {
            interrupt::check()?;
            let round = self.round(&case, &frame)?;
            costs.ours.push(round.ours.median());
            costs.theirs.push(round.theirs.median());
            costs.without_syn.push(round.without_syn.median());
        }
        let Costs { ours, theirs, without_syn } = costs;
        let extra = ours.paired(&without_syn, |syn, plain| syn - plain).median();
        let row = Row::paired(case.name(), "ns", &ours, (case.peer(), &theirs));
        Ok(Measured { case, row, syn_extra: case.without_syn().map(|_| extra) })
    }

    const fn ours(&self, case: &Case) -> &Driver {
        if case.is_hasty() { &self.patient } else { &self.ours }
    }

    fn aim(&mut self, case: &Case) -> Result<()> {
        for driver in [&mut self.ours, &mut self.patient, &mut self.idle] {
            driver.draw_from(case.ours())?;
        }
        for driver in [&mut self.theirs, &mut self.their_idle] {
            driver.draw_from(case.theirs())?;
        }
        Ok(())
    }

    /// Neither side is measured at something that it does not do.
    fn verify(&self, case: &Case, frame: &[u8]) -> Result<()> {
        for (name, driver) in [("ours", self.ours(case)), ("xdp-filter", &self.theirs)] {
            for _ in 0..TRIALS {
                let action = driver.once(frame)?;
                ensure!(action == case.expected(), "{name}: a packet met with {action:?}");
            }
        }
        Ok(())
    }

    /// Slice by slice, each with its own driver's cost taken off.
    fn round(&self, case: &Case, frame: &[u8]) -> Result<Costs> {
        let mut costs = Costs::default();
        let without_syn = case.without_syn();
        let begin = Instant::now();
        for _ in 0..SLICES {
            let cost = |driver: &Driver, frame: &[u8], expected| {
                driver.cost(frame, PACKETS / SLICES, expected)
            };
            let idle = cost(&self.idle, frame, Action::Pass)?;
            costs.ours.push(cost(self.ours(case), frame, case.expected())? - idle);
            if let Some(frame) = &without_syn {
                costs.without_syn.push(cost(self.ours(case), frame, Action::Pass)? - idle);
            }
            let idle = cost(&self.their_idle, frame, Action::Pass)?;
            costs.theirs.push(cost(&self.theirs, frame, case.expected())? - idle);
            if begin.elapsed() > BUDGET {
                break;
            }
        }
        Ok(costs)
    }
}

/// Nanoseconds a packet.
#[derive(Default)]
struct Costs {
    ours: Samples,
    theirs: Samples,
    /// Ours again, of the same packet without its SYN.
    without_syn: Samples,
}
