//! Clients that are slow, break off, or should not be here: each is told so,
//! and nobody else waits meanwhile.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::{Daemon, binary};
use moderation_tests::outsider::Outsider;
use moderation_tests::wire::{Answer, Wire, request};
use serde_json::{Value, json};

use crate::desk;

/// An answer takes less than a millisecond; a second means that somebody
/// waited for somebody else, even on a busy machine.
const PROMPT: Duration = Duration::from_secs(1);

/// Asks as others do while `wires` do what they do, until each has its answer.
fn meanwhile(daemon: &Daemon, wires: &mut [Wire]) -> Result<Vec<Answer>> {
    thread::scope(|scope| {
        let waiting: Vec<_> = wires
            .iter_mut()
            .map(|wire| scope.spawn(|| wire.answer()?.context("closed without an answer")))
            .collect();
        let mut honest = Caller::app(daemon);
        while !waiting.iter().all(ScopedJoinHandle::is_finished) {
            let begin = Instant::now();
            honest.event("message", &json!({ "user": "anna" }))?;
            let took = begin.elapsed();
            assert!(took < PROMPT, "an honest client waited {took:?}");
        }
        waiting.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

#[test]
fn a_client_that_takes_too_long_is_told_so_and_nobody_waits_for_it() -> Result<()> {
    let Some(desk) = desk(Value::Null)? else { return Ok(()) };
    let halves = [
        "P",
        "POST /v1/events HTTP/1.1\r\nhost: moderation\r\nx-part",
        "POST /v1/events HTTP/1.1\r\nhost: moderation\r\ncontent-length: 9\r\n\r\n",
        "POST /v1/events HTTP/1.1\r\nhost: moderation\r\ncontent-length: 9\r\n\r\n{\"typ",
        "POST /v1/bans HTTP/1.1\r\nhost: moderation\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"u",
    ];
    let mut wires = Vec::new();
    for half in halves {
        let is_operators = half.contains("/v1/bans");
        let app = desk.daemon.api_socket();
        let socket = if is_operators { desk.daemon.admin_socket() } else { app };
        let mut wire = Wire::open(&socket)?;
        wire.send(half)?;
        wires.push(wire);
    }
    for (answer, half) in meanwhile(&desk.daemon, &mut wires)?.into_iter().zip(halves) {
        let name = answer.problem();
        assert_eq!((answer.status, name.as_deref()), (408, Some("slow-client")), "{half:?}");
    }
    assert!(wires.iter_mut().all(Wire::drain), "each is hung up on");
    Ok(())
}

#[test]
fn a_request_that_breaks_off_is_incomplete() -> Result<()> {
    let Some(desk) = desk(Value::Null)? else { return Ok(()) };
    let halves = [
        "POST /v1/events HTTP/1.1\r\nhost: moderation\r\ncontent-length: 9\r\n\r\n{\"typ",
        "POST /v1/events HTTP/1.1\r\nhost: moderation\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"",
        "POST /v1/events HTTP/1.1\r\nhost: moderation\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ];
    for half in halves {
        let mut wire = Wire::open(&desk.daemon.api_socket())?;
        wire.send(half)?;
        wire.finish()?;
        let answer = wire.answer()?.context("an answer")?;
        let name = answer.problem();
        assert_eq!((answer.status, name.as_deref()), (400, Some("incomplete-request")), "{half:?}");
    }
    Ok(())
}

#[test]
fn whoever_says_everything_and_closes_their_side_still_gets_the_answer() -> Result<()> {
    let Some(desk) = desk(Value::Null)? else { return Ok(()) };
    let mut wire = Wire::open(&desk.daemon.api_socket())?;
    wire.send(request("POST", "/v1/violations", r#"{"type":"logins","user":"anna"}"#))?;
    wire.finish()?;
    assert_eq!(wire.answer()?.context("an answer")?.json()["score"], 1);
    Ok(())
}

/// What moderationctl says as somebody without any privilege.
fn as_a_stranger(daemon: &Daemon, socket: &Path) -> Result<(Option<i32>, String)> {
    let stranger = Outsider::new(65_534, 65_534)?;
    fs::set_permissions(daemon.config_path(), Permissions::from_mode(0o644))?;
    let mut command = stranger.command(&binary("moderationctl")?)?;
    command.arg("--config").arg(daemon.config_path());
    command.arg("--socket").arg(socket).args(["check", "anna"]).stdin(Stdio::null());
    let output = command.output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn a_stranger_is_refused_even_if_the_socket_is_open_to_everyone() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let socket = desk.daemon.api_socket();
    let folder = socket.parent().context("a folder")?;
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    let (code, said) = as_a_stranger(&desk.daemon, &socket)?;
    assert_eq!(code, Some(69), "the socket's own permissions keep strangers out: {said}");

    fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
    let (code, said) = as_a_stranger(&desk.daemon, &socket)?;
    assert_eq!(code, Some(77), "{said}");
    assert!(said.contains("the peer is not in this socket's group"), "{said}");
    let metrics = desk.operator.get("/metrics")?;
    let counted = r#"moderation_api_problems_total{reason="foreign-peer"} 1"#;
    assert!(metrics.as_str().is_some_and(|text| text.contains(counted)), "{metrics}");
    Ok(())
}
