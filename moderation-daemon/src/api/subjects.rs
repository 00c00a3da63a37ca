//! What the app says about its users, from which limits can follow: in an event,
//! for that event, or for good by `PUT /v1/subjects/{user}`.

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::{Path, State, rejection::PathRejection};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Context, Problem,
    input::Json,
    paths::{Operation, Paths},
};
use crate::{
    clock,
    engine::{Standing, Traits, UserId},
    moderator::Known,
};

pub(super) fn routes() -> Paths {
    let shown = Operation::get("/v1/subjects/{user}", "What is known about a user");
    let described = Operation::put("/v1/subjects/{user}", "Say what is known about a user");
    Paths::new()
        .on(shown.answers::<SubjectView>(), show)
        .on(described.body::<TraitsBody>().answers::<SubjectView>(), describe)
}

/// Names of tiers and roles are no longer.
const MAX_NAME_BYTES: usize = 64;

/// What is said; what is left out stays as it was.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TraitsBody {
    tier: Option<String>,
    role: Option<String>,
    created_at: Option<String>,
    email_verified: Option<bool>,
    paying: Option<bool>,
}

impl TraitsBody {
    /// The same, checked.
    pub(super) fn traits(&self) -> Result<Traits, Problem> {
        let created_at = self.created_at.as_deref().map(unix_ms).transpose()?;
        Ok(Traits {
            tier: self.tier.as_deref().map(|tier| name("tier", tier)).transpose()?,
            role: self.role.as_deref().map(|role| name("role", role)).transpose()?,
            created_at_unix_ms: created_at,
            email_verified: self.email_verified,
            paying: self.paying,
        })
    }
}

/// The name of a tier or a role.
pub(super) fn name(field: &str, text: &str) -> Result<Arc<str>, Problem> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
        let detail = format!("{field}: has 1 to {MAX_NAME_BYTES} bytes, none of them control");
        return Err(Problem::InvalidField(detail));
    }
    Ok(text.into())
}

fn unix_ms(text: &str) -> Result<u64, Problem> {
    let time = text.parse::<jiff::Timestamp>().ok();
    let ms = time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
    ms.ok_or_else(|| {
        let detail = "created_at: is a time since 1970 as RFC 3339 has it, 2026-01-31T12:00:00Z";
        Problem::InvalidField(detail.to_owned())
    })
}

/// How a user's limits stand.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct StandingView {
    /// What limits are multiplied by now.
    factor: f64,
    /// What that is rising to.
    factor_target: f64,
    /// What holds, by its name in the configuration: the target is their product,
    /// within bounds.
    factors: BTreeMap<&'static str, f64>,
}

impl StandingView {
    pub(super) fn new(standing: &Standing) -> Self {
        let number = |permille: u32| f64::from(permille) / 1_000.0;
        let factors = standing.factors.iter();
        Self {
            factor: number(standing.permille),
            factor_target: number(standing.target_permille),
            factors: factors.map(|(name, permille)| (*name, number(*permille))).collect(),
        }
    }
}

/// What is known about a user.
#[derive(Debug, Serialize, JsonSchema)]
struct SubjectView {
    user: String,
    tier: Option<String>,
    role: Option<String>,
    created_at: Option<String>,
    email_verified: Option<bool>,
    paying: Option<bool>,
    #[serde(flatten)]
    standing: Option<StandingView>,
}

impl SubjectView {
    fn new(user: &UserId, known: Known) -> Self {
        let Known { traits, standing } = known;
        Self {
            user: user.to_string(),
            tier: traits.tier.as_deref().map(str::to_owned),
            role: traits.role.as_deref().map(str::to_owned),
            created_at: traits.created_at_unix_ms.map(clock::rfc3339),
            email_verified: traits.email_verified,
            paying: traits.paying,
            standing: standing.as_ref().map(StandingView::new),
        }
    }
}

type User = Result<Path<String>, PathRejection>;

fn user(path: User) -> Result<UserId, Problem> {
    let Path(text) = path.map_err(|error| Problem::InvalidUser(error.body_text()))?;
    Ok(text.parse()?)
}

async fn show(
    State(context): State<Context>,
    path: User,
) -> Result<axum::Json<SubjectView>, Problem> {
    let user = user(path)?;
    let known = context.moderator.known(user.clone()).await?;
    let known = known.ok_or(Problem::NoSuch("subject"))?;
    Ok(axum::Json(SubjectView::new(&user, known)))
}

async fn describe(
    State(context): State<Context>,
    path: User,
    Json(body): Json<TraitsBody>,
) -> Result<axum::Json<SubjectView>, Problem> {
    let user = user(path)?;
    let known = context.moderator.describe(user.clone(), body.traits()?).await?;
    Ok(axum::Json(SubjectView::new(&user, known)))
}
