//! `bench propagation`: from an operator's ban on one host to the first dropped packet on
//! another, which learns of it through MongoDB: told by a replica set, or by asking a
//! server that stands alone; or by message, where there is a Redis besides. There is no
//! peer.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use moderation_daemon::api::client::Client;
use serde_json::{Value, json};

use super::latency::own_all;
use super::list;
use super::ours;
use super::report::{Goal, Report, Row};
use crate::counter::KernelCounters;
use crate::daemon::{Daemon, Setup};
use crate::lab::{ABUSER_V4, INTERFACE, Lab};
use crate::mongod::{Server, Set};
use crate::range::Range;
use crate::redis::Redis;
use crate::times::Times;
use crate::wait;

/// Bans timed in each case: enough for a 99th percentile.
const SAMPLES: usize = 300;
/// Room for them.
const CAPACITY: u32 = 10_000;
/// Patience with a start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the sources begin.
const FIRST: u32 = 1 << 25;

/// Runs it.
pub(super) fn run() -> Result<Report> {
    let mut rows = Vec::new();
    let mut goals = Vec::new();
    let set = Set::start(1)?;
    let told = samples("change_stream", &set.members[0].uri(), None)?;
    rows.extend(conclude("change_stream", &told));
    goals.push(Goal::below("p99_ms_change_stream", 50.0, told.percentile_ms(99)));
    drop(set);
    // Another database: the last one knows whom the first case banned.
    let (set, redis) = (Set::start(1)?, Redis::start()?);
    let heard = samples("pub_sub", &set.members[0].uri(), Some(&redis))?;
    rows.extend(conclude("pub_sub", &heard));
    goals.push(Goal::below("p99_ms_pub_sub", 10.0, heard.percentile_ms(99)));
    drop((set, redis));
    let alone = Server::alone()?;
    let asked = samples("polling", &alone.uri(), None)?;
    rows.extend(conclude("polling", &asked));
    Report::new("propagation", rows, goals)
}

fn samples(case: &str, uri: &str, redis: Option<&Redis>) -> Result<Times> {
    let lab = Lab::new()?;
    own_all(&lab.abuser, &lab.router, ABUSER_V4)?;
    let here = Setup::new().inside(&lab.bystander);
    let off = json!({ "network": { "mode": "off" } });
    let banning = sharing(here, uri, redis, "alpha", off)?;
    let there = Setup::new().inside(&lab.host).interface(INTERFACE);
    let dropping = sharing(there, uri, redis, "beta", ours::configuration(CAPACITY))?;
    let counters = KernelCounters::open(dropping.pin_root())?;
    let range = Range::build(&lab, &counters)?;
    let mut operator = banning.admin();
    let time = |number: usize| {
        if number.is_multiple_of(50) {
            eprintln!("propagation: {case}, {number} of {SAMPLES}");
        }
        let source = list::address(FIRST + u32::try_from(number)?);
        range.time_with(source, || ban(&mut operator, source))
    };
    (0..SAMPLES).map(time).collect()
}

/// A daemon that shares its bans, once it does.
fn sharing(
    setup: Setup,
    uri: &str,
    redis: Option<&Redis>,
    host: &str,
    mut overrides: Value,
) -> Result<Daemon> {
    overrides["mongodb"] = json!({ "enabled": true, "host": host });
    if let Some(redis) = redis {
        // By its Unix socket, which every network namespace reaches.
        let uri = format!("redis+unix://{}", redis.socket().display());
        overrides["redis"] = json!({ "enabled": true, "uri": uri });
    }
    let daemon = setup
        .overrides(overrides)
        .credential("mongo-uri", uri)
        .credential("ledger-key", "a key that both hosts share")
        .start()?;
    wait::until("a host to share its bans", PATIENCE, || {
        let status = &daemon.status()?["sharing"];
        let is_sharing = status["state"] == "following" || status["state"] == "polling";
        let is_heard = redis.is_none() || status["messages"]["listening"] == true;
        Ok((is_sharing && is_heard).then_some(()))
    })?;
    Ok(daemon)
}

fn ban(operator: &mut Client, source: IpAddr) -> Result<()> {
    let response = operator.post("/v1/bans", &json!({ "ip": source, "duration": "1h" }))?;
    ensure!(response.status == 201, "{source} was not banned: {}", response.body);
    Ok(())
}

fn conclude(case: &str, times: &Times) -> [Row; 2] {
    [50, 99].map(|percent| Row::percentile(percent, case, times))
}
