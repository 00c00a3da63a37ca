//! Reading files of others with caution: so much and no more, and, where it
//! matters, only root's. It does not know what is in them.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use nix::{errno::Errno, fcntl::OFlag};

use super::{GuardProblem, Why};

/// Nobody but the owner and a group of the owner's choice may write what
/// counts as a login.
const WRITABLE_BY_EVERYBODY: u32 = 0o002;

/// The first `limit_bytes` of a file, and whether there is more; `None` if
/// there is no such file. Symbolic links are followed.
pub(super) fn read(
    path: &Path,
    why: Why,
    limit_bytes: u64,
) -> Result<Option<(Vec<u8>, bool)>, GuardProblem> {
    open(path, OFlag::O_NONBLOCK).and_then(|file| contents(file, limit_bytes)).or_else(|source| {
        let path = path.to_owned();
        if is_absent(&source) { Ok(None) } else { Err(GuardProblem::Read { why, path, source }) }
    })
}

/// The same of a plain file that is `owner`'s alone to write, and no symbolic
/// link.
pub(super) fn read_owned(
    path: &Path,
    owner: u32,
    limit_bytes: u64,
) -> Result<Option<(Vec<u8>, bool)>, GuardProblem> {
    let untrusted = || GuardProblem::Untrusted { path: path.to_owned(), owner };
    let failed = |source| GuardProblem::Read { why: Why::Session, path: path.to_owned(), source };
    // Without O_NONBLOCK, opening a pipe would wait for somebody to write.
    let file = match open(path, OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        // A symbolic link (open(2), O_NOFOLLOW).
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => return Err(untrusted()),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let is_theirs = metadata.uid() == owner && metadata.mode() & WRITABLE_BY_EVERYBODY == 0;
    if !metadata.is_file() || !is_theirs {
        return Err(untrusted());
    }
    contents(file, limit_bytes).map_err(failed)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn open(path: &Path, flags: OFlag) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

fn contents(file: File, limit_bytes: u64) -> io::Result<Option<(Vec<u8>, bool)>> {
    let mut bytes = Vec::new();
    let read = file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    let limit = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
    bytes.truncate(limit);
    Ok(Some((bytes, read > limit)))
}
