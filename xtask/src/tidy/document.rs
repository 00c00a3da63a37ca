//! Rules for Markdown: links to files of the project lead to one. Addresses elsewhere
//! and headings within a page are not followed.

use std::collections::BTreeSet;

use super::Finding;

/// Finds relative links of the document at `path` that lead to none of `paths`.
pub(super) fn broken_links(path: &str, text: &str, paths: &BTreeSet<String>) -> Vec<Finding> {
    links(text)
        .into_iter()
        .filter(|(_, target)| !leads_somewhere(path, target, paths))
        .map(|(line, target)| {
            Finding::new(path, line, format!("links to `{target}`, which is not there"))
        })
        .collect()
}

/// The targets of links to files, each with its line; not those in code.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    let mut is_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            let targets = inline_targets(line).chain(definition_target(line));
            links.extend(targets.filter_map(|target| Some((index + 1, file_of(target)?))));
        }
    }
    links
}

/// `[text](target)`, unless the `](` stands in backticks.
fn inline_targets(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](")
        .filter(|(at, _)| line[..*at].matches('`').count().is_multiple_of(2))
        .filter_map(|(at, opening)| line[at + opening.len()..].split(')').next())
}

/// `[label]: target`
fn definition_target(line: &str) -> Option<&str> {
    let (label, target) = line.strip_prefix('[')?.split_once("]: ")?;
    (!label.contains(']')).then_some(target)
}

/// The file that a target names, without title and heading; none for an address.
fn file_of(target: &str) -> Option<&str> {
    let target = target.split_whitespace().next()?;
    let target = target.trim_start_matches('<').trim_end_matches('>');
    let file = target.split('#').next()?;
    let is_address = file.contains("://") || file.starts_with("mailto:");
    (!file.is_empty() && !is_address).then_some(file)
}

fn leads_somewhere(from: &str, target: &str, paths: &BTreeSet<String>) -> bool {
    let Some(path) = resolve(from, target) else {
        return false;
    };
    let folder = format!("{path}/");
    path.is_empty() || paths.contains(&path) || paths.iter().any(|known| known.starts_with(&folder))
}

/// `target` as a path from the root of the project; none if it leads out of it.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut folders: Vec<&str> = from.split('/').collect();
    folders.pop();
    if target.starts_with('/') {
        folders.clear();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(folders.pop()?),
            name => folders.push(name),
        }
    }
    Some(folders.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No lines.
    const NONE: [usize; 0] = [];

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let paths = ["README.md", "docs/a.md", "docs/b/c.md"].map(str::to_owned);
        let findings = broken_links(path, text, &BTreeSet::from(paths));
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn links_to_files_and_folders_that_exist_are_right() {
        let text = "[a](docs/a.md) [b](docs/b/) [c](./docs/b/c.md#part \"title\") [d](/docs)\n[e]: <docs/a.md>\n";
        assert_eq!(lines("README.md", text), NONE);
        assert_eq!(
            lines("docs/b/c.md", "[up](../a.md), [root](../../README.md), [top](../..)\n"),
            NONE
        );
    }

    #[test]
    fn links_to_what_is_not_there_are_found() {
        assert_eq!(lines("README.md", "a\n[a](docs/a.md) [b](gone.md)\n"), [2]);
        assert_eq!(lines("docs/a.md", "[a](docs/a.md)\n"), [1]);
        assert_eq!(lines("README.md", "[a](../outside.md)\n"), [1]);
        assert_eq!(lines("README.md", "[a]: gone.md\n"), [1]);
    }

    #[test]
    fn addresses_headings_and_code_are_left_alone() {
        assert_eq!(
            lines("README.md", "[a](https://example.org/x) [b](#part) [c](mailto:a@example.org)\n"),
            NONE
        );
        assert_eq!(lines("README.md", "```\n[a](gone.md)\n```\n`[a](gone.md)`\n"), NONE);
    }
}
