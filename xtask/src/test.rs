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
    /// Of what --long runs only this; can be given several times
    #[arg(long, requires = "long", conflicts_with = "filter")]
    only: Vec<Part>,
    /// Run only tests whose name contains one of these
    filter: Vec<String>,
}

/// What `--long` runs, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The tests of the workspace
    Tests,
    /// Fuzzing of the parser
    Fuzz,
    /// The package, made twice without a network
    Package,
    /// A build with Debian's compiler
    Fallback,
    /// Changes of the engine
    Mutants,
}

impl Part {
    const ALL: [Self; 5] = [Self::Tests, Self::Fuzz, Self::Package, Self::Fallback, Self::Mutants];

    fn passes(self, project: &Project, arguments: &Arguments) -> Result<bool> {
        match self {
            Self::Tests => builds_and_passes_tests(project, arguments),
            Self::Fuzz => fuzz::fuzz(project, FUZZ_SECONDS),
            Self::Package => package::is_reproducible_offline(project),
            Self::Fallback => fallback::works(project),
            Self::Mutants => mutants::mutate(project, &[]),
        }
    }
}

impl Arguments {
    /// What was asked for.
    fn parts(&self) -> &[Part] {
        match &*self.only {
            [] if self.long && self.filter.is_empty() => &Part::ALL,
            [] => &[Part::Tests],
            only => only,
        }
    }
}

/// Enough to notice a parser that has become a bad one; `cargo xtask fuzz` goes deeper.
const FUZZ_SECONDS: u32 = 20;

/// Runs the command.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure_for_test(project)?;
    let (passed, elapsed) = step::timed(|| {
        // What follows one that fails has nothing to say.
        let mut parts = arguments.parts().iter();
        parts.try_fold(true, |passed, part| -> Result<bool> {
            Ok(passed && part.passes(project, arguments)?)
        })
    });
    let passed = passed?;
    let verdict = if passed { "passed" } else { "FAILED" };
    step::heading(format!("test: {verdict} after {}", step::spoken(elapsed)));
    Ok(exit_code(passed))
}

fn builds_and_passes_tests(project: &Project, arguments: &Arguments) -> Result<bool> {
    step::heading("test: building the programs that the tests start");
    let (built, elapsed) = step::timed(|| build_programs(project));
    if !built? {
        eprintln!("test: the programs do not build");
        return Ok(false);
    }
    vm::pack_programs(project)?;
    step::heading(format!("test: built in {}; running the tests", step::spoken(elapsed)));
    run_tests(project, arguments)
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
