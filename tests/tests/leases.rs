//! Leases over crashes, of the app and of the daemon: never more than the cap, none that
//! is held is lost, and none is kept for ever.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::daemon::Daemon;
use moderation_tests::{need, wait};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);

/// Without bans, because every vain attempt is a violation.
fn daemon(max: u32, lease: &str) -> Result<Daemon> {
    daemon_without_kernel(json!({
        "concurrency": { "max": max, "lease": lease },
        "bans": { "enabled": false },
    }))
}

fn acquire(app: &mut Caller, user: &str, id: &str) -> Result<Option<u64>> {
    let answer = app.post("/v1/leases", &json!({ "user": user, "id": id }))?;
    let lease = answer["lease"]["id"].as_u64();
    ensure!(lease.is_some() == (answer["decision"] == "allow"), "contradicts itself: {answer}");
    Ok(lease)
}

#[test]
fn an_app_that_crashes_gets_its_places_back_when_their_leases_end() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    const LEASE: Duration = Duration::from_secs(2);
    let daemon = daemon(2, "2s")?;
    let begun = Instant::now();
    let is_early = |since: Instant| since.elapsed() < LEASE;
    // An app that dies says nothing: it closes its connections and comes back with
    // other ids.
    for name in ["before 1", "before 2"] {
        assert!(acquire(&mut Caller::app(&daemon), "anna", name)?.is_some());
    }
    let mut app = Caller::app(&daemon);
    let at_once = acquire(&mut app, "anna", "after 1")?;
    assert!(at_once.is_none() || !is_early(begun), "they may run still");
    let mut next = 1;
    let mut free = || {
        wait::until("the place of a dead one to be free", PATIENCE, || {
            next += 1;
            acquire(&mut app, "anna", &format!("after {next}"))
        })
    };
    free()?;
    assert!(!is_early(begun), "not before it has ended");
    let first = Instant::now();
    free()?;
    let third = acquire(&mut app, "anna", "one more")?;
    assert!(third.is_none() || !is_early(first), "and no more than both");
    Ok(())
}

#[test]
fn a_lease_that_was_given_outlives_kill_9_and_its_retry_gets_the_same_one() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = daemon(2, "10m")?;
    let mut app = Caller::app(&daemon);
    let held = acquire(&mut app, "anna", "one")?.context("there is room")?;
    let given_back = acquire(&mut app, "anna", "two")?.context("there is room")?;
    app.delete(&format!("/v1/leases/{given_back}"))?;
    for life in 0..3 {
        daemon.kill()?;
        daemon.start()?;
        let mut app = Caller::app(&daemon);
        let again = acquire(&mut app, "anna", "one")?;
        assert_eq!(again, Some(held), "in life {life}: the answer was lost, not the lease");
        let renewed = app.put(&format!("/v1/leases/{held}"))?;
        assert_eq!(renewed["lease"]["id"], held);
        let other = acquire(&mut app, "anna", &format!("other {life}"))?.context("one is free")?;
        assert_eq!(acquire(&mut app, "anna", &format!("third {life}"))?, None);
        app.delete(&format!("/v1/leases/{other}"))?;
    }
    let mut app = Caller::app(&daemon);
    app.delete(&format!("/v1/leases/{held}"))?;
    daemon.kill()?;
    daemon.start()?;
    let mut app = Caller::app(&daemon);
    for name in ["new 1", "new 2"] {
        assert!(acquire(&mut app, "anna", name)?.is_some(), "what was given back stays so");
    }
    Ok(())
}

#[test]
fn a_lease_that_nobody_gives_back_ends_although_the_daemon_was_killed() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = daemon(1, "2s")?;
    acquire(&mut Caller::app(&daemon), "anna", "forgotten")?.context("there is room")?;
    daemon.kill()?;
    let begun = Instant::now();
    daemon.start()?;
    let mut app = Caller::app(&daemon);
    let at_once = acquire(&mut app, "anna", "at once")?;
    assert!(at_once.is_none() || begun.elapsed() > Duration::from_secs(2), "it may run still");
    let mut attempt = 0;
    wait::until("the forgotten lease to end", PATIENCE, || {
        attempt += 1;
        acquire(&mut app, "anna", &format!("attempt {attempt}"))
    })?;
    // Nor does the store keep it: the next life begins with the new one alone.
    let path = daemon.store_path();
    wait::until("the store to forget it", PATIENCE, || {
        let store = rusqlite::Connection::open(&path)?;
        let rows: i64 = store.query_row("SELECT count(*) FROM leases", [], |row| row.get(0))?;
        Ok((rows <= 1).then_some(()))
    })
}

/// Many callers at once, and the daemon is killed in between: what was answered with a
/// lease is counted, whoever else asks.
#[test]
fn however_callers_and_crashes_interleave_nobody_holds_more_than_the_cap() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    const CALLERS: usize = 4;
    const LIVES: usize = 4;
    let mut daemon = daemon(3, "10m")?;
    let mut held: Vec<u64> = Vec::new();
    for life in 0..LIVES {
        let given: Vec<Vec<u64>> = thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS)
                .map(|caller| {
                    let mut app = Caller::app(&daemon);
                    scope.spawn(move || {
                        let mut mine = Vec::new();
                        for turn in 0.. {
                            let id = format!("{life} {caller} {turn}");
                            // The daemon is dead.
                            let Ok(answer) = acquire(&mut app, "anna", &id) else { break };
                            mine.extend(answer);
                            // Some are given back; if that has no answer, who knows.
                            if turn % 3 == 2
                                && let Some(lease) = mine.pop()
                                && app.delete(&format!("/v1/leases/{lease}")).is_err()
                            {
                                break;
                            }
                        }
                        mine
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(60)); // paces: the kill comes while all ask
            daemon.kill()?;
            callers.into_iter().map(|it| Ok(it.join().expect("no panic"))).collect::<Result<_>>()
        })?;
        held.extend(given.into_iter().flatten());
        assert!(held.len() <= 3, "in life {life}: {held:?}");
        daemon.start()?;
        let mut app = Caller::app(&daemon);
        for lease in &held {
            let renewed = app.put(&format!("/v1/leases/{lease}"));
            renewed.with_context(|| format!("in life {life} {lease} is lost"))?;
        }
        let mut all = held.clone();
        while let Some(lease) = acquire(&mut app, "anna", &format!("{life} fill {}", all.len()))? {
            all.push(lease);
        }
        // Of those whose answer or whose end was lost, nobody knows: they take their
        // places until they end.
        assert!(all.len() <= 3, "in life {life}: {all:?}");
        for lease in all {
            app.delete(&format!("/v1/leases/{lease}"))?;
        }
        held.clear();
    }
    Ok(())
}
