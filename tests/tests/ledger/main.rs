//! Bans that hosts share, with a real mongod and daemons that leave the kernel alone.

mod doctor;
mod fault;
mod flood;
mod foreign;
mod loss;
mod messages;
mod packets;
mod pardon;
mod records;
mod share;
mod twin;

use std::time::Duration;

use anyhow::{Result, ensure};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::mongod::{self, Base, Server, Set};
use moderation_tests::{need, wait};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

/// Patience with what takes as long as it takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// LibreChat's collection of bans.
const LOGS: &str = "logs";
const KEY: &str = "a key that all hosts share";

/// Whether a test can run here.
fn is_possible() -> bool {
    need::root() && mongod::is_here()
}

/// A server of one kind.
enum Mongod {
    Alone(Server),
    Set(Set),
}

impl Mongod {
    /// Of both kinds, one after the other.
    fn each(test: impl Fn(&Self) -> Result<()>) -> Result<()> {
        if !is_possible() {
            return Ok(());
        }
        for mongod in [Self::Alone(Server::alone()?), Self::Set(Set::start(1)?)] {
            test(&mongod).map_err(|error| error.context(mongod.kind()))?;
        }
        Ok(())
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Alone(_) => "with a server alone",
            Self::Set(_) => "with a replica set",
        }
    }

    fn server(&self) -> &Server {
        match self {
            Self::Alone(server) => server,
            Self::Set(set) => &set.members[0],
        }
    }

    fn base(&self) -> Result<Base> {
        self.server().base()
    }

    /// A host of that name.
    fn host(&self, name: &str, overrides: Value) -> Result<Daemon> {
        host(&self.server().uri(), name, overrides)
    }
}

/// A host of that name that shares its bans there.
fn host(uri: &str, name: &str, mut overrides: Value) -> Result<Daemon> {
    if overrides.is_null() {
        overrides = json!({});
    }
    overrides["mongodb"]["enabled"] = json!(true);
    overrides["mongodb"]["host"] = json!(name);
    overrides["network"]["mode"] = json!("off");
    let daemon = Setup::new()
        .overrides(overrides)
        .credential("mongo-uri", uri)
        .credential("ledger-key", KEY)
        .start()?;
    await_sharing(&daemon)?;
    Ok(daemon)
}

/// Waits until a host is told of changes, or asks for them.
fn await_sharing(daemon: &Daemon) -> Result<()> {
    wait::until("a host to share its bans", PATIENCE, || {
        let state = &daemon.status()?["sharing"]["state"];
        Ok((state == "following" || state == "polling").then_some(()))
    })
}

fn ban(daemon: &Daemon, body: &Value) -> Result<Value> {
    Ok(Caller::operator(daemon).post("/v1/bans", body)?["ban"].clone())
}

fn is_banned(daemon: &Daemon, subject: &str) -> Result<bool> {
    Ok(Caller::app(daemon).get(&format!("/v1/check?{subject}"))?["banned"] == true)
}

/// Waits until somebody is banned, or is not, on all of these hosts.
fn await_banned(daemons: &[&Daemon], subject: &str, banned: bool) -> Result<()> {
    wait::until(&format!("{subject} to be banned: {banned}"), PATIENCE, || {
        for daemon in daemons {
            if is_banned(daemon, subject)? != banned {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

/// Waits until so many documents match.
fn await_documents(base: &Base, filter: &Document, count: usize) -> Result<Vec<Document>> {
    let what = format!("{count} documents of {filter}");
    wait::until(&what, PATIENCE, || {
        let found = base.find(LOGS, filter.clone())?;
        Ok((found.len() == count).then_some(found))
    })
}

/// Waits until nothing waits.
fn await_told(daemon: &Daemon) -> Result<()> {
    wait::until("the outbox to be empty", PATIENCE, || {
        Ok((daemon.status()?["sharing"]["outbox"]["rows"] == 0).then_some(()))
    })
}

/// A metric's value; 0 if it is not there.
fn metric(daemon: &Daemon, series: &str) -> Result<f64> {
    let response = daemon.admin().get("/metrics")?;
    ensure!(response.status == 200, "/metrics answered {}", response.status);
    let text = response.body.as_str().unwrap_or_default().to_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(line.and_then(|value| value.parse().ok()).unwrap_or(0.0))
}

fn await_metric(daemon: &Daemon, series: &str, at_least: f64) -> Result<()> {
    wait::until(&format!("{series} to be {at_least}"), PATIENCE, || {
        Ok((metric(daemon, series)? >= at_least).then_some(()))
    })
}

/// What Keyv writes for LibreChat.
fn of_librechat(key: &str, expires_in: Duration) -> Document {
    let at = mongodb::bson::DateTime::now().timestamp_millis()
        + i64::try_from(expires_in.as_millis()).unwrap_or(i64::MAX);
    let value = json!({
        "value": { "type": "concurrent", "violation_count": 20, "expiresAt": at },
        "expires": at,
    });
    let expires = mongodb::bson::DateTime::from_millis(at);
    doc! { "key": key, "value": value.to_string(), "expiresAt": expires }
}
