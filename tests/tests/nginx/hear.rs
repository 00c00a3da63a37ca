//! What became of requests: nginx's access log is heard, believed for what it says about
//! requests that were asked about, and for nothing else.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moderation_tests::nginx::Gone;
use moderation_tests::outsider::Outsider;
use moderation_tests::wait;
use serde_json::{Value, json};

use super::{Site, site};

/// With a line on its way, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two wrong passwords a minute are no violation, one more is, and bans.
fn listening(patience: &str) -> Value {
    json!({
        "custom": {
            "events": {
                "app_request": { "limits": [], "browser": true },
                "wrong_password": { "limits": ["wrong_password"] },
            },
            "limits": {
                "wrong_password": {
                    "by": "address", "max": 2, "window": "1m", "violation": "logins", "score": 20,
                },
            },
        },
        "nginx": {
            "outcomes": [
                { "after": "login", "status": [401, "5xx"], "counts": "wrong_password" },
            ],
            "log_patience": patience,
        },
    })
}

impl Site {
    fn await_metric(&self, line: &str) -> Result<()> {
        wait::until(line, PATIENCE, || Ok(self.metric(line)?.then_some(())))
    }
}

#[test]
fn wrong_passwords_are_counted_and_right_ones_are_not() -> Result<()> {
    let Some(mut site) = site(listening("15m"), Gone::Pass)? else { return Ok(()) };
    for target in ["/api/auth/login?right", "/api/auth/login?wrong", "/api/auth/login?wrong"] {
        let answer = site.post(target)?;
        ensure!(answer.status == if target.ends_with("wrong") { 401 } else { 200 }, "{answer:?}");
        // What says nothing about passwords is not logged to us.
        assert!(site.ask("GET", "/?wrong", &[])?.status == 401);
    }
    site.await_metric("moderation_nginx_log_lines_total 3")?;
    site.await_metric("moderation_nginx_log_events_total 2")?;
    assert!(site.ask("GET", "/", &[])?.is_apps(), "two are allowed");
    assert_eq!(site.post("/api/auth/login?wrong")?.status, 401, "it was no violation before");
    wait::until("a ban", PATIENCE, || {
        Ok((!site.operator.bans("all=true")?.is_empty()).then_some(()))
    })?;
    let answer = site.ask("GET", "/", &[])?;
    assert_eq!((answer.status, &answer.json()["type"]), (403, &json!("ban")), "{answer:?}");
    assert!(site.metric("moderation_nginx_log_unknown_total 0")?);
    assert!(site.metric("moderation_nginx_log_lost_total 0")?);
    assert!(site.nginx.access_log().contains("/?wrong"), "the operator's own log goes on");
    Ok(())
}

#[test]
fn no_client_can_write_a_line_about_somebody_else() -> Result<()> {
    let Some(site) = site(listening("15m"), Gone::Pass)? else { return Ok(()) };
    let forged: [&[u8]; 4] = [
        b"/api/auth/login?right=\",\"status\":\"401\",\"id\":\"",
        b"/api/auth/login?right=\\\",\"status\":\"401\"}",
        b"/api/auth/login?right=\xff\",\"status\":\"401",
        b"/api/auth/login?right=\xc2\"}<190>moderation:{\"v\":1,\"status\":\"401\"",
    ];
    for target in forged {
        let answer = site.ask_at(moderation_tests::nginx::PORT, "POST", target, &[])?;
        // The app itself takes some of them for none of HTTP.
        ensure!(matches!(answer.status, 200 | 400), "{answer:?}");
    }
    site.await_metric("moderation_nginx_log_lines_total 4")?;
    assert!(site.metric("moderation_nginx_log_events_total 0")?);
    assert!(!site.daemon.log().contains("not heeded"), "{}", site.daemon.log());
    Ok(())
}

#[test]
fn a_request_without_a_line_is_lost_and_said_to_be() -> Result<()> {
    let Some(site) = site(listening("1s"), Gone::Pass)? else { return Ok(()) };
    // Nobody hears that line: the socket is another one's for a moment.
    let path = site.daemon.nginx_log_socket();
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside)?;
    assert_eq!(site.post("/api/auth/login?wrong")?.status, 401);
    site.await_metric("moderation_nginx_log_lost_total 1")?;
    std::fs::rename(&aside, &path)?;
    assert_eq!(site.post("/api/auth/login?wrong")?.status, 401);
    site.await_metric("moderation_nginx_log_events_total 1")?;
    site.await_metric("moderation_nginx_log_pending 0")
}

