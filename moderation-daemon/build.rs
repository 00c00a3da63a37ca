//! Builds the kernel programs for their own target and hands the object to the
//! library as `KERNEL_OBJECT`, and the benchmarks' driver to the tests' build script
//! as `DRIVER_OBJECT`. It installs nothing: that is `cargo xtask setup`, which also
//! falls back to Debian's compiler where rustup's has no sources of `core`.
//!
//! Not aya-build: that one wants `RUSTC_BOOTSTRAP` set for the whole build,
//! host crates included, and bpf-linker on `PATH`.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

const SETUP: &str = "run `cargo xtask setup` first";

/// Where Debian's compiler is: the sysroot of `rustc-web`.
const DEBIAN: &str = "/usr";

fn main() {
    match build() {
        Ok(objects) => {
            let object = |name| objects.join(name).display().to_string();
            println!("cargo::rustc-env=KERNEL_OBJECT={}", object("moderation"));
            println!("cargo::rustc-env=LINES_OBJECT={}", object("lines"));
            println!("cargo::metadata=DRIVER_OBJECT={}", object("driver"));
        }
        // This fails the build, and says only this; a failing exit code would
        // have cargo print everything that the script did.
        Err(problem) => println!("cargo::error={problem}"),
    }
}

/// Returns the folder of the objects.
fn build() -> Result<PathBuf, String> {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = manifest.parent().ok_or("the daemon's crate lies outside a workspace")?;
    watch(root);

    let toolchain = Toolchain::find(root)?;
    println!("cargo::rerun-if-changed={}", toolchain.linker.display());

    // A target directory of its own: cargo holds a lock on the outer one.
    let target_dir = PathBuf::from(variable("OUT_DIR")?).join("ebpf");
    let target = format!("bpf{}-unknown-none", endian()?);
    compile(root, &toolchain, &target_dir, &target)?;
    Ok(target_dir.join(target).join("release"))
}

fn watch(root: &Path) {
    for path in ["moderation-ebpf", "moderation-common", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
}

/// What the kernel programs are built with: compiler and linker share one LLVM.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    /// The compiler's, with the sources of `core`.
    sysroot: PathBuf,
    linker: PathBuf,
}

impl Toolchain {
    /// The compiler of the whole build, if it has the sources of `core`; else Debian's,
    /// if setup has fallen back to that.
    fn find(root: &Path) -> Result<Self, String> {
        let rustc = PathBuf::from(variable("RUSTC")?);
        let linker = root.join(".tools/bin/bpf-linker");
        let debian_linker = root.join(".tools/debian/bin/bpf-linker");
        let sysroot = sysroot(&rustc)?;
        let is_rustups = sysroot != Path::new(DEBIAN) && has_core(&sysroot);
        if is_rustups && linker.is_file() {
            return Ok(Self { cargo: variable("CARGO")?.into(), rustc, sysroot, linker });
        }
        let debian = Path::new(DEBIAN);
        if has_core(debian) && debian_linker.is_file() {
            return Ok(Self {
                cargo: debian.join("bin/cargo"),
                rustc: debian.join("bin/rustc"),
                sysroot: debian.to_owned(),
                linker: debian_linker,
            });
        }
        let missing = if is_rustups { "bpf-linker" } else { "rust-src" };
        Err(format!("{missing} is missing: {SETUP}"))
    }
}

fn sysroot(rustc: &Path) -> Result<PathBuf, String> {
    let printed = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .map_err(|error| format!("rustc does not run: {error}"))?;
    Ok(PathBuf::from(String::from_utf8_lossy(&printed.stdout).trim()))
}

fn has_core(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}

/// The letters that LLVM's BPF targets have for the host's byte order.
fn endian() -> Result<&'static str, String> {
    let endian = variable("CARGO_CFG_TARGET_ENDIAN")?;
    Ok(if endian == "big" { "eb" } else { "el" })
}

/// Debug information, which becomes BTF and is shown by bpftool, without the paths of
/// this machine, which would make every machine's object another.
fn flags(root: &Path, toolchain: &Toolchain, target_dir: &Path) -> Result<OsString, String> {
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => env::home_dir().ok_or("the home folder is unknown; set CARGO_HOME")?.join(".cargo"),
    };
    // Of two that fit, the compiler takes the later one.
    let places = [
        (toolchain.sysroot.as_path(), "/usr/src/rust"),
        (&cargo_home, "/usr/src/cargo"),
        (root, "/usr/src/moderation"),
        (target_dir, "/usr/src/moderation/target/ebpf"),
    ];
    let mut flags =
        OsString::from("-Cdebuginfo=2\x1f-Clink-arg=--btf\x1f--remap-path-scope=object");
    for (path, instead) in places {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(path);
        flags.push("=");
        flags.push(instead);
    }
    Ok(flags)
}

fn compile(
    root: &Path,
    toolchain: &Toolchain,
    target_dir: &Path,
    target: &str,
) -> Result<(), String> {
    let mut cargo = Command::new(&toolchain.cargo);
    cargo
        .current_dir(root)
        .args(["build", "--package", "moderation-ebpf", "--bins"])
        .args(["--release", "-Z", "build-std=core", "--locked", "--target", target])
        .arg("--target-dir")
        .arg(target_dir)
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root, toolchain, target_dir)?)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_TARGET_BPFEB_UNKNOWN_NONE_LINKER", &toolchain.linker);
    // What the outer build says about itself must not leak into this one.
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_CFG_") || name_text.starts_with("CARGO_FEATURE_") {
            cargo.env_remove(&name);
        }
    }
    for name in ["RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    let output = cargo.output().map_err(|error| format!("cargo does not run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    // The compiler's own words are shown only if the script itself fails.
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    println!("cargo::error=the kernel programs do not build ({})", output.status);
    std::process::exit(1)
}
