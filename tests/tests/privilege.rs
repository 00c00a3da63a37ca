//! Three parties, none of whom can do the next one's job: root's loader, the
//! daemon without any capability, and whoever may only use a socket.

use std::fs::{self, DirBuilder, Permissions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use moderation_common::Reason;
use moderation_common::map::{DAEMON_MAPS, GUARD_MAPS, ROOT_MAPS};
use moderation_daemon::config::AttachMode;
use moderation_daemon::engine::Address;
use moderation_daemon::network::{
    AttachOptions, Attached, BanMaps, Counters, NetworkError, Pins, attach,
};
use moderation_tests::attempt::Attempts;
use moderation_tests::chat::{self, Chat};
use moderation_tests::daemon::{Daemon, Setup, binary};
use moderation_tests::kernel::{Pinboard, detached};
use moderation_tests::lab::{CLIENT_V4, HOST_V4, INTERFACE, Pair};
use moderation_tests::namespace::Namespace;
use moderation_tests::need;
use moderation_tests::outsider::{Outsider, output};
use moderation_tests::visitor::{Outcome, Visitor};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::{Group, Uid};
use serde_json::json;

/// Whom nothing belongs to (`nobody`).
const DAEMON_UID: u32 = 65534;
/// Some other user, who need not exist.
const APP_UID: u32 = 4242;
/// A group that every Linux has (Linux Standard Base, section 23.2).
const APP_GROUP: &str = "daemon";
/// A group that the app is not in.
const NO_GROUP: u32 = 65533;
/// Another address of the client's, which is guarded.
const GUARDED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);

fn app_gid() -> Result<u32> {
    let group = Group::from_name(APP_GROUP)?.with_context(|| format!("no group {APP_GROUP}"))?;
    Ok(group.gid.as_raw())
}

/// A chat host as it is meant to be run: the loader was root, the daemon is
/// nobody, the app is in the socket's group.
struct Installation {
    daemon: Daemon,
    _chat: Chat,
    pair: Pair,
}

impl Installation {
    fn new() -> Result<Self> {
        let pair = Pair::new()?;
        pair.client.configure(&[format!("address add {GUARDED}/24 dev {INTERFACE}")])?;
        let overrides = json!({
            "api": { "group": APP_GROUP },
            "network": { "guards": [format!("{GUARDED}/32")] },
        });
        let mut daemon = Setup::new()
            .inside(&pair.host)
            .unprivileged(DAEMON_UID, app_gid()?)
            .overrides(overrides)
            .prepare()?;
        let owner = DAEMON_UID.to_string();
        daemon.ctl(&["xdp", "attach", "--interface", INTERFACE, "--owner", &owner])?.success()?;
        daemon.start()?;
        // As /run/moderation is: whoever knows a socket's name gets to it.
        let folder = daemon.api_socket().parent().map(Path::to_owned).unwrap_or_default();
        fs::set_permissions(folder, Permissions::from_mode(0o711))?;
        let chat = Chat::open(&pair.host, &daemon.api_socket())?;
        Ok(Self { daemon, _chat: chat, pair })
    }

    fn visitor(&self, source: Ipv4Addr) -> Visitor {
        let server = SocketAddr::new(HOST_V4.into(), chat::PORT);
        Visitor::new(&self.pair.client, source.into(), server, "anna")
    }

    fn ban(&self, ip: Ipv4Addr) -> Result<()> {
        let response = self.daemon.admin().post("/v1/bans", &json!({ "ip": ip }))?;
        ensure!(response.status == 201, "{response:?}");
        ensure!(response.body["ban"]["enforced"] == true, "{response:?}");
        Ok(())
    }

    fn packets(&self, reason: Reason) -> Result<u64> {
        Ok(Counters::open(&Pins::new(self.daemon.pin_root()))?.read(reason)?.packets)
    }

    /// That the client was and still is cut off, by our program.
    fn assert_enforced(&self) -> Result<()> {
        let before = self.packets(Reason::BanV4)?;
        assert_eq!(self.visitor(CLIENT_V4).look(), Outcome::Timeout);
        assert!(self.packets(Reason::BanV4)? > before);
        Ok(())
    }
}

/// Each one refused by the kernel for want of permission, and for nothing else.
fn assert_refused(attempts: &Attempts) {
    assert!(!attempts.is_empty());
    for (what, error) in attempts {
        let refused = matches!(error.as_deref(), Some("EACCES" | "EPERM"));
        assert!(refused, "{what}: {error:?}");
    }
}

