//! What LibreChat says of an event, beside what we say.

use anyhow::{Context, Result, bail, ensure};
use moderation_daemon::config::librechat::{to_number, to_text};
use moderation_daemon::engine::{Count, Decision, LimiterRule, Rules, Verdict, Violation};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::ours;
use super::traffic::Event;
use crate::differences::Differences;

/// LibreChat's answer; if only `ban` or `pending` is there, it says otherwise than we
/// do, and has done nothing.
#[derive(Debug, Deserialize)]
pub(crate) struct Theirs {
    /// `record` or `copy`.
    #[serde(default)]
    pub(crate) ban: Option<String>,
    /// How many milliseconds of that are left; `None`: it lasts for ever.
    #[serde(default)]
    pub(crate) left: Option<f64>,
    #[serde(default)]
    pub(crate) verdict: Option<String>,
    #[serde(default)]
    pub(crate) pending: Option<f64>,
    #[serde(default)]
    pub(crate) record: Option<Value>,
    #[serde(default)]
    pub(crate) counts: Vec<TheirCount>,
    #[serde(default)]
    pub(crate) message: Option<String>,
    #[serde(default, rename = "loggedOut")]
    pub(crate) logged_out: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TheirCount {
    name: String,
    /// As it stands in the environment, or a number.
    limit: Value,
    used: u64,
    /// Milliseconds since 1970; `None`: never.
    reset: Option<f64>,
}

/// Fails unless both say the same.
pub(crate) fn same(
    rules: &Rules,
    event: &Event,
    ours: &Decision,
    theirs: &Theirs,
    differences: &mut Differences,
) -> Result<()> {
    let outcome = &ours.outcome;
    let verdict = match outcome.verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    };
    ensure!(theirs.verdict.as_deref() == Some(verdict), "we {verdict}");
    counts(rules, event, &outcome.counts, &theirs.counts, differences)?;
    let record = outcome.violation.as_deref().map(|violation| {
        let ended = outcome.ban.as_ref().map(|ban| ban.expires_at_unix_ms);
        record(rules, violation, ended)
    });
    let mut their_record = theirs.record.clone();
    if let Some(record) = &mut their_record {
        excuse(record, differences)?;
    }
    let (ours, their_text) = (text(record.as_ref()), text(their_record.as_ref()));
    ensure!(ours == their_text, "our record is {ours}");
    let logs_out = outcome.ban.is_some() || outcome.logout;
    ensure!(logs_out == theirs.logged_out, "we log out: {logs_out}");
    if let (Some(theirs), Some(count)) = (&theirs.message, outcome.counts.last()) {
        let rule = rules.limiter(count.limiter).context("it is on")?;
        let minutes = to_text(minutes(rule));
        let said = rule.said.replace("{w}", &minutes);
        ensure!(said == *theirs, "we say {said:?}");
    }
    Ok(())
}

/// Tells a record as we would where that differs on purpose.
pub(crate) fn excuse(record: &mut Value, differences: &mut Differences) -> Result<()> {
    let mut field = |name: &str, is_other: fn(f64) -> bool, ours: fn(f64) -> f64| {
        let value = record.get_mut(name)?;
        let theirs = value.as_f64().filter(|theirs| is_other(*theirs))?;
        *value = number(ours(theirs));
        Some(())
    };
    if field("ban_duration", |ms| ms.fract() != 0.0, f64::ceil).is_some() {
        differences.note("fraction_of_a_millisecond")?;
    }
    if field("max", |max| max < 0.0, |_| 0.0).is_some() {
        differences.note("maximum_below_nothing")?;
    }
    Ok(())
}

fn text(record: Option<&Value>) -> String {
    // As text, in which the order of the keys counts.
    record.map_or_else(|| "none".to_owned(), Value::to_string)
}

fn counts(
    rules: &Rules,
    event: &Event,
    ours: &[Count],
    theirs: &[TheirCount],
    differences: &mut Differences,
) -> Result<()> {
    let is_on = |name: &str| rules.limiters.iter().any(|rule| rule.limiter.name() == name);
    let mut theirs = theirs.iter().filter(|count| is_on(&count.name));
    for count in ours {
        let their = theirs.next().context("LibreChat asked fewer limiters")?;
        ensure!(count.limiter.name() == their.name, "we ask {}", count.limiter);
        let limit = match &their.limit {
            Value::String(text) => to_number(text),
            number => number.as_f64().context("no limit")?,
        };
        let max = count.max as f64;
        ensure!(max == limit.floor().max(0.0), "we allow {max} for {}", their.name);
        if max == 0.0 && their.reset.is_some_and(|at| at <= event.at as f64) {
            differences.note("window_without_length")?;
            continue;
        }
        // All that is asked counts in LibreChat.
        let used = count.usage.used + count.cost;
        ensure!(used == their.used, "we count {used} for {}", their.name);
        let reset = ours::unix_ms(count.usage.frees_at_boot_ms) as f64;
        ensure!(Some(reset) == their.reset, "our window ends at {reset} for {}", their.name);
    }
    match theirs.next() {
        Some(more) => bail!("LibreChat asked {}, too", more.name),
        None => Ok(()),
    }
}

/// A violation as LibreChat writes it into a user's log; `ends` is that of the ban that
/// it brought.
pub(crate) fn record(rules: &Rules, violation: &Violation, ban_ends: Option<Option<u64>>) -> Value {
    let mut record = Map::new();
    let mut put = |key: &str, value: Value| record.insert(key.to_owned(), value);
    put("type", violation.kind.name().into());
    if let Some((limiter, limit)) = &violation.limiter {
        let rule = rules.limiter(*limiter);
        let label = rule.and_then(|rule| rule.label);
        let max = limit.shown.max.as_deref();
        put("max", max.map_or_else(|| limit.max.into(), Value::from));
        if let Some(label) = label.filter(|label| *label != "submission") {
            put("limiter", label.into());
        }
        if let Some(rule) = rule {
            put("windowInMinutes", number(minutes(rule)));
        }
        if let Some(label) = label.filter(|label| *label == "submission") {
            put("limiter", label.into());
        }
    }
    if let (Some(pending), Some(rule)) = (violation.pending, rules.concurrency) {
        put("limit", rule.max.into());
        put("pendingRequests", pending.into());
        put("score", number(violation.points));
    }
    put("prev_count", number(violation.previous));
    put("violation_count", number(violation.total));
    put("date", date(violation.at_unix_ms).into());
    if let Some(ends) = ban_ends {
        put("ban", true.into());
        let length = ends.map(|ends| ends - violation.at_unix_ms);
        put("ban_duration", length.map_or(Value::Null, Value::from));
    }
    Value::Object(record)
}

fn minutes(rule: &LimiterRule) -> f64 {
    let limit = &rule.limit;
    limit.shown.window_minutes.unwrap_or_else(|| limit.window_ms as f64 / 60_000.0)
}

/// As JavaScript writes it: whole numbers without a point.
fn number(number: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "its fraction and size are looked at")]
    let whole = number as i64;
    if whole as f64 == number { whole.into() } else { number.into() }
}

/// With three digits of a second, always.
fn date(unix_ms: u64) -> String {
    let at = jiff::Timestamp::from_millisecond(unix_ms.cast_signed()).expect("a time of this age");
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
