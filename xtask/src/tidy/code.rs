//! Rules for the form of Rust files and of the tests in them. What a file may import is
//! the affair of `name`.

use super::Finding;
use super::text::find_lines;

/// A file beyond this is more than one room.
const LINE_LIMIT: usize = 600;

/// The one place where tests wait: for a condition, with a time limit.
const WAITING_ROOM: &str = "tests/src/wait.rs";

/// Marks a line of a test that must let time pass, and why.
const PACES: &str = "// paces:";

/// Checks one Rust file; `code` is `text` without comments and literals.
pub(super) fn check(path: &str, text: &str, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(header(path, text));
    findings.extend(length(path, text));
    findings.extend(ignored_tests(path, code));
    findings.extend(prefixed_tests(path, code));
    findings.extend(sleeping_tests(path, text, code));
    findings
}

/// The first thing in a file, but for inner attributes, says what it is for.
fn header(path: &str, text: &str) -> Option<Finding> {
    let has_header = after_inner_attributes(text).starts_with("//!");
    (!has_header).then(|| {
        Finding::new(path, 1, "must begin with `//!`: what it is for, and what it does not do")
    })
}

fn after_inner_attributes(text: &str) -> &str {
    let mut rest = text.trim_start();
    while rest.starts_with("#![") {
        rest = rest[attribute_length(rest)..].trim_start();
    }
    rest
}

/// Up to the bracket that closes the first one.
fn attribute_length(attribute: &str) -> usize {
    let mut depth = 0_usize;
    for (at, character) in attribute.char_indices() {
        match character {
            '[' => depth += 1,
            ']' if depth == 1 => return at + 1,
            ']' => depth -= 1,
            _ => {}
        }
    }
    attribute.len()
}

fn length(path: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    (lines > LINE_LIMIT).then(|| {
        Finding::new(
            path,
            lines,
            format!("has more than {LINE_LIMIT} lines; it is more than one thing"),
        )
    })
}

fn ignored_tests(path: &str, code: &str) -> Vec<Finding> {
    find_lines(path, code, "an ignored test proves nothing; run it or delete it", |line| {
        line.contains("#[ignore")
    })
}

/// Tests are sentences.
fn prefixed_tests(path: &str, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut is_test = false;
    for (index, line) in code.lines().enumerate() {
        is_test |= is_test_attribute(line);
        let Some(name) = function_name(line) else {
            continue;
        };
        if is_test && name.starts_with("test_") {
            findings.push(Finding::new(
                path,
                index + 1,
                "a test is named by a sentence, without `test_`",
            ));
        }
        is_test = false;
    }
    findings
}

/// `#[test]`, `#[tokio::test]`, `#[tokio::test(…)]`.
fn is_test_attribute(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("#[test]") || line.starts_with("#[tokio::test")
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "fn");
    words.nth(1)
}

/// A pause is too short on a slow machine and wasted on a fast one.
fn sleeping_tests(path: &str, text: &str, code: &str) -> Vec<Finding> {
    let is_in_tests = path.split('/').rev().skip(1).any(|folder| folder == "tests");
    if !is_in_tests || path == WAITING_ROOM {
        return Vec::new();
    }
    let reasons: Vec<bool> = text.split('\n').map(|line| line.contains(PACES)).collect();
    let message = format!(
        "sleeps; await a condition with {WAITING_ROOM}, or give the reason in a `{PACES}` comment"
    );
    let mut findings = find_lines(path, code, &message, sleeps);
    findings.retain(|finding| !reasons[finding.line - 1]);
    findings
}

fn sleeps(line: &str) -> bool {
    ["thread::sleep", "time::sleep"].iter().any(|name| line.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::layers::Layers;

    /// The lines with findings in a file of `text` at `path`, given a header.
    /// No lines.
    const NONE: [usize; 0] = [];

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let text = format!("//! Header.\n{text}");
        let code = Layers::of(&text).code;
        check(path, &text, &code).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_file_begins_by_saying_what_it_is_for() {
        assert_eq!(header("a.rs", "//! Header.\n"), None);
        assert!(header("a.rs", "// Comment.\n//! Header.\n").is_some());
        assert!(header("a.rs", "use std::fs;\n").is_some());
    }

    #[test]
    fn inner_attributes_may_come_before_the_header() {
        assert_eq!(
            header(
                "a.rs",
                "#![no_std]\n#![cfg_attr(\n    a,\n    allow(b, reason = \"[]\")\n)]\n\n//! Header.\n"
            ),
            None
        );
        assert!(header("a.rs", "#![no_std]\nfn f() {}\n").is_some());
    }

    #[test]
    fn a_file_has_a_bounded_length() {
        assert_eq!(lines("a.rs", &"\n".repeat(LINE_LIMIT - 1)), NONE);
        assert_eq!(lines("a.rs", &"\n".repeat(LINE_LIMIT)), [LINE_LIMIT + 1]);
    }

    #[test]
    fn no_test_is_ignored() {
        assert_eq!(lines("a.rs", "#[test]\n#[ignore]\nfn a() {}\n"), [3]);
        assert_eq!(lines("a.rs", "#[ignore = \"slow\"]\nfn a() {}\n"), [2]);
        assert_eq!(lines("a.rs", "// no #[ignore] here\n"), NONE);
    }

    #[test]
    fn tests_are_named_by_sentences() {
        assert_eq!(lines("a.rs", "#[test]\nfn test_a() {}\n"), [3]);
        assert_eq!(lines("a.rs", "#[tokio::test(flavor = \"x\")]\nasync fn test_a() {}\n"), [3]);
        assert_eq!(lines("a.rs", "#[test]\nfn a_holds() {}\nfn test_run() {}\n"), NONE);
    }

    #[test]
    fn tests_do_not_sleep() {
        assert_eq!(lines("tests/src/a.rs", "std::thread::sleep(x);\n"), [2]);
        assert_eq!(lines("moderation-daemon/tests/a.rs", "tokio::time::sleep(x).await;\n"), [2]);
        assert_eq!(lines("tests/tests/a.rs", "use std::thread::sleep;\n"), [2]);
    }

    #[test]
    fn a_pause_with_a_reason_and_the_waiting_room_are_allowed() {
        assert_eq!(
            lines("tests/src/a.rs", "thread::sleep(x); // paces: ten packets a second\n"),
            NONE
        );
        assert_eq!(lines(WAITING_ROOM, "thread::sleep(x);\n"), NONE);
        assert_eq!(lines("moderation-daemon/src/a.rs", "thread::sleep(x);\n"), NONE);
    }
}