fn assert_worked(attempts: &Attempts) {
    assert!(!attempts.is_empty());
    for (what, error) in attempts {
        assert_eq!(*error, None, "{what}");
    }
}

#[test]
fn a_daemon_without_any_capability_has_packets_dropped() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let installation = Installation::new()?;
    let pid = installation.daemon.pid().context("it runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>()).unwrap_or_default()
    };
    assert_eq!(field("Uid:"), ["65534"; 4]);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert!(installation.visitor(CLIENT_V4).look().is_status(200));
    installation.ban(CLIENT_V4)?;
    installation.assert_enforced()?;
    let lift = installation.daemon.admin().delete(&format!("/v1/bans?ip={CLIENT_V4}"))?;
    assert_eq!(lift.status, 200);
    assert!(installation.visitor(CLIENT_V4).look().is_status(200));
    Ok(())
}

#[test]
fn the_daemons_user_can_neither_detach_nor_unpin_nor_touch_the_guards() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let installation = Installation::new()?;
    installation.ban(CLIENT_V4)?;
    let intruder = Outsider::new(DAEMON_UID, app_gid()?)?;
    let pin_root = installation.daemon.pin_root();
    assert_refused(&intruder.attack(pin_root, INTERFACE)?);
    assert_refused(&intruder.switch_off(pin_root, INTERFACE)?);
    // What is its own it can open, and nothing more.
    let maps = intruder.open_maps(pin_root)?;
    for map in DAEMON_MAPS {
        assert_eq!(maps[map], None, "{map}");
    }
    for map in GUARD_MAPS.into_iter().chain(ROOT_MAPS) {
        assert_eq!(maps[map].as_deref(), Some("EACCES"), "{map}");
    }
    assert_worked(&intruder.read_guards(pin_root)?);
    installation.assert_enforced()
}

#[test]
fn what_is_refused_to_others_works_for_the_owner_of_the_pins() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    // Without this one, the attacks above might fail for reasons of their own.
    let (pair, board) = (Pair::new()?, Pinboard::reserve()?);
    let attach = || {
        let options = AttachOptions {
            interfaces: vec![INTERFACE.to_owned()],
            mode: AttachMode::Auto,
            ..detached()
        };
        let Attached { attachments, failures } =
            pair.host.run(|| Ok(attach(board.pins(), &options)?))?;
        ensure!(attachments.len() == 1 && failures.is_empty(), "{attachments:?}, {failures:?}");
        Ok(())
    };
    let owner = Outsider::new(0, 0)?;
    attach()?;
    assert_worked(&owner.attack(board.path(), INTERFACE)?);
    assert!(!board.path().exists());
    attach()?;
    assert_worked(&owner.open_maps(board.path())?);
    assert_worked(&owner.switch_off(board.path(), INTERFACE)?);
    assert!(!board.path().exists());
    Ok(())
}

#[test]
fn tools_do_not_help_the_daemons_user_either() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let installation = Installation::new()?;
    installation.ban(CLIENT_V4)?;
    let intruder = Outsider::new(DAEMON_UID, app_gid()?)?;
    let (host, moderationctl) = (&installation.pair.host, binary("moderationctl")?);
    let pin_root = installation.daemon.pin_root().to_string_lossy().into_owned();
    for arguments in [
        vec!["xdp", "detach", "--interface", INTERFACE],
        vec!["xdp", "off"],
        vec!["xdp", "attach", "--interface", INTERFACE],
    ] {
        let mut command = intruder.command(&moderationctl)?;
        command.args(&arguments).args(["--pin-root", &pin_root]);
        let finished = output(host, command)?;
        let stderr = String::from_utf8_lossy(&finished.stderr);
        assert_eq!(finished.status.code(), Some(77), "{arguments:?}: {stderr}");
        assert!(stderr.contains("root"), "{stderr}");
    }
    for mode in ["xdp", "xdpdrv", "xdpgeneric"] {
        assert!(!ip_as(&intruder, host, &["link", "set", "dev", INTERFACE, mode, "off"])?);
    }
    assert!(!ip_as(&intruder, host, &["link", "set", "dev", INTERFACE, "down"])?);
    assert!(ip_as(&intruder, host, &["link", "show", "dev", INTERFACE])?, "ip itself works");
    installation.assert_enforced()
}

