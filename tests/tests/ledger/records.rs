//! Records of violations in the shared database, for people.

use anyhow::{Context, Result, ensure};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::Daemon;
use moderation_tests::mongod::Base;
use moderation_tests::wait;
use mongodb::bson::{Document, doc};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Mongod, PATIENCE, await_metric, await_told, ban, host, metric};

const RECORDS: &str = "moderation_violations";
const WAITING: &str = "moderation_ledger_violations_waiting";

fn wanted() -> Value {
    json!({ "mongodb": { "violations": { "enabled": true } } })
}

/// One violation each, by somebody who calls with curl.
fn violate(daemon: &Daemon, users: std::ops::Range<usize>) -> Result<()> {
    for number in users {
        let user = format!("user{number}");
        let ip = format!("203.0.113.{number}");
        let script = json!({ "user": user, "ip": ip, "user_agent": "curl/8" });
        let decision = Caller::app(daemon).event("message", &script)?;
        ensure!(decision["violation"].is_object(), "{decision}");
    }
    Ok(())
}

fn await_records(base: &Base, count: usize) -> Result<Vec<Document>> {
    let what = format!("{count} records");
    let found = wait::until(&what, PATIENCE, || {
        let found = base.find(RECORDS, doc! {})?;
        Ok((found.len() >= count).then_some(found))
    })?;
    ensure!(found.len() == count, "{} records", found.len());
    Ok(found)
}

fn findings(daemon: &Daemon) -> Result<Value> {
    let report: Value = serde_json::from_str(&daemon.ctl(&["--json", "doctor"])?.stdout)?;
    Ok(report)
}

#[test]
fn violations_are_written_once_each_and_people_can_read_them() -> Result<()> {
    Mongod::each(|mongod| {
        let mut alpha = mongod.host("alpha", wanted())?;
        violate(&alpha, 0..3)?;
        let base = mongod.base()?;
        let found = await_records(&base, 3)?;
        let first = found.iter().find(|it| it.get_str("user").is_ok_and(|it| it == "user0"));
        let first = first.context("a record of the first user")?;
        for (name, want) in [("ip", "203.0.113.0"), ("host", "alpha")] {
            ensure!(first.get_str(name)? == want, "{first}");
        }
        ensure!(first.get_str("type").is_ok() && first.get_f64("score")? > 0.0, "{first}");
        ensure!(first.get_datetime("createdAt").is_ok(), "{first}");
        let beta = mongod.host("beta", wanted())?;
        violate(&beta, 3..5)?;
        await_records(&base, 5)?;
        for check in ["violations", "violation indexes"] {
            let finding = super::doctor::finding(&findings(&alpha)?, check)?;
            ensure!(finding["grade"] == "ok", "{finding}");
        }
        // Killed at any moment, and as if what was sent had not been noted.
        alpha.kill()?;
        let store = Connection::open(alpha.store_path())?;
        ensure!(store.execute("DELETE FROM ledger WHERE name = 'violations'", [])? == 1);
        drop(store);
        alpha.start()?;
        violate(&alpha, 5..6)?;
        await_records(&base, 6)?;
        wait::until("all to be noted", PATIENCE, || {
            Ok((metric(&alpha, WAITING)? == 0.0).then_some(()))
        })
    })
}

#[test]
fn nothing_is_written_unless_it_is_wanted() -> Result<()> {
    Mongod::each(|mongod| {
        let alpha = mongod.host("alpha", json!({}))?;
        violate(&alpha, 0..1)?;
        // Told by the same daemon, after a look for records would have been due.
        for number in 0..3 {
            ban(&alpha, &json!({ "user": format!("banned{number}") }))?;
            await_told(&alpha)?;
        }
        ensure!(mongod.base()?.find(RECORDS, doc! {})?.is_empty());
        ensure!(alpha.status()?["sharing"]["violations"].is_null());
        Ok(())
    })
}

#[test]
fn violations_wait_while_the_database_is_gone_and_survive_kill_9() -> Result<()> {
    if !super::is_possible() {
        return Ok(());
    }
    let mut server = moderation_tests::mongod::Server::alone()?;
    let mut alpha = host(&server.uri(), "alpha", wanted())?;
    violate(&alpha, 0..2)?;
    await_records(&server.base()?, 2)?;
    wait::until("all to be noted", PATIENCE, || {
        Ok((metric(&alpha, WAITING)? == 0.0).then_some(()))
    })?;
    server.kill()?;
    violate(&alpha, 2..7)?;
    await_metric(&alpha, WAITING, 5.0)?;
    await_metric(&alpha, "moderation_ledger_violations_age_seconds", 0.1)?;
    ensure!(alpha.status()?["sharing"]["violations"]["waiting"] == 5);
    alpha.kill()?;
    server.resurrect()?;
    alpha.start()?;
    await_records(&server.base()?, 7)?;
    ensure!(metric(&alpha, "moderation_ledger_violations_lost_total")? == 0.0);
    Ok(())
}

#[test]
fn the_database_forgets_violations_after_their_retention_also_after_it_was_changed() -> Result<()> {
    Mongod::each(|mongod| {
        let mut alpha = mongod.host("alpha", wanted())?;
        violate(&alpha, 0..2)?;
        let base = mongod.base()?;
        await_records(&base, 2)?;
        let over = |base: &Base| -> Result<i64> {
            let listed = base.run(doc! { "listIndexes": RECORDS })?;
            let listed = listed.get_document("cursor")?.get_array("firstBatch")?;
            let found = listed.iter().filter_map(|it| it.as_document()?.get("expireAfterSeconds"));
            let mut seconds = found.filter_map(|it| it.as_i64().or(it.as_i32().map(i64::from)));
            seconds.next().context("an index that expires")
        };
        ensure!(over(&base)? == 30 * 24 * 3_600);
        alpha.reconfigure(&json!({ "mongodb": { "violations": { "retention": "1s" } } }))?;
        alpha.restart()?;
        wait::until("records to be forgotten", PATIENCE, || {
            Ok((base.find(RECORDS, doc! {})?.is_empty()).then_some(()))
        })?;
        ensure!(over(&base)? == 1);
        Ok(())
    })
}

#[test]
fn violations_that_cannot_be_written_hold_up_no_ban_and_a_doctor_says_so() -> Result<()> {
    Mongod::each(|mongod| {
        let base = mongod.base()?;
        // Nobody can write into a view.
        base.run(doc! { "create": RECORDS, "viewOn": "something", "pipeline": [] })?;
        let alpha = mongod.host("alpha", wanted())?;
        violate(&alpha, 0..1)?;
        wait::until("a problem", PATIENCE, || {
            Ok(alpha.status()?["sharing"]["violations"]["problem"].is_string().then_some(()))
        })?;
        ban(&alpha, &json!({ "user": "anna" }))?;
        await_told(&alpha)?;
        super::await_documents(&base, &doc! { "key": "BANS:anna" }, 1)?;
        let finding = super::doctor::finding(&findings(&alpha)?, "violations")?;
        ensure!(finding["grade"] == "problem", "{finding}");
        ensure!(alpha.ctl(&["status"])?.success()?.contains("cannot make an index of violations"));
        Ok(())
    })
}
