//! Reading back: what the engine needs after a start, and what operators ask.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, Row, params};

use super::{Allowed, Store, StoreError, explain::rows, leases, outbox::origin, penalties, sql_ms};
use crate::{
    engine::{
        Author, Ban, BanId, Bearer, Cause, Outcome, Restored, SEEN_FOR_MS, Score, ScoreKey,
        Severity, UserId, ViolationType,
    },
    ledger::Origin,
    pseudonym::Names,
};

/// Rows that were not read because their violation type is not known: the
/// configuration had one of its own that it no longer has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub rows: u64,
    /// Their types.
    pub types: BTreeSet<String>,
}

impl Skipped {
    /// The type of that name, or one row more that is skipped.
    fn known(&mut self, name: &str) -> Option<ViolationType> {
        let known = ViolationType::from_name(name);
        if known.is_none() {
            self.rows += 1;
            self.types.insert(name.to_owned());
        }
        known
    }
}

impl Store {
    /// What an engine goes on with: active bans and where their users broke rules,
    /// penalties, scores, leases, what is known about users, and the ids of requests that broke a rule within
    /// `request_id_ms`; and what could not be read because its violation type is
    /// not known. Bans and penalties hold all the same.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] names the first row that makes no sense.
    pub fn restore(
        &self,
        now_ms: u64,
        request_id_ms: u64,
    ) -> Result<(Restored, Skipped), StoreError> {
        let connection = &self.connection;
        let mut skipped = Skipped::default();
        let restored = Restored {
            bans: active_bans(connection, now_ms)?,
            scores: scores(connection, &mut skipped)?,
            answers: answers(connection, now_ms.saturating_sub(request_id_ms), &mut skipped)?,
            last_ban: last_number(connection, "bans")?,
            penalties: penalties::all(connection)?,
            last_penalty: last_number(connection, "penalties")?,
            offences: penalties::offences(connection)?,
            blamed: blamed(connection, now_ms)?,
            leases: leases::all(connection)?,
            ..penalties::users(connection)?
        };
        Ok((restored, skipped))
    }

    /// The operator's allowlist.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] names the first row that makes no sense.
    pub fn allowlist(&self) -> Result<Vec<Allowed>, StoreError> {
        let read = |error| StoreError::Read("the allowlist", error);
        let mut query = self
            .connection
            .prepare_cached("SELECT prefix, note FROM allowlist ORDER BY prefix")
            .map_err(read)?;
        let rows = query
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?)))
            .map_err(read)?;
        rows.map(|row| {
            let (prefix, note) = row.map_err(read)?;
            let parsed = prefix.parse().map_err(|_| corrupt("allowlist", &prefix, "no prefix"))?;
            Ok(Allowed { prefix: parsed, note })
        })
        .collect()
    }
}

/// A ban as the store keeps it, past ones included.
#[derive(Clone, Debug, PartialEq)]
pub struct BanRecord {
    /// The ban.
    pub ban: Ban,
    /// When it was lifted, in milliseconds since 1970.
    pub lifted_at_unix_ms: Option<u64>,
    /// By whom.
    pub lifted_by: Option<String>,
    /// Who made it.
    pub origin: Origin,
}

/// In which order bans are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BanOrder {
    /// By number, which is the order in which they were made.
    #[default]
    Number,
    /// The latest first.
    Latest,
}

/// Which bans to list.
#[derive(Clone, Copy, Debug)]
pub struct BanPage {
    /// Past ones too.
    pub all: bool,
    /// How many.
    pub limit: u32,
    /// Only those with a higher number.
    pub after: BanId,
    /// Which come first.
    pub order: BanOrder,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
}

/// A connection that only reads; clones share it.
#[derive(Clone, Debug)]
pub struct Reader {
    connection: Arc<Mutex<Connection>>,
    pub(super) names: Names,
}

impl Reader {
    pub(super) fn new(connection: Connection, names: Names) -> Self {
        Self { connection: Arc::new(Mutex::new(connection)), names }
    }

