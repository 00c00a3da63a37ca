//! `bench engine`: what a decision takes in the engine alone, by how many keys there are,
//! beside the `governor` crate; and what a key takes up. Nothing is sent, nothing is
//! written down. Both sides were seen to allow and to deny before.

mod governor;
mod keys;
mod memory;
mod ours;

use std::time::Duration;

use anyhow::{Result, ensure};

use super::report::{Goal, Report, Row};
use super::sample::{ROUNDS, Samples};
use crate::interrupt;
use governor::Peer;
use keys::{By, Keys};
use ours::Ours;

pub use memory::{Probe, probe};

/// How many keys there are.
const SIZES: [(&str, usize); 3] = [("1k", 1_000), ("100k", 100_000), ("1m", 1_000_000)];
/// Decisions of a batch.
const BATCHES: [usize; 2] = [1, CHUNK];
/// Decisions that are timed together, and made ready before.
const CHUNK: usize = 64;
/// Decisions of a round, at least.
const DECISIONS: usize = 250_000;
/// How often each key is asked about in a window of a minute, which both sides allow.
const TIMES: usize = 20;

const OWN_CLOCK: &str = "governor, its own clock";
const FAKE_CLOCK: &str = "governor, a clock that stands";

/// Something that decides.
trait Limiter {
    /// Decides about each of them; says how long that took, and how many were denied.
    fn decide(&mut self, keys: &Keys, chunk: &[u32]) -> (Duration, usize);
}

pub(super) fn run() -> Result<Report> {
    let (mut rows, mut goals) = memory::measure()?;
    for by in [By::Address, By::User] {
        ours::judge(by)?;
        governor::judge(by)?;
    }
    for (size, count) in SIZES {
        let cases = [By::Address, By::User].map(|by| Case::measure(by, size, count));
        let cases = cases.into_iter().collect::<Result<Vec<_>>>()?;
        rows.extend(cases.iter().flat_map(Case::rows));
        goals.extend(conclude(size, &cases));
    }
    let both = Both::measure("1m", 1_000_000)?;
    rows.push(both);
    Report::new("engine", rows, goals)
}

/// Every key in an order that is another one each time.
fn pass(limiter: &mut impl Limiter, keys: &mut Keys) -> Result<f64> {
    keys.shuffle();
    let (mut took, mut decisions) = (Duration::ZERO, 0);
    while decisions < DECISIONS {
        for chunk in keys.order().chunks_exact(CHUNK) {
            let (time, denied) = limiter.decide(keys, chunk);
            ensure!(denied == 0, "{denied} of {CHUNK} were denied that are within their limits");
            took += time;
            decisions += CHUNK;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "some hundred milliseconds")]
    let ns = took.as_nanos() as f64 / decisions as f64;
    Ok(ns)
}

/// One size and kind of keys, and what the rounds came to.
struct Case {
    name: String,
    ours: [Samples; BATCHES.len()],
    own_clock: Samples,
    fake_clock: Samples,
}

impl Case {
    fn measure(by: By, size: &str, count: usize) -> Result<Self> {
        let name = format!("{}_{size}", by.name());
        let mut keys = Keys::new(by, count);
        let mut ours = Ours::new(by, count);
        let (mut own, mut fake) = (Peer::new(by)?, Peer::with_fake_clock(by));
        eprintln!("engine: filling {name}");
        for _ in 0..TIMES {
            // As many times as each is asked about in a window.
            fill(&mut ours, &mut keys);
        }
        fill(&mut own, &mut keys);
        fill(&mut fake, &mut keys);
        let mut case = Self {
            name,
            ours: [Samples::default(), Samples::default()],
            own_clock: Samples::default(),
            fake_clock: Samples::default(),
        };
        for round in 0..ROUNDS {
            interrupt::check()?;
            eprintln!("engine: {}, round {} of {ROUNDS}", case.name, round + 1);
            for (batch, samples) in BATCHES.into_iter().zip(&mut case.ours) {
                ours.set_batch(batch);
                samples.push(pass(&mut ours, &mut keys)?);
            }
            case.own_clock.push(pass(&mut own, &mut keys)?);
            case.fake_clock.push(pass(&mut fake, &mut keys)?);
        }
        Ok(case)
    }

    fn rows(&self) -> Vec<Row> {
        let beside = |peer, theirs: &Samples| {
            let row = |(batch, ours): (usize, &Samples)| {
                let case = format!("{}_batch_{batch}", self.name);
                Row::paired(case, "ns", ours, (peer, theirs))
            };
            BATCHES.into_iter().zip(&self.ours).map(row).collect::<Vec<_>>()
        };
        [beside(OWN_CLOCK, &self.own_clock), beside(FAKE_CLOCK, &self.fake_clock)].concat()
    }

    fn ratio(&self, batch: usize) -> f64 {
        self.ours[batch].paired(&self.own_clock, |ours, theirs| ours / theirs).median()
    }
}

fn fill(limiter: &mut impl Limiter, keys: &mut Keys) {
    keys.shuffle();
    for chunk in keys.order().chunks(CHUNK) {
        limiter.decide(keys, chunk);
    }
}

/// The worse of address and user.
fn conclude(size: &str, cases: &[Case]) -> Vec<Goal> {
    let goal = |(place, batch): (usize, usize)| {
        let worst = cases.iter().map(|case| case.ratio(place)).fold(f64::NEG_INFINITY, f64::max);
        Goal::below(&format!("batch_{batch}_vs_governor_{size}"), 1.0, worst)
    };
    BATCHES.into_iter().enumerate().map(goal).collect()
}

/// A user at an address, which is what most requests are: nothing that the peer knows.
struct Both;

impl Both {
    fn measure(size: &str, count: usize) -> Result<Row> {
        let mut keys = Keys::new(By::Both, count);
        let mut ours = Ours::new(By::Both, count);
        for _ in 0..TIMES {
            fill(&mut ours, &mut keys);
        }
        ours.set_batch(CHUNK);
        let mut samples = Samples::default();
        for _ in 0..ROUNDS {
            interrupt::check()?;
            samples.push(pass(&mut ours, &mut keys)?);
        }
        Ok(Row::alone(format!("user_at_address_{size}_batch_{CHUNK}"), "ns", &samples))
    }
}
