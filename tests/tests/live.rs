//! What goes on while the daemon runs: sources that connect too often are banned,
//! operators see who is busy and what is dropped, guards come and go, and not
//! every ban drops packets.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{Array, Map, MapData};
use ipnet::IpNet;
use moderation_common::Reason;
use moderation_common::map::CONTROL;
use moderation_daemon::network::{AllowMaps, BanMaps, Guards, Pins, Rates, Table};
use moderation_tests::chat::{self, Chat};
use moderation_tests::daemon::Setup;
use moderation_tests::lab::{CLIENT_V4, Pair};
use moderation_tests::scene::{ALLOWED, QUIET, Scene};
use moderation_tests::visitor::Outcome;
use moderation_tests::{need, wait};
use serde_json::{Value, json};

/// For what happens sooner or later.
const LONG: Duration = Duration::from_secs(20);
/// For attempts of which nobody awaits the end.
const AT_ONCE: Duration = Duration::from_millis(5);

/// Handshakes of one source that are no violation.
const LIMIT: usize = 5;

/// Waits until the daemon knows of so many handshakes beyond the limit.
fn await_overruns(scene: &Scene, wanted: usize) -> Result<()> {
    let wanted = u64::try_from(wanted)?;
    wait::until("handshakes beyond the limit", LONG, || {
        let found = scene.metric("moderation_connection_overruns_total")?;
        ensure!(found <= wanted, "{found} instead of {wanted}");
        Ok((found == wanted).then_some(()))
    })
}

fn violations(scene: &Scene) -> Result<u64> {
    scene.metric("moderation_violations_total{type=\"connection_rate\"}")
}

/// The entry of a source in a part of what `top` tells.
fn busy<'a>(top: &'a Value, part: &str, ip: Ipv4Addr) -> Option<&'a Value> {
    let mut sources = top[part]["sources"].as_array()?.iter();
    sources.find(|rate| rate["source"] == ip.to_string())
}

#[test]
fn who_connects_too_often_is_banned_and_who_is_allowed_to_is_not() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let Some(scene) = Scene::counting(LIMIT, &json!({ "interval": 3 }))? else { return Ok(()) };
    scene.connect(LIMIT - 1, QUIET)?;
    scene.connect(LIMIT + 20, ALLOWED)?;
    scene.connect(LIMIT + 2, CLIENT_V4)?;
    await_overruns(&scene, 22)?;
    wait::until("two violations", LONG, || Ok((violations(&scene)? == 2).then_some(())))?;
    assert_eq!(scene.ban_of(CLIENT_V4)?, Value::Null, "the score is below the interval");

    scene.connect(1, CLIENT_V4)?;
    let ban = scene.await_ban(CLIENT_V4)?;
    assert_eq!(
        (&ban["violation"], &ban["address"]),
        (&json!("connection_rate"), &json!(CLIENT_V4))
    );
    assert_eq!((&ban["enforced"], &ban["network"]), (&json!(true), &json!("blocked")), "{ban}");
    let before = scene.packets(Reason::BanV4)?;
    assert_eq!(scene.visitor(CLIENT_V4).look(), Outcome::Timeout);
    assert!(scene.packets(Reason::BanV4)? > before);
    for ip in [QUIET, ALLOWED] {
        assert_eq!(scene.ban_of(ip)?, Value::Null, "{ip}");
        scene.connect(1, ip)?;
    }
    assert_eq!(violations(&scene)?, 3, "nobody else's");
    Ok(())
}

#[test]
fn who_is_banned_already_gains_nothing_by_more_connections() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let bans = json!({ "interval": 3, "network_block": "never" });
    let Some(scene) = Scene::counting(LIMIT, &bans)? else { return Ok(()) };
    scene.connect(LIMIT + 3, CLIENT_V4)?;
    let ban = scene.await_ban(CLIENT_V4)?;
    assert_eq!(ban["network"], "never", "{ban}");
    // The kernel lets them through.
    scene.connect(10, CLIENT_V4)?;
    await_overruns(&scene, 13)?;
    // All before this one have been judged.
    scene.connect(LIMIT + 3, QUIET)?;
    scene.await_ban(QUIET)?;
    assert_eq!(violations(&scene)?, 6);
    assert_eq!(scene.ban_of(CLIENT_V4)?["id"], ban["id"]);
    Ok(())
}

