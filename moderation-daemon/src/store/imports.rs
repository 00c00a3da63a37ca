//! Imported lists on disk: a database of their own beside the store, so that a
//! million rows never hold up the commit of a decision. What an entry means is
//! not known here.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, Error, OptionalExtension as _, Transaction, params};

use super::{StoreError, open, schema, sql_ms, transaction};
use crate::{
    blocklist::{self, Expiry, Imports, Source},
    engine::Prefix,
};

/// The one connection that writes lists.
#[derive(Debug)]
pub struct ImportStore {
    connection: Connection,
    _lock: File,
}

/// Entries that are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// All of a source.
    Source(Source),
    /// Those of a source that its last run did not bring again. The number is
    /// that run's, if it is known.
    Stale(Source, Option<u64>),
    /// Those that have lapsed by that moment, in milliseconds since 1970.
    Expired(u64),
    /// One prefix, whoever listed it.
    Prefix(Prefix),
}

/// How far a removal has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place(i64, String);

/// An entry that went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Whose list it was on.
    pub source: Source,
    /// The prefix.
    pub prefix: Prefix,
}

/// A part of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// What went.
    pub removed: Vec<Removed>,
    /// Where to go on; `None` if that was all.
    pub rest: Option<Place>,
}

/// Another run of the same source has begun since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this import of the source is not the latest: another has begun since")]
pub struct RunMismatch;

/// Rows that one transaction writes or removes: few enough to be over in
/// milliseconds.
const SLICE: usize = 512;

impl ImportStore {
    /// Opens the lists that belong to the store at `store`.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn open(store: &Path) -> Result<Self, StoreError> {
        let path = Self::path(store);
        let (connection, lock) = open(&path, &schema::import_migrations())?;
        let set = |name, value: i64| {
            connection
                .pragma_update(None, name, value)
                .map_err(|source| StoreError::Open { path: path.clone(), source })
        };
        // Kibibytes, negative by SQLite's convention: the inner pages of a
        // million rows.
        set("cache_size", -16_384)?;
        // Reading a million rows back goes through the page cache once.
        set("mmap_size", 1 << 30)?;
        Ok(Self { connection, _lock: lock })
    }

    /// `moderation.imports.db` for `moderation.db`.
    pub fn path(store: &Path) -> PathBuf {
        store.with_extension("imports.db")
    }

    /// Reads everything that has not lapsed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] names the first row that makes no sense.
    pub fn load(&self, now_unix_ms: u64) -> Result<Imports, StoreError> {
        let read = |error| StoreError::Read("imports", error);
        let mut imports = Imports::default();
        let mut query = self
            .connection
            .prepare("SELECT id, source, updated_at_ms FROM imports ORDER BY id")
            .map_err(read)?;
        let rows = query
            .query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?)))
            .map_err(read)?;
        for row in rows {
            let (id, name, updated_at_ms): (i64, _, i64) = row.map_err(read)?;
            let source: Source =
                name.parse().map_err(|_| corrupt("imports", id.to_string(), "no source"))?;
            imports.touch(&source, u64::try_from(updated_at_ms).unwrap_or(0));
            self.load_list(id, &source, now_unix_ms, &mut imports)?;
        }
        Ok(imports)
    }

    fn load_list(
        &self,
        import: i64,
        source: &Source,
        now_unix_ms: u64,
        into: &mut Imports,
    ) -> Result<(), StoreError> {
        let read = |error| StoreError::Read("import_entries", error);
        let mut query = self
            .connection
            .prepare("SELECT prefix, expires_at_ms FROM import_entries WHERE import = ?1")
            .map_err(read)?;
        let mut rows = query.query([import]).map_err(read)?;
        while let Some(row) = rows.next().map_err(read)? {
            let text = row.get_ref(0).map_err(read)?.as_bytes().unwrap_or_default();
            let prefix = blocklist::prefix(text).map_err(|error| {
                corrupt("import_entries", format!("of {source}"), &error.to_string())
            })?;
            let expires: Option<i64> = row.get(1).map_err(read)?;
            let expiry = Expiry::at(expires.map(|ms| u64::try_from(ms).unwrap_or(0)));
            if expiry.is_after(now_unix_ms) {
                into.insert(source, prefix, expiry);
            }
        }
        Ok(())
    }

    /// Begins an import of a source; returns its number.
    ///
    /// # Errors
    ///
    /// [`StoreError::Commit`].
    pub fn begin(&mut self, source: &Source, by: &str, now_ms: u64) -> Result<u64, StoreError> {
        let run = transaction(&mut self.connection, |transaction| {
            begin(transaction, source, by, now_ms)
        })?;
        Ok(u64::try_from(run).unwrap_or(0))
    }

    /// Whether a run is the last of its source.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`].
    pub fn is_latest(&self, source: &Source, run: u64) -> Result<bool, StoreError> {
        let read = |error| StoreError::Read("imports", error);
        let latest = list(&self.connection, source).map_err(read)?;
        Ok(latest.is_some_and(|(_, latest)| latest == sql_ms(run)))
    }

    /// Writes entries down, in one transaction. When it returns they survive a
    /// power cut.
    ///
    /// # Errors
    ///
    /// [`StoreError::Commit`]; then nothing has been written. The inner error
    /// says that `run` is given and not the latest, and nothing has been written
    /// either.
    pub fn add(
        &mut self,
        source: &Source,
        run: Option<u64>,
        entries: &[(Prefix, Expiry)],
        by: &str,
        now_ms: u64,
    ) -> Result<Result<(), RunMismatch>, StoreError> {
        transaction(&mut self.connection, |transaction| {
            let latest = match list(transaction, source)? {
                None if run.is_none() => {
                    begin(transaction, source, by, now_ms)?;
                    list(transaction, source)?
                }
                latest => latest,
            };
            let latest = latest.filter(|(_, latest)| run.is_none_or(|run| sql_ms(run) == *latest));
            let Some((import, run)) = latest else { return Ok(Err(RunMismatch)) };
            transaction.execute(
                "UPDATE imports SET updated_at_ms = ?2 WHERE id = ?1",
                params![import, sql_ms(now_ms)],
            )?;
            let mut insert = transaction.prepare_cached(
                "INSERT INTO import_entries (import, prefix, expires_at_ms, run)
                 VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (import, prefix)
                 DO UPDATE SET expires_at_ms = excluded.expires_at_ms, run = excluded.run",
            )?;
            for (prefix, expiry) in entries {
                let expires = expiry.unix_ms().map(sql_ms);
                insert.execute(params![import, prefix.to_string(), expires, run])?;
            }
            Ok(Ok(()))
        })
    }

    /// Removes the next part of what is to go, from `from` on; a source that is
    /// removed whole goes itself with its last entry.
    ///
    /// # Errors
    ///
    /// [`StoreError::Commit`]; then nothing has been removed.
    pub fn remove(&mut self, what: &Removal, from: &Place) -> Result<Slice, StoreError> {
        transaction(&mut self.connection, |transaction| {
            let found = find(transaction, what, from)?;
            let mut delete = transaction
                .prepare_cached("DELETE FROM import_entries WHERE import = ?1 AND prefix = ?2")?;
            for (import, prefix, _) in &found {
                delete.execute(params![import, prefix])?;
            }
            let last = found.last().map(|(import, prefix, _)| Place(*import, prefix.clone()));
            let rest = last.filter(|_| found.len() == SLICE);
            if let (Removal::Source(source), None) = (what, &rest) {
                transaction.execute("DELETE FROM imports WHERE source = ?1", [source.as_str()])?;
            }
            // What does not parse was never loaded, and goes without a word.
            let removed = found.iter().filter_map(|(_, prefix, source)| {
                Some(Removed { source: source.parse().ok()?, prefix: prefix.parse().ok()? })
            });
            Ok(Slice { removed: removed.collect(), rest })
        })
    }
}

