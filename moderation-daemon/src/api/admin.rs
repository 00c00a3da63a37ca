//! The operators' routes: bans and the allowlist.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use axum::{Extension, extract::State, http::StatusCode};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Context, Problem,
    input::{Json, Query, ip},
    paths::{Operation, Paths},
    peer::Peer,
    penalty::{self, Told},
    view::BanJson,
};
use crate::{
    clock,
    config::{is_private, parse_duration},
    engine::{BanLength, BanRefusal, InvalidPrefix, LiftTarget, NewBan, Prefix, Trust, Trusted},
    ledger::Origin,
    moderator::{AllowlistFull, BanView, LiftedView},
    store::{Allowed, BanOrder, BanPage, BanRecord, Removal},
};

pub(super) fn routes() -> Paths {
    let listed = Operation::get("/v1/bans", "Bans, a page at a time");
    let banned = Operation::post("/v1/bans", "Ban a user, an address, or both");
    let lifted = Operation::delete("/v1/bans", "End a ban early, with all that came with it");
    let allowed = Operation::get("/v1/allowlist", "Whom nothing drops, and why");
    let allows = Operation::post("/v1/allowlist", "Allow a prefix");
    let removed = Operation::delete("/v1/allowlist", "Allow a prefix no longer");
    Paths::new()
        .on(listed.query::<BansQuery>().answers::<BanList>(), bans)
        .on(banned.body::<BanBody>().answers::<Made>().status(StatusCode::CREATED), ban)
        .on(lifted.query::<LiftQuery>().answers::<Told>(), lift)
        .on(allowed.answers::<Allowlist>(), allowlist)
        .on(allows.body::<AllowBody>().answers::<NowAllowed>().status(StatusCode::CREATED), allow)
        .on(removed.query::<DisallowQuery>().answers::<Disallowed>(), disallow)
        .merge(super::kernel::routes())
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BansQuery {
    /// Those that are over, too.
    #[serde(default)]
    all: bool,
    limit: Option<u32>,
    /// Only those with a higher number.
    #[serde(default)]
    after: u64,
    /// The latest first; there is no `next` then.
    #[serde(default)]
    latest: bool,
}

/// What `GET /v1/bans` gives at most in one answer.
const MAX_PAGE: u32 = 1_000;

#[derive(Debug, Serialize, JsonSchema)]
struct BanList {
    bans: Vec<BanJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

async fn bans(
    State(context): State<Context>,
    Query(query): Query<BansQuery>,
) -> Result<axum::Json<BanList>, Problem> {
    let now = clock::now();
    let limit = query.limit.unwrap_or(100).clamp(1, MAX_PAGE);
    let order = if query.latest { BanOrder::Latest } else { BanOrder::Number };
    let page = BanPage { all: query.all, limit, after: query.after, order, now_ms: now.unix_ms };
    let reader = context.reader.clone();
    let records = tokio::task::spawn_blocking(move || reader.bans(page))
        .await
        .map_err(|_| Problem::Unreadable)?
        .map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot list bans");
            Problem::Unreadable
        })?;
    let board = context.moderator.board();
    let goes_on = order == BanOrder::Number && records.len() == limit as usize;
    let bans: Vec<_> = records
        .into_iter()
        .map(|record| {
            let BanRecord { ban, lifted_at_unix_ms, lifted_by, origin } = record;
            let is_over = lifted_at_unix_ms.is_some() || !ban.holds_at(now.unix_ms);
            let ban = Arc::new(ban);
            let view = if is_over { BanView::over(ban) } else { board.view(&ban) };
            let json = BanJson::new(&view, now).for_operators(&view.ban);
            json.made_by(&origin).lifted(lifted_at_unix_ms, lifted_by)
        })
        .collect();
    let next = bans.last().filter(|_| goes_on).and_then(BanJson::id);
    Ok(axum::Json(BanList { bans, next }))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BanBody {
    user: Option<String>,
    /// An address or a prefix.
    ip: Option<String>,
    /// As `2h` or `7d`, or `permanent`; the configured one if it is left out.
    duration: Option<String>,
    reason: Option<String>,
    /// `always` or `never`.
    network_block: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Made {
    ban: BanJson,
}

/// A reason is a sentence, not a book.
const MAX_REASON_BYTES: usize = 512;

async fn ban(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    Json(body): Json<BanBody>,
) -> Result<(StatusCode, axum::Json<Made>), Problem> {
    let prefix = body.ip.as_deref().map(|ip| banned_as(&context, ip)).transpose()?;
    // Whoever names one address of a /64 means that one first of all.
    let ip = body.ip.as_deref().and_then(|ip| ip.parse().ok());
    if let Some(trusted) = ip.and_then(|ip| context.moderator.board().protecting(ip)) {
        return Err(refused(BanRefusal::Protected(trusted), prefix));
    }
    let new = NewBan {
        user: body.user.as_deref().map(str::parse).transpose()?,
        prefix,
        blocks: blocks(body.network_block.as_deref())?,
        reason: text("reason", body.reason)?.unwrap_or_else(|| "banned by an operator".to_owned()),
        duration_ms: duration_ms(&context, body.duration.as_deref())?,
        by: peer.name().into(),
    };
    if new.user.is_none() && new.prefix.is_none() {
        return Err(Problem::NoSubject);
    }
    let view = context.moderator.ban(new).await?.map_err(|refusal| refused(refusal, prefix))?;
    tracing::info!(ban = view.ban.id, by = peer.name(), "an operator banned");
    let ban = BanJson::new(&view, clock::now()).for_operators(&view.ban).made_by(&Origin::Here);
    Ok((StatusCode::CREATED, axum::Json(Made { ban })))
}

/// What a person means by an address or a prefix: one IPv6 address stands for
/// the block around it that is banned, unless it is written as a /128.
fn banned_as(context: &Context, text: &str) -> Result<Prefix, InvalidPrefix> {
    match text.parse() {
        Ok(ip) => Ok(Prefix::around(ip, context.config.rules.ban.v6_prefix)),
        Err(_) => text.parse(),
    }
}

fn text(field: &str, text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if text.len() > MAX_REASON_BYTES => {
            Err(Problem::InvalidField(format!("{field}: at most {MAX_REASON_BYTES} bytes")))
        }
        Some(text) if text.chars().any(char::is_control) => {
            Err(Problem::InvalidField(format!("{field}: no control characters")))
        }
        text => Ok(text.filter(|text| !text.is_empty())),
    }
}

/// `None` is for ever; without a word it is as long as automatic bans are.
fn duration_ms(context: &Context, text: Option<&str>) -> Result<Option<u64>, Problem> {
    match text {
        None => match context.config.rules.ban.length {
            BanLength::For(ms) => Ok(Some(ms)),
            BanLength::Forever => Ok(None),
            BanLength::Soft => {
                let detail = "duration: say how long; bans.duration is soft".to_owned();
                Err(Problem::InvalidField(detail))
            }
        },
        Some("permanent") => Ok(None),
        Some(text) => {
            let duration = parse_duration(text)
                .map_err(|problem| Problem::InvalidField(format!("duration: {problem}")))?;
            Ok(Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
        }
    }
}

fn refused(refusal: BanRefusal, prefix: Option<Prefix>) -> Problem {
    match refusal {
        BanRefusal::Full => Problem::Full("ban"),
        BanRefusal::Runaway | BanRefusal::ProtectedUser => {
            unreachable!("only automatic bans are refused for that")
        }
        BanRefusal::Protected(trusted) => {
            let prefix = prefix.map_or_else(String::new, |prefix| prefix.to_string());
            Problem::Protected(protected(&prefix, trusted))
        }
    }
}

/// Why a prefix cannot be banned, in a sentence.
pub(super) fn protected(prefix: &str, by: Trusted) -> String {
    let holds = prefix.parse::<Prefix>().is_ok_and(|prefix| !by.prefix.contains(&prefix.net()));
    match (by.trust, holds) {
        (Trust::Allowlist | Trust::Proxy, _) => {
            format!("{prefix} is on the allowlist, within {}", by.prefix)
        }
        (Trust::Guard, false) if is_private(by.prefix) => format!(
            "{prefix} is guarded, within {}: a private address, perhaps of a bridge or a proxy \
             with everybody behind it; have nginx see the clients' own, or set \
             network.protect_private: false",
            by.prefix
        ),
        (Trust::Guard, false) => format!(
            "{prefix} is guarded, within {}: in network.guards, or this host's own",
            by.prefix
        ),
        (Trust::Guard, true) => format!("{prefix} holds {}, which is guarded", by.prefix),
    }
}

/// Whether the kernel is to enforce an operator's ban.
fn blocks(text: Option<&str>) -> Result<bool, Problem> {
    match text {
        None | Some("always") => Ok(true),
        Some("never") => Ok(false),
        Some(_) => Err(Problem::InvalidField("network_block: always or never".to_owned())),
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LiftQuery {
    id: Option<u64>,
    user: Option<String>,
    ip: Option<String>,
}

fn lift_target(text: &str) -> Result<LiftTarget, InvalidPrefix> {
    Ok(match text.parse::<IpAddr>() {
        Ok(ip) => LiftTarget::Address(ip.to_canonical()),
        Err(_) => LiftTarget::Prefix(text.parse()?),
    })
}

async fn lift(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    Query(query): Query<LiftQuery>,
) -> Result<axum::Json<Told>, Problem> {
    let target = match (query.id, query.user, query.ip) {
        (Some(id), None, None) => LiftTarget::Ban(id),
        (None, Some(user), None) => LiftTarget::User(user.parse()?),
        (None, None, Some(ip)) => lift_target(&ip)?,
        _ => return Err(Problem::InvalidField("exactly one of id, user and ip".to_owned())),
    };
    let lifted = context.moderator.lift(target.clone(), peer.name()).await?;
    let imported = lift_imported(&context, &target, &peer).await?;
    if lifted.lets_nobody_in() && imported.is_empty() {
        banned_around(&context, &target, &lifted)?;
    }
    if lifted.is_nothing() && imported.is_empty() {
        return Err(Problem::NoSuch("active ban"));
    }
    Ok(axum::Json(penalty::told(&lifted, &imported)))
}

/// Takes what a target names off every list; what it was.
async fn lift_imported(
    context: &Context,
    target: &LiftTarget,
    peer: &Peer,
) -> Result<Vec<BanView>, Problem> {
    let prefixes = match target {
        LiftTarget::Ban(_)
        | LiftTarget::User(_)
        | LiftTarget::Penalty(_)
        | LiftTarget::Record(_) => return Ok(Vec::new()),
        LiftTarget::Prefix(prefix) => vec![*prefix],
        LiftTarget::Address(ip) => {
            let v6_prefix = context.config.rules.ban.v6_prefix;
            let widths = BTreeSet::from([v6_prefix, 64, 128]);
            let around: BTreeSet<_> =
                widths.into_iter().map(|bits| Prefix::around(*ip, bits)).collect();
            around.into_iter().collect()
        }
    };
    let mut lifted = context.moderator.board().imported(&prefixes);
    for view in &mut lifted {
        let Some(prefix) = view.ban.prefix else { continue };
        context.moderator.remove_imported(Removal::Prefix(prefix)).await??;
        let by = peer.name();
        tracing::info!(%prefix, by, "an operator took an entry off the imported lists");
        view.enforced = false;
    }
    Ok(lifted)
}

/// Nobody was let in; says so if a wider ban holds, whatever was forgiven.
fn banned_around(
    context: &Context,
    target: &LiftTarget,
    lifted: &LiftedView,
) -> Result<(), Problem> {
    let LiftTarget::Address(ip) = target else { return Ok(()) };
    let view = context.moderator.check_address(*ip);
    let around = view.and_then(|view| Some((view.ban.prefix?, view)));
    let Some((prefix, view)) = around else { return Ok(()) };
    let forgot = if lifted.is_nothing() { "" } else { "; its scores and limits are forgotten" };
    Err(Problem::NotItself(format!(
        "{ip} itself is not banned, but within {prefix}, which is: {}; lift that{forgot}",
        view.ban.reason
    )))
}

#[derive(Debug, Serialize, JsonSchema)]
struct AllowedView {
    #[schemars(with = "String")]
    prefix: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// `guard`, `config`, `proxy`, `host` or `operator`.
    source: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Allowlist {
    allowlist: Vec<AllowedView>,
}

async fn allowlist(State(context): State<Context>) -> axum::Json<Allowlist> {
    let listed = |source| move |prefix: &IpNet| AllowedView { prefix: *prefix, note: None, source };
    let config = &context.config;
    let mut list: Vec<_> = config.network.guards.iter().map(listed("guard")).collect();
    list.extend(config.allowlist.iter().map(listed("config")));
    list.extend(config.network.proxies.iter().map(listed("proxy")));
    let is_new = |prefix: &&IpNet| !config.network.guards.contains(*prefix);
    let found = context.moderator.board().guards();
    list.extend(found.iter().filter(is_new).map(listed("host")));
    list.extend(context.moderator.board().allowlist().into_iter().map(|allowed| AllowedView {
        prefix: allowed.prefix,
        note: allowed.note,
        source: "operator",
    }));
    axum::Json(Allowlist { allowlist: list })
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AllowBody {
    prefix: String,
    note: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct NowAllowed {
    #[schemars(with = "String")]
    prefix: IpNet,
    /// Whether the kernel has it.
    enforced: bool,
}

async fn allow(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    Json(body): Json<AllowBody>,
) -> Result<(StatusCode, axum::Json<NowAllowed>), Problem> {
    let allowed = Allowed { prefix: prefix(&body.prefix)?, note: text("note", body.note)? };
    let shown = allowed.prefix;
    let by = peer.name();
    tracing::info!(prefix = %shown, by, "an operator allows a prefix");
    let allowed = context.moderator.allow(allowed, by).await?;
    let enforced = allowed.map_err(|AllowlistFull| Problem::Full("prefix"))?;
    Ok((StatusCode::CREATED, axum::Json(NowAllowed { prefix: shown, enforced })))
}

/// A prefix, or an address as the prefix of one.
fn prefix(text: &str) -> Result<IpNet, Problem> {
    match text.parse::<IpNet>() {
        Ok(prefix) => Ok(prefix.trunc()),
        Err(_) => ip(text).map(|ip| IpNet::from(ip.to_canonical())),
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DisallowQuery {
    prefix: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Disallowed {
    #[schemars(with = "String")]
    removed: IpNet,
}

async fn disallow(
    State(context): State<Context>,
    Extension(peer): Extension<Peer>,
    Query(query): Query<DisallowQuery>,
) -> Result<axum::Json<Disallowed>, Problem> {
    let prefix = prefix(&query.prefix)?;
    if !context.moderator.disallow(prefix).await? {
        return Err(Problem::NoSuch("prefix that an operator allowed"));
    }
    tracing::info!(%prefix, by = peer.name(), "an operator no longer allows a prefix");
    Ok(axum::Json(Disallowed { removed: prefix }))
}
