//! Completed handshakes, counted by source over real TCP on a control group:
//! by either family, through a listener for both, and nobody's from this host.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use moderation_daemon::clock;
use moderation_daemon::config::{AttachMode, Connections};
use moderation_daemon::network::{
    AttachOptions, Attached, Epoch, NetworkError, Rates, Table, attach,
};
use moderation_tests::cgroup::ControlGroup;
use moderation_tests::daemon::binary;
use moderation_tests::kernel::{Pinboard, detached};
use moderation_tests::lab::{CLIENT_V4, CLIENT_V6, HOST_V4, HOST_V6, INTERFACE, Pair};
use moderation_tests::process::{self, Process};
use moderation_tests::visitor::Visitor;
use moderation_tests::{need, wait};

const PATIENCE: Duration = Duration::from_secs(20);
/// No handshake of these tests is ever too old.
const WINDOW: Duration = Duration::from_secs(3_600);
/// Another client.
const LONELY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// From there only the test of the whole host connects.
const WIDE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 78);

/// For IPv4 alone, and for both families.
const V4_PORT: u16 = 8001;
const BOTH_PORT: u16 = 8002;

/// A host that counts on a control group, and somebody in it who listens.
struct Scene {
    _listener: Process,
    board: Pinboard,
    pair: Pair,
}

impl Scene {
    fn new(listens_in: &Path, counts_on: Option<&Path>) -> Result<Self> {
        let (pair, board) = (Pair::new()?, Pinboard::reserve()?);
        let more = [LONELY_V4, WIDE_V4].map(|ip| format!("address add {ip}/24 dev {INTERFACE}"));
        pair.client.configure(&more)?;
        let Attached { failures, .. } =
            pair.host.run(|| Ok(attach(board.pins(), &counting(counts_on))?))?;
        ensure!(failures.is_empty(), "{failures:?}");
        let mut command = process::command(binary("listener")?);
        command.arg(listens_in);
        command.args([format!("{HOST_V4}:{V4_PORT}"), format!("[::]:{BOTH_PORT}")]);
        let scene = Self { _listener: pair.host.spawn(command)?, board, pair };
        scene.await_listener()?;
        Ok(scene)
    }

    /// The second is there after the first. Nobody is counted for asking.
    fn await_listener(&self) -> Result<()> {
        wait::until("somebody to listen", PATIENCE, || Ok(self.connect_within("127.0.0.1").ok()))
    }

    /// Connects from the host to itself.
    fn connect_within(&self, ip: &str) -> Result<()> {
        let server = SocketAddr::new(ip.parse()?, BOTH_PORT);
        self.pair.host.run(|| Ok(TcpStream::connect(server).map(drop)?))
    }

    fn connect(&self, times: usize, from: IpAddr, to: (IpAddr, u16)) -> Result<()> {
        let visitor = Visitor::new(&self.pair.client, from, to.into(), "anna");
        for _ in 0..times {
            visitor.connect().with_context(|| format!("from {from} to {to:?}"))?;
        }
        Ok(())
    }

    fn attach(&self, options: &AttachOptions) -> Result<()> {
        let attached = self.pair.host.run(|| Ok(attach(self.board.pins(), options)?))?;
        ensure!(attached.failures.is_empty(), "{:?}", attached.failures);
        Ok(())
    }

    /// The program that counts.
    fn program(&self) -> Result<u32> {
        let link = PinnedLink::from_pin(self.board.pins().map("handshakes_link"))?;
        Ok(FdLink::from(link).info()?.program_id())
    }

    fn counts(&self) -> Result<BTreeMap<String, u64>> {
        let now = Epoch::at(clock::monotonic_ns(), WINDOW);
        let rates = Rates::open(self.board.pins(), Table::Handshakes)?.busiest(usize::MAX, now)?;
        Ok(rates.into_iter().map(|rate| (rate.source, rate.count)).collect())
    }

    /// The last part of a handshake comes after the client has its connection.
    fn await_counts(&self, wanted: &[(&str, u64)]) -> Result<()> {
        let wanted = wanted.iter().map(|(source, count)| ((*source).to_owned(), *count)).collect();
        let mut counts = BTreeMap::new();
        let waited = wait::until("handshakes to be counted", PATIENCE, || {
            counts = self.counts()?;
            Ok((counts == wanted).then_some(()))
        });
        waited.with_context(|| format!("{counts:?} instead of {wanted:?}"))
    }
}

fn counting(group: Option<&Path>) -> AttachOptions {
    let cgroup = group.map(Path::to_owned);
    let connections = Connections { enabled: true, limit: 1_000, window: WINDOW, cgroup };
    let interfaces = vec![INTERFACE.to_owned()];
    AttachOptions { interfaces, mode: AttachMode::Native, connections, ..detached() }
}

/// A control group; `None` if the test is to be skipped.
fn group() -> Result<Option<ControlGroup>> {
    if !need::root() {
        return Ok(None);
    }
    let group = ControlGroup::create()?;
    Ok(if need::is_met("control groups of version 2", group.is_some()) { group } else { None })
}

