//! Build tools in folders of the project's own, at the versions that we chose.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::step;

/// A tool below `root`, if it starts and has the right version.
pub(super) fn find(root: &Path, name: &str, version: &str) -> Option<PathBuf> {
    let path = root.join("bin").join(name);
    // What cargo starts as a subcommand is told which.
    let subcommand = name.strip_prefix("cargo-");
    let printed = step::output_of(Command::new(&path).args(subcommand).arg("--version")).ok()?;
    (printed.trim() == format!("{name} {version}")).then_some(path)
}

/// Builds a tool with `cargo`, which may bring its own environment, and puts it below
/// `root`.
///
/// # Errors
///
/// When it does not build.
pub(super) fn build(cargo: Command, root: &Path, name: &str, version: &str) -> Result<()> {
    build_with(cargo, &[], root, name, version)
}

/// The same with more arguments.
///
/// # Errors
///
/// As for [`build`].
pub(super) fn build_with(
    mut cargo: Command,
    arguments: &[&str],
    root: &Path,
    name: &str,
    version: &str,
) -> Result<()> {
    // Of its own, so that the project's target folder is neither used nor locked, and
    // kept until the end, so that a build that was interrupted goes on where it stopped.
    let target = root.join("build");
    step::heading(format!("setup: building {name} {version}, some minutes"));
    // Cargo warns of a folder that is not in `PATH`; this one need not be.
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([root.join("bin")].into_iter().chain(env::split_paths(&path)))?;
    cargo
        .env("PATH", path)
        .args(["install", name, "--version", version])
        .args(["--locked", "--force", "--root"])
        .arg(root)
        .args(arguments)
        .env("CARGO_TARGET_DIR", &target)
        // Its release profile asks for debug information, which nobody will read here.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    step::run_quietly_on_stdout(&mut cargo)?;
    fs::remove_dir_all(&target).with_context(|| format!("cannot remove {}", target.display()))
}
