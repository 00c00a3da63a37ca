//! The JSON that callers read.

use std::borrow::Cow;

use moderation_common::{Alarm, Counter, Reason};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{penalty::PenaltyJson, said};
use crate::{
    clock,
    engine::{Ban, Cause, Count, Lease, Moment, Rules, Verdict, ViolationType},
    ledger::Origin,
    moderator::{Answer, BanView, Denial, Enforcement},
};

/// The answer to an event, a violation or a lease.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AnswerView<'a> {
    /// `allow` or `deny`.
    decision: &'static str,
    reason: Option<&'static str>,
    /// Of a denial: what to quote to operators, for `moderationctl explain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Cow<'static, str>>,
    #[schemars(with = "Vec<LimitView>")]
    limits: Limits<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    violation: Option<ViolationView>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "points_if_any")]
    #[schemars(with = "Option<f64>")]
    score: Option<f64>,
    /// What the app is to do because of a ladder, or of something critical.
    #[serde(skip_serializing_if = "Option::is_none")]
    penalty: Option<PenaltyJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ban: Option<BanJson>,
    /// Whether the user's sessions are to end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    logout: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// Of a lease that there is no place for.
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<ConcurrencyView>,
}

/// How many generations run.
#[derive(Debug, Serialize, JsonSchema)]
struct ConcurrencyView {
    limit: usize,
    pending: usize,
}

/// Limits as they are, with the moment from which they are told.
#[derive(Debug)]
struct Limits<'a>(&'a [Count], &'a Rules, Moment);

impl Serialize for Limits<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self(counts, rules, now) = self;
        to.collect_seq(counts.iter().map(|count| LimitView::new(count, rules, *now)))
    }
}

/// How one limit stands.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LimitView {
    name: &'static str,
    limit: u64,
    window_ms: u64,
    remaining: u64,
    reset_ms: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ViolationView {
    r#type: &'static str,
    #[serde(serialize_with = "points")]
    #[schemars(with = "f64")]
    score: f64,
    /// Whether it is one more of the same within seconds, which counts for nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    repeat: bool,
}

/// A lease, as its holder sees it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LeaseView {
    id: u64,
    expires_in_ms: u64,
}

/// A ban, as everyone sees it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct BanJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    import: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    violation: Option<&'static str>,
    created_at: String,
    expires_at: Option<String>,
    remaining_ms: Option<u64>,
    enforced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// For operators: who placed it, what it came with, whether a person is to
    /// look at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// `here`, `host:NAME`, or `foreign`: a document that no host has signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    with: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    review: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lifted_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lifted_by: Option<String>,
}

/// A denial, for operators.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct DenialJson {
    code: String,
    /// What was denied: the type of an event or a violation, `generation`, `refund`, or
    /// `request` where nginx asked about no event.
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<std::net::IpAddr>,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ban: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    import: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limiter: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    /// How often the same was denied, from `first_at` to `at`.
    times: u64,
    first_at: String,
    at: String,
}

impl DenialJson {
    pub(super) fn new(denial: &Denial) -> Self {
        let Denial { code, what, subject, grounds, first_unix_ms, last_unix_ms, times } = denial;
        Self {
            code: code.to_string(),
            r#type: what.name(),
            user: subject.user().map(ToString::to_string),
            ip: subject.ip(),
            reason: grounds.reason,
            ban: grounds.ban,
            import: grounds.list.as_ref().map(ToString::to_string),
            limiter: grounds.limit.map(|(limiter, _)| limiter),
            limit: grounds.limit.map(|(_, most)| most),
            times: *times,
            first_at: clock::rfc3339(*first_unix_ms),
            at: clock::rfc3339(*last_unix_ms),
        }
    }
}

impl<'a> AnswerView<'a> {
    pub(super) fn new(answer: &'a Answer, rules: &'a Rules, now: Moment) -> Self {
        let outcome = &answer.outcome;
        let ban = answer.ban.as_ref().map(|ban| BanJson::new(ban, now));
        let waits_for_window =
            outcome.counts.last().filter(|count| count.exceeds()).map(|count| ends_in(count, now));
        let pending = outcome.violation.as_ref().and_then(|violation| violation.pending);
        let retry_after_ms = ban.as_ref().map_or(waits_for_window, |ban| ban.remaining_ms);
        Self {
            decision: match outcome.verdict {
                Verdict::Allow => "allow",
                Verdict::Deny => "deny",
            },
            reason: outcome.cause.map(Cause::name),
            code: answer.code.map(|code| code.to_string()),
            message: said::message(outcome, rules),
            limits: Limits(&outcome.counts, rules, now),
            violation: outcome.violation.as_ref().map(|violation| ViolationView {
                r#type: violation.kind.name(),
                score: violation.points,
                repeat: outcome.is_repeat,
            }),
            score: outcome.violation.as_ref().map(|violation| violation.total),
            penalty: outcome.penalty.as_deref().map(PenaltyJson::new),
            logout: outcome.logout || ban.as_ref().is_some_and(|ban| ban.user.is_some()),
            ban,
            lease: outcome.lease.as_ref().map(|lease| LeaseView::new(lease, now)),
            retry_after_ms,
            concurrency: rules
                .concurrency
                .zip(pending)
                .map(|(rule, pending)| ConcurrencyView { limit: rule.max, pending }),
        }
    }

