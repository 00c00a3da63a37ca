//! Where faults happen: two hosts with kernels of their own, MongoDB behind a router, bans
//! falling on both and decisions at full rate; and the counting in the end. What goes
//! wrong is not known here.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use moderation_daemon::engine::Prefix;
use moderation_daemon::network::{BanMaps, Pins};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::Daemon;
use moderation_tests::lab::Lab;
use moderation_tests::mongod::{Base, Plan, Set};
use moderation_tests::random::Random;
use moderation_tests::wait;
use mongodb::bson::doc;
use serde_json::{Value, json};

use super::super::{LOGS, packets};

/// What a decision may take at most, on a machine that is busy with other tests. One that
/// waited for MongoDB would take two seconds at least: so long a server is looked for.
const BOUND: Duration = Duration::from_millis(1_900);
/// Patience with everything being told.
const PATIENCE: Duration = Duration::from_secs(60);
/// Until a host that was killed is asked again.
const BREATH: Duration = Duration::from_millis(10);
/// The database's own address, which is on none of the router's wires.
const DATABASE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 200);

/// See the module.
pub(super) struct Stage {
    /// What can go wrong.
    pub(super) world: World,
    alpha: Daemon,
    beta: Daemon,
    rounds: usize,
    pace: Pace,
}

/// What there is for a database.
#[derive(Clone, Copy, Debug)]
pub(super) enum Servers {
    /// One that tells of no changes.
    Alone,
    /// A replica set of so many.
    Set(usize),
}

/// All but the hosts.
pub(super) struct World {
    pub(super) lab: Lab,
    pub(super) set: Set,
}

/// How much goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between two bans of a host.
    pub(super) ban: Duration,
    /// Between two questions.
    pub(super) ask: Duration,
}

impl Pace {
    /// As many decisions as there can be, and many enough bans that every fault meets some.
    pub(super) const FULL: Self = Self { ban: Duration::from_millis(10), ask: Duration::ZERO };
    /// For minutes.
    pub(super) const STEADY: Self =
        Self { ban: Duration::from_millis(50), ask: Duration::from_millis(5) };
}

/// Whether hosts live through a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// They do.
    Live,
    /// They are killed again and again, one after the other, and started anew.
    Die,
}

impl Stage {
    pub(super) fn new(servers: Servers, plan: Plan) -> Result<Self> {
        let lab = Lab::new()?;
        lab.router.configure(&[format!("address add {DATABASE}/32 dev lo")])?;
        let plan = plan.inside(&lab.router, DATABASE);
        let set = match servers {
            Servers::Alone => Set::alone(&plan)?,
            Servers::Set(members) => Set::start_as(members, &plan)?,
        };
        let alpha = packets::host(&lab.host, &set.uri(), "alpha")?;
        let beta = packets::host(&lab.bystander, &set.uri(), "beta")?;
        let world = World { lab, set };
        Ok(Self { world, alpha, beta, rounds: 0, pace: Pace::FULL })
    }

