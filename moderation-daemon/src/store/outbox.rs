//! What other hosts are to learn of bans: a row for each change, written with it, and what
//! came back from them. Rows wait in order until they are acknowledged; what they say is
//! read from the bans when they are sent. How they are sent is not known here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rusqlite::{Connection, Error, OptionalExtension as _, Row, Transaction, params};
use tokio::sync::{Notify, mpsc};

use super::{
    Reader, Store, StoreError,
    explain::rows,
    read::{self, column, unix_ms},
    records, sql_ms, transaction,
};
use crate::{
    engine::{BanId, Change},
    ledger::{self, Entry, Holder, Origin, SharedBan, Uid},
};

/// How full the outbox is, for whoever empties it and for those who watch.
#[derive(Debug, Default)]
pub struct Outbox {
    bell: Notify,
    rows: AtomicU64,
    oldest_unix_ms: AtomicU64,
    has_gap: AtomicBool,
    fresh: OnceLock<mpsc::Sender<BanId>>,
    missed: AtomicU64,
}

impl Outbox {
    /// Returns when something was put in, perhaps before the call.
    pub async fn filled(&self) {
        self.bell.notified().await;
    }

    /// Has [`Outbox::filled`] return once.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// From now on the bans that fell on this host or were lifted here, each as soon as
    /// that is written down, for whoever has a faster way to tell; of these, `capacity` can
    /// wait. Taking a row out of the outbox does not take them back.
    ///
    /// # Panics
    ///
    /// If somebody has asked before.
    pub fn fresh(&self, capacity: usize) -> mpsc::Receiver<BanId> {
        let (sender, fresh) = mpsc::channel(capacity);
        assert!(self.fresh.set(sender).is_ok(), "there is one faster way");
        fresh
    }

    /// How many of them found no room since this was asked last.
    pub fn take_missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }

    fn tell_fresh(&self, changes: &[Change], notes: &Notes) {
        let Some(fresh) = self.fresh.get() else { return };
        for (ban, _) in changes.iter().filter_map(|change| untold(change, notes)) {
            if fresh.try_send(ban).is_err() {
                self.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many rows wait.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Since when the oldest does, in milliseconds since 1970; 0 if none does.
    pub fn oldest_unix_ms(&self) -> u64 {
        self.oldest_unix_ms.load(Ordering::Relaxed)
    }

    /// Whether it was full, so that all bans have to be compared.
    pub fn has_gap(&self) -> bool {
        self.has_gap.load(Ordering::Relaxed)
    }
}

/// That changes are shared, and how many can wait.
#[derive(Debug)]
pub(super) struct Sharing {
    most: u64,
    pub(super) outbox: Arc<Outbox>,
}

/// What is to be written down with changes of which some came from elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// Bans that have a name already, and who made them.
    pub taken: BTreeMap<BanId, (Uid, Origin)>,
    /// Lifts that others know of.
    pub told: BTreeSet<BanId>,
    /// Bans to share again.
    pub again: BTreeSet<BanId>,
    /// All bans of this host that hold are to be shared again.
    pub all_again: bool,
    /// Rows that were acknowledged.
    pub sent: Vec<i64>,
    /// What was seen under keys.
    pub seen: Vec<Entry>,
    /// Keys under which there is nothing more. Another ban of this host that stands
    /// under one takes its place.
    pub gone: Vec<String>,
    /// When that was, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Until where changes were followed.
    pub position: Option<Vec<u8>>,
    /// The last sign of life that the shared database took.
    pub beat_unix_ms: Option<u64>,
    /// All was compared: there is no gap any more.
    pub is_compared: bool,
    /// The last record of a violation that the shared database took.
    pub records_until: Option<u64>,
}

/// A row of the outbox with its ban as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// The row.
    pub row: i64,
    /// The ban.
    pub shared: SharedBan,
}

/// What is known of a ban by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its number here.
    pub id: BanId,
    /// Whether it was lifted.
    pub is_lifted: bool,
}

impl Store {
    /// Shares changes of bans from now on: at most so many rows wait.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`].
    pub fn shared(mut self, most: u64) -> Result<(Self, Arc<Outbox>), StoreError> {
        let outbox = Arc::new(Outbox::default());
        self.sharing = Some(Sharing { most, outbox: Arc::clone(&outbox) });
        let measured = self.count_outbox().and_then(|rows| self.measure_outbox(rows));
        measured.map_err(|error| StoreError::Read("the outbox", error))?;
        Ok((self, outbox))
    }

