//! Trying what must not work, as somebody else: the program `outsider` run as
//! another user without capabilities, and what it reports. Says nothing about
//! what should come of it.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::attempt::{self, Attempts};
use crate::namespace::Namespace;
use crate::{name, process, sweep};

/// A user and group other than ours, and copies of programs that they may run.
#[derive(Debug)]
pub struct Outsider {
    uid: u32,
    gid: u32,
    programs: TempDir,
}

impl Outsider {
    /// Somebody without capabilities and without further groups.
    pub fn new(uid: u32, gid: u32) -> Result<Self> {
        let programs = tempfile::Builder::new()
            .prefix(&format!("{}-", name::fresh()?))
            .tempdir_in(sweep::TEMPORARY)
            .context("cannot make a temporary folder")?;
        fs::set_permissions(programs.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self { uid, gid, programs })
    }

    /// Tries everything that only root may do to the pins of an instance.
    pub fn attack(&self, pin_root: &Path, interface: &str) -> Result<Attempts> {
        self.report(self.outsider()?.arg("attack").arg(pin_root).arg(interface))
    }

    /// Tries to detach and to remove all pins, the way the loader does it.
    pub fn switch_off(&self, pin_root: &Path, interface: &str) -> Result<Attempts> {
        self.report(self.outsider()?.arg("switch-off").arg(pin_root).arg(interface))
    }

    /// Reads who is guarded.
    pub fn read_guards(&self, pin_root: &Path) -> Result<Attempts> {
        self.report(self.outsider()?.arg("read-guards").arg(pin_root))
    }

    /// Opens every pinned map, for reading and writing.
    pub fn open_maps(&self, pin_root: &Path) -> Result<Attempts> {
        self.report(self.outsider()?.arg("open-maps").arg(pin_root))
    }

    /// Empties the operator's allowlist and writes a permanent ban, straight
    /// into the maps.
    pub fn ban(&self, pin_root: &Path, ip: IpAddr) -> Result<Attempts> {
        self.report(self.outsider()?.arg("ban").arg(pin_root).arg(ip.to_string()))
    }

    /// Writes a permanent ban straight into the maps, and nothing else.
    pub fn block(&self, pin_root: &Path, prefix: &str) -> Result<Attempts> {
        self.report(self.outsider()?.arg("block").arg(pin_root).arg(prefix))
    }

    /// Asks a socket of the daemon's for `/healthz`.
    pub fn ask(&self, socket: &Path) -> Result<Attempts> {
        self.report(self.outsider()?.arg("ask").arg(socket))
    }

    /// Sends a datagram to a socket of the daemon's.
    pub fn tell(&self, socket: &Path, text: &str) -> Result<Attempts> {
        self.report(self.outsider()?.arg("tell").arg(socket).arg(text))
    }

    /// Runs a program, from its copy in a folder that everybody may read.
    pub fn command(&self, program: &Path) -> Result<Command> {
        Ok(process::unprivileged(self.copy(program)?, self.uid, self.gid))
    }

    fn outsider(&self) -> Result<Command> {
        self.command(&crate::daemon::binary("outsider")?)
    }

    fn copy(&self, program: &Path) -> Result<PathBuf> {
        let name = program.file_name().context("a program has a name")?;
        let copy = self.programs.path().join(name);
        if !copy.exists() {
            process::copy_program(program, &copy)?;
        }
        Ok(copy)
    }

    fn report(&self, command: &mut Command) -> Result<Attempts> {
        let Output { status, stdout, stderr } = command.output()?;
        let stderr = String::from_utf8_lossy(&stderr);
        ensure!(status.success(), "{command:?} ended with {status}: {}", stderr.trim());
        attempt::read(&String::from_utf8(stdout)?)
    }
}

/// Runs a command inside a namespace to its end.
pub fn output(namespace: &Namespace, mut command: Command) -> Result<Output> {
    namespace.run(move || Ok(command.output()?))
}