    /// At another pace.
    pub(super) fn at(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Bans fall and decisions are asked for while something goes wrong. In the end all
    /// counts are equal.
    pub(super) fn survive(
        &mut self,
        fate: Fate,
        fault: impl FnOnce(&mut World) -> Result<()>,
    ) -> Result<()> {
        self.rounds += 1;
        let calling = Calling { round: self.rounds, pace: self.pace, fate };
        let traffic = Traffic::start(calling, [&self.alpha, &self.beta]);
        some_time();
        let over = AtomicBool::new(false);
        let Self { world, alpha, beta, .. } = self;
        let (broken, killed) = thread::scope(|scope| {
            let killer = scope.spawn(|| match fate {
                Fate::Live => Ok(0),
                Fate::Die => kill_until(&over, alpha, beta),
            });
            let broken = fault(world);
            some_time();
            over.store(true, Ordering::Relaxed);
            (broken, killer.join())
        });
        let counted = traffic.finish();
        broken.context("the fault")?;
        let killed = killed.map_err(|_| anyhow!("who kills panicked"))??;
        let Counted { acknowledged, slowest, decisions } = counted?;
        let count = self.await_equal(&acknowledged)?;
        println!(
            "{fate:?}: {} bans acknowledged, {count} everywhere; {decisions} decisions, the \
             slowest {:?} at {:?}; hosts killed {killed} times",
            acknowledged.len(),
            slowest.0,
            slowest.1,
        );
        ensure!(acknowledged.len() > 20, "only {} bans fell", acknowledged.len());
        ensure!(fate == Fate::Die || slowest.0 < BOUND, "a decision took {slowest:?}");
        Ok(())
    }

    /// Waits until all hold the same, and everything that was acknowledged.
    fn await_equal(&self, acknowledged: &BTreeSet<String>) -> Result<usize> {
        let base = self.world.set.base()?;
        let hosts = [&self.alpha, &self.beta];
        let what = format!("{} bans everywhere", acknowledged.len());
        let equal = wait::until(&what, PATIENCE, || {
            for host in hosts {
                if host.status()?["sharing"]["outbox"]["rows"] != 0 {
                    return Ok(None);
                }
            }
            let shared = shared(&base)?;
            for host in hosts {
                if held(host)? != shared || in_kernel(host)? != shared.prefixes {
                    return Ok(None);
                }
            }
            Ok(Some(shared))
        });
        let shared = equal.with_context(|| {
            let shared = shared(&base).map(|it| it.users.len());
            let held = hosts.map(|it| held(it).map_or(0, |it| it.users.len()));
            let kernels = hosts.map(|it| in_kernel(it).map_or(0, |it| it.len()));
            let logs = hosts.map(Daemon::log).join("\n");
            let logs: Vec<_> = logs.lines().filter(|line| !line.contains(" INFO ")).collect();
            let logs = logs.join("\n");
            format!("shared {shared:?}, held {held:?}, in kernels {kernels:?}; {logs}")
        })?;
        let lost: Vec<_> = acknowledged.difference(&shared.users).collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        Ok(shared.users.len())
    }
}

/// Says how often.
fn kill_until(over: &AtomicBool, alpha: &mut Daemon, beta: &mut Daemon) -> Result<usize> {
    let seed = Random::seed("MODERATION_TEST_SEED");
    println!("again with MODERATION_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let (mut killed, mut longest_start) = (0, Duration::ZERO);
    while killed < 2 || !over.load(Ordering::Relaxed) {
        // Long enough that some lives get as far as sharing again, on a machine as slow as
        // this one is now.
        let longest = Duration::from_secs(1) + 4 * longest_start;
        let life = longest.mul_f64(random.below(1_000) as f64 / 1_000.0);
        thread::sleep(life); // paces: killed at any moment of whatever happens
        let host = if killed % 2 == 0 { &mut *alpha } else { &mut *beta };
        host.kill()?;
        let begun = Instant::now();
        host.start()?;
        longest_start = longest_start.max(begun.elapsed());
        killed += 1;
    }
    Ok(killed)
}

/// Lets bans fall for a moment.
pub(super) fn some_time() {
    thread::sleep(Duration::from_millis(500)); // paces: bans go on falling meanwhile
}

/// Who is banned.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Banned {
    pub(super) users: BTreeSet<String>,
    prefixes: BTreeSet<Prefix>,
}

pub(super) fn held(daemon: &Daemon) -> Result<Banned> {
    let mut banned = Banned { users: BTreeSet::new(), prefixes: BTreeSet::new() };
    let mut after = 0;
    loop {
        let page = Caller::operator(daemon).get(&format!("/v1/bans?limit=1000&after={after}"))?;
        for ban in page["bans"].as_array().context("bans")? {
            banned.users.extend(ban["user"].as_str().map(str::to_owned));
            banned.prefixes.extend(ban["address"].as_str().map(prefix).transpose()?);
        }
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => return Ok(banned),
        }
    }
}

pub(super) fn shared(base: &Base) -> Result<Banned> {
    let fields = doc! { "user": 1, "ip": 1 };
    let documents = base.find_fields(LOGS, doc! { "type": "ban" }, fields)?;
    let texts = |name: &'static str| documents.iter().filter_map(move |it| it.get_str(name).ok());
    let prefixes = texts("ip").map(prefix).collect::<Result<_>>()?;
    Ok(Banned { users: texts("user").map(str::to_owned).collect(), prefixes })
}

