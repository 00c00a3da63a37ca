//! The replay: made-up traffic through LibreChat's libraries and through our engine,
//! event by event, under many settings.

pub(crate) mod compare;
mod files;
pub(crate) mod ours;
pub(crate) mod traffic;
mod worlds;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use moderation_daemon::engine::{Bearer, Change, Decay, Decision, PrefixSet, Rules};
use moderation_tests::need;
use serde_json::json;
use tempfile::tempdir;

use crate::differences::{Differences, Room};
use crate::harness::Harness;
use compare::Theirs;
use files::Kept;
use ours::{Ours, Said};
use traffic::{Event, Next, Traffic, is_slow};
use worlds::{World, worlds};

/// In each of [`worlds`]: in all more than the 100,000 that the issue wants.
const EVENTS: usize = 8_000;
/// How often other worlds are made up, and all replayed, when there is time.
const LONG_ROUNDS: u64 = 10;
const SEED: u64 = 904;
/// 2026-07-01.
pub(crate) const BEGIN_MS: u64 = 1_782_864_000_000;
/// Events between two sweeps.
const SWEEP: usize = 97;

/// What the replay is without: the circuit, which LibreChat does not have, has a story
/// of its own.
const OWN: &str = "bans: {max_per_minute: 1000000}\n";

#[test]
fn the_engine_does_what_librechat_does() -> Result<()> {
    let Some(mut harness) = Harness::start()? else {
        return Ok(());
    };
    let mut differences = Differences::of(Room::Replay)?;
    let rounds = if need::is_long() { LONG_ROUNDS } else { 1 };
    let worlds: Vec<World> = (0..rounds).flat_map(|round| worlds(SEED + round)).collect();
    let mut total = Tally::default();
    for (number, world) in worlds.iter().enumerate() {
        let seed = SEED + number as u64;
        let tally = replay(&mut harness, world, seed, &mut differences)
            .with_context(|| format!("in {}: {:?}", world.name, world.env))?;
        println!("{}: {tally:?}", world.name);
        total.add(&tally);
    }
    println!("in all: {total:?}");
    differences.finish()?;
    // Otherwise the replay says little.
    ensure!(total.events >= 100_000, "too few events");
    ensure!(total.violations > 10_000 && total.bans > 500 && total.banned > 1_000, "too quiet");
    Ok(())
}

/// What there was to compare.
#[derive(Debug, Default)]
struct Tally {
    events: usize,
    allowed: usize,
    violations: usize,
    bans: usize,
    banned: usize,
    rows: usize,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.allowed += other.allowed;
        self.violations += other.violations;
        self.bans += other.bans;
        self.banned += other.banned;
        self.rows += other.rows;
    }
}

fn replay(
    harness: &mut Harness,
    world: &World,
    seed: u64,
    differences: &mut Differences,
) -> Result<Tally> {
    let folder = tempdir()?;
    let ours = Ours::new(&world.env, folder.path(), OWN, PrefixSet::default())?;
    begin(harness, &world.env, folder.path())?;
    let traffic = Traffic::new(seed, BEGIN_MS);
    let uses_redis = world.env.iter().any(|(name, _)| name == "USE_REDIS");
    let mut replay = Replay {
        harness,
        ours,
        traffic,
        kept: Kept::default(),
        uses_redis,
        tally: Tally::default(),
        differences,
    };
    let mut now = BEGIN_MS;
    while replay.tally.events < EVENTS {
        now = match replay.traffic.next() {
            Next::Release { user, at } => replay.release(&user, at)?,
            Next::Renew { user, at } => {
                replay.ours.renew(&user, at);
                at
            }
            Next::Event(event) => {
                let at = replay.event(&event);
                at.with_context(|| format!("event {}: {event:?}", replay.tally.events))?
            }
        };
        if replay.tally.events.is_multiple_of(SWEEP) {
            replay.ours.sweep(now);
        }
    }
    replay.harness.ask::<()>(&json!({ "ask": "files" }))?;
    replay.tally.rows = files::compare(&replay.kept, folder.path(), now, replay.differences)?;
    Ok(replay.tally)
}

/// A new LibreChat with these settings, at the beginning of time.
pub(crate) fn begin(harness: &mut Harness, env: &ours::Env, folder: &Path) -> Result<()> {
    let env: serde_json::Map<String, serde_json::Value> =
        env.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    harness.ask(&json!({ "ask": "begin", "env": env, "folder": folder, "at": BEGIN_MS }))
}

struct Replay<'a> {
    harness: &'a mut Harness,
    ours: Ours,
    traffic: Traffic,
    kept: Kept,
    uses_redis: bool,
    tally: Tally,
    differences: &'a mut Differences,
}

