//! Writing decisions down: all of a batch in one transaction, or none.

use ipnet::IpNet;
use rusqlite::{Error, Transaction, params};

use super::{
    Allowed, Notes, Store, StoreError, leases, outbox::origin_name, penalties, sql_ms, totals,
    transaction,
};
use crate::{
    engine::{Ban, Bearer, Change, Lift, Score, ScoreKey, Severity, Violation, ViolationType},
    pseudonym::Names,
};

impl Store {
    /// Makes the durable ones among `changes` durable, all or none. When it
    /// returns they survive a power cut.
    ///
    /// # Errors
    ///
    /// [`StoreError::Commit`]; then nothing has been written.
    pub fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        if !changes.iter().any(is_durable) {
            return Ok(());
        }
        self.commit_noted(changes, &Notes::default())
    }

    /// Adds a prefix to the operator's allowlist.
    ///
    /// # Errors
    ///
    /// [`StoreError::Commit`].
    pub fn allow(&mut self, new: &Allowed, by: &str, at_ms: u64) -> Result<(), StoreError> {
        transaction(&mut self.connection, |transaction| {
            transaction
                .prepare_cached(
                    "INSERT INTO allowlist (prefix, note, added_by, created_at_ms)
                     VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (prefix) DO UPDATE SET note = excluded.note",
                )?
                .execute(params![new.prefix.trunc().to_string(), new.note, by, sql_ms(at_ms)])
                .map(drop)
        })
    }

    /// Takes a prefix off the operator's allowlist; `false` if it was not on it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Commit`].
    pub fn disallow(&mut self, prefix: IpNet) -> Result<bool, StoreError> {
        transaction(&mut self.connection, |transaction| {
            transaction
                .prepare_cached("DELETE FROM allowlist WHERE prefix = ?1")?
                .execute([prefix.trunc().to_string()])
                .map(|rows| rows > 0)
        })
    }
}

/// Whether a change has to be written down; the others live in memory.
pub const fn is_durable(change: &Change) -> bool {
    match change {
        Change::Score(..)
        | Change::ForgetScore(_)
        | Change::Pardon(_)
        | Change::Violation(_)
        | Change::Ban(_)
        | Change::Lift(_)
        | Change::Penalty(_)
        | Change::EndPenalty(_)
        | Change::EndPenalties(_)
        | Change::Offence(..)
        | Change::Traits(..)
        | Change::Factor(..)
        | Change::Lease(..)
        | Change::Release(_) => true,
        // A lease that is restored begins anew, whenever it was renewed.
        Change::Renew(..)
        | Change::Charge(_)
        | Change::Refund(_)
        | Change::Refunded(_)
        | Change::Repeat(_)
        | Change::Run(..)
        | Change::ForgetWindow(..)
        | Change::Known(..)
        | Change::BanCall(_)
        | Change::Seen(..)
        | Change::Answer(..) => false,
    }
}

pub(super) fn write(
    to: &Transaction<'_>,
    change: &Change,
    names: &Names,
    notes: &Notes,
) -> Result<(), Error> {
    match change {
        Change::Score(key, score) => write_score(to, key, *score),
        Change::ForgetScore(key) => forget_score(to, key),
        Change::Pardon(bearer) => forget_scores(to, bearer),
        Change::Violation(violation) => write_violation(to, violation, names),
        Change::Ban(ban) => write_ban(to, ban, notes),
        Change::Lift(lift) => write_lift(to, lift),
        Change::Penalty(penalty) => penalties::write(to, penalty),
        Change::EndPenalty(end) => penalties::end(to, end),
        Change::EndPenalties(end) => penalties::end_all(to, end),
        Change::Offence(bearer, offence) => penalties::write_offence(to, bearer, *offence),
        Change::Traits(user, traits, at) => penalties::write_traits(to, user, traits, *at),
        Change::Factor(user, factor) => penalties::write_factor(to, user, *factor),
        Change::Lease(lease, request) => leases::write(to, lease, request.as_deref()),
        Change::Release(id) => leases::end(to, *id),
        Change::Charge(_)
        | Change::Refund(_)
        | Change::Refunded(_)
        | Change::Repeat(_)
        | Change::Run(..)
        | Change::ForgetWindow(..)
        | Change::Known(..)
        | Change::BanCall(_)
        | Change::Renew(..)
        | Change::Seen(..)
        | Change::Answer(..) => Ok(()),
    }
}

/// The two columns that name a bearer.
pub(super) fn bearer(bearer: &Bearer) -> (&'static str, String) {
    match bearer {
        Bearer::User(user) => ("user", user.to_string()),
        Bearer::Address(address) => ("address", address.to_string()),
        Bearer::Account(account) => ("account", account.to_string()),
    }
}

