//! The store does not take what is decided: nothing counts then, what waits is
//! bounded, and whoever is banned hears so at once all the same.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use moderation_tests::caller::Caller;
use moderation_tests::wait;
use moderation_tests::wire::{Answer, Wire, request};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{Desk, desk};

const PATIENCE: Duration = Duration::from_secs(20);
/// What does not wait for the store takes a millisecond; the store's own
/// patience is two seconds.
const PROMPT: Duration = Duration::from_secs(1);

/// As an operator with `sqlite3` who forgot to end a transaction.
struct Lock(Connection);

impl Lock {
    fn take(desk: &Desk) -> Result<Self> {
        let connection = Connection::open(desk.daemon.store_path())?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        Ok(Self(connection))
    }

    fn release(self) -> Result<()> {
        self.0.execute_batch("ROLLBACK").context("cannot roll back")
    }
}

fn unavailable() -> (u16, String) {
    (503, "store-unavailable".to_owned())
}

fn prompt<T>(what: &str, ask: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let answer = ask()?;
    let took = begin.elapsed();
    ensure!(took < PROMPT, "{what} took {took:?}");
    Ok(answer)
}

fn left(answer: &Value) -> &Value {
    &answer["limits"][0]["remaining"]
}

#[test]
fn what_the_store_does_not_take_does_not_count() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let (anna, address) = (json!({ "user": "anna" }), json!({ "ip": "192.0.2.7" }));
    for score in 1..=3 {
        assert_eq!(desk.app.violation("logins", &anna)?["score"], score);
    }
    assert_eq!(left(&desk.app.event("login", &address)?), 6);

    let lock = Lock::take(&desk)?;
    let violation = json!({ "type": "logins", "user": "anna" });
    assert_eq!(desk.app.refused("POST", "/v1/violations", &violation)?, unavailable());
    let ban = json!({ "user": "anna" });
    assert_eq!(desk.operator.refused("POST", "/v1/bans", &ban)?, unavailable());
    let allowed = json!({ "prefix": "192.0.2.0/24" });
    assert_eq!(desk.operator.refused("POST", "/v1/allowlist", &allowed)?, unavailable());
    // What breaks no rule needs no store.
    assert_eq!(left(&desk.app.event("login", &address)?), 5);
    lock.release()?;

    assert!(!desk.app.is_banned("user=anna")?);
    assert_eq!(desk.operator.ban(&json!({ "ip": "192.0.2.8" }))?["id"], 1);
    assert_eq!(desk.app.violation("logins", &anna)?["score"], 4);
    assert_eq!(left(&desk.app.event("login", &address)?), 4);
    desk.daemon.kill()?;
    desk.daemon.start()?;
    assert_eq!(Caller::app(&desk.daemon).violation("logins", &anna)?["score"], 5);
    let metrics = desk.daemon.log();
    assert!(metrics.contains("nothing was decided"), "it is in the log");
    Ok(())
}

