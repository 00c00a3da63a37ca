//! Writing down penalties, what makes them grow, and what limits follow. Which
//! transaction that is part of is not decided here.

use rusqlite::{Error, Transaction, params};

use super::{sql_ms, write::bearer};
use crate::engine::{
    Bearer, EndPenalty, Factor, Offence, Penalty, PenaltyKind, Severity, Traits, UserId,
    ViolationType,
};

pub(super) fn write(to: &Transaction<'_>, penalty: &Penalty) -> Result<(), Error> {
    let (detail, ban) = match &penalty.kind {
        PenaltyKind::Warning { message } => (Some(message.to_string()), None),
        PenaltyKind::RemoveContent => (None, None),
        PenaltyKind::Reduce { factor_permille } => (Some(factor_permille.to_string()), None),
        PenaltyKind::Ban(id) | PenaltyKind::Suspension(id) => (None, Some(sql_ms(*id))),
    };
    to.prepare_cached(
        "INSERT INTO penalties
             (id, kind, user, address, violation, severity, reason, detail, starts_at_ms,
              ends_at_ms, by, ban)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        sql_ms(penalty.id),
        penalty.kind.name(),
        penalty.user.as_ref().map(UserId::as_str),
        penalty.prefix.map(|prefix| prefix.to_string()),
        penalty.violation.map(ViolationType::name),
        penalty.severity.map(Severity::name),
        penalty.reason,
        detail,
        sql_ms(penalty.starts_at_unix_ms),
        penalty.ends_at_unix_ms.map(sql_ms),
        penalty.by.name(),
        ban,
    ])
    .map(drop)
}

pub(super) fn end(to: &Transaction<'_>, end: &EndPenalty) -> Result<(), Error> {
    to.prepare_cached("UPDATE penalties SET ended_at_ms = ?2, ended_by = ?3 WHERE id = ?1")?
        .execute(params![sql_ms(end.penalty), sql_ms(end.at_unix_ms), end.by])
        .map(drop)
}

pub(super) fn write_offence(
    to: &Transaction<'_>,
    of: &Bearer,
    offence: Offence,
) -> Result<(), Error> {
    let (kind, name) = bearer(of);
    to.prepare_cached(
        "INSERT INTO offences (bearer_kind, bearer, level, at_ms, grace)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (bearer_kind, bearer)
         DO UPDATE SET level = excluded.level, at_ms = excluded.at_ms, grace = excluded.grace",
    )?
    .execute(params![kind, name, offence.level, sql_ms(offence.at_unix_ms), offence.has_grace])
    .map(drop)
}

pub(super) fn write_traits(
    to: &Transaction<'_>,
    user: &UserId,
    traits: &Traits,
    at_unix_ms: u64,
) -> Result<(), Error> {
    to.prepare_cached(
        "INSERT INTO subjects
             (user, tier, role, created_at_ms, email_verified, paying, seen_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (user)
         DO UPDATE SET tier = excluded.tier, role = excluded.role,
                       created_at_ms = excluded.created_at_ms,
                       email_verified = excluded.email_verified, paying = excluded.paying,
                       seen_at_ms = excluded.seen_at_ms",
    )?
    .execute(params![
        user.as_str(),
        traits.tier.as_deref(),
        traits.role.as_deref(),
        traits.created_at_unix_ms.map(sql_ms),
        traits.email_verified,
        traits.paying,
        sql_ms(at_unix_ms),
    ])
    .map(drop)
}

pub(super) fn write_factor(
    to: &Transaction<'_>,
    user: &UserId,
    factor: Factor,
) -> Result<(), Error> {
    to.prepare_cached(
        "INSERT INTO subjects (user, factor, factor_at_ms, flagged, seen_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?3)
         ON CONFLICT (user)
         DO UPDATE SET factor = excluded.factor, factor_at_ms = excluded.factor_at_ms,
                       flagged = excluded.flagged, seen_at_ms = excluded.seen_at_ms",
    )?
    .execute(params![user.as_str(), factor.permille, sql_ms(factor.at_unix_ms), factor.flagged,])
    .map(drop)
}
