//! The program's life on its interfaces: several of them, one that is missing,
//! one that is taken, attaching on trial, taking everything off, only watching.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{Array, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpMode;
use aya::programs::{Xdp, loaded_links};
use aya::{EbpfLoader, include_bytes_aligned};
use moderation_common::map::FILTER;
use moderation_daemon::config::{AttachMode, Connections};
use moderation_daemon::network::{
    AttachOptions, Attachment, Pins, attach, attachments, detach, off,
};
use moderation_tests::cgroup::ControlGroup;
use moderation_tests::chat::{self, Chat};
use moderation_tests::daemon::{Daemon, Finished, Setup, binary};
use moderation_tests::kernel::{Pinboard, detached};
use moderation_tests::lab::{CLIENT_V4, HOST_V4, INTERFACE, Pair};
use moderation_tests::process::{self, Process};
use moderation_tests::visitor::{Outcome, Visitor};
use moderation_tests::{need, wait};
use serde_json::{Value, json};

/// For what happens sooner or later.
const LONG: Duration = Duration::from_secs(20);
/// Longer than any of these tests waits for anything.
const LONG_TRIAL: &str = "5m";

/// A second interface, its addresses, and one that nobody has.
const SECOND: &str = "eth1";
const HOST_SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const CLIENT_SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const MISSING: &str = "eth7";

/// A host with two interfaces.
fn two_wires() -> Result<Pair> {
    let pair = Pair::new()?;
    let client = pair.client.name();
    pair.host.configure(&[
        format!("link add name {SECOND} type veth peer name {SECOND} netns {client}"),
        format!("link set {SECOND} up"),
        format!("address add {HOST_SECOND}/24 dev {SECOND}"),
    ])?;
    pair.client.configure(&[
        format!("link set {SECOND} up"),
        format!("address add {CLIENT_SECOND}/24 dev {SECOND}"),
    ])?;
    Ok(pair)
}

/// What runs on the host's interfaces, by name.
fn attached(pair: &Pair) -> Result<Vec<Attachment>> {
    let mut attached = pair.host.run(|| Ok(attachments()?))?;
    attached.sort_by(|a, b| a.interface.cmp(&b.interface));
    Ok(attached)
}

fn interfaces(pair: &Pair) -> Result<Vec<String>> {
    Ok(attached(pair)?.into_iter().map(|attached| attached.interface).collect())
}

fn prepare(pair: &Pair, overrides: Value) -> Result<Daemon> {
    Setup::new().inside(&pair.host).overrides(overrides).prepare()
}

fn xdp(daemon: &Daemon, arguments: &[&str]) -> Result<Value> {
    let finished = daemon.ctl(&[&["--json", "xdp"], arguments].concat())?;
    Ok(serde_json::from_str(&finished.success()?)?)
}

fn visitor(pair: &Pair, from: Ipv4Addr, to: Ipv4Addr) -> Visitor {
    let server = SocketAddr::new(to.into(), chat::PORT);
    Visitor::new(&pair.client, from.into(), server, "anna").patience(Duration::from_millis(1_300))
}

fn ban(daemon: &Daemon, ip: impl Into<IpAddr>) -> Result<()> {
    let ip: IpAddr = ip.into();
    let response = daemon.admin().post("/v1/bans", &json!({ "ip": ip, "duration": "1h" }))?;
    ensure!(response.body["ban"]["enforced"] == true, "{response:?}");
    Ok(())
}

#[test]
fn an_interface_that_is_missing_is_named_and_the_others_are_attached() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = two_wires()?;
    let daemon = prepare(&pair, json!({}))?;
    let arguments = ["--interface", INTERFACE, "--interface", MISSING, "--interface", SECOND];
    let finished = daemon.ctl(&[&["--json", "xdp", "attach"], &arguments[..]].concat())?;
    assert_eq!(finished.status.code(), Some(64), "{finished:?}");
    assert!(finished.stderr.contains(MISSING), "{finished:?}");
    let told: Value = serde_json::from_str(&finished.stdout)?;
    assert_eq!(told["attached"].as_array().map(Vec::len), Some(2), "{told}");
    let failures = told["failures"].to_string();
    assert!(failures.contains(MISSING) && !failures.contains(SECOND), "{told}");
    assert_eq!(interfaces(&pair)?, [INTERFACE, SECOND]);
    Ok(())
}

