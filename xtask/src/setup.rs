//! `cargo xtask setup`: provides what the build of the kernel programs and the tests
//! need, and is quick when all of it is there. It mounts nothing (the loader mounts
//! bpffs), starts nothing, and writes only to `.tools`, `.servers`, rustup and the package manager.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::project::Project;
use crate::{debian, exit_code, mongod, npm, step};

/// Links the kernel programs. It loads rustc's own libLLVM, so its LLVM major must be
/// that of the pinned compiler; move the two together.
const BPF_LINKER_VERSION: &str = "0.10.3";

/// Runs libFuzzer; for `cargo xtask fuzz` only.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// Changes the engine to see whether a test notices; for `cargo xtask test --long` only.
const CARGO_MUTANTS_VERSION: &str = "27.1.0";

/// Programs that come with the system.
const PROGRAMS: &[Program] = &[
    Program {
        name: "cc",
        packages: &["gcc", "libc6-dev"],
        needed_for: "linking, and building the bundled SQLite",
    },
    Program {
        name: "ip",
        packages: &["iproute2"],
        needed_for: "the network namespaces of tests and demo",
    },
    Program {
        name: "setpriv",
        packages: &["util-linux"],
        needed_for: "running the daemon without privilege in tests and demo",
    },
];

/// What runs JavaScript.
const NODE: &[Program] = &[
    Program {
        name: "node",
        packages: &["nodejs"],
        needed_for: "the app behind nginx, the client for Node, and LibreChat's libraries, which \
                     the `librechat` profile is compared with",
    },
    Program { name: "npm", packages: &["npm"], needed_for: "installing what these need" },
];

/// Programs that tests compare ours with; nothing else needs them.
const COMPARED: &[Program] = &[
    Program { name: "curl", packages: &["curl"], needed_for: "the client's examples" },
    Program { name: "python3", packages: &["python3"], needed_for: "the client's examples" },
    Program { name: "pip", packages: &["python3-pip"], needed_for: "installing mongod" },
];

/// Tests count in it, and benchmarks compare ours with it.
const REDIS: Program = Program {
    name: "redis-server",
    packages: &["redis-server"],
    needed_for: "counters that hosts share, in tests and in benchmarks, and a peer of `bench api`",
};

/// It asks the daemon, in tests and in benchmarks.
const NGINX: Program = Program {
    name: "nginx",
    packages: &["nginx"],
    needed_for: "hosts that are protected with no change to the app, in tests, demo and \
                 benchmarks",
};

/// They make the machines that the package is installed on.
const MACHINES: &[Program] = &[
    Program {
        name: "debootstrap",
        packages: &["debootstrap", "debian-archive-keyring"],
        needed_for: "Debian systems that tests install the package on",
    },
    Program { name: "mke2fs", packages: &["e2fsprogs"], needed_for: "their disks" },
];

/// It runs those machines that have a kernel of their own; nothing else needs it.
const QEMU: Program =
    Program { name: "qemu-system-x86_64", packages: &["qemu-system-x86"], needed_for: "`test-vm`" };

/// It shows the page of who is denied, in tests; the font is for machines that have none.
const BROWSER: Program = Program {
    name: "chromium-headless-shell",
    packages: &["chromium-headless-shell", "fonts-dejavu-core"],
    needed_for: "looking at the page that denied people see, in tests",
};

/// Programs that benchmarks compare ours with; nothing else needs them.
const PEERS: &[Program] = &[
    Program {
        name: "xdp-filter",
        packages: &["xdp-tools"],
        needed_for: "the peer of `bench datapath`",
    },
    Program {
        name: "nft",
        packages: &["nftables"],
        needed_for: "a peer of `bench bulk`, and fail2ban's firewall",
    },
    Program { name: "ipset", packages: &["ipset"], needed_for: "a peer of `bench bulk`" },
    Program {
        name: "fail2ban-server",
        packages: &["fail2ban"],
        needed_for: "the peer of `bench latency`, and of `bench nginx` where logs are read",
    },
    Program { name: "wrk", packages: &["wrk"], needed_for: "the load of `bench nginx`" },
    Program {
        // A module, without which fail2ban looks at its logs once a second.
        name: "/usr/lib/python3/dist-packages/pyinotify.py",
        packages: &["python3-pyinotify"],
        needed_for: "fail2ban to hear of log lines at once",
    },
];

