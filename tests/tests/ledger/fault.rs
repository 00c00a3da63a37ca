//! A database that dies, stands still, loses its primary, fails or is emptied while bans
//! fall; and hosts that are killed meanwhile. In the end all counts are equal: what was
//! acknowledged, what every host holds, what the database has. No decision waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::Daemon;
use moderation_tests::mongod::{Base, Server, Set};
use moderation_tests::wait;
use mongodb::bson::doc;
use serde_json::json;

use super::{LOGS, host, is_possible};

/// What a decision may take at most: what it takes without a database, on a machine that
/// is busy with other tests.
const BOUND: Duration = Duration::from_secs(1);
/// Patience with everything being told.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two bans; many enough that every fault meets some.
const PACE: Duration = Duration::from_millis(10);

/// Somebody who bans user after user, and asks for decisions.
struct Traffic {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(BTreeSet<String>, Duration)>>,
}

impl Traffic {
    /// `may_die`: whether the daemon is killed now and then; then what was not
    /// acknowledged does not count.
    fn start(daemon: &Daemon, may_die: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (api, admin) = (daemon.api_socket(), daemon.admin_socket());
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            let mut acknowledged = BTreeSet::new();
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let user = format!("user{number}");
                let begun = Instant::now();
                let banned = Caller::new(&admin).post("/v1/bans", &json!({ "user": user }));
                let decided = Caller::new(&api).event("message", &json!({ "user": user }));
                match (banned, decided) {
                    (Ok(_), Ok(decision)) => {
                        ensure!(decision["decision"] == "deny", "{user}: {decision}");
                        slowest = slowest.max(begun.elapsed());
                        acknowledged.insert(user);
                    }
                    (Ok(_), Err(_)) if may_die => drop(acknowledged.insert(user)),
                    (Err(error), _) | (_, Err(error)) if !may_die => return Err(error),
                    _ => {}
                }
                thread::sleep(PACE); // paces: a hundred bans a second
            }
            Ok((acknowledged, slowest))
        });
        Self { stop, thread }
    }

    /// Who was banned, for all that was acknowledged, and the slowest decision.
    fn finish(self) -> Result<(BTreeSet<String>, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the traffic panicked"))?
    }
}

fn held(daemon: &Daemon) -> Result<BTreeSet<String>> {
    let mut users = BTreeSet::new();
    let mut after = 0;
    loop {
        let page = Caller::operator(daemon).get(&format!("/v1/bans?limit=1000&after={after}"))?;
        let bans = page["bans"].as_array().context("bans")?;
        users.extend(bans.iter().filter_map(|it| it["user"].as_str().map(str::to_owned)));
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => return Ok(users),
        }
    }
}

fn shared(base: &Base) -> Result<BTreeSet<String>> {
    let documents = base.find(LOGS, doc! { "type": "ban" })?;
    let users = documents.iter().map(|it| Ok(it.get_str("user")?.to_owned()));
    users.collect()
}

/// Waits until all hold the same, and everything that was acknowledged.
fn await_equal(acknowledged: &BTreeSet<String>, daemons: &[&Daemon], base: &Base) -> Result<usize> {
    let what = format!("{} bans everywhere", acknowledged.len());
    let equal = wait::until(&what, PATIENCE, || {
        let documents = shared(base)?;
        for daemon in daemons {
            if held(daemon)? != documents {
                return Ok(None);
            }
        }
        Ok(Some(documents))
    });
    let documents = equal.with_context(|| {
        let held: Vec<_> =
            daemons.iter().map(|it| held(it).map_or(0, |users| users.len())).collect();
        format!("held {held:?}, shared {:?}", shared(base).map(|users| users.len()))
    })?;
    ensure!(acknowledged.is_subset(&documents), "acknowledged and lost");
    Ok(documents.len())
}

/// Lets bans fall for a moment.
fn some_time() {
    thread::sleep(Duration::from_millis(700)); // paces: bans go on falling meanwhile
}

/// One set, two hosts, bans falling on the first; `fault` is what goes wrong meanwhile.
fn survive(members: usize, fault: impl FnOnce(&mut Set) -> Result<()>) -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let mut set = Set::start(members)?;
    let uri = if members == 1 { set.members[0].uri() } else { set.uri() };
    let (alpha, beta) = (host(&uri, "alpha", json!({}))?, host(&uri, "beta", json!({}))?);
    let traffic = Traffic::start(&alpha, false);
    some_time();
    let result = fault(&mut set);
    some_time();
    let (acknowledged, slowest) = traffic.finish()?;
    result?;
    ensure!(acknowledged.len() > 20, "only {} bans fell", acknowledged.len());
    ensure!(slowest < BOUND, "a decision took {slowest:?}");
    let primary = set.primary()?;
    await_equal(&acknowledged, &[&alpha, &beta], &set.members[primary].base()?)?;
    Ok(())
}

