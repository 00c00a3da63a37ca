//! The benchmarks: ours beside a peer's, in the same run and in turn, with the goals
//! that we set ourselves. They judge no correctness but this: whoever is measured was
//! seen to do its job first.

mod datapath;
mod driver;
mod machine;
mod ours;
mod report;
mod sample;
mod xdp_filter;

use anyhow::Result;

pub use report::{Goal, Report, Row};

/// Which benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Nanoseconds that a packet costs, beside xdp-filter
    Datapath,
}

/// Runs a benchmark. What it made is gone when this returns, however it returns.
pub fn run(name: Name) -> Result<Report> {
    match name {
        Name::Datapath => datapath::run(),
    }
}
