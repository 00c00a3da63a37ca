//! Real TCP through veth, in native and in generic mode: what a ban does to
//! connections, and what becomes of it when the daemon, the program or the
//! interface goes and comes back.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moderation_common::map::PROGRAM;
use moderation_daemon::clock;
use moderation_daemon::config::AttachMode;
use moderation_daemon::engine::Address;
use moderation_daemon::network::{
    AttachOptions, Attached, Attachment, BanMaps, NetworkError, Pins, attach,
};
use moderation_tests::chat::{self, Chat};
use moderation_tests::counter::KernelCounters;
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::kernel::{Pinboard, detached};
use moderation_tests::lab::{CLIENT_V4, CLIENT_V6, HOST_V4, HOST_V6, INTERFACE, Pair};
use moderation_tests::visitor::{Outcome, Visitor};
use moderation_tests::{need, wait};
use serde_json::{Value, json};

/// Far longer than an answer takes, and than the first retransmission (200 ms,
/// or 1 s for a SYN; RFC 6298).
const PATIENCE: Duration = Duration::from_millis(1_300);
/// For what happens sooner or later.
const LONG: Duration = Duration::from_secs(20);

/// Two namespaces with a chat and, prepared or started, a daemon.
struct Scene {
    v4: Visitor,
    v6: Visitor,
    daemon: Daemon,
    _chat: Chat,
    pair: Pair,
}

impl Scene {
    fn prepare(setup: impl FnOnce(Setup) -> Setup) -> Result<Self> {
        let pair = Pair::new()?;
        let daemon = setup(Setup::new().inside(&pair.host)).prepare()?;
        let chat = Chat::open(&pair.host, &daemon.api_socket())?;
        let visitor = |source: IpAddr, host: IpAddr| {
            let server = SocketAddr::new(host, chat::PORT);
            Visitor::new(&pair.client, source, server, "anna").patience(PATIENCE)
        };
        let v4 = visitor(CLIENT_V4.into(), HOST_V4.into());
        let v6 = visitor(CLIENT_V6.into(), HOST_V6.into());
        Ok(Self { v4, v6, daemon, _chat: chat, pair })
    }

    fn guarded() -> Result<Self> {
        let mut scene = Self::prepare(|setup| setup.interface(INTERFACE))?;
        scene.daemon.start()?;
        Ok(scene)
    }

    fn pins(&self) -> Pins {
        Pins::new(self.daemon.pin_root())
    }

    fn ban(&self, ip: impl Into<IpAddr>, duration: &str) -> Result<()> {
        let ip: IpAddr = ip.into();
        let body = json!({ "ip": ip, "duration": duration });
        let response = self.daemon.admin().post("/v1/bans", &body)?;
        ensure!(response.status == 201, "{response:?}");
        ensure!(response.body["ban"]["enforced"] == true, "{response:?}");
        Ok(())
    }

    fn lift(&self, ip: impl Into<IpAddr>) -> Result<()> {
        let response = self.daemon.admin().delete(&format!("/v1/bans?ip={}", ip.into()))?;
        ensure!(response.status == 200, "{response:?}");
        Ok(())
    }

    fn is_blocked(&self, ip: impl Into<IpAddr>) -> Result<bool> {
        Ok(BanMaps::open(&self.pins())?.get(Address::from(ip.into()).into())?.is_some())
    }

    fn xdp(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [&["--json", "xdp"], arguments].concat();
        Ok(serde_json::from_str(&self.daemon.ctl(&arguments)?.success()?)?)
    }
}

fn assert_answers(visitor: &Visitor) {
    let outcome = visitor.look();
    assert!(outcome.is_status(200), "{outcome:?}");
}

fn assert_silence(visitor: &Visitor) {
    assert_eq!(visitor.look(), Outcome::Timeout);
}

/// After a ban the neighbour cache may need a moment.
fn await_answers(visitor: &Visitor) -> Result<()> {
    wait::until("an answer", LONG, || Ok(visitor.look().is_answer().then_some(())))
}

