//! What has to be done to one exact map so that it holds what is wanted, and
//! doing it with the prefilter in step: bits before keys, keys gone before bits.

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

/// What has to be done to one exact map.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan<K> {
    /// Nobody wants them.
    surplus: Vec<K>,
    /// Their expiry is another.
    changed: Entries<K>,
    /// They are not there.
    missing: Entries<K>,
}

/// The same for each width.
pub(super) struct Plans {
    pub(super) v4: Plan<u32>,
    pub(super) v6: Plan<u64>,
    pub(super) hosts: Plan<[u64; 2]>,
}

impl<K: Ord + Copy + Default> Plan<K> {
    /// From what is in the map to what is wanted, both in order: one walk.
    pub(super) fn between(present: &Entries<K>, wanted: &Entries<K>) -> Self {
        let mut plan = Self::default();
        let mut present = present.iter().peekable();
        for (key, entry) in wanted {
            while let Some((surplus, _)) = present.next_if(|(old, _)| old < key) {
                plan.surplus.push(*surplus);
            }
            match present.next_if(|(old, _)| old == key) {
                None => plan.missing.push((*key, *entry)),
                Some((_, old)) if agree(*old, *entry) => {}
                Some(_) => plan.changed.push((*key, *entry)),
            }
        }
        plan.surplus.extend(present.map(|(key, _)| *key));
        plan
    }
}

impl<K: Pod + Default> Plan<K> {
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
        let (added, updated) = (self.missing.len(), self.changed.len());
        result.and(add(map, &self.missing, filter, hash, room, failed))?;
        Ok(Changes { added, updated, removed: 0 })
    }
}

/// Puts in what fits, and calls `failed` with what is not there then.
pub(super) fn add<K: Pod + Default>(
    map: &mut Exact<K>,
    missing: &Entries<K>,
    filter: &mut Filter,
    hash: impl Fn(K) -> u64,
    room: &mut Room,
    mut failed: impl FnMut(K),
) -> Result<(), NetworkError> {
    let fitting = missing.len().min(room.left);
    let mut result = if fitting < missing.len() {
        Err(NetworkError::Full { capacity: room.capacity })
    } else {
        Ok(())
    };
    let mut done = 0;
    // Bits first, and no more of them than there are about to be keys.
    for entries in missing[..fitting].chunks(BATCH) {
        let (keys, values): (Vec<K>, Vec<u64>) =
            entries.iter().map(|(key, entry)| (*key, entry.expires_at_ns)).unzip();
        keys.iter().for_each(|key| filter.add(hash(*key)));
        let (inserted, inserting) = map.insert_many(&keys, &values);
        keys[inserted..].iter().for_each(|key| filter.remove(hash(*key)));
        done += inserted;
        room.left -= inserted;
        if inserting.is_err() {
            result = inserting;
            break;
        }
    }
    missing[done..].iter().for_each(|(key, _)| failed(*key));
    result
}

/// The expiry is kept by wall clock in the store and by boot clock in the
/// kernel; converting at two moments differs by how far the clocks were
/// adjusted in between.
const TOLERANCE_NS: u64 = 500_000_000;

pub(super) fn agree(one: BanEntry, other: BanEntry) -> bool {
    one.expires_at_ns.abs_diff(other.expires_at_ns) <= TOLERANCE_NS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::network::desired::sorted;

    /// Few keys, so that both sides meet; expiries near each other and far.
    fn any_entries() -> impl Strategy<Value = Entries<u32>> {
        let expiry = prop_oneof![Just(1), Just(1 + TOLERANCE_NS), Just(2 + 2 * TOLERANCE_NS)];
        let entry = (0_u32..24, expiry).prop_map(|(key, at)| (key, BanEntry { expires_at_ns: at }));
        prop::collection::vec(entry, 0..32).prop_map(sorted)
    }

    proptest! {
        #[test]
        fn whoever_does_what_is_planned_has_what_is_wanted(
            present in any_entries(),
            wanted in any_entries(),
        ) {
            let plan = Plan::between(&present, &wanted);
            let mut map: BTreeMap<_, _> = present.iter().copied().collect();
            for key in &plan.surplus {
                prop_assert!(map.remove(key).is_some(), "only what is there goes");
            }
            for (key, entry) in &plan.changed {
                let old = map.insert(*key, *entry);
                prop_assert!(old.is_some_and(|old| !agree(old, *entry)), "only what differs");
            }
            for (key, entry) in &plan.missing {
                prop_assert_eq!(map.insert(*key, *entry), None, "only what is not there comes");
            }
            prop_assert_eq!(map.len(), wanted.len());
            for (key, entry) in &wanted {
                prop_assert!(map.get(key).is_some_and(|now| agree(*now, *entry)));
            }
            prop_assert_eq!(Plan::between(&wanted, &wanted), Plan::default());
        }
    }
}
