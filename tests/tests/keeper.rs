//! Root's half while the system runs: whoever is logged in is guarded in the
//! kernel for as long as that lasts, and the program goes back on an interface
//! that went and came again. Judged by real TCP and the kernel's counters.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use moderation_common::{BanEntry, Reason};
use moderation_daemon::network::{AllowMaps, Counters, Guards, Network, Pins};
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::lab::{
    ABUSER_V4, BYSTANDER_V4, CLIENT_V4, HOST_V4, HOST_V6, INTERFACE, Lab, Pair,
};
use moderation_tests::namespace::{Namespace, join};
use moderation_tests::session::Sessions;
use moderation_tests::visitor::Visitor;
use moderation_tests::{need, wait};
use serde_json::{Value, json};

/// The bound that is documented is 2 s; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a visitor waits for a handshake that is on the same machine.
const A_WHILE: Duration = Duration::from_millis(300);

/// A host with something to connect to, whose daemon may or may not run.
struct Host {
    daemon: Daemon,
    sessions: Sessions,
    namespace: Namespace,
    server: SocketAddr,
}

impl Host {
    fn new(namespace: &Namespace, setup: Setup) -> Result<Self> {
        let sessions = Sessions::new()?;
        let daemon = setup.inside(namespace).arguments(&sessions.options()).prepare()?;
        let listener = namespace.run(|| Ok(TcpListener::bind(("::", 8080))?))?;
        let server = SocketAddr::new(HOST_V4.into(), listener.local_addr()?.port());
        // Ends with the test's process.
        thread::spawn(move || listener.incoming().for_each(drop));
        Ok(Self { daemon, sessions, namespace: namespace.clone(), server })
    }

    /// One to which the program is attached by moderationctl.
    fn attached(namespace: &Namespace) -> Result<Self> {
        let host = Self::new(namespace, Setup::new())?;
        host.ctl(&["xdp", "attach", "--interface", INTERFACE])?;
        Ok(host)
    }

    fn command(&self, arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(|&it| it.to_owned()).chain(self.sessions.options()).collect()
    }

    fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let arguments = self.command(arguments);
        self.daemon.ctl(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?.success()
    }

    fn pins(&self) -> Pins {
        Pins::new(self.daemon.pin_root())
    }

    /// A permanent ban straight into the maps.
    fn ban(&self, ip: impl Into<IpAddr>) -> Result<()> {
        let prefix = IpNet::from(ip.into()).to_string().parse()?;
        let entry = BanEntry { expires_at_ns: BanEntry::NEVER };
        Ok(Network::open(&self.pins())?.block(prefix, entry)?)
    }

    fn guards(&self) -> Result<Vec<String>> {
        Ok(Guards::read(&self.pins())?.guards.iter().map(ToString::to_string).collect())
    }

    fn is_reachable(&self, from: &Namespace, source: impl Into<IpAddr>) -> bool {
        let visitor = Visitor::new(from, source.into(), self.server, "anna");
        visitor.patience(A_WHILE).connect().is_ok()
    }

    fn await_reachable(&self, expected: bool, from: &Namespace, source: IpAddr) -> Result<()> {
        let what =
            if expected { "the visitor to get through" } else { "the visitor to be cut off" };
        wait::until(what, PATIENCE, || {
            Ok((self.is_reachable(from, source) == expected).then_some(()))
        })
        .with_context(|| self.daemon.log())
    }

    fn packets(&self, reason: Reason) -> Result<u64> {
        Ok(Counters::open(&self.pins())?.read(reason)?.packets)
    }
}

