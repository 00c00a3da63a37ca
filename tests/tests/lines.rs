//! What the kernel programs have to say is in the log of a daemon without
//! privileges, and little of it however often it happens.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aya::util::online_cpus;
use moderation_common::map::{LINES, OVERRUN_BYTES, TOLD};
use moderation_common::{Alarm, Overrun};
use moderation_daemon::network::alarms;
use moderation_tests::chat;
use moderation_tests::lab::{HOST_V4, INTERFACE};
use moderation_tests::scene::Scene;
use moderation_tests::{need, wait};
use serde_json::{Value, json};

/// For what happens sooner or later.
const LONG: Duration = Duration::from_secs(20);

/// Connection attempts that are not too many, and sources that can be counted
/// exactly.
const LIMIT: usize = 10;
const TABLE: u8 = 16;
/// So many more have no place.
const MORE: u8 = 8;

fn source(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 128 + number)
}

/// A daemon whose program has a small table, and a client with many addresses;
/// `None` if the test is to be skipped.
fn scene() -> Result<Option<Scene>> {
    if !need::root() {
        return Ok(None);
    }
    let syn = json!({ "limit": LIMIT, "window": "10m", "table": TABLE });
    let scene = Scene::new(json!({ "network": { "syn": syn } }))?;
    let add = |number| format!("address add {}/24 dev {INTERFACE}", source(number));
    scene.pair.client.configure(&(0..TABLE + MORE).map(add).collect::<Vec<_>>())?;
    Ok(Some(scene))
}

/// Each source asks for too many connections.
fn flood(scene: &Scene) -> Result<()> {
    (0..TABLE + MORE).try_for_each(|number| scene.visitor(source(number)).knock(3 * LIMIT))
}

/// How often there was no place.
fn surplus(scene: &Scene) -> Result<u64> {
    let all = alarms(&scene.pins())?;
    let found = all.into_iter().find(|(alarm, _)| *alarm == Alarm::HeavyFull);
    found.map(|(_, count)| count).context("there is no such alarm")
}

/// The lines about it.
fn told(scene: &Scene) -> Vec<String> {
    let log = scene.daemon.log();
    let lines = log.lines().filter(|line| line.contains("the exact table is full"));
    lines.map(str::to_owned).collect()
}

fn await_told(scene: &Scene) -> Result<Vec<String>> {
    let found = wait::until("a line of the program's", LONG, || {
        let told = told(scene);
        Ok((!told.is_empty()).then_some(told))
    });
    found.with_context(|| scene.daemon.log())
}

#[test]
fn a_table_that_is_full_is_told_at_once_and_a_flood_of_it_in_few_lines() -> Result<()> {
    let Some(scene) = scene()? else { return Ok(()) };
    flood(&scene)?;
    let line = await_told(&scene)?.remove(0);
    for part in ["WARN", "program=\"moderation\"", "network.syn.table"] {
        assert!(line.contains(part), "no {part}: {line}");
    }
    for _ in 0..9 {
        flood(&scene)?;
    }
    assert!(surplus(&scene)? > 1_000, "{}", surplus(&scene)?);
    let cpus = online_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?.len();
    let lines = told(&scene);
    assert!(lines.len() <= cpus, "{lines:#?}");
    wait::until("no other line", LONG, || {
        let written = scene.metric("moderation_kernel_log_lines_total")?;
        Ok((written == u64::try_from(told(&scene).len())?).then_some(()))
    })?;
    assert_eq!(scene.metric("moderation_kernel_log_lines_suppressed_total")?, 0);
    Ok(())
}

#[test]
fn what_a_program_says_while_no_daemon_runs_is_told_when_one_comes() -> Result<()> {
    let Some(mut scene) = scene()? else { return Ok(()) };
    scene.daemon.stop()?;
    flood(&scene)?;
    assert!(surplus(&scene)? > 0);
    assert_eq!(told(&scene), [""; 0]);
    scene.daemon.start()?;
    await_told(&scene).map(drop)
}

#[test]
fn the_program_that_counts_handshakes_tells_that_its_ring_is_full() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let Some(mut scene) = Scene::counting(1, &json!({ "enabled": false }))? else { return Ok(()) };
    scene.daemon.stop()?;
    // Each record has eight bytes in front of it.
    let fit = OVERRUN_BYTES as usize / (size_of::<Overrun>() + 8);
    let server = SocketAddr::new(HOST_V4.into(), chat::PORT);
    let connect = || Ok((0..fit + 100).try_for_each(|_| TcpStream::connect(server).map(drop))?);
    scene.pair.client.run(connect)?;
    scene.daemon.start()?;
    wait::until("a line of the program's", LONG, || {
        let log = scene.daemon.log();
        let mut lines = log.lines().filter(|line| line.contains("finds its ring full"));
        Ok(lines.any(|line| line.contains("program=\"handshakes\"")).then_some(()))
    })
}

/// As a loader of an earlier version leaves them.
#[test]
fn pins_without_the_ring_of_lines_get_it_by_the_next_loader_under_a_running_daemon() -> Result<()> {
    let Some(mut scene) = scene()? else { return Ok(()) };
    scene.daemon.stop()?;
    for map in [LINES, TOLD] {
        fs::remove_file(scene.pins().map(map))?;
    }
    scene.daemon.start()?;
    scene.ban("198.51.100.7")?;
    let status = scene.daemon.status()?;
    assert_eq!(status["network"]["problem"], Value::Null, "{status}");
    flood(&scene)?;

    scene.daemon.ctl(&["xdp", "attach", "--interface", INTERFACE])?.success()?;
    assert_eq!(told(&scene), [""; 0], "of that ring nobody knew");
    flood(&scene)?;
    await_told(&scene)?;
    assert!(!scene.daemon.log().contains("panicked"), "{}", scene.daemon.log());
    Ok(())
}
