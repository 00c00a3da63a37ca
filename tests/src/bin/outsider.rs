//! Run as another user by the privilege tests: tries things and prints, as one
//! JSON object, which worked. It judges nothing.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result, ensure};
use aya::maps::MapData;
use aya::programs::links::PinnedLink;
use clap::Parser;
use moderation_common::BanEntry;
use moderation_common::map::{DAEMON_MAPS, GUARD_MAPS, ROOT_MAPS};
use moderation_daemon::api::client::Client;
use moderation_daemon::engine::{Address, Prefix};
use moderation_daemon::network::{self, AllowMaps, Guards, Network, Pins, TestProgram};
use moderation_tests::attempt::{Tried, print};

#[derive(Debug, Parser)]
enum Arguments {
    /// Try everything that would switch the protection off or get around it
    Attack { pin_root: PathBuf, interface: String },
    /// Detach and remove all pins, the way the loader does it
    SwitchOff { pin_root: PathBuf, interface: String },
    /// Open every map, for reading and writing
    OpenMaps { pin_root: PathBuf },
    /// Read who is guarded
    ReadGuards { pin_root: PathBuf },
    /// Empty the operator's allowlist and write a permanent ban into the map
    Ban { pin_root: PathBuf, ip: IpAddr },
    /// Write a permanent ban into the maps and leave the rest alone
    Block { pin_root: PathBuf, prefix: Prefix },
    /// Ask a socket for /healthz
    Ask { socket: PathBuf },
    /// Send a datagram to a socket
    Tell { socket: PathBuf, text: String },
}

fn main() -> Result<()> {
    let attempts = match Arguments::parse() {
        Arguments::Attack { pin_root, interface } => attack(&Pins::new(pin_root), &interface),
        Arguments::SwitchOff { pin_root, interface } => {
            switch_off(&Pins::new(pin_root), &interface)
        }
        Arguments::OpenMaps { pin_root } => open_maps(&Pins::new(pin_root)),
        Arguments::ReadGuards { pin_root } => vec![("read".to_owned(), read_guards(&pin_root))],
        Arguments::Ban { pin_root, ip } => vec![("ban".to_owned(), ban(&Pins::new(pin_root), ip))],
        Arguments::Block { pin_root, prefix } => {
            vec![("block".to_owned(), block(&Pins::new(pin_root), prefix))]
        }
        Arguments::Ask { socket } => vec![("ask".to_owned(), ask(&socket))],
        Arguments::Tell { socket, text } => vec![("tell".to_owned(), tell(&socket, &text))],
    };
    print(attempts)
}

fn tell(socket: &Path, text: &str) -> Result<()> {
    UnixDatagram::unbound()?.send_to(text.as_bytes(), socket)?;
    Ok(())
}

/// Attempts that change nothing come first, then those that undo themselves;
/// so that, if all of them worked, none would stand in another's way.
fn attack(pins: &Pins, interface: &str) -> Tried {
    let link = pins.link(interface);
    let mut attempts: Tried = vec![
        ("open the link".to_owned(), PinnedLink::from_pin(&link).map(drop).map_err(Error::from)),
        ("open the program".to_owned(), TestProgram::open(pins).map(drop).map_err(Error::from)),
        ("open the guards".to_owned(), AllowMaps::open_guards(pins).map(drop).map_err(Error::from)),
    ];
    let root_maps = GUARD_MAPS.into_iter().chain(ROOT_MAPS).map(|map| pins.map(map));
    let root_pins: Vec<_> = [link, pins.program()].into_iter().chain(root_maps).collect();
    let daemon_pins: Vec<_> = DAEMON_MAPS.map(|map| pins.map(map)).into();
    let folder = pins.program().parent().map(Path::to_owned).unwrap_or_default();
    let folders = [folder.join("links"), folder, pins.root().to_owned()];
    for path in root_pins.iter().chain(&folders) {
        attempts.extend(attempts_on_ownership(path));
    }
    for folder in &folders {
        attempts.extend(attempts_to_plant(folder));
    }
    for path in root_pins.iter().chain(&daemon_pins).chain(&folders) {
        attempts.extend(attempts_to_move(path));
    }
    for pin in root_pins.iter().chain(&daemon_pins) {
        attempts.push(attempt("remove", pin, fs::remove_file(pin)));
    }
    for folder in &folders {
        attempts.push(attempt("remove", folder, fs::remove_dir_all(folder)));
    }
    attempts
}

fn attempt(what: &str, path: &Path, result: io::Result<()>) -> (String, Result<()>) {
    (format!("{what} {}", path.display()), result.map_err(Error::from))
}

fn attempts_on_ownership(path: &Path) -> Tried {
    vec![
        attempt("take", path, chown(path, Some(nix::unistd::getuid().as_raw()), None)),
        attempt("open up", path, fs::set_permissions(path, Permissions::from_mode(0o777))),
    ]
}

fn attempts_to_plant(folder: &Path) -> Tried {
    let (inner, link) = (folder.join("planted"), folder.join("planted_link"));
    vec![
        attempt(
            "make a folder in",
            folder,
            DirBuilder::new().create(&inner).and_then(|()| fs::remove_dir(&inner)),
        ),
        attempt(
            "make a link in",
            folder,
            symlink("/", &link).and_then(|()| fs::remove_file(&link)),
        ),
    ]
}

/// What the folder around has to prevent, whoever owns the pin.
fn attempts_to_move(path: &Path) -> Tried {
    // bpffs refuses dots in names, which must not be why this fails.
    let beside = path.with_file_name("stolen");
    let elsewhere = Path::new("/sys/fs/bpf").join(format!("stolen_{}", std::process::id()));
    let there_and_back = |to: &Path| fs::rename(path, to).and_then(|()| fs::rename(to, path));
    vec![
        attempt("rename", path, there_and_back(&beside)),
        attempt("move out", path, there_and_back(&elsewhere)),
    ]
}

/// The loader's own ways, past the check of moderationctl.
fn switch_off(pins: &Pins, interface: &str) -> Tried {
    vec![
        ("detach".to_owned(), network::detach(pins, interface).map(drop).map_err(Error::from)),
        ("off".to_owned(), network::off(pins).map(drop).map_err(Error::from)),
    ]
}

fn open_maps(pins: &Pins) -> Tried {
    let maps = DAEMON_MAPS.into_iter().chain(GUARD_MAPS).chain(ROOT_MAPS);
    maps.map(|map| {
        (map.to_owned(), MapData::from_pin(pins.map(map)).map(drop).map_err(Error::from))
    })
    .collect()
}

fn read_guards(pin_root: &Path) -> Result<()> {
    let guards = Guards::read(&Pins::new(pin_root))?;
    ensure!(!guards.guards.is_empty(), "nobody is guarded");
    Ok(())
}

fn ban(pins: &Pins, ip: IpAddr) -> Result<()> {
    let entry = BanEntry { expires_at_ns: BanEntry::NEVER };
    let mut network = Network::open(pins)?;
    // Who can write bans can write the operator's allowlist, too.
    network.reconcile_allowlist(&[])?;
    Ok(network.block(Address::from(ip).into(), entry)?)
}

fn block(pins: &Pins, prefix: Prefix) -> Result<()> {
    let entry = BanEntry { expires_at_ns: BanEntry::NEVER };
    Ok(Network::open(pins)?.block(prefix, entry)?)
}

fn ask(socket: &Path) -> Result<()> {
    let response = Client::new(socket).get("/healthz")?;
    ensure!(response.status == 200, "{}", response.status);
    Ok(())
}
