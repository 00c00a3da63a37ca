//! Whoever is protected cannot be locked out, whichever door a ban comes in by:
//! every kind of protection times every door, by packets that still arrive. A
//! stranger goes with each, to show that the door leads somewhere.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moderation_common::Reason;
use moderation_daemon::engine::Prefix;
use moderation_daemon::network::{BanMaps, Counters, Pins};
use moderation_daemon::store::ImportStore;
use moderation_tests::chat::{self, Chat};
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::lab::{HOST_V4, HOST_V6, INTERFACE, Pair};
use moderation_tests::outsider::Outsider;
use moderation_tests::visitor::{Outcome, Visitor};
use moderation_tests::{need, wait};
use rusqlite::Connection;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(20);
/// For a stranger who is to get no answer.
const SHORT: Duration = Duration::from_millis(400);
/// Whom nothing belongs to (`nobody`).
const DAEMON_UID: u32 = 65534;

/// Who somebody is, and what becomes of a ban on him.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Banned, and dropped.
    Stranger,
    /// On the operator's allowlist: a ban is refused.
    Allowed,
    /// Guarded by root's loader: a ban is refused.
    Guarded,
    /// A proxy: a ban is accepted, and no packet dropped.
    Proxy,
}

const ALL: [Who; 4] = [Who::Stranger, Who::Allowed, Who::Guarded, Who::Proxy];

impl Who {
    /// So that two and two of them share a block.
    const fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, 2 + self as u8)
    }

    const fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0x10 + self as u16, 0, 0, 0, 0, 2)
    }

    fn prefixes(self) -> [String; 2] {
        [self.v4().to_string(), Ipv6Addr::to_string(&self.v6()).replace("::2", "::/64")]
    }

    const fn can_be_banned(self) -> bool {
        matches!(self, Self::Stranger | Self::Proxy)
    }
}

/// The same as the configuration wants it, where a single address has a length.
fn nets(who: Who) -> [String; 2] {
    let [v4, v6] = who.prefixes();
    [format!("{v4}/32"), v6]
}

/// A chat host as it is meant to be run: the loader was root, the daemon is
/// nobody.
struct Installation {
    daemon: Daemon,
    _chat: Chat,
    pair: Pair,
}

impl Installation {
    fn new() -> Result<Self> {
        let pair = Pair::new()?;
        for who in ALL {
            let (v4, v6) = (who.v4(), who.v6());
            // The first one's IPv4 address is the client's own already.
            let v4 = (who != Who::Stranger).then(|| format!("address add {v4}/24 dev {INTERFACE}"));
            let v6 = format!("address add {v6}/64 dev {INTERFACE} nodad");
            pair.client.configure(&v4.into_iter().chain([v6]).collect::<Vec<_>>())?;
            pair.host.configure(&[format!("route add {} dev {INTERFACE}", who.prefixes()[1])])?;
        }
        let mut daemon = Setup::new()
            .inside(&pair.host)
            .unprivileged(DAEMON_UID, DAEMON_UID)
            .overrides(json!({
                "allowlist": nets(Who::Allowed),
                "network": { "guards": nets(Who::Guarded), "proxies": nets(Who::Proxy) },
            }))
            .prepare()?;
        let owner = DAEMON_UID.to_string();
        daemon.ctl(&["xdp", "attach", "--interface", INTERFACE, "--owner", &owner])?.success()?;
        daemon.start()?;
        let chat = Chat::open(&pair.host, &daemon.api_socket())?;
        let installation = Self { daemon, _chat: chat, pair };
        for who in ALL {
            for visitor in installation.visitors(who) {
                let outcome = visitor.look();
                ensure!(outcome.is_answer(), "{who:?} got {outcome:?} before any ban");
            }
        }
        Ok(installation)
    }

