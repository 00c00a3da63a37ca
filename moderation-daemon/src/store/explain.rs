//! What the records say about one subject: bans, the violations that led to
//! them, totals. Puts nothing into words.

use std::collections::BTreeMap;

use rusqlite::{Connection, Params, Row, params};

use super::{
    BanRecord, Reader, StoreError, outbox, penalties,
    read::{self, column, unix_ms},
    sql_ms,
};
use crate::{
    engine::{Address, BanId, Penalty, Subject},
    ledger::Origin,
};

/// Whom records are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// A user, an address, or both.
    pub subject: Subject,
    /// The address at the width at which it is counted.
    pub address: Option<Address>,
}

impl About {
    /// The user, the address, and the address as it is counted, as bans and
    /// penalties name them.
    pub(super) fn names(&self) -> [Option<String>; 3] {
        let user = self.subject.user().map(ToString::to_string);
        let exact = self.subject.ip().map(|ip| ip.to_string());
        [user, exact, self.address.map(|address| address.to_string())]
    }
}

/// What is recorded about a subject.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Bans, past ones too; the latest first.
    pub bans: Vec<BanRecord>,
    /// Penalties, past ones too; the latest first.
    pub penalties: Vec<Penalty>,
    /// Violations: those that led to the latest bans, those that ended sessions,
    /// and then others up to a number; the latest first.
    pub violations: Vec<ViolationRecord>,
    /// Sums over all violations.
    pub totals: Vec<Total>,
    /// Who made the active bans, unless this host did.
    pub origins: BTreeMap<BanId, Origin>,
}

/// A violation as the store keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct ViolationRecord {
    /// Its number.
    pub id: u64,
    /// Its type; perhaps one that the configuration no longer knows.
    pub kind: String,
    /// Who did it, by the name for records.
    pub user: Option<String>,
    /// From where.
    pub ip: Option<String>,
    /// Points.
    pub points: f64,
    /// The score before.
    pub previous: f64,
    /// And after.
    pub total: f64,
    /// The limiter that was exceeded.
    pub limiter: Option<String>,
    /// What it allowed, as LibreChat's records tell it.
    pub max: Option<String>,
    /// In how long.
    pub window_ms: Option<u64>,
    /// Generations that were running.
    pub pending: Option<u64>,
    /// Repeats before it that counted for nothing.
    pub repeats: u32,
    /// How bad it was.
    pub severity: Option<String>,
    /// What the reporter said.
    pub details: Option<String>,
    /// The ban that it led to.
    pub ban: Option<BanId>,
    /// The penalty that it led to.
    pub penalty: Option<u64>,
    /// Whether the user's sessions ended for it, though no ban fell.
    pub logout: bool,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Whether it comes from another system.
    pub is_imported: bool,
}

/// How often a rule was broken.
#[derive(Clone, Debug, PartialEq)]
pub struct Total {
    /// The violation's type.
    pub kind: String,
    /// How often.
    pub count: u64,
    /// Points in all.
    pub points: f64,
    /// The first time, in milliseconds since 1970.
    pub first_at_unix_ms: u64,
    /// The last time.
    pub last_at_unix_ms: u64,
}

/// Violations that are told, at most.
const MOST_VIOLATIONS: usize = 100;
/// Bans, and penalties, that are told, at most.
const MOST_BANS: u32 = 20;

impl Reader {
    /// One ban, past or not. Blocks: call it where that is allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn ban(&self, id: BanId) -> Result<Option<BanRecord>, StoreError> {
        let sql = format!("SELECT {} FROM bans WHERE id = ?1", read::COLUMNS);
        let found = rows("bans", &self.lock(), &sql, [sql_ms(id)], read::record)?;
        Ok(found.into_iter().next())
    }

    /// What is recorded about a subject, and who made its active bans. Blocks: call it
    /// where that is allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn history(&self, about: &About, active: &[BanId]) -> Result<History, StoreError> {
        let connection = self.lock();
        let mut origins = BTreeMap::new();
        for id in active {
            origins.extend(origin(&connection, *id)?.map(|origin| (*id, origin)));
        }
        let bans = bans(&connection, about)?;
        // Who reads records may know no more than the pseudonym.
        let user = about.subject.user().map(|user| self.names.recorded(user.as_str()));
        let mut violations = BTreeMap::new();
        for record in &bans {
            let room = MOST_VIOLATIONS.saturating_sub(violations.len());
            let chain = led_to(&connection, record.ban.id, room)?;
            violations.extend(chain.into_iter().map(|it| (it.id, it)));
        }
        let others = ended_sessions(&connection, user.as_deref(), about)?
            .into_iter()
            .chain(latest(&connection, user.as_deref(), about)?);
        for other in others {
            if violations.len() < MOST_VIOLATIONS {
                violations.entry(other.id).or_insert(other);
            }
        }
        let totals = totals(&connection, user.as_deref(), about)?;
        let penalties = penalties(&connection, about)?;
        let violations = violations.into_values().rev().collect();
        Ok(History { bans, penalties, violations, totals, origins })
    }
}

pub(super) fn rows<T>(
    what: &'static str,
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    parse: impl Fn(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let failed = |error| StoreError::Read(what, error);
    let mut query = connection.prepare_cached(sql).map_err(failed)?;
    let mut rows = query.query(parameters).map_err(failed)?;
    let mut parsed = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        parsed.push(parse(row)?);
    }
    Ok(parsed)
}

