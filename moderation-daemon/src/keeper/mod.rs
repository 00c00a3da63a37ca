//! Root's half while the system runs: whoever must not be locked out is guarded
//! in the kernel, the program goes back on interfaces that come again, and open
//! connections of banned peers are closed. It bans nobody and loads nothing.

mod closer;
mod files;
mod guardian;
mod interfaces;
mod said;
mod threads;

use std::time::Duration;

use ipnet::IpNet;

use crate::{
    config,
    guard::{Guard, Sources},
    network::Pins,
    telemetry::chain,
};
use interfaces::Interfaces;
use said::Said;

pub use closer::{Closer, INTERVAL as CLOSING_INTERVAL, watch as watch_connections};
pub use files::SourceFiles;
pub use guardian::{Guardian, Look};
pub use threads::Keeping;

/// Time between two looks at sessions and interfaces. A new login is guarded
/// within it, or within twice the patience with the resolver more if it is
/// recorded by a name: sooner than a hand types a ban. `moderationctl ban` looks
/// for itself and does not depend on it.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// Keeps guards and interfaces.
#[derive(Debug)]
pub struct Keeper {
    pins: Pins,
    guardian: Guardian,
    interfaces: Interfaces,
    /// Whom the kernel guards, as far as we wrote it; `None` before that.
    guarded: Option<Vec<Guard>>,
    said: Said,
}

impl Keeper {
    /// As configured; does nothing yet.
    pub fn new(network: &config::Network, pins: Pins, sources: Sources) -> Self {
        let interfaces = Interfaces::new(network.interfaces.clone(), network.mode);
        let guardian = Guardian::new(network, sources);
        Self { pins, guardian, interfaces, guarded: None, said: Said::default() }
    }

    /// Who is to be guarded now, for whoever loads the program; writes nothing.
    pub fn guards(&mut self) -> Vec<IpNet> {
        let look = self.guardian.look(&self.pins);
        self.guardian.prefixes(&look).into_iter().collect()
    }

    /// Looks and writes, again and again, until `pause` says no. What goes wrong
    /// is logged, once, and ends nothing.
    pub fn watch(&mut self, mut pause: impl FnMut(Duration) -> bool) {
        loop {
            let problems = self.round();
            self.said.say(problems);
            if !pause(INTERVAL) {
                return;
            }
        }
    }

    fn round(&mut self) -> Vec<String> {
        if !self.pins.exist() {
            self.guarded = None;
            return vec![waiting_for(&self.pins)];
        }
        let mut problems = self.guard();
        for result in self.interfaces.put_back(&self.pins) {
            match result {
                Ok(attached) => {
                    // It may have come with other addresses.
                    self.guardian.look_everywhere();
                    let (interface, mode) = (attached.interface, attached.mode);
                    tracing::info!(interface, %mode, "attached again");
                }
                Err(error) => problems.push(chain(&error)),
            }
        }
        problems
    }

    fn guard(&mut self) -> Vec<String> {
        let look = self.guardian.look(&self.pins);
        let mut problems = look.problems.clone();
        match self.guardian.write(&self.pins, &look) {
            Ok(_) => self.tell_changes(look.guards),
            Err(error) => problems.push(chain(&error)),
        }
        problems
    }

    fn tell_changes(&mut self, guards: Vec<Guard>) {
        let Some(before) = self.guarded.replace(guards) else {
            let guards = self.guarded.as_ref().map_or(0, Vec::len);
            tracing::info!(guards, "guarding");
            return;
        };
        let now = self.guarded.as_deref().unwrap_or_default();
        for Guard { prefix, why } in now.iter().filter(|guard| !before.contains(guard)) {
            tracing::info!(%prefix, why = why.name(), "guarded from now on");
        }
        for Guard { prefix, why } in before.iter().filter(|guard| !now.contains(guard)) {
            tracing::info!(%prefix, why = why.name(), "no longer guarded for this");
        }
    }
}

fn waiting_for(pins: &Pins) -> String {
    format!("nothing is loaded at {}: waiting for moderationctl xdp attach", pins.root().display())
}
