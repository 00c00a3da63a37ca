//! The operators' question why: gathers what engine, board and store know about
//! one subject, and answers it in data and in words. Decides nothing.

use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Context, Problem,
    input::{Query, subject},
    paths::{Operation, Paths},
    penalty::PenaltyRecord,
    subjects::StandingView,
    view::{BanJson, DenialJson},
    words::{self, Facts},
};
use crate::{
    clock,
    engine::{Bearer, Count, Dossier, Moment, Subject, Traits},
    ledger::Origin,
    moderator::{BanView, Code, Denial, NoCode},
    nginx::log::pending::RequestName,
    store::{About, BanRecord, History, Reader, StoreError, Total, ViolationRecord},
};

pub(super) fn routes() -> Paths {
    let explained = Operation::get("/v1/explain", "What happened to a user or an address, and why");
    Paths::new().on(explained.query::<ExplainQuery>().answers::<Value>(), explain)
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    user: Option<String>,
    ip: Option<String>,
    ban: Option<u64>,
    /// What a denied person quotes: `#42`, or `d65a0c1f2-7`.
    code: Option<String>,
}

/// Whom it is about, and the denial that somebody asks about, if it is remembered.
type Asked = (Subject, Option<Denial>);

async fn explain(
    State(context): State<Context>,
    Query(query): Query<ExplainQuery>,
) -> Result<axum::Json<Value>, Problem> {
    let (subject, denial) = match (query.ban, query.code.as_deref()) {
        (Some(id), None) => (banned_by(&context.reader, id).await?, None),
        (None, Some(code)) => quoted(&context, code).await?,
        (None, None) => (subject(query.user.as_deref(), query.ip.as_deref())?, None),
        (Some(_), Some(_)) => {
            return Err(Problem::InvalidField("one of ban and code, not both".to_owned()));
        }
    };
    let rules = &context.config.rules;
    let dossier = context.moderator.dossier(subject.clone()).await?;
    let address = rules.counting.address(&subject);
    let about = About { subject: subject.clone(), address };
    let ids: Vec<_> = dossier.bans.iter().map(|ban| ban.id).collect();
    let history = read(&context.reader, move |reader| reader.history(&about, &ids)).await?;
    let now = clock::now();
    let standing = context.moderator.check(&subject).await;
    let board = context.moderator.board();
    let active: Vec<_> = dossier.bans.iter().map(|ban| board.view(ban)).collect();
    let facts = Facts {
        name: &name(&subject),
        now,
        standing: standing.as_ref(),
        active: &active,
        dossier: &dossier,
        history: &history,
        rules,
    };
    let mut answer = answer(&subject, &facts);
    if let Some(denial) = denial {
        answer["denial"] = json!(DenialJson::new(&denial));
        if let Some(because) = answer["because"].as_array_mut() {
            because.insert(0, json!(words::denial(&denial)));
        }
    }
    Ok(axum::Json(answer))
}

/// Whom a denial was about, by what was quoted.
async fn quoted(context: &Context, text: &str) -> Result<Asked, Problem> {
    let Ok(code) = text.parse::<Code>() else {
        return Err(Problem::InvalidField(format!("code: {}", no_code(text))));
    };
    let denials = context.moderator.board().denials();
    let denial = denials.find(code);
    match (code, denial) {
        // Many are kept out by one ban: it is what is asked about.
        (Code::Ban(id), _) => Ok((banned_by(&context.reader, id).await?, None)),
        (Code::Denial { .. }, Some(denial)) => Ok((denial.subject.clone(), Some(denial))),
        (Code::Denial { .. }, None) if denials.is_of_this_life(code) => {
            Err(Problem::NoSuch("denial any more: only the latest are remembered"))
        }
        (Code::Denial { .. }, None) => {
            Err(Problem::NoSuch("denial any more: it was before the daemon's last start"))
        }
    }
}

/// What else somebody may have quoted.
fn no_code(text: &str) -> String {
    if RequestName::parse(text).is_some() {
        return "that is nginx's own name for a request, which something else than moderationd \
                refused: look for it in nginx's logs ($request_id)"
            .to_owned();
    }
    NoCode.to_string()
}

/// Whom a ban is about; of a prefix, its first address stands for it.
async fn banned_by(reader: &Reader, id: u64) -> Result<Subject, Problem> {
    let record = read(reader, move |reader| reader.ban(id)).await?;
    let BanRecord { ban, .. } = record.ok_or(Problem::NoSuch("ban"))?;
    Ok(Subject::new(ban.user, ban.prefix.map(|prefix| prefix.net().addr()))?)
}

pub(super) async fn read<T: Send + 'static>(
    reader: &Reader,
    query: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    let reader = reader.clone();
    let read = tokio::task::spawn_blocking(move || query(&reader)).await;
    read.map_err(|_| Problem::Unreadable)?.map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "cannot read what is recorded");
        Problem::Unreadable
    })
}

