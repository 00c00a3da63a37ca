//! Builds the two programs so that they are the same wherever they are built: paths of
//! the machine are replaced by ones that every machine has.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::project::Project;
use crate::step;

/// Where Debian puts the sources that debuggers are to find.
const SOURCES: &str = "/usr/src/moderation";

/// What is built, and where to.
pub(super) struct Source<'a> {
    pub(super) root: &'a Path,
    pub(super) target: &'a Path,
    /// What cargo is told besides.
    pub(super) network: Option<(&'static str, &'static str)>,
}

/// Builds the programs and returns the folder that they are in.
///
/// # Errors
///
/// When they do not build.
pub(super) fn build(project: &Project, source: &Source<'_>) -> Result<PathBuf> {
    step::heading("package: building the programs, some minutes");
    let places = places(project, source)?;
    let mut cargo = project.command("cargo");
    cargo
        .current_dir(source.root)
        .env("CARGO_TARGET_DIR", source.target)
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&places))
        .env("CFLAGS", c_flags(&places))
        // Its only use is to build again faster, and it makes other programs.
        .env("CARGO_INCREMENTAL", "0")
        .envs(source.network)
        .args(["build", "--release", "--locked", "--package", "moderation-daemon", "--bins"]);
    ensure!(step::succeeds(&mut cargo)?, "the programs do not build");
    Ok(source.target.join("release"))
}

/// Folders of this machine and what to call them instead. Of two that fit, the
/// compiler takes the later one.
fn places(project: &Project, source: &Source<'_>) -> Result<Vec<(PathBuf, String)>> {
    let sysroot =
        step::output_of(project.command("rustc").args(["--print", "sysroot"]))?.trim().to_owned();
    Ok(vec![
        (PathBuf::from(sysroot), "/usr/src/rust".to_owned()),
        (cargo_home()?, "/usr/src/cargo".to_owned()),
        (source.root.to_owned(), SOURCES.to_owned()),
        (source.target.to_owned(), format!("{SOURCES}/target")),
    ])
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME").filter(|home| !home.is_empty()) {
        return Ok(PathBuf::from(home));
    }
    let home = env::home_dir().context("the home folder is unknown; set CARGO_HOME")?;
    Ok(home.join(".cargo"))
}

/// The caller's own flags, and ours.
fn rust_flags(places: &[(PathBuf, String)]) -> String {
    let given = env::var("RUSTFLAGS").unwrap_or_default();
    let ours = places
        .iter()
        .map(|(path, instead)| format!("--remap-path-prefix={}={instead}", path.display()));
    given.split_whitespace().map(str::to_owned).chain(ours).collect::<Vec<_>>().join("\x1f")
}

/// The same for the bundled SQLite and what else is C.
fn c_flags(places: &[(PathBuf, String)]) -> String {
    let given = env::var("CFLAGS").unwrap_or_default();
    let ours = places
        .iter()
        .map(|(path, instead)| format!("-ffile-prefix-map={}={instead}", path.display()));
    given.split_whitespace().map(str::to_owned).chain(ours).collect::<Vec<_>>().join(" ")
}

/// Copies what git knows or would, as it is now, and lends the build tools.
///
/// # Errors
///
/// When something cannot be copied.
pub(super) fn copy_with_tools(project: &Project, to: &Path) -> Result<()> {
    copy_sources(project, to)?;
    std::os::unix::fs::symlink(project.tools(), to.join(".tools"))
        .context("cannot link the build tools into the copy")
}

/// Copies what git knows or would, as it is now, to a folder that is emptied first.
///
/// # Errors
///
/// When something cannot be copied.
pub(crate) fn copy_sources(project: &Project, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("cannot remove {}", to.display()))?;
    }
    let listed = step::output_of(project.command("git").args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    // Those that were deleted are still known.
    for name in listed.split('\0').filter(|name| project.root().join(name).is_file()) {
        let target = to.join(name);
        let folder = target.parent().context("a file without a folder")?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::copy(project.root().join(name), &target))
            .with_context(|| format!("cannot copy {name} to {}", target.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Vec<(PathBuf, String)> {
        vec![(PathBuf::from("/a/b"), "/usr/src/x".to_owned())]
    }

    #[test]
    fn every_folder_is_called_something_else_in_rust_and_in_c() {
        assert!(rust_flags(&places()).ends_with("--remap-path-prefix=/a/b=/usr/src/x"));
        assert!(c_flags(&places()).ends_with("-ffile-prefix-map=/a/b=/usr/src/x"));
    }
}
