//! `moderationctl doctor` about Redis: what is well, and of what is not, what to do about it.

use anyhow::{Context, Result, ensure};
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::redis::{Cluster, Redis};
use moderation_tests::wait;
use serde_json::{Value, json};

use crate::daemons::{PATIENCE, host, together};
use crate::script::is_here;

fn report(daemon: &Daemon) -> Result<(Value, Option<i32>)> {
    let finished = daemon.ctl(&["--json", "doctor"])?;
    let report: Value = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("no report: {}{}", finished.stdout, finished.stderr))?;
    Ok((report, finished.status.code()))
}

/// All findings of a check, as grade, text and advice.
fn findings(report: &Value, check: &str) -> Result<Vec<(String, String)>> {
    let sections = report["sections"].as_array().context("sections")?;
    let redis = sections.iter().find(|it| it["name"] == "redis").context("a section")?;
    let all = redis["findings"].as_array().context("findings")?;
    let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
    let told = |it: &Value| format!("{} -> {}", text(&it["text"]), text(&it["advice"]));
    let of = all.iter().filter(|it| it["check"] == check);
    Ok(of.map(|it| (text(&it["grade"]), told(it))).collect())
}

fn finding(report: &Value, check: &str) -> Result<(String, String)> {
    findings(report, check)?.into_iter().next().with_context(|| format!("no {check}: {report}"))
}

/// A daemon that comes as this user.
fn known_as(redis: &Redis, user: &str, rights: &[&str]) -> Result<Daemon> {
    let rule = ["ACL", "SETUSER", user, "on", ">tr0ub4dor", "~moderation:*", "&moderation:*"];
    let answer = redis.ask(&[&rule[..], rights].concat())?;
    ensure!(answer == "OK", "ACL SETUSER: {answer}");
    let overrides = json!({
        "network": { "mode": "off" },
        "redis": { "enabled": true, "bound": "500ms", "longest_pause": "200ms" },
    });
    let uri = format!("redis://{user}:tr0ub4dor@127.0.0.1:{}", redis.port());
    Setup::new().overrides(overrides).credential("redis-uri", &uri).start()
}

/// As docs/counting.md has them.
const RIGHTS: [&str; 13] = [
    "+eval",
    "+evalsha",
    "+get",
    "+set",
    "+del",
    "+pexpire",
    "+pttl",
    "+type",
    "+time",
    "+hmget",
    "+hset",
    "+publish",
    "+subscribe",
];

#[test]
fn a_doctor_finds_all_well_and_leaves_nothing_behind() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let redis = Redis::start()?;
    let daemon = host(&redis.uri(), &Value::Null)?;
    let (report, code) = report(&daemon)?;
    for check in ["counting", "connection", "rights", "eviction", "clock"] {
        ensure!(finding(&report, check)?.0 == "ok", "{check}: {report}");
    }
    ensure!(code == Some(0) && findings(&report, "cluster")?.is_empty(), "{report}");
    let keys = redis.keys()?;
    ensure!(keys.iter().all(|key| key.ends_with(":epoch")), "{keys:?}");
    ensure!(daemon.status()?["redis"]["shared"] == true, "it was in the way");
    Ok(())
}

#[test]
fn the_rights_that_are_documented_suffice_and_those_that_lack_are_named() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let redis = Redis::start()?;
    let daemon = known_as(&redis, "all", &RIGHTS)?;
    together(&daemon)?;
    let (told, code) = report(&daemon)?;
    ensure!(finding(&told, "rights")?.0 == "ok" && code == Some(0), "{told}");
    let (grade, text) = finding(&told, "eviction")?;
    ensure!(grade == "warning" && text.contains("+info"), "{text}");

    for lacking in RIGHTS {
        let rights: Vec<_> = RIGHTS.into_iter().filter(|it| *it != lacking).collect();
        let daemon = known_as(&redis, &format!("no{}", &lacking[1..]), &rights)?;
        let (report, code) = report(&daemon)?;
        let (grade, text) = finding(&report, "rights")?;
        ensure!(grade == "problem" && code == Some(1), "{lacking}: {report}");
        let want = format!(
            "not permitted: {} -> ACL SETUSER USER ~moderation:* &moderation:* {lacking}",
            &lacking[1..]
        );
        ensure!(text == want, "{lacking}: {text}");
        ensure!(!report.to_string().contains("tr0ub4dor"), "{report}");
    }
    let daemon = known_as(&redis, "elsewhere", &["resetkeys", "~other:*"])?;
    let (told, _) = report(&daemon)?;
    ensure!(finding(&told, "rights")?.1.contains("get, set, del"), "{told}");
    Ok(())
}

#[test]
fn a_doctor_says_what_to_do_about_a_redis_that_forgets_is_wrong_or_is_gone() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let mut redis = Redis::start()?;
    let daemon = host(&redis.uri(), &Value::Null)?;
    redis.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])?;
    let (told, code) = report(&daemon)?;
    ensure!(finding(&told, "eviction")?.0 == "ok" && code == Some(0), "without a bound: {told}");
    redis.ask(&["CONFIG", "SET", "maxmemory", "100mb"])?;
    let (told, code) = report(&daemon)?;
    let (grade, text) = finding(&told, "eviction")?;
    ensure!(grade == "problem" && text.contains("noeviction") && code == Some(1), "{told}");
    redis.ask(&["REPLICAOF", "127.0.0.1", "1"])?;
    let (told, _) = report(&daemon)?;
    ensure!(finding(&told, "role")?.1.contains("name the master"), "{told}");
    redis.kill()?;
    let told = wait::until("a host to count alone", PATIENCE, || {
        let (told, _) = report(&daemon)?;
        Ok((finding(&told, "counting")?.0 == "problem").then_some(told))
    })?;
    let (grade, text) = finding(&told, "connection")?;
    ensure!(grade == "problem" && text.contains("start redis-server"), "{told}");
    Ok(())
}

#[test]
fn a_doctor_looks_at_every_node_of_a_cluster() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let mut cluster = Cluster::start()?;
    let daemon = host(&cluster.uris().join(","), &Value::Null)?;
    let (told, code) = report(&daemon)?;
    for check in ["connection", "rights", "cluster"] {
        let all = findings(&told, check)?;
        ensure!(all.len() == 3 && all.iter().all(|(grade, _)| grade == "ok"), "{told}");
    }
    ensure!(code == Some(0), "{told}");
    // A user of a cluster has to find its nodes, besides.
    for node in cluster.nodes() {
        let rule = ["ACL", "SETUSER", "all", "on", ">tr0ub4dor", "~moderation:*", "&moderation:*"];
        let answer = node.ask(&[&rule[..], &RIGHTS, &["+cluster|slots"]].concat())?;
        ensure!(answer == "OK", "ACL SETUSER: {answer}");
    }
    let uris = cluster.uris().join(",").replace("//", "//all:tr0ub4dor@");
    let overrides = json!({ "network": { "mode": "off" }, "redis": { "enabled": true } });
    let known = Setup::new().overrides(overrides).credential("redis-uri", &uris).start()?;
    together(&known)?;
    let overrides = json!({
        "network": { "mode": "off" }, "redis": { "enabled": true, "uri": cluster.uris()[0] },
    });
    let alone = Setup::new().overrides(overrides).start()?;
    let (told, code) = report(&alone)?;
    let (grade, text) = finding(&told, "cluster")?;
    ensure!(grade == "problem" && text.contains("redis.cluster to true"), "{told}");
    ensure!(code == Some(1), "{told}");
    Ok(())
}