#[test]
fn top_shows_who_connects_and_who_tries_too_often() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let Some(scene) = Scene::counting(LIMIT, &json!({ "enabled": false }))? else { return Ok(()) };
    scene.connect(LIMIT + 2, CLIENT_V4)?;
    scene.connect(1, QUIET)?;
    await_overruns(&scene, 2)?;
    let by_hand = scene.get("/v1/top")?;
    let by_ctl = scene.ctl(&["top", "--once"])?;
    assert_eq!(by_ctl.len(), 1);
    for top in [&by_hand, &by_ctl[0]] {
        assert_eq!(top["handshakes"]["limit"], LIMIT, "{top}");
        let busiest = json!({ "source": CLIENT_V4, "count": LIMIT + 2, "excess": 2 });
        assert_eq!(top["handshakes"]["sources"][0], busiest, "{top}");
        let other = json!({ "source": QUIET, "count": 1, "excess": 0 });
        assert_eq!(top["handshakes"]["sources"][1], other, "{top}");
        assert_eq!(top["attempts"]["sources"], json!([]), "{top}");
    }
    let only = scene.get("/v1/top?limit=1")?;
    assert_eq!(only["handshakes"]["sources"].as_array().map(Vec::len), Some(1), "{only}");
    let text = scene.daemon.ctl(&["top", "--once"])?.success()?;
    let line = text.lines().find(|line| line.split_whitespace().next() == Some("192.0.2.2"));
    let words: Vec<_> = line.context(text.clone())?.split_whitespace().collect();
    assert_eq!(words, ["192.0.2.2", "7", "2", "over", "the", "limit"], "{text}");
    Ok(())
}

#[test]
fn a_source_that_has_become_quiet_makes_room_in_the_exact_table() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::new(json!({ "network": { "syn": { "limit": 20, "window": "2s" } } }))?;
    let flooding = scene.visitor(CLIENT_V4).patience(AT_ONCE);
    let counted = || -> Result<usize> { Ok(Rates::open(&scene.pins(), Table::Heavy)?.len()?) };
    wait::until("a source to be counted exactly", LONG, || {
        for _ in 0..30 {
            flooding.connect().err();
        }
        Ok((counted()? == 1).then_some(()))
    })?;
    wait::until("it to be forgotten", LONG, || Ok((counted()? == 0).then_some(())))
}

#[test]
fn top_shows_attempts_beyond_the_limit_which_are_dropped() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::new(json!({ "network": { "syn": { "limit": 20, "window": "10s" } } }))?;
    let flooding = scene.visitor(CLIENT_V4).patience(AT_ONCE);
    let mut top = Value::Null;
    let seen = wait::until("a flood to be seen", LONG, || {
        for _ in 0..30 {
            flooding.connect().err();
        }
        top = scene.get("/v1/top")?;
        let Some(rate) = busy(&top, "attempts", CLIENT_V4) else { return Ok(None) };
        Ok((rate["count"].as_u64() > Some(20) && rate["excess"].as_u64() > Some(0)).then_some(()))
    });
    seen.with_context(|| top.to_string())?;
    assert_eq!(
        (&top["attempts"]["limit"], &top["attempts"]["window_ms"]),
        (&json!(20), &json!(10_000))
    );
    assert!(top["packets"]["syn_rate"]["packets"].as_u64() > Some(0), "{top}");
    let told = scene.ctl(&["top", "--once"])?;
    assert!(busy(&told[0], "attempts", CLIENT_V4).is_some(), "{told:?}");
    let text = scene.daemon.ctl(&["top", "--once"])?.success()?;
    assert!(text.contains("syn_rate") && text.contains("over the limit"), "{text}");
    // They can be forged: nobody is banned for them.
    assert_eq!(scene.ban_of(CLIENT_V4)?, Value::Null);
    Ok(())
}

/// One dropped packet in so many is sampled; 0: none.
fn sample_every(pins: &Pins) -> Result<u32> {
    let control = MapData::from_pin(pins.map(CONTROL))?;
    let control: Array<_, [u32; 6]> = Array::try_from(Map::Array(control))?;
    let [_, _, _, _, sample_every, _] = control.get(&0, 0)?;
    Ok(sample_every)
}