fn name(subject: &Subject) -> String {
    let user = subject.user().map(|user| format!("user {user}"));
    let both = user.into_iter().chain(subject.ip().map(|ip| ip.to_string()));
    both.collect::<Vec<_>>().join(" at ")
}

fn answer(subject: &Subject, facts: &Facts<'_>) -> Value {
    let Facts { now, active, dossier, history, .. } = *facts;
    json!({
        "subject": {
            "user": subject.user().map(ToString::to_string),
            "ip": subject.ip(),
        },
        "verdict": facts.verdict(),
        "because": facts.because(),
        "bans": bans(active, history, now),
        "penalties": penalties(facts),
        "violations": history.violations.iter().map(violation).collect::<Vec<_>>(),
        "scores": scores(dossier),
        "limits": dossier.limits.iter().map(|count| limit(count, now)).collect::<Vec<_>>(),
        "leases": dossier.leases.iter().map(|it| it.id).collect::<Vec<_>>(),
        "factors": {
            "now": dossier.standing.as_ref().map(StandingView::new),
            "flagged": dossier.flagged,
            "traits": dossier.traits.as_ref().map(traits),
        },
        "offences": offences(dossier),
        "protected": dossier.is_protected || dossier.trusted.is_some(),
        "totals": history.totals.iter().map(total).collect::<Vec<_>>(),
    })
}

/// Active ones as the board shows them, past ones as the store does.
fn bans(active: &[BanView], history: &History, now: Moment) -> Vec<BanJson> {
    let is_active = |record: &&BanRecord| active.iter().any(|view| view.ban.id == record.ban.id);
    let past = history.bans.iter().filter(|record| !is_active(record)).map(|record| {
        let view = BanView::over(Arc::new(record.ban.clone()));
        let ban = BanJson::new(&view, now).for_operators(&record.ban);
        ban.made_by(&record.origin).lifted(record.lifted_at_unix_ms, record.lifted_by.clone())
    });
    let active = active.iter().map(|view| {
        let origin = history.origins.get(&view.ban.id).unwrap_or(&Origin::Here);
        BanJson::new(view, now).for_operators(&view.ban).made_by(origin)
    });
    active.chain(past).collect()
}

/// Those that hold, and those that are over.
fn penalties(facts: &Facts<'_>) -> Vec<PenaltyRecord> {
    let all = facts.dossier.penalties.iter().map(AsRef::as_ref).chain(facts.past_penalties());
    all.map(|penalty| PenaltyRecord::new(penalty, facts.now)).collect()
}

fn violation(one: &ViolationRecord) -> Value {
    json!({
        "text": words::violation(one),
        "type": one.kind,
        "user": one.user,
        "ip": one.ip,
        "score": one.points,
        "previous": one.previous,
        "total": one.total,
        "limiter": one.limiter,
        "max": one.max,
        "window_ms": one.window_ms,
        "ban": one.ban,
        "penalty": one.penalty,
        "logout": one.logout,
        "at": clock::rfc3339(one.at_unix_ms),
    })
}

fn scores(dossier: &Dossier) -> Vec<Value> {
    let scores = dossier.scores.iter().map(|(key, score)| {
        let (kind, bearer) = bearer(&key.bearer);
        json!({ "type": key.kind.name(), kind: bearer, "score": score.shown() })
    });
    scores.collect()
}

fn offences(dossier: &Dossier) -> Vec<Value> {
    let offences = dossier.offences.iter().map(|(of, offence)| {
        let (kind, bearer) = bearer(of);
        json!({ kind: bearer, "level": offence.level, "grace": offence.has_grace })
    });
    offences.collect()
}

pub(super) fn bearer(bearer: &Bearer) -> (&'static str, String) {
    match bearer {
        Bearer::User(user) => ("user", user.to_string()),
        Bearer::Address(address) => ("address", address.to_string()),
        Bearer::Account(account) => ("account", account.to_string()),
    }
}

fn limit(count: &Count, now: Moment) -> Value {
    json!({
        "name": count.limiter.name(),
        "limit": count.max,
        "used": count.usage.used,
        "reset_ms": count.retry_at_boot_ms().saturating_sub(now.boot_ms),
    })
}

fn traits(traits: &Traits) -> Value {
    json!({
        "tier": traits.tier.as_deref(),
        "role": traits.role.as_deref(),
        "created_at": traits.created_at_unix_ms.map(clock::rfc3339),
        "email_verified": traits.email_verified,
        "paying": traits.paying,
    })
}

fn total(total: &Total) -> Value {
    json!({
        "type": total.kind,
        "count": total.count,
        "score": total.points,
        "first_at": clock::rfc3339(total.first_at_unix_ms),
        "last_at": clock::rfc3339(total.last_at_unix_ms),
    })
}
