//! Where a chat host lives, and what people see of it: behind a CDN, in containers, with
//! nginx as a user of its own; and the page of who is denied, in a browser. Which request
//! is what is tried beside it, in `nginx`.

mod page;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::front::{self, Front, PORT};
use moderation_tests::lab::{CLIENT_V4, HOST_V4, Pair};
use moderation_tests::need;
use moderation_tests::visitor::Visitor;
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
    Setup::new().overrides(preset).start()
}

/// What somebody gets who asks for a page with these headers: the status, and all of it.
fn ask(pair: &Pair, source: impl Into<IpAddr>, headers: &str) -> Result<(u16, String)> {
    let server = SocketAddr::new(HOST_V4.into(), PORT);
    let client = Visitor::new(&pair.client, source.into(), server, "nobody").patience(PATIENCE);
    let mut stream = client.open()?;
    let head = "GET /api/agents/x HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n";
    stream.write_all(format!("{head}{headers}\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok()).context("a status")?;
    Ok((status, answer))
}