    /// A reader that panicked has changed nothing.
    pub(super) fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists bans. Blocks: call it where that is allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn bans(&self, page: BanPage) -> Result<Vec<BanRecord>, StoreError> {
        let read = |error| StoreError::Read("bans", error);
        let connection = self.lock();
        let order = match page.order {
            BanOrder::Number => "id",
            BanOrder::Latest => "id DESC",
        };
        let mut query = connection
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM bans
                 WHERE id > ?1 AND (?2 OR (lifted_at_ms IS NULL
                                           AND (expires_at_ms IS NULL OR expires_at_ms > ?3)))
                 ORDER BY {order} LIMIT ?4",
            ))
            .map_err(read)?;
        let page = params![sql_ms(page.after), page.all, sql_ms(page.now_ms), page.limit];
        let mut rows = query.query(page).map_err(read)?;
        let mut bans = Vec::new();
        while let Some(row) = rows.next().map_err(read)? {
            bans.push(record(row)?);
        }
        Ok(bans)
    }
}

/// What [`record`] reads.
pub(super) const COLUMNS: &str = "id, user, address, reason, violation, score, created_at_ms,
     expires_at_ms, blocks, by, with_ban, review, severity, lifted_at_ms, lifted_by, origin";

pub(super) fn record(row: &Row<'_>) -> Result<BanRecord, StoreError> {
    Ok(BanRecord {
        ban: ban(row)?,
        lifted_at_unix_ms: column::<Option<i64>>(row, 13)?.map(unix_ms),
        lifted_by: column(row, 14)?,
        origin: origin(column(row, 15)?),
    })
}

fn active_bans(connection: &Connection, now_ms: u64) -> Result<Vec<Ban>, StoreError> {
    let read = |error| StoreError::Read("bans", error);
    let mut query = connection
        .prepare(
            "SELECT id, user, address, reason, violation, score, created_at_ms, expires_at_ms,
                    blocks, by, with_ban, review, severity
             FROM bans
             WHERE lifted_at_ms IS NULL AND (expires_at_ms IS NULL OR expires_at_ms > ?1)
             ORDER BY id",
        )
        .map_err(read)?;
    let mut rows = query.query([sql_ms(now_ms)]).map_err(read)?;
    let mut bans = Vec::new();
    while let Some(row) = rows.next().map_err(read)? {
        bans.push(ban(row)?);
    }
    Ok(bans)
}

/// By the ban, whose user is not a pseudonym, as that of a record may be.
fn blamed(connection: &Connection, now_ms: u64) -> Result<Vec<(UserId, IpAddr, u64)>, StoreError> {
    let sql = "SELECT bans.id, bans.user, violations.ip, violations.at_ms
         FROM bans JOIN violations ON violations.ban = bans.id
         WHERE bans.lifted_at_ms IS NULL
             AND (bans.expires_at_ms IS NULL OR bans.expires_at_ms > ?1)
             AND bans.user IS NOT NULL AND violations.ip IS NOT NULL AND violations.at_ms > ?2
         ORDER BY violations.at_ms";
    let since = sql_ms(now_ms.saturating_sub(SEEN_FOR_MS));
    rows("bans", connection, sql, [sql_ms(now_ms), since], |row| {
        let id: i64 = column(row, 0)?;
        let bad = |problem: &str| corrupt("bans", &id.to_string(), problem);
        let (user, ip): (String, String) = (column(row, 1)?, column(row, 2)?);
        let user = user.parse().map_err(|_| bad("no user id"))?;
        let ip = ip.parse().map_err(|_| bad("no address in its violation"))?;
        Ok((user, ip, unix_ms(column(row, 3)?)))
    })
}

pub(super) fn column<T: rusqlite::types::FromSql>(
    row: &Row<'_>,
    index: usize,
) -> Result<T, StoreError> {
    row.get(index).map_err(|error| StoreError::Read("a row", error))
}

