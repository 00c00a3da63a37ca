//! How often who broke which rule, as sums that outlive the violations
//! themselves when there are too many of those.

use rusqlite::{Error, Transaction, params};

/// One violation more of a bearer, as records name it.
pub(super) fn add(
    to: &Transaction<'_>,
    (bearer_kind, bearer): (&str, &str),
    kind: &str,
    points: f64,
    at_ms: i64,
) -> Result<(), Error> {
    to.prepare_cached(
        "INSERT INTO totals (bearer_kind, bearer, type, count, points, first_at_ms, last_at_ms)
         VALUES (?1, ?2, ?3, 1, ?4, ?5, ?5)
         ON CONFLICT (bearer_kind, bearer, type)
         DO UPDATE SET count = count + 1, points = points + excluded.points,
                       first_at_ms = min(first_at_ms, excluded.first_at_ms),
                       last_at_ms = max(last_at_ms, excluded.last_at_ms)",
    )?
    .execute(params![bearer_kind, bearer, kind, points, at_ms])
    .map(drop)
}
