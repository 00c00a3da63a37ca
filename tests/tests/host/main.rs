//! Where a chat host lives, and what people see of it: behind a CDN, in containers, with
//! nginx as a user of its own; and the page of who is denied, in a browser. Which request
//! is what is tried beside it, in `nginx`.

mod cdn;
mod container;
mod doctor;
mod page;
mod worker;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::front::{self, APP, Front, PORT};
use moderation_tests::lab::{CLIENT_V4, HOST_V4, Pair};
use moderation_tests::visitor::Visitor;
use moderation_tests::{need, wait};
use serde_json::{Value, json};

/// With one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A host that is protected, and somebody who uses it.
struct Host {
    // In this order: nginx asks the daemon, and both are in the namespaces.
    front: Front,
    daemon: Daemon,
    operator: Caller,
    pair: Pair,
}

/// `None` if the machine lacks what it takes.
fn host(overrides: Value, setup: front::Setup<'_>) -> Result<Option<Host>> {
    if !need::root() {
        return Ok(None);
    }
    let daemon = daemon(overrides)?;
    let pair = Pair::new()?;
    let front = Front::start(&pair.host, daemon.sockets(), setup)?;
    let operator = Caller::operator(&daemon);
    Ok(Some(Host { front, daemon, operator, pair }))
}

/// A daemon that nginx asks, with LibreChat's routes, that drops nothing in the kernel.
fn daemon(overrides: Value) -> Result<Daemon> {
    let mut preset: Value = serde_yaml::from_str(include_str!("../../../config/librechat.yaml"))?;
    preset["network"] = json!({ "mode": "off" });
    preset["nginx"]["user"] = json!({ "from": "nowhere" });
    if let Value::Object(sections) = overrides {
        for (section, values) in sections {
            for (key, value) in values.as_object().into_iter().flatten() {
                preset[&section][key] = value.clone();
            }
        }
    }
    let daemon = Setup::new().overrides(preset).start()?;
    // As /run/moderation is: who may open which socket, the sockets say.
    fs::set_permissions(daemon.sockets(), Permissions::from_mode(0o755))?;
    Ok(daemon)
}

/// As curl sends, for something that only browsers may ask for.
const SCRIPT: &str = "GET /api/agents/x HTTP/1.1\r\nUser-Agent: curl/8.5.0\r\n";
/// As Firefox sends.
const PERSON: &str = "GET /api/agents/x HTTP/1.1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n";
/// A login, of which the outcome is told, too.
const LOGIN: &str = "POST /api/auth/login HTTP/1.1\r\nContent-Length: 0\r\n";

/// What somebody gets who sends this, a line and headers: the status, and what was said.
fn ask(pair: &Pair, source: impl Into<IpAddr>, request: &str) -> Result<(u16, String)> {
    let server = SocketAddr::new(HOST_V4.into(), PORT);
    let client = Visitor::new(&pair.client, source.into(), server, "nobody").patience(PATIENCE);
    let mut stream = client.open()?;
    let end = "Host: chat.example\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{request}{end}").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).context("a status")?;
    Ok((status, body.to_owned()))
}

/// Whether the app itself answered.
fn is_apps(answer: &(u16, String)) -> bool {
    *answer == (200, APP.to_owned())
}

impl Host {
    /// Waits until all workers are who they should be: they begin as their master.
    fn await_workers(&self, is_it: impl Fn(&str) -> bool) -> Result<()> {
        wait::until("workers of the right user and groups", PATIENCE, || {
            let workers = self.front.workers()?;
            Ok((workers.len() == 2 && workers.iter().all(|it| is_it(it))).then_some(()))
        })
    }

    /// Sees that nginx asks and tells: a login passes and its line is read, and who says to
    /// be a program is denied, and banned.
    fn judge(&mut self) -> Result<()> {
        assert!(is_apps(&ask(&self.pair, CLIENT_V4, LOGIN)?));
        wait::until("the login's line", PATIENCE, || {
            let (_, text) = self.findings()?.remove("log").unwrap_or_default();
            Ok((text == "1 lines were read, none was lost").then_some(()))
        })?;
        assert_eq!(ask(&self.pair, CLIENT_V4, SCRIPT)?.0, 403);
        Ok(())
    }

    /// What the doctor finds about nginx, by what was looked at: grade and text.
    fn findings(&mut self) -> Result<BTreeMap<String, (String, String)>> {
        let report = self.operator.get("/v1/doctor")?;
        let sections = report["sections"].as_array().into_iter().flatten();
        let nginx = sections.filter(|it| it["name"] == "nginx");
        let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        let findings = nginx.flat_map(|it| it["findings"].as_array().into_iter().flatten());
        Ok(findings
            .map(|it| (text(&it["check"]), (text(&it["grade"]), text(&it["text"]))))
            .collect())
    }
}