/// The whole story, for the visitor's family; `bystander` has the other one.
fn cut_off_and_let_back(mode: &str) -> Result<()> {
    let overrides = json!({ "network": { "mode": mode } });
    let mut scene = Scene::prepare(|setup| setup.interface(INTERFACE).overrides(overrides))?;
    scene.daemon.start()?;
    assert_eq!(scene.daemon.status()?["network"]["mode"], mode);
    for (visitor, bystander) in [(&scene.v4, &scene.v6), (&scene.v6, &scene.v4)] {
        let mut established = visitor.connect()?;
        assert!(established.look().is_status(200));
        let counters = KernelCounters::open(scene.daemon.pin_root())?;
        let dropped_before = counters.banned()?;

        scene.ban(visitor.source(), "1h")?;

        // It hears nothing, or that the host has closed it.
        assert!(!established.look().is_answer(), "an established connection");
        assert_silence(visitor);
        assert!(counters.banned()? > dropped_before, "dropped by our program");
        assert_answers(bystander);

        scene.lift(visitor.source())?;
        await_answers(visitor)?;
    }
    Ok(())
}

#[test]
fn a_ban_cuts_a_source_off_in_native_mode_and_lifting_it_lets_it_back() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    cut_off_and_let_back("native")
}

#[test]
fn a_ban_cuts_a_source_off_in_generic_mode_and_lifting_it_lets_it_back() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    cut_off_and_let_back("generic")
}

#[test]
fn a_ban_ends_on_time_though_the_daemon_is_dead() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut scene = Scene::guarded()?;
    let visitors = [scene.v4.clone(), scene.v6.clone()];
    // The bans are younger than this moment, so that they end after it; bar
    // the millisecond to which ends are rounded.
    let still_banned_until_ns = clock::boot_ns() + 3_990_000_000;
    for visitor in &visitors {
        scene.ban(visitor.source(), "4s")?;
    }
    scene.daemon.kill()?;
    let counters = KernelCounters::open(scene.daemon.pin_root())?;
    let before = counters.banned()?;
    let silent = visitors[0].look() == Outcome::Timeout;
    ensure!(clock::boot_ns() < still_banned_until_ns, "this machine is too slow for this test");
    assert!(silent && counters.banned()? > before, "banned while the daemon is dead");
    for visitor in &visitors {
        await_answers(visitor)?;
        assert!(clock::boot_ns() >= still_banned_until_ns, "not before its time");
        assert!(scene.is_blocked(visitor.source())?, "nobody removed the entry");
    }
    assert_eq!(scene.daemon.pid(), None, "the daemon is still dead");
    Ok(())
}

#[test]
fn where_the_driver_has_no_native_xdp_auto_is_generic_and_says_so() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    // Loopback has none in any kernel.
    let mut scene = Scene::prepare(|setup| setup.interface("lo"))?;
    scene.daemon.start()?;
    let status = scene.daemon.status()?;
    assert_eq!(status["network"]["mode"], "generic", "{status}");
    let log = scene.daemon.log();
    let warning = log.lines().find(|line| line.contains("WARN") && line.contains("generic"));
    assert!(warning.is_some_and(|line| line.contains("lo")), "{log}");
    Ok(())
}

#[test]
fn where_the_driver_has_no_native_xdp_native_is_an_error() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::prepare(|setup| setup)?;
    let finished = scene.daemon.ctl(&["xdp", "attach", "--interface", "lo", "--mode", "native"])?;
    assert!(!finished.status.success());
    assert!(finished.stderr.contains("cannot attach to lo"), "{}", finished.stderr);
    assert_eq!(scene.xdp(&["status"])?["attached"], json!([]));
    Ok(())
}

#[test]
fn an_interface_that_is_not_there_is_named() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::prepare(|setup| setup)?;
    let finished = scene.daemon.ctl(&["xdp", "attach", "--interface", "eth7"])?;
    assert_eq!(finished.status.code(), Some(64));
    assert!(finished.stderr.contains("eth7"), "{}", finished.stderr);
    Ok(())
}

