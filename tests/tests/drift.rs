//! Kernel and store apart: what a hand writes into the maps of bans or deletes
//! from them is mended by the next sweep and told, also later.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap as BpfHashMap, LpmTrie, Map, MapData, MapError};
use moderation_common::map::{BANS_V4, NETS_V4};
use moderation_common::{BanEntry, v4_key};
use moderation_daemon::network::Pins;
use moderation_tests::chat::Chat;
use moderation_tests::lab::CLIENT_V4;
use moderation_tests::scene::{QUIET, Scene};
use moderation_tests::visitor::Outcome;
use moderation_tests::{need, wait};
use serde_json::{Value, json};

/// For what happens sooner or later.
const LONG: Duration = Duration::from_secs(20);

/// Who has never been there.
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

fn raw(pins: &Pins) -> Result<BpfHashMap<MapData, u32, u64>> {
    Ok(BpfHashMap::try_from(Map::HashMap(MapData::from_pin(pins.map(BANS_V4))?))?)
}

fn entry_of(pins: &Pins, ip: Ipv4Addr) -> Result<Option<u64>> {
    match raw(pins)?.get(&v4_key(ip), 0) {
        Ok(entry) => Ok(Some(entry)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn what_is_written_into_the_maps_by_hand_is_mended_and_told() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::new(json!({ "network": { "reconcile_interval": "1s" } }))?;
    let pins = scene.pins();
    scene.ban("192.0.2.2")?;
    let await_drift = |key: &str| {
        wait::until(&format!("drift to be told: {key}"), LONG, || {
            let status = scene.daemon.status()?;
            Ok((status["network"]["last_drift"][key] == 1).then_some(()))
        })
    };
    let mut map = raw(&pins)?;
    map.insert(v4_key(STRANGER), BanEntry::NEVER, 0)?;
    await_drift("removed")?;
    wait::until("a foreign entry to go", LONG, || {
        Ok(entry_of(&pins, STRANGER)?.is_none().then_some(()))
    })?;

    map.remove(&v4_key(CLIENT_V4))?;
    await_drift("added")?;
    wait::until("a ban to come back", LONG, || Ok(entry_of(&pins, CLIENT_V4)?.map(drop)))?;
    assert_eq!(scene.visitor(CLIENT_V4).look(), Outcome::Timeout);

    // One for the other: as many as there should be.
    map.remove(&v4_key(CLIENT_V4))?;
    map.insert(v4_key(STRANGER), BanEntry::NEVER, 0)?;
    wait::until("both to be mended", LONG, || {
        let is_mended =
            entry_of(&pins, CLIENT_V4)?.is_some() && entry_of(&pins, STRANGER)?.is_none();
        Ok(is_mended.then_some(()))
    })?;
    let verified = scene.ctl(&["xdp", "verify"])?;
    assert_eq!(verified[0]["hidden"], 0, "{verified:?}");
    Ok(())
}

#[test]
fn what_is_written_into_the_blocks_by_hand_is_mended_and_told() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::new(json!({ "network": { "reconcile_interval": "1s" } }))?;
    let _chat = Chat::open(&scene.pair.host, &scene.daemon.api_socket())?;
    let data = MapData::from_pin(scene.pins().map(NETS_V4))?;
    let mut trie: LpmTrie<_, [u8; 4], u64> = LpmTrie::try_from(Map::LpmTrie(data))?;
    scene.ban("192.0.2.64/26")?;
    let await_drift = |key: &str| {
        wait::until(&format!("drift to be told: {key}"), LONG, || {
            Ok((scene.daemon.status()?["network"]["drift_seen"][key] == 1).then_some(()))
        })
    };
    let drift_before = scene.metric("moderation_kernel_drift_total")?;
    assert_eq!(scene.visitor(QUIET).look(), Outcome::Timeout);
    trie.insert(&Key::new(30, CLIENT_V4.octets()), BanEntry::NEVER, 0)?;
    await_drift("removed")?;
    assert!(scene.visitor(CLIENT_V4).look().is_status(200), "nobody banned them");

    trie.remove(&Key::new(26, [192, 0, 2, 64]))?;
    await_drift("added")?;
    assert_eq!(scene.visitor(QUIET).look(), Outcome::Timeout);

    trie.insert(&Key::new(26, [192, 0, 2, 64]), 1, 0)?;
    await_drift("updated")?;
    assert_eq!(scene.visitor(QUIET).look(), Outcome::Timeout);
    assert_eq!(scene.metric("moderation_kernel_drift_total")?, drift_before + 3);
    assert_eq!(scene.ban_of(QUIET)?["enforced"], true);
    Ok(())
}

#[test]
fn drift_is_still_told_when_later_sweeps_have_found_none() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::new(json!({ "network": { "reconcile_interval": "1s" } }))?;
    let seen = || -> Result<Value> { Ok(scene.daemon.status()?["network"]["drift_seen"].clone()) };
    scene.ban("192.0.2.2")?;
    assert_eq!(seen()?["removed"], 0, "the maps were new, and nothing but filled");
    raw(&scene.pins())?.insert(v4_key(STRANGER), BanEntry::NEVER, 0)?;
    let drift = wait::until("drift to be told", LONG, || {
        let seen = seen()?;
        Ok((seen["removed"] == 1).then_some(seen))
    })?;
    let at = drift["at"].as_str().context(drift.to_string())?;
    let counts = json!({ "added": 0, "updated": 0, "removed": 1, "at": at });
    assert_eq!(drift, counts);
    wait::until("a sweep that finds nothing", LONG, || {
        let last = &scene.daemon.status()?["network"]["last_drift"];
        Ok((*last == json!({ "added": 0, "updated": 0, "removed": 0 })).then_some(()))
    })?;
    assert_eq!(seen()?, drift);
    let told = scene.daemon.ctl(&["status"])?.success()?;
    assert!(told.contains(&format!("0 added, 0 updated, 1 removed at {at}")), "{told}");

    raw(&scene.pins())?.remove(&v4_key(CLIENT_V4))?;
    wait::until("other drift to be told", LONG, || {
        Ok((seen()?["added"] == 1 && seen()?["removed"] == 0).then_some(()))
    })
}