/// Whether ip succeeds, run as somebody else.
fn ip_as(outsider: &Outsider, namespace: &Namespace, arguments: &[&str]) -> Result<bool> {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let ip = folders.iter().map(|folder| folder.join("ip")).find(|ip| ip.exists());
    let mut command = outsider.command(&ip.context("there is no ip (iproute2)")?)?;
    command.args(arguments);
    Ok(output(namespace, command)?.status.success())
}

#[test]
fn the_guards_overrule_what_the_daemons_user_writes_into_the_map() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let installation = Installation::new()?;
    let intruder = Outsider::new(DAEMON_UID, app_gid()?)?;
    for ip in [GUARDED, CLIENT_V4] {
        assert_worked(&intruder.ban(installation.daemon.pin_root(), ip.into())?);
    }
    installation.assert_enforced()?; // it can ban strangers, that is its job
    let before = installation.packets(Reason::AllowOverride)?;
    assert!(installation.visitor(GUARDED).look().is_status(200));
    assert!(installation.packets(Reason::AllowOverride)? > before, "the ban is there");
    Ok(())
}

#[test]
fn banning_a_guarded_or_private_address_is_refused_at_the_api() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let installation = Installation::new()?;
    let bans = BanMaps::open(&Pins::new(installation.daemon.pin_root()))?;
    let guarded = GUARDED.to_string();
    for ip in [guarded.as_str(), "10.1.2.3", "127.0.0.1", "::1", "fe80::1", "::ffff:192.168.0.1"] {
        let response = installation.daemon.admin().post("/v1/bans", &json!({ "ip": ip }))?;
        assert_eq!(response.status, 409, "{ip}: {response:?}");
        let problem = response.body.to_string();
        assert!(problem.contains("protected-address"), "{ip}: {problem}");
        let address: IpAddr = ip.parse()?;
        assert_eq!(bans.get(Address::from(address).into())?, None, "{ip}");
    }
    assert!(installation.visitor(GUARDED).look().is_status(200));
    Ok(())
}

#[test]
fn a_member_of_the_apps_group_reaches_the_apps_socket_and_nothing_else() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let installation = Installation::new()?;
    installation.ban(CLIENT_V4)?;
    let daemon = &installation.daemon;
    let app = Outsider::new(APP_UID, app_gid()?)?;
    assert_worked(&app.ask(&daemon.api_socket())?);
    assert_refused(&app.ask(&daemon.admin_socket())?);
    assert_refused(&app.open_maps(daemon.pin_root())?);
    assert_refused(&app.ban(daemon.pin_root(), CLIENT_V4.into())?);
    assert_refused(&app.attack(daemon.pin_root(), INTERFACE)?);
    assert_refused(&app.switch_off(daemon.pin_root(), INTERFACE)?);

    let stranger = Outsider::new(APP_UID, NO_GROUP)?;
    assert_refused(&stranger.ask(&daemon.api_socket())?);
    assert_refused(&stranger.ask(&daemon.admin_socket())?);
    assert_refused(&stranger.open_maps(daemon.pin_root())?);
    installation.assert_enforced()
}

/// Where bpffs belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// Runs `experiment` on a thread with mounts of its own, which are gone with
/// the thread, and in which bpffs is not mounted.
fn without_bpffs(experiment: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
            while is_bpffs()? {
                umount2(BPFFS, MntFlags::MNT_DETACH)?;
            }
            experiment()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn is_bpffs() -> Result<bool> {
    Ok(statfs(BPFFS)?.filesystem_type() == BPF_FS_MAGIC)
}

fn mode_of(path: impl AsRef<Path>) -> Result<u32> {
    Ok(fs::metadata(path)?.mode() & 0o7777)
}

#[test]
fn a_bpffs_that_only_root_may_enter_is_opened_just_enough() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    without_bpffs(|| {
        // As systemd mounts it.
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))?;
        let root = Path::new(BPFFS).join("moderation");
        let daemon = Outsider::new(DAEMON_UID, NO_GROUP)?;
        let load = |owner| {
            attach(
                &Pins::new(&root),
                &AttachOptions { owner: Some(Uid::from_raw(owner)), ..detached() },
            )
        };
        load(0)?;
        assert_eq!(mode_of(BPFFS)?, 0o1700, "root needs no way");
        assert_refused(&daemon.open_maps(&root)?);

        load(DAEMON_UID)?;
        assert_eq!(mode_of(BPFFS)?, 0o1701, "passable, neither to be listed nor to be written");
        assert_worked(&daemon.ban(&root, CLIENT_V4.into())?);
        assert_refused(
            &daemon
                .attack(&root, INTERFACE)?
                .into_iter()
                .filter(|(what, _)| !what.contains("links/eth0") && what != "open the link")
                .collect(),
        );
        Ok(())
    })
}

