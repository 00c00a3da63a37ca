//! The demo: `demo [--json]`, as root. `cargo xtask demo` builds what it needs
//! and runs it; the story itself is the library's.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use moderation_tests::demo::{self, Audience, Report};
use moderation_tests::interrupt;

const FAILURE: u8 = 1;
/// EX_USAGE of sysexits(3).
const USAGE: u8 = 64;
/// EX_NOPERM of sysexits(3).
const NO_PERMISSION: u8 = 77;
/// What shells report of a process that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Shows the moderation system at work in a small internet of its own.
#[derive(Parser)]
struct Arguments {
    /// Print the result as one JSON object; the story goes to standard error.
    #[arg(long)]
    json: bool,
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
        eprintln!("demo: needs root, to make network namespaces and to load a kernel program");
        return NO_PERMISSION.into();
    }
    conclude(run(arguments.json)).into()
}

fn run(json: bool) -> Result<Report> {
    interrupt::watch()?;
    let audience = if json { Audience::Program } else { Audience::Person };
    let report = demo::play(audience)?;
    if json {
        let object = serde_json::to_string(&report)?;
        writeln!(std::io::stdout(), "{object}").context("cannot write the result")?;
    }
    Ok(report)
}

fn conclude(result: Result<Report>) -> u8 {
    match result {
        Ok(report) if report.shortcomings().is_empty() => 0,
        Ok(_) => FAILURE,
        Err(_) if interrupt::requested() => {
            eprintln!("demo: interrupted; everything is cleaned up");
            INTERRUPTED
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            FAILURE
        }
    }
}
