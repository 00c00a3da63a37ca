//! Records of violations on their way to the shared database: which were not taken there
//! yet. Only a place is kept, behind the last one that was; records themselves stay until
//! they are too old, told or not. How they are sent is not known here.

use rusqlite::{Connection, Error, OptionalExtension as _, Transaction, params};

use super::{
    Reader, StoreError, ViolationRecord,
    explain::{self, rows},
    read::unix_ms,
    sql_ms,
};

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The last record that the shared database has; 0: none.
    pub told: u64,
    /// The last record that there is; 0: none.
    pub last: u64,
    /// When the oldest one that waits was written down, in milliseconds since 1970; 0:
    /// none waits.
    pub oldest_unix_ms: u64,
}

impl Backlog {
    /// How many wait, those included that came from another system.
    pub const fn waiting(&self) -> u64 {
        self.last.saturating_sub(self.told)
    }
}

impl Reader {
    /// How much waits. Blocks: call it where that is allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn backlog(&self) -> Result<Backlog, StoreError> {
        let measured = measure(&self.lock());
        measured.map_err(|error| StoreError::Read("violations", error))
    }

    /// The violations behind a number, in their order, those that came from another system
    /// included. Blocks: call it where that is allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn violations_after(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<ViolationRecord>, StoreError> {
        let sql = format!(
            "SELECT {} FROM violations WHERE id > ?1 ORDER BY id LIMIT ?2",
            explain::COLUMNS
        );
        let page = params![sql_ms(after), limit];
        rows("violations", &self.lock(), &sql, page, explain::violation)
    }
}

fn measure(from: &Connection) -> Result<Backlog, Error> {
    let number = |sql: &str, after: i64| {
        let mut query = from.prepare_cached(sql)?;
        let found: Option<Option<i64>> = query.query_row([after], |row| row.get(0)).optional()?;
        Ok::<_, Error>(found.flatten().map_or(0, unix_ms))
    };
    let told = number("SELECT value FROM ledger WHERE name = 'violations' AND value > ?1", 0)?;
    let last = number("SELECT max(id) FROM violations WHERE id > ?1", 0)?;
    let sql = "SELECT at_ms FROM violations WHERE id > ?1 ORDER BY id LIMIT 1";
    Ok(Backlog { told, last, oldest_unix_ms: number(sql, sql_ms(told))? })
}

/// The shared database has all up to this one.
pub(super) fn told(to: &Transaction<'_>, until: u64) -> Result<(), Error> {
    to.prepare_cached("INSERT OR REPLACE INTO ledger (name, value) VALUES ('violations', ?1)")?
        .execute([sql_ms(until)])
        .map(drop)
}

/// Where no record is left, numbers begin anew, and the place among them, too.
pub(super) fn begin_anew_if_empty(to: &Transaction<'_>) -> Result<(), Error> {
    let sql = "DELETE FROM ledger
         WHERE name = 'violations' AND NOT EXISTS (SELECT 1 FROM violations)";
    to.execute(sql, []).map(drop)
}
