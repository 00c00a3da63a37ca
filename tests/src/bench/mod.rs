//! The benchmarks: ours beside a peer's, in the same run and in turn, with the goals
//! that we set ourselves. They judge no correctness but this: whoever is measured was
//! seen to do its job first.

mod api;
mod bulk;
mod datapath;
mod engine;
mod latency;
mod nginx;
mod propagation;
mod sharing;

mod driver;
mod list;
mod machine;
mod ours;
mod report;
mod sample;
mod xdp_filter;

use anyhow::Result;

pub use engine::{Probe, probe};
pub use report::{Goal, Report, Row};

/// Which benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Nanoseconds that a packet costs, beside xdp-filter
    Datapath,
    /// Seconds that a million bans take, beside nft and ipset; and a daemon's restart with them
    Bulk,
    /// Milliseconds from an event to the first dropped packet, beside fail2ban
    Latency,
    /// Milliseconds from a ban on one host to the first dropped packet on another
    Propagation,
    /// Decisions per second over the socket, beside redis-server
    Api,
    /// Nanoseconds of a decision without a socket, beside the governor crate; bytes of a key
    Engine,
    /// Decisions per second that are counted in Redis, beside clients that count there themselves
    Redis,
    /// Requests per second through nginx, beside limit_req; lines of its log, beside fail2ban
    Nginx,
}

/// Runs a benchmark. What it made is gone when this returns, however it returns.
pub fn run(name: Name) -> Result<Report> {
    match name {
        Name::Datapath => datapath::run(),
        Name::Bulk => bulk::run(),
        Name::Latency => latency::run(),
        Name::Propagation => propagation::run(),
        Name::Api => api::run(),
        Name::Engine => engine::run(),
        Name::Redis => sharing::run(),
        Name::Nginx => nginx::run(),
    }
}
