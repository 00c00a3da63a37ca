//! `moderationctl explain` from end to end: what happened is told by the daemon that saw
//! it, and by the next one.

use anyhow::Result;
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::daemon::Daemon;
use moderation_tests::need;
use serde_json::{Value, json};

fn explain(daemon: &Daemon, subject: &str) -> Result<String> {
    daemon.ctl(&["explain", subject])?.success()
}

#[test]
fn a_ban_is_explained_with_each_violation_that_led_there_and_so_is_its_end() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = daemon_without_kernel(Value::Null)?;
    assert_eq!(
        explain(&daemon, "anna")?,
        "user anna is not banned.\n  Nothing is recorded about it.\n"
    );
    let mut app = Caller::app(&daemon);
    for points in [7, 6, 8] {
        let body = json!({ "type": "logins", "user": "anna", "ip": "192.0.2.7", "score": points });
        app.post("/v1/violations", &body)?;
    }
    for told in [explain(&daemon, "anna")?, explain(&daemon, "#1")?] {
        assert!(told.contains(" is banned until "), "{told}");
        assert!(told.contains("the score of logins went from 13 to 21"), "{told}");
        assert!(told.contains("3 violations led to it"), "{told}");
        for line in ["7 points, 0 → 7", "6 points, 7 → 13", "8 points, 13 → 21"] {
            assert!(told.contains(line), "{line} is missing from {told}");
        }
        assert!(told.contains("; ban 1 fell"), "{told}");
        assert!(told.contains("In all: 3 logins (21 points)."), "{told}");
    }
    let at_address = explain(&daemon, "192.0.2.7")?;
    assert!(at_address.contains("13 → 21, by anna"), "{at_address}");

    daemon.ctl(&["lift", "user:anna"])?.success()?;
    daemon.kill()?;
    daemon.start()?;
    let told = explain(&daemon, "anna")?;
    assert!(told.starts_with("user anna is not banned."), "{told}");
    assert!(told.contains("Ban 1 of user anna and 192.0.2.7"), "{told}");
    assert!(told.contains("was lifted by root at"), "{told}");
    assert!(told.contains("8 points, 13 → 21"), "{told}");
    assert!(explain(&daemon, "#99").is_err(), "there is no such ban");
    Ok(())
}

#[test]
fn pseudonyms_without_a_key_are_refused_at_the_start() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let error = daemon_without_kernel(json!({ "log": { "pseudonyms": true } }))
        .expect_err("there is no credential");
    let error = format!("{error:#}");
    assert!(error.contains("log.pseudonyms needs the credential pseudonym-key"), "{error}");
    Ok(())
}
