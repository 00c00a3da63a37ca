//! Retention: what is old goes, and of what strangers can make grow there is
//! never more than so much. What holds stays. When that happens is not decided
//! here.

use std::time::Duration;

use rusqlite::{Error, Transaction};

use super::{Store, StoreError, sql_ms, transaction};

impl Store {
    /// Forgets what is older than `retention`, and of violations, totals, past
    /// bans, past penalties, offences and what is known about users each all but
    /// the last `max_records`. What holds stays: active bans and penalties;
    /// leases end by themselves.
    ///
    /// # Errors
    ///
    /// [`StoreError::Commit`].
    pub fn prune(
        &mut self,
        now_ms: u64,
        retention: Duration,
        max_records: u64,
    ) -> Result<(), StoreError> {
        let retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let before = sql_ms(now_ms.saturating_sub(retention_ms));
        let keep = i64::try_from(max_records).unwrap_or(i64::MAX);
        transaction(&mut self.connection, |transaction| {
            forget_old(transaction, before)?;
            forget_surplus(transaction, keep, sql_ms(now_ms))
        })
    }
}

/// A word, or an instruction: over at once.
const IS_MOMENTARY: &str = "kind IN ('warning', 'remove_content')";

/// Apart where there is an `OR`, so that each has its index.
fn forget_old(from: &Transaction<'_>, before: i64) -> Result<(), Error> {
    let statements = [
        "DELETE FROM violations WHERE at_ms < ?1",
        "DELETE FROM scores WHERE updated_at_ms < ?1",
        "DELETE FROM totals WHERE last_at_ms < ?1",
        "DELETE FROM offences WHERE at_ms < ?1",
        "DELETE FROM subjects WHERE seen_at_ms < ?1",
        "DELETE FROM bans WHERE lifted_at_ms IS NULL AND expires_at_ms < ?1",
        "DELETE FROM bans WHERE lifted_at_ms < ?1",
        "DELETE FROM penalties WHERE ends_at_ms < ?1",
        "DELETE FROM penalties WHERE ended_at_ms < ?1",
        &format!("DELETE FROM penalties WHERE starts_at_ms < ?1 AND {IS_MOMENTARY}"),
    ];
    statements.iter().try_for_each(|sql| from.execute(sql, [before]).map(drop))
}

fn forget_surplus(from: &Transaction<'_>, keep: i64, now: i64) -> Result<(), Error> {
    let at_most: i64 =
        from.query_row("SELECT coalesce(max(id) - min(id) + 1, 0) FROM violations", [], |row| {
            row.get(0)
        })?;
    // Looking for the oldest takes a while, and those that were brought along have
    // high numbers.
    if at_most > keep {
        from.execute(
            "DELETE FROM violations WHERE id IN
                 (SELECT id FROM violations ORDER BY at_ms DESC, id DESC LIMIT -1 OFFSET ?1)",
            [keep],
        )?;
    }
    from.execute(
        "DELETE FROM bans WHERE id <= (SELECT max(id) FROM bans) - ?1
             AND (lifted_at_ms IS NOT NULL OR expires_at_ms <= ?2)",
        [keep, now],
    )?;
    let sql = format!(
        "DELETE FROM penalties WHERE id <= (SELECT max(id) FROM penalties) - ?1
             AND (ended_at_ms IS NOT NULL OR ends_at_ms <= ?2 OR {IS_MOMENTARY})",
    );
    from.execute(&sql, [keep, now])?;
    for (table, key, age) in [
        ("totals", "bearer_kind, bearer, type", "last_at_ms"),
        ("offences", "bearer_kind, bearer", "at_ms"),
        ("subjects", "user", "seen_at_ms"),
    ] {
        let sql = format!(
            "DELETE FROM {table} WHERE ({key}) IN
                 (SELECT {key} FROM {table} ORDER BY {age} DESC LIMIT -1 OFFSET ?1)",
        );
        from.execute(&sql, [keep])?;
    }
    Ok(())
}