#[test]
fn watch_shows_dropped_packets_while_somebody_asks() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::new(Value::Null)?;
    scene.ban("192.0.2.2")?;
    let visitor = scene.visitor(CLIENT_V4).patience(AT_ONCE);
    assert_eq!(sample_every(&scene.pins())?, 0);
    let samples = thread::scope(|scope| {
        let waiting = scope.spawn(|| scene.ctl(&["watch", "--count", "3"]));
        wait::until("three samples", LONG, || {
            visitor.connect().err();
            Ok(waiting.is_finished().then_some(()))
        })?;
        waiting.join().map_err(|_| anyhow!("a thread panicked"))?
    })?;
    assert_eq!(samples.len(), 3, "{samples:?}");
    for sample in &samples {
        assert_eq!(sample["source"], json!(CLIENT_V4), "{sample}");
        assert_eq!(sample["reason"], "ban_v4", "{sample}");
        assert_eq!((&sample["protocol"], &sample["port"]), (&json!(6), &json!(chat::PORT)));
        assert!(sample["bytes"].as_u64() > Some(40) && sample["at"].is_string(), "{sample}");
    }

    assert_eq!(sample_every(&scene.pins())?, 1, "it goes on for a while");
    let next = scene.get("/v1/watch?every=1")?["next"].clone();
    wait::until("sampling to end", LONG, || Ok((sample_every(&scene.pins())? == 0).then_some(())))?;
    let before = scene.packets(Reason::BanV4)?;
    assert_eq!(scene.visitor(CLIENT_V4).look(), Outcome::Timeout);
    assert!(scene.packets(Reason::BanV4)? > before);
    let seen = scene.get(&format!("/v1/watch?after={next}"))?;
    assert_eq!((&seen["samples"], &seen["next"]), (&json!([]), &next), "nobody asked: {seen}");
    wait::until("sampling to begin", LONG, || Ok((sample_every(&scene.pins())? == 1).then_some(())))
}

#[test]
fn of_several_who_watch_the_finest_wins_until_it_goes() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::new(Value::Null)?;
    let ask = |every: u32| scene.get(&format!("/v1/watch?every={every}"));
    wait::until("the finest to win", LONG, || {
        for every in [3, 2, 4] {
            ask(every)?;
        }
        Ok((sample_every(&scene.pins())? == 2).then_some(()))
    })?;
    for every in [2, 3, 4] {
        ask(every)?;
        assert_eq!(sample_every(&scene.pins())?, 2, "after somebody asked for {every}");
    }
    wait::until("the next to win", LONG, || {
        for every in [3, 4] {
            ask(every)?;
        }
        let every = sample_every(&scene.pins())?;
        ensure!(every != 4, "the coarsest of two");
        Ok((every == 3).then_some(()))
    })?;
    wait::until("sampling to end", LONG, || Ok((sample_every(&scene.pins())? == 0).then_some(())))
}

#[test]
fn without_pins_there_is_nothing_to_show_which_is_said() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let daemon = Setup::new().inside(&pair.host).start()?;
    for path in ["/v1/top", "/v1/watch"] {
        let response = daemon.admin().get(path)?;
        assert_eq!(response.status, 503, "{path}: {response:?}");
        assert!(response.body.to_string().contains("kernel-unavailable"), "{path}: {response:?}");
    }
    for arguments in [["top", "--once"], ["watch", "--count=1"]] {
        let finished = daemon.ctl(&arguments)?;
        assert!(!finished.status.success(), "{finished:?}");
        assert!(finished.stderr.contains("moderationctl status"), "{finished:?}");
    }
    Ok(())
}

/// A loader who has others guarded while the daemon runs.
fn guard(pins: &Pins, change: impl FnOnce(&mut Guards)) -> Result<()> {
    let mut guards = Guards::read(pins)?;
    change(&mut guards);
    let [guards, proxies] = [guards.guards, guards.proxies].map(Vec::from_iter);
    AllowMaps::open_guards(pins)?.set_guards(&guards, &proxies)?;
    Ok(())
}

