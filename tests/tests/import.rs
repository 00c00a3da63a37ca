//! `moderationctl import` as people and scripts use it: what it reads, what it
//! says, and what it ends with.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, Result};
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::daemon::{Daemon, binary};
use moderation_tests::{need, process};
use serde_json::{Value, json};
use tempfile::TempDir;

const LIST: &str = "# a list\n192.0.2.1\n192.0.2.2 ; twice\n192.0.2.2\n198.51.100.0/25\n\
                    198.51.100.128/25\n198.51.100.7\n203.0.113.0/30\n";

/// `None` if the machine lacks what it takes.
fn daemon() -> Result<Option<Daemon>> {
    if !need::root() {
        return Ok(None);
    }
    daemon_without_kernel(json!({ "allowlist": ["192.0.2.200/32"] })).map(Some)
}

fn list(text: &str) -> Result<(TempDir, String)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bad hosts.txt");
    fs::write(&path, text)?;
    let path = path.to_str().context("a path of text")?.to_owned();
    Ok((folder, path))
}

fn json(daemon: &Daemon, arguments: &[&str]) -> Result<Value> {
    let text = daemon.ctl(&[&["--json"], arguments].concat())?.success()?;
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}

#[test]
fn a_file_is_imported_tidied_and_summed_up_in_a_line() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let (_folder, path) = list(LIST)?;
    let said = daemon.ctl(&["import", &path])?.success()?;
    assert_eq!(said, "imported 7 entries as bad_hosts (3 redundant)\n");
    let mut operator = Caller::operator(&daemon);
    for ip in ["192.0.2.1", "198.51.100.7", "203.0.113.3"] {
        assert!(operator.is_banned(&format!("ip={ip}"))?, "{ip}");
    }
    assert!(!operator.is_banned("ip=203.0.113.4")?);
    let lists = daemon.ctl(&["list", "--imports"])?.success()?;
    assert!(lists.trim_start().starts_with("SOURCE") && lists.contains("bad_hosts"), "{lists}");
    let check = daemon.ctl(&["check", "198.51.100.7"])?.success()?;
    assert!(check.contains("on the imported list bad_hosts"), "{check}");
    let status = daemon.ctl(&["status"])?.success()?;
    assert!(status.contains("7 entries of 1 lists"), "{status}");

    assert_eq!(daemon.ctl(&["lift", "192.0.2.1"])?.success()?, "took 192.0.2.1 off bad_hosts\n");
    let lifted = daemon.ctl(&["lift", "--import", "bad_hosts"])?.success()?;
    assert_eq!(lifted, "lifted 6 entries of bad_hosts\n");
    assert!(!operator.is_banned("ip=192.0.2.2")?);
    assert_eq!(daemon.ctl(&["list", "--imports"])?.success()?, "no imported lists\n");
    Ok(())
}

#[test]
fn csv_replaces_what_was_imported_before() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let (_first, first) = list("prefix,expiry\n192.0.2.1,\n192.0.2.2,2100-01-01T00:00:00Z\n")?;
    let (_second, second) = list("192.0.2.2\n192.0.2.3,7d\n")?;
    json(&daemon, &["import", &first, "--source", "csv"])?;
    let sum =
        json(&daemon, &["import", &second, "--source", "csv", "--replace", "--expires", "1d"])?;
    assert_eq!((&sum["accepted"], &sum["removed"]), (&json!(2), &json!(1)), "{sum}");
    let mut operator = Caller::operator(&daemon);
    let mut left_ms = |ip: &str| -> Result<Option<u64>> {
        Ok(operator.get(&format!("/v1/check?ip={ip}"))?["ban"]["remaining_ms"].as_u64())
    };
    assert_eq!(left_ms("192.0.2.1")?, None);
    let days = |ms: Option<u64>| ms.map(|ms| ms.div_ceil(86_400_000));
    // A second more: an expiry is rounded up to whole seconds.
    assert!(matches!(days(left_ms("192.0.2.2")?), Some(1 | 2)));
    assert!(matches!(days(left_ms("192.0.2.3")?), Some(7 | 8)));
    Ok(())
}

