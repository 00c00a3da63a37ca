//! `cargo xtask setup`: provides what the build of the kernel programs and the tests
//! need, and is quick when all of it is there. It mounts nothing (the loader mounts
//! bpffs), starts nothing, and writes only to `.tools`, `.servers`, rustup and the package manager.

mod kernel;
mod program;
mod tool;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::project::Project;
use crate::{debian, exit_code, mongod, npm, step};
use program::{
    BROWSER, COMPARED, FUZZING, MACHINES, NFT, NGINX, NODE, PACKING, PEERS, PROGRAMS, Program,
    QEMU, REDIS, find_program, how_to_install, install_programs,
};

/// Runs libFuzzer; for `cargo xtask fuzz` only.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// Changes the engine to see whether a test notices; for `cargo xtask test --long` only.
const CARGO_MUTANTS_VERSION: &str = "27.1.0";

/// Packs the Debian package; for `cargo xtask package` only.
const CARGO_DEB_VERSION: &str = "3.8.0";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only report; exit with 1 when something is missing
    #[arg(long)]
    check: bool,
}

/// One thing that setup looks for and can provide.
enum Need {
    Program(&'static Program),
    RustSource { channel: String },
    RustDependencies,
    BpfLinker,
    CargoFuzz,
    CargoMutants,
    CargoDeb,
    NpmPackages(npm::Packages),
    Mongod,
    Debian(debian::System),
}

/// Runs the command.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.check {
        return report(project);
    }
    ensure_for_test(project)?;
    Ok(ExitCode::SUCCESS)
}

/// Provides whatever is missing and says what is there.
///
/// # Errors
///
/// When something is missing and cannot be provided; the message says what to do.
pub(crate) fn ensure(project: &Project) -> Result<()> {
    ensure_all(project, needs(project)?)
}

/// The same with what the tests need.
///
/// # Errors
///
/// As for [`ensure`].
pub(crate) fn ensure_for_test(project: &Project) -> Result<()> {
    ensure_all(project, needs_of_tests(project)?)
}

/// The same with the peers of the benchmarks.
///
/// # Errors
///
/// As for [`ensure`].
pub(crate) fn ensure_for_bench(project: &Project) -> Result<()> {
    let mut needs = needs(project)?;
    needs.extend(PEERS.iter().chain(NODE).chain([&REDIS, &NGINX, &NFT]).map(Need::Program));
    needs.push(Need::NpmPackages(npm::EXPRESS));
    needs.push(Need::Mongod);
    ensure_all(project, needs)
}

/// The same with nginx and the app behind it.
///
/// # Errors
///
/// As for [`ensure`].
pub(crate) fn ensure_for_nginx(project: &Project) -> Result<()> {
    let mut needs = needs(project)?;
    needs.extend(NODE.iter().chain([&NGINX]).map(Need::Program));
    needs.push(Need::NpmPackages(npm::EXPRESS));
    ensure_all(project, needs)
}

/// The same with what fuzzing needs.
///
/// # Errors
///
/// As for [`ensure`].
pub(crate) fn ensure_for_fuzz(project: &Project) -> Result<()> {
    let mut needs = needs(project)?;
    needs.extend([Need::Program(&FUZZING), Need::CargoFuzz]);
    ensure_all(project, needs)
}

/// The same with what virtual machines need.
///
/// # Errors
///
/// As for [`ensure`].
pub(crate) fn ensure_for_vm(project: &Project, systems: &[debian::System]) -> Result<()> {
    let mut needs = needs(project)?;
    needs.extend(MACHINES.iter().chain([&QEMU]).map(Need::Program));
    needs.extend(systems.iter().copied().map(Need::Debian));
    ensure_all(project, needs)
}

/// The same with what changing the engine needs.
///
/// # Errors
///
/// As for [`ensure`].
pub(crate) fn ensure_for_mutants(project: &Project) -> Result<()> {
    let mut needs = needs(project)?;
    needs.push(Need::CargoMutants);
    ensure_all(project, needs)
}

/// The same with what packing needs.
///
/// # Errors
///
/// As for [`ensure`].
pub(crate) fn ensure_for_package(project: &Project) -> Result<()> {
    let mut needs = needs(project)?;
    needs.extend(PACKING.iter().map(Need::Program));
    needs.push(Need::CargoDeb);
    ensure_all(project, needs)
}

