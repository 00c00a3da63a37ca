//! `cargo xtask fuzz`: throws frames that nobody would send at the parser, compiled for
//! the host, for a while. It begins with the seeds of `fuzz/seeds.txt` and with what
//! earlier runs found interesting, which the target folder keeps.

use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::project::Project;
use crate::{exit_code, setup, step};

/// The fuzz target, and the folder of its frames.
const TARGET: &str = "parse";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long to go on
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs the command.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    let passed = fuzz(project, arguments.seconds)?;
    if !passed {
        eprintln!("fuzz: FAILED; the frame is in fuzz/artifacts/{TARGET}, see above");
    }
    Ok(exit_code(passed))
}

/// Fuzzes for so long, and tells whether nothing was found.
///
/// # Errors
///
/// When what it needs is missing and cannot be provided, or nothing can be started.
pub(crate) fn fuzz(project: &Project, seconds: u32) -> Result<bool> {
    setup::ensure_for_fuzz(project)?;
    step::heading(format!("fuzz: the parser, for {seconds} s after its build"));
    let built = project.target().join("fuzz");
    let corpus = built.join("corpus").join(TARGET);
    plant(&project.root().join("fuzz/seeds.txt"), &corpus)?;
    let mut command = project.command(project.tools().join("bin/cargo-fuzz"));
    command
        // Sanitizers are unstable; the pinned compiler is a stable one.
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["fuzz", "run", "--fuzz-dir", "fuzz"])
        .args(["--target", &format!("{ARCH}-unknown-linux-gnu"), "--target-dir"])
        .arg(&built)
        .arg(TARGET)
        .arg(&corpus)
        .args(["--", "-max_len=512", "-print_final_stats=1"])
        .arg(format!("-max_total_time={seconds}"));
    step::succeeds(&mut command)
}

/// Writes each seed into a file of its own.
fn plant(seeds: &Path, corpus: &Path) -> Result<()> {
    let text =
        fs::read_to_string(seeds).with_context(|| format!("cannot read {}", seeds.display()))?;
    fs::create_dir_all(corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('#') {
            continue;
        }
        let (name, frame) =
            seed(line).with_context(|| format!("{}:{}: no seed", seeds.display(), index + 1))?;
        let path = corpus.join(name);
        fs::write(&path, frame).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A name and the frame behind it.
fn seed(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, hex) = line.split_once(' ')?;
    if !hex.is_ascii() || hex.len() % 2 != 0 {
        return None;
    }
    let octets = (0..hex.len()).step_by(2);
    let frame: Option<Vec<u8>> =
        octets.map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect();
    frame.map(|frame| (name, frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_name_and_a_frame() {
        assert_eq!(seed("arp 0806ff"), Some(("arp", vec![0x08, 0x06, 0xff])));
    }

    #[test]
    fn what_is_no_frame_is_no_seed() {
        for line in ["", "arp", "arp 080", "arp 08zz", "arp 0\u{e9}"] {
            assert_eq!(seed(line), None, "{line}");
        }
    }
}
