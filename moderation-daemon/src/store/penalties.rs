//! Penalties, what makes them grow, and what limits follow: written down and
//! read back. Which transaction that is part of is not decided here.

use rusqlite::{Connection, Error, Row, Transaction, params};

use super::{
    About, Reader, StoreError,
    explain::rows,
    read::{self, author, column, corrupt, unix_ms},
    sql_ms,
    write::bearer,
};
use crate::engine::{
    Bearer, EndPenalties, EndPenalty, Factor, Offence, Penalty, PenaltyId, PenaltyKind, Restored,
    Severity, Traits, UserId, ViolationType,
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
        .execute(params![sql_ms(end.penalty), sql_ms(end.at_unix_ms), end.by.name()])
        .map(drop)
}

/// All of somebody's, but for those whose ban holds. Those that a rule ended, too:
/// ladders begin anew.
pub(super) fn end_all(to: &Transaction<'_>, end: &EndPenalties) -> Result<(), Error> {
    let sql = format!(
        "UPDATE penalties SET ended_at_ms = ?3, ended_by = ?4
         WHERE (user = ?1 OR address = ?2) AND {IS_NOT_TAKEN_BACK}
             AND NOT EXISTS (SELECT 1 FROM bans
                             WHERE bans.id = penalties.ban AND lifted_at_ms IS NULL
                                 AND (expires_at_ms IS NULL OR expires_at_ms > ?3))"
    );
    to.prepare_cached(&sql)?
        .execute(params![
            end.user.as_ref().map(UserId::as_str),
            end.prefix.map(|prefix| prefix.to_string()),
            sql_ms(end.at_unix_ms),
            end.by.name(),
        ])
        .map(drop)
}

/// One that another took the place of counts on ladders still.
const IS_NOT_TAKEN_BACK: &str = "(ended_at_ms IS NULL OR ended_by = 'rule')";

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
        "INSERT INTO subjects (user, factor, factor_at_ms, flagged, flagged_since_ms, seen_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?3)
         ON CONFLICT (user)
         DO UPDATE SET factor = excluded.factor, factor_at_ms = excluded.factor_at_ms,
                       flagged = excluded.flagged,
                       flagged_since_ms = excluded.flagged_since_ms,
                       seen_at_ms = excluded.seen_at_ms",
    )?
    .execute(params![
        user.as_str(),
        factor.permille,
        sql_ms(factor.at_unix_ms),
        factor.flagged,
        sql_ms(factor.flagged_since_unix_ms)
    ])
    .map(drop)
}

/// Those that no person took back.
pub(super) fn all(connection: &Connection) -> Result<Vec<Penalty>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM penalties WHERE {IS_NOT_TAKEN_BACK} ORDER BY id");
    let read = |error| StoreError::Read("penalties", error);
    let mut query = connection.prepare(&sql).map_err(read)?;
    let mut rows = query.query([]).map_err(read)?;
    let mut penalties = Vec::new();
    while let Some(row) = rows.next().map_err(read)? {
        penalties.push(penalty(row)?);
    }
    Ok(penalties)
}

/// Which penalties to list.
#[derive(Clone, Debug)]
pub struct PenaltyPage {
    /// Whose; `None`: everybody's.
    pub about: Option<About>,
    /// Those that are over, too.
    pub all: bool,
    /// How many.
    pub limit: u32,
    /// Only those with a higher number.
    pub after: PenaltyId,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
}

impl Reader {
    /// One penalty that no person took back. Blocks: call it where that is allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn penalty(&self, id: PenaltyId) -> Result<Option<Penalty>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM penalties WHERE id = ?1 AND {IS_NOT_TAKEN_BACK}");
        let found = rows("penalties", &self.lock(), &sql, [sql_ms(id)], penalty)?;
        Ok(found.into_iter().next())
    }

    /// Lists penalties by number. Blocks: call it where that is allowed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn penalties(&self, page: &PenaltyPage) -> Result<Vec<Penalty>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM penalties
             WHERE id > ?1 AND (?2 OR (ended_at_ms IS NULL
                                       AND (ends_at_ms IS NULL OR ends_at_ms > ?3)))
                 AND (?4 OR user = ?5 OR address IN (?6, ?7))
             ORDER BY id LIMIT ?8"
        );
        let [user, exact, counted] = page.about.as_ref().map(About::names).unwrap_or_default();
        let parameters = params![
            sql_ms(page.after),
            page.all,
            sql_ms(page.now_ms),
            page.about.is_none(),
            user,
            exact,
            counted,
            page.limit,
        ];
        rows("penalties", &self.lock(), &sql, parameters, penalty)
    }
}

/// What [`penalty`] reads.
pub(super) const COLUMNS: &str = "id, kind, user, address, violation, severity, reason, detail,
     starts_at_ms, ends_at_ms, by, ended_at_ms, ended_by, ban";

