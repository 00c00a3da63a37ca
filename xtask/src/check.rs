//! `cargo xtask check`: everything but the tests that a change must pass. A step that
//! fails does not stop the others. It changes no file; what to fix is for the caller.

use std::fs;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::project::Project;
use crate::{exit_code, setup, step, test, tidy};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run this step only; may be given several times
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Provide what the other steps need
    Setup,
    /// cargo fmt
    Fmt,
    /// clippy over the workspace
    Clippy,
    /// clippy over the kernel programs, for the kernel's target
    ClippyEbpf,
    /// clippy over the daemon without the features that are on by default
    ClippyBare,
    /// The project's own rules about files, names and imports
    Tidy,
    /// rustdoc without warnings, private items included
    Doc,
    /// docs/openapi.json is what the daemon's types say
    Openapi,
}

struct Outcome {
    step: Step,
    succeeded: bool,
    elapsed: Duration,
}

/// Runs the command.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> ExitCode {
    let outcomes: Vec<Outcome> = Step::value_variants()
        .iter()
        .filter(|step| arguments.only.is_empty() || arguments.only.contains(step))
        .map(|step| step.run(project))
        .collect();
    print_summary(&outcomes);
    exit_code(outcomes.iter().all(|outcome| outcome.succeeded))
}

fn print_summary(outcomes: &[Outcome]) {
    step::heading("check: summary");
    for outcome in outcomes {
        let verdict = if outcome.succeeded { "ok" } else { "FAILED" };
        let elapsed = step::spoken(outcome.elapsed);
        eprintln!("    {verdict:8}{:14}{elapsed}", outcome.step.name());
    }
}

impl Step {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no step is hidden");
        value.get_name().to_owned()
    }

    fn run(self, project: &Project) -> Outcome {
        step::heading(format!("check: {}", self.name()));
        let (outcome, elapsed) = step::timed(|| self.perform(project));
        let succeeded = outcome.unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            false
        });
        Outcome { step: self, succeeded, elapsed }
    }

    fn perform(self, project: &Project) -> Result<bool> {
        match self {
            Self::Setup => setup::ensure(project).map(|()| true),
            Self::Fmt => fmt(project),
            Self::Clippy => clippy(project),
            Self::ClippyEbpf => clippy_ebpf(project),
            Self::ClippyBare => clippy_bare(project),
            Self::Tidy => tidy::run(project),
            Self::Doc => doc(project),
            Self::Openapi => openapi(project),
        }
    }
}

/// The fuzz target is a workspace of its own.
fn fmt(project: &Project) -> Result<bool> {
    let ours = step::succeeds(project.cargo().args(["fmt", "--all", "--", "--check"]))?;
    let mut fuzz = project.cargo();
    fuzz.args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--", "--check"]);
    Ok(step::succeeds(&mut fuzz)? && ours)
}

fn clippy(project: &Project) -> Result<bool> {
    let mut cargo = project.cargo();
    cargo.args(["clippy", "--workspace", "--all-targets"]);
    step::succeeds(cargo.args(["--", "-D", "warnings"]))
}

/// The kernel's half of the crate is compiled for its own target only, so the step
/// above does not see it.
fn clippy_ebpf(project: &Project) -> Result<bool> {
    let mut cargo = project.cargo();
    cargo
        // `-Z build-std` is unstable; the pinned compiler is a stable one.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", project.target().join("ebpf-clippy"))
        .args(["clippy", "--package", "moderation-ebpf", "--bins", "--lib"])
        .args(["-Z", "build-std=core", "--target", "bpfel-unknown-none"])
        .args(["--release", "--", "-D", "warnings"]);
    step::succeeds(&mut cargo)
}

/// Redis can be left out.
fn clippy_bare(project: &Project) -> Result<bool> {
    let mut cargo = project.cargo();
    cargo.args(["clippy", "--package", "moderation-daemon", "--no-default-features", "--bins"]);
    step::succeeds(cargo.args(["--", "-D", "warnings"]))
}

fn doc(project: &Project) -> Result<bool> {
    let mut cargo = project.cargo();
    cargo.env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    step::succeeds(&mut cargo)
}

const OPENAPI: &str = "docs/openapi.json";

/// Asks the program as `cargo xtask test` builds it: alone, its dependencies would have
/// other features, and be compiled once more.
fn openapi(project: &Project) -> Result<bool> {
    if !test::build_programs(project)? {
        return Ok(false);
    }
    let mut program = project.command(project.target().join("debug/moderationctl"));
    let line = step::command_line(program.arg("openapi"));
    let printed = program.stderr(Stdio::inherit()).output();
    let printed = printed.with_context(|| format!("cannot start `{line}`"))?;
    ensure!(printed.status.success(), "`{line}` failed; see above");
    let path = project.root().join(OPENAPI);
    let committed = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let is_same = printed.stdout == committed;
    if !is_same {
        eprintln!("{OPENAPI} is not what the types say: moderationctl openapi > {OPENAPI}");
    }
    Ok(is_same)
}
