//! Leases: each running generation's place under the concurrency limit.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
};

use super::Bearer;

/// A lease's number; never used twice while the daemon runs.
pub type LeaseId = u64;

/// One running generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// Who holds it.
    pub bearer: Bearer,
    /// When it ends unless renewed, on the boot clock.
    pub ends_at_boot_ms: u64,
}

/// All leases, by number, by holder and by end.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: HashMap<LeaseId, Lease>,
    by_bearer: HashMap<Bearer, BTreeSet<LeaseId>>,
    by_end: BTreeSet<(u64, LeaseId)>,
    /// Those that have ended by themselves, whose rows the store has still.
    lapsed: Vec<LeaseId>,
}

impl Leases {
    pub(super) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    pub(super) fn of(&self, bearer: &Bearer) -> impl Iterator<Item = &Lease> {
        self.by_bearer.get(bearer).into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.by_id.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn put(&mut self, lease: Lease) {
        self.by_bearer.entry(lease.bearer.clone()).or_default().insert(lease.id);
        self.by_end.insert((lease.ends_at_boot_ms, lease.id));
        self.by_id.insert(lease.id, lease);
    }

    pub(super) fn renew(&mut self, id: LeaseId, ends_at_boot_ms: u64) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            self.by_end.remove(&(lease.ends_at_boot_ms, id));
            self.by_end.insert((ends_at_boot_ms, id));
            lease.ends_at_boot_ms = ends_at_boot_ms;
        }
    }

    pub(super) fn remove(&mut self, id: LeaseId) {
        let Some(lease) = self.by_id.remove(&id) else { return };
        self.by_end.remove(&(lease.ends_at_boot_ms, id));
        if let Some(ids) = self.by_bearer.get_mut(&lease.bearer) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_bearer.remove(&lease.bearer);
            }
        }
    }

    pub(super) fn expire(&mut self, now_boot_ms: u64) {
        while let Some((ends_at_boot_ms, id)) = self.by_end.first().copied()
            && ends_at_boot_ms <= now_boot_ms
        {
            self.remove(id);
            self.lapsed.push(id);
        }
    }

    /// Says of one that is not there that it is over.
    pub(super) fn decline(&mut self, id: LeaseId) {
        self.lapsed.push(id);
    }

    pub(super) fn take_lapsed(&mut self) -> Vec<LeaseId> {
        mem::take(&mut self.lapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: LeaseId, ends_at_boot_ms: u64) -> Lease {
        let bearer = Bearer::User("anna".parse().expect("an id"));
        Lease { id, bearer, ends_at_boot_ms }
    }

    #[test]
    fn leases_end_in_their_order_and_are_told_of_once() {
        let mut leases = Leases::default();
        for (id, ends) in [(1, 100), (2, 50), (3, 70), (4, 70)] {
            leases.put(lease(id, ends));
        }
        leases.renew(2, 200);
        leases.remove(4);
        leases.expire(69);
        assert_eq!(leases.take_lapsed(), [0; 0]);
        leases.expire(100);
        assert_eq!(leases.take_lapsed(), [3, 1]);
        assert_eq!(leases.take_lapsed(), [0; 0], "not again");
        assert_eq!((leases.len(), leases.of(&lease(2, 0).bearer).count()), (1, 1));
        leases.expire(200);
        assert_eq!((leases.len(), leases.by_end.len(), leases.by_bearer.len()), (0, 0, 0));
    }
}
