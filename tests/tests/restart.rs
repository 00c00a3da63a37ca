//! What outlives the daemon, a reboot, and the kernel's half being taken away
//! under it: bans, scores, allowlist, numbers.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use moderation_common::{map::BANS_V4, v4_key};
use moderation_daemon::clock;
use moderation_daemon::network::{BanMaps, Pins};
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::chat::{self, Chat};
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::lab::{CLIENT_V4, HOST_V4, INTERFACE, Pair};
use moderation_tests::visitor::{Outcome, Visitor};
use moderation_tests::{need, wait};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
/// The daemon looks after the kernel every second; "within a few seconds".
const SOON: Duration = Duration::from_secs(5);

/// Loads and pins, as the loader does at boot, on no interface.
const PIN: [&str; 6] = ["xdp", "attach", "--mode", "off", "--interface", "lo"];

/// What the kernel holds, with how long it still does (`None`: for ever).
fn in_kernel(daemon: &Daemon) -> Result<HashMap<String, Option<Duration>>> {
    let entries = BanMaps::open(&Pins::new(daemon.pin_root()))?.all()?;
    let now_ns = clock::boot_ns();
    let left = entries.iter().map(|(address, entry)| {
        let is_permanent = entry.expires_at_ns == u64::MAX;
        let left = Duration::from_nanos(entry.expires_at_ns.saturating_sub(now_ns));
        (address.to_string(), (!is_permanent).then_some(left))
    });
    Ok(left.collect())
}

fn addresses(daemon: &Daemon) -> Result<Vec<String>> {
    let mut addresses: Vec<_> = in_kernel(daemon)?.into_keys().collect();
    addresses.sort();
    Ok(addresses)
}

/// A daemon on pins that somebody made before, or not.
fn on_pins(pinned: bool) -> Result<Option<Daemon>> {
    if !need::root() {
        return Ok(None);
    }
    let mut daemon = Setup::new().prepare()?;
    if pinned {
        daemon.ctl(&PIN)?.success()?;
    }
    daemon.start()?;
    Ok(Some(daemon))
}

fn network(daemon: &Daemon) -> Result<Value> {
    Ok(daemon.status()?["network"].take())
}

#[test]
fn a_stop_and_a_start_keep_bans_scores_allowlist_and_numbers() -> Result<()> {
    let Some(mut daemon) = on_pins(true)? else { return Ok(()) };
    let (mut app, mut operator) = (Caller::app(&daemon), Caller::operator(&daemon));
    let anna = json!({ "user": "anna", "ip": "192.0.2.7" });
    for score in 1..20 {
        assert_eq!(app.violation("logins", &anna)?["score"], score);
    }
    let mut nobody = json!({ "ip": "2001:db8::1", "score": 7 });
    app.violation("registrations", &nobody)?;
    operator.ban(&json!({ "user": "bert", "ip": "192.0.2.8", "duration": "1h" }))?;
    operator.ban(&json!({ "ip": "2001:db8:1::1", "duration": "permanent" }))?;
    let lifted = operator.ban(&json!({ "user": "carl", "ip": "192.0.2.9" }))?["id"].take();
    operator.delete(&format!("/v1/bans?id={lifted}"))?;
    operator.post("/v1/allowlist", &json!({ "prefix": "198.51.100.0/24", "note": "office" }))?;
    let before = operator.bans("all=true")?;

    assert!(daemon.stop()?.success());
    assert_eq!(addresses(&daemon)?, ["192.0.2.8", "2001:db8:1::/64"], "in force without it");
    daemon.start()?;

    let (mut app, mut operator) = (Caller::app(&daemon), Caller::operator(&daemon));
    let mut after = operator.bans("all=true")?;
    for (before, after) in before.iter().zip(&mut after) {
        after["remaining_ms"] = before["remaining_ms"].clone();
    }
    assert_eq!(before, after);
    assert_eq!(addresses(&daemon)?, ["192.0.2.8", "2001:db8:1::/64"]);
    assert!(app.is_banned("user=bert")? && app.is_banned("ip=192.0.2.8")?);
    assert!(!app.is_banned("user=carl")? && !app.is_banned("ip=192.0.2.9")?);
    let refused = operator.refused("POST", "/v1/bans", &json!({ "ip": "198.51.100.1" }))?;
    assert_eq!(refused, (409, "protected-address".to_owned()));
    let list = operator.get("/v1/allowlist")?.to_string();
    assert!(list.contains("198.51.100.0/24") && list.contains("office"), "{list}");

    // 19 points before, one after: a ban, with the next number.
    let answer = app.violation("logins", &anna)?;
    assert_eq!((&answer["score"], &answer["ban"]["id"]), (&json!(20), &json!(4)), "{answer}");
    assert_eq!(answer["ban"]["enforced"], true);
    nobody["score"] = json!(1);
    assert_eq!(app.violation("registrations", &nobody)?["score"], 8);
    Ok(())
}

