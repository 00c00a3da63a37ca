//! Removes what crashed runs left behind: namespaces with the processes in
//! them, control groups, pin folders, temporary folders. Belongings of living
//! processes are not touched, so that test processes may run side by side.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};

use crate::name::Owner;
use crate::{bpffs, cgroup, mongod, namespace};

/// Where daemons under test keep their files. Not `TMPDIR`: an unprivileged
/// daemon must get there, and a socket's path has at most 107 bytes (unix(7)).
pub(crate) const TEMPORARY: &str = "/tmp";

const LOCK: &str = "/run/moderation-test.lock";

/// Removes everything whose maker is dead.
pub(crate) fn sweep() -> Result<()> {
    clear(&lock()?)
}

/// The same for one who holds the lock.
pub(crate) fn clear(_lock: &Flock<File>) -> Result<()> {
    for path in abandoned(namespace::FOLDER)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        namespace::remove(&name).context("cannot remove a leftover namespace")?;
    }
    if let Some(root) = cgroup::root()? {
        for path in abandoned(&root)? {
            let what = || format!("cannot remove leftover {}", path.display());
            cgroup::remove(&path).with_context(what)?;
        }
    }
    for folder in [bpffs::FOLDER, TEMPORARY] {
        for path in abandoned(folder)? {
            let what = || format!("cannot remove leftover {}", path.display());
            mongod::unmount_below(&path)?;
            fs::remove_dir_all(&path).with_context(what)?;
        }
    }
    Ok(())
}

/// Held by one process at a time, until it drops it or dies.
pub(crate) fn lock() -> Result<Flock<File>> {
    let file = File::create(LOCK).with_context(|| format!("cannot open {LOCK}"))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| anyhow!(error).context(format!("cannot lock {LOCK}")))
}

fn abandoned(folder: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let folder = folder.as_ref();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {}", folder.display()))?,
    };
    let abandoned = entries.flatten().map(|entry| entry.path()).filter(|path| is_abandoned(path));
    // What its maker removed after it was listed, and before the maker ended,
    // is not there any more.
    Ok(abandoned.filter(|path| path.exists()).collect())
}

fn is_abandoned(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Owner::of(&name).is_some_and(|owner| !owner.is_alive())
}
