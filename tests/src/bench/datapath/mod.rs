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
use super::sample::{ROUNDS, Samples};
use super::xdp_filter::XdpFilter;
use crate::interrupt;
use case::{Case, Family, LEVELS};
use goals::Measured;

/// Packets a round, at most; each side's in turn, slice by slice, so that whatever else
/// goes on in the machine meets both alike.
const PACKETS: u32 = 1_000_000;
const SLICES: u32 = 10;
/// Enough for what costs a few nanoseconds and touches next to no memory.
const IDLE_PACKETS: u32 = 200_000;
/// A round of slow packets ends early, so that all rows take a few minutes together.
const BUDGET: Duration = Duration::from_millis(150);
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
                let row = bench.measure(&case).with_context(|| case.name())?;
                measured.push(Measured { case, row });
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
    idle: Driver,
    theirs: Driver,
    their_idle: Driver,
}

impl Bench {
    fn new(filter: &Filter, peer: &mut XdpFilter) -> Result<Self> {
        Ok(Self {
            ours: Driver::before(filter.program(), Flavour::Frags).context("ours")?,
            idle: Driver::before_nothing(Flavour::Frags)?,
            theirs: Driver::before(peer.program()?, Flavour::Plain).context("xdp-filter")?,
            their_idle: Driver::before_nothing(Flavour::Plain)?,
        })
    }

    fn measure(&mut self, case: &Case) -> Result<Row> {
        let frame = case.frame();
        self.aim(case)?;
        self.verify(case, &frame)?;
        self.ours.cost(&frame, case.forerunners(), case.expected())?;
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        // The first round warms up, and is thrown away.
        for round in 0..=ROUNDS {
            interrupt::check()?;
            let (our_cost, their_cost) = self.round(case, &frame)?;
            if round > 0 {
                ours.push(our_cost);
                theirs.push(their_cost);
            }
        }
        Ok(Row::alone(case.name(), "ns", &ours).beside(case.peer(), &theirs))
    }

    fn aim(&mut self, case: &Case) -> Result<()> {
        for driver in [&mut self.ours, &mut self.idle] {
            driver.draw_from(case.ours())?;
        }
        for driver in [&mut self.theirs, &mut self.their_idle] {
            driver.draw_from(case.theirs())?;
        }
        Ok(())
    }

    /// Neither side is measured at something that it does not do.
    fn verify(&self, case: &Case, frame: &[u8]) -> Result<()> {
        for (name, driver) in [("ours", &self.ours), ("xdp-filter", &self.theirs)] {
            for _ in 0..TRIALS {
                let action = driver.once(frame)?;
                ensure!(action == case.expected(), "{name}: a packet met with {action:?}");
            }
        }
        Ok(())
    }

    fn round(&self, case: &Case, frame: &[u8]) -> Result<(f64, f64)> {
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        let begin = Instant::now();
        for _ in 0..SLICES {
            let cost = |driver: &Driver, packets: u32, expected| {
                driver.cost(frame, packets / SLICES, expected)
            };
            let idle = cost(&self.idle, IDLE_PACKETS, Action::Pass)?;
            ours.push(cost(&self.ours, PACKETS, case.expected())? - idle);
            let idle = cost(&self.their_idle, IDLE_PACKETS, Action::Pass)?;
            theirs.push(cost(&self.theirs, PACKETS, case.expected())? - idle);
            if begin.elapsed() > BUDGET {
                break;
            }
        }
        Ok((ours.mean(), theirs.mean()))
    }
}
