//! Whether setup falls back to Debian's compiler where rustup's server cannot be
//! reached, and whether the kernel programs that this one makes are right: in a copy
//! of the sources, with a copy of rustup's toolchain that lacks the sources of `core`
//! and a server that is nowhere. Needs root and Debian's package servers, 3 GB, and
//! 10 to 20 minutes on two cores.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::project::Project;
use crate::{package, step};

/// The discard port, where nobody listens.
const NOBODY: &str = "http://127.0.0.1:9";

/// Sets up, builds, and has the kernel load and run the programs.
///
/// # Errors
///
/// When the copies cannot be made or nothing can be started.
pub(crate) fn works(project: &Project) -> Result<bool> {
    step::heading("fallback: setup and build as if rustup's server were gone");
    let place = Place { project, folder: project.target().join("fallback") };
    place.prepare()?;
    let mut setup = place.cargo();
    if !step::succeeds(setup.args(["xtask", "check", "--only", "setup"]))? {
        return Ok(false);
    }
    let linker = place.sources().join(".tools/debian/bin/bpf-linker");
    ensure!(linker.is_file(), "setup did not fall back: {} is missing", linker.display());
    let mut tests = place.cargo();
    tests.env("MODERATION_REQUIRE_ALL", "1").args([
        "test",
        "--package",
        "moderation-tests",
        "--test",
        "object",
        "--test",
        "packets",
    ]);
    let passed = step::succeeds(&mut tests)?;
    if passed {
        let folder = &place.folder;
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(passed)
}

/// The folder of the copies.
struct Place<'a> {
    project: &'a Project,
    folder: PathBuf,
}

impl Place<'_> {
    fn sources(&self) -> PathBuf {
        self.folder.join("source")
    }

    fn toolchains(&self) -> PathBuf {
        self.folder.join("rustup/toolchains")
    }

    /// `cargo` there, by way of rustup.
    fn cargo(&self) -> Command {
        let mut cargo = self.project.command("cargo");
        cargo
            .current_dir(self.sources())
            .env("RUSTUP_HOME", self.folder.join("rustup"))
            .env("RUSTUP_DIST_SERVER", NOBODY)
            .env("RUSTUP_AUTO_INSTALL", "0")
            .env("CARGO_TARGET_DIR", self.folder.join("build"));
        // What rustup and cargo said about the compiler that runs us.
        for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "LD_LIBRARY_PATH"] {
            cargo.env_remove(name);
        }
        cargo
    }

    fn prepare(&self) -> Result<()> {
        package::copy_sources(self.project, &self.sources())?;
        let toolchains = self.toolchains();
        if toolchains.exists() {
            fs::remove_dir_all(&toolchains)
                .with_context(|| format!("cannot remove {}", toolchains.display()))?;
        }
        self.copy_toolchain(&toolchains)
    }

    /// Copies the compiler, under the name that it has for rustup.
    fn copy_toolchain(&self, toolchains: &Path) -> Result<()> {
        let ask = |argument: &[&str]| step::output_of(self.project.command("rustc").args(argument));
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
        let sysroot = sysroot.canonicalize().context("the compiler is nowhere")?;
        let about = ask(&["-vV"])?;
        let value = |key: &str| {
            let value = about.lines().find_map(|line| line.strip_prefix(key));
            value.with_context(|| format!("rustc does not tell its {key}"))
        };
        let copy = toolchains.join(format!("{}-{}", value("release: ")?, value("host: ")?));
        fs::create_dir_all(&copy).with_context(|| format!("cannot create {}", copy.display()))?;
        for part in ["bin", "lib", "libexec"].map(|part| sysroot.join(part)) {
            // Parts that a toolchain of the smallest profile lacks.
            if part.is_dir() {
                let mut cp = self.project.command("cp");
                cp.args(["--archive", "--reflink=auto", "--"]).arg(&part).arg(&copy);
                step::run_quietly_on_stdout(&mut cp)?;
            }
        }
        self.remove_sources(&copy)
    }

    /// Takes the sources of `core` away, in rustup's own way, so that it knows of it.
    fn remove_sources(&self, toolchain: &Path) -> Result<()> {
        if !toolchain.join("lib/rustlib/src/rust").exists() {
            return Ok(());
        }
        let name = toolchain.file_name().context("a toolchain has a name")?;
        let mut rustup = self.project.command("rustup");
        rustup
            .env("RUSTUP_HOME", self.folder.join("rustup"))
            .env("RUSTUP_DIST_SERVER", NOBODY)
            .env_remove("RUSTUP_TOOLCHAIN")
            .args(["component", "remove", "rust-src", "--toolchain"])
            .arg(name);
        step::run_quietly_on_stdout(&mut rustup)
    }
}
