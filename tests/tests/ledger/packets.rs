//! A ban on one host drops packets on the others.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::Result;
use moderation_tests::caller::Caller;
use moderation_tests::counter::KernelCounters;
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::lab::{ABUSER_V4, BYSTANDER_V4, HOST_V4, INTERFACE, Lab};
use moderation_tests::mongod::Set;
use moderation_tests::namespace::Namespace;
use moderation_tests::wait;
use serde_json::json;

use super::{KEY, PATIENCE, await_sharing, ban, is_possible};

pub(super) fn host(namespace: &Namespace, uri: &str, name: &str) -> Result<Daemon> {
    let daemon = Setup::new()
        .inside(namespace)
        .interface(INTERFACE)
        .overrides(json!({ "mongodb": { "enabled": true, "host": name } }))
        .credential("mongo-uri", uri)
        .credential("ledger-key", KEY)
        .start()?;
    await_sharing(&daemon)?;
    Ok(daemon)
}

/// Sends until a packet is dropped, or until one is not.
pub(super) fn await_dropped(lab: &Lab, to: IpAddr, at: &Daemon, dropped: bool) -> Result<()> {
    let counters = KernelCounters::open(at.pin_root())?;
    let socket = lab.abuser.run(|| {
        let socket = UdpSocket::bind((ABUSER_V4, 0))?;
        socket.connect(SocketAddr::new(to, 9))?;
        Ok(socket)
    })?;
    let what = format!("packets to {to} to be dropped: {dropped}");
    wait::until(&what, PATIENCE, || {
        let before = counters.banned()?;
        for _ in 0..5 {
            // Nobody listens there, which the socket is told.
            drop(socket.send(b"!"));
        }
        Ok(((counters.banned()? > before) == dropped).then_some(()))
    })
}

#[test]
fn a_ban_on_one_of_three_hosts_drops_packets_on_the_others_until_it_is_lifted() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let set = Set::start(1)?;
    let uri = set.members[0].uri();
    let lab = Lab::new()?;
    let first = host(&lab.host, &uri, "alpha")?;
    let second = host(&lab.bystander, &uri, "beta")?;
    let third = super::host(&uri, "gamma", json!({}))?;
    await_dropped(&lab, HOST_V4.into(), &first, false)?;
    await_dropped(&lab, BYSTANDER_V4.into(), &second, false)?;
    ban(&third, &json!({ "ip": ABUSER_V4.to_string(), "duration": "1h" }))?;
    await_dropped(&lab, HOST_V4.into(), &first, true)?;
    await_dropped(&lab, BYSTANDER_V4.into(), &second, true)?;
    Caller::operator(&first).delete(&format!("/v1/bans?ip={ABUSER_V4}"))?;
    await_dropped(&lab, HOST_V4.into(), &first, false)?;
    await_dropped(&lab, BYSTANDER_V4.into(), &second, false)
}
