//! The app's routes: events, violations, leases, checks.

use std::sync::Arc;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Context, Problem,
    input::{Json, Query, request_id, subject},
    paths::{Operation, Paths},
    view::{self, AnswerView, BanJson, LeaseView},
};
use crate::{
    clock,
    engine::{Act, LeaseId, Request, Severity, ViolationType},
};

pub(super) fn routes() -> Paths {
    let violated = Operation::post("/v1/violations", "Report a violation");
    let acquired = Operation::post("/v1/leases", "Take a place for a generation that begins");
    let renewed = Operation::put("/v1/leases/{id}", "Keep a place: the generation goes on");
    let released = Operation::delete("/v1/leases/{id}", "Give a place back: it has ended");
    Paths::new()
        .on(violated.body::<ViolationBody>().answers::<AnswerView<'_>>(), violation)
        .on(acquired.body::<LeaseBody>().answers::<AnswerView<'_>>(), acquire)
        .on(renewed.answers::<Renewed>(), renew)
        .on(released.status(StatusCode::NO_CONTENT), release)
}

/// The routes of either socket.
pub(super) fn common() -> Paths {
    let checked = Operation::get("/v1/check", "Whether a user or an address is banned");
    let alive = Operation::get("/healthz", "The process runs");
    let ready = Operation::get("/readyz", "The store is open and the engine restored");
    Paths::new()
        .on(checked.query::<CheckQuery>().answers::<Checked>(), check)
        .on(alive.answers_as::<String>("text/plain"), healthz)
        .on(ready.answers_as::<String>("text/plain"), readyz)
}

type Answered = Result<Written, Problem>;

/// A body that is JSON already.
struct Written(Vec<u8>);

impl IntoResponse for Written {
    fn into_response(self) -> Response {
        let kind = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, kind)], self.0).into_response()
    }
}

async fn answer(context: &Context, request: Request) -> Answered {
    let answer = context.moderator.judge(request).await?;
    Ok(Written(view::written(&answer, &context.config.rules)))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ViolationBody {
    r#type: String,
    user: Option<String>,
    ip: Option<String>,
    score: Option<f64>,
    /// `low`, `medium`, `high` or `critical`.
    #[schemars(with = "Option<String>")]
    severity: Option<Severity>,
    /// A sentence of the reporter's, of at most 512 bytes.
    details: Option<String>,
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
    let id = body.id.map(|id| request_id(kind.name(), &bearer, &id)).transpose()?;
    let details = body.details.map(details).transpose()?;
    let act = Act::Violation { kind, points, severity: body.severity, details };
    answer(&context, Request { id, ..Request::new(act, subject) }).await
}

/// What the reporter says about it is a sentence, not what somebody wrote.
const MAX_DETAILS_BYTES: usize = 512;

fn details(text: String) -> Result<Arc<str>, Problem> {
    if text.len() > MAX_DETAILS_BYTES || text.chars().any(char::is_control) {
        let detail = format!("details: at most {MAX_DETAILS_BYTES} bytes, none of them control");
        return Err(Problem::InvalidField(detail));
    }
    Ok(text.into())
}

/// More points than this are a mistake, and sums stay exact below it.
const MAX_POINTS: f64 = 1_000_000.0;

fn points(points: f64) -> Result<f64, Problem> {
    if (0.0..=MAX_POINTS).contains(&points) {
        return Ok(points);
    }
    Err(Problem::InvalidField(format!("score: {points} is not between 0 and {MAX_POINTS}")))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LeaseBody {
    user: Option<String>,
    ip: Option<String>,
    id: Option<String>,
}

async fn acquire(State(context): State<Context>, Json(body): Json<LeaseBody>) -> Answered {
    let subject = subject(body.user.as_deref(), body.ip.as_deref())?;
    let bearer = context.config.rules.bearer(&subject);
    let id = body.id.map(|id| request_id("lease", &bearer, &id)).transpose()?;
    answer(&context, Request { id, ..Request::new(Act::Acquire, subject) }).await
}

#[derive(Debug, Serialize, JsonSchema)]
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

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CheckQuery {
    user: Option<String>,
    ip: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Checked {
    banned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ban: Option<BanJson>,
}

async fn check(
    State(context): State<Context>,
    Query(query): Query<CheckQuery>,
) -> Result<axum::Json<Checked>, Problem> {
    // In a query, unlike in a body, an empty value is a value left out.
    let user = query.user.filter(|user| !user.is_empty());
    let ip = query.ip.filter(|ip| !ip.is_empty());
    let subject = subject(user.as_deref(), ip.as_deref())?;
    let ban = context.moderator.check(&subject).await;
    let ban = ban.map(|ban| BanJson::new(&ban, clock::now()));
    Ok(axum::Json(Checked { banned: ban.is_some(), ban }))
}

/// The process runs.
async fn healthz() -> &'static str {
    "ok\n"
}

/// The store is open and the engine restored: connections are only accepted
/// then.
async fn readyz() -> &'static str {
    "ready\n"
}
