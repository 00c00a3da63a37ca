//! Pages: links lead somewhere, what is shown as configuration is configuration, and each
//! alert has its place.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use moderation_daemon::config::Config;
use moderation_tests::front::project;
use serde_json::Value;

use crate::files;

/// Where the package puts pages that alerts refer to.
const INSTALLED: &str = "/usr/share/doc/moderation/";

fn pages() -> Result<Vec<PathBuf>> {
    let mut pages = files("docs", "md")?;
    pages.extend(files("clients/node", "md")?);
    pages.extend(files(".", "md")?);
    Ok(pages)
}

/// The text without what is shown as it is, in which nothing is a link.
fn prose(page: &str) -> String {
    let mut is_shown = false;
    let lines = page.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_shown ^= is_fence;
        !is_shown && !is_fence
    });
    let lines: Vec<_> = lines.collect();
    lines.join("\n")
}

/// Where links of a page lead that do not leave the project.
fn links(page: &str) -> Vec<String> {
    let text = prose(page);
    let targets = text.split("](").skip(1).filter_map(|part| part.split(')').next());
    let is_ours = |target: &&str| !target.contains("://") && !target.starts_with("mailto:");
    targets.filter(is_ours).map(str::to_owned).collect()
}

/// As GitHub makes them of headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let text = prose(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let is_kept = |it: &char| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_');
    let anchor = |line: &str| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        heading.chars().filter(is_kept).map(|it| if it == ' ' { '-' } else { it }).collect()
    };
    headings.map(anchor).collect()
}

/// Files that are not there are noticed by `cargo xtask check`.
#[test]
fn every_heading_that_a_link_names_is_there() -> Result<()> {
    let mut count = 0;
    for path in pages()? {
        for link in links(&fs::read_to_string(&path)?) {
            let Some((file, anchor)) = link.split_once('#') else { continue };
            let folder = path.parent().context("a file is in a folder")?;
            let target = if file.is_empty() { path.clone() } else { folder.join(file) };
            let page = fs::read_to_string(&target)
                .with_context(|| format!("{link} in {}", path.display()))?;
            ensure!(anchors(&page).contains(anchor), "no heading for {link} in {}", path.display());
            count += 1;
        }
    }
    ensure!(count > 10, "only {count} links to headings were found");
    Ok(())
}

#[test]
fn each_alert_has_its_place_on_the_page_and_the_page_no_other() -> Result<()> {
    let read = |path: &str| {
        fs::read_to_string(project().join(path)).with_context(|| format!("cannot read {path}"))
    };
    let file: Value = serde_yaml::from_str(&read("observability/alerts.yaml")?)?;
    let groups = file["groups"].as_array().context("groups")?;
    let rules = groups.iter().filter_map(|group| group["rules"].as_array()).flatten();
    let mut names = BTreeSet::new();
    for rule in rules {
        let text = |value: &Value| {
            let text = value.as_str().map(str::to_owned);
            text.with_context(|| format!("something is missing from {rule}"))
        };
        let (name, runbook) = (text(&rule["alert"])?, text(&rule["annotations"]["runbook"])?);
        let (page, anchor) = runbook.split_once('#').context("an anchor")?;
        let page = page.strip_prefix(INSTALLED).context("where the package puts it")?;
        let page = read(page)?;
        assert!(anchors(&page).contains(anchor), "{name}: {runbook}");
        assert_eq!(anchor, name.to_lowercase());
        let severity = text(&rule["labels"]["severity"])?;
        let severity = format!("### {name}\n\nSeverity: {severity}.\n");
        assert!(page.contains(&severity), "{severity}");
        names.insert(name);
    }
    let page = read("docs/alerts.md")?;
    let told: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(told, names.iter().map(String::as_str).collect());
    Ok(())
}

/// What stands between lines of ``` that name YAML, without what indents the whole.
fn configurations(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(indent) = line.strip_suffix("```yaml") else { continue };
        let block = lines.by_ref().take_while(|line| line.trim() != "```");
        let block: Vec<_> = block.map(|line| line.strip_prefix(indent).unwrap_or(line)).collect();
        found.push(block.join("\n"));
    }
    found
}

#[test]
fn what_pages_show_as_configuration_is_configuration() -> Result<()> {
    let mut count = 0;
    for path in pages()? {
        for text in configurations(&fs::read_to_string(&path)?) {
            if text.starts_with("services:") {
                // Compose's; tests/tests/host looks at the like.
                continue;
            }
            // LibreChat's own files are elsewhere.
            let parsed = Config::parse(&text);
            let error = parsed.err().map(|error| format!("{:#}", anyhow::Error::from(error)));
            let error = error.filter(|error| !error.contains("/opt/librechat/"));
            ensure!(error.is_none(), "{}: {error:?} in\n{text}", path.display());
            count += 1;
        }
    }
    ensure!(count > 5, "only {count} were found");
    Ok(())
}

#[test]
fn a_block_in_a_list_is_read_without_its_indent() {
    let page = "1. So:\n\n   ```yaml\n   a:\n     b: 1\n   ```\n```\nc: 2\n```\n";
    assert_eq!(configurations(page), ["a:\n  b: 1"]);
    assert_eq!(links("[a](b.md#c) ![d](e.png)\n```\n[f](g)\n```"), ["b.md#c", "e.png"]);
    assert!(anchors("## Kernels before 5.19\n").contains("kernels-before-519"));
}
