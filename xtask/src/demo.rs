//! `cargo xtask demo`: builds the release programs and becomes the demo, which lives in
//! the `tests` package and cleans up after itself. Needs root.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::project::Project;
use crate::{setup, step};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print the result as JSON on standard output, and nothing else there
    #[arg(long)]
    json: bool,
    /// With nothing but nginx in front of an app that is not changed
    #[arg(long)]
    nginx: bool,
}

/// Runs the command; on success it does not return, since the demo takes over this process.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.nginx {
        setup::ensure_for_nginx(project)?;
    } else {
        setup::ensure(project)?;
    }
    step::heading("demo: building the release programs");
    ensure!(build(project)?, "the programs do not build");
    let programs = project.target().join("release");
    let path = programs.join("demo");
    let mut demo = project.command(&path);
    demo.env("MODERATION_BIN_DIR", &programs);
    let wishes = [(arguments.json, "--json"), (arguments.nginx, "--nginx")];
    demo.args(wishes.iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, wish)| wish));
    // In place of this process, so that Ctrl-C reaches the demo and nothing but it.
    Err(demo.exec()).with_context(|| format!("cannot start {}", path.display()))
}

fn build(project: &Project) -> Result<bool> {
    let mut cargo = project.cargo();
    cargo
        .args(["build", "--release"])
        .args(["--package", "moderation-daemon", "--package", "moderation-tests"])
        .args(["--bin", "moderationd", "--bin", "moderationctl", "--bin", "demo"]);
    step::succeeds(&mut cargo)
}