    /// Makes changes durable that came from elsewhere in part, with what there is to
    /// remember about that; all or nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Commit`]; then nothing has been written.
    pub fn commit_noted(&mut self, changes: &[Change], notes: &Notes) -> Result<(), StoreError> {
        let most = self.sharing.as_ref().map(|sharing| sharing.most);
        let (names, waiting) = (&self.names, self.outbox_rows());
        let rows = transaction(&mut self.connection, |transaction| {
            for change in changes {
                super::write::write(transaction, change, names, notes)?;
            }
            let left = waiting.saturating_sub(write_notes(transaction, notes)?);
            match most {
                Some(most) => {
                    let room = most.saturating_sub(waiting);
                    Ok(left + put_in(transaction, changes, notes, room)?)
                }
                None => Ok(left),
            }
        })?;
        self.checkpointer.committed();
        if let Some(Sharing { outbox, .. }) = &self.sharing {
            outbox.tell_fresh(changes, notes);
        }
        self.measure_after(changes, notes, rows);
        Ok(())
    }

    fn outbox_rows(&self) -> u64 {
        self.sharing.as_ref().map_or(0, |sharing| sharing.outbox.rows())
    }

    /// Most changes are no bans.
    fn measure_after(&self, changes: &[Change], notes: &Notes, rows: u64) {
        let is_about_bans = |change: &Change| matches!(change, Change::Ban(_) | Change::Lift(_));
        if (*notes != Notes::default() || changes.iter().any(is_about_bans))
            && let Err(error) = self.measure_outbox(rows)
        {
            // What was committed is committed: only its age is an old one.
            tracing::error!(error = &error as &dyn std::error::Error, "cannot measure the outbox");
        }
    }

    /// Counts it, which looks at every row: later its changes are counted.
    fn count_outbox(&self) -> Result<u64, Error> {
        let sql = "SELECT count(*) FROM outbox";
        self.connection.query_row(sql, [], |row| row.get(0)).map(unix_ms)
    }

    fn measure_outbox(&self, rows: u64) -> Result<(), Error> {
        let Some(Sharing { outbox, .. }) = &self.sharing else { return Ok(()) };
        outbox.rows.store(rows, Ordering::Relaxed);
        let oldest: Option<i64> = self
            .connection
            .prepare_cached("SELECT at_ms FROM outbox ORDER BY id LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        outbox.oldest_unix_ms.store(oldest.map_or(0, unix_ms), Ordering::Relaxed);
        outbox.has_gap.store(has_gap(&self.connection)?, Ordering::Relaxed);
        if rows > 0 {
            outbox.bell.notify_one();
        }
        Ok(())
    }

    /// The bans of these names.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`].
    pub fn named(&self, uids: &[Uid]) -> Result<BTreeMap<Uid, Named>, StoreError> {
        let read = |error| StoreError::Read("bans", error);
        let mut query = self
            .connection
            .prepare_cached("SELECT id, lifted_at_ms IS NOT NULL FROM bans WHERE uid = ?1")
            .map_err(read)?;
        let mut found = BTreeMap::new();
        for uid in uids {
            let named = query
                .query_row([uid.as_str()], |row| {
                    Ok(Named { id: unix_ms(row.get(0)?), is_lifted: row.get(1)? })
                })
                .optional()
                .map_err(read)?;
            found.extend(named.map(|named| (uid.clone(), named)));
        }
        Ok(found)
    }
}

fn has_gap(connection: &Connection) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM ledger WHERE name = 'gap')";
    connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

/// A row for each change of a ban that others do not know of; says how many. What there is
/// no room for is a gap.
fn put_in(
    to: &Transaction<'_>,
    changes: &[Change],
    notes: &Notes,
    mut room: u64,
) -> Result<u64, Error> {
    room = room.saturating_add(notes.sent.len() as u64);
    let mut insert = to.prepare_cached("INSERT INTO outbox (ban, at_ms) VALUES (?1, ?2)")?;
    let (mut is_full, mut rows) = (false, 0);
    let mut put = |ban: BanId, at_unix_ms: u64| -> Result<(), Error> {
        if room == 0 {
            is_full = true;
            return Ok(());
        }
        room -= 1;
        rows += 1;
        insert.execute(params![sql_ms(ban), sql_ms(at_unix_ms)]).map(drop)
    };
    for change in changes {
        if let Some((ban, at_unix_ms)) = untold(change, notes) {
            put(ban, at_unix_ms)?;
        }
    }
    let mut again = notes.again.clone();
    for key in &notes.gone {
        again.extend(standing_under(to, key, notes.at_unix_ms)?);
    }
    if notes.all_again {
        again.extend(holding(to, notes.at_unix_ms)?);
    }
    for ban in again {
        put(ban, notes.at_unix_ms)?;
    }
    if is_full {
        to.execute("INSERT OR REPLACE INTO ledger (name, value) VALUES ('gap', 1)", [])?;
    }
    Ok(rows)
}