#[test]
fn bad_lines_are_named_and_stop_the_import_unless_they_may_be_skipped() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let (_folder, path) = list("192.0.2.1\nnonsense\n192.0.2.2\n0.0.0.0/0\n")?;
    let refused = daemon.ctl(&["import", &path])?;
    assert_eq!(refused.status.code(), Some(65), "{refused:?}");
    for words in ["nothing of", "line 2: \"nonsense\"", "line 4: 0.0.0.0/0 cannot be banned"] {
        assert!(refused.stderr.contains(words), "{words} in {}", refused.stderr);
    }
    let mut operator = Caller::operator(&daemon);
    assert_eq!(operator.get("/v1/imports")?, json!({ "imports": [] }));
    let said = daemon.ctl(&["import", &path, "--skip-bad"])?.success()?;
    assert!(said.starts_with("imported 2 entries as bad_hosts (2 bad lines skipped)"), "{said}");
    Ok(())
}

#[test]
fn a_dry_run_asks_no_daemon() -> Result<()> {
    let (_folder, path) = list(LIST)?;
    let mut command = process::command(binary("moderationctl")?);
    let nowhere = ["--socket", "/nonexistent/admin.sock"];
    let Output { status, stdout, .. } =
        command.args(nowhere).args(["import", &path, "--dry-run"]).output()?;
    assert!(status.success());
    let said = String::from_utf8_lossy(&stdout).into_owned();
    assert_eq!(said, "would import 7 entries as bad_hosts (3 redundant)\n");
    Ok(())
}

/// Runs moderationctl as somebody who is logged in from `from`, with `input`.
fn logged_in(daemon: &Daemon, from: &str, arguments: &[&str], input: &str) -> Result<Output> {
    let mut command = process::command(binary("moderationctl")?);
    command.arg("--socket").arg(daemon.admin_socket()).args(arguments);
    command.env("SSH_CONNECTION", format!("{from} 50000 192.0.2.254 22"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("it is piped")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

#[test]
fn nobody_bans_the_address_they_are_logged_in_from() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let me = "192.0.2.7";
    for ip in [me, "192.0.2.0/24", "::ffff:192.0.2.7"] {
        let Output { status, stderr, .. } =
            logged_in(&daemon, me, &["ban", "--ip", ip, "--reason", "oops"], "")?;
        let stderr = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(1), "{ip}: {stderr}");
        assert!(stderr.contains("lock them out"), "{stderr}");
    }
    let v6 = ["ban", "--ip", "2001:db8::1", "--reason", "oops"];
    let Output { status, .. } = logged_in(&daemon, "2001:db8::9", &v6, "")?;
    assert_eq!(status.code(), Some(1), "it is in the same /64");
    let list = "192.0.2.6\n192.0.2.7\n192.0.2.200\n";
    let Output { status, stdout, .. } = logged_in(&daemon, me, &["import", "-"], list)?;
    let stdout = String::from_utf8_lossy(&stdout);
    assert!(status.success(), "{stdout}");
    assert!(stdout.starts_with("imported 1 entries as stdin (2 refused as protected)"), "{stdout}");
    assert!(stdout.contains("from where somebody is logged in"), "{stdout}");
    assert!(stdout.contains("192.0.2.200 is on the allowlist"), "{stdout}");
    let mut operator = Caller::operator(&daemon);
    assert!(!operator.is_banned("ip=192.0.2.7")? && operator.is_banned("ip=192.0.2.6")?);
    Ok(())
}

#[test]
fn what_finds_no_room_ends_with_1() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = daemon_without_kernel(json!({ "network": { "max_bans": 2 } }))?;
    let (_folder, path) = list("192.0.2.1\n192.0.2.2\n192.0.2.3\n")?;
    let finished = daemon.ctl(&["import", &path])?;
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert!(finished.stdout.starts_with("imported 2 entries"), "{finished:?}");
    assert!(finished.stderr.contains("1 entries found no room"), "{finished:?}");
    Ok(())
}

#[test]
fn a_file_that_is_not_there_is_named() -> Result<()> {
    let absent = Path::new("/nonexistent/list.txt");
    let mut command = process::command(binary("moderationctl")?);
    let Output { status, stderr, .. } = command.arg("import").arg(absent).output()?;
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(66), "{stderr}");
    assert!(stderr.contains("cannot read /nonexistent/list.txt"), "{stderr}");
    Ok(())
}
