//! The units of the package, by systemctl(1): what they are called, whether systemd runs
//! this system at all, what it says of them, and what setup has it do with them.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

/// The daemon.
pub(super) const DAEMON: &str = "moderation.service";
/// What attaches at boot, and brings guards and reaper with it.
const LOADER: &str = "moderation-xdp.service";
/// What writes lines into the log.
pub(super) const SERVICES: [&str; 4] =
    [DAEMON, LOADER, "moderation-guard.service", "moderation-reaper.service"];
/// What the daemon is given to serve on.
pub(super) const SOCKETS: [&str; 3] =
    ["moderation-app.socket", "moderation-admin.socket", "moderation-nginx.socket"];

/// Ours, if systemd runs this system and has them.
#[derive(Debug)]
pub(super) struct Units {
    are_there: bool,
}

impl Units {
    pub(super) fn find() -> Self {
        let is_known =
            || systemctl(&["cat", DAEMON]).is_ok() && systemctl(&["cat", LOADER]).is_ok();
        Self { are_there: is_systemd() && is_known() }
    }

    pub(super) const fn are_there(&self) -> bool {
        self.are_there
    }

    /// Has the daemon follow its configuration, or start.
    pub(super) fn reload(&self) -> anyhow::Result<()> {
        if !self.are_there {
            return Ok(());
        }
        systemctl(&["reload-or-restart", DAEMON]).map(drop)
    }

    /// Now, which changes nothing that is attached, and at every boot.
    pub(super) fn enable(&self) -> anyhow::Result<()> {
        if !self.are_there {
            return Ok(());
        }
        systemctl(&["enable", "--quiet", DAEMON, LOADER])?;
        systemctl(&["restart", LOADER]).map(drop)
    }
}

/// Whether systemd runs this system.
pub(super) fn is_systemd() -> bool {
    sd_notify::booted().unwrap_or(false)
}

/// Properties of one unit by their names; one that is empty may be missing.
pub(super) type Properties = BTreeMap<String, String>;

/// What systemd says of units, in their order, also of those that it does not know.
///
/// # Errors
///
/// If it cannot be asked.
pub(super) fn show(units: &[&str], properties: &[&str]) -> anyhow::Result<Vec<Properties>> {
    let asked = format!("--property={}", properties.join(","));
    let arguments: Vec<_> = ["show", &asked].into_iter().chain(units.iter().copied()).collect();
    let shown = read(&systemctl(&arguments)?);
    if shown.len() != units.len() {
        bail!("systemctl says something of {} units instead of {}", shown.len(), units.len());
    }
    Ok(shown)
}

/// One paragraph for each unit.
fn read(text: &str) -> Vec<Properties> {
    let paragraphs = text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty());
    let pairs = |paragraph: &str| {
        let pairs = paragraph.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    paragraphs.map(pairs).collect()
}

/// What it prints.
fn systemctl(arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("systemctl");
    let command = command.args(arguments).stdin(Stdio::null());
    let output = command.output().context("cannot run systemctl")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("systemctl {} failed: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_has_its_paragraph() {
        let text = "LoadState=loaded\nActiveState=active\nResult=success\n\n\
                    LoadState=not-found\nActiveState=inactive\n";
        let shown = read(text);
        assert_eq!(shown.len(), 2, "{shown:?}");
        assert_eq!(shown[0]["Result"], "success");
        assert_eq!(shown[1]["LoadState"], "not-found");
        assert_eq!(shown[1].get("Result"), None);
        assert!(read("").is_empty());
    }
}
