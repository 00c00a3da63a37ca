//! What is left of limits, and taking back what was counted in vain:
//! `GET /v1/limits` and `POST /v1/refunds`.

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Context, Problem,
    event::{account, event_type},
    input::{Json, Query, request_id, subject},
    paths::{Operation, Paths},
    view::LimitView,
};
use crate::{
    clock,
    engine::{Act, Request, Verdict},
};

pub(super) fn routes() -> Paths {
    let stand = Operation::get("/v1/limits", "How a subject's limits stand; nothing counts");
    let taken_back = Operation::post("/v1/refunds", "Take back what an event counted, once");
    Paths::new()
        .on(stand.query::<LimitsQuery>().answers::<Limits>(), limits)
        .on(taken_back.body::<RefundBody>().answers::<Refunded>(), refund)
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LimitsQuery {
    r#type: String,
    user: Option<String>,
    ip: Option<String>,
    account: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Limits {
    limits: Vec<LimitView>,
}

/// How the limits of an event type stand. Nothing counts, and whether the
/// subject is banned is another question.
async fn limits(
    State(context): State<Context>,
    Query(query): Query<LimitsQuery>,
) -> Result<axum::Json<Limits>, Problem> {
    let kind = event_type(&context.config.rules, &query.r#type)?;
    // In a query, unlike in a body, an empty value is a value left out.
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    let (user, ip, named) = (given(query.user), given(query.ip), given(query.account));
    let subject = subject(user.as_deref(), ip.as_deref())?;
    let account = named.as_deref().map(account).transpose()?;
    let request = Request { account, ..Request::new(Act::event(kind), subject) };
    let (counts, now) = (context.moderator.usage(request).await?, clock::now());
    let limits =
        counts.iter().map(|count| LimitView::new(count, &context.config.rules, now)).collect();
    Ok(axum::Json(Limits { limits }))
}

/// What names an event that had an id: the same fields.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RefundBody {
    r#type: String,
    user: Option<String>,
    ip: Option<String>,
    id: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Refunded {
    refunded: bool,
}

/// Takes back what an event counted, once.
async fn refund(
    State(context): State<Context>,
    Json(body): Json<RefundBody>,
) -> Result<axum::Json<Refunded>, Problem> {
    let rules = &context.config.rules;
    let kind = event_type(rules, &body.r#type)?;
    let subject = subject(body.user.as_deref(), body.ip.as_deref())?;
    let id = request_id(kind.name(), &rules.bearer(&subject), &body.id)?;
    let answer = context.moderator.judge(Request::new(Act::Refund(id), subject)).await?;
    Ok(axum::Json(Refunded { refunded: answer.outcome.verdict == Verdict::Allow }))
}
