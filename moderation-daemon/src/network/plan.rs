//! What has to be done to one exact map so that it holds what is wanted, and
//! doing it with the prefilter in step: bits before keys, keys gone before bits.

use std::hash::Hash;

use aya::Pod;
use moderation_common::BanEntry;

use super::{
    Changes, NetworkError,
    desired::Entries,
    exact::{BATCH, Exact},
    filter::Filter,
};

/// How many exact entries still fit.
pub(super) struct Room {
    pub(super) left: usize,
    pub(super) capacity: u32,
}

/// What has to be done to one exact map, besides adding what is missing.
pub(super) struct Plan<K> {
    /// Nobody wants them.
    surplus: Vec<K>,
    /// Their expiry is another.
    changed: Vec<(K, BanEntry)>,
}

/// The same for each width.
pub(super) struct Plans {
    pub(super) v4: Plan<u32>,
    pub(super) v6: Plan<u64>,
    pub(super) hosts: Plan<[u64; 2]>,
}

impl<K: Pod + Default + Eq + Hash> Plan<K> {
    /// Takes out of `wanted` what is in the map, and calls `present` with every
    /// key that is.
    pub(super) fn of(
        map: &Exact<K>,
        wanted: &mut Entries<K>,
        mut present: impl FnMut(K),
    ) -> Result<Self, NetworkError> {
        let (mut surplus, mut changed) = (Vec::new(), Vec::new());
        map.for_each(|key, old| {
            present(key);
            match wanted.remove(&key) {
                None => surplus.push(key),
                Some(entry) if agree(old, entry) => {}
                Some(entry) => changed.push((key, entry)),
            }
        })?;
        Ok(Self { surplus, changed })
    }

    pub(super) fn remove(
        &self,
        map: &mut Exact<K>,
        filter: &mut Filter,
        hash: impl Fn(K) -> u64,
        room: &mut Room,
    ) -> Result<Changes, NetworkError> {
        map.remove_many(&self.surplus, |index| {
            filter.remove(hash(self.surplus[index]));
            room.left += 1;
        })?;
        Ok(Changes { removed: self.surplus.len(), ..Changes::default() })
    }

    pub(super) fn write(
        &self,
        map: &mut Exact<K>,
        missing: Entries<K>,
        filter: &mut Filter,
        hash: impl Fn(K) -> u64,
        room: &mut Room,
        mut failed: impl FnMut(K),
    ) -> Result<Changes, NetworkError> {
        let mut result = Ok(());
        for (key, entry) in &self.changed {
            if let Err(error) = map.insert(*key, *entry) {
                failed(*key);
                result = result.and(Err(error));
            }
        }
        let (added, updated) = (missing.len(), self.changed.len());
        result.and(add(map, missing, filter, hash, room, failed))?;
        Ok(Changes { added, updated, removed: 0 })
    }
}

/// Puts in what fits, and calls `failed` with what is not there then.
pub(super) fn add<K: Pod + Default>(
    map: &mut Exact<K>,
    missing: Entries<K>,
    filter: &mut Filter,
    hash: impl Fn(K) -> u64,
    room: &mut Room,
    mut failed: impl FnMut(K),
) -> Result<(), NetworkError> {
    let (keys, values): (Vec<K>, Vec<u64>) =
        missing.into_iter().map(|(key, entry)| (key, entry.expires_at_ns)).unzip();
    let fitting = keys.len().min(room.left);
    let mut result = if fitting < keys.len() {
        Err(NetworkError::Full { capacity: room.capacity })
    } else {
        Ok(())
    };
    let mut done = 0;
    // Bits first, and no more of them than there are about to be keys.
    for (keys, values) in keys[..fitting].chunks(BATCH).zip(values[..fitting].chunks(BATCH)) {
        keys.iter().for_each(|key| filter.add(hash(*key)));
        let (inserted, inserting) = map.insert_many(keys, values);
        keys[inserted..].iter().for_each(|key| filter.remove(hash(*key)));
        done += inserted;
        room.left -= inserted;
        if inserting.is_err() {
            result = inserting;
            break;
        }
    }
    keys[done..].iter().for_each(|key| failed(*key));
    result
}

/// The expiry is kept by wall clock in the store and by boot clock in the
/// kernel; converting at two moments differs by how far the clocks were
/// adjusted in between.
const TOLERANCE_NS: u64 = 500_000_000;

pub(super) fn agree(one: BanEntry, other: BanEntry) -> bool {
    one.expires_at_ns.abs_diff(other.expires_at_ns) <= TOLERANCE_NS
}