fn ensure_all(project: &Project, needs: Vec<Need>) -> Result<()> {
    let start = Instant::now();
    let missing = print_present(project, needs);
    if !missing.is_empty() {
        refuse_what_only_root_can_do(&missing)?;
        let _lock = lock(&project.tools())?;
        provide(project, missing)?;
    }
    eprintln!("setup: complete ({})", step::spoken(start.elapsed()));
    Ok(())
}

fn report(project: &Project) -> Result<ExitCode> {
    let missing = print_present(project, needs_of_tests(project)?);
    for need in &missing {
        eprintln!("setup: {:18} MISSING, {}", need.label(), need.purpose());
    }
    let complete = missing.is_empty();
    if complete {
        eprintln!("setup: complete");
    } else {
        eprintln!("setup: run `cargo xtask setup` to install what is missing");
    }
    Ok(exit_code(complete))
}

/// All needs, in the order in which they must be provided.
fn needs(project: &Project) -> Result<Vec<Need>> {
    let pin = project.root().join("rust-toolchain.toml");
    let text =
        fs::read_to_string(&pin).with_context(|| format!("cannot read {}", pin.display()))?;
    let channel = channel(&text).context("rust-toolchain.toml names no channel")?.to_owned();
    let mut needs: Vec<Need> = PROGRAMS.iter().map(Need::Program).collect();
    needs.push(Need::RustSource { channel });
    needs.extend([Need::RustDependencies, Need::BpfLinker]);
    Ok(needs)
}

/// The same and those of the tests.
fn needs_of_tests(project: &Project) -> Result<Vec<Need>> {
    let mut needs = needs(project)?;
    let servers = [&REDIS, &NGINX, &BROWSER, &NFT];
    needs.extend(NODE.iter().chain(COMPARED).chain(MACHINES).chain(servers).map(Need::Program));
    needs.extend(npm::PACKAGES.map(Need::NpmPackages));
    needs.push(Need::Mongod);
    needs.push(Need::Debian(debian::System::Root));
    Ok(needs)
}

/// The value of `channel = "…"`.
fn channel(toolchain_toml: &str) -> Option<&str> {
    toolchain_toml.lines().find_map(|line| {
        let value = line.trim().strip_prefix("channel")?.trim_start().strip_prefix('=')?;
        value.split('"').nth(1)
    })
}

/// Prints the needs that are met and returns the others.
fn print_present(project: &Project, needs: Vec<Need>) -> Vec<Need> {
    let mut missing = Vec::new();
    for need in needs {
        match need.find(project) {
            Some(path) => eprintln!("setup: {:18} {}", need.label(), path.display()),
            None => missing.push(need),
        }
    }
    missing
}