#[test]
fn a_missing_bpffs_is_mounted_where_it_belongs() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    without_bpffs(|| {
        ensure!(!is_bpffs()?, "it is still mounted");
        let pins = Pins::new(Path::new(BPFFS).join("moderation"));
        attach(&pins, &detached())?;
        assert!(is_bpffs()?);
        assert!(pins.exist());
        Ok(())
    })
}

#[test]
fn pins_on_another_filesystem_are_refused_with_the_command_that_helps() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("pins");
    let error = attach(&Pins::new(&root), &detached()).expect_err("no bpffs there");
    assert!(matches!(error, NetworkError::Bpffs { .. }), "{error:?}");
    let command = format!("mount -t bpf bpf {}", root.display());
    assert!(error.to_string().contains(&command), "{error}");
    assert_eq!(fs::read_dir(folder.path())?.count(), 0, "nothing was made");
    Ok(())
}

#[test]
fn a_folder_that_others_may_write_is_refused() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    for folder in ["", Pins::SCHEMA, &links_folder()] {
        for (uid, mode) in [(DAEMON_UID, 0o755), (0, 0o777), (0, 0o775), (0, 0o1777)] {
            let board = Pinboard::reserve()?;
            let spoiled = board.path().join(folder);
            DirBuilder::new().recursive(true).mode(0o755).create(&spoiled)?;
            chown(&spoiled, Some(uid), None)?;
            fs::set_permissions(&spoiled, Permissions::from_mode(mode))?;
            assert_foreign(&board, &format!("{folder:?} of uid {uid} with mode {mode:o}"));
        }
    }
    Ok(())
}

/// Where the pins of links are, below the folder of an instance.
fn links_folder() -> String {
    format!("{}/links", Pins::SCHEMA)
}

fn assert_foreign(board: &Pinboard, what: &str) {
    let error = attach(board.pins(), &detached()).expect_err(what);
    assert!(matches!(error, NetworkError::ForeignFolder { .. }), "{what}: {error:?}");
    assert!(!board.pins().exist(), "{what}: pinned all the same");
}

#[test]
fn a_folder_below_one_that_others_may_write_is_refused() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    // Who may write the folder above can put another in the place of ours.
    for (uid, mode, is_refused) in
        [(0, 0o777, true), (DAEMON_UID, 0o755, true), (0, 0o1777, false), (0, 0o700, false)]
    {
        let board = Pinboard::reserve()?;
        DirBuilder::new().mode(0o755).create(board.path())?;
        chown(board.path(), Some(uid), None)?;
        fs::set_permissions(board.path(), Permissions::from_mode(mode))?;
        let pins = Pins::new(board.path().join("inner"));
        let result = attach(&pins, &detached());
        let refused = matches!(result, Err(NetworkError::ForeignFolder { .. }));
        assert_eq!(refused, is_refused, "uid {uid}, mode {mode:o}: {result:?}");
        assert_eq!(pins.exist(), !is_refused, "uid {uid}, mode {mode:o}");
    }
    Ok(())
}

#[test]
fn a_symbolic_link_in_the_place_of_a_folder_is_refused() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (board, elsewhere) = (Pinboard::reserve()?, Pinboard::reserve()?);
    DirBuilder::new().mode(0o755).create(elsewhere.path())?;
    symlink(elsewhere.path(), board.path())?;
    assert_foreign(&board, "a link");
    assert!(!elsewhere.pins().exist());
    Ok(fs::remove_file(board.path())?)
}

#[test]
fn a_strangers_symbolic_link_is_not_followed_to_do_harm() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let treasure = tempfile::tempdir()?;
    let before = mode_of(treasure.path())?;
    for place in [Pins::SCHEMA, &links_folder()] {
        let board = Pinboard::reserve()?;
        let planted = board.path().join(place);
        let folder = planted.parent().context("it has one")?;
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        symlink(treasure.path(), &planted)?;
        chown(folder, Some(DAEMON_UID), None)?;
        assert_foreign(&board, place);
        assert_eq!(mode_of(treasure.path())?, before, "{place}");
        assert_eq!(fs::read_dir(treasure.path())?.count(), 0, "{place}");
    }
    Ok(())
}
