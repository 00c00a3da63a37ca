//! A folder in bpffs for each daemon's pins, removed with them. Mounts bpffs
//! where it is missing; what is pinned, and how, is the daemon's affair.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::sweep;

const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Where the lab's pin folders are.
pub(crate) const FOLDER: &str = "/sys/fs/bpf/moderation-test";

/// A path for pins that nothing else uses. The daemon or its loader makes the
/// folder; dropping this removes it, which also detaches a pinned link.
#[derive(Debug)]
pub(crate) struct PinFolder(PathBuf);

impl PinFolder {
    /// Makes sure that bpffs is there and reserves a path in it.
    pub(crate) fn reserve(name: &str) -> Result<Self> {
        ensure_mounted()?;
        fs::create_dir_all(FOLDER).with_context(|| format!("cannot make {FOLDER}"))?;
        Ok(Self(Path::new(FOLDER).join(name)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PinFolder {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                eprintln!("cannot remove {}: {error}", self.0.display());
            }
            _ => {}
        }
    }
}

/// Under the lock: two processes that both find it missing would mount one
/// over the other and hide the first one's pins.
fn ensure_mounted() -> Result<()> {
    let _lock = sweep::lock()?;
    let what = || format!("cannot look at {MOUNT_POINT}: is CONFIG_BPF_SYSCALL on?");
    if statfs(MOUNT_POINT).with_context(what)?.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    mount(Some("bpf"), MOUNT_POINT, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount bpffs at {MOUNT_POINT}"))
}
