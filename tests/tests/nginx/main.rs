//! A chat host behind the real nginx, with nothing changed but two included files, and
//! with LibreChat's routes: who passes, who does not, and what they see.

mod express;
mod gone;
mod hear;
mod page;
mod question;
mod token;
mod trick;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use moderation_tests::browser::{AGENT, Answer};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::lab::{CLIENT_V4, HOST_V4, Pair};
use moderation_tests::namespace::Namespace;
use moderation_tests::need;
use moderation_tests::nginx::{Gone, Nginx, PORT, librechat};
use moderation_tests::visitor::Visitor;
use serde_json::{Value, json};

/// LibreChat's `JWT_SECRET`, as its example file has it.
const SECRET: &str = "16f8c0ef4a5d391b26034086c628469d3f9f497f08163ab9b40137092f2909ef";
/// With one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A host that is protected, and somebody who uses it.
struct Site {
    // In this order: nginx asks the daemon, and both are in the namespaces.
    nginx: Nginx,
    daemon: Daemon,
    operator: Caller,
    pair: Pair,
}

/// `None` if the machine lacks what it takes.
fn site(overrides: Value, gone: Gone) -> Result<Option<Site>> {
    if !need::root() {
        return Ok(None);
    }
    let preset = preset(overrides)?;
    let daemon = Setup::new().overrides(preset).credential("jwt-secret", SECRET).start()?;
    let pair = Pair::new()?;
    let nginx = Nginx::start(&pair.host, daemon.sockets(), gone)?;
    let operator = Caller::operator(&daemon);
    Ok(Some(Site { nginx, daemon, operator, pair }))
}

/// LibreChat's, and no kernel.
fn preset(overrides: Value) -> Result<Value> {
    let mut preset = librechat()?;
    preset["network"] = json!({ "mode": "off" });
    // Key by key, but whole routes and users.
    if let Value::Object(sections) = overrides {
        for (section, values) in sections {
            for (key, value) in values.as_object().into_iter().flatten() {
                preset[&section][key] = value.clone();
            }
        }
    }
    Ok(preset)
}

impl Site {
    fn post(&self, target: &str) -> Result<Answer> {
        self.ask("POST", target, &[])
    }

    /// As a browser asks, with more headers perhaps.
    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.ask_at(PORT, method, target.as_bytes(), headers)
    }

    fn ask_at(
        &self,
        port: u16,
        method: &str,
        target: &[u8],
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        request(&self.pair, (CLIENT_V4, port), method, target, headers)
    }

    /// Somebody else's look at the first page.
    fn look_from_the_host(&self) -> Result<Answer> {
        let head = b"GET / HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n\r\n";
        exchange(&self.pair.host, HOST_V4, PORT, head)
    }

    fn metric(&self, line: &str) -> Result<bool> {
        let metrics = self.daemon.admin().get("/metrics")?.body;
        Ok(metrics.as_str().unwrap_or_default().lines().any(|it| it == line))
    }
}

/// The client's request over a connection of its own, from one of its addresses to a port.
fn request(
    pair: &Pair,
    (source, port): (Ipv4Addr, u16),
    method: &str,
    target: &[u8],
    headers: &[(&str, &str)],
) -> Result<Answer> {
    let mut head = format!("{method} ").into_bytes();
    head.extend(target);
    head.extend(b" HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n");
    let agent = ("User-Agent", AGENT);
    let is_given = headers.iter().any(|(name, _)| *name == agent.0);
    for (name, value) in headers.iter().chain((!is_given).then_some(&agent)) {
        head.extend(format!("{name}: {value}\r\n").bytes());
    }
    head.extend(b"Content-Length: 2\r\n\r\n{}");
    exchange(&pair.client, source, port, &head)
}

/// One request over a connection of its own.
fn exchange(from: &Namespace, source: Ipv4Addr, port: u16, request: &[u8]) -> Result<Answer> {
    let server = SocketAddr::new(HOST_V4.into(), port);
    let client = Visitor::new(from, source.into(), server, "nobody");
    let mut stream = client.patience(PATIENCE).open()?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Answer::parse(&answer)
}

