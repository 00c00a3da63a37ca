//! `cargo xtask test`: builds the programs and runs every test of the workspace, none
//! of which may be skipped for want of a server or of privilege. Needs root.

use std::process::ExitCode;

use anyhow::Result;

use crate::project::Project;
use crate::{exit_code, fallback, fuzz, mutants, package, setup, step, vm};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also run the tests that take minutes (sets MODERATION_TEST_LONG=1), and, unless
    /// there is a filter, fuzz the parser for a while, make the package twice without a
    /// network, build with Debian's compiler as if rustup's server were gone, and change
    /// the engine in every small way, to see that a test notices (over an hour)
    #[arg(long)]
    long: bool,
    /// Run only tests whose name contains one of these
    filter: Vec<String>,
}

/// Enough to notice a parser that has become a bad one; `cargo xtask fuzz` goes deeper.
const FUZZ_SECONDS: u32 = 20;

/// Runs the command.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure_for_test(project)?;
    step::heading("test: building the programs that the tests start");
    let (built, elapsed) = step::timed(|| build_programs(project));
    if !built? {
        eprintln!("test: the programs do not build");
        return Ok(ExitCode::FAILURE);
    }
    vm::pack_programs(project)?;
    step::heading(format!("test: built in {}; running the tests", step::spoken(elapsed)));
    let (passed, elapsed) = step::timed(|| run_tests(project, arguments));
    let passed = passed?;
    let goes_on = arguments.long && arguments.filter.is_empty();
    let passed = passed && (!goes_on || fuzz::fuzz(project, FUZZ_SECONDS)?);
    let passed = passed && (!goes_on || package::is_reproducible_offline(project)?);
    let passed = passed && (!goes_on || fallback::works(project)?);
    let passed = passed && (!goes_on || mutants::mutate(project, &[])?);
    let verdict = if passed { "passed" } else { "FAILED" };
    step::heading(format!("test: {verdict} after {}", step::spoken(elapsed)));
    Ok(exit_code(passed))
}

/// Builds all programs but the kernel's, which the daemon's build script builds. The
/// whole workspace, because that gives dependencies the features that they have in the
/// tests, so that they are compiled once.
pub(crate) fn build_programs(project: &Project) -> Result<bool> {
    let mut cargo = project.cargo();
    step::succeeds(cargo.args(["build", "--workspace", "--exclude", "moderation-ebpf", "--bins"]))
}

fn run_tests(project: &Project, arguments: &Arguments) -> Result<bool> {
    let mut cargo = project.cargo();
    cargo
        .env("MODERATION_REQUIRE_ALL", "1")
        .env("MODERATION_BIN_DIR", project.target().join("debug"))
        .args(["test", "--workspace", "--no-fail-fast"]);
    if arguments.long {
        cargo.env("MODERATION_TEST_LONG", "1");
    }
    step::succeeds(cargo.arg("--").args(&arguments.filter))
}
