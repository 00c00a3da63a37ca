//! Closing connections as somebody else who has one capability, or none: the
//! program `closer` and how it is run. What should come of it is not known here.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::{fs, str};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::daemon::binary;
use crate::namespace::Namespace;
use crate::{name, outsider, process, sweep};

/// Whom nothing belongs to (`nobody`).
const UID: u32 = 65534;

/// A copy of the program that everybody may run.
#[derive(Debug)]
pub struct Closer {
    program: PathBuf,
    _folder: TempDir,
}

impl Closer {
    /// Copies the program.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", name::fresh()?))
            .tempdir_in(sweep::TEMPORARY)
            .context("cannot make a temporary folder")?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let program = folder.path().join("closer");
        process::copy_program(&binary("closer")?, &program)?;
        Ok(Self { program, _folder: folder })
    }

    /// Closes the connections of `peer` in a namespace, with no capability but
    /// `CAP_NET_ADMIN`, and says how many there were.
    pub fn close(&self, namespace: &Namespace, peer: IpAddr) -> Result<u64> {
        self.run(namespace, "-all,+net_admin", peer)
    }

    /// The same without that.
    pub fn close_without_capability(&self, namespace: &Namespace, peer: IpAddr) -> Result<u64> {
        self.run(namespace, "-all", peer)
    }

    fn run(&self, namespace: &Namespace, capabilities: &str, peer: IpAddr) -> Result<u64> {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={UID}")).arg(format!("--regid={UID}")).arg("--clear-groups");
        for set in ["inh-caps", "ambient-caps", "bounding-set"] {
            command.arg(format!("--{set}={capabilities}"));
        }
        command.args(["--no-new-privs", "--"]).arg(&self.program).arg(peer.to_string());
        let finished = outsider::output(namespace, command)?;
        let complaint = String::from_utf8_lossy(&finished.stderr);
        ensure!(finished.status.success(), "closer: {}", complaint.trim());
        Ok(str::from_utf8(&finished.stdout)?.trim().parse()?)
    }
}