/// What fuzzing needs; nothing else does.
const FUZZING: Program =
    Program { name: "c++", packages: &["g++"], needed_for: "building libFuzzer" };

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only report; exit with 1 when something is missing
    #[arg(long)]
    check: bool,
}

/// A program of the system and the Debian packages that it comes from.
struct Program {
    /// Found in `PATH`, unless it is an absolute path.
    name: &'static str,
    packages: &'static [&'static str],
    needed_for: &'static str,
}

/// One thing that setup looks for and can provide.
enum Need {
    Program(&'static Program),
    RustSource { channel: String },
    BpfLinker,
    CargoFuzz,
    CargoMutants,
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
    needs.extend(PEERS.iter().chain(NODE).chain([&REDIS, &NGINX]).map(Need::Program));
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
    needs.push(Need::BpfLinker);
    Ok(needs)
}

/// The same and those of the tests.
fn needs_of_tests(project: &Project) -> Result<Vec<Need>> {
    let mut needs = needs(project)?;
    let servers = [&REDIS, &NGINX, &BROWSER];
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
            Self::BpfLinker => format!("bpf-linker {BPF_LINKER_VERSION}"),
            Self::CargoFuzz => format!("cargo-fuzz {CARGO_FUZZ_VERSION}"),
            Self::CargoMutants => format!("cargo-mutants {CARGO_MUTANTS_VERSION}"),
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
            Self::BpfLinker => "to link the kernel programs".to_owned(),
            Self::CargoFuzz => "to fuzz the parser".to_owned(),
            Self::CargoMutants => "to change the engine and see who notices".to_owned(),
            Self::NpmPackages(packages) => packages.purpose.to_owned(),
            Self::Mongod => "to share bans between hosts under test".to_owned(),
            Self::Debian(_) => "to install the package on, in tests".to_owned(),
        }
    }

    /// Where it is, if it is there and usable.
    fn find(&self, project: &Project) -> Option<PathBuf> {
        match self {
            Self::Program(program) => find_program(program.name),
            Self::RustSource { .. } => find_rust_source(project),
            Self::BpfLinker => find_tool(project, "bpf-linker", BPF_LINKER_VERSION),
            Self::CargoFuzz => find_tool(project, "cargo-fuzz", CARGO_FUZZ_VERSION),
            Self::CargoMutants => find_tool(project, "cargo-mutants", CARGO_MUTANTS_VERSION),
            Self::NpmPackages(packages) => npm::find(project, *packages),
            Self::Mongod => mongod::find(project),
            Self::Debian(system) => debian::find(project, *system),
        }
    }

    fn provide(&self, project: &Project) -> Result<()> {
        match self {
            // All at once, before everything else, by `install_programs`.
            Self::Program(_) => Ok(()),
            Self::RustSource { channel } => install_rust_source(project, channel),
            Self::BpfLinker => build_tool(project, "bpf-linker", BPF_LINKER_VERSION),
            Self::CargoFuzz => build_tool(project, "cargo-fuzz", CARGO_FUZZ_VERSION),
            Self::CargoMutants => build_tool(project, "cargo-mutants", CARGO_MUTANTS_VERSION),
            Self::NpmPackages(packages) => npm::provide(project, *packages),
            Self::Mongod => mongod::provide(project),
            Self::Debian(system) => debian::provide(project, *system),
        }
    }
}

/// Looks in `PATH` and in the folders of system programs, which a user's `PATH` may lack.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// The programs among `missing`, whose packages are installed in one go.
fn programs(missing: &[Need]) -> Vec<&'static Program> {
    let program = |need: &Need| match need {
        Need::Program(program) => Some(*program),
        Need::RustSource { .. }
        | Need::BpfLinker
        | Need::CargoFuzz
        | Need::CargoMutants
        | Need::NpmPackages(_)
        | Need::Mongod
        | Need::Debian(_) => None,
    };
    missing.iter().filter_map(program).collect()
}

