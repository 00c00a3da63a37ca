//! `moderationctl import`: reads a list, puts it in order, and hands it to the
//! daemon part by part. What a list looks like is `blocklist`'s affair.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{command::Import, own::OwnSessions, remote::Remote};
use crate::{
    blocklist::{self, List, OnBadLine, Options, Source},
    clock,
    config::parse_duration,
    engine::Prefix,
    exit::NoInput,
};

/// Entries of one request: below the daemon's limit on bodies at any length of
/// entry, and soon enough answered that the bar moves.
const PART: usize = 8_192;
/// How long the daemon may take over a part, or over removing a long list.
const PATIENCE: Duration = Duration::from_secs(120);
/// Refused entries that are shown to people.
const SHOWN: usize = 10;

pub(super) fn run(remote: &mut Remote, import: &Import, own: &OwnSessions) -> anyhow::Result<()> {
    let source = source(import)?;
    let mut list = read(import)?;
    let refused = take_own(&mut list, own);
    let mut sum = Sum::of(&source, &list, refused);
    if !import.dry_run {
        remote.client.set_patience(PATIENCE);
        send(remote, import, &source, &list.entries, &mut sum)?;
    }
    let (result, dry_run) = (sum.json(import.dry_run), import.dry_run);
    remote.output.show(&result, |_| sum.text(dry_run))?;
    if sum.full > 0 {
        bail!(
            "{} entries found no room: raise network.max_bans or network.max_networks, or remove \
             another list",
            sum.full
        );
    }
    Ok(())
}

/// The named source, or the file's name without its ending.
fn source(import: &Import) -> anyhow::Result<Source> {
    let name = match &import.source {
        Some(name) => name.clone(),
        None if import.is_stdin() => "stdin".to_owned(),
        None => {
            let stem = import.file().file_stem().unwrap_or_default().to_string_lossy();
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            stem.chars().map(|c| if is_plain(c) { c } else { '_' }).take(64).collect()
        }
    };
    name.parse().map_err(|error| anyhow!("{name:?}: {error}; name it with --source"))
}