/// Attaches to the one interface of the host.
fn put_on(
    pair: &Pair,
    board: &Pinboard,
    mode: AttachMode,
) -> Result<Result<Attachment, NetworkError>> {
    let interfaces = vec![INTERFACE.to_owned()];
    let options = AttachOptions { interfaces, mode, ..detached() };
    let attached = pair.host.run(|| Ok(attach(board.pins(), &options)?))?;
    let Attached { mut attachments, mut failures } = attached;
    match failures.pop() {
        Some(error) => Ok(Err(error)),
        None => Ok(Ok(attachments.pop().context("neither attached nor not")?)),
    }
}

#[test]
fn an_interface_with_a_foreign_program_is_refused_and_keeps_it() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let (theirs, ours) = (Pinboard::reserve()?, Pinboard::reserve()?);
    let foreign = put_on(&pair, &theirs, AttachMode::Native)??;
    for mode in [AttachMode::Auto, AttachMode::Native, AttachMode::Generic] {
        let error = put_on(&pair, &ours, mode)?.expect_err("the interface is taken");
        let named = matches!(&error, NetworkError::Busy { program_id, .. }
            if *program_id == foreign.program_id);
        assert!(named, "{error:?}");
        let text = error.to_string();
        let parts = [INTERFACE, "native", PROGRAM, &foreign.program_id.to_string()];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        assert_eq!(ours.pins().interfaces(), Vec::<String>::new());
    }
    let attached = pair.host.run(|| Ok(moderation_daemon::network::attachments()?))?;
    assert_eq!(attached, [foreign]);
    Ok(())
}

#[test]
fn another_mode_than_the_attached_one_is_refused_and_nothing_changes() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let board = Pinboard::reserve()?;
    put_on(&pair, &board, AttachMode::Generic)??;
    let error = put_on(&pair, &board, AttachMode::Native)?.expect_err("it is generic");
    assert!(matches!(error, NetworkError::ModeDiffers { .. }), "{error:?}");
    assert!(error.to_string().contains("moderationctl xdp detach"), "{error}");
    let again = put_on(&pair, &board, AttachMode::Auto)?.context("any mode is fine")?;
    assert_eq!(again.mode.to_string(), "generic");
    Ok(())
}

#[test]
fn detaching_keeps_the_bans_and_attaching_again_enforces_them() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::guarded()?;
    scene.ban(CLIENT_V4, "permanent")?;
    assert_silence(&scene.v4);

    let detached = scene.xdp(&["detach", "--interface", INTERFACE])?;
    assert_eq!(detached["detached"], true);
    await_answers(&scene.v4)?;
    assert!(scene.is_blocked(CLIENT_V4)?);
    assert_eq!(scene.xdp(&["status"])?["attached"], json!([]));
    let again = scene.xdp(&["detach", "--interface", INTERFACE])?;
    assert_eq!(again["detached"], false);

    let attached = scene.xdp(&["attach", "--interface", INTERFACE])?;
    assert_eq!(attached["attached"][0]["interface"], INTERFACE);
    assert_silence(&scene.v4);
    assert_answers(&scene.v6);
    Ok(())
}

#[test]
fn status_shows_what_is_attached_blocked_and_counted() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::prepare(|setup| setup)?;
    let before = scene.xdp(&["status"])?;
    assert_eq!(
        before,
        json!({ "pin_root": scene.daemon.pin_root(), "loaded": false, "attached": [] })
    );

    scene.xdp(&["attach", "--interface", INTERFACE, "--mode", "generic"])?;
    let mut scene = scene;
    scene.daemon.start()?;
    scene.ban(CLIENT_V4, "1h")?;
    assert_silence(&scene.v4);
    assert_answers(&scene.v6);

    let status = scene.xdp(&["status"])?;
    assert_eq!(status["loaded"], true);
    assert_eq!(status["blocked"], 1);
    let attached = &status["attached"][0];
    assert_eq!(
        (&attached["interface"], &attached["mode"], &attached["ours"]),
        (&json!(INTERFACE), &json!("generic"), &json!(true))
    );
    assert!(status["counters"]["ban_v4"]["packets"].as_u64() > Some(0), "{status}");
    assert_eq!(status["counters"]["ban_v6"]["packets"], 0);
    // One connection is none that stands out.
    assert_eq!(status["busiest"], json!({ "attempts": [], "handshakes": [] }));
    Ok(())
}