#[test]
fn one_daemon_serves_several_interfaces_and_misses_one_aloud() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = two_wires()?;
    let interfaces = json!({ "network": { "interfaces": [INTERFACE, MISSING, SECOND] } });
    let mut daemon = prepare(&pair, interfaces)?;
    daemon.start()?;
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("ERROR") && line.contains(MISSING));
    assert!(line.is_some(), "{log}");
    let status = daemon.status()?;
    let attachments = status["network"]["attachments"].as_array().map(Vec::len);
    assert_eq!(attachments, Some(2), "{status}");

    let _chat = Chat::open(&pair.host, &daemon.api_socket())?;
    let first = visitor(&pair, CLIENT_V4, HOST_V4);
    let second = visitor(&pair, CLIENT_SECOND, HOST_SECOND);
    for (visitor, other, ip) in [(&first, &second, CLIENT_V4), (&second, &first, CLIENT_SECOND)] {
        assert!(visitor.look().is_status(200));
        ban(&daemon, ip)?;
        assert_eq!(visitor.look(), Outcome::Timeout, "{ip}");
        assert!(other.look().is_status(200), "not {ip}");
        daemon.admin().delete(&format!("/v1/bans?ip={ip}"))?;
    }
    Ok(())
}

/// The lines of the metrics about interfaces.
fn interface_metrics(daemon: &Daemon) -> Result<Vec<String>> {
    let metrics = daemon.admin().get("/metrics")?.body;
    let lines = metrics.as_str().context("metrics are text")?.lines();
    let about = ["moderation_kernel_attached", "moderation_kernel_interface"];
    let is_about = |line: &&str| about.iter().any(|name| line.starts_with(name));
    let mut lines: Vec<_> = lines.filter(is_about).map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

#[test]
fn metrics_tell_each_interfaces_mode_and_who_misses_the_program() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = two_wires()?;
    let interfaces = json!({ "network": { "interfaces": [INTERFACE, MISSING, SECOND] } });
    let mut daemon = prepare(&pair, interfaces)?;
    for (interface, mode) in [(INTERFACE, "native"), (SECOND, "generic")] {
        daemon.ctl(&["xdp", "attach", "--interface", interface, "--mode", mode])?.success()?;
    }
    daemon.start()?;
    let told = |lines: [&str; 4]| lines.map(|line| format!("moderation_kernel_{line}")).to_vec();
    let all = told([
        "attached 1",
        r#"interface{interface="eth0",mode="native"} 1"#,
        r#"interface{interface="eth1",mode="generic"} 1"#,
        r#"interface{interface="eth7",mode="none"} 0"#,
    ]);
    assert_eq!(interface_metrics(&daemon)?, all);
    daemon.ctl(&["xdp", "detach", "--interface", SECOND])?.success()?;
    let one = told([
        "attached 1",
        r#"interface{interface="eth0",mode="native"} 1"#,
        r#"interface{interface="eth1",mode="none"} 0"#,
        r#"interface{interface="eth7",mode="none"} 0"#,
    ]);
    assert_eq!(interface_metrics(&daemon)?, one, "no mode stays that is over");
    daemon.ctl(&["xdp", "detach", "--interface", INTERFACE])?.success()?;
    let none = told([
        "attached 0",
        r#"interface{interface="eth0",mode="none"} 0"#,
        r#"interface{interface="eth1",mode="none"} 0"#,
        r#"interface{interface="eth7",mode="none"} 0"#,
    ]);
    assert_eq!(interface_metrics(&daemon)?, none);
    Ok(())
}

/// Waits until the program is on the interface.
fn await_attached(pair: &Pair) -> Result<()> {
    wait::until("the program to be attached", LONG, || {
        Ok((interfaces(pair)? == [INTERFACE]).then_some(()))
    })
}