pub(super) fn penalty(row: &Row<'_>) -> Result<Penalty, StoreError> {
    let id: i64 = column(row, 0)?;
    let bad = |problem: &str| corrupt("penalties", &id.to_string(), problem);
    let user: Option<String> = column(row, 2)?;
    let address: Option<String> = column(row, 3)?;
    let violation: Option<String> = column(row, 4)?;
    let severity: Option<String> = column(row, 5)?;
    let by: String = column(row, 10)?;
    let ended: Option<i64> = column(row, 11)?;
    let ended_by: Option<String> = column(row, 12)?;
    Ok(Penalty {
        id: unix_ms(id),
        kind: kind(row).map_err(|problem| problem.unwrap_or_else(|| bad("no such kind")))?,
        user: user.map(|user| user.parse()).transpose().map_err(|_| bad("no user id"))?,
        prefix: address.map(|text| text.parse()).transpose().map_err(|_| bad("no address"))?,
        // It outlives the type that it fell for: its reason still says it.
        violation: violation.as_deref().and_then(ViolationType::from_name),
        severity: severity
            .map(|name| Severity::from_name(&name).ok_or_else(|| bad("no severity")))
            .transpose()?,
        reason: column(row, 6)?,
        starts_at_unix_ms: unix_ms(column(row, 8)?),
        ends_at_unix_ms: column::<Option<i64>>(row, 9)?.map(unix_ms),
        by: author(&by),
        ended: ended.map(|at| (unix_ms(at), ended_by.unwrap_or_default())),
    })
}

/// `Err(None)`: the row makes no sense.
fn kind(row: &Row<'_>) -> Result<PenaltyKind, Option<StoreError>> {
    let name: String = column(row, 1).map_err(Some)?;
    let detail: Option<String> = column(row, 7).map_err(Some)?;
    let ban = column::<Option<i64>>(row, 13).map_err(Some)?.map(unix_ms);
    match name.as_str() {
        "warning" => Ok(PenaltyKind::Warning { message: detail.unwrap_or_default().into() }),
        "remove_content" => Ok(PenaltyKind::RemoveContent),
        "reduce" => {
            let permille = detail.and_then(|text| text.parse().ok());
            permille.map(|factor_permille| PenaltyKind::Reduce { factor_permille }).ok_or(None)
        }
        "ban" => ban.map(PenaltyKind::Ban).ok_or(None),
        "suspension" => ban.map(PenaltyKind::Suspension).ok_or(None),
        _ => Err(None),
    }
}

pub(super) fn offences(connection: &Connection) -> Result<Vec<(Bearer, Offence)>, StoreError> {
    let read = |error| StoreError::Read("offences", error);
    let mut query = connection
        .prepare("SELECT bearer_kind, bearer, level, at_ms, grace FROM offences")
        .map_err(read)?;
    let mut rows = query.query([]).map_err(read)?;
    let mut offences = Vec::new();
    while let Some(row) = rows.next().map_err(read)? {
        let (kind, name): (String, String) = (column(row, 0)?, column(row, 1)?);
        let bearer = read::bearer(&kind, &name)
            .map_err(|problem| corrupt("offences", &format!("of {kind}"), problem))?;
        let at_unix_ms = unix_ms(column(row, 3)?);
        offences.push((
            bearer,
            Offence { level: column(row, 2)?, at_unix_ms, has_grace: column(row, 4)? },
        ));
    }
    Ok(offences)
}

/// What is known about users, and how their limits stand; nothing else.
pub(super) fn users(connection: &Connection) -> Result<Restored, StoreError> {
    let read = |error| StoreError::Read("subjects", error);
    let mut query = connection
        .prepare(
            "SELECT user, tier, role, created_at_ms, email_verified, paying, factor,
                    factor_at_ms, flagged, flagged_since_ms, seen_at_ms
             FROM subjects",
        )
        .map_err(read)?;
    let mut rows = query.query([]).map_err(read)?;
    let mut restored = Restored::default();
    while let Some(row) = rows.next().map_err(read)? {
        let name: String = column(row, 0)?;
        let user: UserId =
            name.parse().map_err(|_| corrupt("subjects", "of a user", "no user id"))?;
        let traits = traits(row)?;
        if let Some(permille) = column::<Option<u32>>(row, 6)? {
            let at_unix_ms = column::<Option<i64>>(row, 7)?.map_or(0, unix_ms);
            let (flagged, since) = (column(row, 8)?, unix_ms(column(row, 9)?));
            let factor = Factor { permille, at_unix_ms, flagged, flagged_since_unix_ms: since };
            restored.factors.push((user.clone(), factor));
        }
        if traits != Traits::default() {
            restored.traits.push((user, traits, unix_ms(column(row, 10)?)));
        }
    }
    Ok(restored)
}

fn traits(row: &Row<'_>) -> Result<Traits, StoreError> {
    Ok(Traits {
        tier: column::<Option<String>>(row, 1)?.map(Into::into),
        role: column::<Option<String>>(row, 2)?.map(Into::into),
        created_at_unix_ms: column::<Option<i64>>(row, 3)?.map(unix_ms),
        email_verified: column(row, 4)?,
        paying: column(row, 5)?,
    })
}