/// Those of the user, and those of the address at the widths at which one is
/// banned.
fn bans(connection: &Connection, about: &About) -> Result<Vec<BanRecord>, StoreError> {
    let sql = format!(
        "SELECT {} FROM bans WHERE user = ?1 OR address IN (?2, ?3)
         ORDER BY id DESC LIMIT ?4",
        read::COLUMNS
    );
    let [user, exact, counted] = about.names();
    rows("bans", connection, &sql, params![user, exact, counted, MOST_BANS], read::record)
}

/// Who made a ban; `None`: this host did.
fn origin(connection: &Connection, ban: BanId) -> Result<Option<Origin>, StoreError> {
    let sql = "SELECT origin FROM bans WHERE id = ?1 AND origin IS NOT NULL";
    let found = rows("bans", connection, sql, [sql_ms(ban)], |row| column(row, 0))?;
    Ok(found.into_iter().next().map(outbox::origin))
}

fn penalties(connection: &Connection, about: &About) -> Result<Vec<Penalty>, StoreError> {
    let sql = format!(
        "SELECT {} FROM penalties WHERE user = ?1 OR address IN (?2, ?3)
         ORDER BY id DESC LIMIT ?4",
        penalties::COLUMNS
    );
    let [user, exact, counted] = about.names();
    let parameters = params![user, exact, counted, MOST_BANS];
    rows("penalties", connection, &sql, parameters, penalties::penalty)
}

pub(super) const COLUMNS: &str = "id, type, user, ip, points, previous, total, limiter, max_shown,
     window_ms, pending, repeats, severity, details, ban, penalty, at_ms, imported, logout";

/// From the violation that the ban fell for back to where its score began, or
/// to the one that an earlier ban fell for.
fn led_to(
    connection: &Connection,
    ban: BanId,
    most: usize,
) -> Result<Vec<ViolationRecord>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM violations AS one
         WHERE (bearer, type) = (SELECT bearer, type FROM violations WHERE ban = ?1)
             AND id <= (SELECT id FROM violations WHERE ban = ?1)
         ORDER BY id DESC LIMIT ?2"
    );
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let back = rows("violations", connection, &sql, params![sql_ms(ban), most], violation)?;
    let mut chain = Vec::new();
    for one in back {
        let is_earlier = one.ban.is_some_and(|other| other != ban);
        if is_earlier {
            break;
        }
        let is_first = one.previous <= 0.0;
        chain.push(one);
        if is_first {
            break;
        }
    }
    Ok(chain)
}

/// The latest that ended sessions without a ban.
fn ended_sessions(
    connection: &Connection,
    user: Option<&str>,
    about: &About,
) -> Result<Vec<ViolationRecord>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM violations
         WHERE logout = 1 AND ((bearer = ?1 AND bearer_kind = 'user')
                               OR (bearer = ?2 AND bearer_kind = 'address'))
         ORDER BY id DESC LIMIT ?3"
    );
    let address = about.address.map(|address| address.to_string());
    rows("violations", connection, &sql, params![user, address, MOST_BANS], violation)
}

fn latest(
    connection: &Connection,
    user: Option<&str>,
    about: &About,
) -> Result<Vec<ViolationRecord>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM violations
         WHERE user = ?1 OR ip = ?2 OR (bearer = ?3 AND bearer_kind = 'address')
         ORDER BY id DESC LIMIT ?4"
    );
    let ip = about.subject.ip().map(|ip| ip.to_string());
    let address = about.address.map(|address| address.to_string());
    let most = i64::try_from(MOST_VIOLATIONS).unwrap_or(i64::MAX);
    rows("violations", connection, &sql, params![user, ip, address, most], violation)
}

pub(super) fn violation(row: &Row<'_>) -> Result<ViolationRecord, StoreError> {
    let number = |index| Ok(column::<Option<i64>>(row, index)?.map(unix_ms));
    Ok(ViolationRecord {
        id: unix_ms(column(row, 0)?),
        kind: column(row, 1)?,
        user: column(row, 2)?,
        ip: column(row, 3)?,
        points: column(row, 4)?,
        previous: column(row, 5)?,
        total: column(row, 6)?,
        limiter: column(row, 7)?,
        max: column(row, 8)?,
        window_ms: number(9)?,
        pending: number(10)?,
        repeats: column(row, 11)?,
        severity: column(row, 12)?,
        details: column(row, 13)?,
        ban: number(14)?,
        penalty: number(15)?,
        at_unix_ms: unix_ms(column(row, 16)?),
        is_imported: column(row, 17)?,
        logout: column(row, 18)?,
    })
}

fn totals(
    connection: &Connection,
    user: Option<&str>,
    about: &About,
) -> Result<Vec<Total>, StoreError> {
    let sql = "SELECT type, sum(count), sum(points), min(first_at_ms), max(last_at_ms)
         FROM totals
         WHERE (bearer_kind = 'user' AND bearer = ?1) OR (bearer_kind = 'address' AND bearer = ?2)
         GROUP BY type ORDER BY sum(count) DESC, type";
    let address = about.address.map(|address| address.to_string());
    rows("totals", connection, sql, params![user, address], |row| {
        Ok(Total {
            kind: column(row, 0)?,
            count: unix_ms(column(row, 1)?),
            points: column(row, 2)?,
            first_at_unix_ms: unix_ms(column(row, 3)?),
            last_at_unix_ms: unix_ms(column(row, 4)?),
        })
    })
}
