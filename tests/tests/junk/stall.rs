//! Connections that are kept and not used: there are only so many places, who
//! finds none is told so, and nobody keeps one for long.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::daemon::Daemon;
use moderation_tests::need;
use moderation_tests::wait;
use moderation_tests::wire::{Wire, request};
use serde_json::{Value, json};

const PLACES: usize = 16;
/// Longer than the daemon's patience with a head (10 s).
const PATIENCE: Duration = Duration::from_secs(25);

fn daemon() -> Result<Option<Daemon>> {
    if !need::root() {
        return Ok(None);
    }
    let places = json!({ "api": { "max_connections": PLACES } });
    daemon_without_kernel(places).map(Some)
}

/// Takes every place with clients that say this and no more.
fn fill(daemon: &Daemon, words: &[u8]) -> Result<Vec<Wire>> {
    let wires = (0..PLACES).map(|_| {
        let mut wire = Wire::open(&daemon.api_socket())?.patience(PATIENCE)?;
        wire.send(words)?;
        Ok(wire)
    });
    wires.collect()
}

fn knock(daemon: &Daemon) -> Result<(u16, Option<String>)> {
    let answer = Wire::ask(&daemon.api_socket(), request("GET", "/healthz", ""))?;
    ensure!(answer.status == 200 || answer.retry_after.is_some(), "{answer:?}");
    Ok((answer.status, answer.problem()))
}

/// Everyone who comes meanwhile is told so at once; operators, on their own
/// socket, are not concerned.
fn others_are_turned_away_and_then_served(daemon: &Daemon) -> Result<()> {
    let full = (503, Some("too-many-connections".to_owned()));
    // The daemon may be about to accept the last of those who fill it.
    wait::until("the places to be taken", PATIENCE, || Ok((knock(daemon)? == full).then_some(())))?;
    for _ in 0..3 {
        assert_eq!(knock(daemon)?, full);
        let client = Caller::app(daemon).refused("GET", "/healthz", &Value::Null)?;
        assert_eq!(client, (503, "too-many-connections".to_owned()), "moderationctl's client");
        Caller::operator(daemon).get("/v1/status")?;
    }
    wait::until("a place to be free", PATIENCE, || Ok((knock(daemon)?.0 == 200).then_some(())))
}

#[test]
fn half_requests_keep_their_places_for_a_while_and_no_longer() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let mut wires = fill(&daemon, b"POST /v1/events HTTP/1.1\r\nx-slow: ")?;
    others_are_turned_away_and_then_served(&daemon)?;
    for wire in &mut wires {
        let answer = wire.answer()?.context("an answer")?;
        assert_eq!(answer.problem().as_deref(), Some("slow-client"));
    }
    Ok(())
}

#[test]
fn silent_clients_keep_their_places_for_a_while_and_no_longer() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let mut wires = fill(&daemon, b"")?;
    others_are_turned_away_and_then_served(&daemon)?;
    assert!(wires.iter_mut().all(|wire| matches!(wire.answer(), Ok(None))), "no word to the idle");
    Ok(())
}

#[test]
fn clients_that_do_not_read_keep_their_places_for_a_while_and_no_longer() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let words = request("GET", "/healthz", "");
    let wires = fill(&daemon, b"")?;
    // As much as goes in: the daemon stops reading when it cannot write.
    let mut stuck = Vec::new();
    for wire in wires {
        let mut wire = wire.patience(Duration::from_millis(50))?;
        wait::until("the pipe to be full", PATIENCE, || {
            Ok(wire.send(words.repeat(100)).is_err().then_some(()))
        })?;
        stuck.push(wire);
    }
    others_are_turned_away_and_then_served(&daemon)?;
    drop(stuck);
    Ok(())
}