/// One of them is banned alone, the other within a block.
#[test]
fn guards_that_come_and_go_are_followed_and_bans_that_stood_are_enforced_again() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::new(json!({ "network": { "reconcile_interval": "1s" } }))?;
    let _chat = Chat::open(&scene.pair.host, &scene.daemon.api_socket())?;
    let (pins, prefix) = (scene.pins(), IpNet::from(IpAddr::V4(CLIENT_V4)));
    scene.ban("192.0.2.64/26")?;
    scene.ban("192.0.2.2")?;
    for ip in [CLIENT_V4, QUIET] {
        assert_eq!(scene.visitor(ip).look(), Outcome::Timeout, "{ip}");
    }

    let quiet = IpNet::from(IpAddr::V4(QUIET));
    guard(&pins, |guards| guards.guards.extend([prefix, quiet]))?;
    let entry = wait::until("a guarded prefix to be listed", LONG, || {
        let list = scene.ctl(&["allow", "list"])?;
        let mut listed = list[0]["allowlist"].as_array().context("no list")?.iter();
        Ok(listed.find(|entry| entry["prefix"] == prefix.to_string()).cloned())
    })?;
    assert_eq!(entry["source"], "host", "{entry}");
    let again = ["ban", "--ip", "192.0.2.2", "--duration", "2h"];
    let refused = scene.daemon.ctl(&again)?;
    assert!(!refused.status.success() && refused.stderr.contains("guarded"), "{refused:?}");
    for ip in [CLIENT_V4, QUIET] {
        assert!(scene.visitor(ip).look().is_status(200), "{ip}");
        assert_eq!(scene.ban_of(ip)?, Value::Null, "{ip}");
    }
    // A look through the maps in between takes nothing for blocked that is not.
    wait::until("the entry to be taken out", LONG, || {
        Ok(BanMaps::open(&pins)?.get("192.0.2.2".parse()?)?.is_none().then_some(()))
    })?;
    let status = scene.daemon.status()?;
    assert_eq!(status["network"]["enforced"], 0, "{status}");

    guard(&pins, |guards| guards.guards.retain(|guard| ![prefix, quiet].contains(guard)))?;
    let maps = BanMaps::open(&pins)?;
    wait::until("bans that stood to be enforced again", LONG, || {
        let are_in = maps.get("192.0.2.2".parse()?)?.is_some()
            && maps.get("192.0.2.64/26".parse()?)?.is_some();
        Ok(are_in.then_some(()))
    })?;
    for ip in [CLIENT_V4, QUIET] {
        assert_eq!(scene.visitor(ip).look(), Outcome::Timeout, "{ip}");
        assert_eq!(scene.ban_of(ip)?["enforced"], true, "{ip}");
    }
    scene.daemon.ctl(&again)?.success()?;
    Ok(())
}

#[test]
fn not_every_ban_drops_packets() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let by_type = json!({ "non_browser": "repeat", "logins": "never" });
    let bans = json!({ "interval": 2, "network_block_by_type": by_type });
    let scene = Scene::new(json!({ "bans": bans }))?;
    let _chat = Chat::open(&scene.pair.host, &scene.daemon.api_socket())?;
    let violate = |kind: &str, ip: Ipv4Addr| -> Result<Value> {
        let violation = json!({ "type": kind, "ip": ip, "score": 2 });
        let response = scene.daemon.api().post("/v1/violations", &violation)?;
        ensure!(response.status == 200, "{response:?}");
        Ok(response.body["ban"].clone())
    };
    let first = violate("non_browser", CLIENT_V4)?;
    assert_eq!(first["network"], "never", "{first}");
    assert!(scene.ban_of(CLIENT_V4)?.is_object());
    assert!(scene.visitor(CLIENT_V4).look().is_status(200), "packets arrive");
    assert!(scene.visitor(CLIENT_V4).say("hello").is_status(403), "and are denied");
    // For another type it is the first time.
    let other = violate("logins", CLIENT_V4)?;
    assert_eq!(other["network"], "never", "{other}");
    let second = violate("non_browser", CLIENT_V4)?;
    assert_eq!(second["network"], "blocked", "{second}");
    assert_eq!(scene.visitor(CLIENT_V4).look(), Outcome::Timeout);

    for _ in 0..3 {
        let ban = violate("logins", QUIET)?;
        assert_eq!(ban["network"], "never", "{ban}");
        assert!(scene.visitor(QUIET).look().is_status(200));
        assert!(scene.visitor(QUIET).say("hello").is_status(403));
    }
    let lifted = scene.daemon.admin().delete(&format!("/v1/bans?ip={QUIET}"))?;
    assert!(lifted.is_success(), "{lifted:?}");
    assert!(scene.visitor(QUIET).say("hello").is_status(200));
    Ok(())
}
