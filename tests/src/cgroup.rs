//! A control group of version 2 for the processes of one experiment. Who moves
//! into it does so himself; when the handle goes, so does the group with those below
//! it, if they are empty by then.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{name, sweep, wait};

/// For the last process to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct ControlGroup(PathBuf);

impl ControlGroup {
    /// Makes one that nothing else uses; `None` if no control groups of version
    /// 2 are mounted.
    pub fn create() -> Result<Option<Self>> {
        sweep::sweep()?;
        let Some(root) = root()? else { return Ok(None) };
        let path = root.join(name::fresh()?);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Some(Self(path)))
    }

    /// Removes the groups below it, which must be empty of processes soon.
    pub fn clear(&self) -> Result<()> {
        for below in below(&self.0)? {
            wait::until("the control groups to be empty", PATIENCE, || removed(&below))?;
        }
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // A process that was reaped may be in its group for a moment more.
        let removed = wait::until("the control group to be empty", PATIENCE, || removed(&self.0));
        if let Err(error) = removed {
            eprintln!("cannot remove {}: {error:#}", self.0.display());
        }
    }
}

/// Removes a group with those below it, unless a process is in one of them.
fn removed(path: &Path) -> Result<Option<()>> {
    match remove(path) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(None),
        result => Ok(Some(result?)),
    }
}

/// Removes a group after those below it; files in them are the kernel's and go along.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    for below in below(path)? {
        remove(&below)?;
    }
    fs::remove_dir(path)
}

fn below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

/// Where they are mounted: alone, or beside version 1.
pub(crate) fn root() -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot list mounts")?;
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = mounts.find(|fields| fields.get(2) == Some(&"cgroup2"));
    Ok(found.map(|fields| PathBuf::from(fields[1])))
}
