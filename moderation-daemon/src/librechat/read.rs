//! From the text of the files to scores and records. What has lapsed is left
//! out, as LibreChat would; a file that makes no sense is refused, where
//! LibreChat would begin with an empty one.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Record, Score,
    json::{number, plain, unescaped},
    knows,
};

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    /// It is no JSON, or not of that shape.
    #[error("it is not what LibreChat writes")]
    Shape(#[source] serde_json::Error),
    /// One entry makes no sense.
    #[error("{key}: {problem}")]
    Entry {
        /// Which.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Found<T> {
    /// What can be taken.
    pub taken: Vec<T>,
    /// Entries that have lapsed.
    pub lapsed: u64,
    /// Entries about something else: other keys, other types.
    pub others: u64,
}

#[derive(Deserialize)]
struct File {
    cache: Cache,
}

/// Keyv-file has written both.
#[derive(Deserialize)]
#[serde(untagged)]
enum Cache {
    Array(Vec<(String, Entry)>),
    Object(Map<String, Value>),
}

#[derive(Deserialize)]
struct Entry {
    value: String,
    expire: Option<f64>,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    value: Value,
    expires: Option<f64>,
}

/// Reads `violations.json`.
///
/// # Errors
///
/// See [`BadFile`].
pub fn read_scores(text: &str, now_unix_ms: u64) -> Result<Found<Score>, BadFile> {
    read(text, now_unix_ms, |key, envelope| {
        let Some((kind, user)) = key.split_once(':').filter(|(kind, user)| {
            // The same file remembers whose conversations have been looked at.
            let is_memory = *kind == "convo_access" && user.starts_with(':');
            knows(kind) && !user.is_empty() && !is_memory
        }) else {
            return Ok(Vec::new());
        };
        let points = match &envelope.value {
            // LibreChat writes NaN so, and reads it back as nothing.
            Value::Null => 0.0,
            value => value.as_f64().ok_or_else(|| "the score is no number".to_owned())?,
        };
        let expires_at_ms = envelope.expires.and_then(milliseconds);
        Ok(vec![Score { user: user.to_owned(), kind: kind.to_owned(), points, expires_at_ms }])
    })
}

/// Reads `logs.json`, whose keys name the user, or type and user.
///
/// # Errors
///
/// See [`BadFile`].
pub fn read_records(text: &str, now_unix_ms: u64) -> Result<Found<Record>, BadFile> {
    read(text, now_unix_ms, |key, envelope| {
        let user = match key.split_once(':') {
            Some((kind, user)) if knows(kind) => user,
            _ => key,
        };
        let Value::Array(list) = &envelope.value else {
            return Err("the value is no list".to_owned());
        };
        let known = list.iter().filter(|one| one["type"].as_str().is_some_and(knows));
        known.map(|one| record(user, one)).collect()
    })
}

fn read<T>(
    text: &str,
    now_unix_ms: u64,
    parse: impl Fn(&str, &Envelope) -> Result<Vec<T>, String>,
) -> Result<Found<T>, BadFile> {
    let file: File = serde_json::from_str(text).map_err(BadFile::Shape)?;
    let mut found = Found { taken: Vec::new(), lapsed: 0, others: 0 };
    for (key, entry) in entries(file.cache)? {
        let bad = |problem| BadFile::Entry { key: key.clone(), problem };
        let Some(name) = key.strip_prefix("violations:") else {
            found.others += 1;
            continue;
        };
        let envelope: Envelope =
            serde_json::from_str(&entry.value).map_err(|error| bad(error.to_string()))?;
        let now = i64::try_from(now_unix_ms).unwrap_or(i64::MAX);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds until the year 287396")]
        let now = now as f64;
        if entry.expire.is_some_and(|end| end <= now)
            || envelope.expires.is_some_and(|end| end < now)
        {
            found.lapsed += 1;
            continue;
        }
        let taken = parse(name, &envelope).map_err(bad)?;
        found.others += u64::from(taken.is_empty());
        found.taken.extend(taken);
    }
    Ok(found)
}

fn entries(cache: Cache) -> Result<Vec<(String, Entry)>, BadFile> {
    match cache {
        Cache::Array(entries) => Ok(entries),
        Cache::Object(entries) => entries
            .into_iter()
            .map(|(key, value)| Ok((key, serde_json::from_value(value)?)))
            .collect::<Result<_, _>>()
            .map_err(BadFile::Shape),
    }
}

fn record(user: &str, one: &Value) -> Result<Record, String> {
    let kind = text(one, "type").ok_or("a record has no type")?;
    let date = text(one, "date").ok_or("a record has no date")?;
    let at: jiff::Timestamp =
        date.parse().map_err(|_| format!("{date:?} of a record is no date"))?;
    let total = one["violation_count"].as_f64().unwrap_or(0.0);
    let previous = one["prev_count"].as_f64().unwrap_or(0.0);
    let max = if kind == "concurrent" { &one["limit"] } else { &one["max"] };
    Ok(Record {
        user: user.to_owned(),
        kind,
        max: match max {
            Value::String(max) => Some(plain(unescaped(max))),
            max => max.as_f64().map(number),
        },
        limiter: text(one, "limiter"),
        window_minutes: one["windowInMinutes"].as_f64(),
        pending: one["pendingRequests"].as_u64(),
        points: one["score"].as_f64().unwrap_or(total - previous),
        previous,
        total,
        at_ms: u64::try_from(at.as_millisecond()).unwrap_or(0),
        is_ban: one["ban"] == true,
        ban_ms: one["ban_duration"].as_f64().and_then(milliseconds),
    })
}

fn text(one: &Value, field: &str) -> Option<String> {
    one[field].as_str().map(|text| unescaped(text).to_owned())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "cut at both ends on purpose"
)]
fn milliseconds(value: f64) -> Option<u64> {
    (value.is_finite() && value >= 0.0).then_some(value as u64)
}
