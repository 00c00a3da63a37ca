//! `bench api`: decisions per second and how long one takes, over the app's socket;
//! beside a rate limiter in redis-server, asked by the same loader over a Unix socket.
//! Both were seen to allow and to deny before.

pub(super) mod load;
pub(super) mod ours;
pub(super) mod redis;

use std::time::Duration;

use anyhow::Result;

use self::redis::Redis;
use super::report::{Goal, Report, Row};
use super::sample::{ROUNDS, Samples};
use crate::interrupt;
use load::{Load, Measured, Sources};
use ours::Ours;

/// Connections that each ask for one decision after the other.
const CONNECTIONS: [usize; 3] = [1, 8, 64];
/// Where the goals are.
const MANY: usize = 64;
/// Decisions of a batch, and of a pipeline of the peer's.
const BATCH: usize = 64;
/// Connections that batches are sent over.
const BATCH_CONNECTIONS: usize = 8;
/// What one round of one case takes.
const ROUND: Duration = Duration::from_millis(700);

const PEER: &str = "redis-server, EVALSHA";
const PIPELINED: &str = "redis-server, EVALSHA in pipelines";

pub(super) fn run() -> Result<Report> {
    let mut ours = Ours::start()?;
    let mut peer = Redis::start()?;
    load::judge(&mut ours)?;
    load::judge(&mut peer)?;
    let loads = CONNECTIONS.map(|connections| Load { connections, batch: 1 });
    let batches = Load { connections: BATCH_CONNECTIONS, batch: BATCH };
    let mut cases: Vec<Case> = loads.into_iter().chain([batches]).map(Case::new).collect();
    let (mut of_ours, mut of_theirs) = (Sources::default(), Sources::default());
    for round in 0..ROUNDS {
        eprintln!("api: round {} of {ROUNDS}", round + 1);
        for case in &mut cases {
            interrupt::check()?;
            case.measure((&mut ours, &mut of_ours), (&mut peer, &mut of_theirs))?;
        }
    }
    let (rows, goals) = conclude(&cases);
    Report::new("api", rows, goals)
}

/// Asks a daemon once about so many sources, a user each, and has a look at its process.
pub(super) fn with_sources<T>(count: u32, look: impl FnOnce(u32) -> Result<T>) -> Result<T> {
    let mut daemon = Ours::start()?;
    load::once(&mut daemon, count)?;
    look(daemon.pid()?)
}

/// One load, and what each side's rounds of it came to.
struct Case {
    load: Load,
    ours: Rounds,
    theirs: Rounds,
}

#[derive(Default)]
struct Rounds {
    per_second: Samples,
    p50: Samples,
    p99: Samples,
}

impl Rounds {
    fn push(&mut self, measured: &Measured) {
        self.per_second.push(measured.per_second());
        self.p50.push(measured.percentile_us(50));
        self.p99.push(measured.percentile_us(99));
    }
}

impl Case {
    fn new(load: Load) -> Self {
        Self { load, ours: Rounds::default(), theirs: Rounds::default() }
    }

    /// In turn, so that whatever else the machine does slows both down.
    fn measure(
        &mut self,
        (ours, sources): (&mut Ours, &mut Sources),
        (peer, its_sources): (&mut Redis, &mut Sources),
    ) -> Result<()> {
        self.ours.push(&self.load.run(ours, sources, ROUND)?);
        self.theirs.push(&self.load.run(peer, its_sources, ROUND)?);
        Ok(())
    }

    fn rows(&self) -> [Row; 3] {
        let Load { connections, batch } = self.load;
        let (name, peer) = match batch {
            1 => (format!("{connections}"), PEER),
            batch => (format!("batches_of_{batch}"), PIPELINED),
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

fn conclude(cases: &[Case]) -> (Vec<Row>, Vec<Goal>) {
    let mut rows: Vec<Row> = cases.iter().flat_map(Case::rows).collect();
    let mut goals = Vec::new();
    let ratio = |ours: &Samples, theirs: &Samples| {
        ours.paired(theirs, |ours, theirs| ours / theirs).median()
    };
    let many = cases.iter().find(|case| case.load.batch == 1 && case.load.connections == MANY);
    let batches = cases.iter().find(|case| case.load.batch > 1);
    if let (Some(many), Some(batches)) = (many, batches) {
        let (single, theirs) = (&many.ours.per_second, &many.theirs.per_second);
        goals.push(Goal::at_least("single_vs_redis_64", 1.0, ratio(single, theirs)));
        let p99 = ratio(&many.ours.p99, &many.theirs.p99);
        goals.push(Goal::below("single_p99_vs_redis_64", 1.0, p99));
        let batched = &batches.ours.per_second;
        rows.push(Row::paired("decisions_batched_64", "1/s", batched, (PEER, theirs)));
        goals.push(Goal::at_least("batches_vs_redis_64", 5.0, ratio(batched, theirs)));
    }
    (rows, goals)
}
