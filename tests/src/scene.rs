//! What most tests of the running daemon begin with: a daemon without privileges
//! on a program that a loader has attached, and a client with three addresses.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moderation_common::Reason;
use moderation_daemon::network::{Counters, Pins};
use serde_json::{Value, json};

use crate::cgroup::ControlGroup;
use crate::chat;
use crate::daemon::{Daemon, Setup, binary};
use crate::lab::{HOST_V4, INTERFACE, Pair};
use crate::process::{self, Process};
use crate::visitor::Visitor;
use crate::{need, wait};

/// For what happens sooner or later.
const LONG: Duration = Duration::from_secs(20);
/// For a packet that is dropped or not.
const SHORT: Duration = Duration::from_millis(400);

/// Whom nothing belongs to (`nobody`).
const DAEMON_UID: u32 = 65534;

/// Further addresses of the client.
pub const QUIET: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// The one that is on the allowlist where handshakes are counted.
pub const ALLOWED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 78);

/// A daemon without privileges, on what a loader has attached, and perhaps
/// somebody who listens.
#[derive(Debug)]
pub struct Scene {
    /// The daemon, which runs as somebody to whom nothing else belongs.
    pub daemon: Daemon,
    /// Its host, and the client.
    pub pair: Pair,
    _listener: Option<Process>,
    _group: Option<ControlGroup>,
}

impl Scene {
    /// With these keys of the configuration different.
    pub fn new(overrides: Value) -> Result<Self> {
        Self::listening(overrides, None)
    }

    /// With a listener in a control group, for which handshakes are counted, and
    /// they alone; `None` if there are no such groups here.
    pub fn counting(limit: usize, bans: &Value) -> Result<Option<Self>> {
        let group = ControlGroup::create()?;
        if !need::is_met("control groups of version 2", group.is_some()) {
            return Ok(None);
        }
        let group = group.context("there is one")?;
        let connections =
            json!({ "enabled": true, "limit": limit, "window": "1h", "cgroup": group.path() });
        let overrides = json!({
            "allowlist": [format!("{ALLOWED}/32")],
            "bans": bans,
            "network": { "connections": connections, "syn": { "enabled": false } },
        });
        Self::listening(overrides, Some(group)).map(Some)
    }

    fn listening(overrides: Value, group: Option<ControlGroup>) -> Result<Self> {
        let pair = Pair::new()?;
        let more = [QUIET, ALLOWED].map(|ip| format!("address add {ip}/24 dev {INTERFACE}"));
        pair.client.configure(&more)?;
        let listener = match &group {
            None => None,
            Some(group) => {
                let mut command = process::command(binary("listener")?);
                command.arg(group.path()).arg(format!("{HOST_V4}:{}", chat::PORT));
                Some(pair.host.spawn(command)?)
            }
        };
        let setup = Setup::new().inside(&pair.host).unprivileged(DAEMON_UID, DAEMON_UID);
        let mut daemon = setup.overrides(overrides).prepare()?;
        let owner = DAEMON_UID.to_string();
        daemon.ctl(&["xdp", "attach", "--interface", INTERFACE, "--owner", &owner])?.success()?;
        daemon.start()?;
        Ok(Self { daemon, pair, _listener: listener, _group: group })
    }

    /// Its pins.
    pub fn pins(&self) -> Pins {
        Pins::new(self.daemon.pin_root())
    }

    /// Somebody who comes from there, and soon gives up.
    pub fn visitor(&self, from: Ipv4Addr) -> Visitor {
        let server = SocketAddr::new(HOST_V4.into(), chat::PORT);
        Visitor::new(&self.pair.client, from.into(), server, "anna").patience(SHORT)
    }

    /// Completes handshakes.
    pub fn connect(&self, times: usize, from: Ipv4Addr) -> Result<()> {
        let visitor = self.visitor(from).patience(LONG);
        for _ in 0..times {
            visitor.connect().with_context(|| format!("from {from}"))?;
        }
        Ok(())
    }

    /// What an operator is told.
    pub fn get(&self, path: &str) -> Result<Value> {
        let response = self.daemon.admin().get(path)?;
        ensure!(response.status == 200, "{path}: {response:?}");
        Ok(response.body)
    }

    /// The ban on an address; `null` if there is none.
    pub fn ban_of(&self, ip: Ipv4Addr) -> Result<Value> {
        let checked = self.get(&format!("/v1/check?ip={ip}"))?;
        ensure!(checked["banned"] == checked["ban"].is_object(), "{checked}");
        Ok(checked["ban"].clone())
    }

    /// Waits until there is one.
    pub fn await_ban(&self, ip: Ipv4Addr) -> Result<Value> {
        let found = wait::until("a ban", LONG, || {
            let ban = self.ban_of(ip)?;
            Ok(ban.is_object().then_some(ban))
        });
        found.with_context(|| format!("on {ip}; {}", self.daemon.log()))
    }

    /// Bans for an hour, which must be in force.
    pub fn ban(&self, prefix: &str) -> Result<()> {
        let ban = json!({ "ip": prefix, "duration": "1h" });
        let response = self.daemon.admin().post("/v1/bans", &ban)?;
        ensure!(response.body["ban"]["enforced"] == true, "{response:?}");
        Ok(())
    }

    /// A number of the metrics by its whole name; 0 if it is not there yet.
    pub fn metric(&self, name: &str) -> Result<u64> {
        self.daemon.metric(name)
    }

    /// Packets counted for a reason.
    pub fn packets(&self, reason: Reason) -> Result<u64> {
        Ok(Counters::open(&self.pins())?.read(reason)?.packets)
    }

    /// What `moderationctl --json` says, line by line.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let told = self.daemon.ctl(&[&["--json"], arguments].concat())?.success()?;
        let values = serde_json::Deserializer::from_str(&told).into_iter();
        Ok(values.collect::<Result<_, _>>()?)
    }
}