#[test]
fn a_number_is_never_used_twice_even_if_its_ban_was_the_last() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = daemon_without_kernel(Value::Null)?;
    for number in 1..=3 {
        let mut operator = Caller::operator(&daemon);
        assert_eq!(operator.ban(&json!({ "user": "anna", "duration": "1s" }))?["id"], number);
        operator.delete(&format!("/v1/bans?id={number}"))?;
        daemon.restart()?;
    }
    Ok(())
}

#[test]
fn bans_that_ran_out_meanwhile_are_gone_after_the_start() -> Result<()> {
    let Some(mut daemon) = on_pins(true)? else { return Ok(()) };
    let mut operator = Caller::operator(&daemon);
    let short = json!({ "user": "anna", "ip": "192.0.2.7", "duration": "1s" });
    assert_eq!(operator.ban(&short)?["enforced"], true);
    operator.ban(&json!({ "ip": "192.0.2.8", "duration": "1h" }))?;
    // Killed, because the daemon itself would clear up a second later.
    daemon.kill()?;
    assert_eq!(addresses(&daemon)?, ["192.0.2.7", "192.0.2.8"]);
    wait::until("the ban to run out", PATIENCE, || {
        Ok((in_kernel(&daemon)?["192.0.2.7"] == Some(Duration::ZERO)).then_some(()))
    })?;
    // The clocks are not read at one instant.
    wait::until("the wall clock to be past it, too", PATIENCE, || {
        daemon.start()?;
        let is_over = Caller::operator(&daemon).bans("all=false")?.len() == 1;
        if !is_over {
            daemon.kill()?;
        }
        Ok(is_over.then_some(()))
    })?;
    let mut operator = Caller::operator(&daemon);
    assert!(!operator.is_banned("user=anna")? && !operator.is_banned("ip=192.0.2.7")?);
    assert_eq!(addresses(&daemon)?, ["192.0.2.8"]);
    assert_eq!(operator.bans("all=true")?.len(), 2);
    assert_eq!(daemon.status()?["bans"], json!({ "active": 1, "enforced": 1 }));
    Ok(())
}

#[test]
fn bans_run_out_while_the_daemon_runs_in_the_kernel_too() -> Result<()> {
    let Some(daemon) = on_pins(true)? else { return Ok(()) };
    let mut operator = Caller::operator(&daemon);
    operator.ban(&json!({ "user": "anna", "ip": "192.0.2.7", "duration": "1s" }))?;
    assert_eq!(addresses(&daemon)?, ["192.0.2.7"]);
    wait::until("the ban to run out", PATIENCE, || {
        Ok((!operator.is_banned("user=anna")?).then_some(()))
    })?;
    wait::until("the kernel to be cleared up", SOON, || {
        Ok(addresses(&daemon)?.is_empty().then_some(()))
    })?;
    assert_eq!(daemon.status()?["bans"], json!({ "active": 0, "enforced": 0 }));
    Ok(())
}

#[test]
fn after_a_reboot_bans_are_in_the_kernel_again_for_the_time_that_is_left() -> Result<()> {
    let Some(mut daemon) = on_pins(true)? else { return Ok(()) };
    let mut operator = Caller::operator(&daemon);
    let hour = Duration::from_secs(3_600);
    let banned_at = Instant::now();
    operator.ban(&json!({ "ip": "192.0.2.7", "duration": "1h" }))?;
    operator.ban(&json!({ "ip": "2001:db8::1", "duration": "permanent" }))?;
    daemon.kill()?;
    // The kernel forgets; the loader comes before the daemon.
    daemon.ctl(&["xdp", "off"])?.success()?;
    assert!(!daemon.pin_root().exists());
    daemon.ctl(&PIN)?.success()?;
    assert_eq!(in_kernel(&daemon)?, HashMap::new());
    daemon.start()?;

    let kernel = in_kernel(&daemon)?;
    assert_eq!(kernel.get("2001:db8::/64"), Some(&None), "{kernel:?}");
    let left = kernel["192.0.2.7"].context("not for ever")?;
    let want = hour.saturating_sub(banned_at.elapsed());
    assert!(left.abs_diff(want) < Duration::from_secs(1), "{left:?} are left of {want:?}");
    assert_eq!(daemon.status()?["bans"], json!({ "active": 2, "enforced": 2 }));
    Ok(())
}

