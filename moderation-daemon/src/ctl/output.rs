//! Tables for people, JSON for programs.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use comfy_table::{Table, presets::NOTHING};
use indicatif::ProgressBar;
use serde_json::Value;

/// Where and how results are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results are for programs.
    pub(super) const fn is_json(self) -> bool {
        self.json
    }

    /// Whether text is coloured: on terminals, unless `NO_COLOR`, `CLICOLOR=0` or
    /// `TERM=dumb` says otherwise.
    pub(super) fn has_colours(self) -> bool {
        anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
    }

    /// Shows a result: the value itself, or what `text` makes of it.
    pub(super) fn show(self, value: &Value, text: impl FnOnce(&Value) -> String) -> io::Result<()> {
        let text = if self.json { value.to_string() } else { text(value) };
        match writeln!(io::stdout(), "{}", text.trim_end()) {
            // Whoever reads has read enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }
}

/// How often it shows that it does.
const TICK: Duration = Duration::from_millis(100);

/// Says on a terminal that something goes on; it goes when it is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Begins with this sentence.
    pub(super) fn begin(what: &str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Goes on with this one.
    pub(super) fn go_on(&self, what: &'static str) {
        self.0.set_message(what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A table without lines, its head in capitals.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A list of names and values.
pub(super) fn list(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A field as text: strings without quotes, a dash for what is not there.
pub(super) fn field(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The bans of an answer as a table.
pub(super) fn bans(bans: &Value) -> String {
    let bans = bans.as_array().map(Vec::as_slice).unwrap_or_default();
    if bans.is_empty() {
        return "no bans".to_owned();
    }
    let rows = bans.iter().map(|ban| {
        [
            field(&ban["id"]),
            field(&ban["user"]),
            field(&ban["address"]),
            field(&ban["origin"]),
            ban_state(ban),
            field(&ban["reason"]),
        ]
    });
    table(["BAN", "USER", "ADDRESS", "ORIGIN", "STATE", "REASON"], rows)
}

/// What has become of a ban.
pub(super) fn ban_state(ban: &Value) -> String {
    if let Some(at) = ban["lifted_at"].as_str() {
        return format!("lifted {at} by {}", field(&ban["lifted_by"]));
    }
    if ban["remaining_ms"].as_u64() == Some(0) {
        return format!("ran out {}", field(&ban["expires_at"]));
    }
    let until =
        ban["expires_at"].as_str().map_or("for ever".to_owned(), |at| format!("until {at}"));
    let until = if ban["review"] == true { format!("{until} (to be looked at)") } else { until };
    if ban["network"] == "never" {
        return format!("{until} (at the API only)");
    }
    if ban["network"] == "off" {
        return format!("{until} (at the API only: network.mode is off)");
    }
    let enforced = ban["enforced"].as_bool().unwrap_or(false);
    if enforced { until } else { format!("{until} (not enforced in the kernel)") }
}
