//! `bench redis`: decisions per second and how long one takes, when they are counted in
//! Redis together with other hosts: through a daemon, and beside that by plain clients that
//! run a sliding-window script of their own on the same server, with one round trip a
//! decision. That script is the algorithm of Upstash's ratelimit, two fixed windows of which
//! the last one counts in part, which allows more than the limit in some windows; ours does
//! not. Both were seen to allow and to deny before.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::api::case::{Case, ratio};
use super::api::load::{self, MAX, Service, Sources, WINDOW};
use super::api::ours::Ours;
use super::api::redis::{command, decisions};
use super::report::{Goal, Report, Row};
use super::sample::ROUNDS;
use crate::interrupt;
use crate::redis::{Redis, Wire};
use crate::wait;

/// Patience with two programs that find each other.
const PATIENCE: Duration = Duration::from_secs(20);

const PEER: &str = "plain clients, sliding window script";

/// Returns how much is left, or -1.
const SCRIPT: &str = "\
local current = tonumber(redis.call('GET', KEYS[1]) or '0')
local previous = tonumber(redis.call('GET', KEYS[2]) or '0')
local max, now, window = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local counted = math.floor((1 - (now % window) / window) * previous)
if counted + current >= max then return -1 end
local used = redis.call('INCR', KEYS[1])
if used == 1 then redis.call('PEXPIRE', KEYS[1], window * 2 + 1000) end
return max - (used + counted)";

/// Clients without a daemon.
struct Plain {
    socket: PathBuf,
    digest: String,
    names: RefCell<Vec<String>>,
}

impl Plain {
    fn new(server: &Redis) -> Result<Self> {
        let digest = server.ask(&["SCRIPT", "LOAD", SCRIPT])?;
        ensure!(digest.len() == 40, "redis-server does not take the script: {digest}");
        Ok(Self { socket: server.socket(), digest, names: RefCell::default() })
    }
}

impl Service for Plain {
    fn socket(&self) -> &Path {
        &self.socket
    }

    fn ask(&self, sources: &[u32], request: &mut Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let window = WINDOW.as_millis();
        let number = now / window;
        let (now, window, max) = (now.to_string(), window.to_string(), MAX.to_string());
        let mut names = self.names.borrow_mut();
        for source in sources {
            names.clear();
            names.extend([number, number - 1].map(|it| format!("plain:user-{source:08x}:{it}")));
            let script = ["EVALSHA", &self.digest, "2", &names[0], &names[1], &max, &now, &window];
            command(request, &script);
        }
    }

    fn decisions(&self, sources: usize, answer: &[u8]) -> Result<Option<Vec<bool>>> {
        decisions(sources, answer)
    }
}

/// A daemon that counts on that server.
fn ours(server: &Redis) -> Result<Ours> {
    let uri = format!("redis+unix://{}", server.socket().display());
    // The other side has no bound either: a busy machine must not have ours decide alone.
    let redis = json!({ "enabled": true, "uri": uri, "bound": "1s" });
    let ours = Ours::with(json!({ "redis": redis }))?;
    wait::until("the daemon to count in Redis", PATIENCE, || {
        Ok((ours.status()?["redis"]["shared"] == true).then_some(()))
    })?;
    Ok(ours)
}

pub(super) fn run() -> Result<Report> {
    let server = Redis::start()?;
    let (mut ours, mut peer) = (ours(&server)?, Plain::new(&server)?);
    load::judge(&mut ours)?;
    load::judge(&mut peer)?;
    let mut cases = Case::all();
    let (mut of_ours, mut of_theirs) = (Sources::default(), Sources::default());
    for round in 0..ROUNDS {
        eprintln!("redis: round {} of {ROUNDS}", round + 1);
        for case in &mut cases {
            interrupt::check()?;
            case.measure((&mut ours, &mut of_ours), (&mut peer, &mut of_theirs))?;
            // Neither is to be slowed down by what the other left.
            Wire::open(server.port())?.ask(&["FLUSHALL"])?;
        }
    }
    was_counted_there(&ours)?;
    let (rows, goals) = conclude(&cases);
    Report::new("redis", rows, goals)
}

/// How often it was not, because Redis was too slow for its bound, is told with the figures:
/// those decisions would make ours look better.
fn was_counted_there(ours: &Ours) -> Result<()> {
    let text = ours.metrics()?;
    let count = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
    };
    let there = count("moderation_redis_decisions_total")?;
    let alone = count("moderation_redis_decisions_alone_total")?
        + count("moderation_redis_decisions_in_vain_total")?;
    eprintln!("redis: {there} decisions were counted there, {alone} were not");
    ensure!(alone < there / 100.0, "{alone} decisions were not counted in Redis, {there} were");
    Ok(())
}

fn conclude(cases: &[Case]) -> (Vec<Row>, Vec<Goal>) {
    let rows = cases.iter().flat_map(|case| case.rows(PEER)).collect();
    let mut goals = Vec::new();
    if let Some(many) = cases.iter().find(|case| case.is_of_many()) {
        let decisions = ratio(&many.ours.per_second, &many.theirs.per_second);
        goals.push(Goal::at_least("decisions_vs_plain_64", 1.0, decisions));
        goals.push(Goal::below("p99_vs_plain_64", 1.0, ratio(&many.ours.p99, &many.theirs.p99)));
    }
    (rows, goals)
}