    fn visitors(&self, who: Who) -> [Visitor; 2] {
        let ends: [(IpAddr, IpAddr); 2] =
            [(who.v4().into(), HOST_V4.into()), (who.v6().into(), HOST_V6.into())];
        ends.map(|(source, host)| {
            let server = SocketAddr::new(host, chat::PORT);
            Visitor::new(&self.pair.client, source, server, "anna")
        })
    }

    fn pins(&self) -> Pins {
        Pins::new(self.daemon.pin_root())
    }

    fn packets(&self, reason: Reason) -> Result<u64> {
        Ok(Counters::open(&self.pins())?.read(reason)?.packets)
    }

    /// The stranger is cut off, at the latest when a daemon that was started a
    /// moment ago is done, and nobody else.
    fn assert_only_the_stranger_is_cut_off(&self, door: &str) -> Result<()> {
        for visitor in self.visitors(Who::Stranger).map(|visitor| visitor.patience(SHORT)) {
            wait::until(&format!("the stranger to be cut off ({door})"), LONG, || {
                Ok((visitor.look() == Outcome::Timeout).then_some(()))
            })?;
        }
        for who in [Who::Allowed, Who::Guarded, Who::Proxy] {
            for visitor in self.visitors(who) {
                let outcome = visitor.look();
                let (source, network) = (visitor.source(), &self.daemon.status()?["network"]);
                ensure!(
                    outcome.is_answer(),
                    "{door}: {who:?}, {source}, got {outcome:?}; {network}"
                );
            }
        }
        Ok(())
    }

    /// That the kernel was not even asked to drop them.
    fn assert_not_in_the_maps(&self, door: &str) -> Result<()> {
        let maps = BanMaps::open(&self.pins())?;
        for who in [Who::Allowed, Who::Guarded, Who::Proxy] {
            for prefix in who.prefixes() {
                let parsed: Prefix = prefix.parse()?;
                ensure!(maps.get(parsed)?.is_none(), "{door}: {who:?}, {prefix}, is in the maps");
            }
        }
        Ok(())
    }
}

/// A way for bans to come in; says which of the prefixes it took.
type Door = fn(&mut Installation, &[String]) -> Result<Vec<bool>>;

fn by_the_api(installation: &mut Installation, prefixes: &[String]) -> Result<Vec<bool>> {
    let mut operator = installation.daemon.admin();
    let ban = |prefix: &String| {
        let response = operator.post("/v1/bans", &json!({ "ip": prefix, "duration": "1h" }))?;
        ensure!([201, 409].contains(&response.status), "{prefix}: {response:?}");
        Ok(response.status == 201)
    };
    prefixes.iter().map(ban).collect()
}

fn by_the_command(installation: &mut Installation, prefixes: &[String]) -> Result<Vec<bool>> {
    let ban = |prefix: &String| {
        let finished = installation.daemon.ctl(&["ban", "--ip", prefix, "--reason", "a test"])?;
        let is_refused = ["allowlist", "guarded"].iter().any(|word| finished.stderr.contains(word));
        ensure!(finished.status.success() != is_refused, "{prefix}: {finished:?}");
        Ok(finished.status.success())
    };
    prefixes.iter().map(ban).collect()
}

fn by_an_import(installation: &mut Installation, prefixes: &[String]) -> Result<Vec<bool>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("list");
    let name = path.to_str().context("a path of text")?;
    let import = |(number, prefix): (usize, &String)| {
        fs::write(&path, prefix)?;
        // A list each, so that neighbours are not made one.
        let source = format!("list_{number}");
        let finished = installation.daemon.ctl(&["--json", "import", name, "--source", &source])?;
        let told: Value = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("{prefix}: {finished:?}"))?;
        Ok(told["accepted"] == 1)
    };
    prefixes.iter().enumerate().map(import).collect()
}