#[test]
fn what_is_not_confirmed_in_time_is_detached() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let daemon = prepare(&pair, json!({}))?;
    let trial = ["xdp", "attach", "--interface", INTERFACE, "--confirm-within", "2s"];
    let finished = thread::scope(|scope| {
        let waiting = scope.spawn(|| daemon.ctl(&trial));
        await_attached(&pair)?;
        waiting.join().map_err(|_| anyhow!("a thread panicked"))?
    })?;
    let Finished { status, stderr, .. } = finished;
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("xdp confirm"), "it says how: {stderr}");
    assert!(stderr.contains("not confirmed within 2 s: detached"), "{stderr}");
    assert!(attached(&pair)?.is_empty());
    assert_eq!(xdp(&daemon, &["status"])?["attached"], json!([]));
    // What comes too late confirms nothing that is still to come.
    xdp(&daemon, &["confirm", "--interface", INTERFACE])?;
    assert_eq!(daemon.ctl(&trial)?.status.code(), Some(1));
    assert!(attached(&pair)?.is_empty());
    Ok(())
}

#[test]
fn what_another_process_confirms_stays_when_the_first_has_ended() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let mut daemon = prepare(&pair, json!({}))?;
    let trial = ["xdp", "attach", "--interface", INTERFACE, "--confirm-within", LONG_TRIAL];
    thread::scope(|scope| {
        let waiting = scope.spawn(|| daemon.ctl(&trial));
        await_attached(&pair)?;
        xdp(&daemon, &["confirm", "--interface", INTERFACE])?;
        waiting.join().map_err(|_| anyhow!("a thread panicked"))?
    })?
    .success()?;
    let before = attached(&pair)?;
    assert_eq!(interfaces(&pair)?, [INTERFACE], "nobody holds it but its pin");
    assert_eq!(xdp(&daemon, &["status"])?["attached"][0]["ours"], true);
    // The next time there is nothing to confirm: it is the same, or an upgrade.
    daemon.ctl(&trial)?.success()?;
    assert_eq!(attached(&pair)?, before);
    daemon.reconfigure(&json!({ "network": { "syn": { "limit": 999 } } }))?;
    daemon.ctl(&trial)?.success()?;
    let after = attached(&pair)?;
    assert!(after.len() == 1 && before != after, "{before:?}, {after:?}");
    Ok(())
}

/// `xdp attach` on trial, as a process of its own.
fn begin_trial(pair: &Pair, daemon: &Daemon) -> Result<Process> {
    let mut command = process::command(binary("moderationctl")?);
    command.arg("--config").arg(daemon.config_path());
    command.args(["xdp", "attach", "--interface", INTERFACE, "--confirm-within", LONG_TRIAL]);
    command.stderr(std::process::Stdio::null());
    pair.host.spawn(command)
}

#[test]
fn what_was_killed_before_it_was_confirmed_is_detached() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let daemon = prepare(&pair, json!({}))?;
    let trial = begin_trial(&pair, &daemon)?;
    await_attached(&pair)?;
    trial.kill()?;
    wait::until("the program to be gone", LONG, || Ok(attached(&pair)?.is_empty().then_some(())))?;
    assert!(Pins::new(daemon.pin_root()).interfaces().is_empty(), "no link was pinned");
    Ok(())
}

/// Does nothing, and is not ours.
static FOREIGN_OBJECT: &[u8] = include_bytes_aligned!(env!("DRIVER_OBJECT"));

