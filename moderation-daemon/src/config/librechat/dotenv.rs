//! `.env` files as dotenv 16 reads them for LibreChat, which is not as a shell
//! does: a `#` begins a comment wherever it stands, a quoted value may have many
//! lines, nothing is substituted. Which names matter is not known here; values
//! are secrets until somebody says that they are none, so they are never shown.

use std::fmt;

use super::number::{is_space, trim};

/// One assignment.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The variable.
    pub name: String,
    /// Its value, without quotes.
    pub value: String,
    /// Where its name stands, from 1.
    pub line: usize,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).field("line", &self.line).finish()
    }
}

/// The assignments of a file in their order; of several to one name the last
/// counts. What is no assignment is skipped, as dotenv does it.
pub fn parse(text: &str) -> Vec<Entry> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut entries = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let end = match assignment(&text, at) {
            Some((entry, end)) => {
                entries.push(entry);
                end
            }
            None => at,
        };
        at = text[end..].find('\n').map_or(text.len(), |length| end + length + 1);
    }
    entries
}

/// The assignment that begins at a line's beginning, perhaps after empty lines,
/// and where it ends.
fn assignment(text: &str, at: usize) -> Option<(Entry, usize)> {
    let start = skip_space(text, at);
    let exported = text[start..].strip_prefix("export").and_then(|rest| {
        let name = skip_space(text, text.len() - rest.len());
        (text.len() - rest.len() < name).then(|| name_at(text, name)).flatten()
    });
    let (name, value_at) = exported.or_else(|| name_at(text, start))?;
    let (value, end) = quoted(text, value_at).unwrap_or_else(|| unquoted(text, value_at));
    let line = 1 + text[..start].matches('\n').count();
    Some((Entry { name: name.to_owned(), value: cleared(value), line }, end))
}

/// A name and where its value begins: behind `=`, or behind a colon and a space.
fn name_at(text: &str, at: usize) -> Option<(&str, usize)> {
    let rest = &text[at..];
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let length = rest.find(|c| !is_part(c)).filter(|length| *length > 0)?;
    let behind = at + length;
    let equals = skip_space(text, behind);
    if text[equals..].starts_with('=') {
        return Some((&rest[..length], equals + 1));
    }
    let space = text[behind..].strip_prefix(':')?.chars().next().filter(|c| is_space(*c))?;
    Some((&rest[..length], behind + 1 + space.len_utf8()))
}

/// A value in quotes with nothing but a comment behind it. A quote with a
/// backslash before it is a part of the value, unless no other can end it.
fn quoted(text: &str, at: usize) -> Option<(&str, usize)> {
    let open = skip_space(text, at);
    let quote = text[open..].chars().next().filter(|c| "'\"`".contains(*c))?;
    let mut escaped = Vec::new();
    let mut plain = None;
    for (offset, _) in text[open + 1..].match_indices(quote) {
        let close = open + 1 + offset;
        if text[open + 1..close].ends_with('\\') {
            escaped.push(close);
        } else {
            plain = Some(close);
            break;
        }
    }
    plain
        .into_iter()
        .chain(escaped.into_iter().rev())
        .find_map(|close| Some((&text[open..=close], end_of_line(text, close + 1)?)))
}

/// Whether only a comment follows: then where the line, or what there is, ends.
fn end_of_line(text: &str, at: usize) -> Option<usize> {
    let next = skip_space(text, at);
    let has_ended = text[at..next].contains('\n') || next == text.len();
    (has_ended || text[next..].starts_with('#')).then_some(at)
}

/// The rest of the line up to a comment.
fn unquoted(text: &str, at: usize) -> (&str, usize) {
    let length = text[at..].find(['#', '\n']).unwrap_or(text.len() - at);
    (&text[at..at + length], at + length)
}

/// Without quotes around it; in double quotes `\n` and `\r` are characters.
fn cleared(value: &str) -> String {
    let value = trim(value);
    let inner = ['\'', '"', '`']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote).and_then(|rest| rest.strip_suffix(*quote)));
    let inner = inner.unwrap_or(value);
    if value.starts_with('"') {
        return inner.replace("\\n", "\n").replace("\\r", "\r");
    }
    inner.to_owned()
}