#[test]
fn a_login_session_is_guarded_while_it_lasts_whatever_the_ban_map_says() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let host = Host::attached(&lab.host)?;
    let keeper = host.daemon.keep(&host.command(&["xdp", "guard", "--watch"]))?;
    host.ban(BYSTANDER_V4)?;
    host.ban(ABUSER_V4)?;
    assert!(!host.is_reachable(&lab.bystander, BYSTANDER_V4));

    host.sessions.begin("7", BYSTANDER_V4.into())?;
    host.await_reachable(true, &lab.bystander, BYSTANDER_V4.into())?;
    assert!(host.packets(Reason::AllowOverride)? > 0, "the ban is still there");
    assert!(!host.is_reachable(&lab.abuser, ABUSER_V4), "nobody else gains by it");

    host.sessions.end("7")?;
    host.await_reachable(false, &lab.bystander, BYSTANDER_V4.into())?;
    let status = keeper.terminate(PATIENCE)?;
    assert!(status.success(), "{status}: {}", host.daemon.log());
    let log = host.daemon.log();
    assert_eq!(log.matches("guarded from now on").count(), 1, "{log}");
    assert_eq!(log.matches("no longer guarded").count(), 1, "{log}");
    Ok(())
}

#[test]
fn this_host_its_gateways_and_who_is_logged_in_are_guarded_from_the_start() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let host = Host::new(&lab.host, Setup::new())?;
    host.sessions.begin("c1", BYSTANDER_V4.into())?;
    host.ctl(&["xdp", "attach", "--interface", INTERFACE])?;
    let expected = [
        format!("{HOST_V4}/32"),
        format!("{HOST_V6}/128"),
        "192.0.2.254/32".to_owned(),
        "2001:db8:0:1::fe/128".to_owned(),
        format!("{BYSTANDER_V4}/32"),
        "127.0.0.0/8".to_owned(),
        "10.0.0.0/8".to_owned(),
    ];
    let guards = host.guards()?;
    for prefix in &expected {
        assert!(guards.contains(prefix), "{prefix} in {guards:?}");
    }
    // Said with the reasons, and changed no more.
    let told: Value = serde_json::from_str(&host.ctl(&["--json", "xdp", "guard"])?)?;
    assert_eq!(told["changes"], json!({ "added": 0, "updated": 0, "removed": 0 }), "{told}");
    let why = |prefix: &str| {
        let guards = told["guards"].as_array().into_iter().flatten();
        guards.into_iter().find(|guard| guard["prefix"] == prefix).map(|guard| guard["why"].clone())
    };
    assert_eq!(why("192.0.2.254/32"), Some(json!(["gateway"])));
    assert_eq!(why(&expected[4]), Some(json!(["session"])));
    assert_eq!(why("10.0.0.0/8"), Some(json!(["configured"])));
    let text = host.ctl(&["xdp", "guard"])?;
    assert!(text.lines().any(|line| line.contains("192.0.2.1/32") && line.contains("own_address")));

    host.ban(BYSTANDER_V4)?;
    assert!(host.is_reachable(&lab.bystander, BYSTANDER_V4));
    Ok(())
}

#[test]
fn a_source_that_cannot_be_asked_takes_nobodys_protection_away() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let database = "192.0.2.77/32".to_owned();
    for (hosts, stays) in [(json!(["db.invalid"]), true), (json!([]), false)] {
        let lab = Lab::new()?;
        let overrides = json!({ "network": { "guard_hosts": hosts } });
        let host = Host::new(&lab.host, Setup::new().overrides(overrides))?;
        host.ctl(&["xdp", "attach", "--interface", INTERFACE])?;
        // As an earlier keeper left it, to whom the name was known.
        let guards: Vec<IpNet> = vec![database.parse()?];
        AllowMaps::open_guards(&host.pins())?.set_guards(&guards, &[])?;
        let told: Value = serde_json::from_str(&host.ctl(&["--json", "xdp", "guard"])?)?;
        assert_eq!(host.guards()?.contains(&database), stays, "{told}");
        assert_eq!(told.to_string().contains("inherited"), stays, "{told}");
        assert_eq!(told["problems"].to_string().contains("db.invalid"), stays, "{told}");
        assert!(host.guards()?.contains(&format!("{HOST_V4}/32")));
    }
    Ok(())
}