fn read(import: &Import) -> anyhow::Result<List> {
    let now_unix_ms = clock::now().unix_ms;
    let expires = import.expires.as_deref().map(parse_duration).transpose();
    let expires = expires.map_err(|problem| anyhow!("--expires: {problem}"))?;
    let expires = expires.map(|lasts| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
    let options = Options {
        now_unix_ms,
        expires_at_unix_ms: expires.map(|lasts| now_unix_ms.saturating_add(lasts)),
        on_bad_line: if import.skip_bad { OnBadLine::Skip } else { OnBadLine::Refuse },
    };
    let reader = BufReader::with_capacity(256 * 1_024, open(import)?);
    let list = blocklist::read(reader, &options);
    list.with_context(|| format!("nothing of {} was imported", shown(import)))
}

fn open(import: &Import) -> anyhow::Result<Box<dyn Read>> {
    if import.is_stdin() {
        return Ok(Box::new(io::stdin()));
    }
    let path = import.file();
    let file = File::open(path).with_context(|| NoInput(path.to_owned()))?;
    Ok(Box::new(file))
}

fn shown(import: &Import) -> String {
    if import.is_stdin() {
        return "standard input".to_owned();
    }
    import.file().display().to_string()
}

/// Takes out what would lock out whoever types the command.
fn take_own(list: &mut List, own: &OwnSessions) -> Vec<Value> {
    let mut refused = Vec::new();
    list.entries.retain(|(prefix, _)| match own.within(*prefix) {
        Some(ip) => {
            let detail = format!("{prefix} covers {ip}, from where somebody is logged in");
            let prefix = prefix.to_string();
            refused.push(json!({ "prefix": prefix, "reason": "own_session", "detail": detail }));
            false
        }
        None => true,
    });
    refused
}

fn send(
    remote: &mut Remote,
    import: &Import,
    source: &Source,
    entries: &[(Prefix, Option<u64>)],
    sum: &mut Sum,
) -> anyhow::Result<()> {
    let path = format!("/v1/imports/{source}");
    let response = remote.client.post(&format!("{path}/begin"), &Value::Null);
    let begun = remote.success(response)?;
    let run = begun["run"].as_u64().context("the daemon gave the import no number")?;
    let bar = bar(entries.len());
    for part in entries.chunks(PART) {
        let response = remote.client.post_text(&format!("{path}/entries?run={run}"), text(part));
        let answer = remote.success(response);
        let answer = answer.with_context(|| {
            format!("the import of {source} broke off after {} entries", sum.accepted)
        })?;
        sum.add(&answer);
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();
    let finish = format!("{path}/finish?run={run}&replace={}", import.replace);
    let response = remote.client.post(&finish, &Value::Null);
    let finished = remote.success(response)?;
    sum.removed = count(&finished["removed"]);
    sum.on_the_list = count(&finished["entries"]);
    Ok(())
}

/// Hidden where nobody watches.
fn bar(len: usize) -> ProgressBar {
    let style = "{bar:40} {human_pos} of {human_len} entries, {per_sec}, {eta} left";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len as u64).with_style(style)
}

/// As the daemon reads it.
fn text(entries: &[(Prefix, Option<u64>)]) -> String {
    let mut text = String::with_capacity(entries.len() * 20);
    for (prefix, expiry) in entries {
        text.push_str(&prefix.to_string());
        if let Some(expiry) = expiry {
            text.push(',');
            text.push_str(&clock::rfc3339(*expiry));
        }
        text.push('\n');
    }
    text
}

fn count(value: &Value) -> usize {
    value.as_u64().and_then(|count| count.try_into().ok()).unwrap_or(0)
}

/// What an import came to.
#[derive(Debug, Default)]
struct Sum {
    source: String,
    lines: usize,
    bad: usize,
    bad_lines: Vec<Value>,
    entries: usize,
    redundant: usize,
    expired: usize,
    accepted: usize,
    never_dropped: usize,
    protected: usize,
    own: usize,
    full: usize,
    removed: usize,
    on_the_list: usize,
    examples: Vec<Value>,
}

impl Sum {
    fn of(source: &Source, list: &List, own: Vec<Value>) -> Self {
        let tally = list.tally;
        let bad = list.bad.iter().map(|bad| json!({ "line": bad.line, "problem": bad.problem }));
        Self {
            source: source.to_string(),
            lines: tally.lines,
            bad: tally.bad,
            bad_lines: bad.collect(),
            entries: list.entries.len(),
            redundant: tally.redundant + tally.merged,
            expired: tally.expired,
            own: own.len(),
            examples: own,
            ..Self::default()
        }
    }

    fn add(&mut self, answer: &Value) {
        self.accepted += count(&answer["accepted"]);
        self.never_dropped += count(&answer["never_dropped"]);
        self.redundant += count(&answer["redundant"]);
        self.protected += count(&answer["refused"]["protected"]);
        self.full += count(&answer["refused"]["full"]);
        self.expired += count(&answer["refused"]["expired"]);
        let examples = answer["examples"].as_array().into_iter().flatten().cloned();
        self.examples.extend(examples);
        self.examples.truncate(100);
    }

    fn json(&self, dry_run: bool) -> Value {
        json!({
            "source": self.source,
            "dry_run": dry_run,
            "lines": self.lines,
            "bad": { "count": self.bad, "first": self.bad_lines },
            "entries": self.entries,
            "redundant": self.redundant,
            "accepted": self.accepted,
            "never_dropped": self.never_dropped,
            "refused": {
                "protected": self.protected,
                "own_session": self.own,
                "full": self.full,
                "expired": self.expired,
            },
            "examples": self.examples,
            "removed": self.removed,
            "on_the_list": self.on_the_list,
        })
    }

    fn text(&self, dry_run: bool) -> String {
        let notes = [
            (self.redundant, "redundant"),
            (self.expired, "lapsed already"),
            (self.bad, "bad lines skipped"),
            (self.protected + self.own, "refused as protected"),
            (self.full, "refused for want of room"),
            (self.never_dropped, "of proxies, held at the API only"),
            (self.removed, "old ones removed"),
        ];
        let notes: Vec<_> = notes
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let notes =
            if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
        let head = if dry_run {
            format!("would import {} entries as {}{notes}", self.entries, self.source)
        } else {
            format!("imported {} entries as {}{notes}", self.accepted, self.source)
        };
        let examples = self.examples.iter().take(SHOWN).filter_map(|it| it["detail"].as_str());
        let bad = self.bad_lines.iter().map(|bad| {
            format!("line {}: {}", bad["line"], bad["problem"].as_str().unwrap_or_default())
        });
        let details = examples.map(str::to_owned).chain(bad);
        details.fold(head, |text, detail| format!("{text}\n  {detail}"))
    }
}
