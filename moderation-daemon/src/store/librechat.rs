//! Scores and records in pages for LibreChat's files, and records from them.
//! How the files look is not known here.

use std::collections::HashMap;

use rusqlite::{Error, Transaction, params};

use super::{
    Keep, Reader, Store, StoreError,
    explain::rows,
    prune,
    read::{column, unix_ms},
    sql_ms, totals, transaction,
};
use crate::{
    librechat::{Record, Score, knows},
    pseudonym::Names,
};

/// Some rows, and where to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T, P> {
    /// What LibreChat knows.
    pub rows: Vec<T>,
    /// How much it does not.
    pub left_out: u64,
    /// Behind the last row; `None`: that was all.
    pub next: Option<P>,
}

/// A place in the table of scores: user and type.
pub type ScorePlace = (String, String);

/// A record, and what has to be asked of the rules.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordRow {
    /// The record; its limiter is what LibreChat calls it, if that is known.
    pub record: Record,
    /// The limiter by our name.
    pub limiter: Option<String>,
}

/// What became of records from elsewhere; the others were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenRecords {
    /// How many were new.
    pub taken: u64,
    /// How many are older than what is kept.
    pub too_old: u64,
}

/// Rows of a page.
const PAGE: usize = 512;

impl Reader {
    /// Scores of users, in the order of users and types. Blocks: call it where
    /// that is allowed. `ttl_ms`: how long a score lives without a violation.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn librechat_scores(
        &self,
        after: &ScorePlace,
        ttl_ms: Option<u64>,
    ) -> Result<Page<Score, ScorePlace>, StoreError> {
        let sql = "SELECT bearer, type, points + spent, updated_at_ms FROM scores
             WHERE bearer_kind = 'user' AND (bearer, type) > (?1, ?2)
             ORDER BY bearer, type LIMIT ?3";
        let found = rows("scores", &self.lock(), sql, params![after.0, after.1, page()], |row| {
            let updated_at_ms = unix_ms(column(row, 3)?);
            Ok(Score {
                user: column(row, 0)?,
                kind: column(row, 1)?,
                points: column(row, 2)?,
                expires_at_ms: ttl_ms.map(|ttl| updated_at_ms.saturating_add(ttl)),
            })
        })?;
        let last = found.last().map(|score| (score.user.clone(), score.kind.clone()));
        Ok(paged(found, last, |score| knows(&score.kind)))
    }

    /// Records of users' violations, in the order in which they were written.
    /// Blocks: call it where that is allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn librechat_records(&self, after: u64) -> Result<Page<RecordRow, u64>, StoreError> {
        let sql = "SELECT one.id, type, one.user, points, previous, total, limiter, label,
                 max_shown, coalesce(window_shown, window_ms / 60000.0), pending, at_ms,
                 coalesce(imported_ban, ban IS NOT NULL),
                 coalesce(imported_ban_ms, bans.expires_at_ms - bans.created_at_ms)
             FROM violations AS one LEFT JOIN bans ON bans.id = one.ban
             WHERE one.id > ?1 AND one.user IS NOT NULL
             ORDER BY one.id LIMIT ?2";
        let found = rows("violations", &self.lock(), sql, params![sql_ms(after), page()], |row| {
            let record = Record {
                kind: column(row, 1)?,
                user: column(row, 2)?,
                points: column(row, 3)?,
                previous: column(row, 4)?,
                total: column(row, 5)?,
                limiter: column(row, 7)?,
                max: column(row, 8)?,
                window_minutes: column(row, 9)?,
                pending: column::<Option<i64>>(row, 10)?.map(unix_ms),
                at_ms: unix_ms(column(row, 11)?),
                is_ban: column(row, 12)?,
                ban_ms: column::<Option<i64>>(row, 13)?.map(unix_ms),
            };
            let id: i64 = column(row, 0)?;
            Ok((unix_ms(id), RecordRow { record, limiter: column(row, 6)? }))
        })?;
        let last = found.last().map(|(id, _)| *id);
        let found = found.into_iter().map(|(_, row)| row).collect();
        Ok(paged(found, last, |row: &RecordRow| knows(&row.record.kind)))
    }
}

fn page() -> i64 {
    i64::try_from(PAGE).unwrap_or(i64::MAX)
}

fn paged<T, P>(found: Vec<T>, last: Option<P>, is_known: impl Fn(&T) -> bool) -> Page<T, P> {
    let count = found.len();
    let rows: Vec<T> = found.into_iter().filter(is_known).collect();
    let left_out = u64::try_from(count - rows.len()).unwrap_or(u64::MAX);
    Page { rows, left_out, next: last.filter(|_| count == PAGE) }
}

impl Store {
    /// Writes records from elsewhere down, but for those that are there already,
    /// or would be forgotten at once: else they would count in the totals again
    /// each time. Of several that are alike, as many as there are in one call.
    ///
    /// # Errors
    ///
    /// [`StoreError::Commit`]; then nothing has been written.
    pub fn take_records(
        &mut self,
        records: &[Record],
        now_ms: u64,
        keep: Keep,
    ) -> Result<TakenRecords, StoreError> {
        transaction(&mut self.connection, |transaction| {
            let oldest_kept = prune::oldest_kept(transaction, now_ms, keep)?;
            let (recent, too_old): (Vec<_>, Vec<_>) =
                records.iter().partition(|record| sql_ms(record.at_ms) >= oldest_kept);
            let (mut taken, mut alike) = (0, HashMap::new());
            for record in recent {
                let same = (&record.user, &record.kind, record.at_ms, record.total.to_bits());
                let nth = alike.entry(same).and_modify(|nth| *nth += 1).or_insert(1);
                taken += u64::from(take(transaction, record, *nth, &self.names)?);
            }
            let too_old = u64::try_from(too_old.len()).unwrap_or(u64::MAX);
            Ok(TakenRecords { taken, too_old })
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "cut on purpose: windows are short")]
fn take(to: &Transaction<'_>, record: &Record, nth: u32, names: &Names) -> Result<bool, Error> {
    let (user, at_ms) = (names.recorded(&record.user), sql_ms(record.at_ms));
    let written = to
        .prepare_cached(
            "INSERT INTO violations
                 (type, user, bearer_kind, bearer, points, previous, total, label, max_shown,
                  window_ms, window_shown, pending, at_ms, imported, imported_ban,
                  imported_ban_ms)
             SELECT ?1, ?2, 'user', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 1, ?12, ?13
             WHERE ?14 > (SELECT count(*) FROM violations
                          WHERE user = ?2 AND at_ms = ?11 AND type = ?1 AND total = ?5)",
        )?
        .execute(params![
            record.kind,
            user,
            record.points,
            record.previous,
            record.total,
            record.limiter,
            record.max,
            record.window_minutes.map(|minutes| (minutes * 60_000.0) as i64),
            record.window_minutes,
            record.pending.map(sql_ms),
            at_ms,
            record.is_ban,
            record.ban_ms.map(sql_ms),
            nth,
        ])?;
    if written > 0 {
        totals::add(to, ("user", &user), &record.kind, record.points, at_ms)?;
    }
    Ok(written > 0)
}
