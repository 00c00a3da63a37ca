//! The allowlist maps: prefixes that are never dropped. One pair is the
//! operator's, which the daemon keeps; the other holds the guards, which are
//! root's.

use std::{collections::HashSet, hash::Hash};

use aya::{
    Pod,
    maps::{LpmTrie, Map, MapData, lpm_trie::Key},
};
use ipnet::IpNet;
use moderation_common::map::{self, ALLOW_V4, ALLOW_V6, GUARD_V4, GUARD_V6};

use super::{Changes, NetworkError, Pins};

/// How many prefixes of each family the kernel's maps hold.
pub const MAX_ALLOWED: usize = map::MAX_ALLOWED as usize;

/// Both families' maps of one allowlist.
#[derive(Debug)]
pub struct AllowMaps {
    v4: AllowMap<[u8; 4]>,
    v6: AllowMap<[u8; 16]>,
}

#[derive(Debug)]
struct AllowMap<K: Pod> {
    name: &'static str,
    trie: LpmTrie<MapData, K, u32>,
}

impl AllowMaps {
    /// The operator's allowlist.
    ///
    /// # Errors
    ///
    /// If a pin is missing or may not be opened by this user.
    pub fn open_operator(pins: &Pins) -> Result<Self, NetworkError> {
        Ok(Self { v4: AllowMap::open(pins, ALLOW_V4)?, v6: AllowMap::open(pins, ALLOW_V6)? })
    }

    /// The guards; root only.
    ///
    /// # Errors
    ///
    /// If a pin is missing or may not be opened by this user.
    pub fn open_guards(pins: &Pins) -> Result<Self, NetworkError> {
        Ok(Self { v4: AllowMap::open(pins, GUARD_V4)?, v6: AllowMap::open(pins, GUARD_V6)? })
    }

    /// Makes the maps hold exactly `prefixes`, by difference.
    pub(super) fn reconcile(&mut self, prefixes: &[IpNet]) -> Result<Changes, NetworkError> {
        let mut v4 = HashSet::new();
        let mut v6 = HashSet::new();
        for prefix in prefixes {
            match prefix.trunc() {
                IpNet::V4(net) => v4.insert((net.prefix_len().into(), net.addr().octets())),
                IpNet::V6(net) => v6.insert((net.prefix_len().into(), net.addr().octets())),
            };
        }
        let (v4, v6) = (self.v4.reconcile(&v4), self.v6.reconcile(&v6));
        Ok(v4? + v6?)
    }
}

type Entry<K> = (u32, K);

impl<K: Pod + Eq + Hash> AllowMap<K> {
    fn open(pins: &Pins, name: &'static str) -> Result<Self, NetworkError> {
        let trie = LpmTrie::try_from(Map::LpmTrie(pins.open_map(name)?))
            .map_err(NetworkError::map("open", name))?;
        Ok(Self { name, trie })
    }

    fn reconcile(&mut self, wanted: &HashSet<Entry<K>>) -> Result<Changes, NetworkError> {
        if wanted.len() > MAX_ALLOWED {
            let (prefixes, capacity) = (wanted.len(), MAX_ALLOWED);
            return Err(NetworkError::AllowlistTooLong { prefixes, capacity });
        }
        let present = self.entries()?;
        let mut failure = Ok(());
        // Nobody loses protection that stays wanted, and room is made first.
        for (length, data) in present.difference(wanted) {
            let removed = self.trie.remove(&Key::new(*length, *data));
            failure = failure.and(removed.map_err(NetworkError::map("remove from", self.name)));
        }
        for (length, data) in wanted.difference(&present) {
            let added = self.trie.insert(&Key::new(*length, *data), 0, 0);
            failure = failure.and(added.map_err(NetworkError::map("write to", self.name)));
        }
        let added = wanted.difference(&present).count();
        let removed = present.difference(wanted).count();
        failure.map(|()| Changes { added, updated: 0, removed })
    }

    fn entries(&self) -> Result<HashSet<Entry<K>>, NetworkError> {
        self.trie
            .keys()
            .map(|key| key.map(|key| (key.prefix_len(), key.data())))
            .collect::<Result<_, _>>()
            .map_err(NetworkError::map("read", self.name))
    }
}
