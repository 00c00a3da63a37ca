//! Configurations that we ship or tell of are what they say they are: those that are
//! right are taken without a word, alone and over one another; typical mistakes are
//! refused with the message that the first line of their file promises. And pages refer
//! to nothing that is not there.

mod page;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use moderation_daemon::config::Config;
use moderation_tests::daemon::binary;
use moderation_tests::front::project;
use moderation_tests::process;
use serde_json::{Value, json};

/// What `moderationd --check` says: code, standard output and error.
fn check(configuration: &Path) -> Result<(Option<i32>, String, String)> {
    let mut command = process::command(binary("moderationd")?);
    command.args(["--check", "--config"]).arg(configuration).stdin(Stdio::null());
    let output = command.output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

/// The files of a folder that end so, in the order of their names.
fn files(folder: &str, ending: &str) -> Result<Vec<PathBuf>> {
    let folder = project().join(folder);
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_wanted = |path: &PathBuf| path.extension().is_some_and(|it| it == ending);
    let mut found: Vec<_> = paths.into_iter().filter(is_wanted).collect();
    found.sort();
    ensure!(!found.is_empty(), "nothing in {}", folder.display());
    Ok(found)
}

/// What the first line of an example promises.
fn promise(path: &Path, word: &str) -> Result<String> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().next().unwrap_or_default();
    let said = line.strip_prefix("# ").and_then(|line| line.strip_prefix(word));
    let said = said.and_then(|line| line.strip_prefix(": "));
    Ok(said.with_context(|| format!("{} promises nothing", path.display()))?.to_owned())
}

fn is_silently_taken(path: &Path) -> Result<()> {
    let said = check(path)?;
    let want = (Some(0), "the configuration is valid\n".to_owned(), String::new());
    ensure!(said == want, "{}: {said:?}", path.display());
    Ok(())
}

#[test]
fn what_we_ship_is_right() -> Result<()> {
    let mut shipped = files("config", "yaml")?;
    shipped.extend(files("config/proxies", "yaml")?);
    ensure!(shipped.len() >= 8, "{shipped:?}");
    shipped.iter().try_for_each(|path| is_silently_taken(path))
}

#[test]
fn each_mistake_is_refused_with_the_message_that_it_promises() -> Result<()> {
    let broken = files("tests/tests/examples/broken", "yaml")?;
    for path in &broken {
        let promised = promise(path, "promises")?;
        let (code, stdout, stderr) = check(path)?;
        assert_eq!((code, stdout.as_str()), (Some(78), ""), "{}: {stderr}", path.display());
        assert!(stderr.contains(&promised), "{}: {stderr}", path.display());
        // Which file it is about.
        assert!(stderr.contains(&path.display().to_string()), "{stderr}");
        assert!(!stderr.contains("hunter2"), "a password is told: {stderr}");
    }
    assert!(broken.len() >= 15, "{broken:?}");
    Ok(())
}

/// As the package, `setup` and an operator who follows the pages lay them over one another.
#[test]
fn what_we_ship_fits_together() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let main = folder.path().join("moderation.yaml");
    let beside = folder.path().join("moderation.d");
    fs::create_dir(&beside)?;
    fs::copy(project().join("config/moderation.yaml"), &main)?;
    fs::copy(project().join("package/10-observe.yaml"), beside.join("10-observe.yaml"))?;
    is_silently_taken(&main)?;
    fs::write(beside.join("50-setup.yaml"), "network: {interfaces: [eth0], enforce: true}")?;
    for app in ["librechat", "open-webui", "openai-api", "hanzo-chat"] {
        let own = beside.join("20-app.yaml");
        fs::copy(project().join(format!("config/{app}.yaml")), &own)?;
        for cdn in files("config/proxies", "yaml")? {
            fs::copy(cdn, beside.join("30-proxies.yaml"))?;
            is_silently_taken(&main)?;
        }
    }
    let config = Config::load(Some(&main))?;
    assert!(config.network.enforce && !config.network.proxies.is_empty());
    Ok(())
}

/// What the doctor says of a configuration while no daemon runs.
fn examine(configuration: &Path) -> Result<Value> {
    let mut command = process::command(binary("moderationctl")?);
    command.args(["--json", "--socket", "/nowhere/admin.sock", "--config"]).arg(configuration);
    let output = command.arg("doctor").stdin(Stdio::null()).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let sections = report["sections"].as_array().context("sections")?;
    let section = sections.iter().find(|section| section["name"] == "configuration");
    Ok(section.context("a section about the configuration")?["findings"].clone())
}

#[test]
fn the_doctor_says_the_same_of_them() -> Result<()> {
    let ok = json!([{ "check": "configuration file", "grade": "ok", "text": "valid" }]);
    for path in files("config", "yaml")?.into_iter().chain(files("config/proxies", "yaml")?) {
        assert_eq!(examine(&path)?, ok, "{}", path.display());
    }
    for path in files("tests/tests/examples/broken", "yaml")? {
        let findings = examine(&path)?;
        assert_eq!(findings[0]["grade"], "problem", "{}: {findings}", path.display());
        let text = findings[0]["text"].as_str().context("a text")?;
        assert!(text.contains(&promise(&path, "promises")?), "{}: {text}", path.display());
        assert!(
            findings[0]["advice"].as_str().is_some_and(|it| it.contains("moderationd --check"))
        );
    }
    for path in files("tests/tests/examples/odd", "yaml")? {
        let findings = examine(&path)?;
        assert_eq!(findings[1]["grade"], "warning", "{}: {findings}", path.display());
        assert_eq!(findings[1]["text"], promise(&path, "warns")?);
    }
    Ok(())
}

#[test]
fn what_works_and_cannot_do_what_it_is_for_is_taken_with_the_warning_that_it_promises() -> Result<()>
{
    for path in files("tests/tests/examples/odd", "yaml")? {
        let (code, stdout, stderr) = check(&path)?;
        assert_eq!((code, stdout.as_str()), (Some(0), "the configuration is valid\n"), "{stderr}");
        assert_eq!(stderr, format!("warning: {}\n", promise(&path, "warns")?));
    }
    Ok(())
}
