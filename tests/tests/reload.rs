//! SIGHUP: the daemon begins anew with another configuration, in the same process and on
//! the same sockets; or goes on as before, if that is no good. And what the service
//! manager is told meanwhile.

use std::{
    os::unix::net::UnixDatagram,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use moderation_tests::{
    caller::{Caller, daemon_without_kernel},
    daemon::{Daemon, Setup},
    wait,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

fn hang_up(daemon: &Daemon) -> Result<()> {
    let pid = daemon.pid().context("it runs")?;
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGHUP)?)
}

fn login_max(daemon: &Daemon) -> Result<Value> {
    let config = Caller::operator(daemon).get("/v1/config")?;
    Ok(config["values"]["limits"]["login"]["max"].clone())
}

fn with_max(max: u64) -> Value {
    json!({ "network": { "mode": "off" }, "limits": { "login": { "max": max } } })
}

fn lines(daemon: &Daemon, text: &str) -> usize {
    daemon.log().matches(text).count()
}

#[test]
fn another_configuration_counts_and_what_is_written_down_stays() -> Result<()> {
    let mut daemon = daemon_without_kernel(with_max(7))?;
    let pid = daemon.pid();
    let mut operator = Caller::operator(&daemon);
    operator.ban(&json!({ "user": "kept" }))?;
    Caller::app(&daemon).event("login", &json!({ "ip": "192.0.2.7" }))?;
    assert_eq!(login_max(&daemon)?, 7);

    daemon.reconfigure(&with_max(3))?;
    hang_up(&daemon)?;
    wait::until(
        "the new configuration",
        PATIENCE,
        || Ok((login_max(&daemon)? == 3).then_some(())),
    )?;
    assert_eq!(daemon.pid(), pid);
    assert!(Caller::operator(&daemon).is_banned("user=kept")?);
    // What was counted before counts on.
    let answer = Caller::app(&daemon).event("login", &json!({ "ip": "192.0.2.7" }))?;
    assert_eq!(answer["limits"][0]["remaining"], 1, "{answer}");
    Ok(())
}

#[test]
fn a_configuration_that_is_wrong_changes_nothing() -> Result<()> {
    let mut daemon = daemon_without_kernel(with_max(7))?;
    daemon.reconfigure(&with_max(0))?;
    hang_up(&daemon)?;
    wait::until("what is wrong", PATIENCE, || {
        Ok(daemon.log().contains("not reloaded, all stays as it was").then_some(()))
    })?;
    let log = daemon.log();
    assert!(log.contains("limits.login.max"), "{log}");
    assert_eq!(login_max(&daemon)?, 7);
    assert_eq!(lines(&daemon, "stopping"), 0);
    Ok(())
}

#[test]
fn a_configuration_that_is_right_and_does_not_work_is_taken_back() -> Result<()> {
    let mut daemon = daemon_without_kernel(with_max(7))?;
    let mut broken = with_max(3);
    broken["log"]["pseudonyms"] = json!(true);
    // It needs a credential, which there is not.
    daemon.reconfigure(&broken)?;
    hang_up(&daemon)?;
    wait::until("the way back", PATIENCE, || {
        Ok((lines(&daemon, "going back to the configuration before") == 1
            && lines(&daemon, " ready ") == 2)
            .then_some(()))
    })?;
    assert_eq!(login_max(&daemon)?, 7);
    Ok(())
}

#[test]
fn a_socket_can_move() -> Result<()> {
    let mut daemon = daemon_without_kernel(with_max(7))?;
    let (before, after) = (daemon.api_socket(), daemon.sockets().join("moved.sock"));
    let mut moved = with_max(7);
    moved["api"]["socket"] = json!(after);
    daemon.reconfigure(&moved)?;
    hang_up(&daemon)?;
    wait::until("the other socket", PATIENCE, || Ok(after.exists().then_some(())))?;
    Caller::new(&after).event("login", &json!({ "ip": "192.0.2.7" }))?;
    wait::until("the old one to go", PATIENCE, || Ok((!before.exists()).then_some(())))?;
    Ok(())
}

#[test]
fn nobody_who_asks_meanwhile_is_turned_away() -> Result<()> {
    const RELOADS: usize = 5;
    let mut daemon = daemon_without_kernel(with_max(1_000_000))?;
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (socket, stop, asked) =
                (daemon.api_socket(), Arc::clone(&stop), Arc::clone(&asked));
            thread::spawn(move || -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    Caller::new(&socket).event("login", &json!({ "ip": "192.0.2.7" }))?;
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    for reload in 0..RELOADS {
        let max = 1_000_001 + reload;
        daemon.reconfigure(&with_max(u64::try_from(max)?))?;
        hang_up(&daemon)?;
        wait::until("a reload", PATIENCE, || Ok((login_max(&daemon)? == max).then_some(())))?;
        let before = asked.load(Ordering::Relaxed);
        wait::until("more questions", PATIENCE, || {
            Ok((asked.load(Ordering::Relaxed) > before + 50).then_some(()))
        })?;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("clients do not panic")?;
    }
    ensure!(lines(&daemon, "connections are cut off") == 0, "{}", daemon.log());
    Ok(())
}

#[test]
fn the_service_manager_is_told_how_things_stand() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("notify.sock");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(PATIENCE))?;
    let told = || -> Result<String> {
        let mut text = [0; 4_096];
        let length = manager.recv(&mut text)?;
        Ok(String::from_utf8(text[..length].to_vec())?)
    };
    let until = |wanted: &str| -> Result<String> {
        loop {
            let text = told().with_context(|| format!("waiting for {wanted}"))?;
            if text.lines().any(|line| line == wanted) {
                return Ok(text);
            }
        }
    };
    let mut daemon = Setup::new()
        .overrides(with_max(7))
        .variable("NOTIFY_SOCKET", path.to_str().context("a plain path")?)
        .variable("WATCHDOG_USEC", "400000")
        .start()?;
    until("READY=1")?;
    until("WATCHDOG=1")?;
    until("WATCHDOG=1")?;
    daemon.reconfigure(&with_max(3))?;
    hang_up(&daemon)?;
    let reloading = until("RELOADING=1")?;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    until("READY=1")?;
    daemon.stop()?;
    until("STOPPING=1")?;
    Ok(())
}