/// The ban that a change is about of which others do not know, and when that was.
fn untold(change: &Change, notes: &Notes) -> Option<(BanId, u64)> {
    let (ban, at_unix_ms, is_told) = match change {
        Change::Ban(ban) => (ban.id, ban.created_at_unix_ms, notes.taken.contains_key(&ban.id)),
        Change::Lift(lift) => (lift.ban.id, lift.at_unix_ms, notes.told.contains(&lift.ban.id)),
        _ => return None,
    };
    (!is_told).then_some((ban, at_unix_ms))
}

/// The bans of this host that hold and do not wait already.
fn holding(from: &Transaction<'_>, now_unix_ms: u64) -> Result<Vec<BanId>, Error> {
    let sql = "SELECT id FROM bans
         WHERE lifted_at_ms IS NULL AND (expires_at_ms IS NULL OR expires_at_ms > ?1)
             AND origin IS NULL
             AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.ban = bans.id)
         ORDER BY id";
    let mut query = from.prepare_cached(sql)?;
    let ids = query.query_map([sql_ms(now_unix_ms)], |row| row.get::<_, i64>(0))?;
    ids.map(|id| id.map(unix_ms)).collect()
}

/// Those of them that stand under a key.
fn standing_under(
    from: &Transaction<'_>,
    key: &str,
    now_unix_ms: u64,
) -> Result<Vec<BanId>, Error> {
    let Some((user, prefix)) = ledger::subject(key) else { return Ok(Vec::new()) };
    let sql = "SELECT id FROM bans
         WHERE (user = ?1 OR address = ?2) AND origin IS NULL AND lifted_at_ms IS NULL
             AND (expires_at_ms IS NULL OR expires_at_ms > ?3)";
    let mut query = from.prepare_cached(sql)?;
    let user = user.map(|user| user.to_string());
    let prefix = prefix.map(|prefix| prefix.to_string());
    let ids =
        query.query_map(params![user, prefix, sql_ms(now_unix_ms)], |row| row.get::<_, i64>(0))?;
    ids.map(|id| id.map(unix_ms)).collect()
}

/// Says how many rows wait no longer.
fn write_notes(to: &Transaction<'_>, notes: &Notes) -> Result<u64, Error> {
    let mut gone = 0;
    for row in &notes.sent {
        gone += to.prepare_cached("DELETE FROM outbox WHERE id = ?1")?.execute([row])? as u64;
    }
    for entry in &notes.seen {
        to.prepare_cached(
            "INSERT OR REPLACE INTO documents (key, id, uid, holder, expires_at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            entry.key,
            entry.id,
            entry.uid.as_str(),
            holder_name(entry.holder),
            entry.expires_at_unix_ms.map(sql_ms),
        ])?;
    }
    for key in &notes.gone {
        to.prepare_cached("DELETE FROM documents WHERE key = ?1")?.execute([key])?;
    }
    let mut put =
        to.prepare_cached("INSERT OR REPLACE INTO ledger (name, value) VALUES (?1, ?2)")?;
    if let Some(position) = &notes.position {
        put.execute(params!["position", position])?;
    }
    if let Some(beat) = notes.beat_unix_ms {
        put.execute(params!["beat", sql_ms(beat)])?;
    }
    if let Some(until) = notes.records_until {
        records::told(to, until)?;
    }
    if notes.is_compared {
        to.execute("DELETE FROM ledger WHERE name = 'gap'", [])?;
    }
    Ok(gone)
}

const fn holder_name(holder: Holder) -> &'static str {
    match holder {
        Holder::Here => "here",
        Holder::Elsewhere => "elsewhere",
        Holder::Foreign => "foreign",
    }
}

/// As the column has it.
pub(super) fn origin_name(origin: &Origin) -> Option<String> {
    match origin {
        Origin::Here => None,
        Origin::Host(name) => Some(format!("host:{name}")),
        Origin::Foreign => Some("foreign".to_owned()),
    }
}

/// The reverse.
pub(super) fn origin(name: Option<String>) -> Origin {
    match name {
        None => Origin::Here,
        Some(name) => match name.strip_prefix("host:") {
            Some(host) => Origin::Host(host.to_owned()),
            None => Origin::Foreign,
        },
    }
}

