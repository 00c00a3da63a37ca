//! On what, and with which commit, a benchmark ran. For the report only.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::utsname::uname;
use serde::Serialize;

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// The processor, as it names itself.
    pub cpu: String,
    /// How many of them the system sees.
    pub cores: usize,
}

impl Machine {
    /// The one that this runs on.
    pub(super) fn current() -> Result<Self> {
        let kernel = uname().context("the kernel does not say its name")?;
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        Ok(Self {
            kernel: kernel.release().to_string_lossy().into_owned(),
            cpu: model(&cpuinfo).unwrap_or("unknown").to_owned(),
            cores: processors(&cpuinfo),
        })
    }
}

/// The first processor's name.
fn model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim())
}

/// Not those that this thread may use, which a benchmark restricts.
fn processors(cpuinfo: &str) -> usize {
    cpuinfo.lines().filter(|line| line.starts_with("processor")).count()
}

/// The commit that is checked out here, with `-dirty` if the files are not its.
pub(super) fn commit() -> Result<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]);
    let output = git.output().context("cannot start git, to name the commit")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git cannot name the commit: {}", complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_and_named_as_they_name_themselves() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nprocessor\t: 1\n";
        assert_eq!(processors(cpuinfo), 2);
        assert_eq!(model(cpuinfo), Some("Some CPU @ 2.00GHz"));
        assert_eq!(model("processor : 0\n"), None);
    }
}
