//! What somebody is told who is denied: the facts, which travel to nginx and back in a
//! header, and from them a page or JSON. LibreChat's client shows the latter by its
//! `type`. Nothing of scores is in it.

use serde::{Deserialize, Serialize};

use crate::{
    api::said,
    clock,
    engine::{Cause, Count, Moment, Outcome, Rules, Verdict},
    moderator::{Answer, BanView},
};

/// The facts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Denial {
    /// The HTTP status that the client is to see.
    pub(super) status: u16,
    /// `ban`, a type of violation, `rate_limited`, `overloaded` or `forbidden`.
    pub(super) r#type: String,
    /// A sentence, LibreChat's where it has one.
    pub(super) message: String,
    /// What to quote to the operator.
    pub(super) code: String,
    /// Of a ban: what it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// Until when, by RFC 3339; `None`: not known, or for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<String>,
    /// When to try again, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retry_after: Option<u64>,
    /// The limit that was exceeded, as LibreChat's client knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<Limit>,
}

/// A limit in LibreChat's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Limit {
    /// Of what happens in a window.
    #[serde(rename_all = "camelCase")]
    Window {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limiter: Option<String>,
        max: u64,
        window_in_minutes: f64,
    },
    /// Of what runs at once: "Only N messages at a time".
    #[serde(rename_all = "camelCase")]
    AtOnce { limit: usize, pending_requests: usize },
}

const BANNED: u16 = 403;
const LIMITED: u16 = 429;
const OVERLOADED: u16 = 503;

/// The answer's header must fit into nginx's buffer, whatever an operator has written.
const MAX_TEXT_CHARS: usize = 300;

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

impl Denial {
    /// What is to be told of an answer that denies.
    pub(super) fn of(answer: &Answer, rules: &Rules, now: Moment) -> Option<Self> {
        let outcome = &answer.outcome;
        if outcome.verdict == Verdict::Allow {
            return None;
        }
        // Nothing of nginx's is a peek, so there always is one.
        let code = answer.code.map(|code| code.to_string()).unwrap_or_default();
        if let Some(ban) = &answer.ban {
            return Some(Self::banned(ban, now, code));
        }
        let message = said::message(outcome, rules);
        let exceeded = outcome.counts.last().filter(|count| count.exceeds());
        let retry_after = exceeded.map(|count| seconds(count, now));
        Some(Self {
            status: if is_refusal(outcome) { BANNED } else { LIMITED },
            r#type: kind(outcome).to_owned(),
            message: message.as_deref().map_or_else(|| "Request denied".to_owned(), cut),
            code,
            reason: None,
            until: None,
            retry_after,
            limit: exceeded
                .and_then(|count| Limit::of(count, rules))
                .or_else(|| Limit::at_once(outcome, rules)),
        })
    }

    /// What is to be told of a ban.
    pub(super) fn banned(view: &BanView, now: Moment, code: String) -> Self {
        let ban = &view.ban;
        let message = said::of_ban(ban.expires_at_unix_ms.is_some());
        let left_ms = ban.expires_at_unix_ms.map(|end| end.saturating_sub(now.unix_ms));
        // A rule's own words tell points.
        let reason = ban.violation.map_or_else(|| cut(&ban.reason), |kind| kind.name().to_owned());
        Self {
            status: BANNED,
            r#type: "ban".to_owned(),
            message: message.to_owned(),
            code,
            reason: Some(reason),
            until: ban.expires_at_unix_ms.map(clock::rfc3339),
            retry_after: left_ms.map(|left| left.div_ceil(1_000).max(1)),
            limit: None,
        }
    }

    /// What is to be told where nothing was decided.
    pub(super) fn overloaded(code: &str) -> Self {
        let message = "Too many requests. Try again later".to_owned();
        Self {
            status: OVERLOADED,
            retry_after: Some(1),
            ..Self::plain("overloaded", message, code)
        }
    }

    /// What is to be told where somebody else than we denied it: the code is nginx's
    /// name for the request.
    pub(super) fn forbidden(id: &str) -> Self {
        Self::plain("forbidden", "This request is not allowed.".to_owned(), id)
    }

    fn plain(kind: &str, message: String, code: &str) -> Self {
        Self {
            status: BANNED,
            r#type: kind.to_owned(),
            message,
            code: code.to_owned(),
            reason: None,
            until: None,
            retry_after: None,
            limit: None,
        }
    }

    /// The body that LibreChat's client shows.
    pub(super) fn json(&self) -> serde_json::Value {
        let mut body = serde_json::json!(self);
        let fields = body.as_object_mut().expect("a struct is an object");
        fields.shift_remove("status");
        if let Some(serde_json::Value::Object(limit)) = fields.shift_remove("limit") {
            fields.extend(limit);
        }
        body
    }
}

impl Limit {
    fn of(count: &Count, rules: &Rules) -> Option<Self> {
        let rule = rules.limiter(count.limiter)?;
        #[expect(clippy::cast_precision_loss, reason = "windows are short")]
        let minutes = rule.limit.window_ms as f64 / 60_000.0;
        let window_in_minutes = rule.limit.shown.window_minutes.unwrap_or(minutes);
        let limiter = rule.label.map(str::to_owned);
        Some(Self::Window { limiter, max: count.max, window_in_minutes })
    }

    fn at_once(outcome: &Outcome, rules: &Rules) -> Option<Self> {
        let pending_requests = outcome.violation.as_ref()?.pending?;
        Some(Self::AtOnce { limit: rules.concurrency?.max, pending_requests })
    }
}

/// Until it is worth trying again: whole seconds, one at least.
pub(super) fn seconds(count: &Count, now: Moment) -> u64 {
    count.retry_at_boot_ms().saturating_sub(now.boot_ms).div_ceil(1_000).max(1)
}

/// Whether waiting does not help.
fn is_refusal(outcome: &Outcome) -> bool {
    let is_full = outcome.counts.last().is_some_and(Count::exceeds)
        || outcome.violation.as_ref().is_some_and(|violation| violation.pending.is_some());
    matches!(outcome.cause, Some(Cause::Violation(_) | Cause::Banned)) && !is_full
}

fn kind(outcome: &Outcome) -> &'static str {
    match outcome.cause {
        Some(Cause::Banned) => "ban",
        Some(Cause::Violation(kind)) => kind.name(),
        Some(Cause::Limited | Cause::LeasesFull | Cause::WindowsFull | Cause::NothingToRefund)
        | None => "rate_limited",
    }
}
