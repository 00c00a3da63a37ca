//! The npm packages that tests compare the engine with, at the versions and with the
//! hashes of tests/tests/librechat/package-lock.json. Runs none of them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::project::Project;
use crate::step;

/// What npm needs to know, in the folder of the tests.
const FILES: [&str; 3] = ["package.json", "package-lock.json", ".npmrc"];
const LOCK: &str = FILES[1];

/// The folder of the packages, if those of the lock file are there. The tests look for
/// it beside their own build folder.
pub(crate) fn find(project: &Project) -> Option<PathBuf> {
    let folder = folder(project);
    let wanted = fs::read(source(project).join(LOCK)).ok()?;
    let installed = fs::read(folder.join(LOCK)).ok()?;
    // npm writes this last.
    let is_complete = folder.join("node_modules/.package-lock.json").is_file();
    (is_complete && installed == wanted).then_some(folder)
}

/// Installs them.
///
/// # Errors
///
/// When npm cannot, or a package is not what the lock file says.
pub(crate) fn provide(project: &Project) -> Result<()> {
    let (source, folder) = (source(project), folder(project));
    let packages = folder.join("node_modules");
    if packages.exists() {
        // Before the new lock file, which would vouch for them.
        fs::remove_dir_all(&packages)
            .with_context(|| format!("cannot remove {}", packages.display()))?;
    }
    copy(&source, &folder)?;
    step::heading("setup: npm ci, in the target folder");
    let mut npm = project.command("npm");
    npm.current_dir(&folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    step::run_quietly_on_stdout(&mut npm)
}

fn copy(source: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for file in FILES {
        let from = source.join(file);
        fs::copy(&from, folder.join(file))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

fn source(project: &Project) -> PathBuf {
    project.root().join("tests/tests/librechat")
}

fn folder(project: &Project) -> PathBuf {
    project.target().join("librechat")
}