#[test]
fn the_session_that_bans_itself_is_refused_also_under_sudo() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let mut host = Host::attached(&lab.host)?;
    host.daemon.start()?;
    // No SSH_CONNECTION here: sudo strips it.
    host.sessions.begin("9", BYSTANDER_V4.into())?;
    let list = tempfile::NamedTempFile::new()?;
    fs::write(list.path(), "203.0.113.0/24\n198.51.100.77\n")?;
    let list = list.path().display().to_string();
    let wide = format!("{BYSTANDER_V4}/24");
    for ip in [&BYSTANDER_V4.to_string(), &wide] {
        let complaint = host.ctl(&["ban", "--ip", ip]).expect_err("it would lock out").to_string();
        assert!(complaint.contains("somebody is logged in"), "{complaint}");
    }
    let imported = host.ctl(&["import", &list, "--source", "test"])?;
    assert!(imported.contains("imported 1 entries"), "{imported}");
    assert!(imported.contains("203.0.113.0/24 covers 203.0.113.5"), "{imported}");
    host.ctl(&["ban", "--ip", &ABUSER_V4.to_string()])?;
    Ok(())
}

/// Deletes the host's interface, and makes it anew under the same name.
fn renew(pair: &Pair) -> Result<()> {
    pair.host.configure(&[format!("link delete {INTERFACE}")])?;
    join((&pair.host, INTERFACE), (&pair.client, INTERFACE))?;
    pair.address()
}

fn attachments(host: &Host) -> Result<Vec<String>> {
    let attached = host.namespace.run(|| Ok(host.pins().attachments()?))?;
    Ok(attached.into_iter().map(|attachment| attachment.interface).collect())
}

fn assert_comes_back(host: &Host, pair: &Pair) -> Result<()> {
    host.ban(CLIENT_V4)?;
    assert!(!host.is_reachable(&pair.client, CLIENT_V4));
    for _ in 0..2 {
        renew(pair)?;
        wait::until("the program to be put back", PATIENCE, || {
            Ok((attachments(host)? == [INTERFACE]).then_some(()))
        })
        .with_context(|| host.daemon.log())?;
        assert!(!host.is_reachable(&pair.client, CLIENT_V4));
    }
    let log = host.daemon.log();
    assert_eq!(log.matches("attached again").count(), 2, "{log}");
    Ok(())
}

#[test]
fn an_interface_that_comes_again_gets_the_program_back() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let host = Host::attached(&pair.host)?;
    let _keeper = host.daemon.keep(&host.command(&["xdp", "guard", "--watch"]))?;
    wait::until("the keeper to look", PATIENCE, || {
        Ok(host.daemon.log().contains("guarding").then_some(()))
    })?;
    assert_comes_back(&host, &pair)
}

#[test]
fn the_daemon_that_root_started_puts_the_program_back_too() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let mut host = Host::new(&pair.host, Setup::new().interface(INTERFACE))?;
    host.daemon.start()?;
    let guards = host.guards()?;
    assert!(guards.contains(&format!("{HOST_V4}/32")), "{guards:?}");
    host.sessions.begin("3", "192.0.2.9".parse()?)?;
    wait::until("the session to be guarded", PATIENCE, || {
        Ok(host.guards()?.contains(&"192.0.2.9/32".to_owned()).then_some(()))
    })?;
    // The daemon mends what is not its own; the ban has to be.
    let response = host.daemon.admin().post("/v1/bans", &json!({ "ip": CLIENT_V4 }))?;
    ensure!(response.status == 201, "{response:?}");
    assert_comes_back(&host, &pair)?;
    let status = host.daemon.stop()?;
    assert!(status.success(), "{status}: {}", host.daemon.log());
    Ok(())
}

/// Waits for a look that comes after everything before it: it sees a session
/// that begins now.
fn await_round(host: &Host, id: &str) -> Result<()> {
    let peer = format!("192.0.2.10{id}");
    host.sessions.begin(id, peer.parse()?)?;
    wait::until("a round to pass", PATIENCE, || {
        Ok(host.guards()?.contains(&format!("{peer}/32")).then_some(()))
    })
}

