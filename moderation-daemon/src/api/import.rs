//! The operators' routes for imported lists: parts of a list in, what became of
//! them out. What a list may look like is `blocklist`'s affair.

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Context, Problem,
    admin::protected,
    input::{Query, body},
    paths::{Operation, Paths},
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

pub(super) fn routes() -> Paths {
    let listed = Operation::get("/v1/imports", "The imported lists");
    let removed = Operation::delete("/v1/imports/{source}", "Remove a list");
    let begun = Operation::post("/v1/imports/{source}/begin", "Begin to import a list");
    let sent = Operation::post("/v1/imports/{source}/entries", "Some lines of a list");
    let finished = Operation::post("/v1/imports/{source}/finish", "All lines were sent");
    Paths::new()
        .on(listed.answers::<Lists>(), lists)
        .on(removed.answers::<Removed>(), remove)
        .on(begun.answers::<Begun>(), begin)
        .on(
            sent.query::<EntriesQuery>().body_as::<String>("text/plain").answers::<Imported>(),
            entries,
        )
        .on(finished.query::<FinishQuery>().answers::<Finished>(), finish)
}

fn source(text: &str) -> Result<Source, Problem> {
    text.parse().map_err(|error| Problem::InvalidField(format!("source: {error}")))
}

#[derive(Debug, Serialize, JsonSchema)]
struct Lists {
    imports: Vec<ListView>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ListView {
    source: String,
    entries: usize,
    networks: usize,
    updated_at: String,
}

async fn lists(State(context): State<Context>) -> axum::Json<Lists> {
    let imports = context.moderator.board().lists().iter().map(ListView::new).collect();
    axum::Json(Lists { imports })
}

impl ListView {
    fn new(list: &ListSummary) -> Self {
        Self {
            source: list.source.to_string(),
            entries: list.entries,
            networks: list.networks,
            updated_at: clock::rfc3339(list.updated_at_unix_ms),
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
struct Begun {
    source: String,
    /// What names this import to `entries` and `finish`.
    run: u64,
}

async fn begin(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Result<axum::Json<Begun>, Problem> {
    let source = source(&name)?;
    let run = context.moderator.begin_import(source, peer.name()).await??;
    Ok(axum::Json(Begun { source: name, run }))
}

#[derive(Debug, Deserialize, JsonSchema)]
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
) -> Result<axum::Json<Imported>, Problem> {
    let source = source(&name)?;
    let bytes = body(request, MAX_PART_BYTES).await?;
    let list = tokio::task::spawn_blocking(move || parse(&bytes));
    let list = list.await.map_err(|_| Problem::Unreadable)??;
    let mut sum = Added { expired: list.tally.expired, ..Added::default() };
    for entries in list.entries.chunks(SLICE) {
        let batch = Batch { source: source.clone(), run: query.run, entries: entries.to_vec() };
        sum = sum.and(context.moderator.import(batch, peer.name()).await??);
    }
    Ok(axum::Json(outcome(name, &list, &sum)))
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

/// What became of some lines.
#[derive(Debug, Serialize, JsonSchema)]
struct Imported {
    source: String,
    accepted: usize,
    /// Within others of the list, or joined with them.
    redundant: usize,
    /// Proxies: held at the API only.
    never_dropped: usize,
    refused: RefusedView,
    examples: Vec<Example>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct RefusedView {
    protected: usize,
    full: usize,
    expired: usize,
}

/// One that was refused.
#[derive(Debug, Serialize, JsonSchema)]
struct Example {
    prefix: String,
    reason: &'static str,
    detail: String,
}

fn outcome(source: String, list: &List, added: &Added) -> Imported {
    let (protected, full, expired) = (added.protected, added.full, added.expired);
    Imported {
        source,
        accepted: added.accepted,
        redundant: list.tally.redundant + list.tally.merged,
        never_dropped: added.proxied,
        refused: RefusedView { protected, full, expired },
        examples: added.refused.iter().map(|(prefix, why)| example(*prefix, *why)).collect(),
    }
}

fn example(prefix: Prefix, why: Refused) -> Example {
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
    Example { prefix: shown, reason: why.name(), detail }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FinishQuery {
    run: Option<u64>,
    #[serde(default)]
    replace: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Finished {
    source: String,
    entries: usize,
    removed: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Removed {
    source: String,
    removed: usize,
}

async fn finish(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    Query(query): Query<FinishQuery>,
) -> Result<axum::Json<Finished>, Problem> {
    let source = source(&name)?;
    let mut removed = 0;
    if query.replace {
        let stale = Removal::Stale(source.clone(), query.run);
        removed = context.moderator.remove_imported(stale).await??;
    }
    let list = find(&context, &source)?;
    let (entries, by) = (list.entries, peer.name());
    tracing::info!(source = name, entries, removed, by, "an operator imported a list");
    Ok(axum::Json(Finished { source: name, entries, removed }))
}

async fn remove(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Result<axum::Json<Removed>, Problem> {
    let source = source(&name)?;
    find(&context, &source)?;
    let removed = context.moderator.remove_imported(Removal::Source(source)).await??;
    tracing::info!(source = name, removed, by = peer.name(), "an operator removed a list");
    Ok(axum::Json(Removed { source: name, removed }))
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