fn ban(row: &Row<'_>) -> Result<Ban, StoreError> {
    let id: i64 = column(row, 0)?;
    let bad = |problem: &str| corrupt("bans", &id.to_string(), problem);
    let user: Option<String> = column(row, 1)?;
    let address: Option<String> = column(row, 2)?;
    let violation: Option<String> = column(row, 4)?;
    let by: String = column(row, 9)?;
    let severity: Option<String> = column(row, 12)?;
    Ok(Ban {
        id: unix_ms(id),
        user: user.map(|user| user.parse()).transpose().map_err(|_| bad("no user id"))?,
        prefix: address.map(|text| text.parse()).transpose().map_err(|_| bad("no address"))?,
        blocks: column(row, 8)?,
        reason: column(row, 3)?,
        // A ban outlives the type that it fell for: its reason still says it.
        violation: violation.as_deref().and_then(ViolationType::from_name),
        score: column(row, 5)?,
        created_at_unix_ms: unix_ms(column(row, 6)?),
        expires_at_unix_ms: column::<Option<i64>>(row, 7)?.map(unix_ms),
        by: author(&by),
        with: column::<Option<i64>>(row, 10)?.map(unix_ms),
        review: column(row, 11)?,
        severity: severity
            .map(|name| Severity::from_name(&name).ok_or_else(|| bad("no severity")))
            .transpose()?,
    })
}

pub(super) fn author(name: &str) -> Author {
    match name {
        "rule" => Author::Rule,
        name => Author::Operator(name.into()),
    }
}

/// The inverse of the two columns that name a bearer; an account is none that
/// is written down.
pub(super) fn bearer(kind: &str, name: &str) -> Result<Bearer, &'static str> {
    match kind {
        "user" => name.parse().map(Bearer::User).map_err(|_| "no user id"),
        "address" => name.parse().map(Bearer::Address).map_err(|_| "no address"),
        _ => Err("neither a user nor an address"),
    }
}

/// The inverse of [`sql_ms`].
pub(super) fn unix_ms(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn scores(
    connection: &Connection,
    skipped: &mut Skipped,
) -> Result<Vec<(ScoreKey, Score)>, StoreError> {
    let read = |error| StoreError::Read("scores", error);
    let mut query = connection
        .prepare(
            "SELECT bearer_kind, bearer, type, points, updated_at_ms, spent, decayed_at_ms
             FROM scores",
        )
        .map_err(read)?;
    let mut rows = query.query([]).map_err(read)?;
    let mut scores = Vec::new();
    while let Some(row) = rows.next().map_err(read)? {
        scores.extend(score(row, skipped)?);
    }
    Ok(scores)
}

fn score(row: &Row<'_>, skipped: &mut Skipped) -> Result<Option<(ScoreKey, Score)>, StoreError> {
    let kind: String = column(row, 0)?;
    let name: String = column(row, 1)?;
    let violation: String = column(row, 2)?;
    let bad = |problem: &str| corrupt("scores", &format!("of {kind} for {violation}"), problem);
    let bearer = bearer(&kind, &name).map_err(bad)?;
    let Some(kind) = skipped.known(&violation) else { return Ok(None) };
    let score = Score {
        points: column(row, 3)?,
        updated_at_unix_ms: unix_ms(column(row, 4)?),
        spent: column(row, 5)?,
        decayed_at_unix_ms: unix_ms(column(row, 6)?),
    };
    Ok(Some((ScoreKey { bearer, kind }, score)))
}

/// A retry after a crash is told that it was denied, and for what.
fn answers(
    connection: &Connection,
    since_ms: u64,
    skipped: &mut Skipped,
) -> Result<Vec<(Arc<str>, Outcome)>, StoreError> {
    let read = |error| StoreError::Read("violations", error);
    let mut query = connection
        .prepare(
            "SELECT request_id, type FROM violations
             WHERE at_ms >= ?1 AND request_id IS NOT NULL ORDER BY id",
        )
        .map_err(read)?;
    let mut rows = query.query([sql_ms(since_ms)]).map_err(read)?;
    let mut answers = Vec::new();
    while let Some(row) = rows.next().map_err(read)? {
        let id: String = column(row, 0)?;
        let name: String = column(row, 1)?;
        if let Some(kind) = skipped.known(&name) {
            answers.push((id.into(), Outcome::deny(Cause::Violation(kind))));
        }
    }
    Ok(answers)
}

/// The highest number that was ever given, pruned rows included.
fn last_number(connection: &Connection, table: &'static str) -> Result<u64, StoreError> {
    connection
        .query_row(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?1",
            [table],
            |row| row.get(0),
        )
        .map(unix_ms)
        .map_err(|error| StoreError::Read("the last number of a table", error))
}

pub(super) fn corrupt(table: &'static str, id: &str, problem: &str) -> StoreError {
    StoreError::Corrupt { table, id: id.to_owned(), problem: problem.to_owned() }
}
