//! The units, by systemctl(1): the daemon follows its configuration, and all is done
//! again at boot.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// The daemon.
const DAEMON: &str = "moderation.service";
/// What attaches at boot, and brings guards and reaper with it.
const LOADER: &str = "moderation-xdp.service";

/// Ours, if systemd runs this system and has them.
#[derive(Debug)]
pub(super) struct Units {
    are_there: bool,
}

impl Units {
    pub(super) fn find() -> Self {
        let is_known =
            || systemctl(&["cat", DAEMON]).is_ok() && systemctl(&["cat", LOADER]).is_ok();
        Self { are_there: sd_notify::booted().unwrap_or(false) && is_known() }
    }

    pub(super) const fn are_there(&self) -> bool {
        self.are_there
    }

    /// Has the daemon follow its configuration, or start.
    pub(super) fn reload(&self) -> anyhow::Result<()> {
        if !self.are_there {
            return Ok(());
        }
        systemctl(&["reload-or-restart", DAEMON])
    }

    /// Now, which changes nothing that is attached, and at every boot.
    pub(super) fn enable(&self) -> anyhow::Result<()> {
        if !self.are_there {
            return Ok(());
        }
        systemctl(&["enable", "--quiet", DAEMON, LOADER])?;
        systemctl(&["restart", LOADER])
    }
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("systemctl");
    let command = command.args(arguments).stdin(Stdio::null());
    let output = command.output().context("cannot run systemctl")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("systemctl {} failed: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}
