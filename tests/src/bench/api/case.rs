//! What two sides are asked over their sockets, and what each side's rounds came to. Who
//! they are, and what is to be reached, is not known here.

use std::time::Duration;

use anyhow::Result;

use super::super::report::Row;
use super::super::sample::Samples;
use super::load::{Load, Measured, Service, Sources};

/// Connections that each ask for one decision after the other.
const CONNECTIONS: [usize; 3] = [1, 8, MANY];
/// Where the goals are.
const MANY: usize = 64;
/// Decisions of a batch, and of a pipeline of the peer's.
const BATCH: usize = 64;
/// Connections that batches are sent over.
const BATCH_CONNECTIONS: usize = 8;
/// What one round of one case takes.
const ROUND: Duration = Duration::from_millis(700);

/// One load, and what each side's rounds of it came to.
pub(in crate::bench) struct Case {
    load: Load,
    pub(in crate::bench) ours: Rounds,
    pub(in crate::bench) theirs: Rounds,
}

#[derive(Default)]
pub(in crate::bench) struct Rounds {
    pub(in crate::bench) per_second: Samples,
    p50: Samples,
    pub(in crate::bench) p99: Samples,
}

impl Rounds {
    fn push(&mut self, measured: &Measured) {
        self.per_second.push(measured.per_second());
        self.p50.push(measured.latencies.percentile_us(50));
        self.p99.push(measured.latencies.percentile_us(99));
    }
}

impl Case {
    /// Single decisions over few and many connections, and batches.
    pub(in crate::bench) fn all() -> Vec<Self> {
        let loads = CONNECTIONS.map(|connections| Load { connections, batch: 1 });
        let batches = Load { connections: BATCH_CONNECTIONS, batch: BATCH };
        let case = |load| Self { load, ours: Rounds::default(), theirs: Rounds::default() };
        loads.into_iter().chain([batches]).map(case).collect()
    }

    /// In turn, so that whatever else the machine does slows both down.
    pub(in crate::bench) fn measure<O: Service, P: Service>(
        &mut self,
        (ours, sources): (&mut O, &mut Sources),
        (peer, its_sources): (&mut P, &mut Sources),
    ) -> Result<()> {
        self.ours.push(&self.load.run(ours, sources, ROUND)?);
        self.theirs.push(&self.load.run(peer, its_sources, ROUND)?);
        Ok(())
    }

    /// Whether whole batches are asked about.
    pub(in crate::bench) const fn is_batched(&self) -> bool {
        self.load.batch > 1
    }

    /// Whether it is the one that goals are about: single decisions over many connections.
    pub(in crate::bench) const fn is_of_many(&self) -> bool {
        !self.is_batched() && self.load.connections == MANY
    }

    pub(in crate::bench) fn rows(&self, peer: &'static str) -> [Row; 3] {
        let Load { connections, batch } = self.load;
        let name = if self.is_batched() {
            format!("batches_of_{batch}")
        } else {
            format!("{connections}")
        };
        let (ours, theirs) = (&self.ours, &self.theirs);
        let row = |what: &str, unit, ours, theirs| {
            Row::paired(format!("{what}_{name}"), unit, ours, (peer, theirs))
        };
        [
            row("decisions", "1/s", &ours.per_second, &theirs.per_second),
            row("p50", "us", &ours.p50, &theirs.p50),
            row("p99", "us", &ours.p99, &theirs.p99),
        ]
    }
}

/// By how much one side is ahead, round by round.
pub(in crate::bench) fn ratio(ours: &Samples, theirs: &Samples) -> f64 {
    ours.paired(theirs, |ours, theirs| ours / theirs).median()
}
