//! The daemon killed, back, and unable to write.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use moderation_tests::lab::{CLIENT_V4, HOST_V4};
use moderation_tests::nginx::{Gone, PORT};
use moderation_tests::wait;
use moderation_tests::wire::Wire;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::site;

/// nginx leaves a daemon alone for five seconds.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn while_the_daemon_is_gone_requests_pass_and_when_it_is_back_they_are_judged() -> Result<()> {
    let Some(mut site) = site(Value::Null, Gone::Pass)? else { return Ok(()) };
    site.operator.ban(&json!({ "ip": CLIENT_V4 }))?;
    assert_eq!(site.ask("GET", "/", &[])?.status, 403);
    site.daemon.kill()?;
    for number in 0..100 {
        let answer = site.post("/api/auth/login")?;
        assert!(answer.is_apps(), "{number}: {answer:?}");
    }
    let log = site.nginx.log();
    let lines = log.lines().filter(|line| line.contains("connect() to unix:")).count();
    // One in five seconds, however many requests.
    assert!((1..=10).contains(&lines), "{lines} lines: {log}");
    site.daemon.start()?;
    wait::until("nginx to ask again", PATIENCE, || {
        Ok((site.ask("GET", "/", &[])?.status == 403).then_some(()))
    })?;
    Ok(())
}

#[test]
fn one_line_keeps_everybody_out_while_the_daemon_is_gone() -> Result<()> {
    let Some(mut site) = site(Value::Null, Gone::Refuse)? else { return Ok(()) };
    assert!(site.ask("GET", "/", &[])?.is_apps());
    site.daemon.kill()?;
    for _ in 0..3 {
        let answer = site.ask("GET", "/", &[])?;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("10")), "{answer:?}");
    }
    Ok(())
}

/// As an operator with `sqlite3` who forgot to end a transaction.
fn lock(site: &crate::Site) -> Result<Connection> {
    let connection = Connection::open(site.daemon.store_path())?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    Ok(connection)
}

#[test]
fn when_nothing_can_be_decided_the_banned_are_denied_and_others_are_what_the_operator_says()
-> Result<()> {
    for (wish, status) in [("pass", 200), ("deny", 503)] {
        let overrides = json!({
            "nginx": { "when_overloaded": wish, "user": { "from": "nowhere" } },
            "limits": { "login": { "max": 1 } },
        });
        let Some(mut site) = site(overrides, Gone::Pass)? else { return Ok(()) };
        assert!(site.post("/api/auth/login")?.is_apps());
        let locked = lock(&site)?;
        // One too many, which the store is to write down.
        let begin = Instant::now();
        let answer = site.post("/api/auth/login")?;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(begin.elapsed() < Duration::from_secs(3), "nginx gave up: {:?}", begin.elapsed());
        drop(locked);
        wait::until("the store to write again", PATIENCE, || {
            Ok(site.operator.ban(&json!({ "ip": CLIENT_V4 })).ok())
        })?;
        let locked = lock(&site)?;
        assert_eq!(site.post("/api/auth/login")?.status, 403);
        assert_eq!(site.ask("GET", "/", &[])?.status, 403);
        drop(locked);
        assert!(!site.nginx.log().contains("timed out"), "{}", site.nginx.log());
    }
    Ok(())
}

#[test]
fn those_who_wait_for_a_decision_leave_room_for_those_who_are_banned() -> Result<()> {
    let overrides = json!({
        "nginx": { "max_connections": 16, "user": { "from": "nowhere" } },
        "limits": { "login": { "max": 1 }, "registration": { "max": 1 } },
        // Else the repeats of one address would be nothing to write down.
        "scoring": { "repeats": null },
    });
    let Some(mut site) = site(overrides, Gone::Pass)? else { return Ok(()) };
    assert!(site.post("/api/auth/login")?.is_apps());
    assert!(site.look_from_the_host()?.is_apps());
    site.operator.ban(&json!({ "ip": HOST_V4 }))?;
    let (site, locked) = (&site, lock(&site)?);
    let crowded = "moderation_nginx_undecided_total{reason=\"crowded\"}";
    thread::scope(|scope| {
        let asking: Vec<_> =
            (0..12).map(|_| scope.spawn(|| site.post("/api/auth/login"))).collect();
        wait::until("so many to wait that others need not", PATIENCE, || {
            let metrics = site.daemon.admin().get("/metrics")?.body;
            Ok(metrics.as_str().unwrap_or_default().contains(crowded).then_some(()))
        })?;
        let begin = Instant::now();
        assert_eq!(site.look_from_the_host()?.status, 403);
        assert!(begin.elapsed() < Duration::from_millis(800), "{:?}", begin.elapsed());
        for one in asking {
            let answer = one.join().map_err(|_| anyhow!("it panicked"))??;
            assert!(answer.is_apps(), "{answer:?}");
        }
        Ok::<_, anyhow::Error>(())
    })?;
    drop(locked);
    assert!(!site.nginx.log().contains("timed out"), "{}", site.nginx.log());
    Ok(())
}

#[test]
fn whoever_restarts_in_whatever_order_no_request_fails() -> Result<()> {
    let overrides = json!({ "limits": { "message_ip": { "max": 1_000_000 } } });
    let Some(mut site) = site(overrides, Gone::Pass)? else { return Ok(()) };
    let is_over = AtomicBool::new(false);
    let crate::Site { nginx, daemon, pair, .. } = &mut site;
    thread::scope(|scope| {
        let pair = &*pair;
        let asking: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let at = (CLIENT_V4, PORT);
                        let answer = crate::request(pair, at, "POST", b"/api/agents/chat", &[])?;
                        ensure!(answer.is_apps(), "{answer:?}");
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        let mut restart = || {
            daemon.restart()?;
            nginx.reload()?;
            daemon.kill()?;
            nginx.reload()?;
            daemon.start()?;
            nginx.reload()?;
            daemon.restart()
        };
        let restarted = restart();
        is_over.store(true, Ordering::Relaxed);
        for one in asking {
            let count: u64 = one.join().map_err(|_| anyhow!("it panicked"))??;
            ensure!(count > 0, "nobody asked");
        }
        restarted
    })?;
    let log = site.nginx.log();
    assert!(!log.contains("[alert]") && !log.contains("unexpected status"), "{log}");
    Ok(())
}

#[test]
fn a_daemon_that_takes_no_more_connections_is_as_good_as_gone() -> Result<()> {
    for (gone, status) in [(Gone::Pass, 200), (Gone::Refuse, 503)] {
        let overrides = json!({ "nginx": { "max_connections": 1 } });
        let Some(site) = site(overrides, gone)? else { return Ok(()) };
        let mut held = Wire::open(&site.daemon.nginx_socket())?;
        held.send("GET /v1/nginx/auth HTTP/1.1\r\nhost: moderation\r\n")?;
        let full = "reason=\"too-many-connections\"";
        let is_full = || -> Result<bool> {
            let metrics = site.daemon.admin().get("/metrics")?.body;
            Ok(metrics.as_str().unwrap_or_default().contains(full))
        };
        // The only place is taken once the daemon has seen that somebody wants it.
        wait::until("somebody to find no place", PATIENCE, || {
            let answer = site.ask("GET", "/", &[])?;
            ensure!([200, status].contains(&answer.status), "{answer:?}");
            Ok(is_full()?.then_some(()))
        })?;
        let answer = site.ask("GET", "/", &[])?;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(!site.nginx.log().contains("unexpected status"), "{}", site.nginx.log());
    }
    Ok(())
}
