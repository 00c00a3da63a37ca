//! From scores and records to the text of the files.

use std::collections::HashMap;

use super::{
    Record, Score,
    json::{number, object, plain, string},
};
use crate::clock;

/// What lists of records are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKeys {
    /// By user.
    ByUser,
    /// By type and user, as LibreChat has it with Redis.
    ByTypeAndUser,
}

/// The text of `violations.json`.
pub fn scores_file(scores: &[Score], now_unix_ms: u64) -> String {
    let entries = scores.iter().map(|score| {
        let key = format!("violations:{}:{}", score.kind, score.user);
        entry(&key, number(score.points), score.expires_at_ms)
    });
    file(entries, now_unix_ms)
}

/// The text of `logs.json`. Each user's records are told in the order of their
/// dates.
pub fn records_file(records: &[Record], keys: LogKeys, now_unix_ms: u64) -> String {
    let mut sorted: Vec<&Record> = records.iter().collect();
    sorted.sort_by_key(|record| record.at_ms);
    let mut order = Vec::new();
    let mut lists: HashMap<String, Vec<String>> = HashMap::new();
    for one in sorted {
        let key = match keys {
            LogKeys::ByUser => format!("violations:{}", one.user),
            LogKeys::ByTypeAndUser => format!("violations:{}:{}", one.kind, one.user),
        };
        let list = lists.entry(key.clone()).or_default();
        if list.is_empty() {
            order.push(key);
        }
        list.push(record(one));
    }
    let entries = order.iter().map(|key| {
        let list = lists.get(key).map(|list| list.join(",")).unwrap_or_default();
        entry(key, format!("[{list}]"), None)
    });
    file(entries, now_unix_ms)
}

/// One violation, its fields in LibreChat's order.
fn record(record: &Record) -> String {
    let is_concurrent = record.kind == "concurrent";
    let max = record.max.clone();
    let (max, limit) = if is_concurrent { (None, max) } else { (max, None) };
    object(&[
        ("type", Some(string(&record.kind))),
        ("max", max),
        ("limiter", record.limiter.as_deref().map(string)),
        ("windowInMinutes", record.window_minutes.map(number)),
        ("limit", limit),
        ("pendingRequests", record.pending.map(|count| count.to_string())),
        ("score", is_concurrent.then(|| number(record.points))),
        ("prev_count", Some(number(record.previous))),
        ("violation_count", Some(number(record.total))),
        ("date", Some(plain(&clock::iso8601(record.at_ms)))),
        ("ban", record.is_ban.then(|| "true".to_owned())),
        ("ban_duration", record.ban_ms.map(|ms| ms.to_string())),
    ])
}

/// A key and its envelope: a value, and when it is over, twice.
fn entry(key: &str, value: String, expires_at_ms: Option<u64>) -> String {
    let expires = expires_at_ms.map(|ms| ms.to_string());
    let envelope = object(&[("value", Some(value)), ("expires", expires.clone())]);
    let outer = object(&[("value", Some(plain(&envelope))), ("expire", expires)]);
    format!("[{},{outer}]", plain(key))
}

fn file(entries: impl Iterator<Item = String>, now_unix_ms: u64) -> String {
    let cache = entries.collect::<Vec<_>>().join(",");
    format!("{{\"cache\":[{cache}],\"lastExpire\":{now_unix_ms}}}")
}
