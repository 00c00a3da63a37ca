//! The project's chores, run as `cargo xtask COMMAND`: this file only parses the
//! command line and turns the outcome into an exit code. It must build before
//! `cargo xtask setup` has run, so it depends on no other crate of the project.

mod bench;
mod check;
mod debian;
mod demo;
mod fallback;
mod fuzz;
mod mongod;
mod mutants;
mod npm;
mod package;
mod project;
mod setup;
mod step;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use project::Project;

/// `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;
/// `EX_NOPERM` of sysexits.h.
const EXIT_NO_PERMISSION: u8 = 77;

/// Set-up, tests, checks, fuzzing, benchmarks, the demo and the package of this project.
#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    after_help = "Exit codes: 0 success, 1 failure, 64 wrong usage, 77 root is needed."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building and testing need (build tools go to .tools)
    Setup(setup::Arguments),
    /// Run every check that a change must pass but the tests: format, lints, tidy, docs
    Check(check::Arguments),
    /// Build everything and run all tests (needs root)
    Test(test::Arguments),
    /// Install the package on real Debian machines under qemu, and live with it (needs root)
    TestVm(vm::Arguments),
    /// Show bans take effect on real packets, in throw-away network namespaces (needs root)
    Demo(demo::Arguments),
    /// Measure this system beside its peers (needs root)
    Bench(bench::Arguments),
    /// Fuzz the parser of the kernel programs, compiled for the host
    Fuzz(fuzz::Arguments),
    /// Change the engine in every small way, and tell what no test notices
    Mutants(mutants::Arguments),
    /// Make the Debian package, target/package/moderation_VERSION_ARCH.deb
    Package(package::Arguments),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    match run(&arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints help where it was asked for, or what is wrong with the command line.
fn refuse(error: &clap::Error) -> ExitCode {
    // Where even the message cannot be printed, the exit code still tells.
    drop(error.print());
    if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
}

fn run(command: &Command) -> Result<ExitCode> {
    let project = Project::locate()?;
    match command {
        Command::Setup(arguments) => setup::run(&project, arguments),
        Command::Check(arguments) => Ok(check::run(&project, arguments)),
        Command::Test(arguments) => as_root("test", || test::run(&project, arguments)),
        Command::TestVm(arguments) => as_root("test-vm", || vm::run(&project, arguments)),
        Command::Demo(arguments) => as_root("demo", || demo::run(&project, arguments)),
        Command::Fuzz(arguments) => fuzz::run(&project, arguments),
        Command::Mutants(arguments) => mutants::run(&project, arguments),
        Command::Package(arguments) => package::run(&project, arguments),
        Command::Bench(arguments) => as_root("bench", || bench::run(&project, arguments)),
    }
}

/// Runs `action` when the user is root; otherwise says how to become it.
fn as_root(command: &str, action: impl FnOnce() -> Result<ExitCode>) -> Result<ExitCode> {
    if nix::unistd::geteuid().is_root() {
        return action();
    }
    eprintln!(
        "error: cargo xtask {command} needs root: it makes network namespaces and attaches XDP programs; run:\n  \
         sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask {command}"
    );
    Ok(ExitCode::from(EXIT_NO_PERMISSION))
}

/// The exit code of a command that reports success or failure and has said why.
fn exit_code(succeeded: bool) -> ExitCode {
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
