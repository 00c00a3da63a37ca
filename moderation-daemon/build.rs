//! Builds the kernel programs for their own target and hands the object to the
//! library as `KERNEL_OBJECT`, and the benchmarks' driver to the tests' build script
//! as `DRIVER_OBJECT`. It installs nothing: that is `cargo xtask setup`.
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

    let linker = root.join(".tools/bin/bpf-linker");
    if !linker.is_file() {
        return Err(format!("bpf-linker is missing: {SETUP}"));
    }
    require_rust_src()?;

    // A target directory of its own: cargo holds a lock on the outer one.
    let target_dir = PathBuf::from(variable("OUT_DIR")?).join("ebpf");
    let target = format!("bpf{}-unknown-none", endian()?);
    compile(root, &linker, &target_dir, &target)?;
    Ok(target_dir.join(target).join("release"))
}

fn watch(root: &Path) {
    let sources = ["moderation-ebpf", "moderation-common", "Cargo.toml", "Cargo.lock"];
    for path in sources.into_iter().chain([".tools/bin/bpf-linker"]) {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}

/// The letters that LLVM's BPF targets have for the host's byte order.
fn endian() -> Result<&'static str, String> {
    let endian = variable("CARGO_CFG_TARGET_ENDIAN")?;
    Ok(if endian == "big" { "eb" } else { "el" })
}

fn require_rust_src() -> Result<(), String> {
    let printed = Command::new(variable("RUSTC")?)
        .args(["--print", "sysroot"])
        .output()
        .map_err(|error| format!("rustc does not run: {error}"))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&printed.stdout).trim());
    let core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if core.is_file() { Ok(()) } else { Err(format!("rust-src is missing: {SETUP}")) }
}

fn compile(root: &Path, linker: &Path, target_dir: &Path, target: &str) -> Result<(), String> {
    // Debug info becomes BTF, which the kernel shows to bpftool.
    let flags = ["-Cdebuginfo=2", "-Clink-arg=--btf"].join("\x1f");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(root)
        .args(["build", "--package", "moderation-ebpf", "--bins"])
        .args(["--release", "-Z", "build-std=core", "--locked", "--target", target])
        .arg("--target-dir")
        .arg(target_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_TARGET_BPFEB_UNKNOWN_NONE_LINKER", linker);
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
