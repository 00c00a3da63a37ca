//! What can be missing or full in the kernel: each time a clear error, the
//! daemon goes on serving, and it recovers by itself when the cause is gone.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use moderation_daemon::network::{BanMaps, Pins};
use moderation_tests::caller::Caller;
use moderation_tests::chat::{self, Chat};
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::lab::{CLIENT_V4, HOST_V4, INTERFACE, Pair};
use moderation_tests::visitor::{Outcome, Visitor};
use moderation_tests::{need, wait};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use tempfile::TempDir;

/// For what the daemon does by itself; it looks every second, and after a
/// failure ever more seldom.
const SOON: Duration = Duration::from_secs(20);
/// Somebody without any capability (`nobody`).
const DAEMON_UID: u32 = 65534;

/// Loads and pins on no interface.
const PIN: [&str; 6] = ["xdp", "attach", "--mode", "off", "--interface", "lo"];

fn network(daemon: &Daemon) -> Result<Value> {
    Ok(daemon.status()?["network"].take())
}

/// Serves, enforces nothing, and says why in these words.
fn assert_serves_without_kernel(daemon: &Daemon, words: &[&str]) -> Result<()> {
    let mut operator = Caller::operator(daemon);
    let ban = operator.ban(&json!({ "user": "anna", "ip": "192.0.2.7" }))?;
    assert_eq!(ban["enforced"], false, "{ban}");
    assert!(Caller::app(daemon).is_banned("ip=192.0.2.7")?, "it holds at the API");
    let network = network(daemon)?;
    assert_eq!(network["state"], "unavailable", "{network}");
    let problem = network["problem"].as_str().context("no problem")?;
    for word in words {
        assert!(problem.contains(word), "no {word:?} in {problem}");
    }
    let log = daemon.log();
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains(words[0])), "{log}");
    Ok(())
}

fn await_enforced(daemon: &Daemon, bans: usize) -> Result<()> {
    let mut status = Value::Null;
    let waited = wait::until("all bans to be enforced", SOON, || {
        status = daemon.status()?;
        let is_well = status["network"]["problem"].is_null() && status["bans"]["enforced"] == bans;
        Ok(is_well.then_some(()))
    });
    waited.with_context(|| format!("{status}"))
}

/// Where there is no BPF filesystem. Without a dot in its name, as pins want it.
fn folder() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("moderation").tempdir_in("/tmp")?)
}

/// A BPF filesystem, for as long as this lives.
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0755"))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

#[test]
fn without_a_bpf_filesystem_it_serves_and_enforces_once_there_is_one() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let folder = folder()?;
    let root = folder.path().join("pins");
    let name = root.display().to_string();
    let overrides = json!({ "network": { "pin_root": root } });
    let daemon = Setup::new().overrides(overrides).start()?;
    assert_serves_without_kernel(&daemon, &["cannot open the map", &name, "xdp attach"])?;
    let attach = daemon.ctl(&PIN)?;
    assert_eq!(attach.status.code(), Some(71), "{attach:?}");
    assert!(attach.stderr.contains(&format!("mount -t bpf bpf {name}")), "{attach:?}");

    let _mounted = Bpffs::mount(&root)?;
    daemon.ctl(&PIN)?.success()?;
    await_enforced(&daemon, 1)?;
    assert_eq!(network(&daemon)?["state"], "detached");
    Ok(())
}

#[test]
fn a_loader_that_needs_a_bpf_filesystem_and_has_none_ends_before_it_serves() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (pair, folder) = (Pair::new()?, folder()?);
    let root = folder.path().join("pins");
    let overrides = json!({ "network": { "pin_root": root, "interfaces": [INTERFACE] } });
    let mut daemon = Setup::new().inside(&pair.host).overrides(overrides).prepare()?;
    // Whoever asks for an interface wants protection, or to be told.
    let error = format!("{:#}", daemon.start().expect_err("there is no bpffs"));
    assert!(error.contains("mount -t bpf bpf"), "{error}");
    Ok(())
}

#[test]
fn without_permission_it_serves_and_enforces_once_it_is_given_the_maps() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = Setup::new().unprivileged(DAEMON_UID, DAEMON_UID).prepare()?;
    daemon.ctl(&PIN)?.success()?;
    daemon.start()?;
    assert_serves_without_kernel(&daemon, &["cannot open the map", "--owner", "ermission"])?;

    let owner = DAEMON_UID.to_string();
    daemon.ctl(&[&PIN[..], &["--owner", &owner]].concat())?.success()?;
    await_enforced(&daemon, 1)
}

/// The kernel's map of that many bans, and a daemon that goes by `configured`.
fn with_room_for(made: u32, configured: u32) -> Result<Option<Daemon>> {
    if !need::root() {
        return Ok(None);
    }
    let overrides = json!({ "network": { "max_bans": made, "reconcile_interval": "1h" } });
    let mut daemon = Setup::new().overrides(overrides).prepare()?;
    daemon.ctl(&PIN)?.success()?;
    let mut config: Value = serde_json::from_str(&fs::read_to_string(daemon.config_path())?)?;
    config["network"]["max_bans"] = json!(configured);
    fs::write(daemon.config_path(), config.to_string())?;
    daemon.start()?;
    Ok(Some(daemon))
}