fn write_score(to: &Transaction<'_>, key: &ScoreKey, score: Score) -> Result<(), Error> {
    let (kind, name) = bearer(&key.bearer);
    to.prepare_cached(
        "INSERT INTO scores
             (bearer_kind, bearer, type, points, updated_at_ms, spent, decayed_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (bearer_kind, bearer, type)
         DO UPDATE SET points = excluded.points, updated_at_ms = excluded.updated_at_ms,
                       spent = excluded.spent, decayed_at_ms = excluded.decayed_at_ms",
    )?
    .execute(params![
        kind,
        name,
        key.kind.name(),
        score.points,
        sql_ms(score.updated_at_unix_ms),
        score.spent,
        sql_ms(score.decayed_at_unix_ms),
    ])
    .map(drop)
}

fn forget_score(to: &Transaction<'_>, key: &ScoreKey) -> Result<(), Error> {
    let (kind, name) = bearer(&key.bearer);
    to.prepare_cached("DELETE FROM scores WHERE bearer_kind = ?1 AND bearer = ?2 AND type = ?3")?
        .execute(params![kind, name, key.kind.name()])
        .map(drop)
}

fn forget_scores(to: &Transaction<'_>, of: &Bearer) -> Result<(), Error> {
    let (kind, name) = bearer(of);
    to.prepare_cached("DELETE FROM scores WHERE bearer_kind = ?1 AND bearer = ?2")?
        .execute(params![kind, name])
        .map(drop)
}

/// The same, for records that are to be kept.
pub(super) fn recorded(of: &Bearer, names: &Names) -> (&'static str, String) {
    let (kind, name) = bearer(of);
    if kind == "user" { (kind, names.of(&name)) } else { (kind, name) }
}

fn write_violation(
    to: &Transaction<'_>,
    violation: &Violation,
    names: &Names,
) -> Result<(), Error> {
    let (bearer_kind, bearer) = recorded(&violation.bearer, names);
    // It says whose it is. Without it a retry after a crash counts again.
    let request = violation.request.as_deref().filter(|_| !names.are_pseudonyms());
    let limit = violation.limiter.as_ref().map(|(_, limit)| limit);
    let max = limit.map(|limit| match &limit.shown.max {
        // As JSON: LibreChat's records have a string where it came from the
        // environment.
        Some(text) => serde_json::Value::from(text.as_ref()).to_string(),
        None => limit.max.to_string(),
    });
    to.prepare_cached(
        "INSERT INTO violations
             (type, user, ip, points, previous, total, limiter, request_id, at_ms, bearer_kind,
              bearer, max_shown, window_ms, pending, repeats, severity, details, ban, penalty,
              window_shown, logout)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,
                 ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
    )?
    .execute(params![
        violation.kind.name(),
        violation.user.as_ref().map(|user| names.of(user.as_str())),
        violation.ip.map(|ip| ip.to_string()),
        violation.points,
        violation.previous,
        violation.total,
        violation.limiter.as_ref().map(|(limiter, _)| limiter.name()),
        request,
        sql_ms(violation.at_unix_ms),
        bearer_kind,
        bearer,
        max,
        limit.map(|limit| sql_ms(limit.window_ms)),
        violation.pending.map(|count| i64::try_from(count).unwrap_or(i64::MAX)),
        violation.repeats,
        violation.severity.map(Severity::name),
        violation.details.as_deref(),
        violation.ban.map(sql_ms),
        violation.penalty.map(sql_ms),
        limit.and_then(|limit| limit.shown.window_minutes),
        violation.logout,
    ])?;
    let (at_ms, points) = (sql_ms(violation.at_unix_ms), violation.points);
    totals::add(to, (bearer_kind, &bearer), violation.kind.name(), points, at_ms)
}

/// Every ban has a name that hosts share, whether it is shared now or not.
fn write_ban(to: &Transaction<'_>, ban: &Ban, notes: &Notes) -> Result<(), Error> {
    let taken = notes.taken.get(&ban.id);
    to.prepare_cached(
        "INSERT INTO bans
             (id, user, address, reason, violation, score, created_at_ms, expires_at_ms, blocks,
              by, with_ban, review, severity, uid, origin)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,
                 coalesce(?14, lower(hex(randomblob(16)))), ?15)",
    )?
    .execute(params![
        sql_ms(ban.id),
        ban.user.as_ref().map(ToString::to_string),
        ban.prefix.map(|prefix| prefix.to_string()),
        ban.reason,
        ban.violation.map(ViolationType::name),
        ban.score,
        sql_ms(ban.created_at_unix_ms),
        ban.expires_at_unix_ms.map(sql_ms),
        ban.blocks,
        ban.by.name(),
        ban.with.map(sql_ms),
        ban.review,
        ban.severity.map(Severity::name),
        taken.map(|(uid, _)| uid.as_str()),
        taken.and_then(|(_, origin)| origin_name(origin)),
    ])
    .map(drop)
}

fn write_lift(to: &Transaction<'_>, lift: &Lift) -> Result<(), Error> {
    to.prepare_cached("UPDATE bans SET lifted_at_ms = ?2, lifted_by = ?3 WHERE id = ?1")?
        .execute(params![sql_ms(lift.ban.id), sql_ms(lift.at_unix_ms), lift.by])
        .map(drop)
}