/// Bans by their names, behind the columns of a [`read::BanRecord`].
const SHARED: &str = "uid";

fn shared(row: &Row<'_>, at: usize) -> Result<SharedBan, StoreError> {
    let record = read::record(row)?;
    let uid: String = column(row, at)?;
    let bad = |_| read::corrupt("bans", &record.ban.id.to_string(), "no name that hosts share");
    Ok(SharedBan {
        uid: uid.parse().map_err(bad)?,
        origin: record.origin,
        lifted: record.lifted_at_unix_ms.map(|at| (at, record.lifted_by.unwrap_or_default())),
        ban: record.ban,
    })
}

/// Where the columns of [`SHARED`] begin.
const FIRST: usize = 16;

impl Reader {
    /// The first rows that wait. Blocks: call it where that is allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn outbox(&self, limit: u32) -> Result<Vec<Waiting>, StoreError> {
        let columns = read::COLUMNS.replace("id,", "bans.id,");
        let sql = format!(
            "SELECT {columns}, {SHARED}, outbox.id FROM outbox JOIN bans ON bans.id = outbox.ban
             ORDER BY outbox.id LIMIT ?1"
        );
        rows("the outbox", &self.lock(), &sql, [limit], |row| {
            Ok(Waiting { row: column(row, FIRST + 1)?, shared: shared(row, FIRST)? })
        })
    }

    /// The bans of these numbers as they stand, in their order. Blocks: call it where that is
    /// allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn shared_bans(&self, ids: &[BanId]) -> Result<Vec<SharedBan>, StoreError> {
        let sql = format!("SELECT {}, {SHARED} FROM bans WHERE id = ?1", read::COLUMNS);
        let connection = self.lock();
        let mut bans = Vec::with_capacity(ids.len());
        for id in ids {
            bans.extend(rows("bans", &connection, &sql, [sql_ms(*id)], |row| shared(row, FIRST))?);
        }
        Ok(bans)
    }

    /// The bans of this host that hold, from a number on. Blocks: call it where that is
    /// allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn own_bans(
        &self,
        after: BanId,
        limit: u32,
        now_unix_ms: u64,
    ) -> Result<Vec<SharedBan>, StoreError> {
        let sql = format!(
            "SELECT {}, {SHARED} FROM bans
             WHERE id > ?1 AND origin IS NULL AND lifted_at_ms IS NULL
                 AND (expires_at_ms IS NULL OR expires_at_ms > ?2)
             ORDER BY id LIMIT ?3",
            read::COLUMNS
        );
        let parameters = params![sql_ms(after), sql_ms(now_unix_ms), limit];
        rows("bans", &self.lock(), &sql, parameters, |row| shared(row, FIRST))
    }

    /// What was last seen under each key. Blocks: call it where that is allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn seen(&self) -> Result<Vec<Entry>, StoreError> {
        let sql = "SELECT key, id, uid, holder, expires_at_ms FROM documents ORDER BY key";
        rows("documents", &self.lock(), sql, [], |row| {
            let (key, uid, holder): (String, String, String) =
                (column(row, 0)?, column(row, 2)?, column(row, 3)?);
            let bad = |problem: &str| read::corrupt("documents", &key, problem);
            let holder = match holder.as_str() {
                "here" => Holder::Here,
                "elsewhere" => Holder::Elsewhere,
                "foreign" => Holder::Foreign,
                _ => return Err(bad("no such holder")),
            };
            Ok(Entry {
                id: column(row, 1)?,
                uid: uid.parse().map_err(|_| bad("no name that hosts share"))?,
                holder,
                expires_at_unix_ms: column::<Option<i64>>(row, 4)?.map(unix_ms),
                key,
            })
        })
    }

    /// Until where changes were followed, and the last sign of life that the shared
    /// database took, in milliseconds since 1970. Blocks: call it where that is allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn followed(&self) -> Result<(Option<Vec<u8>>, Option<u64>), StoreError> {
        let read = |error| StoreError::Read("the ledger", error);
        let connection = self.lock();
        let sql = "SELECT value FROM ledger WHERE name = ?1";
        let mut query = connection.prepare_cached(sql).map_err(read)?;
        let position = query.query_row(["position"], |row| row.get(0)).optional().map_err(read)?;
        let beat: Option<i64> =
            query.query_row(["beat"], |row| row.get(0)).optional().map_err(read)?;
        Ok((position, beat.map(unix_ms)))
    }
}
