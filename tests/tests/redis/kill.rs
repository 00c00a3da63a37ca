//! Daemons that are killed at random while Redis fails, with bans falling and decisions
//! asked for: in the end what was acknowledged, what the store has and what the kernel drops
//! are the same, and no decision waited for Redis.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use moderation_daemon::engine::Prefix;
use moderation_daemon::network::{BanMaps, Pins};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::lab::{INTERFACE, Lab};
use moderation_tests::need;
use moderation_tests::process;
use moderation_tests::random::Random;
use moderation_tests::redis::Redis;
use moderation_tests::wait;
use serde_json::json;

use crate::daemons::{PATIENCE, together};
use crate::script::is_here;

/// What a decision may take: without a bound on the wait for Redis it would be a second.
const BOUND: Duration = Duration::from_millis(700);
/// Deaths in each test.
const DEATHS: usize = 3;
/// Bans before and during each fault.
const SOME: usize = 10;

/// Somebody who bans one block after the other, and asks for decisions.
struct Traffic {
    stop: Arc<AtomicBool>,
    /// Bans that were acknowledged so far.
    count: Arc<AtomicUsize>,
    thread: JoinHandle<Result<Seen>>,
}

#[derive(Default)]
struct Seen {
    acknowledged: BTreeSet<Prefix>,
    decisions: usize,
    slowest: Duration,
}

impl Traffic {
    fn start(daemon: &Daemon) -> Self {
        let (stop, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let (api, admin) = (daemon.api_socket(), daemon.admin_socket());
        let thread = thread::spawn(move || bans(&stopped, &counted, &api, &admin));
        Self { stop, count, thread }
    }

    /// Waits until some more were.
    fn flow(&self) -> Result<()> {
        let before = self.count.load(Ordering::Relaxed);
        wait::until("bans to fall", PATIENCE, || {
            let is_more = self.count.load(Ordering::Relaxed) >= before + SOME;
            Ok((is_more || self.thread.is_finished()).then_some(()))
        })
    }

    fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the traffic panicked"))?
    }
}

fn bans(stopped: &AtomicBool, counted: &AtomicUsize, api: &Path, admin: &Path) -> Result<Seen> {
    let mut seen = Seen::default();
    for number in 0_u16.. {
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        let block = format!("2001:db8:7:{number:x}::/64");
        // What was not acknowledged does not count: the daemon is dead now and then.
        if Caller::new(admin).post("/v1/bans", &json!({ "ip": block })).is_ok() {
            seen.acknowledged.insert(block.parse()?);
            counted.fetch_add(1, Ordering::Relaxed);
        }
        let begun = Instant::now();
        let user = format!("user{number}");
        if Caller::new(api).event("message", &json!({ "user": user })).is_ok() {
            seen.slowest = seen.slowest.max(begun.elapsed());
            seen.decisions += 1;
        }
        thread::sleep(Duration::from_millis(3)); // paces: some hundred a second
    }
    Ok(seen)
}

fn listed(daemon: &Daemon) -> Result<BTreeSet<Prefix>> {
    let (mut all, mut after) = (BTreeSet::new(), 0);
    loop {
        let page = Caller::operator(daemon).get(&format!("/v1/bans?limit=1000&after={after}"))?;
        for ban in page["bans"].as_array().context("bans")? {
            all.insert(ban["address"].as_str().context("an address")?.parse()?);
        }
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => return Ok(all),
        }
    }
}

/// `fail` makes Redis fail while the daemon runs, `mend` has it well again.
fn survive(
    name: &str,
    mut fail: impl FnMut(&mut Redis, &Lab) -> Result<()>,
    mut mend: impl FnMut(&mut Redis, &Lab) -> Result<()>,
) -> Result<()> {
    let lab = Lab::new()?;
    let mut redis = Redis::inside(&lab.host)?;
    let overrides = json!({ "redis": {
        "enabled": true, "uri": redis.uri(), "bound": "20ms", "longest_pause": "200ms",
    } });
    let setup = Setup::new().inside(&lab.host).interface(INTERFACE).overrides(overrides);
    let mut daemon = setup.start()?;
    together(&daemon)?;
    let seed = Random::seed("MODERATION_TEST_SEED");
    eprintln!("{name}: MODERATION_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let traffic = Traffic::start(&daemon);
    for death in 0..DEATHS {
        traffic.flow()?;
        fail(&mut redis, &lab)?;
        traffic.flow()?;
        let moment = Duration::from_millis(random.below(300));
        thread::sleep(moment); // paces: it dies at a random moment of the fault
        daemon.kill()?;
        if death % 2 == 0 {
            // It comes back before Redis does.
            daemon.start()?;
            mend(&mut redis, &lab)?;
        } else {
            mend(&mut redis, &lab)?;
            daemon.start()?;
        }
        together(&daemon)?;
    }
    let seen = traffic.finish()?;
    let Seen { acknowledged, decisions, slowest } = seen;
    eprintln!("{name}: {} bans, {decisions} decisions, {slowest:?}", acknowledged.len());
    ensure!(decisions > 2 * SOME * DEATHS, "hardly anything was decided");
    ensure!(slowest < BOUND, "a decision took {slowest:?}");
    let stored = listed(&daemon)?;
    ensure!(acknowledged.is_subset(&stored), "acknowledged and lost");
    wait::until("the kernel to drop what the store bans", PATIENCE, || {
        let kernel = BanMaps::open(&Pins::new(daemon.pin_root()))?.all()?;
        let all = stored.iter().all(|prefix| kernel.get(*prefix).is_some());
        Ok((all && kernel.len() == stored.len()).then_some(()))
    })
}

#[test]
fn bans_survive_a_daemon_that_dies_while_redis_is_killed() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    survive("killed", |redis, _| redis.kill(), |redis, _| redis.launch())
}

#[test]
fn bans_survive_a_daemon_that_dies_while_redis_stands_still() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    survive("frozen", |redis, _| redis.freeze(), |redis, _| redis.thaw())
}

#[test]
fn bans_survive_a_daemon_that_dies_while_redis_forgets_all() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let flush = |redis: &mut Redis, _: &Lab| redis.ask(&["FLUSHALL"]).map(drop);
    survive("flushed", flush, |_, _| Ok(()))
}

#[test]
fn bans_survive_a_daemon_that_dies_while_scripts_fail() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let memory = |bytes: &'static str| {
        move |redis: &mut Redis, _: &Lab| {
            redis.ask(&["CONFIG", "SET", "maxmemory", bytes]).map(drop)
        }
    };
    survive("failing", memory("1"), memory("0"))
}

#[test]
fn bans_survive_a_daemon_that_dies_while_the_network_is_cut() -> Result<()> {
    let found = std::process::Command::new("nft").arg("--version").output();
    if !is_here() || !need::is_met("nft", found.is_ok()) {
        return Ok(());
    }
    let nft = |lab: &Lab, rules: &str| -> Result<()> {
        let mut command = process::command("nft");
        command.arg(rules);
        let mut nft = lab.host.spawn(command)?;
        let status = wait::until("nft", PATIENCE, || nft.exited())?;
        ensure!(status.success(), "nft ended with {status}");
        Ok(())
    };
    let cut = |redis: &mut Redis, lab: &Lab| {
        let port = redis.port();
        nft(
            lab,
            &format!(
                "add table inet cut; add chain inet cut both {{ type filter hook input priority \
                 0; }}; add rule inet cut both tcp dport {port} drop; add rule inet cut both tcp \
                 sport {port} drop"
            ),
        )
    };
    survive("cut", cut, |_, lab| nft(lab, "delete table inet cut"))
}
