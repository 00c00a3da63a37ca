//! Run as another user by the reaper's tests: takes one peer for banned, goes
//! through two rounds and prints how many connections were closed.

use std::net::IpAddr;

use anyhow::Result;
use clap::Parser;
use moderation_daemon::network::{Connections, Reaper};

#[derive(Debug, Parser)]
struct Arguments {
    /// Whose connections to close
    peer: IpAddr,
}

fn main() -> Result<()> {
    let Arguments { peer } = Arguments::parse();
    let (mut connections, mut reaper) = (Connections::open()?, Reaper::default());
    for _ in 0..2 {
        reaper.reap(&mut connections, |it| it.peer().ip() == peer).result?;
    }
    println!("{}", reaper.closed());
    Ok(())
}
