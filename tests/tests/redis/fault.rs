//! Redis slow, wrong or gone while events flow at full rate: what it is called, that no
//! decision waits longer than it may, and that a host which comes back counts nothing twice
//! and forgets nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::Daemon;
use moderation_tests::redis::{Cluster, Redis, Wire};
use serde_json::{Value, json};

use crate::daemons::{alone, host, poke, together};
use crate::script::is_here;

/// What a decision waits at most, as in the default configuration.
const BOUND: Duration = Duration::from_millis(20);
/// What all else may take: two processors serve this flood, the daemon, Redis and other
/// tests. Without a bound the wait would be a second at least; 20 to 75 ms were seen.
const MARGIN: Duration = Duration::from_millis(280);

/// Decisions of each client.
const ENOUGH: u64 = 200;

/// Clients that ask for as much as they can, until they are stopped.
struct Flood {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<(u64, Duration)>>>,
}

impl Flood {
    fn start(host: &Daemon) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number: usize| {
            let (stop, mut app) = (Arc::clone(&stop), Caller::app(host));
            thread::spawn(move || {
                let (mut count, mut slowest) = (0, Duration::ZERO);
                while count < ENOUGH || !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    poke(&mut app, &format!("flood-{number}-{count}"))?;
                    slowest = slowest.max(began.elapsed());
                    count += 1;
                }
                Ok((count, slowest))
            })
        };
        let clients = (0..4).map(client).collect();
        Self { stop, clients }
    }

    /// Every client was answered, and none late.
    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let (count, slowest) = client.join().ok().context("a client panicked")??;
            eprintln!("{count} decisions, the slowest took {slowest:?}");
            assert!(count >= ENOUGH, "only {count} decisions");
            assert!(slowest < BOUND + MARGIN, "a decision took {slowest:?}");
        }
        Ok(())
    }
}

/// Two hosts with the bound as it is by default.
fn pair(uri: &str) -> Result<(Daemon, Daemon)> {
    let more = json!({ "redis": { "bound": "20ms" } });
    Ok((host(uri, &more)?, host(uri, &more)?))
}

/// Uses up some while together, some while alone, and sees elsewhere what is left: exactly
/// the rest. `cut` makes Redis fail, `mend` has it well again.
fn away_and_back(
    redis: &mut Redis,
    cut: impl FnOnce(&mut Redis) -> Result<()>,
    want: &[&str],
    mend: impl FnOnce(&mut Redis) -> Result<()>,
    remembers: bool,
) -> Result<()> {
    let (one, other) = pair(&redis.uri())?;
    let flood = Flood::start(&one);
    let mut app = Caller::app(&one);
    let some = |app: &mut Caller, count: usize| -> Result<()> {
        for _ in 0..count {
            assert!(poke(app, "anna")?, "within the limit");
        }
        Ok(())
    };
    some(&mut app, 3)?;
    cut(redis)?;
    some(&mut app, 1)?;
    alone(&one, want)?;
    // Who asks nothing finds out only with the next heartbeat.
    poke(&mut Caller::app(&other), "bert")?;
    alone(&other, want)?;
    some(&mut app, 3)?;
    mend(redis)?;
    together(&one)?;
    together(&other)?;
    flood.end()?;
    let mut elsewhere = Caller::app(&other);
    let mut left = 0;
    while poke(&mut elsewhere, "anna")? {
        left += 1;
    }
    // What Redis itself forgot, only the host knows that counted it.
    let want = if remembers { 3 } else { 6 };
    assert_eq!(left, want, "elsewhere, of ten");
    if remembers {
        assert!(!poke(&mut app, "anna")?);
    }
    Ok(())
}

#[test]
fn a_redis_that_is_killed_and_comes_back_empty_hears_what_was_counted_meanwhile() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let mut redis = Redis::start()?;
    away_and_back(&mut redis, Redis::kill, &["gone", "slow"], Redis::launch, false)
}

#[test]
fn a_redis_that_stands_still_is_waited_for_once_and_then_told_all_exactly_once() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let mut redis = Redis::start()?;
    away_and_back(&mut redis, |it| it.freeze(), &["slow"], |it| it.thaw(), true)
}

#[test]
fn a_redis_without_memory_is_named_and_left_alone() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let mut redis = Redis::start()?;
    let memory = |bytes: &'static str| {
        move |it: &mut Redis| it.ask(&["CONFIG", "SET", "maxmemory", bytes]).map(drop)
    };
    away_and_back(&mut redis, memory("1"), &["full"], memory("0"), true)
}

#[test]
fn a_redis_that_became_a_replica_is_named_and_left_alone() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let mut redis = Redis::start()?;
    // A documentation address: nobody is there to copy from.
    let follow = |it: &mut Redis| it.ask(&["REPLICAOF", "127.0.0.1", "1"]).map(drop);
    let lead = |it: &mut Redis| it.ask(&["REPLICAOF", "NO", "ONE"]).map(drop);
    away_and_back(&mut redis, follow, &["read_only", "not_ready"], lead, true)
}

#[test]
fn rights_that_are_revoked_are_named_and_so_is_a_wrong_password() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let mut redis = Redis::start()?;
    let user = |rule: &'static str| {
        move |it: &mut Redis| it.ask(&["ACL", "SETUSER", "default", rule]).map(drop)
    };
    away_and_back(&mut redis, user("-set"), &["refused"], user("+set"), true)
}

