//! The same in front of a real Express application from npm, with LibreChat's routes and
//! answers and its own tokens, and clients in namespaces of their own.

mod generation;
mod kernel;
mod limit;
mod restart;
mod stream;
mod theft;
mod upload;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use moderation_tests::browser::Browser;
use moderation_tests::caller::Caller;
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::express::Express;
use moderation_tests::lab::{ABUSER_V4, BYSTANDER_V4, INTERFACE, Lab};
use moderation_tests::need;
use moderation_tests::nginx::{Gone, Nginx};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{SECRET, preset};

/// A chat host that is protected, and a small internet.
struct Host {
    // In this order: nginx asks the daemon, and both are in the namespaces.
    nginx: Nginx,
    daemon: Daemon,
    operator: Caller,
    lab: Lab,
}

/// `None` if the machine lacks what it takes.
fn host(overrides: Value) -> Result<Option<Host>> {
    host_where(overrides, Gone::Pass)
}

/// The same; while the daemon is gone, that happens.
fn host_where(overrides: Value, gone: Gone) -> Result<Option<Host>> {
    if !(need::root() && Express::is_there()) {
        return Ok(None);
    }
    let lab = Lab::new()?;
    let preset = preset(overrides)?;
    let mut setup = Setup::new().inside(&lab.host).credential("jwt-secret", SECRET);
    if preset["network"]["mode"] != "off" {
        setup = setup.interface(INTERFACE);
    }
    let daemon = setup.overrides(preset).start()?;
    let express = Express::start(&lab.host, SECRET)?;
    let nginx = Nginx::in_front_of(express, &lab.host, daemon.sockets(), gone)?;
    let operator = Caller::operator(&daemon);
    Ok(Some(Host { nginx, daemon, operator, lab }))
}

impl Host {
    /// Somebody without an account who is likely to misbehave.
    fn abuser(&self) -> Browser {
        Browser::new(&self.lab.abuser, ABUSER_V4)
    }

    /// Somebody without an account who is not.
    fn bystander(&self) -> Browser {
        Browser::new(&self.lab.bystander, BYSTANDER_V4)
    }

    fn metric(&self, name: &str) -> Result<u64> {
        self.daemon.metric(name)
    }
}

/// Between two requests of ordinary people, each over a connection of its own: under the
/// 600 in ten seconds that `network.connections` allows.
const PAUSE: Duration = Duration::from_millis(20);

/// Goes on asking for one thing after the other as ordinary people do, until it is over;
/// returns how often. Every answer must be the app's own.
fn visit(client: &Browser, is_over: &AtomicBool) -> Result<u64> {
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) || count < ENOUGH {
        for target in ["/api/convos", "/api/config", "/api/files"] {
            let answer = client.get(target).with_context(|| format!("request {count}"))?;
            ensure!(answer.is_apps(), "request {count}: {answer:?}");
            count += 1;
            thread::sleep(PAUSE); // paces: who opens more connections is shed (network.syn)
        }
    }
    Ok(count)
}

/// Requests of a visitor that tell something.
const ENOUGH: u64 = 12;

/// Hears of all who visited, that nothing failed and that they came often enough to tell.
fn farewell(visiting: Vec<ScopedJoinHandle<'_, Result<u64>>>) -> Result<()> {
    for one in visiting {
        let count = one.join().map_err(|_| anyhow!("it panicked"))??;
        ensure!(count >= ENOUGH, "{count} requests");
    }
    Ok(())
}

/// A token as the app makes them, of somebody whom it needs not know; good for so many
/// seconds.
fn token_of(user: &str, seconds: i64) -> Result<String> {
    let now = jiff::Timestamp::now().as_second();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "id": user, "username": user, "iat": now, "exp": now + seconds });
    let body = format!("{}.{}", part(json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
    let key = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes())?;
    let sum = key.chain_update(body.as_bytes()).finalize().into_bytes();
    Ok(format!("{body}.{}", URL_SAFE_NO_PAD.encode(sum)))
}