fn begin(to: &Transaction<'_>, source: &Source, by: &str, now_ms: u64) -> Result<i64, Error> {
    to.query_row(
        "INSERT INTO imports (source, run, updated_at_ms, imported_by) VALUES (?1, 1, ?2, ?3)
         ON CONFLICT (source) DO UPDATE
         SET run = run + 1, updated_at_ms = excluded.updated_at_ms,
             imported_by = excluded.imported_by
         RETURNING run",
        params![source.as_str(), sql_ms(now_ms), by],
        |row| row.get(0),
    )
}

/// The number of a source's list, and of its last run.
fn list(connection: &Connection, source: &Source) -> Result<Option<(i64, i64)>, Error> {
    connection
        .prepare_cached("SELECT id, run FROM imports WHERE source = ?1")?
        .query_row([source.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

type Found = Vec<(i64, String, String)>;

/// The next entries that are to go: one walk over the table from slice to
/// slice, in the order of its key.
fn find(transaction: &Transaction<'_>, what: &Removal, from: &Place) -> Result<Found, Error> {
    const SELECT: &str = "SELECT import, prefix, source
         FROM import_entries CROSS JOIN imports ON imports.id = import
         WHERE (import, prefix) > (?1, ?2)";
    let query = |condition: &str| {
        transaction.prepare_cached(&format!("{SELECT} AND {condition} ORDER BY 1, 2 LIMIT ?3"))
    };
    let slice = i64::try_from(SLICE).unwrap_or(i64::MAX);
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let all = |rows: rusqlite::MappedRows<'_, _>| rows.collect::<Result<Found, Error>>();
    let id = |source| Ok::<_, Error>(list(transaction, source)?.map_or(-1, |(id, _)| id));
    match what {
        Removal::Source(source) => {
            all(query("import = ?4")?
                .query_map(params![from.0, from.1, slice, id(source)?], read)?)
        }
        Removal::Stale(source, _) => {
            all(query("import = ?4 AND import_entries.run <> imports.run")?
                .query_map(params![from.0, from.1, slice, id(source)?], read)?)
        }
        Removal::Expired(now_ms) => all(query("expires_at_ms <= ?4")?
            .query_map(params![from.0, from.1, slice, sql_ms(*now_ms)], read)?),
        Removal::Prefix(prefix) => {
            all(query("import IN (SELECT id FROM imports) AND prefix = ?4")?
                .query_map(params![from.0, from.1, slice, prefix.to_string()], read)?)
        }
    }
}

fn corrupt(table: &'static str, id: String, problem: &str) -> StoreError {
    StoreError::Corrupt { table, id, problem: problem.to_owned() }
}
