//! `cargo xtask test-vm`: packs the programs twice, as this version and as the next, and
//! lives with them on real Debian machines under qemu; the story is in the `tests`
//! package. Needs root.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::debian::System;
use crate::project::Project;
use crate::{exit_code, setup, step, test};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which kernels: Debian 12's own, that of its backports, or both
    #[arg(long, value_enum, default_value = "all")]
    kernel: Kernel,
    /// Boot a machine and read commands for it, instead of the story
    #[arg(long)]
    shell: bool,
    /// Write what a new user would see into docs/install-transcript.md
    #[arg(long, conflicts_with = "shell")]
    transcript: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kernel {
    #[value(name = "6.1")]
    Stable,
    #[value(name = "6.12")]
    Backports,
    #[value(name = "all")]
    All,
    /// No virtual machine, but a container on this machine's kernel
    #[value(name = "host")]
    Host,
}

impl Kernel {
    fn systems(self) -> &'static [System] {
        match self {
            Self::Stable => &[System::Root, System::Stable],
            Self::Backports => &[System::Root, System::Backports],
            Self::All => &[System::Root, System::Stable, System::Backports],
            Self::Host => &[System::Root],
        }
    }

    /// As the program that plays the story knows them.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Stable => &["6.1"],
            Self::Backports => &["6.12"],
            Self::All => &["6.1", "6.12"],
            Self::Host => &["host"],
        }
    }
}

/// Runs the command.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure_for_vm(project, arguments.kernel.systems())?;
    step::heading("test-vm: building and packing the programs");
    if !test::build_programs(project)? {
        eprintln!("test-vm: the programs do not build");
        return Ok(ExitCode::FAILURE);
    }
    pack_programs(project)?;
    let mut passed = true;
    for name in arguments.kernel.names() {
        passed &= play(project, arguments, name)?;
    }
    Ok(exit_code(passed))
}

/// Packs the built programs as this version and as the next, for machines to install.
///
/// # Errors
///
/// When they cannot be packed.
pub(crate) fn pack_programs(project: &Project) -> Result<()> {
    let folder = project.target().join("debug/machine");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, version) in [("present.deb", "0.0.1"), ("next.deb", "0.0.2")] {
        // By cargo, for building the programs may put another xtask in this one's place.
        let mut package = project.cargo();
        package.args(["xtask", "package", "--debug", "--version", version]);
        let printed = step::output_of(&mut package)?;
        let made = printed.lines().last().context("cargo xtask package printed no path")?;
        fs::copy(made, folder.join(name)).with_context(|| format!("cannot copy {made}"))?;
    }
    Ok(())
}

fn play(project: &Project, arguments: &Arguments, kernel: &str) -> Result<bool> {
    let programs = project.target().join("debug");
    let mut vm = project.command(programs.join("vm"));
    vm.env("MODERATION_BIN_DIR", &programs).args(["--kernel", kernel]);
    if arguments.transcript {
        vm.arg("--transcript").arg(transcript(project));
    }
    if !arguments.shell {
        step::heading(format!("test-vm: kernel {kernel}"));
        let (passed, elapsed) = step::timed(|| step::succeeds(&mut vm));
        let passed = passed?;
        let verdict = if passed { "passed" } else { "FAILED" };
        step::heading(format!("test-vm: {verdict} after {}", step::spoken(elapsed)));
        return Ok(passed);
    }
    step::converses(vm.arg("--shell"))
}

fn transcript(project: &Project) -> PathBuf {
    project.root().join("docs/install-transcript.md")
}