/// Keeps two setups of one project apart until the returned file is closed.
fn lock(tools: &Path) -> Result<File> {
    fs::create_dir_all(tools).with_context(|| format!("cannot create {}", tools.display()))?;
    let path = tools.join("setup.lock");
    let file = File::create(&path)
        .with_context(|| format!("cannot write {} (made by root?)", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("setup: waiting for another setup of this project to end");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Provides each need, but for those that another setup has provided meanwhile.
fn provide(project: &Project, missing: Vec<Need>) -> Result<()> {
    let missing = print_present(project, missing);
    install_programs(project, &programs(&missing))?;
    for need in &missing {
        // Some are there as soon as the one before is: Debian's linker, of an earlier run.
        if need.find(project).is_some() {
            continue;
        }
        let start = Instant::now();
        need.provide(project)?;
        let path = need
            .find(project)
            .with_context(|| format!("{} was installed, but does not work", need.label()))?;
        let elapsed = step::spoken(start.elapsed());
        eprintln!("setup: {:18} {} (installed, {elapsed})", need.label(), path.display());
    }
    Ok(())
}

impl Need {
    fn label(&self) -> String {
        match self {
            Self::Program(program) => program.name.to_owned(),
            Self::RustSource { channel } => format!("rust-src {channel}"),
            Self::RustDependencies => "rust-src's crates".to_owned(),
            Self::BpfLinker => "bpf-linker".to_owned(),
            Self::CargoFuzz => format!("cargo-fuzz {CARGO_FUZZ_VERSION}"),
            Self::CargoMutants => format!("cargo-mutants {CARGO_MUTANTS_VERSION}"),
            Self::CargoDeb => format!("cargo-deb {CARGO_DEB_VERSION}"),
            Self::NpmPackages(packages) => format!("npm, {}", packages.name),
            Self::Mongod => "mongod".to_owned(),
            Self::Debian(system) => format!("Debian, {}", system.name()),
        }
    }

    fn purpose(&self) -> String {
        match self {
            Self::Program(program) => {
                format!("for {} (Debian: {})", program.needed_for, program.packages.join(" "))
            }
            Self::RustSource { .. } => "to build `core` for the kernel".to_owned(),
            Self::RustDependencies => "to build `core` without a network".to_owned(),
            Self::BpfLinker => "to link the kernel programs".to_owned(),
            Self::CargoFuzz => "to fuzz the parser".to_owned(),
            Self::CargoMutants => "to change the engine and see who notices".to_owned(),
            Self::CargoDeb => "to make the Debian package".to_owned(),
            Self::NpmPackages(packages) => packages.purpose.to_owned(),
            Self::Mongod => "to share bans between hosts under test".to_owned(),
            Self::Debian(_) => "to install the package on, in tests".to_owned(),
        }
    }

    /// Where it is, if it is there and usable.
    fn find(&self, project: &Project) -> Option<PathBuf> {
        match self {
            Self::Program(program) => find_program(program.name),
            Self::RustSource { .. } => kernel::find_source(project),
            Self::RustDependencies => kernel::find_dependencies(project),
            Self::BpfLinker => kernel::find_linker(project),
            Self::CargoFuzz => tool::find(&project.tools(), "cargo-fuzz", CARGO_FUZZ_VERSION),
            Self::CargoMutants => {
                tool::find(&project.tools(), "cargo-mutants", CARGO_MUTANTS_VERSION)
            }
            Self::CargoDeb => tool::find(&project.tools(), "cargo-deb", CARGO_DEB_VERSION),
            Self::NpmPackages(packages) => npm::find(project, *packages),
            Self::Mongod => mongod::find(project),
            Self::Debian(system) => debian::find(project, *system),
        }
    }

    fn provide(&self, project: &Project) -> Result<()> {
        match self {
            // All at once, before everything else, by `install_programs`.
            Self::Program(_) => Ok(()),
            Self::RustSource { channel } => kernel::provide_source(project, channel),
            Self::RustDependencies => kernel::provide_dependencies(project),
            Self::BpfLinker => kernel::provide_linker(project),
            Self::CargoFuzz => build(project, "cargo-fuzz", CARGO_FUZZ_VERSION),
            Self::CargoMutants => build(project, "cargo-mutants", CARGO_MUTANTS_VERSION),
            Self::CargoDeb => build(project, "cargo-deb", CARGO_DEB_VERSION),
            Self::NpmPackages(packages) => npm::provide(project, *packages),
            Self::Mongod => mongod::provide(project),
            Self::Debian(system) => debian::provide(project, *system),
        }
    }
}

fn build(project: &Project, name: &str, version: &str) -> Result<()> {
    tool::build(project.command("cargo"), &project.tools(), name, version)
}

/// The programs among `missing`, whose packages are installed in one go.
fn programs(missing: &[Need]) -> Vec<&'static Program> {
    let program = |need: &Need| match need {
        Need::Program(program) => Some(*program),
        Need::RustSource { .. }
        | Need::RustDependencies
        | Need::BpfLinker
        | Need::CargoFuzz
        | Need::CargoMutants
        | Need::CargoDeb
        | Need::NpmPackages(_)
        | Need::Mongod
        | Need::Debian(_) => None,
    };
    missing.iter().filter_map(program).collect()
}

/// Refuses at once where programs are missing that only someone else can install.
fn refuse_what_only_root_can_do(missing: &[Need]) -> Result<()> {
    let programs = programs(missing);
    let is_debian = find_program("apt-get").is_some();
    if programs.is_empty() || (is_debian && nix::unistd::geteuid().is_root()) {
        return Ok(());
    }
    bail!(how_to_install(&programs, is_debian));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_is_read_from_the_toolchain_file() {
        let text = "# channel = \"nightly\"\n[toolchain]\nchannel = \"1.95.0\"\n";
        assert_eq!(channel(text), Some("1.95.0"));
    }

    #[test]
    fn a_toolchain_file_without_a_channel_has_none() {
        assert_eq!(channel("[toolchain]\npath = \"x\"\n"), None);
    }
}
