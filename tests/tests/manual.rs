//! Manual pages and completions, as packagers take them from moderationctl: one page
//! for every command that the help names, whole, and without a complaint of groff.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use moderation_tests::daemon::binary;
use moderation_tests::{need, process};
use tempfile::TempDir;

/// What a program prints.
fn printed(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {complaint}");
    Ok(String::from_utf8(output.stdout)?)
}

fn ctl(arguments: &[&str]) -> Result<String> {
    printed(process::command(binary("moderationctl")?).args(arguments))
}

/// The pages, in a folder that lives as long as what is returned.
fn pages() -> Result<(TempDir, BTreeSet<String>)> {
    let folder = tempfile::tempdir()?;
    ctl(&["man", &folder.path().display().to_string()])?;
    let names = fs::read_dir(folder.path())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    Ok((folder, names))
}

/// The commands below these that the help names, each as its words.
fn commands(above: &[String]) -> Result<Vec<Vec<String>>> {
    let mut arguments: Vec<&str> = above.iter().map(String::as_str).collect();
    arguments.push("--help");
    let help = ctl(&arguments)?;
    let mut found = Vec::new();
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return Ok(found) };
    for line in list.lines().take_while(|line| !line.is_empty()) {
        // Lines that go on are indented further.
        let name = line.strip_prefix("  ").filter(|it| !it.starts_with(' '));
        let Some(name) = name.and_then(|it| it.split_whitespace().next()) else { continue };
        if name != "help" {
            let words: Vec<String> = above.iter().cloned().chain([name.to_owned()]).collect();
            found.extend(commands(&words)?);
            found.push(words);
        }
    }
    Ok(found)
}

#[test]
fn every_command_has_a_page_and_every_page_a_command() -> Result<()> {
    let (_folder, pages) = pages()?;
    let commands = commands(&[])?;
    assert!(commands.len() > 20, "{commands:?}");
    let mut expected: BTreeSet<String> =
        commands.iter().map(|words| format!("moderationctl-{}.8", words.join("-"))).collect();
    expected.extend(["moderationctl.8", "moderationd.8"].map(str::to_owned));
    assert_eq!(pages, expected);
    Ok(())
}

#[test]
fn a_page_says_what_the_command_does_how_it_ends_and_which_files_there_are() -> Result<()> {
    let (folder, pages) = pages()?;
    for name in &pages {
        let page = fs::read_to_string(folder.path().join(name))?;
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "FILES", "SEE ALSO"] {
            let heading = page.lines().any(|line| {
                line == format!(".SH {section}") || line == format!(".SH \"{section}\"")
            });
            assert!(heading, "{name} lacks {section}");
        }
        let command = name.trim_end_matches(".8");
        let about = page.lines().find_map(|line| {
            line.replace("\\-", "-").strip_prefix(&format!("{command} - ")).map(str::to_owned)
        });
        assert!(about.is_some_and(|text| !text.is_empty()), "{name} does not say what it is for");
        let status = page.split_once("EXIT STATUS").context("no exit codes")?.1;
        for code in ["0", "1", "64", "69", "77", "78"] {
            assert!(status.contains(&format!("\n\\fB{code}\\fR\n")), "{name} lacks {code}");
        }
    }
    Ok(())
}

#[test]
fn examples_keep_their_lines() -> Result<()> {
    let (folder, _) = pages()?;
    let page = fs::read_to_string(folder.path().join("moderationctl-ban.8"))?;
    let examples = page.split_once(".SH EXAMPLES\n.nf\n").context("no examples")?.1;
    let (examples, _) = examples.split_once("\n.fi").context("the examples do not end")?;
    let lines: Vec<&str> = examples.lines().collect();
    assert!(lines.len() > 1, "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("moderationctl ban")), "{lines:?}");
    Ok(())
}

#[test]
fn groff_has_nothing_to_complain_of() -> Result<()> {
    if !need::is_met("groff (Debian: groff-base)", Path::new("/usr/bin/groff").is_file()) {
        return Ok(());
    }
    let (folder, pages) = pages()?;
    for name in pages {
        let output = process::command("groff")
            .args(["-man", "-ww", "-z"])
            .arg(folder.path().join(&name))
            .output()?;
        assert!(output.status.success(), "{name}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}");
    }
    Ok(())
}

#[test]
fn shells_learn_every_command() -> Result<()> {
    for shell in ["bash", "fish", "zsh"] {
        let script = ctl(&["completions", shell])?;
        for words in commands(&[])? {
            let name = words.last().context("a command has a name")?;
            assert!(script.contains(name.as_str()), "{shell} does not know {words:?}");
        }
    }
    Ok(())
}
