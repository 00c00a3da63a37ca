//! What the doctor finds on the host itself, with and without a daemon.

use std::fs;

use anyhow::{Context, Result};
use moderation_tests::caller::daemon_without_kernel;
use moderation_tests::daemon::{Finished, binary};
use moderation_tests::lab::INTERFACE;
use moderation_tests::scene::Scene;
use moderation_tests::{need, process};
use serde_json::{Value, json};

/// The grade, the text and the advice of a check.
fn found(report: &Value, check: &str) -> Result<(String, String, String)> {
    let sections = report["sections"].as_array().context("sections")?;
    let mut all = sections.iter().filter_map(|it| it["findings"].as_array()).flatten();
    let one = all.find(|it| it["check"] == check).with_context(|| format!("{check}: {report}"))?;
    let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
    Ok((text("grade"), text("text"), text("advice")))
}

fn report(finished: &Finished) -> Result<Value> {
    serde_json::from_str(&finished.stdout).with_context(|| format!("{finished:?}"))
}

#[test]
fn without_a_daemon_it_looks_at_the_host_and_says_why_there_is_none() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = daemon_without_kernel(Value::Null)?;
    let finished = daemon.ctl(&["--json", "doctor"])?;
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    let well = report(&finished)?;
    assert_eq!(found(&well, "daemon")?.0, "ok");
    assert_eq!(found(&well, "configuration file")?.0, "ok");
    assert_eq!(found(&well, "kernel filter")?.0, "note", "network.mode is off");
    assert!(["ok", "note", "warning"].contains(&found(&well, "capabilities")?.0.as_str()));

    daemon.stop()?;
    let finished = daemon.ctl(&["--json", "doctor"])?;
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    let gone = report(&finished)?;
    let (grade, text, advice) = found(&gone, "daemon")?;
    assert_eq!(grade, "problem");
    assert!(text.contains("socket") || text.contains("nobody listens"), "{text}");
    assert!(advice.contains("systemctl") || advice.contains("journalctl"), "{advice}");
    for check in ["kernel version", "disk", "clock of this host", "rights of the store"] {
        assert!(!found(&gone, check)?.1.is_empty(), "{check}");
    }
    Ok(())
}

#[test]
fn a_configuration_that_is_wrong_is_a_finding_and_no_reason_to_stop() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("moderation.yaml");
    fs::write(&path, "network: { nonsense: true }\n")?;
    let mut command = process::command(binary("moderationctl")?);
    command.args(["--json", "--config"]).arg(&path);
    command.args(["--socket", "/nonexistent/admin.sock", "doctor"]);
    let output = command.output()?;
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let (grade, text, _) = found(&told, "configuration file")?;
    assert!(grade == "problem" && text.contains("nonsense"), "{text}");
    assert_eq!(found(&told, "daemon")?.1, "there is no socket /nonexistent/admin.sock");
    Ok(())
}

#[test]
fn what_is_on_the_interface_is_told() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::new(json!({ "network": { "interfaces": [INTERFACE] } }))?;
    let program = format!("{INTERFACE}: program");
    let ours = report(&scene.daemon.ctl(&["--json", "doctor"])?)?;
    let (grade, text, _) = found(&ours, &program)?;
    assert!(grade != "problem" && text.starts_with("ours: "), "{grade}: {text}");
    assert_eq!(found(&ours, &format!("{INTERFACE}: driver"))?.1, "veth");
    assert_eq!(found(&ours, &format!("{INTERFACE}: offloads"))?.0, "ok");
    assert_eq!(found(&ours, "bpffs")?.0, "ok");
    assert_eq!(found(&ours, "capabilities")?.0, "ok", "the daemon has none");

    scene.daemon.ctl(&["xdp", "detach", "--interface", INTERFACE])?.success()?;
    let finished = scene.daemon.ctl(&["--json", "doctor"])?;
    let (grade, text, advice) = found(&report(&finished)?, &program)?;
    assert_eq!((grade.as_str(), finished.status.code()), ("problem", Some(1)));
    assert!(text.contains("none is attached") && advice.contains("xdp attach"), "{text} {advice}");

    // Somebody else's: our program by pins that the configuration does not name.
    let folder = scene.daemon.pin_root().with_file_name("others");
    let others = folder.display().to_string();
    let attach = ["xdp", "attach", "--pin-root", &others, "--interface", INTERFACE];
    scene.daemon.ctl(&attach)?.success()?;
    let foreign = report(&scene.daemon.ctl(&["--json", "doctor"])?)?;
    let (grade, text, advice) = found(&foreign, &program)?;
    scene.daemon.ctl(&["xdp", "off", "--pin-root", &others])?.success()?;
    assert_eq!(grade, "problem");
    assert!(text.contains("another program than ours") && advice.contains("xdp off"), "{text}");
    Ok(())
}
