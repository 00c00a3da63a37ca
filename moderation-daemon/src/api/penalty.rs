//! Penalties beside the ban: what the app is told to do when one falls, and the
//! operators' routes to list them and to take one back. What a lift lifts is
//! told here too.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State, rejection::PathRejection},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Context, Problem,
    explain::{bearer, read},
    input::{Query, subject},
    paths::{Operation, Paths},
    peer::Peer,
    view::BanJson,
};
use crate::{
    clock,
    engine::{LiftTarget, Moment, Penalty, PenaltyKind, Severity, ViolationType},
    moderator::{BanView, LiftedView},
    store::{About, PenaltyPage},
};

pub(super) fn routes() -> Paths {
    let listed = Operation::get("/v1/penalties", "Penalties, a page at a time");
    let lifted = Operation::delete("/v1/penalties/{id}", "Take a penalty back");
    Paths::new()
        .on(listed.query::<PenaltiesQuery>().answers::<PenaltyList>(), penalties)
        .on(lifted.answers::<Told>(), lift)
}

/// A penalty as the app sees it: what to do, and until when.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PenaltyJson {
    id: u64,
    kind: &'static str,
    /// What the user is to be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// What the limits are multiplied by.
    #[serde(skip_serializing_if = "Option::is_none")]
    factor: Option<f64>,
    /// The ban that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    ban: Option<u64>,
    starts_at: String,
    /// `null`: never. A word and an instruction end as they begin.
    ends_at: Option<String>,
    reason: String,
}

impl PenaltyJson {
    pub(super) fn new(penalty: &Penalty) -> Self {
        let message = match &penalty.kind {
            PenaltyKind::Warning { message } => Some(message.to_string()),
            _ => None,
        };
        let factor = match penalty.kind {
            PenaltyKind::Reduce { factor_permille } => Some(f64::from(factor_permille) / 1_000.0),
            _ => None,
        };
        Self {
            id: penalty.id,
            kind: penalty.kind.name(),
            message,
            factor,
            ban: penalty.ban(),
            starts_at: clock::rfc3339(penalty.starts_at_unix_ms),
            ends_at: penalty.ends_at_unix_ms.map(clock::rfc3339),
            reason: penalty.reason.clone(),
        }
    }
}

/// The whole record, as operators see it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PenaltyRecord {
    #[serde(flatten)]
    penalty: PenaltyJson,
    user: Option<String>,
    address: Option<String>,
    violation: Option<&'static str>,
    severity: Option<&'static str>,
    by: String,
    /// Whether it is in force.
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<String>,
}

impl PenaltyRecord {
    pub(super) fn new(penalty: &Penalty, now: Moment) -> Self {
        let ended = penalty.ended.as_ref();
        Self {
            penalty: PenaltyJson::new(penalty),
            user: penalty.user.as_ref().map(ToString::to_string),
            address: penalty.prefix.map(|prefix| prefix.to_string()),
            violation: penalty.violation.map(ViolationType::name),
            severity: penalty.severity.map(Severity::name),
            by: penalty.by.name().to_owned(),
            active: penalty.holds_at(now.unix_ms),
            ended_at: ended.map(|(at, _)| clock::rfc3339(*at)),
            ended_by: ended.map(|(_, by)| by.clone()),
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PenaltiesQuery {
    user: Option<String>,
    ip: Option<String>,
    #[serde(default)]
    all: bool,
    limit: Option<u32>,
    #[serde(default)]
    after: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PenaltyList {
    penalties: Vec<PenaltyRecord>,
    /// What to ask for `after` next.
    next: Option<u64>,
}

/// What `GET /v1/penalties` gives at most in one answer.
const MAX_PAGE: u32 = 1_000;

async fn penalties(
    State(context): State<Context>,
    Query(query): Query<PenaltiesQuery>,
) -> Result<axum::Json<PenaltyList>, Problem> {
    let now = clock::now();
    let about = match (query.user.as_deref(), query.ip.as_deref()) {
        (None, None) => None,
        (user, ip) => Some(subject(user, ip)?),
    };
    let about = about.map(|subject| {
        let address = context.config.rules.counting.address(&subject);
        About { subject, address }
    });
    let limit = query.limit.unwrap_or(100).clamp(1, MAX_PAGE);
    let page =
        PenaltyPage { about, all: query.all, limit, after: query.after, now_ms: now.unix_ms };
    let found = read(&context.reader, move |reader| reader.penalties(&page)).await?;
    let next = found.last().filter(|_| found.len() == limit as usize).map(|last| last.id);
    let penalties = found.iter().map(|penalty| PenaltyRecord::new(penalty, now)).collect();
    Ok(axum::Json(PenaltyList { penalties, next }))
}

async fn lift(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    id: Result<Path<String>, PathRejection>,
) -> Result<axum::Json<Told>, Problem> {
    // Whatever is no number is no penalty either.
    let id = id.ok().and_then(|Path(text)| text.parse().ok());
    let id = id.ok_or(Problem::NoSuch("penalty that could be taken back"))?;
    let mut lifted = context.moderator.lift(LiftTarget::Penalty(id), peer.name()).await?;
    if lifted.is_nothing()
        && let Some(record) = read(&context.reader, move |reader| reader.penalty(id)).await?
    {
        let target = LiftTarget::Record(Arc::new(record));
        lifted = context.moderator.lift(target, peer.name()).await?;
    }
    if lifted.is_nothing() {
        return Err(Problem::NoSuch("penalty that could be taken back"));
    }
    Ok(axum::Json(told(&lifted, &[])))
}

/// All that a lift did.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Told {
    lifted: Vec<BanJson>,
    penalties: Vec<PenaltyRecord>,
    /// Whose scores and limits began anew, and what they were.
    forgotten: Vec<Value>,
}

/// All that a lift did, and what it took off imported lists.
pub(super) fn told(lifted: &LiftedView, imported: &[BanView]) -> Told {
    let now = clock::now();
    let bans = lifted.bans.iter().chain(imported);
    let bans: Vec<_> = bans.map(|ban| BanJson::new(ban, now).for_operators(&ban.ban)).collect();
    let penalties = lifted.penalties.iter().map(|penalty| PenaltyRecord::new(penalty, now));
    let forgotten = lifted.bearers.iter().map(|of| {
        let (kind, name) = bearer(of);
        let scores = lifted.scores.iter().filter(|(key, _)| key.bearer == *of);
        let scores: Map<_, _> =
            scores.map(|(key, points)| (key.kind.name().to_owned(), json!(points))).collect();
        let limits = lifted.limits.iter().filter(|(bearer, _)| bearer == of);
        let limits: Vec<_> = limits.map(|(_, limiter)| limiter.name()).collect();
        json!({ kind: name, "scores": scores, "limits": limits })
    });
    Told { lifted: bans, penalties: penalties.collect(), forgotten: forgotten.collect() }
}