#[test]
fn off_drops_nothing_any_more_and_leaves_no_pin() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::guarded()?;
    scene.ban(CLIENT_V4, "permanent")?;
    assert_silence(&scene.v4);
    let off = scene.xdp(&["off"])?;
    assert_eq!(off["detached"], json!([INTERFACE]));
    await_answers(&scene.v4)?;
    assert!(!scene.daemon.pin_root().exists());
    let status = scene.xdp(&["status"])?;
    assert_eq!((&status["loaded"], &status["attached"]), (&json!(false), &json!([])));
    assert_eq!(scene.xdp(&["off"])?["detached"], json!([]), "off twice is no error");
    Ok(())
}

#[test]
fn an_interface_that_goes_and_comes_back_is_attached_again_with_all_bans() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut scene = Scene::guarded()?;
    scene.ban(CLIENT_V4, "1h")?;
    assert_silence(&scene.v4);
    let client = scene.pair.client.name();
    scene.pair.host.configure(&[
        format!("link delete {INTERFACE}"),
        format!("link add name {INTERFACE} type veth peer name {INTERFACE} netns {client}"),
    ])?;
    scene.pair.address()?;
    assert!(scene.pins().link(INTERFACE).exists(), "the pin of the old link is stale");
    // The daemon is root's, and puts the program back by itself.
    let pins = scene.pins();
    let is_attached = || Ok((!pins.attachments()?.is_empty()).then_some(()));
    wait::until("the program to be back", LONG, || scene.pair.host.run(is_attached))?;
    assert_silence(&scene.v4);
    await_answers(&scene.v6)?;

    // And the new link is one that lasts.
    scene.daemon.restart()?;
    assert_silence(&scene.v4);
    Ok(())
}

#[test]
fn bans_fallen_while_detached_hold_from_the_first_packet_after_attaching() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    // mode off pins and attaches nothing; the daemon works on the pins.
    let mut scene = Scene::prepare(|setup| setup)?;
    scene.xdp(&["attach", "--interface", INTERFACE, "--mode", "off"])?;
    scene.daemon.start()?;
    scene.ban(CLIENT_V4, "1h")?;
    assert_answers(&scene.v4);
    assert_eq!(scene.daemon.status()?["network"]["state"], "detached");
    scene.xdp(&["attach", "--interface", INTERFACE])?;
    assert_silence(&scene.v4);
    Ok(())
}

#[test]
fn an_interface_whose_name_has_a_dot_is_attached_and_detached_like_any_other() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    // As VLAN interfaces are named; bpffs has no dots in names.
    let scene = Scene::prepare(|setup| setup)?;
    let names = ["eth1.7", "a.b.c"];
    for name in names {
        scene.pair.host.configure(&[format!("link add name {name} type veth")])?;
        let attached = scene.xdp(&["attach", "--interface", name])?;
        assert_eq!(attached["attached"][0]["interface"], name);
    }
    let status = scene.xdp(&["status"])?;
    let attached = status["attached"].as_array().cloned().unwrap_or_default();
    assert_eq!(attached.len(), names.len(), "{status}");
    assert!(attached.iter().all(|attached| attached["ours"] == true), "{status}");
    for name in names {
        assert_eq!(scene.xdp(&["attach", "--interface", name])?["attached"][0]["interface"], name);
        assert_eq!(scene.xdp(&["detach", "--interface", name])?["detached"], true);
    }
    assert_eq!(scene.xdp(&["status"])?["attached"], json!([]));
    Ok(())
}
