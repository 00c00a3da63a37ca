//! A million documents at once, none of them a host's: what they may cost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::Daemon;
use moderation_tests::{need, wait};
use mongodb::bson::{Document, doc};
use serde_json::json;

use super::{LOGS, Mongod, ban, is_banned, of_librechat};

/// What a decision may take on a machine that is busy with the flood as well.
const BOUND: Duration = Duration::from_secs(1);
/// More than a host takes on top of what it takes anyway would be no bound.
const MOST_MEGABYTES: u64 = 400;
/// With a comparison of a million documents.
const PATIENCE: Duration = Duration::from_secs(300);
/// Foreign documents that are heeded, as in the default configuration.
const HEEDED: u64 = 10_000;
const HOUR: Duration = Duration::from_secs(3_600);

/// One of six kinds.
fn hostile(number: usize) -> Document {
    let mut document = of_librechat(&format!("BANS:flood{number}"), HOUR);
    match number % 6 {
        // LibreChat could have written it.
        0 => {}
        // All under one key.
        1 => drop(document.insert("key", "BANS:127.0.0.1")),
        2 => drop(document.insert("value", "{\"value\":")),
        3 => drop(document.insert("key", format!("LIFTS:{number:032x}"))),
        4 => document.extend(doc! { "type": "ban", "uid": "f".repeat(32), "host": "alpha" }),
        _ => drop(document.insert("key", format!("ban:flood{number}"))),
    }
    document
}

/// Asks for decisions until it is stopped; the slowest, and how many there were.
fn ask(daemon: &Daemon, stop: &AtomicBool) -> Result<(Duration, usize)> {
    let mut app = Caller::app(daemon);
    let (mut slowest, mut count) = (Duration::ZERO, 0);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let decision = app.event("message", &json!({ "user": format!("visitor{count}") }))?;
        ensure!(decision["decision"] == "allow", "{decision}");
        slowest = slowest.max(begun.elapsed());
        count += 1;
        thread::sleep(Duration::from_millis(2)); // paces: the flood is what is to be felt
    }
    Ok((slowest, count))
}

/// The most memory that it ever had, in megabytes (`proc_pid_status(5)`).
fn peak_megabytes(daemon: &Daemon) -> Result<u64> {
    let pid = daemon.pid().context("it runs")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1_024)
}

fn withstand(mongod: &Mongod, count: usize) -> Result<()> {
    let base = mongod.base()?;
    let mut alpha = mongod.host("alpha", json!({}))?;
    let mut report = BTreeMap::new();
    let over = AtomicBool::new(false);
    let (flooded, asked) = thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&alpha, &over));
        let mut flood = || -> Result<()> {
            let begun = Instant::now();
            base.insert(LOGS, (0..count).map(hostile))?;
            report.insert("inserted", begun.elapsed());
            let begun = Instant::now();
            ban(&alpha, &json!({ "user": "last" }))?;
            wait::until("a ban to be told", PATIENCE, || {
                let found = base.find(LOGS, doc! { "_id": "BANS:last" })?;
                Ok((!found.is_empty()).then_some(()))
            })?;
            report.insert("told", begun.elapsed());
            Ok(())
        };
        let flooded = flood();
        over.store(true, Ordering::Relaxed);
        (flooded, asking.join())
    });
    flooded?;
    let (slowest, decisions) = asked.map_err(|_| anyhow!("who asks panicked"))??;
    let while_it_ran = peak_megabytes(&alpha)?;
    let begun = Instant::now();
    alpha.restart()?;
    wait::until("all to be compared", PATIENCE, || {
        let state = &alpha.status()?["sharing"]["state"];
        Ok((state == "following" || state == "polling").then_some(()))
    })?;
    report.insert("compared", begun.elapsed());
    ensure!(is_banned(&alpha, "user=last")? && !is_banned(&alpha, "ip=127.0.0.1")?);
    let peaks = [while_it_ran, peak_megabytes(&alpha)?];
    println!(
        "{count} documents {}: {report:?}; {decisions} decisions, the slowest {slowest:?}; \
         peaks {peaks:?} MB",
        mongod.kind()
    );
    ensure!(slowest < BOUND, "a decision took {slowest:?}");
    ensure!(peaks.iter().all(|it| *it < MOST_MEGABYTES), "{peaks:?} MB");
    let active = alpha.status()?["bans"]["active"].as_u64();
    ensure!(active.is_some_and(|it| it <= HEEDED + 1), "{active:?} bans hold");
    Ok(())
}

#[test]
fn a_million_hostile_documents_at_once_stop_nothing() -> Result<()> {
    let count = if need::is_long() { 1_000_000 } else { 15_000 };
    Mongod::each(|mongod| withstand(mongod, count))
}