/// Past every check, while nobody looks.
fn into_the_store(installation: &mut Installation, prefixes: &[String]) -> Result<Vec<bool>> {
    installation.daemon.stop()?;
    let store = Connection::open(installation.daemon.store_path())?;
    for prefix in prefixes {
        store.execute(
            "INSERT INTO bans (address, reason, created_at_ms) VALUES (?1, 'by hand', 0)",
            [prefix],
        )?;
    }
    drop(store);
    installation.daemon.start()?;
    Ok(vec![true; prefixes.len()])
}

fn into_the_imports(installation: &mut Installation, prefixes: &[String]) -> Result<Vec<bool>> {
    installation.daemon.stop()?;
    let lists = Connection::open(ImportStore::path(&installation.daemon.store_path()))?;
    lists.execute(
        "INSERT OR IGNORE INTO imports (id, source, run, updated_at_ms, imported_by)
         VALUES (1, 'by_hand', 1, 0, 'root')",
        [],
    )?;
    for prefix in prefixes {
        lists.execute(
            "INSERT INTO import_entries (import, prefix, run) VALUES (1, ?1, 1)",
            [prefix],
        )?;
    }
    drop(lists);
    installation.daemon.start()?;
    Ok(vec![true; prefixes.len()])
}

/// As the daemon's user, who may do that.
fn into_the_maps(installation: &mut Installation, prefixes: &[String]) -> Result<Vec<bool>> {
    let writer = Outsider::new(DAEMON_UID, DAEMON_UID)?;
    for prefix in prefixes {
        let attempts = writer.block(installation.daemon.pin_root(), prefix)?;
        ensure!(attempts.values().all(Option::is_none), "{prefix}: {attempts:?}");
    }
    Ok(vec![true; prefixes.len()])
}

const DOORS: [(&str, Door); 6] = [
    ("API", by_the_api),
    ("command", by_the_command),
    ("import", by_an_import),
    ("store", into_the_store),
    ("imports' database", into_the_imports),
    ("maps", into_the_maps),
];

/// Doors with somebody behind them who asks whether he may.
fn asks(door: &str) -> bool {
    ["API", "command", "import"].contains(&door)
}

#[test]
fn nobody_who_is_protected_is_locked_out_by_a_ban_on_himself() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    for (name, door) in DOORS {
        let mut installation = Installation::new()?;
        for who in ALL {
            let taken = door(&mut installation, &who.prefixes())
                .with_context(|| format!("{name}, {who:?}"))?;
            let expected = !asks(name) || who.can_be_banned();
            assert_eq!(taken, [expected; 2], "{name}: {who:?}");
        }
        installation.assert_only_the_stranger_is_cut_off(name)?;
        if name == "maps" {
            // The bans are there. A daemon puts proxies on the allowlist, too.
            let reasons = [Reason::AllowOverride, Reason::ProxyOverride];
            let passed = reasons.iter().map(|reason| installation.packets(*reason));
            assert!(passed.sum::<Result<u64>>()? > 6, "of three sources in two families");
        } else {
            installation.assert_not_in_the_maps(name)?;
        }
    }
    Ok(())
}

#[test]
fn nobody_who_is_protected_is_locked_out_by_a_ban_around_him() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    // The stranger and the allowlisted one; the guarded one and the proxy; all
    // of them by IPv6.
    let blocks = ["192.0.2.2/31", "192.0.2.4/31", "2001:db8::/43"].map(str::to_owned);
    for (name, door) in DOORS {
        let mut installation = Installation::new()?;
        let taken = door(&mut installation, &blocks).context(name)?;
        if asks(name) {
            // What holds a guard is refused, whereas what is allowed is an
            // exception: the stranger beside it is banned. A list has so small
            // blocks written out, and takes the proxy without the guard.
            assert_eq!(taken, [true, name == "import", false], "{name}");
        }
        if name != "maps" {
            // For the same reason the daemon leaves his IPv6 block alone.
            let himself = door(&mut installation, &Who::Stranger.prefixes()).context(name)?;
            assert_eq!(himself, [true, true], "{name}");
        }
        installation.assert_only_the_stranger_is_cut_off(name)?;
    }
    Ok(())
}
