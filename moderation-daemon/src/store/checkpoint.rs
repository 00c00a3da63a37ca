//! Moving what the write-ahead log holds into the database, on a thread of its
//! own: within a commit, as SQLite does it unless told otherwise, every hundredth
//! decision would wait some milliseconds for it.

use std::{
    path::Path,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, OpenFlags};

use super::{BUSY_TIMEOUT, StoreError};

/// After so many commits the log is emptied: some megabytes. Those that come while
/// that is done share the disk with it, so that it is to be rare.
pub(super) const COMMITS: u32 = 512;

/// Pages of the log from which on a commit empties it after all, should the
/// thread be gone or readers keep it from going on: 64 MiB.
pub(super) const MOST_PAGES: i64 = 16_384;

/// The thread, and when it was last called.
#[derive(Debug)]
pub(super) struct Checkpointer {
    /// Room for one call: more would ask for the same.
    calls: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    commits: u32,
}

impl Checkpointer {
    /// For the database at `path`, which exists.
    pub(super) fn start(path: &Path) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open { path: path.to_owned(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(open)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(open)?;
        let (calls, called) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || work(&connection, &called))
            .map_err(|source| StoreError::Create { path: path.to_owned(), source })?;
        Ok(Self { calls: Some(calls), thread: Some(thread), commits: 0 })
    }

    /// After a commit.
    pub(super) fn committed(&mut self) {
        self.commits += 1;
        if self.commits < COMMITS {
            return;
        }
        self.commits = 0;
        match self.calls.as_ref().map(|calls| calls.try_send(())) {
            // It is called already.
            None | Some(Ok(()) | Err(TrySendError::Full(()))) => {}
            Some(Err(TrySendError::Disconnected(()))) => {
                tracing::error!("the thread that empties the store's log is gone; commits do it");
            }
        }
    }

    /// Has the thread do what it was called for, and ends it.
    pub(super) fn finish(&mut self) {
        self.calls = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that empties the store's log panicked");
        }
    }
}

/// Until nobody calls any more. "Passive" waits for nobody: what a reader still
/// needs is left for the next time.
fn work(connection: &Connection, called: &Receiver<()>) {
    while called.recv().is_ok() {
        let done = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = done {
            tracing::warn!(%error, "the store's log cannot be emptied; it grows until it can");
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.finish();
    }
}