#[test]
fn another_program_on_the_interface_is_named_whoever_attaches_how() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = two_wires()?;
    let mut object = EbpfLoader::new().load(FOREIGN_OBJECT)?;
    let foreign: &mut Xdp = object.program_mut("nothing").context("no program")?.try_into()?;
    foreign.load()?;
    pair.host.run(|| Ok(foreign.attach(INTERFACE, XdpMode::Driver)?))?;
    let before = attached(&pair)?;
    let id = before.first().context("it is attached")?.program_id.to_string();
    let is_named = |text: &str| {
        let parts = [INTERFACE, "nothing", &id, "native", "xdp off"];
        parts.iter().all(|part| text.contains(part)) && !text.contains("os error")
    };

    let both = json!({ "network": { "interfaces": [INTERFACE, SECOND] } });
    let mut daemon = prepare(&pair, both)?;
    let one = ["xdp", "attach", "--interface", INTERFACE];
    for more in [&[][..], &["--mode", "generic"], &["--confirm-within", "1m"]] {
        let finished = daemon.ctl(&[&one, more].concat())?;
        assert_eq!(finished.status.code(), Some(71), "{finished:?}");
        assert!(is_named(&finished.stderr), "{more:?}: {}", finished.stderr);
        assert_eq!(attached(&pair)?, before, "it is left alone");
    }
    // A daemon goes on with its other interface.
    daemon.start()?;
    let log = daemon.log();
    assert!(log.lines().any(|line| line.contains("ERROR") && is_named(line)), "{log}");
    assert_eq!(interfaces(&pair)?, [INTERFACE, SECOND]);
    let status = xdp(&daemon, &["status"])?;
    let ours: Vec<_> = status["attached"].as_array().into_iter().flatten().collect();
    let of = |name: &str| ours.iter().find(|attached| attached["interface"] == name);
    let is_ours = |name| of(name).map(|attached| attached["ours"] == true);
    assert_eq!((is_ours(INTERFACE), is_ours(SECOND)), (Some(false), Some(true)), "{status}");
    Ok(())
}

/// The kernel's number of a pinned link.
fn link_id(path: &std::path::Path) -> Result<u32> {
    Ok(FdLink::from(PinnedLink::from_pin(path)?).info()?.id())
}

fn is_loaded(id: u32) -> bool {
    loaded_links().filter_map(Result::ok).any(|link| link.id() == id)
}

#[test]
fn off_takes_everything_of_every_layout_away_without_daemon_or_store() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = two_wires()?;
    let group = ControlGroup::create()?;
    if !need::is_met("control groups of version 2", group.is_some()) {
        return Ok(());
    }
    let group = group.context("there is one")?;
    let (board, elsewhere) = (Pinboard::reserve()?, Pinboard::reserve()?);
    let lay_out = |pins: &Pins, interface: &str| -> Result<u32> {
        let cgroup = Some(group.path().to_owned());
        let connections =
            Connections { enabled: true, limit: 9, window: Duration::from_secs(10), cgroup };
        let (interfaces, mode) = (vec![interface.to_owned()], AttachMode::Native);
        let options = AttachOptions { interfaces, mode, connections, ..detached() };
        let done = pair.host.run(|| Ok(attach(pins, &options)?))?;
        ensure!(done.failures.is_empty(), "{done:?}");
        link_id(&pins.map("handshakes_link"))
    };
    // An upgrade that was interrupted leaves two layouts behind.
    let old = Pins::of_schema(elsewhere.path(), "v1");
    let links = [lay_out(board.pins(), INTERFACE)?, lay_out(&old, SECOND)?];
    fs::rename(elsewhere.path().join("v1"), board.path().join("v1"))?;
    assert!(links.into_iter().all(is_loaded) && interfaces(&pair)?.len() == 2);

    // No configuration either: nothing but the folder.
    let mut command = process::command(binary("moderationctl")?);
    command.args(["--json", "--config", "/dev/null", "xdp", "off", "--pin-root"]);
    command.arg(board.path());
    let finished = pair.host.run(|| Ok(command.output()?))?;
    let stderr = String::from_utf8_lossy(&finished.stderr);
    assert!(finished.status.success(), "{stderr}");
    let told: Value = serde_json::from_slice(&finished.stdout)?;
    assert_eq!(told["detached"], json!([SECOND, INTERFACE]), "{stderr}");
    assert!(!board.path().exists(), "no pin is left");
    assert!(attached(&pair)?.is_empty());
    wait::until("the links to be gone", LONG, || {
        Ok((!links.into_iter().any(is_loaded)).then_some(()))
    })
}

