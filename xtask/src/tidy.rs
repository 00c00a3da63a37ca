//! The project's own rules, which neither rustfmt nor clippy can check: this file reads
//! the files that git knows or would add, and hands them to the rules beneath it. Rules
//! are functions of a path and a text; they read nothing and fix nothing.

mod artifact;
mod code;
mod document;
mod layers;
mod manifest;
mod name;
mod text;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;

use anyhow::{Context, Result};

use crate::project::Project;
use crate::step;
use layers::Layers;

/// A broken rule, and where.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// Counted from 1.
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Prints each broken rule and tells whether there was none.
pub(crate) fn run(project: &Project) -> Result<bool> {
    let tracked = listed(project, &["--cached"])?;
    let paths = listed(project, &["--cached", "--others", "--exclude-standard"])?;
    let mut findings = artifact::lock_file_is_tracked(&tracked);
    let mut file_count = 0;
    for path in &paths {
        let full = project.root().join(path);
        // A file that was deleted, and not yet from the index, has nothing to check.
        if !full.is_file() {
            continue;
        }
        file_count += 1;
        let bytes = fs::read(&full).with_context(|| format!("cannot read {path}"))?;
        findings.extend(check_file(path, &bytes, &paths));
    }
    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    eprintln!("tidy: {file_count} files, {} broken rules", findings.len());
    Ok(findings.is_empty())
}

fn listed(project: &Project, options: &[&str]) -> Result<BTreeSet<String>> {
    let mut git = project.command("git");
    let output = step::output_of(git.args(["ls-files", "-z"]).args(options))?;
    Ok(output.split_terminator('\0').map(str::to_owned).collect())
}

/// Applies every rule that is about files of this kind.
fn check_file(path: &str, bytes: &[u8], paths: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = artifact::check(path, bytes);
    let Ok(text) = str::from_utf8(bytes) else {
        return findings;
    };
    findings.extend(text::check(path, text));
    if path.ends_with(".rs") {
        let layers = Layers::of(text);
        findings.extend(text::markers(path, &layers.comments));
        findings.extend(code::check(path, text, &layers.code));
        findings.extend(name::check(path, &layers.code));
    } else {
        findings.extend(text::markers(path, text));
    }
    if path.ends_with(".md") {
        findings.extend(document::broken_links(path, text, paths));
    }
    if path.ends_with("Cargo.toml") {
        findings.extend(manifest::check(path, text));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_editors_expect() {
        let finding = Finding::new("a/b.rs", 7, "it is odd");
        assert_eq!(finding.to_string(), "a/b.rs:7: it is odd");
    }

    #[test]
    fn each_kind_of_file_meets_the_rules_for_its_kind() {
        let paths = BTreeSet::new();
        let found = |path: &str, text: &str| check_file(path, text.as_bytes(), &paths).len();
        assert_eq!(found("a.rs", "//! A room.\n"), 0);
        assert_eq!(found("a.rs", "fn no_header() {}\n"), 1);
        assert_eq!(found("a.md", "[gone](gone.md)\n"), 1);
        assert_eq!(found("x/Cargo.toml", "[package]\n"), 1);
        assert_eq!(found("a.yaml", "a: 1 \n"), 1);
    }
}
