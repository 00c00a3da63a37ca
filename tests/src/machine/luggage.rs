//! What a machine is given: a folder of files, which is put together before it boots.
//! Says nothing about what they are for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{name, process, sweep};

/// Room for the file system's own tables, beside the files.
const SPARE_BYTES: u64 = 16 << 20;

/// See the module. A machine finds it at `/mnt`.
#[derive(Debug)]
pub struct Luggage {
    folder: TempDir,
}

impl Luggage {
    /// Nothing yet.
    pub fn new() -> Result<Self> {
        sweep::sweep()?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", name::fresh()?))
            .tempdir_in(sweep::TEMPORARY)
            .context("cannot make a temporary folder")?;
        fs::create_dir(folder.path().join("files"))?;
        Ok(Self { folder })
    }

    /// Puts a copy of a file in, which keeps its mode, as `name`.
    pub fn pack(&mut self, file: &Path, name: &str) -> Result<()> {
        process::copy_program(file, &self.files().join(name))
    }

    /// Writes a file.
    pub fn write(&mut self, name: &str, text: &str) -> Result<()> {
        let path = self.files().join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The folder of the files.
    pub(super) fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// A folder beside them that is removed with them.
    pub(super) fn state(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a disk of them, labelled `luggage`.
    pub(super) fn disk(&self, path: &Path) -> Result<()> {
        let mut bytes = SPARE_BYTES;
        for entry in fs::read_dir(self.files())? {
            bytes += entry?.metadata()?.len();
        }
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-t", "ext4", "-L", "luggage", "-d"]).arg(self.files());
        command.arg(path).arg(format!("{}k", bytes * 11 / 10 / 1024));
        let made = command.output().context("cannot start mke2fs (e2fsprogs)")?;
        let complaint = String::from_utf8_lossy(&made.stderr);
        ensure!(made.status.success(), "mke2fs: {}", complaint.trim());
        Ok(())
    }
}
