//! `moderationctl export` and `import --librechat`: moves scores and records
//! between the daemon and a folder of LibreChat's. How the files look is
//! `librechat`'s affair.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::remote::{Remote, encoded};
use crate::{
    clock,
    engine::UserId,
    exit::NotWritten,
    librechat::{
        Found, LogKeys, RECORDS_FILE, Record, SCORES_FILE, Score, read_records, read_scores,
        records_file, scores_file,
    },
};

/// Lines of one request: what the daemon takes at a time.
const PART: usize = 512;

pub(super) fn export(remote: &mut Remote, folder: &Path, keys: LogKeys) -> anyhow::Result<()> {
    let (scores, scores_left): (Vec<Score>, u64) = pages(remote, "scores", |next| {
        let [user, kind] = ["user", "type"].map(|it| next[it].as_str().unwrap_or_default());
        format!("user={}&type={}", encoded(user), encoded(kind))
    })?;
    let (records, records_left): (Vec<Record>, u64) =
        pages(remote, "logs", |next| format!("after={next}"))?;
    let now = clock::now().unix_ms;
    write(&folder.join(SCORES_FILE), &scores_file(&scores, now))?;
    write(&folder.join(RECORDS_FILE), &records_file(&records, keys, now))?;
    let result = json!({
        "scores": scores.len(),
        "logs": records.len(),
        "left_out": scores_left + records_left,
    });
    let text = |result: &Value| {
        let [scores, logs, left_out] = ["scores", "logs", "left_out"].map(|it| &result[it]);
        format!(
            "wrote {scores} scores and {logs} records of users to {}, none of addresses, of \
             which LibreChat keeps none; left out {left_out} of types that it does not know",
            folder.display()
        )
    };
    Ok(remote.output.show(&result, text)?)
}

/// All of a list, and how many were left out of it.
fn pages<T: DeserializeOwned>(
    remote: &mut Remote,
    what: &str,
    place: impl Fn(&Value) -> String,
) -> anyhow::Result<(Vec<T>, u64)> {
    let (mut all, mut left_out, mut query) = (Vec::new(), 0, String::new());
    loop {
        let response = remote.client.get(&format!("/v1/librechat/{what}?{query}"));
        let mut page = remote.success(response)?;
        let rows: Vec<T> = serde_json::from_value(page[what].take())
            .with_context(|| format!("the daemon's list of {what} makes no sense"))?;
        all.extend(rows);
        left_out += page["left_out"].as_u64().unwrap_or(0);
        if page["next"].is_null() {
            return Ok((all, left_out));
        }
        query = place(&page["next"]);
    }
}

/// Whole or not at all, for the owner alone.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let fresh = path.with_extension("json.new");
    let create = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file: File =
            options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    create().with_context(|| NotWritten(path.to_owned()))
}

pub(super) fn import(remote: &mut Remote, folder: &Path) -> anyhow::Result<()> {
    let now = clock::now().unix_ms;
    let scores = open(folder, SCORES_FILE)?
        .map(|(path, text)| read_scores(&text, now).with_context(|| nothing(&path)));
    let records = open(folder, RECORDS_FILE)?
        .map(|(path, text)| read_records(&text, now).with_context(|| nothing(&path)));
    if scores.is_none() && records.is_none() {
        bail!("there is neither {SCORES_FILE} nor {RECORDS_FILE} in {}", folder.display());
    }
    let (scores, records) = (scores.transpose()?, records.transpose()?);
    // Whatever the daemon would refuse, before it has taken what is before it.
    check_users(SCORES_FILE, scores.as_ref(), |score| &score.user)?;
    check_users(RECORDS_FILE, records.as_ref(), |record| &record.user)?;
    let skipped = skipped(scores.as_ref()) + skipped(records.as_ref());
    let (scores, _) = send(remote, "scores", scores, |_, _| false)?;
    // Those that may be alike must not be told apart by coming in two parts.
    let together =
        |one: &Record, other: &Record| (&one.user, one.at_ms) == (&other.user, other.at_ms);
    let (logs, too_old) = send(remote, "logs", records, together)?;
    let skipped = skipped + too_old;
    let result = json!({ "scores": scores, "logs": logs, "skipped": skipped });
    let text = |result: &Value| {
        let [scores, logs, skipped] = ["scores", "logs", "skipped"].map(|it| &result[it]);
        format!(
            "took over {scores} scores and {logs} records that were not here or lower; skipped \
             {skipped} entries that have lapsed, are older than what is kept or are about \
             something else"
        )
    };
    Ok(remote.output.show(&result, text)?)
}

fn check_users<T>(
    name: &str,
    found: Option<&Found<T>>,
    user: impl Fn(&T) -> &str,
) -> anyhow::Result<()> {
    let mut users = found.into_iter().flat_map(|found| &found.taken).map(user);
    users.try_for_each(|user| {
        let parsed = user.parse::<UserId>();
        parsed.map(drop).with_context(|| nothing(Path::new(name)))
    })
}

/// Where to cut: as late as may be, but not between two that belong together
/// unless there are too many of those.
fn cut<T>(all: &[T], together: impl Fn(&T, &T) -> bool) -> usize {
    if all.len() <= PART {
        return all.len();
    }
    let is_cut = |at: &usize| !together(&all[at - 1], &all[*at]);
    (1..=PART).rev().find(is_cut).unwrap_or(PART)
}

fn nothing(path: &Path) -> String {
    format!("nothing of {} was imported", path.display())
}

/// A file of a folder, or of the folder `data` in it.
fn open(folder: &Path, name: &str) -> anyhow::Result<Option<(PathBuf, String)>> {
    for path in [folder.join(name), folder.join("data").join(name)] {
        match fs::read_to_string(&path) {
            Ok(text) => return Ok(Some((path, text))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
    }
    Ok(None)
}

fn skipped<T>(found: Option<&Found<T>>) -> u64 {
    found.map_or(0, |found| found.lapsed + found.others)
}

/// Hands all over, part by part; how many of it was new, and how many too old.
fn send<T: Serialize>(
    remote: &mut Remote,
    what: &str,
    found: Option<Found<T>>,
    together: impl Fn(&T, &T) -> bool,
) -> anyhow::Result<(u64, u64)> {
    let (mut taken, mut too_old, all) = (0, 0, found.map(|found| found.taken).unwrap_or_default());
    let mut rest = &all[..];
    while !rest.is_empty() {
        let (part, others) = rest.split_at(cut(rest, &together));
        rest = others;
        let lines = part.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        let path = format!("/v1/librechat/{what}");
        let response = remote.client.post_text(&path, lines.join("\n"));
        let answer = remote.success(response).with_context(|| {
            format!("the import of {what} broke off after {taken}; it can be repeated")
        })?;
        taken += answer["taken"].as_u64().unwrap_or(0);
        too_old += answer["too_old"].as_u64().unwrap_or(0);
    }
    Ok((taken, too_old))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_large_as_may_be_and_keep_together_what_belongs_together() {
        let cut_at = |all: &[usize]| cut(all, |one, other| one / 10 == other / 10);
        let numbers: Vec<_> = (0..2 * PART).collect();
        assert_eq!(cut_at(&numbers[..PART]), PART);
        assert_eq!(cut_at(&numbers), PART - PART % 10);
        assert_eq!(cut_at(&vec![7; 2 * PART]), PART);
        assert_eq!(cut_at(&[]), 0);
    }
}