#[test]
fn what_was_taken_off_on_purpose_stays_off() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let overrides = json!({ "network": { "interfaces": [INTERFACE] } });
    let host = Host::new(&pair.host, Setup::new().overrides(overrides))?;
    host.ctl(&["xdp", "attach"])?;
    let _keeper = host.daemon.keep(&host.command(&["xdp", "guard", "--watch"]))?;
    await_round(&host, "1")?;
    host.ctl(&["xdp", "detach", "--interface", INTERFACE])?;
    await_round(&host, "2")?;
    await_round(&host, "3")?;
    assert!(attachments(&host)?.is_empty(), "{}", host.daemon.log());
    host.ctl(&["xdp", "attach"])?;
    assert_eq!(attachments(&host)?, [INTERFACE]);
    assert_comes_back(&host, &pair)
}

#[test]
fn what_nobody_confirmed_is_not_put_back() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let overrides = json!({ "network": { "interfaces": [INTERFACE] } });
    let host = Host::new(&pair.host, Setup::new().overrides(overrides))?;
    let tried = host.ctl(&["xdp", "attach", "--confirm-within", "1s"]);
    let complaint = tried.expect_err("nobody confirms").to_string();
    assert!(complaint.contains("not confirmed"), "{complaint}");
    let _keeper = host.daemon.keep(&host.command(&["xdp", "guard", "--watch"]))?;
    await_round(&host, "1")?;
    await_round(&host, "2")?;
    assert!(attachments(&host)?.is_empty(), "{}", host.daemon.log());
    Ok(())
}

#[test]
fn a_configured_interface_that_comes_late_gets_the_program() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let overrides = json!({ "network": { "interfaces": [INTERFACE, "late0"], "mode": "generic" } });
    let host = Host::new(&pair.host, Setup::new().overrides(overrides))?;
    host.ctl(&["xdp", "attach", "--interface", INTERFACE])?;
    let _keeper = host.daemon.keep(&host.command(&["xdp", "guard", "--watch"]))?;
    join((&pair.host, "late0"), (&pair.client, "late0"))?;
    wait::until("the late one to be attached", PATIENCE, || {
        Ok((attachments(&host)? == [INTERFACE, "late0"]).then_some(()))
    })
    .with_context(|| host.daemon.log())
}

#[test]
fn a_foreign_program_on_an_interface_is_named_once() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    join((&pair.host, "late0"), (&pair.client, "late0"))?;
    // Another instance's program is none of ours.
    let foreign = Setup::new().inside(&pair.host).prepare()?;
    foreign.ctl(&["xdp", "attach", "--interface", "late0"])?.success()?;
    let overrides = json!({ "network": { "interfaces": [INTERFACE, "late0"] } });
    let host = Host::new(&pair.host, Setup::new().overrides(overrides))?;
    let complaint = host.ctl(&["xdp", "attach"]).expect_err("late0 is taken").to_string();
    let named = "late0 already runs an XDP program (moderation, id ";
    assert!(complaint.contains(named) && complaint.contains("xdp off"), "{complaint}");
    assert_eq!(attachments(&host)?, [INTERFACE], "one interface's trouble is not another's");

    let _keeper = host.daemon.keep(&host.command(&["xdp", "guard", "--watch"]))?;
    for id in ["1", "2", "3"] {
        await_round(&host, id)?;
    }
    let log = host.daemon.log();
    // Listing programs takes more capabilities than the keeper has.
    let known = "late0 already runs an XDP program (name unknown, id ";
    assert_eq!(log.matches(known).count(), 1, "{log}");
    foreign.ctl(&["xdp", "off"])?.success()?;
    wait::until("the freed one to be attached", PATIENCE, || {
        Ok((attachments(&host)? == [INTERFACE, "late0"]).then_some(()))
    })
}
