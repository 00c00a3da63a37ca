//! Fixed windows: a window begins with a key's first event and is over after
//! its length, as express-rate-limit has it. They count costs that others have
//! decided on; they decide nothing.

use std::collections::HashMap;

use super::{Key, Limiter, LimiterRule, kind::MAX_KINDS};

/// What one event counts towards one limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The limiter.
    pub limiter: Limiter,
    /// Whose window.
    pub key: Key,
    /// How much.
    pub cost: u64,
    /// When, on the boot clock.
    pub at_boot_ms: u64,
}

/// How much of a limit is used up, before the event that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What counts now.
    pub used: u64,
    /// When some of it, or of this event, counts no longer, on the boot clock.
    pub frees_at_boot_ms: u64,
}

/// What a limiter says about one event, wherever it was counted. An engine
/// takes this as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The limiter.
    pub limiter: Limiter,
    /// Whose window.
    pub key: Key,
    /// What is allowed.
    pub max: u64,
    /// What this event costs.
    pub cost: u64,
    /// What was used up before it.
    pub usage: Usage,
    /// Whether the window is that of all who came when the table was full.
    pub is_shared: bool,
}

impl Count {
    /// Whether this event is one too many.
    pub const fn exceeds(&self) -> bool {
        self.usage.used.saturating_add(self.cost) > self.max
    }

    /// How much more is allowed after this event, or without it if it is one
    /// too many.
    pub const fn remaining(&self) -> u64 {
        let left = self.max.saturating_sub(self.usage.used);
        if self.exceeds() { left } else { left - self.cost }
    }

    /// When it is worth trying again, on the boot clock.
    pub const fn retry_at_boot_ms(&self) -> u64 {
        self.usage.frees_at_boot_ms
    }

    /// What it counts if it is to count.
    pub const fn charge(&self, at_boot_ms: u64) -> Charge {
        Charge { limiter: self.limiter, key: self.key, cost: self.cost, at_boot_ms }
    }
}

#[derive(Clone, Copy, Debug)]
struct Window {
    used: u64,
    ends_at_boot_ms: u64,
}

/// The windows that are counted on this host.
#[derive(Debug)]
pub(super) struct Windows {
    /// By the limiter's number; 0: it is off.
    lengths_ms: Vec<u64>,
    by_key: HashMap<Key, Window>,
}

impl Windows {
    pub(super) fn new(rules: &[LimiterRule]) -> Self {
        let mut lengths_ms = vec![0; MAX_KINDS];
        for rule in rules {
            lengths_ms[usize::from(rule.limiter.index())] = rule.limit.window_ms;
        }
        Self { lengths_ms, by_key: HashMap::new() }
    }

    /// Whether the key has its place.
    pub(super) fn knows(&self, key: Key) -> bool {
        self.by_key.contains_key(&key)
    }

    pub(super) fn usage(&self, limiter: Limiter, key: Key, now_boot_ms: u64) -> Usage {
        match self.by_key.get(&key) {
            Some(window) if now_boot_ms < window.ends_at_boot_ms => {
                Usage { used: window.used, frees_at_boot_ms: window.ends_at_boot_ms }
            }
            _ => Usage { used: 0, frees_at_boot_ms: self.end(limiter, now_boot_ms) },
        }
    }

    pub(super) fn charge(&mut self, charge: &Charge) {
        let Charge { limiter, key, cost, at_boot_ms } = *charge;
        let Usage { used, frees_at_boot_ms } = self.usage(limiter, key, at_boot_ms);
        let used = used.saturating_add(cost);
        self.by_key.insert(key, Window { used, ends_at_boot_ms: frees_at_boot_ms });
    }

    /// Whether a charge counts still.
    pub(super) fn counts(&self, charge: &Charge, now_boot_ms: u64) -> bool {
        self.by_key.get(&charge.key).is_some_and(|window| {
            // Made in this window, not in one before it.
            let is_its_own = window.ends_at_boot_ms <= self.end(charge.limiter, charge.at_boot_ms);
            is_its_own && now_boot_ms < window.ends_at_boot_ms
        })
    }

    /// Takes a charge back if it counts still.
    pub(super) fn refund(&mut self, charge: &Charge) {
        if self.counts(charge, charge.at_boot_ms)
            && let Some(window) = self.by_key.get_mut(&charge.key)
        {
            window.used = window.used.saturating_sub(charge.cost);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Forgets the windows that are over.
    pub(super) fn expire(&mut self, now_boot_ms: u64) {
        self.by_key.retain(|_, window| window.ends_at_boot_ms > now_boot_ms);
        // What an attack made grow need not stay grown.
        if self.by_key.capacity() > 4 * self.by_key.len().max(1_024) {
            self.by_key.shrink_to_fit();
        }
    }

    fn end(&self, limiter: Limiter, now_boot_ms: u64) -> u64 {
        now_boot_ms.saturating_add(self.lengths_ms[usize::from(limiter.index())])
    }
}