fn blocked(daemon: &Daemon) -> Result<usize> {
    Ok(BanMaps::open(&Pins::new(daemon.pin_root()))?.all()?.len())
}

#[test]
fn a_ban_for_which_there_is_no_room_is_refused_until_one_is_lifted() -> Result<()> {
    let Some(daemon) = with_room_for(4, 4)? else { return Ok(()) };
    let mut operator = Caller::operator(&daemon);
    let ban = |last: u8| json!({ "ip": Ipv4Addr::new(198, 51, 100, last), "duration": "1h" });
    for last in 0..4 {
        assert_eq!(operator.ban(&ban(last))?["enforced"], true);
    }
    let log = daemon.log();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("max_bans")), "{log}");
    let refused = daemon.admin().post("/v1/bans", &ban(4))?;
    assert!(refused.status >= 400, "{refused:?}");
    assert!(refused.body.to_string().contains("no room for another ban"), "{refused:?}");
    assert!(!operator.is_banned("ip=198.51.100.4")?, "refused is refused");
    assert_eq!(blocked(&daemon)?, 4);
    assert!(network(&daemon)?["problem"].is_null(), "the kernel is well");

    operator.delete("/v1/bans?ip=198.51.100.0")?;
    assert_eq!(operator.ban(&ban(4))?["enforced"], true);
    assert_eq!(blocked(&daemon)?, 4);
    Ok(())
}

#[test]
fn bans_beyond_a_map_that_was_made_smaller_hold_at_the_api_until_there_is_room() -> Result<()> {
    let Some(daemon) = with_room_for(4, 100)? else { return Ok(()) };
    let mut operator = Caller::operator(&daemon);
    let ban = |last: u8| json!({ "ip": Ipv4Addr::new(198, 51, 100, last), "duration": "1h" });
    for last in 0..6 {
        assert_eq!(operator.ban(&ban(last))?["enforced"], last < 4, "{last}");
        assert!(operator.is_banned(&format!("ip=198.51.100.{last}"))?);
    }
    let status = daemon.status()?;
    assert_eq!(status["bans"], json!({ "active": 6, "enforced": 4 }));
    let problem = status["network"]["problem"].as_str().context("no problem")?;
    for words in ["full (4 entries)", "network.max_bans", "xdp off", "xdp attach"] {
        assert!(problem.contains(words), "no {words:?} in {problem}");
    }

    operator.delete("/v1/bans?ip=198.51.100.0")?;
    operator.delete("/v1/bans?ip=198.51.100.1")?;
    await_enforced(&daemon, 4)?;
    assert_eq!(blocked(&daemon)?, 4);
    // Made anew they are as large as is configured now.
    daemon.ctl(&["xdp", "off"])?.success()?;
    daemon.ctl(&PIN)?.success()?;
    wait::until("the new maps to be filled", SOON, || Ok((blocked(&daemon)? == 4).then_some(())))?;
    await_enforced(&daemon, 4)?;
    assert_eq!(operator.ban(&ban(6))?["enforced"], true);
    Ok(())
}

#[test]
fn a_daemon_whose_interface_vanishes_says_so_and_goes_on() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let mut daemon = Setup::new().inside(&pair.host).prepare()?;
    let attach = ["xdp", "attach", "--interface", INTERFACE];
    daemon.ctl(&attach)?.success()?;
    daemon.start()?;
    let mut operator = Caller::operator(&daemon);
    operator.ban(&json!({ "ip": CLIENT_V4 }))?;
    assert_eq!(network(&daemon)?["state"], "attached");

    pair.host.configure(&[format!("link delete {INTERFACE}")])?;
    let status = network(&daemon)?;
    assert_eq!((&status["state"], &status["attachments"]), (&json!("detached"), &json!([])));
    assert_eq!(operator.ban(&json!({ "ip": "198.51.100.9" }))?["enforced"], true, "in the maps");
    let gone = daemon.ctl(&attach)?;
    assert_eq!(gone.status.code(), Some(64), "{gone:?}");
    assert!(gone.stderr.contains(&format!("no interface {INTERFACE}")), "{gone:?}");

    let client = pair.client.name();
    let peer = format!("type veth peer name {INTERFACE} netns {client}");
    pair.host.configure(&[
        format!("link add name {INTERFACE} {peer}"),
        format!("link set {INTERFACE} up"),
        format!("address add {HOST_V4}/24 dev {INTERFACE}"),
    ])?;
    pair.client.configure(&[
        format!("link set {INTERFACE} up"),
        format!("address add {CLIENT_V4}/24 dev {INTERFACE}"),
    ])?;
    // The loader puts it on again; the daemon needs nothing, not even a restart.
    daemon.ctl(&attach)?.success()?;
    assert_eq!(network(&daemon)?["state"], "attached");
    let _chat = Chat::open(&pair.host, &daemon.api_socket())?;
    let server = SocketAddr::new(HOST_V4.into(), chat::PORT);
    let visitor = Visitor::new(&pair.client, CLIENT_V4.into(), server, "anna");
    assert_eq!(visitor.look(), Outcome::Timeout);
    operator.delete(&format!("/v1/bans?ip={CLIENT_V4}"))?;
    wait::until("an answer", SOON, || Ok(visitor.look().is_answer().then_some(())))
}