impl Replay<'_> {
    fn release(&mut self, user: &str, at: u64) -> Result<u64> {
        self.ours.release(user, at);
        self.harness.ask::<()>(&json!({ "ask": "release", "at": at, "user": user }))?;
        Ok(at)
    }

    fn event(&mut self, event: &Event) -> Result<u64> {
        self.tally.events += 1;
        let at = event.at;
        let said = self.ours.say(event)?;
        let theirs = judge(self.harness, event, &said)?;
        let decision = match said {
            Said::Banned(ban) => {
                self.tally.banned += 1;
                if let Some(end) =
                    ban.expires_at_unix_ms.filter(|_| self.tally.banned.is_multiple_of(8))
                {
                    self.traffic.again(event, end);
                }
                if theirs.ban.is_none() {
                    let prefix = ban.prefix.context("LibreChat does not ban the user")?;
                    let mapped = prefix.net().addr().is_ipv4();
                    ensure!(mapped && event.ip.contains("203.0.113."), "LibreChat does not ban");
                    self.differences.note("mapped_ban")?;
                }
                return Ok(at);
            }
            Said::Decided(decision) => decision,
        };
        if let Some(ban) = &theirs.ban {
            self.differences.note(unanswered(ban, theirs.left)?)?;
            return Ok(at);
        }
        if let Some(pending) = theirs.pending {
            ensure!(event.user.as_deref().is_some_and(is_slow), "{pending} at once");
            self.differences.note("lease_lifetime")?;
            return Ok(at);
        }
        compare::same(&self.ours.rules, event, &decision, &theirs, self.differences)
            .with_context(|| format!("LibreChat says {theirs:?}"))?;
        self.keep(event, &decision);
        self.ours.apply(event, *decision);
        Ok(at)
    }

    /// What happened leaves traces, and moments at which something will end.
    fn keep(&mut self, event: &Event, decision: &Decision) {
        let outcome = &decision.outcome;
        for count in &outcome.counts {
            self.traffic.ends_at(ours::unix_ms(count.usage.frees_at_boot_ms));
        }
        if outcome.lease.is_some() {
            self.traffic.admitted(event);
        }
        self.tally.allowed += usize::from(outcome.cause.is_none());
        if let Some(ban) = &outcome.ban {
            self.tally.bans += 1;
            self.traffic.ends_at(ban.expires_at_unix_ms.unwrap_or(event.at));
        }
        let Some(violation) = outcome.violation.as_deref() else { return };
        self.tally.violations += 1;
        let rules = &self.ours.rules;
        let ends = outcome.ban.as_ref().map(|ban| ban.expires_at_unix_ms);
        let record = compare::record(rules, violation, ends);
        let Bearer::User(user) = &violation.bearer else { return };
        let kind = violation.kind;
        let log = if self.uses_redis {
            format!("violations:{kind}:{user}")
        } else {
            format!("violations:{user}")
        };
        let score = record["violation_count"].clone();
        self.kept.logs.entry(log).or_default().push(record);
        let expires = expiry(rules, decision);
        if let Some(expires) = expires {
            self.traffic.ends_at(expires);
        }
        let key = if self.uses_redis {
            format!("violations:{kind}:{kind}:{user}")
        } else {
            format!("violations:{kind}:{user}")
        };
        self.kept.scores.insert(key, (score, expires));
    }
}

/// What a ban of LibreChat's is called that does not hold here; fails if it should.
fn unanswered(ban: &str, left: Option<f64>) -> Result<&'static str> {
    if ban == "copy" {
        return Ok("copied_ban");
    }
    ensure!(ban == "record", "LibreChat bans by {ban:?}");
    ensure!(left.is_some_and(|ms| ms <= 1.0), "LibreChat bans for {left:?} ms more");
    Ok("last_millisecond")
}

#[test]
fn a_ban_of_librechat_s_is_missed_in_its_last_millisecond_only() {
    let cases = [
        ("copy", Some(7_200_000.0), true),
        ("record", Some(0.0), true),
        ("record", Some(1.0), true),
        ("record", Some(2.0), false),
        ("record", Some(7_200_000.0), false),
        ("record", None, false),
        ("", Some(0.0), false),
    ];
    for (ban, left, is_known) in cases {
        assert_eq!(unanswered(ban, left).is_ok(), is_known, "{ban}, {left:?}");
    }
}

/// When the score that a decision changed is forgotten.
fn expiry(rules: &Rules, decision: &Decision) -> Option<u64> {
    let updated = decision.changes.iter().find_map(|change| match change {
        Change::Score(_, score) => Some(score.updated_at_unix_ms),
        _ => None,
    });
    match rules.scoring.decay {
        Decay::Ttl { ms } => updated.map(|at| at + ms),
        Decay::Never | Decay::HalfLife { .. } => None,
    }
}

/// Asks LibreChat, whatever we say, with its checks in its own order.
pub(crate) fn judge_apart(harness: &mut Harness, event: &Event) -> Result<Theirs> {
    harness.ask(&json!({ "ask": "judgeApart", "event": event }))
}

/// Asks LibreChat, telling it what we say, so that nothing happens there where it
/// says otherwise.
pub(crate) fn judge(harness: &mut Harness, event: &Event, ours: &Said) -> Result<Theirs> {
    let (banned, admitted) = match ours {
        Said::Banned(_) => (true, false),
        Said::Decided(decision) => (false, decision.outcome.cause.is_none()),
    };
    harness.ask(&json!({ "ask": "judge", "event": event, "banned": banned, "admitted": admitted }))
}