#[test]
fn without_pins_it_serves_and_says_so_and_enforces_once_they_are_there() -> Result<()> {
    let Some(daemon) = on_pins(false)? else { return Ok(()) };
    let mut operator = Caller::operator(&daemon);
    let ban = operator.ban(&json!({ "user": "anna", "ip": "192.0.2.7" }))?;
    assert_eq!(ban["enforced"], false, "{ban}");
    assert!(operator.is_banned("ip=192.0.2.7")?);
    let state = network(&daemon)?;
    assert_eq!(state["state"], "unavailable", "{state}");
    assert!(state["problem"].is_string(), "{state}");

    daemon.ctl(&PIN)?.success()?;
    let of =
        |ban: &Value| format!("/v1/bans?limit=1&after={}", ban["id"].as_u64().unwrap_or(1) - 1);
    wait::until("the ban to be enforced", SOON, || {
        let is_enforced = operator.get(&of(&ban))?["bans"][0]["enforced"] == true;
        let state = network(&daemon)?;
        let is_well = state["state"] != "unavailable" && state["problem"].is_null();
        Ok((is_enforced && is_well).then_some(()))
    })?;
    assert_eq!(addresses(&daemon)?, ["192.0.2.7"]);
    assert_eq!(operator.ban(&json!({ "ip": "192.0.2.8" }))?["enforced"], true);
    Ok(())
}

#[test]
fn drift_is_mended() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let overrides = json!({ "network": { "reconcile_interval": "2s" } });
    let mut daemon = Setup::new().overrides(overrides).prepare()?;
    daemon.ctl(&PIN)?.success()?;
    daemon.start()?;
    let mut operator = Caller::operator(&daemon);
    operator.ban(&json!({ "ip": "192.0.2.7" }))?;
    // Somebody else's hand in the map.
    let pin = Pins::new(daemon.pin_root()).map(BANS_V4);
    let mut map: BpfHashMap<_, u32, u64> =
        BpfHashMap::try_from(Map::HashMap(MapData::from_pin(&pin)?))?;
    map.remove(&v4_key(Ipv4Addr::new(192, 0, 2, 7)))?;
    map.insert(v4_key(Ipv4Addr::new(192, 0, 2, 99)), u64::MAX, 0)?;
    assert_eq!(addresses(&daemon)?, ["192.0.2.99"]);
    wait::until("the map to be mended", SOON, || {
        Ok((addresses(&daemon)? == ["192.0.2.7"]).then_some(()))
    })
}

#[test]
fn what_is_taken_off_under_the_daemon_is_noticed_and_put_right_when_it_is_back() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let mut daemon = Setup::new().inside(&pair.host).prepare()?;
    let attach = ["xdp", "attach", "--interface", INTERFACE];
    daemon.ctl(&attach)?.success()?;
    daemon.start()?;
    let _chat = Chat::open(&pair.host, &daemon.api_socket())?;
    let server = SocketAddr::new(HOST_V4.into(), chat::PORT);
    let visitor = Visitor::new(&pair.client, CLIENT_V4.into(), server, "anna")
        .patience(Duration::from_millis(300));
    let mut operator = Caller::operator(&daemon);
    assert!(visitor.look().is_status(200));
    assert_eq!(operator.ban(&json!({ "ip": CLIENT_V4 }))?["enforced"], true);
    assert_eq!(visitor.look(), Outcome::Timeout);
    assert_eq!(network(&daemon)?["state"], "attached");

    daemon.ctl(&["xdp", "off"])?.success()?;
    assert!(visitor.look().is_status(200), "nothing is dropped any more");
    wait::until("the daemon to notice", SOON, || {
        Ok((network(&daemon)?["state"] == "unavailable").then_some(()))
    })?;
    assert_eq!(daemon.status()?["bans"], json!({ "active": 1, "enforced": 0 }));
    let ban = operator.ban(&json!({ "ip": "192.0.2.99" }))?;
    assert_eq!(ban["enforced"], false, "{ban}");

    daemon.ctl(&attach)?.success()?;
    wait::until("the daemon to recover", SOON, || {
        let status = daemon.status()?;
        let is_attached = status["network"]["state"] == "attached";
        Ok((is_attached && status["bans"]["enforced"] == 2).then_some(()))
    })?;
    assert_eq!(visitor.look(), Outcome::Timeout, "enforced again");
    assert_eq!(addresses(&daemon)?, ["192.0.2.2", "192.0.2.99"]);
    Ok(())
}