/// However it is written.
fn prefix(text: &str) -> Result<Prefix> {
    text.parse().map_err(|_| anyhow!("{text} is no prefix"))
}

fn in_kernel(daemon: &Daemon) -> Result<BTreeSet<Prefix>> {
    let maps = BanMaps::open(&Pins::new(daemon.pin_root()))?;
    Ok(maps.all()?.iter().map(|(prefix, _)| prefix).collect())
}

/// Somebody who bans on both hosts, and somebody who asks for decisions all the time.
struct Traffic {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Result<Counted>>>,
}

/// What came of it.
#[derive(Default)]
struct Counted {
    acknowledged: BTreeSet<String>,
    /// What the slowest answer took, and when after the beginning it was asked for.
    slowest: (Duration, Duration),
    decisions: usize,
}

impl Counted {
    fn took(&mut self, asked: Instant, since: Instant) {
        self.slowest = self.slowest.max((asked.elapsed(), asked - since));
    }
}

impl Traffic {
    fn start(calling: Calling, hosts: [&Daemon; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = Vec::new();
        for (number, host) in hosts.into_iter().enumerate() {
            let (admin, api) = (host.admin_socket(), host.api_socket());
            let (stopped, also) = (Arc::clone(&stop), Arc::clone(&stop));
            callers.push(thread::spawn(move || calling.ban(number, &admin, &stopped)));
            callers.push(thread::spawn(move || calling.ask(&api, &also)));
        }
        Self { stop, callers }
    }

    fn finish(self) -> Result<Counted> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Counted::default();
        for caller in self.callers {
            let one = caller.join().map_err(|_| anyhow!("the traffic panicked"))??;
            all.acknowledged.extend(one.acknowledged);
            all.slowest = all.slowest.max(one.slowest);
            all.decisions += one.decisions;
        }
        Ok(all)
    }
}

/// How somebody calls a host.
#[derive(Clone, Copy)]
struct Calling {
    round: usize,
    pace: Pace,
    fate: Fate,
}

impl Calling {
    /// An answer, unless the host may be dead.
    fn answered(self, answer: Result<Value>) -> Result<Option<Value>> {
        match (answer, self.fate) {
            (Ok(answer), _) => Ok(Some(answer)),
            (Err(_), Fate::Die) => Ok(None),
            (Err(error), Fate::Live) => Err(error),
        }
    }

    /// Bans a user and an address, or a user and a block, in turns.
    fn ban(self, host: usize, admin: &Path, stop: &AtomicBool) -> Result<Counted> {
        let (mut counted, since) = (Counted::default(), Instant::now());
        let round = self.round;
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let user = format!("user{round}-{host}-{number}");
            let place = format!("2001:db8:{round:x}{host:x}:{number:x}::");
            let ip = if number % 2 == 0 { format!("{place}/64") } else { format!("{place}7/128") };
            let begun = Instant::now();
            let body = json!({ "user": user, "ip": ip });
            if self.answered(Caller::new(admin).post("/v1/bans", &body))?.is_some() {
                counted.took(begun, since);
                counted.acknowledged.insert(user);
            }
            thread::sleep(self.pace.ban); // paces: so many bans a second
        }
        Ok(counted)
    }

    /// One question after the other, each about somebody else.
    fn ask(self, api: &Path, stop: &AtomicBool) -> Result<Counted> {
        let (mut counted, since) = (Counted::default(), Instant::now());
        let mut app = Caller::new(api);
        while !stop.load(Ordering::Relaxed) {
            let user = format!("visitor{}-{}", self.round, counted.decisions);
            let begun = Instant::now();
            match self.answered(app.event("message", &json!({ "user": user })))? {
                Some(decision) => {
                    ensure!(decision["decision"] == "allow", "{user}: {decision}");
                    counted.took(begun, since);
                    counted.decisions += 1;
                    thread::sleep(self.pace.ask); // paces: a load that lasts for minutes
                }
                None => {
                    app = Caller::new(api);
                    thread::sleep(BREATH); // paces: until the host is there again
                }
            }
        }
        Ok(counted)
    }
}
