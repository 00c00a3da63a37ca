//! Who holds a lease: written when one is given and when it ends, so that a
//! crash neither forgets one nor keeps it for ever. Renewals are not written:
//! what is restored begins anew.

use rusqlite::{Connection, Error, Transaction, params};

use super::{
    Store, StoreError,
    read::{bearer, column, corrupt, unix_ms},
    sql_ms, transaction, write,
};
use crate::{
    clock,
    engine::{Bearer, Lease, LeaseId, RequestId},
};

impl Store {
    /// Forgets leases that have ended by themselves.
    ///
    /// # Errors
    ///
    /// [`StoreError::Commit`]; then all of them are there still.
    pub fn end_leases(&mut self, ids: &[LeaseId]) -> Result<(), StoreError> {
        transaction(&mut self.connection, |transaction| {
            ids.iter().try_for_each(|id| end(transaction, *id))
        })
    }
}

/// The end is as of now, for whoever reads the table; nothing goes by it.
pub(super) fn write(
    to: &Transaction<'_>,
    lease: &Lease,
    request: Option<&str>,
) -> Result<(), Error> {
    let (kind, name) = write::bearer(&lease.bearer);
    let now = clock::now();
    let left_ms = lease.ends_at_boot_ms.saturating_sub(now.boot_ms);
    to.prepare_cached(
        "INSERT INTO leases (id, bearer_kind, bearer, request_id, ends_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        sql_ms(lease.id),
        kind,
        name,
        request,
        sql_ms(now.unix_ms.saturating_add(left_ms)),
    ])
    .map(drop)
}

pub(super) fn end(to: &Transaction<'_>, id: LeaseId) -> Result<(), Error> {
    to.prepare_cached("DELETE FROM leases WHERE id = ?1")?.execute([sql_ms(id)]).map(drop)
}

type Held = (LeaseId, Bearer, Option<RequestId>);

pub(super) fn all(connection: &Connection) -> Result<Vec<Held>, StoreError> {
    let read = |error| StoreError::Read("leases", error);
    let mut query = connection
        .prepare("SELECT id, bearer_kind, bearer, request_id FROM leases ORDER BY id")
        .map_err(read)?;
    let mut rows = query.query([]).map_err(read)?;
    let mut leases = Vec::new();
    while let Some(row) = rows.next().map_err(read)? {
        let id: i64 = column(row, 0)?;
        let (kind, name): (String, String) = (column(row, 1)?, column(row, 2)?);
        let bad = |problem| corrupt("leases", &id.to_string(), problem);
        let request: Option<String> = column(row, 3)?;
        let bearer = bearer(&kind, &name).map_err(bad)?;
        leases.push((unix_ms(id), bearer, request.map(Into::into)));
    }
    Ok(leases)
}