#[test]
fn an_ordinary_client_gets_the_app_s_own_answers() -> Result<()> {
    let Some(site) = site(Value::Null, Gone::Pass)? else { return Ok(()) };
    let answer = site.ask("GET", "/c/new?x=1", &[])?;
    assert!(answer.is_apps(), "{answer:?}");
    assert_eq!(answer.json()["url"], "/c/new?x=1");
    assert_eq!(answer.header("ratelimit"), None, "nothing is limited there");
    let own = site.ask("GET", "/api/own-403", &[])?;
    assert_eq!((own.status, &own.json()["app"]), (403, &json!(true)), "{own:?}");
    let message = site.post("/api/agents/chat/openAI")?;
    assert!(message.is_apps(), "{message:?}");
    assert_eq!(message.header("ratelimit-policy"), Some("\"message_ip\";q=40;w=60"));
    let left = message.header("ratelimit").context("what is left")?;
    assert!(left.starts_with("\"message_ip\";r=39;t="), "{left}");
    assert_eq!(site.nginx.log(), "", "nothing to complain of");
    assert!(!site.daemon.log().contains("WARN"), "{}", site.daemon.log());
    Ok(())
}

#[test]
fn a_limit_trips_at_its_number_and_not_before() -> Result<()> {
    let overrides = json!({ "bans": { "enabled": false } });
    let Some(site) = site(overrides, Gone::Pass)? else { return Ok(()) };
    let cases = [
        ("/api/auth/login", 7, "logins"),
        ("/api/auth/register", 5, "registrations"),
        ("/api/auth/requestPasswordReset", 2, "reset_password_limit"),
        ("/api/agents/chat", 40, "message_limit"),
    ];
    for (path, most, kind) in cases {
        for number in 1..=most {
            let answer = site.post(path)?;
            assert!(answer.is_apps(), "{path} {number}: {answer:?}");
        }
        let answer = site.post(path)?;
        assert_eq!((answer.status, &answer.json()["type"]), (429, &json!(kind)), "{answer:?}");
        let wait: u64 = answer.header("retry-after").context("retry-after")?.parse()?;
        assert!((1..=3_600).contains(&wait), "{wait}");
        assert!(answer.header("ratelimit").is_some_and(|it| it.contains(";r=0;t=")), "{answer:?}");
        assert!(answer.json()["message"].is_string() && answer.json()["max"] == most);
    }
    Ok(())
}

#[test]
fn a_script_that_says_so_is_banned_by_its_address_and_one_with_a_token_by_its_user() -> Result<()> {
    let Some(mut site) = site(Value::Null, Gone::Pass)? else { return Ok(()) };
    let answer = site.ask("GET", "/api/agents/x", &[("User-Agent", "curl/8.5.0")])?;
    assert_eq!((answer.status, &answer.json()["type"]), (403, &json!("ban")), "{answer:?}");
    // Not here alone.
    assert_eq!(site.ask("GET", "/c/new", &[])?.status, 403);
    let bans = site.operator.bans("all=true")?;
    assert_eq!(bans[0]["address"], CLIENT_V4.to_string(), "{bans:?}");
    Ok(())
}

#[test]
fn a_ban_of_a_proxy_s_address_holds_here() -> Result<()> {
    let overrides = json!({ "network": { "proxies": ["192.0.2.0/24"] } });
    let Some(mut site) = site(overrides, Gone::Pass)? else { return Ok(()) };
    assert!(site.ask("GET", "/", &[])?.is_apps());
    let ban = site.operator.ban(&json!({ "ip": CLIENT_V4, "reason": "spam" }))?;
    assert_eq!(ban["network"], "never", "{ban}");
    let answer = site.ask("GET", "/", &[])?;
    assert_eq!((answer.status, &answer.json()["reason"]), (403, &json!("spam")), "{answer:?}");
    site.operator.delete(&format!("/v1/bans?id={}", ban["id"]))?;
    assert!(site.ask("GET", "/", &[])?.is_apps());
    Ok(())
}