    /// Writes it as JSON.
    pub(super) fn write(&self, text: &mut Vec<u8>) {
        serde_json::to_writer(text, self).expect("writing to memory cannot fail");
    }
}

/// An answer as JSON. One that allows is some hundred bytes.
pub(super) fn written(answer: &Answer, rules: &Rules) -> Vec<u8> {
    let mut text = Vec::with_capacity(256);
    AnswerView::new(answer, rules, clock::now()).write(&mut text);
    text
}

impl LimitView {
    pub(super) fn new(count: &Count, rules: &Rules, now: Moment) -> Self {
        Self {
            name: count.limiter.name(),
            limit: count.max,
            window_ms: rules.limiter(count.limiter).map_or(0, |rule| rule.limit.window_ms),
            remaining: count.remaining(),
            reset_ms: ends_in(count, now),
        }
    }
}

const fn ends_in(count: &Count, now: Moment) -> u64 {
    count.retry_at_boot_ms().saturating_sub(now.boot_ms)
}

impl LeaseView {
    pub(super) const fn new(lease: &Lease, now: Moment) -> Self {
        Self { id: lease.id, expires_in_ms: lease.ends_at_boot_ms.saturating_sub(now.boot_ms) }
    }
}

impl BanJson {
    pub(super) fn new(view: &BanView, now: Moment) -> Self {
        let ban = &view.ban;
        Self {
            id: view.source.is_none().then_some(ban.id),
            import: view.source.as_ref().map(ToString::to_string),
            user: ban.user.as_ref().map(ToString::to_string),
            address: ban.prefix.map(|prefix| prefix.to_string()),
            reason: ban.reason.clone(),
            violation: ban.violation.map(ViolationType::name),
            created_at: clock::rfc3339(ban.created_at_unix_ms),
            expires_at: ban.expires_at_unix_ms.map(clock::rfc3339),
            remaining_ms: ban.expires_at_unix_ms.map(|end| end.saturating_sub(now.unix_ms)),
            enforced: view.enforced,
            network: view.network.map(network),
            note: view.network.and_then(|network| note(view, network)),
            by: None,
            origin: None,
            with: None,
            review: false,
            lifted_at: None,
            lifted_by: None,
        }
    }

    /// The same, with what is not the app's affair.
    pub(super) fn for_operators(self, ban: &Ban) -> Self {
        // What is on a list has no number, and says itself whose it is.
        let by = self.id.map(|_| ban.by.name().to_owned());
        Self { by, with: ban.with, review: ban.review, ..self }
    }

    /// The same, with who made it.
    pub(super) fn made_by(self, origin: &Origin) -> Self {
        let origin = match origin {
            Origin::Here => "here".to_owned(),
            Origin::Host(name) => format!("host:{name}"),
            Origin::Foreign => "foreign".to_owned(),
        };
        Self { origin: Some(origin), ..self }
    }

    /// The same, with what ended it early if something did.
    pub(super) fn lifted(self, at_unix_ms: Option<u64>, by: Option<String>) -> Self {
        Self { lifted_at: at_unix_ms.map(clock::rfc3339), lifted_by: by, ..self }
    }

    pub(super) const fn id(&self) -> Option<u64> {
        self.id
    }
}

const fn network(enforcement: Enforcement) -> &'static str {
    match enforcement {
        Enforcement::Blocked => "blocked",
        Enforcement::Pending => "pending",
        Enforcement::Off => "off",
        Enforcement::Never | Enforcement::Proxy(_) => "never",
    }
}

/// What people should know who expect the kernel to drop packets.
fn note(view: &BanView, enforcement: Enforcement) -> Option<String> {
    let prefix = view.ban.prefix?;
    match enforcement {
        Enforcement::Proxy(proxy) => Some(format!(
            "{prefix} is within {proxy}, a proxy or CDN: it is never dropped at the network \
             layer; nginx and the API enforce the ban instead"
        )),
        Enforcement::Off => Some(
            "network.mode is off: nothing is dropped at the network layer; nginx and the API \
             enforce the ban"
                .to_owned(),
        ),
        Enforcement::Blocked | Enforcement::Pending | Enforcement::Never => None,
    }
}

/// Points are mostly whole, and look better so.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn points<S: Serializer>(points: &f64, to: S) -> Result<S::Ok, S::Error> {
    #[expect(clippy::cast_possible_truncation, reason = "compared with the original")]
    let whole = *points as i64;
    #[expect(clippy::cast_precision_loss, reason = "small numbers; compared")]
    let is_whole = whole as f64 == *points;
    if is_whole { to.serialize_i64(whole) } else { to.serialize_f64(*points) }
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn points_if_any<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => points(value, to),
        None => to.serialize_none(),
    }
}

/// The kernel's packet counters, by reason.
pub(crate) fn packets_by_reason(counters: &[(Reason, Counter)]) -> Value {
    let counters = counters.iter().map(|(reason, counter)| {
        let counts = json!({ "packets": counter.packets, "bytes": counter.bytes });
        (reason.name().to_owned(), counts)
    });
    Value::Object(counters.collect())
}

/// What the kernel programs lost, by name.
pub(crate) fn alarms_by_name(alarms: &[(Alarm, u64)]) -> Value {
    let alarms = alarms.iter().map(|(alarm, count)| (alarm.name().to_owned(), json!(count)));
    Value::Object(alarms.collect())
}
