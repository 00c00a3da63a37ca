//! Whom the guards protect that only the kernel knows: a namespace's own
//! addresses and its ways out, and who has a connection and no session.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::Result;
use moderation_daemon::guard::{Collected, Guard, Resolved, Sources, Why, collect, own_sessions};
use moderation_tests::lab::{
    ABUSER_V4, BYSTANDER_V4, CLIENT_V4, CLIENT_V6, HOST_V4, HOST_V6, INTERFACE, Lab, Pair,
};
use moderation_tests::namespace::Namespace;
use moderation_tests::need;
use moderation_tests::visitor::Visitor;
use tempfile::TempDir;

/// Nothing but what the kernel says, and sessions in a folder.
fn sources(folder: &Path) -> Sources {
    Sources {
        resolv_conf: Vec::new(),
        utmp: folder.join("utmp"),
        sessions: folder.to_owned(),
        ..Sources::default()
    }
}

fn collected(namespace: &Namespace, folder: &Path) -> Result<Collected> {
    namespace.run(|| Ok(collect(&sources(folder), &mut Resolved::default())))
}

/// The addresses that are protected for a reason, in their order.
fn protected(collected: &Collected, why: Why) -> Vec<IpAddr> {
    let guards = collected.guards.iter().filter(|guard| guard.why == why);
    guards.map(|guard| guard.prefix.addr()).collect()
}

/// The same without link-local addresses, which nobody has chosen.
fn chosen(collected: &Collected, why: Why) -> Vec<IpAddr> {
    let mut addresses = protected(collected, why);
    addresses.retain(|address| match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    });
    addresses
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn own_addresses_and_default_gateways_are_found() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (lab, folder) = (Lab::new()?, TempDir::new()?);
    let found = collected(&lab.host, folder.path())?;
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    assert_eq!(chosen(&found, Why::OwnAddress), [IpAddr::V4(HOST_V4), IpAddr::V6(HOST_V6)]);
    let gateways = [ip("192.0.2.254"), ip("2001:db8:0:1::fe")];
    assert_eq!(chosen(&found, Why::Gateway), gateways);
    let linked = protected(&found, Why::OwnAddress).len() - 2;
    assert_eq!(linked, 1, "the interface's link-local address is its own, too");
    // Whoever asks from elsewhere is told about elsewhere.
    let elsewhere = collected(&lab.bystander, folder.path())?;
    assert!(chosen(&elsewhere, Why::OwnAddress).contains(&BYSTANDER_V4.into()));
    assert!(!chosen(&elsewhere, Why::OwnAddress).contains(&HOST_V4.into()));
    Ok(())
}

#[test]
fn gateways_of_every_table_and_of_several_hops_are_found() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (pair, folder) = (Pair::new()?, TempDir::new()?);
    let before = collected(&pair.host, folder.path())?;
    assert!(chosen(&before, Why::Gateway).is_empty());
    let hops = |a: &str, b: &str| format!("nexthop via {a} nexthop via {b}");
    pair.host.configure(&[
        format!("route add 0.0.0.0/0 table 100 {}", hops("192.0.2.11", "192.0.2.12")),
        format!("route add ::/0 table 100 {}", hops("2001:db8:0:1::11", "2001:db8:0:1::12")),
        format!("route add 0.0.0.0/0 via inet6 2001:db8:0:1::13 dev {INTERFACE}"),
        format!("route add 0.0.0.0/0 via {CLIENT_V4} metric 7"),
        format!("route add ::/0 via {CLIENT_V6}"),
        // No way out: no gateway, or not for everything.
        format!("route add 0.0.0.0/0 dev {INTERFACE} table 101"),
        "route add unreachable 0.0.0.0/0 metric 8 table 102".to_owned(),
        "route add 203.0.113.0/24 via 192.0.2.99".to_owned(),
        // Through objects of their own.
        format!("nexthop add id 7 via 192.0.2.14 dev {INTERFACE}"),
        "route add 0.0.0.0/0 nhid 7 table 103".to_owned(),
    ])?;
    let found = collected(&pair.host, folder.path())?;
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    let expected = [
        "192.0.2.2",
        "192.0.2.11",
        "192.0.2.12",
        "192.0.2.14",
        "2001:db8:0:1::11",
        "2001:db8:0:1::12",
        "2001:db8:0:1::13",
        "2001:db8:0:4::2",
    ];
    assert_eq!(chosen(&found, Why::Gateway), expected.map(ip));
    Ok(())
}

#[test]
fn a_connection_to_the_login_port_gains_nothing_and_a_session_does() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (lab, folder) = (Lab::new()?, TempDir::new()?);
    let server = SocketAddr::new(HOST_V4.into(), 22);
    let listener = lab.host.run(|| Ok(TcpListener::bind(server)?))?;
    let _connection = Visitor::new(&lab.abuser, ABUSER_V4.into(), server, "anna").connect()?;
    let _accepted = listener.accept()?;
    let found = collected(&lab.host, folder.path())?;
    let is_abuser = |guard: &Guard| guard.prefix.contains(&IpAddr::V4(ABUSER_V4));
    assert!(!found.guards.iter().any(is_abuser), "{:?}", found.guards);

    let session = format!(
        "STATE=active\nREMOTE=1\nCLASS=user\nREMOTE_HOST={BYSTANDER_V4}\nLEADER={}\n",
        std::process::id()
    );
    fs::write(folder.path().join("1"), session)?;
    let found = collected(&lab.host, folder.path())?;
    assert_eq!(protected(&found, Why::Session), [IpAddr::V4(BYSTANDER_V4)]);
    let own = own_sessions(&sources(folder.path()));
    assert_eq!(own.prefixes(), [IpAddr::V4(BYSTANDER_V4).into()]);
    Ok(())
}
