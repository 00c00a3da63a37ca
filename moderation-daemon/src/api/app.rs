//! The app's routes: events, violations, leases, checks.

use axum::{
    Router,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    routing::{post, put},
};
use serde::{Deserialize, Serialize};

use super::{
    Context, Problem,
    input::{Json, Query, request_id, subject},
    view::{AnswerView, BanJson, LeaseView},
};
use crate::{
    clock,
    engine::{Act, Cost, EventType, LeaseId, Request, Rules, ViolationType},
};

pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/v1/events", post(event))
        .route("/v1/violations", post(violation))
        .route("/v1/leases", post(acquire))
        .route("/v1/leases/{id}", put(renew).delete(release))
}

type Answered = Result<axum::Json<AnswerView>, Problem>;

async fn answer(context: &Context, request: Request) -> Answered {
    let answer = context.moderator.judge(request).await?;
    Ok(axum::Json(AnswerView::new(answer, clock::now())))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventBody {
    r#type: String,
    user: Option<String>,
    ip: Option<String>,
    user_agent: Option<String>,
    id: Option<String>,
}

async fn event(State(context): State<Context>, Json(body): Json<EventBody>) -> Answered {
    let rules = &context.config.rules;
    let kind = event_type(rules, &body.r#type)?;
    let subject = subject(body.user.as_deref(), body.ip.as_deref())?;
    let id = request_id(kind.name(), &rules.bearer(&subject), body.id)?;
    let act = Act::Event { kind, user_agent: body.user_agent, cost: Cost::default() };
    answer(&context, Request { id, ..Request::new(act, subject) }).await
}

/// One that the rules know.
fn event_type(rules: &Rules, name: &str) -> Result<EventType, Problem> {
    EventType::from_name(name).filter(|kind| rules.event(*kind).is_some()).ok_or_else(|| {
        let names: Vec<_> = rules.events.iter().map(|rule| rule.kind.name()).collect();
        Problem::UnknownType(format!("type: one of {}", names.join(", ")))
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ViolationBody {
    r#type: String,
    user: Option<String>,
    ip: Option<String>,
    score: Option<f64>,
    id: Option<String>,
}

async fn violation(State(context): State<Context>, Json(body): Json<ViolationBody>) -> Answered {
    let kind = ViolationType::from_name(&body.r#type).ok_or_else(|| {
        let names: Vec<_> = ViolationType::all().map(ViolationType::name).collect();
        Problem::UnknownType(format!("type: one of {}", names.join(", ")))
    })?;
    let points = body.score.map(points).transpose()?;
    let subject = subject(body.user.as_deref(), body.ip.as_deref())?;
    let bearer = context.config.rules.bearer(&subject);
    let id = request_id(kind.name(), &bearer, body.id)?;
    let act = Act::Violation { kind, points, severity: None, details: None };
    answer(&context, Request { id, ..Request::new(act, subject) }).await
}

/// More points than this are a mistake, and sums stay exact below it.
const MAX_POINTS: f64 = 1_000_000.0;

fn points(points: f64) -> Result<f64, Problem> {
    if (0.0..=MAX_POINTS).contains(&points) {
        return Ok(points);
    }
    Err(Problem::InvalidField(format!("score: {points} is not between 0 and {MAX_POINTS}")))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseBody {
    user: Option<String>,
    ip: Option<String>,
    id: Option<String>,
}

async fn acquire(State(context): State<Context>, Json(body): Json<LeaseBody>) -> Answered {
    let subject = subject(body.user.as_deref(), body.ip.as_deref())?;
    let id = request_id("lease", &context.config.rules.bearer(&subject), body.id)?;
    answer(&context, Request { id, ..Request::new(Act::Acquire, subject) }).await
}

#[derive(Debug, Serialize)]
struct Renewed {
    lease: LeaseView,
}

async fn renew(
    State(context): State<Context>,
    id: Result<Path<String>, PathRejection>,
) -> Result<axum::Json<Renewed>, Problem> {
    let lease = context.moderator.renew(lease_id(id)?).await?;
    let lease = lease.ok_or(Problem::NoSuch("lease"))?;
    Ok(axum::Json(Renewed { lease: LeaseView::new(&lease, clock::now()) }))
}

async fn release(
    State(context): State<Context>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let known = context.moderator.release(lease_id(id)?).await?;
    if known { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::NoSuch("lease")) }
}

/// Whatever is no number is no lease either.
fn lease_id(id: Result<Path<String>, PathRejection>) -> Result<LeaseId, Problem> {
    let id = id.ok().and_then(|Path(text)| text.parse().ok());
    id.ok_or(Problem::NoSuch("lease"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckQuery {
    user: Option<String>,
    ip: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Checked {
    banned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ban: Option<BanJson>,
}

pub(super) async fn check(
    State(context): State<Context>,
    Query(query): Query<CheckQuery>,
) -> Result<axum::Json<Checked>, Problem> {
    // In a query, unlike in a body, an empty value is a value left out.
    let user = query.user.filter(|user| !user.is_empty());
    let ip = query.ip.filter(|ip| !ip.is_empty());
    let subject = subject(user.as_deref(), ip.as_deref())?;
    let ban = context.moderator.check(&subject);
    let ban = ban.map(|ban| BanJson::new(&ban, clock::now()));
    Ok(axum::Json(Checked { banned: ban.is_some(), ban }))
}

/// The process runs.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The store is open and the engine restored: connections are only accepted
/// then.
pub(super) async fn readyz() -> &'static str {
    "ready\n"
}
