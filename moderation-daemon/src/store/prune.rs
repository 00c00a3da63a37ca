//! Retention: what is old goes, and of what strangers can make grow there is
//! never more than so much. What holds stays. When that happens is not decided
//! here.

use std::time::Duration;

use rusqlite::{Error, OptionalExtension as _, Transaction, params};

use super::{Store, StoreError, records, sql_ms, transaction};

/// What is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How long records are kept.
    pub records: Duration,
    /// How long past penalties are: ladders look at them. Not shorter.
    pub penalties: Duration,
    /// In how long half of somebody's bans is forgotten, if that makes the next
    /// one longer: they are kept until they no longer do.
    pub half_life: Option<Duration>,
    /// How much of each is kept.
    pub most: u64,
}

impl Keep {
    /// The same for all, which nothing outlives.
    pub const fn all(records: Duration, most: u64) -> Self {
        Self { records, penalties: records, half_life: None, most }
    }
}

impl Store {
    /// Forgets what is older than it may be, and of violations, totals, past
    /// bans, past penalties, offences and what is known about users each all but
    /// the last so many. What holds stays: active bans and penalties, users with a
    /// role or a tier; leases end by themselves.
    ///
    /// # Errors
    ///
    /// [`StoreError::Commit`].
    pub fn prune(&mut self, now_ms: u64, keep: Keep) -> Result<(), StoreError> {
        let most = i64::try_from(keep.most).unwrap_or(i64::MAX);
        transaction(&mut self.connection, |transaction| {
            forget_old(transaction, now_ms, keep)?;
            forget_offences(transaction, now_ms, keep)?;
            forget_surplus(transaction, most, sql_ms(now_ms))?;
            records::begin_anew_if_empty(transaction)
        })
    }
}

/// Records of violations from before this moment, in milliseconds since 1970, would
/// be forgotten at once; those that have been forgotten are from before it.
pub(super) fn oldest_kept(of: &Transaction<'_>, now_ms: u64, keep: Keep) -> Result<i64, Error> {
    let by_age = before(now_ms, keep.records);
    let most = i64::try_from(keep.most).unwrap_or(i64::MAX);
    if most_violations(of)? < most {
        return Ok(by_age);
    }
    let last: Option<i64> = of
        .prepare_cached("SELECT at_ms FROM violations ORDER BY at_ms DESC LIMIT 1 OFFSET ?1 - 1")?
        .query_row([most], |row| row.get(0))
        .optional()?;
    Ok(last.map_or(by_age, |last| by_age.max(last.saturating_add(1))))
}

/// So many violations are recorded at most.
fn most_violations(of: &Transaction<'_>) -> Result<i64, Error> {
    let sql = "SELECT coalesce(max(id) - min(id) + 1, 0) FROM violations";
    of.query_row(sql, [], |row| row.get(0))
}

/// So long before a moment, in milliseconds since 1970.
fn before(now_ms: u64, age: Duration) -> i64 {
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    sql_ms(now_ms.saturating_sub(age_ms))
}

/// The app may say it once, however long ago: it protects, or allows more.
const IS_FORGETTABLE: &str = "role IS NULL AND tier IS NULL";

/// A word, or an instruction: over at once.
const IS_MOMENTARY: &str = "kind IN ('warning', 'remove_content')";

/// Other hosts know of it.
const IS_TOLD: &str = "AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.ban = bans.id)";

/// Apart where there is an `OR`, so that each has its index.
fn forget_old(from: &Transaction<'_>, now_ms: u64, keep: Keep) -> Result<(), Error> {
    let records = [
        "DELETE FROM violations WHERE at_ms < ?1",
        "DELETE FROM scores WHERE updated_at_ms < ?1",
        "DELETE FROM totals WHERE last_at_ms < ?1",
        &format!("DELETE FROM subjects WHERE seen_at_ms < ?1 AND {IS_FORGETTABLE}"),
        &format!("DELETE FROM bans WHERE lifted_at_ms IS NULL AND expires_at_ms < ?1 {IS_TOLD}"),
        &format!("DELETE FROM bans WHERE lifted_at_ms < ?1 {IS_TOLD}"),
        "DELETE FROM penalties WHERE ended_at_ms < ?1 AND ended_by <> 'rule'",
    ];
    let penalties = [
        "DELETE FROM penalties WHERE ends_at_ms < ?1",
        &format!("DELETE FROM penalties WHERE starts_at_ms < ?1 AND {IS_MOMENTARY}"),
    ];
    let delete = |sql: &&str, before: i64| from.execute(sql, [before]).map(drop);
    let (of_records, of_penalties) =
        (before(now_ms, keep.records), before(now_ms, keep.records.max(keep.penalties)));
    records.iter().try_for_each(|sql| delete(sql, of_records))?;
    penalties.iter().try_for_each(|sql| delete(sql, of_penalties))
}

/// After so many half-lives all are forgotten.
const MOST_HALF_LIVES: u8 = 6;

/// One ban is half a ban after a half-life, and makes no other one longer; of two
/// that is so after two, of four after three.
fn forget_offences(from: &Transaction<'_>, now_ms: u64, keep: Keep) -> Result<(), Error> {
    let forget = |half_lives: u8, level: f64| {
        let age = keep.half_life.unwrap_or_default().saturating_mul(half_lives.into());
        let before = before(now_ms, age.max(keep.records));
        from.execute(
            "DELETE FROM offences WHERE at_ms < ?1 AND level <= ?2",
            params![before, level],
        )
        .map(drop)
    };
    (0..MOST_HALF_LIVES).try_for_each(|n| forget(n, 0.5 * f64::from(1_u32 << n)))?;
    forget(MOST_HALF_LIVES, f64::INFINITY)
}

fn forget_surplus(from: &Transaction<'_>, keep: i64, now: i64) -> Result<(), Error> {
    // Looking for the oldest takes a while, and those that were brought along have
    // high numbers.
    if most_violations(from)? > keep {
        from.execute(
            "DELETE FROM violations WHERE id IN
                 (SELECT id FROM violations ORDER BY at_ms DESC, id DESC LIMIT -1 OFFSET ?1)",
            [keep],
        )?;
    }
    let sql = format!(
        "DELETE FROM bans WHERE id <= (SELECT max(id) FROM bans) - ?1
             AND (lifted_at_ms IS NOT NULL OR expires_at_ms <= ?2) {IS_TOLD}",
    );
    from.execute(&sql, [keep, now])?;
    let sql = format!(
        "DELETE FROM penalties WHERE id <= (SELECT max(id) FROM penalties) - ?1
             AND (ended_at_ms IS NOT NULL OR ends_at_ms <= ?2 OR {IS_MOMENTARY})",
    );
    from.execute(&sql, [keep, now])?;
    for (table, key, age, may_go) in [
        ("totals", "bearer_kind, bearer, type", "last_at_ms", "true"),
        ("offences", "bearer_kind, bearer", "at_ms", "true"),
        ("subjects", "user", "seen_at_ms", IS_FORGETTABLE),
    ] {
        let sql = format!(
            "DELETE FROM {table} WHERE ({key}) IN
                 (SELECT {key} FROM {table} WHERE {may_go}
                  ORDER BY {age} DESC LIMIT -1 OFFSET ?1)",
        );
        from.execute(&sql, [keep])?;
    }
    Ok(())
}