#[test]
fn what_is_taken_off_is_off_at_once_and_can_be_put_on_again() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (pair, board) = (Pair::new()?, Pinboard::reserve()?);
    let (interfaces, mode) = (vec![INTERFACE.to_owned()], AttachMode::Native);
    let options = AttachOptions { interfaces, mode, ..detached() };
    for round in 0..20 {
        let done = pair.host.run(|| Ok(attach(board.pins(), &options)?))?;
        ensure!(done.failures.is_empty(), "round {round}: {done:?}");
        // As a loader does that asks whose the programs on its interface are.
        let _looked_at = PinnedLink::from_pin(board.pins().link(INTERFACE))?;
        let taken_off = if round % 2 == 0 {
            detach(board.pins(), INTERFACE)?
        } else {
            off(board.pins())? == [INTERFACE]
        };
        let left = attached(&pair)?;
        ensure!(taken_off && left.is_empty(), "round {round}: {left:?}");
    }
    Ok(())
}

/// Changes the configuration; takes effect at the next start.
fn reconfigure(daemon: &Daemon, change: impl FnOnce(&mut Value)) -> Result<()> {
    let mut config = serde_json::from_str(&fs::read_to_string(daemon.config_path())?)?;
    change(&mut config);
    Ok(fs::write(daemon.config_path(), config.to_string())?)
}

fn packets(daemon: &Daemon, reason: &str) -> Result<u64> {
    let status = daemon.status()?;
    let packets = status["network"]["counters"][reason]["packets"].as_u64();
    packets.with_context(|| format!("no {reason} in {status}"))
}

#[test]
fn who_only_watches_counts_what_would_be_dropped_and_drops_nothing() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let overrides = json!({ "network": { "interfaces": [INTERFACE], "enforce": false } });
    let mut daemon = prepare(&pair, overrides)?;
    daemon.start()?;
    let _chat = Chat::open(&pair.host, &daemon.api_socket())?;
    let visitor = visitor(&pair, CLIENT_V4, HOST_V4);
    ban(&daemon, CLIENT_V4)?;
    for _ in 0..2 {
        let watched = packets(&daemon, "observe_would_drop")?;
        let dropped = packets(&daemon, "ban_v4")?;
        assert!(visitor.look().is_answer(), "nothing is dropped");
        assert!(packets(&daemon, "observe_would_drop")? > watched);
        assert_eq!(packets(&daemon, "ban_v4")?, dropped);

        reconfigure(&daemon, |config| config["network"]["enforce"] = json!(true))?;
        daemon.restart()?;
        let watched = packets(&daemon, "observe_would_drop")?;
        assert_eq!(visitor.look(), Outcome::Timeout);
        assert!(packets(&daemon, "ban_v4")? > dropped);
        assert_eq!(packets(&daemon, "observe_would_drop")?, watched);

        reconfigure(&daemon, |config| config["network"]["enforce"] = json!(false))?;
        daemon.restart()?;
        // The neighbour cache may need a moment.
        wait::until("an answer", LONG, || Ok(visitor.look().is_answer().then_some(())))?;
    }
    Ok(())
}

#[test]
fn verify_finds_a_ban_that_the_prefilter_hides_and_a_restart_mends_it() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let mut daemon = prepare(&pair, json!({ "network": { "interfaces": [INTERFACE] } }))?;
    daemon.start()?;
    let _chat = Chat::open(&pair.host, &daemon.api_socket())?;
    ban(&daemon, CLIENT_V4)?;
    ban(&daemon, Ipv4Addr::new(198, 51, 100, 7))?;
    let verified = xdp(&daemon, &["verify"])?;
    assert_eq!(verified, json!({ "entries": 2, "hidden": 0, "switched_off": 0 }));

    let data = MapData::from_pin(Pins::new(daemon.pin_root()).map(FILTER))?;
    let mut words: Array<_, u64> = Array::try_from(Map::Array(data))?;
    for index in 0..words.len() {
        let word = words.get(&index, 0)?;
        if word != 0 {
            words.set(index, word & (word - 1), 0)?; // without its lowest bit
        }
    }
    let finished = daemon.ctl(&["xdp", "verify"])?;
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert!(finished.stdout.contains("2 hidden"), "{finished:?}");
    assert!(finished.stderr.contains("restart the daemon"), "{finished:?}");

    daemon.restart()?;
    assert_eq!(xdp(&daemon, &["verify"])?, verified);
    assert_eq!(visitor(&pair, CLIENT_V4, HOST_V4).look(), Outcome::Timeout);
    Ok(())
}
