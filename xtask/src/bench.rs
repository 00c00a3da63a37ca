//! `cargo xtask bench NAME`: builds the release programs and becomes the benchmark, which
//! lives in the `tests` package and cleans up after itself. Needs root.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::project::Project;
use crate::{setup, step};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure
    #[arg(value_enum)]
    name: Name,
    /// Print the result as one JSON object, the last line on standard output
    #[arg(long)]
    json: bool,
}

/// The benchmarks that the `bench` program knows.
#[derive(Clone, Copy, ValueEnum)]
enum Name {
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

impl Name {
    fn argument(self) -> String {
        self.to_possible_value().expect("none is hidden").get_name().to_owned()
    }
}

/// Runs the command; on success it does not return, since the benchmark takes over this
/// process.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure_for_bench(project)?;
    step::heading("bench: building the release programs");
    ensure!(build(project)?, "the programs do not build");
    let programs = project.target().join("release");
    let path = programs.join("bench");
    let mut bench = project.command(&path);
    bench.env("MODERATION_BIN_DIR", &programs).arg(arguments.name.argument());
    if arguments.json {
        bench.arg("--json");
    }
    // In place of this process, so that Ctrl-C reaches the benchmark and nothing but it.
    Err(bench.exec()).with_context(|| format!("cannot start {}", path.display()))
}

fn build(project: &Project) -> Result<bool> {
    let mut cargo = project.cargo();
    cargo
        .args(["build", "--release"])
        .args(["--package", "moderation-daemon", "--package", "moderation-tests"])
        .args(["--bin", "moderationd", "--bin", "moderationctl", "--bin", "bench"]);
    step::succeeds(&mut cargo)
}
