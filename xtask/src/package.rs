//! `cargo xtask package`: the Debian package, from programs that do not tell where
//! they were built. Two packages of one commit are the same, byte by byte. What is in
//! it says the daemon's Cargo.toml; what happens when it is installed, `package/`.

mod licence;
mod program;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::project::Project;
use crate::{exit_code, setup, step, test};
use program::Source;
pub(crate) use program::copy_sources;
use stage::Stage;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Pack the programs of `cargo build`, which takes seconds; for tests
    #[arg(long)]
    debug: bool,
    /// What to call the package's version [default: the project's, and 1]
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Ask the network for nothing
    #[arg(long, conflicts_with = "debug")]
    offline: bool,
    /// Make it once more, from a copy of the sources in another folder, and compare
    #[arg(long, conflicts_with = "debug")]
    verify: bool,
}

/// Runs the command.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure_for_package(project)?;
    let epoch = stage::epoch(project)?;
    let folder = project.target().join("package");
    let (package, elapsed) = step::timed(|| make(project, arguments, &folder, &epoch));
    let package = package?;
    step::heading(format!("package: made in {}", step::spoken(elapsed)));
    say(&package);
    if !arguments.verify {
        return Ok(ExitCode::SUCCESS);
    }
    verify(project, arguments, &package, &epoch).map(exit_code)
}

/// Makes the package twice where there is no network at all, and tells whether it was
/// the same: what packagers need.
///
/// # Errors
///
/// When what is needed cannot be fetched, or nothing can be started.
pub(crate) fn is_reproducible_offline(project: &Project) -> Result<bool> {
    setup::ensure_for_package(project)?;
    step::heading("package: twice, without a network");
    step::run_quietly_on_stdout(project.cargo().args(["fetch", "--locked"]))?;
    let this = std::env::current_exe().context("the path of xtask itself is unknown")?;
    // A network namespace of its own, whose only interface is a loopback that is down.
    let mut alone = project.command("unshare");
    alone.arg("--net").arg(this).args(["package", "--offline", "--verify"]);
    step::succeeds(&mut alone)
}

/// The result, for scripts.
#[expect(clippy::print_stdout, reason = "the path is what the caller wants to go on with")]
fn say(package: &Path) {
    println!("{}", package.display());
}

/// Makes the package of the project as it is, and returns its path.
fn make(project: &Project, arguments: &Arguments, folder: &Path, epoch: &str) -> Result<PathBuf> {
    let programs = if arguments.debug {
        step::heading("package: building the programs for tests");
        ensure!(test::build_programs(project)?, "the programs do not build");
        project.target().join("debug")
    } else {
        let source = Source {
            root: project.root(),
            target: &folder.join("build"),
            network: network(arguments),
        };
        program::build(project, &source)?
    };
    pack(project, arguments, project.root(), &programs, folder, epoch)
}

/// What every cargo is told, the one of the kernel programs included.
fn network(arguments: &Arguments) -> Option<(&'static str, &'static str)> {
    arguments.offline.then_some(("CARGO_NET_OFFLINE", "true"))
}

/// Packs built programs with all that stands beside them in `root`.
fn pack(
    project: &Project,
    arguments: &Arguments,
    root: &Path,
    programs: &Path,
    folder: &Path,
    epoch: &str,
) -> Result<PathBuf> {
    step::heading("package: packing");
    let version = version(project, arguments)?;
    let stage = Stage {
        project,
        root,
        folder: &folder.join("stage"),
        epoch,
        version: &version,
        network: network(arguments),
    };
    stage.fill(programs)?;
    let mut cargo_deb = project.command(project.tools().join("bin/cargo-deb"));
    cargo_deb
        .current_dir(root)
        .env("SOURCE_DATE_EPOCH", epoch)
        // Where cargo-deb finds what is called target/release in the list of contents.
        .env("CARGO_TARGET_DIR", stage.folder)
        .envs(network(arguments))
        .args(["deb", "--quiet", "--no-build", "--strip", "--locked"])
        .args(["--package", "moderation-daemon", "--deb-version", &version, "--output"])
        .arg(folder)
        .args(arguments.debug.then_some("--fast"));
    let printed = step::output_of(&mut cargo_deb)?;
    let made = printed.lines().last().context("cargo-deb did not say what it made")?;
    Ok(PathBuf::from(made.trim()))
}

/// The chosen version, or the workspace's with the first revision of its packaging.
fn version(project: &Project, arguments: &Arguments) -> Result<String> {
    if let Some(version) = &arguments.version {
        return Ok(version.clone());
    }
    let path = project.root().join("Cargo.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .with_context(|| format!("{} has no version", path.display()))?;
    Ok(format!("{version}-1"))
}

/// Makes the package from a copy of the sources, and tells whether it is the same.
fn verify(project: &Project, arguments: &Arguments, first: &Path, epoch: &str) -> Result<bool> {
    let folder = project.target().join("package/again");
    let root = folder.join("source");
    program::copy_with_tools(project, &root)?;
    let source = Source { root: &root, target: &folder.join("build"), network: network(arguments) };
    let programs = program::build(project, &source)?;
    let second = pack(project, arguments, &root, &programs, &folder, epoch)?;
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let is_same = read(first)? == read(&second)?;
    if is_same {
        step::heading("package: made twice in two folders, and the same");
    } else {
        eprintln!(
            "package: DIFFERENT when made again; compare with:\n  diffoscope {} {}",
            first.display(),
            second.display()
        );
    }
    Ok(is_same)
}