#[test]
fn a_script_that_does_not_end_is_named_and_left_alone() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let mut redis = Redis::start()?;
    redis.ask(&["CONFIG", "SET", "busy-reply-threshold", "50"])?;
    let spin = |it: &mut Redis| {
        let mut wire = Wire::open(it.port())?;
        wire.say(&["EVAL", "while true do end", "0"])?;
        // It is heard of when it has been killed.
        std::mem::forget(wire);
        Ok(())
    };
    let kill = |it: &mut Redis| it.ask(&["SCRIPT", "KILL"]).map(drop);
    away_and_back(&mut redis, spin, &["slow", "busy"], kill, true)
}

#[test]
fn after_flushall_each_host_goes_by_what_it_counted_and_leases_keep_their_places() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let redis = Redis::start()?;
    let (one, other) = pair(&redis.uri())?;
    let flood = Flood::start(&one);
    let (mut app, mut elsewhere) = (Caller::app(&one), Caller::app(&other));
    for _ in 0..7 {
        assert!(poke(&mut app, "anna")?);
    }
    let lease = |app: &mut Caller| -> Result<bool> {
        let answer = app.post("/v1/leases", &json!({ "user": "anna" }))?;
        Ok(answer["lease"].is_object())
    };
    assert!(lease(&mut app)? && lease(&mut app)? && !lease(&mut elsewhere)?);
    redis.ask(&["FLUSHALL"])?;
    moderation_tests::wait::until("it to be noticed", crate::daemons::PATIENCE, || {
        let metrics = Caller::operator(&one).get("/metrics")?;
        let is_seen = |text: &str| text.contains("moderation_redis_forgotten_total 1\n");
        Ok(metrics.as_str().is_some_and(is_seen).then_some(()))
    })?;
    moderation_tests::wait::until("leases to be held again", crate::daemons::PATIENCE, || {
        let keys = redis.keys()?;
        Ok(keys.iter().any(|key| key.ends_with(":leases")).then_some(()))
    })?;
    assert!(!lease(&mut elsewhere)?, "they run still");
    let mut left = 0;
    while poke(&mut app, "anna")? {
        left += 1;
    }
    assert_eq!(left, 3, "here nothing was forgotten");
    flood.end()
}

#[test]
fn whichever_node_of_a_cluster_forgets_it_is_noticed_and_leases_are_held_again() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let mut cluster = Cluster::start()?;
    let one = host(&cluster.uris().join(","), &Value::Null)?;
    // So many holders that each node has some.
    for number in 0..12 {
        let body = json!({ "user": format!("user{number}") });
        let answer = Caller::app(&one).post("/v1/leases", &body)?;
        assert!(answer["lease"].is_object(), "{answer}");
    }
    let leases = |node: &Redis| -> Result<usize> {
        Ok(node.keys()?.iter().filter(|key| key.ends_with(":leases")).count())
    };
    for (times, node) in (1..).zip(cluster.nodes()) {
        let before = leases(node)?;
        assert!(before > 0, "each node has some");
        node.ask(&["FLUSHALL"])?;
        moderation_tests::wait::until("it to be noticed", crate::daemons::PATIENCE, || {
            let metrics = Caller::operator(&one).get("/metrics")?;
            let want = format!("moderation_redis_forgotten_total {times}\n");
            let is_seen = metrics.as_str().is_some_and(|text| text.contains(&want));
            Ok((is_seen && leases(node)? == before).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_redis_that_is_not_there_at_the_start_keeps_nobody_from_starting() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let mut redis = Redis::start()?;
    redis.kill()?;
    let overrides = json!({
        "network": { "mode": "off" },
        "redis": { "enabled": true, "uri": redis.uri(), "longest_pause": "200ms" },
    });
    let daemon = moderation_tests::daemon::Setup::new().overrides(overrides).start()?;
    alone(&daemon, &["gone"])?;
    let text = daemon.ctl(&["status"])?.success()?;
    assert!(text.contains("limits are counted on this host alone"), "{text}");
    let login: Value = Caller::app(&daemon).event("login", &json!({ "ip": "192.0.2.7" }))?;
    assert_eq!(login["decision"], "allow");
    redis.launch()?;
    together(&daemon)?;
    let text = daemon.ctl(&["status"])?.success()?;
    assert!(text.contains("limits are counted together with other hosts"), "{text}");
    Ok(())
}

#[test]
fn a_password_is_taken_from_a_credential_and_told_nowhere() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    const SECRET: &str = "tr0ub4dor-and-3";
    let redis = Redis::with(&["--requirepass", SECRET])?;
    let overrides = json!({ "network": { "mode": "off" }, "redis": { "enabled": true } });
    let uri = format!("redis://:{SECRET}@127.0.0.1:{}", redis.port());
    for (uri, password, is_right) in [
        (uri, None, true),
        (redis.uri(), Some(SECRET), true),
        (redis.uri(), Some("wr0ng-and-l0ng"), false),
    ] {
        let setup = moderation_tests::daemon::Setup::new().overrides(overrides.clone());
        let setup = setup.credential("redis-uri", &uri);
        let setup =
            password.into_iter().fold(setup, |setup, it| setup.credential("redis-password", it));
        let daemon = setup.start()?;
        if is_right {
            together(&daemon)?;
        } else {
            alone(&daemon, &["refused"])?;
        }
        let shown = [
            daemon.log(),
            daemon.ctl(&["config"])?.success()?,
            daemon.status()?.to_string(),
            Caller::operator(&daemon).get("/metrics")?.to_string(),
        ];
        assert!(shown.iter().all(|text| !text.contains(SECRET) && !text.contains("wr0ng")));
    }
    Ok(())
}
