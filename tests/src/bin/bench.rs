//! The benchmarks: `bench NAME [--json]`, as root. `cargo xtask bench` builds what they
//! need and runs them; what they measure is the library's affair.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use moderation_tests::bench::{self, Name, Probe};
use moderation_tests::interrupt;

const FAILURE: u8 = 1;
/// EX_USAGE of sysexits(3).
const USAGE: u8 = 64;
/// EX_NOPERM of sysexits(3).
const NO_PERMISSION: u8 = 77;
/// What shells report of a process that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Measures this system beside its peers. A goal that is not met is told, and is no
/// failure of the benchmark.
#[derive(Parser)]
struct Arguments {
    /// What to measure
    #[arg(value_enum)]
    name: Name,
    /// Print the result as one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Only this part of `engine`, in this process: the benchmark starts itself with it
    #[arg(long, hide = true)]
    probe: Option<Probe>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(message) => {
            let code = if message.use_stderr() { USAGE } else { 0 };
            return message.print().map_or(FAILURE, |()| code).into();
        }
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("bench: needs root, to load kernel programs and to make network namespaces");
        return NO_PERMISSION.into();
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupt::requested() => {
            eprintln!("bench: interrupted; everything is cleaned up");
            INTERRUPTED.into()
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            FAILURE.into()
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    interrupt::watch()?;
    if let Some(probe) = arguments.probe {
        let bytes = bench::probe(probe)?;
        return writeln!(std::io::stdout(), "{bytes}").context("cannot write the result");
    }
    let report = bench::run(arguments.name)?;
    let text = if arguments.json {
        serde_json::to_string(&report)?
    } else {
        report.to_string().trim_end().to_owned()
    };
    writeln!(std::io::stdout(), "{text}").context("cannot write the result")
}
