//! The operators' routes for moving from and to LibreChat: scores and records in
//! pages out, in lines in. How LibreChat's files look is not known here.

use axum::{Extension, body::Body, extract::State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Context, Problem,
    explain::read,
    input::{Query, body},
    paths::{LINES, Operation, Paths},
    peer::Peer,
};
use crate::{
    clock,
    engine::{Bearer, Decay, Limiter, Rules, ScoreKey, ViolationType},
    librechat::{Record, Score},
    moderator::TakenScore,
    store::{Page, RecordRow, TakenRecords},
};

pub(super) fn routes() -> Paths {
    let scored = Operation::get("/v1/librechat/scores", "Scores as LibreChat keeps them");
    let logged = Operation::get("/v1/librechat/logs", "Records as LibreChat keeps them");
    let scores_taken = Operation::post("/v1/librechat/scores", "Bring LibreChat's scores along");
    let logs_taken = Operation::post("/v1/librechat/logs", "Bring LibreChat's records along");
    Paths::new()
        .on(scored.query::<ScoresQuery>().answers::<Value>(), scores)
        .on(scores_taken.body_as::<Value>(LINES).answers::<Taken>(), take_scores)
        .on(logged.query::<RecordsQuery>().answers::<Value>(), records)
        .on(logs_taken.body_as::<Value>(LINES).answers::<TakenLogs>(), take_records)
}

/// Lines of one request: as many as are over before anybody notices.
const MOST_LINES: usize = 512;
/// Bytes of one request.
const MAX_PART_BYTES: usize = 512 * 1_024;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ScoresQuery {
    #[serde(default)]
    user: String,
    #[serde(default)]
    r#type: String,
}

async fn scores(
    State(context): State<Context>,
    Query(query): Query<ScoresQuery>,
) -> Result<axum::Json<Value>, Problem> {
    let ttl_ms = ttl_ms(&context.config.rules);
    let after = (query.user, query.r#type);
    let page = read(&context.reader, move |reader| reader.librechat_scores(&after, ttl_ms)).await?;
    let now_ms = clock::now().unix_ms;
    let Page { rows, left_out, next } = page;
    let lives = |score: &&Score| score.expires_at_ms.is_none_or(|end| now_ms < end);
    let rows: Vec<_> = rows.iter().filter(lives).collect();
    let next = next.map(|(user, kind)| json!({ "user": user, "type": kind }));
    Ok(axum::Json(json!({ "scores": rows, "left_out": left_out, "next": next })))
}

const fn ttl_ms(rules: &Rules) -> Option<u64> {
    match rules.scoring.decay {
        Decay::Ttl { ms } => Some(ms),
        Decay::Never | Decay::HalfLife { .. } => None,
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RecordsQuery {
    #[serde(default)]
    after: u64,
}

async fn records(
    State(context): State<Context>,
    Query(query): Query<RecordsQuery>,
) -> Result<axum::Json<Value>, Problem> {
    let page = read(&context.reader, move |reader| reader.librechat_records(query.after)).await?;
    let Page { rows, left_out, next } = page;
    let rules = &context.config.rules;
    let rows: Vec<_> = rows.into_iter().map(|row| as_librechat_has_it(rules, row)).collect();
    Ok(axum::Json(json!({ "logs": rows, "left_out": left_out, "next": next })))
}

/// What LibreChat's record says that ours leaves to the rules.
fn as_librechat_has_it(rules: &Rules, row: RecordRow) -> Record {
    let RecordRow { mut record, limiter } = row;
    if record.limiter.is_none() {
        let limiter = limiter.as_deref().and_then(Limiter::from_name);
        let rule = limiter.and_then(|limiter| rules.limiter(limiter));
        record.limiter = rule.and_then(|rule| rule.label).map(str::to_owned);
    }
    if record.kind == ViolationType::CONCURRENT.name() && record.max.is_none() {
        record.max = rules.concurrency.map(|rule| rule.max.to_string());
    }
    record
}

#[derive(Debug, Serialize, JsonSchema)]
struct Taken {
    taken: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
struct TakenLogs {
    taken: u64,
    too_old: u64,
}

async fn take_scores(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    request: Body,
) -> Result<axum::Json<Taken>, Problem> {
    let rules = &context.config.rules;
    let now_ms = clock::now().unix_ms;
    let scores: Vec<Score> = lines(request).await?;
    let taken: Vec<_> = scores
        .iter()
        .map(|score| taken_score(score, ttl_ms(rules), now_ms))
        .collect::<Result<_, _>>()?;
    let count = taken.len();
    let taken = context.moderator.take_scores(taken).await?;
    tracing::info!(scores = count, taken, by = peer.name(), "an operator brought scores along");
    Ok(axum::Json(Taken { taken }))
}

/// A score that lives for a while was last changed that long before its end.
fn taken_score(score: &Score, ttl_ms: Option<u64>, now_ms: u64) -> Result<TakenScore, Problem> {
    let kind = known(&score.kind)?;
    let bearer = Bearer::User(score.user.parse()?);
    let changed_at_ms = score.expires_at_ms.zip(ttl_ms).map(|(end, ttl)| end.saturating_sub(ttl));
    let at_unix_ms = changed_at_ms.unwrap_or(now_ms).min(now_ms);
    Ok(TakenScore { key: ScoreKey { bearer, kind }, points: score.points, at_unix_ms })
}

fn known(kind: &str) -> Result<ViolationType, Problem> {
    ViolationType::from_name(kind)
        .ok_or_else(|| Problem::UnknownType(format!("type: {kind:?} is no violation's type")))
}

async fn take_records(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    request: Body,
) -> Result<axum::Json<TakenLogs>, Problem> {
    let records: Vec<Record> = lines(request).await?;
    for record in &records {
        known(&record.kind)?;
        record.user.parse::<crate::engine::UserId>()?;
    }
    let count = records.len();
    let TakenRecords { taken, too_old } = context.moderator.take_records(records).await?;
    let by = peer.name();
    tracing::info!(records = count, taken, too_old, by, "an operator brought records along");
    Ok(axum::Json(TakenLogs { taken, too_old }))
}

/// One value a line; one that makes no sense, and none is taken.
async fn lines<T: DeserializeOwned>(request: Body) -> Result<Vec<T>, Problem> {
    let bytes = body(request, MAX_PART_BYTES).await?;
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let mut values = Vec::new();
    for (index, line) in lines.enumerate() {
        if index == MOST_LINES {
            return Err(Problem::InvalidField(format!("at most {MOST_LINES} lines at a time")));
        }
        let value = serde_json::from_slice(line)
            .map_err(|error| Problem::InvalidField(format!("line {}: {error}", index + 1)))?;
        values.push(value);
    }
    Ok(values)
}