fn skip_space(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start_matches(is_space).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        parse(text).into_iter().map(|entry| (entry.name, entry.value)).collect()
    }

    #[test]
    fn a_file_is_read_as_dotenv_reads_it() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("A=1", &[("A", "1")]),
            ("A=1\nB=2\n", &[("A", "1"), ("B", "2")]),
            ("A=1\r\nB=2\rC=3", &[("A", "1"), ("B", "2"), ("C", "3")]),
            ("  A = 1  ", &[("A", "1")]),
            ("\u{feff}A=1", &[("A", "1")]),
            ("export A=1", &[("A", "1")]),
            ("export=1", &[("export", "1")]),
            ("exportA=1", &[("exportA", "1")]),
            ("A.b-c_D=1", &[("A.b-c_D", "1")]),
            ("A: 1", &[("A", "1")]),
            ("A:1", &[]),
            ("A :1", &[]),
            ("A B=1", &[]),
            ("=1", &[]),
            ("A", &[]),
            ("", &[]),
            // Empty.
            ("A=", &[("A", "")]),
            ("A=\nB=2", &[("A", ""), ("B", "2")]),
            ("A= \nB=2", &[("A", ""), ("B", "2")]),
            ("A=#x\nB=2", &[("A", ""), ("B", "2")]),
            ("A=''", &[("A", "")]),
            // Comments.
            ("# A=1\nB=2", &[("B", "2")]),
            ("A=1 # one", &[("A", "1")]),
            ("A=1#one", &[("A", "1")]),
            ("A='1#one' # 'two'", &[("A", "1#one")]),
            ("A=1000 * 60 * 60 * 2 # 2 hours", &[("A", "1000 * 60 * 60 * 2")]),
            // Quotes.
            ("A='x y'", &[("A", "x y")]),
            ("A=\"x y\"", &[("A", "x y")]),
            ("A=`x'\"y`", &[("A", "x'\"y")]),
            ("A=' 7 '", &[("A", " 7 ")]),
            ("A=\"x\\ny\\rz\"", &[("A", "x\ny\rz")]),
            ("A='x\\ny'", &[("A", "x\\ny")]),
            ("A=x\\ny", &[("A", "x\\ny")]),
            ("A=\"x\" y", &[("A", "\"x\" y")]),
            ("A=\"x\" \"y\"", &[("A", "x\" \"y")]),
            ("A='x\"", &[("A", "'x\"")]),
            ("A='it\\'s'", &[("A", "it\\'s")]),
            ("A='it\\'\nB=2", &[("A", "it\\"), ("B", "2")]),
            ("A='x\\' y\\' z", &[("A", "'x\\' y\\' z")]),
            ("A=\"\\n\" x", &[("A", "\"\n\" x")]),
            // Many lines.
            ("A='x\nB=2\n'\nC=3", &[("A", "x\nB=2\n"), ("C", "3")]),
            ("A='x\nB=2\nC=3", &[("A", "'x"), ("B", "2"), ("C", "3")]),
            ("A=\n'x'\nB=2", &[("A", "x"), ("B", "2")]),
            ("A\n=1", &[("A", "1")]),
            ("A:\nB=2", &[("A", "B=2")]),
            ("A='x'\n\n# y\nB=2", &[("A", "x"), ("B", "2")]),
            // Nothing is substituted.
            ("A=1\nB=$A ${A}", &[("A", "1"), ("B", "$A ${A}")]),
            // Duplicates, in order.
            ("A=1\nA=2", &[("A", "1"), ("A", "2")]),
        ];
        for (text, want) in table {
            let want: Vec<_> = want
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(read(text), want, "{text:?}");
        }
    }

    #[test]
    fn every_entry_knows_its_line() {
        let text = "\n# c\nA=1\r\n\r\nB='x\ny'\n  export C=3";
        let lines: Vec<_> = parse(text).into_iter().map(|entry| (entry.name, entry.line)).collect();
        assert_eq!(lines, [("A".to_owned(), 3), ("B".to_owned(), 5), ("C".to_owned(), 7)]);
    }

    #[test]
    fn no_value_is_shown_by_mistake() {
        let shown = format!("{:?}", parse("JWT_SECRET=hunter2"));
        assert!(shown.contains("JWT_SECRET") && !shown.contains("hunter2"), "{shown}");
    }

    proptest::proptest! {
        #[test]
        fn every_text_is_read_to_its_end(text in "[AB=:#'\"`\\\\n \t\n\rx]{0,40}|\\PC{0,40}") {
            let lines = text.replace("\r\n", "\n").replace('\r', "\n").matches('\n').count() + 1;
            let entries = parse(&text);
            assert!(entries.iter().all(|entry| (1..=lines).contains(&entry.line)));
            assert!(entries.is_sorted_by_key(|entry| entry.line), "each in a line of its own");
        }
    }
}
