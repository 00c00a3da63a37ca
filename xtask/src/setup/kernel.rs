//! What the kernel programs are built with: the pinned compiler and, from rustup, the
//! sources of `core`; or, where rustup's servers cannot be reached, Debian's compiler
//! with its own. The linker must carry the LLVM of the compiler. The daemon's build
//! script takes what it finds here in the same order.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::program::{find_program, install_packages};
use super::tool;
use crate::project::Project;
use crate::step;

/// Loads the libLLVM of rustup's compiler, so its LLVM major must be that of the pinned
/// one; move the two together.
const LINKER_VERSION: &str = "0.10.3";

/// Has the libLLVM of Debian's packages, which is that of Debian's compiler.
const DEBIAN_LINKER_VERSION: &str = "0.13.0";

/// Where Debian's compiler is.
const DEBIAN: &str = "/usr";
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev"];
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";

/// Whose compiler it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Toolchain {
    Rustup,
    Debian,
}

impl Toolchain {
    /// `cargo` with this compiler, which takes what is unstable in the standard library.
    fn cargo(self, project: &Project) -> Command {
        let mut cargo = match self {
            Self::Rustup => project.command("cargo"),
            Self::Debian => {
                let debian = Path::new(DEBIAN);
                let mut cargo = project.command(debian.join("bin/cargo"));
                cargo.env("RUSTC", debian.join("bin/rustc"));
                cargo
            }
        };
        cargo.env("RUSTC_BOOTSTRAP", "1");
        cargo
    }
}

/// The first whose compiler has the sources of `core`, and these.
fn find(project: &Project) -> Option<(Toolchain, PathBuf)> {
    let rustup = sysroot(project.command("rustc"))
        .filter(|sysroot| sysroot != Path::new(DEBIAN))
        .and_then(|sysroot| library(&sysroot))
        .map(|library| (Toolchain::Rustup, library));
    rustup.or_else(|| debian_library(project).map(|library| (Toolchain::Debian, library)))
}

fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    let printed = step::output_of(rustc.args(["--print", "sysroot"])).ok()?;
    Some(PathBuf::from(printed.trim()))
}

fn library(sysroot: &Path) -> Option<PathBuf> {
    let library = sysroot.join("lib/rustlib/src/rust/library");
    library.join("core/Cargo.toml").is_file().then_some(library)
}

/// Debian has older compilers, too, whose LLVM is another than the linker's.
fn debian_library(project: &Project) -> Option<PathBuf> {
    let mut rustc = project.command(Path::new(DEBIAN).join("bin/rustc"));
    let version = step::output_of(rustc.arg("-vV")).ok()?;
    let has_llvm =
        version.contains("LLVM version: 22.") && Path::new(DEBIAN_LLVM).join("include").is_dir();
    has_llvm.then(|| library(Path::new(DEBIAN))).flatten()
}

/// The sources of `core`.
pub(super) fn find_source(project: &Project) -> Option<PathBuf> {
    find(project).map(|(_, library)| library)
}

/// Asks rustup for the sources of `core`, and falls back to Debian's compiler.
///
/// # Errors
///
/// When neither can provide them; the message says what to do.
pub(super) fn provide_source(project: &Project, channel: &str) -> Result<()> {
    let Err(error) = install_rust_source(project, channel) else {
        return Ok(());
    };
    let can_install = find_program("apt-get").is_some() && nix::unistd::geteuid().is_root();
    if !can_install {
        let packages = DEBIAN_PACKAGES.join(" ");
        return Err(error.context(format!(
            "where rustup's server cannot be reached, Debian's compiler does, too; to install \
             it, run:\n  sudo apt-get install -y {packages}"
        )));
    }
    eprintln!("setup: {error:#}");
    eprintln!("setup: falling back to Debian's compiler for the kernel programs");
    install_packages(project, &DEBIAN_PACKAGES)
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

/// The lock file of the standard library, once all that it names can be had without a
/// network: cargo wants to know of them even to build `core`, which needs none.
pub(super) fn find_dependencies(project: &Project) -> Option<PathBuf> {
    let (toolchain, library) = find(project)?;
    let mut cargo = toolchain.cargo(project);
    cargo.args(["metadata", "--offline", "--locked", "--format-version", "1"]);
    step::output_of(cargo.arg("--manifest-path").arg(library.join("Cargo.toml"))).ok()?;
    Some(library.join("Cargo.lock"))
}

/// Fetches what the standard library depends on, into cargo's own folder.
///
/// # Errors
///
/// When it cannot be fetched.
pub(super) fn provide_dependencies(project: &Project) -> Result<()> {
    let (toolchain, library) = find(project).context("the sources of core are missing")?;
    let mut cargo = toolchain.cargo(project);
    cargo.args(["fetch", "--locked", "--manifest-path"]).arg(library.join("Cargo.toml"));
    step::run_quietly_on_stdout(&mut cargo)
}

/// The linker that goes with the compiler.
pub(super) fn find_linker(project: &Project) -> Option<PathBuf> {
    match find(project)?.0 {
        Toolchain::Rustup => tool::find(&project.tools(), "bpf-linker", LINKER_VERSION),
        Toolchain::Debian => {
            tool::find(&debian_tools(project), "bpf-linker", DEBIAN_LINKER_VERSION)
        }
    }
}

/// Apart, so that both can be there.
fn debian_tools(project: &Project) -> PathBuf {
    project.tools().join("debian")
}

/// Builds the linker that goes with the compiler.
///
/// # Errors
///
/// When it does not build.
pub(super) fn provide_linker(project: &Project) -> Result<()> {
    let (toolchain, _) = find(project).context("the sources of core are missing")?;
    match toolchain {
        Toolchain::Rustup => {
            tool::build(project.command("cargo"), &project.tools(), "bpf-linker", LINKER_VERSION)
        }
        Toolchain::Debian => {
            let mut cargo = toolchain.cargo(project);
            cargo.env("LLVM_PREFIX", DEBIAN_LLVM);
            tool::build_with(
                cargo,
                &["--no-default-features", "--features", "llvm-22"],
                &debian_tools(project),
                "bpf-linker",
                DEBIAN_LINKER_VERSION,
            )
        }
    }
}
