//! The embedded store: an SQLite database with bans, violations, scores and
//! the operator's allowlist. It writes down what the engine decided and reads
//! it back after a start; it decides nothing.

mod checkpoint;
mod counters;
mod explain;
mod imports;
mod leases;
mod librechat;
#[cfg(feature = "mongodb")]
pub mod mongo;
mod outbox;
mod penalties;
mod prune;
mod read;
mod records;
#[cfg(feature = "redis")]
pub mod redis;
mod schema;
mod totals;
mod write;

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use rusqlite::{Connection, OpenFlags, Transaction};
use rusqlite_migration::Migrations;

use checkpoint::Checkpointer;
pub use counters::Counters;
pub use explain::{About, History, Total, ViolationRecord};
pub use imports::{ImportStore, Place, Removal, Removed, RunMismatch, Slice};
pub use librechat::{Page, RecordRow, ScorePlace, TakenRecords};
pub use outbox::{Named, Notes, Outbox, Waiting};
pub use penalties::PenaltyPage;
pub use prune::Keep;
pub use read::{BanOrder, BanPage, BanRecord, Reader, Skipped};
pub use records::Backlog;
pub use write::is_durable;

use crate::pseudonym::Names;

/// What failed, and on what.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another daemon works with it.
    #[error("another daemon works with {}", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The database file cannot be made.
    #[error("cannot create {}; its folder must belong to the daemon's user", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// Its tables cannot be made or brought up to date.
    #[error("cannot bring {} up to date", path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rusqlite_migration::Error,
    },
    /// A transaction failed as a whole.
    #[error("cannot commit to the store")]
    Commit(#[source] rusqlite::Error),
    /// A query failed.
    #[error("cannot read {0} from the store")]
    Read(&'static str, #[source] rusqlite::Error),
    /// Somebody else wrote something that cannot be.
    #[error("{table} {id}: {problem}")]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// Which row.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The one connection that writes.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    checkpointer: Checkpointer,
    /// What users are called in records of violations.
    names: Names,
    /// Whether other hosts learn of bans.
    sharing: Option<outbox::Sharing>,
    /// Two daemons on one database would give the same numbers to their bans.
    _lock: File,
}

/// One prefix of the operator's allowlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The prefix.
    pub prefix: IpNet,
    /// What for, for people.
    pub note: Option<String>,
}

/// How long to wait for somebody else's lock: an operator with `sqlite3`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

impl Store {
    /// Opens the database, making it or bringing it up to date if need be.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (connection, lock) = open(path, &schema::migrations())?;
        let checkpointer = Checkpointer::start(path)?;
        connection
            .pragma_update(None, "wal_autocheckpoint", checkpoint::MOST_PAGES)
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        Ok(Self { connection, checkpointer, names: Names::default(), sharing: None, _lock: lock })
    }

    /// The same, with other names for users in records of violations from now
    /// on; readers that are made of it look for these.
    pub fn with_names(self, names: Names) -> Self {
        Self { names, ..self }
    }

    /// A connection that only reads, beside this one.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn reader(&self, path: &Path) -> Result<Reader, StoreError> {
        let open = |source| StoreError::Open { path: path.to_owned(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(open)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(open)?;
        Ok(Reader::new(connection, self.names.clone()))
    }
}

/// Opens a database for writing, ours alone, and brings it up to date.
fn open(path: &Path, migrations: &Migrations<'_>) -> Result<(Connection, File), StoreError> {
    let lock = lock(path)?;
    drop(create(path)?);
    let open = |source| StoreError::Open { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(open)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(open)?;
    // A commit that was acknowledged survives a power cut: FULL syncs the log
    // before it returns, NORMAL would not.
    connection.pragma_update(None, "journal_mode", "WAL").map_err(open)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(open)?;
    migrations
        .to_latest(&mut connection)
        .map_err(|source| StoreError::Migrate { path: path.to_owned(), source })?;
    Ok((connection, lock))
}

/// SQLite would make the file readable by everyone; who was banned is nobody's
/// business.
fn create(path: &Path) -> Result<File, StoreError> {
    let failed = |source| StoreError::Create { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(failed)
}

/// Held until the store is dropped or the process ends, however it does. Beside
/// the database, because SQLite uses locks on that file itself.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let file = create(&lock_path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(StoreError::Create { path: lock_path, source }),
    }
}

/// Does all of the work, or none.
fn transaction<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error>,
) -> Result<T, StoreError> {
    let run = || {
        let transaction = connection.transaction()?;
        let result = work(&transaction)?;
        transaction.commit()?;
        Ok(result)
    };
    run().map_err(StoreError::Commit)
}

/// SQLite's integers are signed; times beyond year 292 million stay there.
fn sql_ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod import_tests;
#[cfg(test)]
mod tests;
