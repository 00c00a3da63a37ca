//! The npm packages that tests need, at the versions and with the hashes of the
//! package-lock.json beside those tests. Runs none of them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::project::Project;
use crate::step;

/// What npm needs to know, in the folder of whoever needs the packages.
const FILES: [&str; 3] = ["package.json", "package-lock.json", ".npmrc"];
const LOCK: &str = FILES[1];

/// The packages of one folder of tests.
#[derive(Clone, Copy)]
pub(crate) struct Packages {
    /// What their folder in the target folder is called.
    pub(crate) name: &'static str,
    /// Where [`FILES`] are.
    source: &'static str,
    /// What they are there for.
    pub(crate) purpose: &'static str,
}

/// All of them.
pub(crate) const PACKAGES: [Packages; 3] = [
    Packages {
        name: "librechat",
        source: "tests/tests/librechat",
        purpose: "to compare the engine with LibreChat's libraries",
    },
    Packages {
        name: "client",
        source: "tests/tests/client",
        purpose: "to try the client for Node in Express, and its types",
    },
    EXPRESS,
];

/// Those of the app that is protected by nginx.
pub(crate) const EXPRESS: Packages = Packages {
    name: "express",
    source: "tests/src/express",
    purpose: "for the app behind nginx, in tests, demo and benchmarks",
};

/// The folder of the packages, if those of the lock file are there. The tests look for
/// it beside their own build folder.
pub(crate) fn find(project: &Project, packages: Packages) -> Option<PathBuf> {
    let folder = folder(project, packages);
    let wanted = fs::read(source(project, packages).join(LOCK)).ok()?;
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
pub(crate) fn provide(project: &Project, packages: Packages) -> Result<()> {
    let (source, folder) = (source(project, packages), folder(project, packages));
    let modules = folder.join("node_modules");
    if modules.exists() {
        // Before the new lock file, which would vouch for them.
        fs::remove_dir_all(&modules)
            .with_context(|| format!("cannot remove {}", modules.display()))?;
    }
    copy(&source, &folder)?;
    step::heading(format!("setup: npm ci, in the target folder {}", packages.name));
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

fn source(project: &Project, packages: Packages) -> PathBuf {
    project.root().join(packages.source)
}

fn folder(project: &Project, packages: Packages) -> PathBuf {
    project.target().join(packages.name)
}
