//! Rules for every text file: its form, no paths of one person's machine, no promises
//! without an issue. Knows no language.

use super::Finding;

/// What stands for "to be done later".
const MARKERS: [&str; 3] = ["TODO", "FIXME", "XXX"];

/// Folders that exist, with this content, on one machine only. In pieces, so that this
/// file does not break the rule that it states.
const MACHINE_FOLDERS: [&str; 3] =
    [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/")];

/// Checks the form of a text file and the paths that it names.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Licences are kept as their authors publish them.
    if !path.starts_with("LICENSE") {
        findings.extend(trailing_whitespace(path, text));
        findings.extend(last_newline(path, text));
    }
    findings.extend(machine_paths(path, text));
    findings
}

fn trailing_whitespace(path: &str, text: &str) -> Vec<Finding> {
    find_lines(path, text, "whitespace at the end of the line", |line| line.trim_end() != line)
}

fn last_newline(path: &str, text: &str) -> Option<Finding> {
    let is_right = text.is_empty() || (text.ends_with('\n') && !text.ends_with("\n\n"));
    let line = text.lines().count();
    (!is_right).then(|| Finding::new(path, line, "must end with exactly one newline"))
}

fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    find_lines(path, text, "names a folder of one machine", |line| {
        MACHINE_FOLDERS.iter().any(|folder| names_folder(line, folder))
    })
}

/// Whether an absolute path in `line` begins with `folder` and goes on.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + folder.len()..].chars().next();
        let is_absolute = before.is_none_or(|c| !c.is_alphanumeric() && !"/._-~}$*".contains(c));
        is_absolute && after.is_some_and(|c| c.is_alphanumeric() || c == '.' || c == '_')
    })
}

/// Refuses promises that nobody will find again: each names its issue.
pub(super) fn markers(path: &str, text: &str) -> Vec<Finding> {
    let message = "names no issue; write it as TODO(#12), or do it";
    find_lines(path, text, message, |line| MARKERS.iter().any(|marker| is_promise(line, marker)))
}

/// Whether `marker` stands in `line` as a word, without an issue number after it. In
/// backticks it is spoken about, not used.
fn is_promise(line: &str, marker: &str) -> bool {
    line.match_indices(marker).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + marker.len()..];
        let is_word = !before.is_some_and(is_part_of_word) && !after.starts_with(is_part_of_word);
        is_word && before != Some('`') && !names_issue(after)
    })
}

fn is_part_of_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn names_issue(text: &str) -> bool {
    text.split('#').skip(1).any(|tail| tail.starts_with(|c: char| c.is_ascii_digit()))
}

/// A finding for each line of `text` that `is_bad`.
pub(super) fn find_lines(
    path: &str,
    text: &str,
    message: &str,
    is_bad: impl Fn(&str) -> bool,
) -> Vec<Finding> {
    let lines = text.split('\n').enumerate();
    lines
        .filter(|(_, line)| is_bad(line))
        .map(|(index, _)| Finding::new(path, index + 1, message))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_file_has_no_findings() {
        assert_eq!(check("a.md", "# A\n\ntext\n"), []);
        assert_eq!(check("empty", ""), []);
    }

    #[test]
    fn whitespace_at_the_end_of_a_line_is_found_where_it_is() {
        assert_eq!(
            check("a.md", "a\nb \nc\t\n").iter().map(|f| f.line).collect::<Vec<_>>(),
            [2, 3]
        );
        assert_eq!(check("a.md", "a\r\n").len(), 1);
    }

    #[test]
    fn a_file_ends_with_exactly_one_newline() {
        assert_eq!(check("a.md", "a").len(), 1);
        assert_eq!(check("a.md", "a\n\n").len(), 1);
    }

    #[test]
    fn licences_keep_their_form() {
        assert_eq!(check("LICENSE-MIT", "a \n\n"), []);
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        for folder in MACHINE_FOLDERS {
            assert_eq!(check("a.md", &format!("see `{folder}x/y`\n")).len(), 1, "{folder}");
            assert_eq!(check("a.md", &format!("A={folder}x\n")).len(), 1, "{folder}");
        }
    }

    #[test]
    fn other_paths_and_addresses_are_not() {
        for folder in MACHINE_FOLDERS {
            assert_eq!(check("a.md", &format!("https://example.org{folder}x\n")), []);
            assert_eq!(check("a.md", &format!("src{folder}x and {folder} alone\n")), []);
            assert_eq!(check("a.md", &format!("$PWD{folder}<you>\n")), []);
        }
    }

    #[test]
    fn a_promise_names_its_issue() {
        for marker in MARKERS {
            assert_eq!(markers("a.sh", &format!("# {marker}: later\n")).len(), 1, "{marker}");
            assert_eq!(markers("a.sh", &format!("# {marker}(#12): later\n")), []);
            assert_eq!(markers("a.md", &format!("no `{marker}` here\n")), []);
            assert_eq!(markers("a.sh", &format!("mktemp a.{marker}X\n")), []);
        }
    }

    #[test]
    fn a_hash_without_a_number_is_no_issue() {
        assert_eq!(markers("a.sh", "TODO # later\n").len(), 1);
    }
}
