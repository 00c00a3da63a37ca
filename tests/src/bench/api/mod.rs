//! `bench api`: decisions per second and how long one takes, over the app's socket;
//! beside a rate limiter in redis-server, asked by the same loader over a Unix socket.
//! Both were seen to allow and to deny before.

pub(super) mod case;
pub(super) mod load;
pub(super) mod ours;
pub(super) mod redis;

use anyhow::Result;

use self::redis::Redis;
use super::report::{Goal, Report, Row};
use super::sample::ROUNDS;
use crate::interrupt;
use case::{Case, ratio};
use load::Sources;
use ours::Ours;

const PEER: &str = "redis-server, EVALSHA";
const PIPELINED: &str = "redis-server, EVALSHA in pipelines";

pub(super) fn run() -> Result<Report> {
    let mut ours = Ours::start()?;
    let mut peer = Redis::start()?;
    load::judge(&mut ours)?;
    load::judge(&mut peer)?;
    let mut cases = Case::all();
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

fn conclude(cases: &[Case]) -> (Vec<Row>, Vec<Goal>) {
    let peer = |case: &Case| if case.is_batched() { PIPELINED } else { PEER };
    let mut rows: Vec<Row> = cases.iter().flat_map(|case| case.rows(peer(case))).collect();
    let mut goals = Vec::new();
    let many = cases.iter().find(|case| case.is_of_many());
    let batches = cases.iter().find(|case| case.is_batched());
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
