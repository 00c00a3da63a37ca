//! With nothing but nginx in front of the app, an abuser's address ends in the kernel.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moderation_common::Reason;
use moderation_daemon::network::{Counters, Pins};
use moderation_tests::browser::{Body, Browser, credentials};
use moderation_tests::lab::ABUSER_V4;
use moderation_tests::wait;
use serde_json::json;

use super::{Host, farewell, host, visit};

/// With a ban, on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// For an answer that must not come.
const SHORT: Duration = Duration::from_millis(1_200);

/// Whether anything at all comes back; not getting an answer is no error here.
fn is_answered(client: &Browser) -> bool {
    client.with_patience(SHORT).get("/api/config").is_ok()
}

fn dropped(host: &Host) -> Result<u64> {
    Ok(Counters::open(&Pins::new(host.daemon.pin_root()))?.read(Reason::BanV4)?.packets)
}

#[test]
fn the_abuser_s_packets_end_in_the_kernel_and_nobody_else_notices() -> Result<()> {
    let overrides = json!({ "network": { "mode": "auto" }, "scoring": { "repeats": null } });
    let Some(mut host) = host(overrides)? else { return Ok(()) };
    let alice = host.bystander().log_in("alice")?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let visiting = scope.spawn(|| visit(&alice, &is_over));
        let abused = abuse(&mut host);
        is_over.store(true, Ordering::Relaxed);
        farewell(vec![visiting])?;
        abused
    })
}

fn abuse(host: &mut Host) -> Result<()> {
    let abuser = host.abuser();
    // One that is open before the ban, and stays so.
    let mut kept = abuser.with_patience(SHORT).open("GET", "/api/config", &Body::None)?;
    kept.read_exact(&mut [0; 12])?;
    let mut answers = 0;
    // A seventh login is the last that is let through, the twentieth beyond it is a ban;
    // its own answer may be lost with the acknowledgement of the question.
    for _ in 0..7 + 20 {
        let answer = abuser.with_patience(LONG).post("/api/auth/login", &credentials("mallory"));
        answers += u32::from(answer.is_ok());
    }
    ensure!(answers >= 7 + 19, "only {answers} of them were answered");
    let ban = wait::until("the ban to be in force", LONG, || {
        let found = host.operator.get(&format!("/v1/check?ip={ABUSER_V4}"))?["ban"].take();
        Ok((found["enforced"] == true).then_some(found))
    })?;
    ensure!(ban["address"] == ABUSER_V4.to_string(), "{ban}");
    let before = dropped(host)?;
    for number in 1..=3 {
        ensure!(!is_answered(&abuser), "attempt {number} was answered");
    }
    kept.write_all(b"GET /api/config HTTP/1.1\r\nHost: chat.example\r\n\r\n").ok();
    ensure!(dropped(host)? > before, "nothing was dropped");
    // It does not even reach nginx, which had to deny it before.
    let denied = host.metric("moderation_nginx_denied_total")?;
    ensure!(denied >= 19 && !is_answered(&abuser), "{denied} were denied");
    ensure!(denied == host.metric("moderation_nginx_denied_total")?);
    host.operator.delete(&format!("/v1/bans?id={}", ban["id"])).context("lifting it")?;
    wait::until("the abuser to be answered again", LONG, || Ok(is_answered(&abuser).then_some(())))
}
