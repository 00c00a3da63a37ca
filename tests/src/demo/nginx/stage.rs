//! What this story plays on: network, daemon, app, nginx and the two clients. The
//! chapters say what happens on it.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::browser::Browser;
use crate::daemon::{Daemon, Setup, binary};
use crate::demo::bystander::{Bystander, MESSAGE_EVERY};
use crate::demo::stage::xdp_mode;
use crate::demo::story::Story;
use crate::express::Express;
use crate::lab::{ABUSER_V4, BYSTANDER_V4, HOST_V4, INTERFACE, Lab};
use crate::nginx::{Gone, Nginx, librechat};
use crate::random::Random;

/// Everything that the story made. The order is that in which it is taken down.
pub(super) struct Stage {
    pub(super) bystander: Bystander,
    pub(super) nginx: Nginx,
    pub(super) daemon: Daemon,
    pub(super) abuser: Browser,
    _lab: Lab,
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

        // For this hour; the app signs its users' tokens with it.
        let mut random = Random::new(Random::seed("MODERATION_DEMO_SEED"));
        let secret: String = (0..4).map(|_| format!("{:016x}", random.bits())).collect();
        let begin = Instant::now();
        let express = Express::start(&lab.host, &secret)?;
        let what = "The app: Express from npm with LibreChat's routes, told nothing of us";
        story.tell(what, begin.elapsed().as_millis(), "ms to ready")?;
        let daemon = start_daemon(&lab, &secret, story)?;
        let begin = Instant::now();
        let nginx = Nginx::in_front_of(express, &lab.host, daemon.sockets(), Gone::Pass)?;
        let what = "nginx in front of it, with moderation-http.conf and -server.conf included";
        story.tell(what, begin.elapsed().as_millis(), "ms to ready")?;

        let abuser = Browser::new(&lab.abuser, ABUSER_V4);
        let alice = Browser::new(&lab.bystander, BYSTANDER_V4).log_in("alice")?;
        let bystander = Bystander::start(move |number| visit(&alice, number))?;
        Ok(Self { bystander, nginx, daemon, abuser, _lab: lab })
    }
}

/// With LibreChat's example and nothing else.
fn start_daemon(lab: &Lab, secret: &str, story: &mut Story) -> Result<Daemon> {
    let begin = Instant::now();
    let setup = Setup::new().inside(&lab.host).interface(INTERFACE);
    let daemon = setup.overrides(librechat()?).credential("jwt-secret", secret).start()?;
    let took = begin.elapsed().as_millis();
    let what = format!(
        "moderationd guards {INTERFACE}, XDP {}; config/librechat.yaml",
        xdp_mode(&daemon)?
    );
    story.tell(&what, took, "ms to ready")?;
    Ok(daemon)
}

/// Reads, and now and then has something generated, and hears it to its end.
fn visit(alice: &Browser, number: u64) -> Result<()> {
    if !number.is_multiple_of(MESSAGE_EVERY) {
        let answer = alice.get("/api/convos")?;
        ensure!(answer.is_apps(), "{answer:?}");
        return Ok(());
    }
    let message = json!({ "text": "lovely weather", "ms": 300, "every": 50 });
    let started = alice.post("/api/agents/chat/openAI", &message)?;
    ensure!(started.status == 200, "{started:?}");
    let id = started.json()["streamId"].as_str().context("a stream")?.to_owned();
    let heard = alice.get(&format!("/api/agents/chat/stream/{id}"))?;
    ensure!(heard.status == 200 && heard.body.contains("\"final\":true"), "{heard:?}");
    Ok(())
}
