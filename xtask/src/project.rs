//! Where things are: the project's root, its tools, the folder of built programs,
//! and a `cargo` that works on it. Runs nothing itself.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf, absolute};
use std::process::Command;

use anyhow::{Context, Result};

/// The project that this xtask was built from.
pub(crate) struct Project {
    root: PathBuf,
    target: PathBuf,
    /// `CARGO_TARGET_DIR` as an absolute path, when the caller set it.
    chosen_target: Option<PathBuf>,
}

impl Project {
    /// Finds the project and its target folder.
    pub(crate) fn locate() -> Result<Self> {
        // Set by `cargo run`; the value of build time is for when xtask is started by hand.
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_dir.parent().context("the folder of xtask has no parent")?.to_owned();
        let chosen_target = env::var_os("CARGO_TARGET_DIR")
            .filter(|folder| !folder.is_empty())
            .map(absolute)
            .transpose()
            .context("CARGO_TARGET_DIR cannot be made absolute")?;
        let target = match &chosen_target {
            Some(folder) => folder.clone(),
            None => target_of_this_program()?,
        };
        Ok(Self { root, target, chosen_target })
    }

    /// The folder of the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The git-ignored folder that build tools are installed into.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    /// The git-ignored folder of the servers that tests start.
    pub(crate) fn servers(&self) -> PathBuf {
        self.root.join(".servers")
    }

    /// Cargo's target folder.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// `program`, to be run in the project's root.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        // `cargo run` sets these for xtask alone; build scripts that watch them
        // would run again each time that xtask and plain cargo take turns.
        for (name, _) in env::vars_os() {
            if is_of_one_package(&name.to_string_lossy()) {
                command.env_remove(name);
            }
        }
        command
    }

    /// `cargo`, to be run in the project's root with the target folder that the caller chose.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = self.command("cargo");
        if let Some(folder) = &self.chosen_target {
            command.env("CARGO_TARGET_DIR", folder);
        }
        command
    }
}

/// The folder above the profile's, which holds for a target folder that came from
/// cargo's configuration, too.
fn target_of_this_program() -> Result<PathBuf> {
    let program = env::current_exe().context("the path of xtask itself is unknown")?;
    let target = program.ancestors().nth(2);
    Ok(target.context("xtask is not in a target folder")?.to_owned())
}

fn is_of_one_package(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_")
}
