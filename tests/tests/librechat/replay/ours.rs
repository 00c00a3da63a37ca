//! Our side of the replay: an engine that goes by LibreChat's own settings, asked
//! as the moderator asks it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use moderation_daemon::config::Config;
use moderation_daemon::engine::{
    Act, Ban, Decision, Engine, EventType, Lease, LeaseId, Moment, PrefixSet, Request, Restored,
    Rules, Subject, ViolationType,
};

use super::traffic::Event;

/// So that nothing works that mixes the clocks.
const BOOT_BEFORE_UNIX_MS: u64 = super::BEGIN_MS - 5_000_000;

/// Settings as a `.env` has them.
pub(crate) type Env = [(String, String)];

pub(crate) struct Ours {
    pub(crate) rules: Rules,
    engine: Engine,
    leases: HashMap<String, Vec<LeaseId>>,
}

/// What we say of an event before LibreChat is asked.
pub(crate) enum Said {
    Banned(Arc<Ban>),
    Decided(Box<Decision>),
}

impl Ours {
    /// With these settings, in a file in `folder`, and what our own configuration
    /// adds to them.
    pub(crate) fn new(env: &Env, folder: &Path, own: &str, trust: PrefixSet) -> Result<Self> {
        let rules = rules(env, folder, own)?;
        let now = moment(super::BEGIN_MS);
        let engine = Engine::new(rules.clone(), trust, Restored::default(), [1, 2], now);
        Ok(Self { rules, engine, leases: HashMap::new() })
    }

    pub(crate) fn say(&self, event: &Event) -> Result<Said> {
        let now = moment(event.at);
        let user = event.user.as_deref().map(str::parse).transpose()?;
        let subject = Subject::new(user, Some(event.ip.parse()?))?;
        let overlay = self.engine.overlay();
        // The app asks first, and reports nothing of those who are banned.
        if let Some(ban) = overlay.ban_of(&subject, now) {
            return Ok(Said::Banned(Arc::clone(ban)));
        }
        let request = Request::new(act(event)?, subject);
        let counts = overlay.counts(&request, now);
        Ok(Said::Decided(Box::new(overlay.decide(&request, &counts, now))))
    }

    pub(crate) fn apply(&mut self, event: &Event, decision: Decision) {
        if let (Some(lease), Some(user)) = (&decision.outcome.lease, &event.user) {
            let Lease { id, .. } = lease;
            self.leases.entry(user.clone()).or_default().push(*id);
        }
        self.engine.apply(decision.changes);
    }

    /// A user's generations go on, of which LibreChat is told nothing.
    pub(crate) fn renew(&mut self, user: &str, at: u64) {
        let mut overlay = self.engine.overlay();
        for id in self.leases.get(user).into_iter().flatten() {
            overlay.renew(*id, moment(at));
        }
        let changes = overlay.into_changes();
        self.engine.apply(changes);
    }

    /// A user's oldest generation is over.
    pub(crate) fn release(&mut self, user: &str, at: u64) {
        let Some(leases) = self.leases.get_mut(user).filter(|leases| !leases.is_empty()) else {
            return;
        };
        let mut overlay = self.engine.overlay();
        // What had ended by itself is no matter.
        overlay.release(leases.remove(0), moment(at));
        let changes = overlay.into_changes();
        self.engine.apply(changes);
    }

    /// What the moderator does every second; nothing may come of it here.
    pub(crate) fn sweep(&mut self, at: u64) {
        self.engine.expire(moment(at));
    }
}

/// The rules that these settings come to.
pub(crate) fn rules(env: &Env, folder: &Path, own: &str) -> Result<Rules> {
    let path = folder.join("env");
    let lines: String = env.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
    fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))?;
    let yaml = format!("profile: librechat\nlibrechat: {{env_file: {}}}\n{own}", path.display());
    Ok(Config::parse(&yaml)?.rules)
}

fn moment(at: u64) -> Moment {
    Moment { boot_ms: at - BOOT_BEFORE_UNIX_MS, unix_ms: at }
}

/// When something on the boot clock happens, in milliseconds since 1970.
pub(crate) const fn unix_ms(boot_ms: u64) -> u64 {
    boot_ms.saturating_add(BOOT_BEFORE_UNIX_MS)
}

fn act(event: &Event) -> Result<Act> {
    if event.kind == "acquire" {
        return Ok(Act::Acquire);
    }
    if let Some(kind) = EventType::from_name(event.kind) {
        let user_agent = Some(event.agent.to_owned());
        return Ok(Act::Event {
            kind,
            user_agent,
            cost: moderation_daemon::engine::Cost::default(),
        });
    }
    let kind = ViolationType::from_name(event.kind).context("neither event nor violation")?;
    Ok(Act::violation(kind))
}
