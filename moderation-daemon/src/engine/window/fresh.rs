//! What a batch counted, laid over the windows of the engine, which it leaves as
//! they are. All of a batch happens at one moment, so that what it counted for a
//! key is a sum; only a key that something was taken back from has a window of
//! its own here.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::{Charge, Usage, Windows};
use crate::engine::Key;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::engine) struct Fresh {
    /// What was counted for a key, at what it takes up. Keys are digests: nobody can
    /// choose them so that they meet.
    charges: HashMap<Key, Charge, FixedState>,
    /// Keys that something was taken back from.
    own: Option<Box<Windows>>,
}

impl Fresh {
    #[inline]
    pub(in crate::engine) fn usage(&self, windows: &Windows, key: Key, now_boot_ms: u64) -> Usage {
        if let Some(own) = self.own_of(key) {
            return own.usage(key, 0, now_boot_ms);
        }
        let fresh = if self.charges.is_empty() { None } else { self.charges.get(&key) };
        windows.usage(key, fresh.map_or(0, |charge| charge.cost), now_boot_ms)
    }

    fn own_of(&self, key: Key) -> Option<&Windows> {
        self.own.as_deref().filter(|own| own.knows(key))
    }

    /// Whether the batch has counted for that key.
    pub(in crate::engine) fn knows(&self, key: Key) -> bool {
        self.charges.contains_key(&key) || self.own_of(key).is_some()
    }

    /// For how many keys it has, at most.
    pub(in crate::engine) fn len(&self) -> usize {
        self.charges.len() + self.own.as_ref().map_or(0, |own| own.len())
    }

    pub(in crate::engine) fn charge(&mut self, windows: &Windows, charge: &Charge) {
        if let Some(own) = self.own.as_mut().filter(|own| own.knows(charge.key)) {
            return own.charge(charge);
        }
        let cost = windows.weight(charge);
        if cost > 0 {
            let fresh = self.charges.entry(charge.key).or_insert(Charge { cost: 0, ..*charge });
            fresh.cost = fresh.cost.saturating_add(cost);
        }
    }

    /// Whether a charge counts still.
    pub(in crate::engine) fn counts(
        &self,
        windows: &Windows,
        charge: &Charge,
        now_boot_ms: u64,
    ) -> bool {
        if let Some(own) = self.own_of(charge.key) {
            return own.counts(charge, now_boot_ms);
        }
        let fresh = self.charges.get(&charge.key);
        fresh.is_some_and(|fresh| fresh.at_boot_ms == charge.at_boot_ms)
            || windows.counts(charge, now_boot_ms)
    }

    pub(in crate::engine) fn refund(&mut self, windows: &Windows, charge: &Charge) {
        self.own(windows, charge.key).refund(charge);
    }

    /// Forgets all that was counted for a key.
    pub(in crate::engine) fn forget(&mut self, windows: &Windows, key: Key) {
        self.own(windows, key).forget(key);
    }

    /// Windows in which the key's is its own.
    fn own(&mut self, windows: &Windows, key: Key) -> &mut Windows {
        let own = self.own.get_or_insert_with(|| Box::new(windows.like()));
        if !own.knows(key) {
            own.adopt(windows, key);
            if let Some(fresh) = self.charges.remove(&key) {
                own.charge(&fresh);
            }
        }
        own
    }
}
