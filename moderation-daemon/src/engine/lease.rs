//! Leases: each running generation's place under the concurrency limit.

use std::collections::{BTreeSet, HashMap};

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

/// All leases, by number and by holder.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: HashMap<LeaseId, Lease>,
    by_bearer: HashMap<Bearer, BTreeSet<LeaseId>>,
}

impl Leases {
    pub(super) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    pub(super) fn of(&self, bearer: &Bearer) -> impl Iterator<Item = &Lease> {
        self.by_bearer.get(bearer).into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn put(&mut self, lease: Lease) {
        self.by_bearer.entry(lease.bearer.clone()).or_default().insert(lease.id);
        self.by_id.insert(lease.id, lease);
    }

    pub(super) fn renew(&mut self, id: LeaseId, ends_at_boot_ms: u64) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.ends_at_boot_ms = ends_at_boot_ms;
        }
    }

    pub(super) fn remove(&mut self, id: LeaseId) {
        let Some(lease) = self.by_id.remove(&id) else { return };
        if let Some(ids) = self.by_bearer.get_mut(&lease.bearer) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_bearer.remove(&lease.bearer);
            }
        }
    }

    pub(super) fn expire(&mut self, now_boot_ms: u64) {
        let over: Vec<_> = self
            .by_id
            .values()
            .filter(|lease| lease.ends_at_boot_ms <= now_boot_ms)
            .map(|lease| lease.id)
            .collect();
        for id in over {
            self.remove(id);
        }
    }
}