#[test]
fn nothing_is_lost_when_mongod_is_killed() -> Result<()> {
    survive(1, |set| {
        set.members[0].kill()?;
        some_time();
        set.members[0].resurrect()?;
        set.primary().map(drop)
    })
}

#[test]
fn nothing_is_lost_when_mongod_stands_still() -> Result<()> {
    survive(1, |set| {
        set.members[0].freeze()?;
        thread::sleep(Duration::from_secs(6)); // paces: longer than an operation may take
        set.members[0].thaw()
    })
}

#[test]
fn nothing_is_lost_when_the_primary_is() -> Result<()> {
    survive(3, |set| {
        let primary = set.primary()?;
        set.members[primary].kill()?;
        set.primary()?;
        some_time();
        set.members[primary].resurrect()
    })
}

#[test]
fn nothing_is_lost_when_commands_fail() -> Result<()> {
    survive(1, |set| {
        let base = set.members[0].base()?;
        // NotWritablePrimary, InterruptedAtShutdown, ExceededTimeLimit, Unauthorized.
        for code in [10_107, 11_600, 262, 13] {
            let commands = ["insert", "update", "delete", "find", "aggregate", "getMore"];
            base.fail(&commands, 5, code)?;
            some_time();
        }
        base.command("admin", doc! { "configureFailPoint": "failCommand", "mode": "off" }).map(drop)
    })
}

#[test]
fn nothing_is_lost_when_the_collection_is_dropped() -> Result<()> {
    survive(1, |set| {
        set.members[0].base()?.run(doc! { "drop": LOGS })?;
        some_time();
        Ok(())
    })
}

#[test]
fn nothing_that_was_acknowledged_is_lost_when_hosts_are_killed() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    for mut kind in [super::Mongod::Alone(Server::alone()?), super::Mongod::Set(Set::start(1)?)] {
        let mut alpha = kind.host("alpha", json!({}))?;
        let mut beta = kind.host("beta", json!({}))?;
        let traffic = Traffic::start(&alpha, true);
        for round in 0..3 {
            some_time();
            alpha.kill()?;
            if round == 1 {
                beta.kill()?;
                match &mut kind {
                    super::Mongod::Alone(server) => {
                        server.kill()?;
                        server.resurrect()?;
                    }
                    super::Mongod::Set(set) => {
                        set.members[0].kill()?;
                        set.members[0].resurrect()?;
                        set.primary()?;
                    }
                }
                beta.start()?;
            }
            alpha.start()?;
        }
        some_time();
        let (acknowledged, _) = traffic.finish()?;
        let count = await_equal(&acknowledged, &[&alpha, &beta], &kind.base()?)?;
        ensure!(count >= 10, "only {count} bans fell {}", kind.kind());
    }
    Ok(())
}

#[test]
fn an_outbox_that_was_too_small_loses_nothing_but_time() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let mut server = Server::alone()?;
    let overrides = json!({ "mongodb": { "max_waiting": 5 } });
    let alpha = host(&server.uri(), "alpha", overrides)?;
    super::ban(&alpha, &json!({ "user": "lifted" }))?;
    super::await_told(&alpha)?;
    server.kill()?;
    let mut acknowledged = BTreeSet::new();
    for number in 0..20 {
        let user = format!("user{number}");
        super::ban(&alpha, &json!({ "user": user }))?;
        acknowledged.insert(user);
    }
    Caller::operator(&alpha).delete("/v1/bans?user=lifted")?;
    let outbox = alpha.status()?["sharing"]["outbox"].clone();
    ensure!(outbox["rows"] == 5 && outbox["gap"] == true, "{outbox}");
    server.resurrect()?;
    let beta = host(&server.uri(), "beta", json!({}))?;
    await_equal(&acknowledged, &[&alpha, &beta], &server.base()?)?;
    wait::until("the gap to close", PATIENCE, || {
        Ok((alpha.status()?["sharing"]["outbox"]["gap"] == false).then_some(()))
    })
}