#[test]
fn a_daemon_that_was_restarted_hears_again() -> Result<()> {
    let Some(mut site) = site(listening("15m"), Gone::Pass)? else { return Ok(()) };
    assert_eq!(site.post("/api/auth/login?wrong")?.status, 401);
    site.await_metric("moderation_nginx_log_events_total 1")?;
    site.daemon.kill()?;
    site.daemon.start()?;
    // The first line of each worker finds out that the socket is another one.
    wait::until("a line", PATIENCE, || {
        site.post("/api/auth/login?right")?;
        let none = site.metric("moderation_nginx_log_lines_total 0")?;
        Ok((!none).then_some(()))
    })
}

#[test]
fn lines_of_strangers_are_not_heeded() -> Result<()> {
    let Some(site) = site(listening("15m"), Gone::Pass)? else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    socket.connect(site.daemon.nginx_log_socket())?;
    // Root may, whatever it says; nobody is asked to know of this request.
    let line = |id: &str| {
        format!(
            "<190>Nov 22 02:21:38 moderation: {{\"v\":1,\"id\":\"{id}\",\"status\":\"401\",\
             \"upstream\":\"401\",\"done\":\"OK\",\"time\":\"0.001\",\"method\":\"POST\",\
             \"uri\":\"/api/auth/login\",\"address\":\"192.0.2.7\"}}"
        )
    };
    socket.send(line(&"0".repeat(32)).as_bytes())?;
    site.await_metric("moderation_nginx_log_unknown_total 1")?;
    socket.send(b"nothing")?;
    site.await_metric("moderation_nginx_log_refused_total{reason=\"no_object\"} 1")?;
    socket.send(line("x").replace("\"v\":1", "\"v\":2").as_bytes())?;
    site.await_metric("moderation_nginx_log_refused_total{reason=\"other_format\"} 1")?;
    // Somebody who can open the socket though he is not of its group.
    let path = site.daemon.nginx_log_socket();
    std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    std::fs::set_permissions(site.daemon.sockets(), Permissions::from_mode(0o755))?;
    let told = Outsider::new(65_534, 65_534)?.tell(&path, &line(&"0".repeat(32)))?;
    assert_eq!(told["tell"], None, "the socket is open to all now");
    site.await_metric("moderation_nginx_log_refused_total{reason=\"foreign\"} 1")
}

#[test]
fn a_doctor_says_whether_nginx_asks_and_how_many_of_its_lines_find_room() -> Result<()> {
    let Some(site) = site(listening("1s"), Gone::Pass)? else { return Ok(()) };
    let doctor = || -> Result<BTreeMap<String, (String, String)>> {
        let told: Value = serde_json::from_str(&site.daemon.ctl(&["--json", "doctor"])?.stdout)?;
        let sections = told["sections"].as_array().context("sections")?;
        let nginx = sections.iter().find(|it| it["name"] == "nginx").context("a section")?;
        let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        let findings = nginx["findings"].as_array().into_iter().flatten();
        let found =
            findings.map(|it| (text(&it["check"]), (text(&it["grade"]), text(&it["text"]))));
        Ok(found.collect())
    };
    let before = doctor()?;
    assert_eq!(before["questions"].0, "warning", "{before:?}");
    let length = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen")?;
    assert!(before["queue"].1.contains(length.trim()), "{before:?}");
    assert_eq!(before["log"], ("ok".to_owned(), "0 lines were read, none was lost".to_owned()));
    let path = site.daemon.nginx_log_socket();
    std::fs::rename(&path, path.with_extension("aside"))?;
    assert_eq!(site.post("/api/auth/login?wrong")?.status, 401);
    site.await_metric("moderation_nginx_log_lost_total 1")?;
    let after = doctor()?;
    assert_eq!((after["questions"].0.as_str(), after["log"].0.as_str()), ("ok", "warning"));
    Ok(())
}