#[test]
fn handshakes_are_counted_by_source_and_those_from_the_host_itself_are_not() -> Result<()> {
    let Some(group) = group()? else { return Ok(()) };
    let scene = Scene::new(group.path(), Some(group.path()))?;
    scene.await_counts(&[])?;
    scene.connect(3, CLIENT_V4.into(), (HOST_V4.into(), V4_PORT))?;
    scene.await_counts(&[("192.0.2.2", 3)])?;
    scene.connect(2, CLIENT_V6.into(), (HOST_V6.into(), BOTH_PORT))?;
    scene.await_counts(&[("192.0.2.2", 3), ("2001:db8:0:4::/64", 2)])?;
    // IPv4 on a listener for both families is the same IPv4.
    scene.connect(4, CLIENT_V4.into(), (HOST_V4.into(), BOTH_PORT))?;
    scene.connect(1, LONELY_V4.into(), (HOST_V4.into(), BOTH_PORT))?;
    for ip in ["127.0.0.1", "127.7.7.7", "::1"] {
        scene.connect_within(ip)?;
    }
    let wanted = [("192.0.2.2", 7), ("192.0.2.77", 1), ("2001:db8:0:4::/64", 2)];
    scene.await_counts(&wanted)?;

    // The counts outlive an upgrade, in which nothing is counted twice for good.
    let before = scene.program()?;
    let mut options = counting(Some(group.path()));
    options.connections.limit += 1;
    scene.attach(&options)?;
    assert_ne!(scene.program()?, before, "another program");
    scene.await_counts(&wanted)?;
    scene.connect(1, LONELY_V4.into(), (HOST_V4.into(), V4_PORT))?;
    let wanted = [("192.0.2.2", 7), ("192.0.2.77", 2), ("2001:db8:0:4::/64", 2)];
    scene.await_counts(&wanted)
}

#[test]
fn the_program_on_the_control_group_stays_as_long_as_it_would_be_the_same_there() -> Result<()> {
    let Some((one, other)) = group()?.zip(group()?) else { return Ok(()) };
    let scene = Scene::new(one.path(), Some(one.path()))?;
    let program = scene.program()?;
    scene.attach(&counting(Some(one.path())))?;
    assert_eq!(scene.program()?, program);
    scene.attach(&counting(Some(other.path())))?;
    let elsewhere = scene.program()?;
    assert_ne!(elsewhere, program);
    // The pin of its link is gone; the program for packets stays nevertheless.
    std::fs::remove_file(scene.board.pins().map("handshakes_link"))?;
    scene.attach(&counting(Some(other.path())))?;
    assert_ne!(scene.program()?, elsewhere);
    scene.connect(1, LONELY_V4.into(), (HOST_V4.into(), V4_PORT))?;
    scene.attach(&counting(Some(one.path())))?;
    scene.connect(1, CLIENT_V4.into(), (HOST_V4.into(), V4_PORT))?;
    scene.await_counts(&[("192.0.2.2", 1)])
}

#[test]
fn who_listens_outside_the_control_group_is_not_counted_for() -> Result<()> {
    let Some((counted, other)) = group()?.zip(group()?) else { return Ok(()) };
    let scene = Scene::new(other.path(), Some(counted.path()))?;
    scene.connect(3, CLIENT_V4.into(), (HOST_V4.into(), V4_PORT))?;
    // There is nothing to wait for: that a later one has been counted is a sign.
    let options = counting(Some(other.path()));
    scene.pair.host.run(|| Ok(attach(scene.board.pins(), &options)?))?;
    scene.connect(1, LONELY_V4.into(), (HOST_V4.into(), V4_PORT))?;
    scene.await_counts(&[("192.0.2.77", 1)])
}

#[test]
fn by_default_the_handshakes_of_the_whole_host_are_counted() -> Result<()> {
    let Some(group) = group()? else { return Ok(()) };
    let scene = Scene::new(group.path(), None)?;
    scene.connect(3, WIDE_V4.into(), (HOST_V4.into(), V4_PORT))?;
    wait::until("handshakes to be counted", PATIENCE, || {
        // Those of others on this machine are counted, too; even of this same test.
        Ok((scene.counts()?.get("192.0.2.78") >= Some(&3)).then_some(()))
    })
}

#[test]
fn without_the_control_group_packets_are_dropped_nevertheless() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (pair, board) = (Pair::new()?, Pinboard::reserve()?);
    let absent = Path::new("/sys/fs/cgroup/absent");
    let Attached { attachments, failures } =
        pair.host.run(|| Ok(attach(board.pins(), &counting(Some(absent)))?))?;
    assert_eq!(attachments.len(), 1, "{failures:?}");
    assert!(matches!(failures[..], [NetworkError::Handshakes { .. }]), "{failures:?}");
    let text = failures[0].to_string();
    assert!(text.contains("handshakes") && text.contains("/sys/fs/cgroup/absent"), "{text}");
    Ok(())
}
