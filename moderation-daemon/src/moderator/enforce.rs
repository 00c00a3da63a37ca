//! Keeping the kernel in step with the engine: the maps are a projection of
//! what is banned, address by address and, now and then, as a whole. If the
//! kernel refuses, bans stay stored and hold at the API, and this tries again.

use std::{
    collections::{HashMap, HashSet},
    error::Error as _,
    sync::Arc,
};

use ipnet::IpNet;
use moderation_common::BanEntry;

use super::board::{Board, KernelStatus};
use crate::{
    clock,
    engine::{Address, Engine},
    metrics::Metrics,
    network::{Changes, Network, NetworkError, Pins},
};

/// The kernel as the moderator knows it.
#[derive(Debug)]
pub enum Kernel {
    /// By configuration nothing is dropped in the kernel.
    Off,
    /// There should be pinned maps; they are opened when they are there.
    Pinned(Pins),
}

/// The moderator's hands on the kernel.
#[derive(Debug)]
pub(super) struct Enforcer {
    pins: Option<Pins>,
    network: Option<(Network, PinIdentity)>,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    /// Something failed: compare as a whole as soon as possible.
    stale: bool,
}

/// Tells pins apart that were removed and made anew.
type PinIdentity = Option<u64>;

impl Enforcer {
    pub(super) fn new(kernel: Kernel, board: Arc<Board>, metrics: Arc<Metrics>) -> Self {
        let pins = match kernel {
            Kernel::Off => None,
            Kernel::Pinned(pins) => Some(pins),
        };
        Self { pins, network: None, board, metrics, stale: true }
    }

    /// Whether [`Enforcer::reconcile`] should not wait for its turn.
    pub(super) fn is_stale(&self) -> bool {
        self.pins.is_some() && (self.stale || self.network.is_none() || self.pins_changed())
    }

    /// Whether somebody removed the pins, or made them anew.
    fn pins_changed(&self) -> bool {
        let current = self.pins.as_ref().and_then(Pins::identity);
        self.network.as_ref().is_some_and(|(_, opened)| *opened != current)
    }

    /// Makes the kernel agree about one address.
    pub(super) fn project(&mut self, engine: &Engine, address: Address) {
        let wanted = wanted(engine, address);
        let Some((network, _)) = &mut self.network else {
            self.board.set_unblocked(address);
            return;
        };
        let result = match wanted {
            Some(entry) => network.block(address, entry),
            None => network.unblock(address),
        };
        match (result, wanted) {
            (Ok(()), Some(_)) => self.board.set_blocked(address),
            (Ok(()), None) => self.board.set_unblocked(address),
            (Err(error), _) => {
                self.board.set_unblocked(address);
                self.failed(&error);
            }
        }
    }

    /// Makes the kernel agree about everything.
    pub(super) fn reconcile(&mut self, engine: &Engine, allowlist: &[IpNet]) {
        let Some(pins) = self.pins.clone() else { return };
        let result = self.open(&pins).and_then(|network| {
            let wanted = all_wanted(engine);
            let changes = network.reconcile(&wanted, allowlist)?;
            Ok((wanted.into_keys().collect::<HashSet<_>>(), changes))
        });
        match result {
            Ok((blocked, changes)) => {
                self.stale = false;
                self.report(changes);
                self.board.replace_blocked(blocked);
            }
            Err(error) => {
                // What was blocked stays blocked, but nobody can say what.
                if self.network.is_none() {
                    self.board.replace_blocked(HashSet::new());
                }
                self.failed(&error);
            }
        }
    }

    fn open(&mut self, pins: &Pins) -> Result<&mut Network, NetworkError> {
        if self.network.is_none() || self.pins_changed() {
            self.network = None;
            let identity = pins.identity();
            self.network = Some((Network::open(pins)?, identity));
            tracing::info!(pins = %pins.root().display(), "opened the kernel's maps");
        }
        let (network, _) = self.network.as_mut().expect("opened just now if it was not");
        Ok(network)
    }

    fn report(&self, changes: Changes) {
        if changes.drift() > 0 {
            let Changes { added, updated, removed } = changes;
            tracing::info!(added, updated, removed, "made the kernel agree with the store");
        }
        self.metrics.drift(changes);
        self.board.set_kernel(KernelStatus { open: true, problem: None, last_drift: changes });
    }

    /// Counts every failure, but logs one only when it is news.
    fn failed(&mut self, error: &NetworkError) {
        self.stale = true;
        self.metrics.enforcement_failures.inc();
        let problem = describe(error);
        let known = self.board.kernel();
        if known.problem.as_ref() != Some(&problem) {
            tracing::error!(problem, "the kernel does not enforce what is decided");
        }
        let open = self.network.is_some();
        self.board.set_kernel(KernelStatus { open, problem: Some(problem), ..known });
    }
}

/// What the kernel should hold about an address.
fn wanted(engine: &Engine, address: Address) -> Option<BanEntry> {
    let until = engine.bans().address_until(address)?;
    if engine.trust().protecting(address).is_some() {
        return None;
    }
    Some(clock::ban_entry(until, clock::boot_ns(), clock::now().unix_ms))
}

fn all_wanted(engine: &Engine) -> HashMap<Address, BanEntry> {
    let (boot_ns, unix_ms) = (clock::boot_ns(), clock::now().unix_ms);
    engine
        .bans()
        .addresses()
        .filter(|(address, _)| engine.trust().protecting(*address).is_none())
        .map(|(address, until)| (address, clock::ban_entry(until, boot_ns, unix_ms)))
        .collect()
}

/// An error with its causes on one line.
fn describe(error: &NetworkError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
