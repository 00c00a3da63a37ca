//! The files that LibreChat leaves behind, beside what we would write into them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::compare;
use crate::differences::Differences;

/// What we know at the end: scores by key, with when they expire; logs by key.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) scores: BTreeMap<String, (Value, Option<u64>)>,
    pub(crate) logs: BTreeMap<String, Vec<Value>>,
}

#[derive(Deserialize)]
struct File {
    cache: Vec<(String, Row)>,
}

#[derive(Deserialize)]
struct Row {
    /// JSON in JSON.
    value: String,
    expire: Option<f64>,
}

#[derive(Deserialize)]
struct Envelope {
    value: Value,
    expires: Option<f64>,
}

/// Fails unless both files of LibreChat say what we know.
pub(crate) fn compare(
    kept: &Kept,
    folder: &Path,
    now: u64,
    differences: &mut Differences,
) -> Result<usize> {
    let scores = read(&folder.join("violations.json"))?;
    let logs = read(&folder.join("logs.json"))?;
    let mut rows = 0;
    let mut alive = kept.scores.clone();
    alive.retain(|_, (_, expires)| expires.is_none_or(|expires| now < expires));
    for (key, envelope) in scores {
        let Some((score, expires)) = alive.remove(&key) else {
            ensure!(envelope.expires.is_some_and(|at| at <= now as f64), "not ours: {key}");
            differences.note("expired_row")?;
            continue;
        };
        ensure!(score == envelope.value, "{key}: ours {score}, theirs {}", envelope.value);
        let (ours, theirs) = (expires.map(|at| at as f64), envelope.expires);
        if theirs.is_some_and(|at| at.fract() != 0.0) {
            differences.note("fraction_of_a_millisecond")?;
        }
        ensure!(ours == theirs.map(f64::ceil), "{key}: ends {ours:?}, theirs {theirs:?}");
        rows += 1;
    }
    ensure!(alive.is_empty(), "not in LibreChat's file: {alive:?}");
    for (key, log) in &kept.logs {
        let theirs = logs.get(key).with_context(|| format!("no log of {key}"))?;
        let theirs = theirs.value.as_array().with_context(|| format!("no list: {key}"))?;
        ensure!(log.len() == theirs.len(), "{key} is as long as {}", theirs.len());
        for (ours, theirs) in log.iter().zip(theirs) {
            let mut theirs = theirs.clone();
            compare::excuse(&mut theirs, differences)?;
            // As text, in which the order of the keys counts.
            let (ours, theirs) = (ours.to_string(), theirs.to_string());
            ensure!(ours == theirs, "{key}: ours {ours}, theirs {theirs}");
        }
        rows += log.len();
    }
    ensure!(logs.len() == kept.logs.len(), "LibreChat has logs that we do not have");
    Ok(rows)
}

fn read(path: &Path) -> Result<BTreeMap<String, Envelope>> {
    let what = || format!("cannot read {}", path.display());
    let file: File = serde_json::from_slice(&fs::read(path).with_context(what)?)?;
    let mut rows = BTreeMap::new();
    for (key, row) in file.cache {
        let envelope: Envelope = serde_json::from_str(&row.value).with_context(what)?;
        ensure!(row.expire == envelope.expires, "{key} ends twice");
        rows.insert(key, envelope);
    }
    Ok(rows)
}
