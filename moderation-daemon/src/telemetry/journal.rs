//! Log lines for journald, over its own socket: people read the whole line in MESSAGE,
//! and programs find each field by its name (`journalctl -o json`, `journalctl BAN='#42'`).
//! The protocol: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::{
    fmt::{self, Write as _},
    io,
    os::unix::net::UnixDatagram,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

const SOCKET: &str = "/run/systemd/journal/socket";

/// Sends lines there.
pub(super) struct Journal(UnixDatagram);

impl Journal {
    /// What sends to the journald of this system.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(super) fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET)?;
        // A journal that is busy must not hold up decisions.
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let entry = line.entry(*event.metadata().level());
        if self.0.send(&entry).is_err() {
            // The same line for whoever reads standard error.
            super::say(&line.text());
        }
    }
}

/// One line as it is put together.
#[derive(Debug, Default)]
struct Line {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Line {
    fn put(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else if !field.name().starts_with("log.") {
            // Those say where in a library a line was written.
            self.fields.push((field.name(), value));
        }
    }

    /// As people read it.
    fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            let quoted = value.is_empty() || value.contains([' ', '"', '=', '\n']);
            let written = match quoted {
                true => write!(text, " {name}={value:?}"),
                false => write!(text, " {name}={value}"),
            };
            written.expect("a text takes all");
        }
        text
    }

    fn entry(&self, level: Level) -> Vec<u8> {
        let mut entry = Vec::new();
        put(&mut entry, "PRIORITY", priority(level));
        put(&mut entry, "MESSAGE", &self.text());
        for (name, value) in &self.fields {
            put(&mut entry, &key(name), value);
        }
        entry
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, super::chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

/// As syslog(3) counts.
const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// Capitals, digits and underscores; not one of journald's own, which begin with `_`.
fn key(name: &str) -> String {
    let name = name.trim_start_matches("r#").trim_start_matches('_');
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(letter).take(64).collect()
}

fn put(entry: &mut Vec<u8>, key: &str, value: &str) {
    entry.extend(key.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend(u64::try_from(value.len()).unwrap_or(u64::MAX).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        let fields = vec![("ban", "#42".to_owned()), ("problem", "no room: \"x\"".to_owned())];
        Line { message: "a ban fell".to_owned(), fields }
    }

    #[test]
    fn people_read_all_of_it_and_programs_find_each_field() {
        assert_eq!(line().text(), "a ban fell ban=#42 problem=\"no room: \\\"x\\\"\"");
        let entry = String::from_utf8(line().entry(Level::WARN)).expect("text");
        let lines: Vec<_> = entry.lines().collect();
        let message = "MESSAGE=a ban fell ban=#42 problem=\"no room: \\\"x\\\"\"";
        assert_eq!(lines, ["PRIORITY=4", message, "BAN=#42", "PROBLEM=no room: \"x\""]);
    }

    #[test]
    fn a_value_of_several_lines_cannot_make_up_a_field() {
        let mut entry = Vec::new();
        put(&mut entry, "REASON", "a\nPRIORITY=0");
        let expected = [b"REASON\n".as_slice(), &12_u64.to_le_bytes(), b"a\nPRIORITY=0\n"].concat();
        assert_eq!(entry, expected);
    }

    #[test]
    fn no_field_is_one_of_the_journals_own() {
        assert_eq!(key("_pid"), "PID");
        assert_eq!(key("r#type"), "TYPE");
        assert_eq!(key("retry-after.ms"), "RETRY_AFTER_MS");
    }
}