fn packages(programs: &[&Program]) -> Vec<&'static str> {
    programs.iter().flat_map(|program| program.packages).copied().collect()
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

fn how_to_install(programs: &[&Program], is_debian: bool) -> String {
    let names: Vec<&str> = programs.iter().map(|program| program.name).collect();
    let names = names.join(", ");
    let packages = packages(programs).join(" ");
    let advice = if is_debian {
        format!("to install them, run:\n  sudo apt-get install -y {packages}")
    } else {
        format!("install them with your package manager (in Debian they are in: {packages})")
    };
    format!("missing programs: {names}; {advice}")
}

fn install_programs(project: &Project, programs: &[&Program]) -> Result<()> {
    if programs.is_empty() {
        return Ok(());
    }
    let packages = packages(programs);
    step::heading(format!("setup: installing the packages {}", packages.join(" ")));
    apt_get(project, &["update"])?;
    let options = ["install", "-y", "--no-install-recommends"];
    apt_get(project, &[&options, packages.as_slice()].concat())
}

fn apt_get(project: &Project, arguments: &[&str]) -> Result<()> {
    let mut command = project.command("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
    step::run_quietly_on_stdout(&mut command)
}

fn find_rust_source(project: &Project) -> Option<PathBuf> {
    let mut rustc = project.command("rustc");
    let sysroot = step::output_of(rustc.args(["--print", "sysroot"])).ok()?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    library.join("core/Cargo.toml").is_file().then_some(library)
}

fn install_rust_source(project: &Project, channel: &str) -> Result<()> {
    let arguments = ["component", "add", "rust-src", "--toolchain", channel];
    let by_hand = format!("rustup {}", arguments.join(" "));
    if find_program("rustup").is_none() {
        bail!(
            "rust-src {channel} is missing and so is rustup; install rustup (https://rustup.rs), then run:\n  {by_hand}"
        );
    }
    step::heading(format!("setup: {by_hand}"));
    step::run_quietly_on_stdout(project.command("rustup").args(arguments)).with_context(|| {
        format!(
            "rust-src {channel} is missing; when rustup's server can be reached, run `{by_hand}`"
        )
    })
}

/// A tool of `.tools`, if it starts and has the right version.
fn find_tool(project: &Project, name: &str, version: &str) -> Option<PathBuf> {
    let path = project.tools().join("bin").join(name);
    // What cargo starts as a subcommand is told which.
    let subcommand = name.strip_prefix("cargo-");
    let printed = step::output_of(Command::new(&path).args(subcommand).arg("--version")).ok()?;
    (printed.trim() == format!("{name} {version}")).then_some(path)
}

fn build_tool(project: &Project, name: &str, version: &str) -> Result<()> {
    let tools = project.tools();
    // Of its own, so that the project's target folder is neither used nor locked, and
    // kept until the end, so that a build that was interrupted goes on where it stopped.
    let target = tools.join("build");
    step::heading(format!("setup: building {name} {version}, some minutes"));
    // Cargo warns of a folder that is not in `PATH`; this one need not be.
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([tools.join("bin")].into_iter().chain(env::split_paths(&path)))?;
    let mut command = project.command("cargo");
    command
        .env("PATH", path)
        .args(["install", name, "--version", version])
        .args(["--locked", "--force", "--root"])
        .arg(&tools)
        .env("CARGO_TARGET_DIR", &target)
        // Its release profile asks for debug information, which nobody will read here.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    step::run_quietly_on_stdout(&mut command)?;
    fs::remove_dir_all(&target).with_context(|| format!("cannot remove {}", target.display()))
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

    #[test]
    fn a_program_is_found_only_where_it_exists() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program").is_none());
    }

    #[test]
    fn on_debian_the_advice_is_a_command_to_copy() {
        let programs: Vec<&Program> = PROGRAMS.iter().collect();
        let advice = how_to_install(&programs[..2], true);
        assert!(advice.ends_with("\n  sudo apt-get install -y gcc libc6-dev iproute2"), "{advice}");
    }
}
