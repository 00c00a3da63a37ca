//! Run by the tests of handshakes: moves into a control group, then accepts
//! connections at the given addresses until it is killed. It answers nobody.

use std::net::TcpListener;
use std::path::PathBuf;
use std::{fs, process, thread};

use anyhow::{Context, Result};
use clap::Parser;

#[derive(Debug, Parser)]
struct Arguments {
    /// The control group's folder
    group: PathBuf,
    /// Where to listen, in this order
    addresses: Vec<String>,
}

fn main() -> Result<()> {
    let Arguments { group, addresses } = Arguments::parse();
    fs::write(group.join("cgroup.procs"), process::id().to_string())
        .with_context(|| format!("cannot move into {}", group.display()))?;
    let listeners = addresses.into_iter().map(|address| {
        let what = format!("cannot listen at {address}");
        TcpListener::bind(address).context(what)
    });
    let threads: Vec<_> = listeners
        .map(|listener| {
            let listener = listener?;
            Ok(thread::spawn(move || listener.incoming().for_each(drop)))
        })
        .collect::<Result<_>>()?;
    for thread in threads {
        assert!(thread.join().is_ok(), "a thread panicked");
    }
    Ok(())
}
