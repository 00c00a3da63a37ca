//! `moderationctl doctor`, and what is never shown.

use anyhow::{Context, Result, ensure};
use moderation_tests::daemon::Setup;
use mongodb::bson::doc;
use serde_json::{Value, json};

use super::{Mongod, PATIENCE, await_told, ban, is_possible};

pub(super) fn finding(report: &Value, check: &str) -> Result<Value> {
    let sections = report["sections"].as_array().context("sections")?;
    let mongodb = sections.iter().find(|it| it["name"] == "mongodb").context("a section")?;
    let all = mongodb["findings"].as_array().context("findings")?;
    Ok(all.iter().find(|it| it["check"] == check).cloned().unwrap_or_default())
}

#[test]
fn a_doctor_finds_all_well_and_an_index_for_every_question() -> Result<()> {
    Mongod::each(|mongod| {
        let alpha = mongod.host("alpha", json!({ "mongodb": { "end_sessions": true } }))?;
        ban(&alpha, &json!({ "user": "anna" }))?;
        await_told(&alpha)?;
        let report: Value = serde_json::from_str(&alpha.ctl(&["--json", "doctor"])?.success()?)?;
        for check in ["outbox", "connection", "rights", "indexes", "clock"] {
            ensure!(finding(&report, check)?["grade"] == "ok", "{check}: {report}");
        }
        let is_set = matches!(mongod, Mongod::Set(_));
        let want = if is_set { "ok" } else { "warning" };
        ensure!(finding(&report, "replica set")?["grade"] == want, "{report}");
        let text = alpha.ctl(&["doctor"])?.success()?;
        ensure!(text.contains("every question has one"), "{text}");
        mongod.base()?.run(doc! { "dropIndexes": "sessions", "index": "moderation_user" })?;
        let finished = alpha.ctl(&["--json", "doctor"])?;
        let report: Value = serde_json::from_str(&finished.stdout)?;
        let text = finding(&report, "indexes")?["text"].to_string();
        ensure!(text.contains("no index answers: sessions of a user"), "{report}");
        Ok(())
    })
}

#[test]
fn a_doctor_says_what_to_do_about_a_database_that_is_gone() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let mut server = moderation_tests::mongod::Server::alone()?;
    let alpha = super::host(&server.uri(), "alpha", json!({}))?;
    server.kill()?;
    ban(&alpha, &json!({ "user": "anna" }))?;
    let report = moderation_tests::wait::until("a problem", PATIENCE, || {
        let finished = alpha.ctl(&["--json", "doctor"])?;
        let report: Value = serde_json::from_str(&finished.stdout)?;
        let is_problem = finding(&report, "connection")?["grade"] == "problem";
        ensure!(!is_problem || finished.status.code() == Some(1), "{:?}", finished.status);
        Ok(is_problem.then_some(report))
    })?;
    let advice = finding(&report, "connection")?["advice"].to_string();
    ensure!(advice.contains("start mongod"), "{advice}");
    let status = alpha.ctl(&["status"])?.success()?;
    ensure!(status.contains("1 wait"), "{status}");
    Ok(())
}

#[test]
fn no_secret_is_ever_shown() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let server = moderation_tests::mongod::Server::alone()?;
    let uri = server.uri().replace("mongodb://", "mongodb://app:hunter2secret@");
    let alpha = Setup::new()
        .overrides(json!({ "mongodb": { "enabled": true }, "network": { "mode": "off" } }))
        .credential("mongo-uri", &uri)
        .credential("ledger-key", "a-key-that-is-secret")
        .start()?;
    moderation_tests::wait::until("a refusal", PATIENCE, || {
        Ok(alpha.status()?["sharing"]["problem"].is_string().then_some(()))
    })?;
    let mut told = alpha.log();
    for arguments in [&["config"][..], &["status"], &["doctor"], &["--json", "config"]] {
        let finished = alpha.ctl(arguments)?;
        told += &finished.stdout;
        told += &finished.stderr;
    }
    ensure!(!told.contains("hunter2") && !told.contains("a-key-that"), "{told}");
    ensure!(told.contains("correct the user and the password"), "{told}");
    Ok(())
}

#[test]
fn the_connection_string_can_be_librechats_own() -> Result<()> {
    Mongod::each(|mongod| {
        let folder = tempfile::tempdir()?;
        let env = folder.path().join(".env");
        std::fs::write(
            &env,
            format!("BAN_VIOLATIONS=true\nMONGO_URI={}\n", mongod.server().uri()),
        )?;
        let overrides = json!({
            "mongodb": { "enabled": true, "host": "alpha" },
            "librechat": { "env_file": env },
            "network": { "mode": "off" },
        });
        let alpha =
            Setup::new().overrides(overrides).credential("ledger-key", super::KEY).start()?;
        super::await_sharing(&alpha)?;
        ban(&alpha, &json!({ "user": "anna" }))?;
        super::await_documents(&mongod.base()?, &doc! { "key": "BANS:anna" }, 1).map(drop)
    })
}

#[test]
fn without_the_shared_key_nothing_starts_and_the_error_says_what_to_do() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let mut daemon = Setup::new()
        .overrides(json!({ "mongodb": { "enabled": true }, "network": { "mode": "off" } }))
        .credential("mongo-uri", "mongodb://127.0.0.1:1/x")
        .prepare()?;
    ensure!(daemon.start().is_err());
    ensure!(daemon.log().contains("LoadCredential=ledger-key:FILE"), "{}", daemon.log());
    Ok(())
}
