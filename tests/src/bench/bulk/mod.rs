//! `bench bulk`: a million bans from a file into the kernel, beside `nft -f` and
//! `ipset restore` of the same million; and a daemon with as many, restarted.

mod peer;
mod restart;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::list::{self, Language, MILLION};
use super::ours::Filter;
use super::report::{Goal, Report, Row};
use super::sample::{ROUNDS, Samples};
use crate::interrupt;
use crate::lab::Pair;
use peer::Peer;

/// The bans' indexes (see `moderation_ebpf::generator`).
const INDEXES: std::ops::Range<u32> = 0..MILLION;

/// Runs it.
pub(super) fn run() -> Result<Report> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let (mut rows, mut goals) = into_the_kernel(folder.path())?;
    let plain = list::write(folder.path(), INDEXES, Language::Plain)?;
    let (more_rows, more_goals) = restart::measure(&plain).context("the restart of a daemon")?;
    rows.extend(more_rows);
    goals.extend(more_goals);
    Report::new("bulk", rows, goals)
}

/// From a file that was just written, and so is in memory, for all three.
fn into_the_kernel(folder: &Path) -> Result<(Vec<Row>, Vec<Goal>)> {
    let place = Pair::new()?;
    let plain = list::write(folder, INDEXES, Language::Plain)?;
    let peers = [Peer::Nft, Peer::Ipset];
    let mut lists = Vec::new();
    for peer in peers {
        lists.push(list::write(folder, INDEXES, peer.language())?);
    }
    let mut ours = Samples::default();
    let mut theirs = [Samples::default(), Samples::default()];
    for round in 0..ROUNDS {
        interrupt::check()?;
        eprintln!("bulk: a million bans into the kernel, round {} of {ROUNDS}", round + 1);
        ours.push(load(&plain)?);
        for ((peer, list), theirs) in peers.iter().zip(&lists).zip(&mut theirs) {
            let took = peer.load(&place.client, list, list::address(MILLION - 1))?;
            theirs.push(took.as_secs_f64());
        }
    }
    let beside = |(peer, theirs): (&Peer, &Samples)| {
        Row::paired("1m_into_the_kernel", "s", &ours, (peer.name(), theirs))
    };
    let rows: Vec<Row> = peers.iter().zip(&theirs).map(beside).collect();
    let goals = rows.iter().zip(["nft", "ipset"]).map(|(row, peer)| {
        let name = format!("into_the_kernel_vs_{peer}");
        Goal::below(&name, 1.0, row.ratio.unwrap_or(f64::NAN))
    });
    let goals = goals.collect();
    Ok((rows, goals))
}

/// Loading the program and making the maps is part of it, as making the set is for the
/// peers.
fn load(list: &Path) -> Result<f64> {
    let begin = Instant::now();
    let mut filter = Filter::load()?;
    filter.ban_listed(list)?;
    let took = begin.elapsed().as_secs_f64();
    let last = list::address(MILLION - 1);
    ensure!(filter.holds(last)?, "the kernel does not hold {last}");
    Ok(took)
}