#[test]
fn what_is_decided_together_with_a_failure_does_not_count_either() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let (anna, address) = (json!({ "user": "anna" }), json!({ "ip": "192.0.2.7" }));
    assert_eq!(left(&desk.app.event("login", &address)?), 6);
    let lock = Lock::take(&desk)?;
    let app = desk.daemon.api_socket();
    let refused = |path: &'static str, body: Value| {
        let mut caller = Caller::new(&app);
        move || caller.refused("POST", path, &body)
    };
    // One that keeps the moderator waiting for the store, and behind it three
    // that it will take together.
    let first = refused("/v1/violations", json!({ "type": "logins", "user": "anna" }));
    let rest = [
        refused("/v1/violations", json!({ "type": "logins", "user": "anna", "score": 20 })),
        refused("/v1/events", json!({ "type": "login", "ip": "192.0.2.7" })),
        refused("/v1/leases", json!({ "user": "anna" })),
    ];
    let answers = thread::scope(|scope| {
        let first = scope.spawn(first);
        wait::until("the moderator to be busy", PATIENCE, || {
            let status = desk.operator.get("/v1/status")?;
            let is_queued = status["queue"]["length"] != 0;
            Ok((!is_queued && !first.is_finished()).then_some(()))
        })?;
        let rest: Vec<_> = rest.into_iter().map(|ask| scope.spawn(ask)).collect();
        wait::until("the others to wait", PATIENCE, || {
            let status = desk.operator.get("/v1/status")?;
            Ok((status["queue"]["length"] == 3).then_some(()))
        })?;
        let all = std::iter::once(first).chain(rest);
        all.map(|thread| thread.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    lock.release()?;
    assert_eq!(answers, vec![unavailable(); 4]);

    assert!(!desk.app.is_banned("user=anna")?);
    assert_eq!(desk.app.violation("logins", &anna)?["score"], 1);
    assert_eq!(left(&desk.app.event("login", &address)?), 5);
    for _ in 0..2 {
        assert_eq!(desk.app.post("/v1/leases", &anna)?["decision"], "allow");
    }
    Ok(())
}

/// More than wait at once: a queue of 1,024, and a batch of 256 before it.
const FLOOD: usize = 1_500;

/// A connection is a file descriptor here and one in the daemon, which
/// inherits this.
fn allow_many_files() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(8_192)), hard)?;
    Ok(())
}

fn flood(desk: &Desk) -> Result<Vec<Wire>> {
    let socket = desk.daemon.api_socket();
    let wires = (0..FLOOD).map(|number| {
        let body = json!({ "type": "logins", "user": format!("user {number}") });
        let mut wire = Wire::open(&socket)?;
        wire.send(request("POST", "/v1/violations", body.to_string()))?;
        Ok(wire)
    });
    wires.collect()
}

#[test]
fn when_the_queue_is_full_it_says_so_and_who_is_banned_hears_so_at_once() -> Result<()> {
    allow_many_files()?;
    let Some(mut desk) = desk(json!({ "api": { "max_connections": 4_096 } }))? else {
        return Ok(());
    };
    desk.app.violation("logins", &json!({ "user": "anna", "score": 20 }))?;
    let lock = Lock::take(&desk)?;
    let mut wires = flood(&desk)?;
    wait::until("the queue to fill", PATIENCE, || {
        let status = prompt("the status", || desk.operator.get("/v1/status"))?;
        Ok((status["queue"]["length"].as_u64() > Some(500)).then_some(()))
    })?;
    for _ in 0..10 {
        let message = json!({ "user": "anna" });
        let answer = prompt("a banned user", || desk.app.event("message", &message))?;
        assert_eq!(answer["reason"], "banned");
        assert!(prompt("a check", || desk.app.is_banned("user=anna"))?);
        prompt("a list", || desk.operator.bans("all=false"))?;
        prompt("readiness", || desk.app.get("/readyz"))?;
    }
    let answers = wires.iter_mut().map(|wire| wire.answer()?.context("an answer to each"));
    let answers = answers.collect::<Result<Vec<_>>>()?;
    lock.release()?;

    let count = |name: &str| {
        let named = |answer: &&Answer| answer.problem().as_deref() == Some(name);
        answers.iter().filter(named).count()
    };
    let (full, failed) = (count("queue-full"), count("store-unavailable"));
    let late = count("decision-timeout");
    assert_eq!(full + failed + late, FLOOD, "{:?}", answers.first());
    assert!(full >= 1 && failed >= 1, "{full} found it full, {failed} failed, {late} were late");
    let advised = answers.iter().filter(|answer| answer.status == 503);
    assert!(advised.into_iter().all(|answer| answer.retry_after.is_some()));

    wait::until("the queue to empty", PATIENCE, || {
        Ok((desk.operator.get("/v1/status")?["queue"]["length"] == 0).then_some(()))
    })?;
    let bert = json!({ "user": "bert" });
    assert_eq!(desk.app.violation("logins", &bert)?["score"], 1);
    Ok(())
}
