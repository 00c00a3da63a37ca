//! The demo: `demo [--nginx] [--json]`, as root. `cargo xtask demo` builds what it needs
//! and runs it; the story itself is the library's.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use moderation_tests::demo::{self, Audience};
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
    /// With nothing but nginx in front of an app that is not changed.
    #[arg(long)]
    nginx: bool,
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
    conclude(run(&arguments)).into()
}

/// Plays the demo and says whether all came out as claimed.
fn run(arguments: &Arguments) -> Result<bool> {
    interrupt::watch()?;
    let audience = if arguments.json { Audience::Program } else { Audience::Person };
    let (report, shortcomings) = if arguments.nginx {
        let report = demo::nginx::play(audience)?;
        (serde_json::to_string(&report)?, report.shortcomings())
    } else {
        let report = demo::play(audience)?;
        (serde_json::to_string(&report)?, report.shortcomings())
    };
    if arguments.json {
        writeln!(std::io::stdout(), "{report}").context("cannot write the result")?;
    }
    Ok(shortcomings.is_empty())
}

fn conclude(result: Result<bool>) -> u8 {
    match result {
        Ok(true) => 0,
        Ok(false) => FAILURE,
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
