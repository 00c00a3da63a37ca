//! Open connections of a newly banned client are closed by a real keeper beside
//! a real daemon, and of nobody else; and the answer that tells of the ban still
//! gets out. Over real TCP, kept alive.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use moderation_common::Reason;
use moderation_daemon::network::{Counters, Pins};
use moderation_tests::chat::{self, Chat};
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::lab::{ABUSER_V4, BYSTANDER_V4, HOST_V4, INTERFACE, Lab};
use moderation_tests::namespace::Namespace;
use moderation_tests::visitor::{Outcome, Visitor};
use moderation_tests::{need, wait};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(15);
/// More than two rounds of the keeper, in which nothing must happen.
const TWO_ROUNDS_MS: u16 = 3_500;
/// Whom nothing belongs to (`nobody`).
const DAEMON_UID: u32 = 65534;
/// Kept alive by each client.
const CONNECTIONS: usize = 3;
const PORT: u16 = 8081;

/// How the connections are closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// The daemon, which root has started.
    Daemon,
    /// A process of the daemon's user with one capability.
    Keeper,
}

/// A host that keeps connections to two clients; its own ends.
struct Scene {
    daemon: Daemon,
    _lab: Lab,
    _keeper: Option<moderation_tests::process::Process>,
    abuser: Vec<TcpStream>,
    bystander: Vec<TcpStream>,
    _clients: Vec<TcpStream>,
}

impl Scene {
    fn new(by: By, overrides: Value) -> Result<Self> {
        let lab = Lab::new()?;
        let setup = Setup::new().inside(&lab.host).overrides(overrides);
        let (daemon, keeper) = match by {
            By::Daemon => (setup.interface(INTERFACE).start()?, None),
            By::Keeper => {
                let mut daemon = setup.unprivileged(DAEMON_UID, DAEMON_UID).prepare()?;
                let owner = DAEMON_UID.to_string();
                let attach = ["xdp", "attach", "--interface", INTERFACE, "--owner", &owner];
                daemon.ctl(&attach)?.success()?;
                daemon.start()?;
                let reap = ["xdp", "reap", "--watch"].map(str::to_owned);
                let keeper = daemon.keep_as_daemon(true, &reap)?;
                (daemon, Some(keeper))
            }
        };
        let listener = lab.host.run(|| Ok(TcpListener::bind((HOST_V4, PORT))?))?;
        let mut clients = Vec::new();
        let abuser = connect(&lab.abuser, &listener, &mut clients)?;
        let bystander = connect(&lab.bystander, &listener, &mut clients)?;
        Ok(Self { daemon, _lab: lab, _keeper: keeper, abuser, bystander, _clients: clients })
    }

    fn ban(&self, ip: Ipv4Addr) -> Result<()> {
        let response = self.daemon.admin().post("/v1/bans", &json!({ "ip": ip }))?;
        ensure!(response.status == 201, "{response:?}");
        Ok(())
    }

    /// That the abuser's connections are closed here, and no other.
    fn assert_abuser_is_closed(&self) -> Result<()> {
        for stream in &self.abuser {
            let closed = wait::until("a connection to be closed", PATIENCE, || {
                Ok(is_closed(stream, 0)?.then_some(()))
            });
            closed.with_context(|| self.daemon.log())?;
        }
        self.assert_open(&self.bystander)
    }

    fn assert_open(&self, streams: &[TcpStream]) -> Result<()> {
        for stream in streams {
            ensure!(!is_closed(stream, 0)?, "closed: {}", self.daemon.log());
        }
        Ok(())
    }
}

/// Connections from one client; keeps the clients' ends apart.
fn connect(
    from: &Namespace,
    listener: &TcpListener,
    clients: &mut Vec<TcpStream>,
) -> Result<Vec<TcpStream>> {
    let server = listener.local_addr()?;
    let mut accepted = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(from.run(|| Ok(TcpStream::connect_timeout(&server, PATIENCE)?))?);
        accepted.push(listener.accept()?.0);
    }
    Ok(accepted)
}

/// Whether the kernel has closed a connection, or does within so long.
fn is_closed(stream: &TcpStream, patience_ms: u16) -> Result<bool> {
    let watched = OwnedFd::from(stream.try_clone()?);
    let mut polled = [PollFd::new(std::os::fd::AsFd::as_fd(&watched), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::from(patience_ms))?;
    let events = polled[0].revents().context("known events")?;
    Ok(events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP))
}

