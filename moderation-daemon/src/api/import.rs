//! The operators' routes for imported lists: parts of a list in, what became of
//! them out. What a list may look like is `blocklist`'s affair.

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, State},
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Context, Problem,
    admin::protected,
    input::{Query, body},
    peer::Peer,
};
use crate::{
    blocklist::{self, List, ListSummary, OnBadLine, Options, ReadError, Source},
    clock,
    engine::Prefix,
    moderator::{Added, Batch, ImportRefusal, Refused, SLICE},
    store::Removal,
};

/// Bytes of a part of a list: some fifty thousand entries.
const MAX_PART_BYTES: usize = 1_024 * 1_024;

pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/v1/imports", get(lists))
        .route("/v1/imports/{source}", delete(remove))
        .route("/v1/imports/{source}/begin", post(begin))
        .route("/v1/imports/{source}/entries", post(entries))
        .route("/v1/imports/{source}/finish", post(finish))
}

fn source(text: &str) -> Result<Source, Problem> {
    text.parse().map_err(|error| Problem::InvalidField(format!("source: {error}")))
}

async fn lists(State(context): State<Context>) -> axum::Json<Value> {
    let lists: Vec<_> = context.moderator.board().lists().iter().map(summary).collect();
    axum::Json(json!({ "imports": lists }))
}

fn summary(list: &ListSummary) -> Value {
    json!({
        "source": list.source.as_str(),
        "entries": list.entries,
        "networks": list.networks,
        "updated_at": clock::rfc3339(list.updated_at_unix_ms),
    })
}

async fn begin(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    let source = source(&name)?;
    let run = context.moderator.begin_import(source, peer.name()).await??;
    Ok(axum::Json(json!({ "source": name, "run": run })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntriesQuery {
    run: Option<u64>,
}

async fn entries(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    Query(query): Query<EntriesQuery>,
    request: Body,
) -> Result<axum::Json<Value>, Problem> {
    let source = source(&name)?;
    let bytes = body(request, MAX_PART_BYTES).await?;
    let list = tokio::task::spawn_blocking(move || parse(&bytes));
    let list = list.await.map_err(|_| Problem::Unreadable)??;
    let mut sum = Added { expired: list.tally.expired, ..Added::default() };
    for entries in list.entries.chunks(SLICE) {
        let batch = Batch { source: source.clone(), run: query.run, entries: entries.to_vec() };
        sum = sum.and(context.moderator.import(batch, peer.name()).await??);
    }
    Ok(axum::Json(outcome(&name, &list, &sum)))
}

fn parse(bytes: &[u8]) -> Result<List, Problem> {
    let options = Options {
        now_unix_ms: clock::now().unix_ms,
        expires_at_unix_ms: None,
        on_bad_line: OnBadLine::Refuse,
    };
    blocklist::read(bytes, &options).map_err(|error| match error {
        ReadError::Bad { .. } => Problem::InvalidAddress(error.to_string()),
        ReadError::Read { .. } | ReadError::TooLong => Problem::InvalidField(error.to_string()),
    })
}

fn outcome(source: &str, list: &List, added: &Added) -> Value {
    let examples: Vec<_> =
        added.refused.iter().map(|(prefix, why)| example(*prefix, *why)).collect();
    json!({
        "source": source,
        "accepted": added.accepted,
        "redundant": list.tally.redundant + list.tally.merged,
        "never_dropped": added.proxied,
        "refused": {
            "protected": added.protected,
            "full": added.full,
            "expired": added.expired,
        },
        "examples": examples,
    })
}

fn example(prefix: Prefix, why: Refused) -> Value {
    let shown = prefix.to_string();
    let detail = match why {
        Refused::Protected(trusted) => protected(&shown, trusted),
        Refused::Full if prefix.is_exact() => {
            "there is no room: raise network.max_bans, or remove another list".to_owned()
        }
        Refused::Full => {
            "there is no room for networks: raise network.max_networks, or remove another list"
                .to_owned()
        }
        Refused::Expired => "it has lapsed already".to_owned(),
    };
    json!({ "prefix": shown, "reason": why.name(), "detail": detail })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FinishQuery {
    run: Option<u64>,
    #[serde(default)]
    replace: bool,
}

async fn finish(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    Query(query): Query<FinishQuery>,
) -> Result<axum::Json<Value>, Problem> {
    let source = source(&name)?;
    let mut removed = 0;
    if query.replace {
        let stale = Removal::Stale(source.clone(), query.run);
        removed = context.moderator.remove_imported(stale).await??;
    }
    let list = find(&context, &source)?;
    let (entries, by) = (list.entries, peer.name());
    tracing::info!(source = name, entries, removed, by, "an operator imported a list");
    Ok(axum::Json(json!({ "source": name, "entries": entries, "removed": removed })))
}

async fn remove(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    let source = source(&name)?;
    find(&context, &source)?;
    let removed = context.moderator.remove_imported(Removal::Source(source)).await??;
    tracing::info!(source = name, removed, by = peer.name(), "an operator removed a list");
    Ok(axum::Json(json!({ "source": name, "removed": removed })))
}

fn find(context: &Context, source: &Source) -> Result<ListSummary, Problem> {
    let lists = context.moderator.board().lists();
    lists.into_iter().find(|list| list.source == *source).ok_or(Problem::NoSuch("imported list"))
}

impl From<ImportRefusal> for Problem {
    fn from(refusal: ImportRefusal) -> Self {
        match refusal {
            ImportRefusal::TooManyLists => Self::Full("imported list"),
            ImportRefusal::OtherRun(error) => Self::Superseded(error.to_string()),
        }
    }
}
