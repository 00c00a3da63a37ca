//! What the demo plays on: network, daemon, chat and the two clients. The
//! chapters say what happens on it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::chat::{self, Chat};
use crate::daemon::{Daemon, Setup, binary};
use crate::lab::{ABUSER_V4, BYSTANDER_V4, HOST_V4, INTERFACE, Lab};
use crate::visitor::Visitor;

use super::bystander::{Bystander, MESSAGE_EVERY};
use super::story::Story;

/// How long the abuser waits for an answer: far more than any answer takes
/// here, and past the first retransmission of a SYN (1 s, RFC 6298).
const PATIENCE: Duration = Duration::from_millis(1500);

/// Everything that the demo made. The order is that in which it is taken down.
pub(super) struct Stage {
    pub(super) bystander: Bystander,
    pub(super) chat: Chat,
    pub(super) daemon: Daemon,
    pub(super) abuser: Visitor,
    pub(super) lab: Lab,
}

impl Stage {
    pub(super) fn set(story: &mut Story) -> Result<Self> {
        for program in ["moderationd", "moderationctl"] {
            binary(program)?;
        }
        let lab = Lab::new().context("cannot make the network")?;
        let cast =
            format!("host {HOST_V4}, abuser {ABUSER_V4}, bystander {BYSTANDER_V4}, a router");
        story.tell(&cast, 4, "network namespaces")?;

        let daemon = start_daemon(&lab, story)?;
        let chat = Chat::open(&lab.host, &daemon.api_socket())?;
        let server = SocketAddr::new(IpAddr::V4(HOST_V4), chat::PORT);
        let abuser =
            Visitor::new(&lab.abuser, ABUSER_V4.into(), server, "mallory").patience(PATIENCE);
        let alice = Visitor::new(&lab.bystander, BYSTANDER_V4.into(), server, "alice");
        let bystander = Bystander::start(move |number| {
            let says = number.is_multiple_of(MESSAGE_EVERY);
            let outcome = if says { alice.say("lovely weather") } else { alice.look() };
            ensure!(outcome.is_status(200), "{outcome:?}");
            Ok(())
        })?;
        Ok(Self { bystander, chat, daemon, abuser, lab })
    }
}

fn start_daemon(lab: &Lab, story: &mut Story) -> Result<Daemon> {
    let begin = Instant::now();
    // As users get it, but for a hundred bans in a row that are to be timed.
    let overrides = json!({ "bans": { "max_per_minute": 1_000 } });
    let setup = Setup::new().inside(&lab.host).interface(INTERFACE).overrides(overrides);
    let daemon = setup.start()?;
    let took = begin.elapsed().as_millis();
    let mode = xdp_mode(&daemon)?;
    story.tell(
        &format!("moderationd guards the host's {INTERFACE}, XDP {mode}"),
        took,
        "ms to ready",
    )?;
    Ok(daemon)
}

/// How the program is attached, by the daemon's own account.
pub(super) fn xdp_mode(daemon: &Daemon) -> Result<String> {
    let status = daemon.status()?;
    let mode = status["network"]["mode"].as_str();
    mode.map(str::to_owned).with_context(|| format!("no XDP mode in the status: {status}"))
}