#[test]
fn a_keeper_with_one_capability_closes_the_connections_of_who_is_banned_by_the_api() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::new(By::Keeper, json!({}))?;
    assert!(!is_closed(&scene.abuser[0], TWO_ROUNDS_MS)?);
    scene.ban(ABUSER_V4)?;
    scene.assert_abuser_is_closed()?;
    let log = scene.daemon.log();
    assert!(log.contains("closed connections of banned peers"), "{log}");
    assert!(log.contains("closed=3"), "{log}");
    // New pins are noticed: everything is loaded anew.
    scene.daemon.ctl(&["xdp", "off"])?.success()?;
    let owner = DAEMON_UID.to_string();
    let attach = ["xdp", "attach", "--interface", INTERFACE, "--owner", &owner];
    wait::until("the keeper to notice", PATIENCE, || {
        Ok(scene.daemon.log().contains("waiting for moderationctl xdp attach").then_some(()))
    })?;
    scene.daemon.ctl(&attach)?.success()?;
    scene.ban(BYSTANDER_V4)?;
    for stream in &scene.bystander {
        wait::until("a connection to be closed", PATIENCE, || {
            Ok(is_closed(stream, 0)?.then_some(()))
        })
        .with_context(|| scene.daemon.log())?;
    }
    let log = scene.daemon.log();
    assert_eq!(log.matches("waiting for moderationctl xdp attach").count(), 2, "{log}");
    Ok(())
}

#[test]
fn the_daemon_that_root_started_closes_them_itself() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut scene = Scene::new(By::Daemon, json!({}))?;
    scene.ban(ABUSER_V4)?;
    scene.assert_abuser_is_closed()?;
    let status = scene.daemon.stop()?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn nothing_is_closed_that_is_not_dropped() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let prefix = IpNet::from(IpAddr::from(ABUSER_V4)).to_string();
    let cases = [
        ("observed", json!({ "network": { "enforce": false } })),
        ("switched off", json!({ "network": { "close_connections": false } })),
        ("explained", json!({ "network": { "explanation_port": PORT } })),
    ];
    for (what, overrides) in cases {
        let scene = Scene::new(By::Daemon, overrides)?;
        scene.ban(ABUSER_V4)?;
        assert!(!is_closed(&scene.abuser[0], TWO_ROUNDS_MS)?, "{what}");
        scene.assert_open(&scene.abuser).context(what)?;
    }
    let scene = Scene::new(By::Daemon, json!({ "allowlist": [prefix] }))?;
    // Past the daemon, which would refuse: straight into the map.
    let pins = Pins::new(scene.daemon.pin_root());
    let entry = moderation_common::BanEntry { expires_at_ns: u64::MAX };
    let banned = ABUSER_V4.to_string().parse()?;
    moderation_daemon::network::Network::open(&pins)?.block(banned, entry)?;
    assert!(!is_closed(&scene.abuser[0], TWO_ROUNDS_MS)?, "allowed");
    scene.assert_open(&scene.abuser)
}

#[test]
fn without_the_capability_it_ends_with_77_and_names_it() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = Setup::new().unprivileged(DAEMON_UID, DAEMON_UID).prepare()?;
    let mut keeper =
        daemon.keep_as_daemon(false, &["xdp", "reap", "--watch"].map(str::to_owned))?;
    let status = wait::until("it to end", PATIENCE, || keeper.exited())?;
    assert_eq!(status.code(), Some(77), "{}", daemon.log());
    assert!(daemon.log().contains("CAP_NET_ADMIN"), "{}", daemon.log());
    Ok(())
}

/// Talks until banned, on one connection kept alive, and gives back the answer
/// that told of it.
fn denial(lab: &Lab, words: usize) -> Result<(Outcome, Daemon)> {
    let overrides = json!({
        "bans": { "interval": 1, "network_block": "always" },
        "scores": { "message_limit": 1 },
        "limits": { "message_ip": { "max": 2, "window": "1m" } },
    });
    let setup = Setup::new().inside(&lab.host).overrides(overrides);
    let daemon = setup.interface(INTERFACE).start()?;
    let _chat = Chat::wordy(&lab.host, &daemon.api_socket(), words)?;
    let server = SocketAddr::new(HOST_V4.into(), chat::PORT);
    let visitor = Visitor::new(&lab.abuser, ABUSER_V4.into(), server, "anna");
    let mut connection = visitor.connect()?;
    for _ in 0..10 {
        let outcome = connection.say("hello");
        if !outcome.is_status(200) && !outcome.is_status(429) {
            return Ok((outcome, daemon));
        }
    }
    anyhow::bail!("never banned: {}", daemon.log())
}

#[test]
fn the_answer_that_tells_of_the_ban_arrives_although_the_kernel_drops_at_once() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    // All of it in the first flight of a connection: ten segments (RFC 6928).
    for words in [0, 1_000, 12_000] {
        let lab = Lab::new()?;
        let (outcome, daemon) = denial(&lab, words)?;
        let Outcome::Answer { status: 403, body } = &outcome else {
            anyhow::bail!("{words} words: {outcome:?}; {}", daemon.log());
        };
        assert_eq!(body["banned"], true, "{body}");
        assert_eq!(body["words"].as_str().map_or(0, str::len), words);
        let counters = Counters::open(&Pins::new(daemon.pin_root()))?;
        let dropped = || Ok((counters.read(Reason::BanV4)?.packets > 0).then_some(()));
        wait::until("the kernel to drop", PATIENCE, dropped)?;
    }
    Ok(())
}
