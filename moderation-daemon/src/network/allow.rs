//! The allowlist maps: prefixes that are never dropped. One pair is the
//! operator's, which the daemon keeps; the other holds guards and proxies,
//! which are root's and which the daemon reads.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    hash::Hash,
    net::IpAddr,
};

use aya::{
    Pod,
    maps::{Array, LpmTrie, Map, MapData, lpm_trie::Key},
};
use ipnet::IpNet;
use moderation_common::{
    GuardClass, HINT_WORDS, Hint,
    map::{self, ALLOW_HINTS, ALLOW_V4, ALLOW_V6, GUARD_HINTS, GUARD_V4, GUARD_V6},
    v4_hints, v6_hints,
};

use super::{Changes, NetworkError, Pins};

/// How many prefixes of each family the kernel's maps hold.
pub const MAX_ALLOWED: usize = map::MAX_ALLOWED as usize;

/// Both families' maps of one allowlist.
#[derive(Debug)]
pub struct AllowMaps {
    hints: Hints,
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
        Ok(Self {
            hints: Hints::open(pins, ALLOW_HINTS)?,
            v4: AllowMap::open(pins, ALLOW_V4)?,
            v6: AllowMap::open(pins, ALLOW_V6)?,
        })
    }

    /// Guards and proxies, for the one who writes them: root.
    ///
    /// # Errors
    ///
    /// If a pin is missing or may not be opened by this user.
    pub fn open_guards(pins: &Pins) -> Result<Self, NetworkError> {
        Ok(Self {
            hints: Hints::open(pins, GUARD_HINTS)?,
            v4: AllowMap::open(pins, GUARD_V4)?,
            v6: AllowMap::open(pins, GUARD_V6)?,
        })
    }

    /// Has the program ask the tries about everybody, until the next reconcile.
    pub(super) fn hint_at_all(&mut self) -> Result<(), NetworkError> {
        self.hints.add(&vec![u64::MAX; HINT_WORDS as usize])
    }

    /// Makes the maps hold exactly `prefixes`, by difference.
    pub(super) fn reconcile(&mut self, prefixes: &[IpNet]) -> Result<Changes, NetworkError> {
        self.reconcile_classes(prefixes.iter().map(|prefix| (*prefix, 0)))
    }

    /// Makes the maps hold exactly these guards and proxies. Where one prefix is
    /// both, it is a guard.
    ///
    /// # Errors
    ///
    /// The first failure; all that could be changed nevertheless has been.
    pub fn set_guards(
        &mut self,
        guards: &[IpNet],
        proxies: &[IpNet],
    ) -> Result<Changes, NetworkError> {
        let proxies = proxies.iter().map(|prefix| (*prefix, GuardClass::Proxy as u32));
        let guards = guards.iter().map(|prefix| (*prefix, GuardClass::Guard as u32));
        self.reconcile_classes(proxies.chain(guards))
    }

    fn reconcile_classes(
        &mut self,
        prefixes: impl Iterator<Item = (IpNet, u32)>,
    ) -> Result<Changes, NetworkError> {
        let mut v4 = HashMap::new();
        let mut v6 = HashMap::new();
        for (prefix, class) in prefixes {
            match prefix.trunc() {
                IpNet::V4(net) => v4.insert((net.prefix_len().into(), net.addr().octets()), class),
                IpNet::V6(net) => v6.insert((net.prefix_len().into(), net.addr().octets()), class),
            };
        }
        // Hints first and last: at no moment may one be missing.
        let wanted = hinted(v4.keys().copied(), v6.keys().copied());
        self.hints.add(&wanted)?;
        let (v4, v6) = (self.v4.reconcile(&v4), self.v6.reconcile(&v6));
        let changes = v4? + v6?;
        self.hints.set(&wanted)?;
        Ok(changes)
    }
}

/// The bitmap of where there are prefixes; see [`moderation_common::Hint`].
struct Hints {
    name: &'static str,
    map: Array<MapData, u64>,
}

impl fmt::Debug for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hints").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Hints {
    fn open(pins: &Pins, name: &'static str) -> Result<Self, NetworkError> {
        let map = Array::try_from(Map::Array(pins.open_map(name)?))
            .map_err(NetworkError::map("open", name))?;
        Ok(Self { name, map })
    }

    fn add(&mut self, wanted: &[u64]) -> Result<(), NetworkError> {
        self.change(wanted, |old, wanted| old | wanted)
    }

    fn set(&mut self, wanted: &[u64]) -> Result<(), NetworkError> {
        self.change(wanted, |_, wanted| wanted)
    }

    fn change(
        &mut self,
        wanted: &[u64],
        change: impl Fn(u64, u64) -> u64,
    ) -> Result<(), NetworkError> {
        for (word, wanted) in (0..HINT_WORDS).zip(wanted) {
            let old = self.map.get(&word, 0).map_err(NetworkError::map("read", self.name))?;
            let new = change(old, *wanted);
            if new != old {
                self.map.set(word, new, 0).map_err(NetworkError::map("write to", self.name))?;
            }
        }
        Ok(())
    }
}

fn hinted(
    v4: impl Iterator<Item = Entry<[u8; 4]>>,
    v6: impl Iterator<Item = Entry<[u8; 16]>>,
) -> Vec<u64> {
    let mut words = vec![0; HINT_WORDS as usize];
    let mut set = |hint: Hint| words[hint.word as usize] |= hint.bit;
    for (length, octets) in v4 {
        v4_hints(octets.into(), u8::try_from(length).unwrap_or(0), &mut set);
    }
    for (length, octets) in v6 {
        v6_hints(octets.into(), u8::try_from(length).unwrap_or(0), &mut set);
    }
    words
}

/// Who is guarded, and who is a proxy, as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// Prefixes that are never dropped or banned.
    pub guards: BTreeSet<IpNet>,
    /// Prefixes that are never dropped.
    pub proxies: BTreeSet<IpNet>,
}

impl Guards {
    /// Reads the pinned maps; needs no more than the permission to read.
    ///
    /// # Errors
    ///
    /// If a pin is missing or may not be read by this user.
    pub fn read(pins: &Pins) -> Result<Self, NetworkError> {
        let mut all = Self::default();
        let v4: LpmTrie<_, [u8; 4], u32> = open_trie(pins.open_to_read(GUARD_V4)?, GUARD_V4)?;
        for item in &v4 {
            let (key, class) = item.map_err(NetworkError::map("read", GUARD_V4))?;
            all.add(key.prefix_len(), key.data().into(), class);
        }
        let v6: LpmTrie<_, [u8; 16], u32> = open_trie(pins.open_to_read(GUARD_V6)?, GUARD_V6)?;
        for item in &v6 {
            let (key, class) = item.map_err(NetworkError::map("read", GUARD_V6))?;
            all.add(key.prefix_len(), key.data().into(), class);
        }
        Ok(all)
    }

    fn add(&mut self, length: u32, address: IpAddr, class: u32) {
        // The kernel holds no prefix that is longer than its address.
        let net = u8::try_from(length).ok().and_then(|length| IpNet::new(address, length).ok());
        if class == GuardClass::Proxy as u32 {
            self.proxies.extend(net);
        } else {
            self.guards.extend(net);
        }
    }
}

pub(super) fn open_trie<K: Pod, V: Pod>(
    data: MapData,
    name: &'static str,
) -> Result<LpmTrie<MapData, K, V>, NetworkError> {
    LpmTrie::try_from(Map::LpmTrie(data)).map_err(NetworkError::map("open", name))
}

type Entry<K> = (u32, K);

impl<K: Pod + Eq + Hash> AllowMap<K> {
    fn open(pins: &Pins, name: &'static str) -> Result<Self, NetworkError> {
        Ok(Self { name, trie: open_trie(pins.open_map(name)?, name)? })
    }

    fn reconcile(&mut self, wanted: &HashMap<Entry<K>, u32>) -> Result<Changes, NetworkError> {
        if wanted.len() > MAX_ALLOWED {
            let (prefixes, capacity) = (wanted.len(), MAX_ALLOWED);
            return Err(if matches!(self.name, GUARD_V4 | GUARD_V6) {
                NetworkError::TooManyGuards { prefixes, capacity }
            } else {
                NetworkError::AllowlistTooLong { prefixes, capacity }
            });
        }
        let present = self.entries()?;
        let mut failure = Ok(());
        // Nobody loses protection that stays wanted, and room is made first.
        let mut changes = Changes::default();
        for entry in present.keys().filter(|entry| !wanted.contains_key(*entry)) {
            let removed = self.trie.remove(&Key::new(entry.0, entry.1));
            failure = failure.and(removed.map_err(NetworkError::map("remove from", self.name)));
            changes.removed += 1;
        }
        for (entry, class) in wanted {
            match present.get(entry) {
                Some(old) if old == class => continue,
                Some(_) => changes.updated += 1,
                None => changes.added += 1,
            }
            let added = self.trie.insert(&Key::new(entry.0, entry.1), class, 0);
            failure = failure.and(added.map_err(NetworkError::map("write to", self.name)));
        }
        failure.map(|()| changes)
    }

    fn entries(&self) -> Result<HashMap<Entry<K>, u32>, NetworkError> {
        self.trie
            .iter()
            .map(|item| item.map(|(key, class)| ((key.prefix_len(), key.data()), class)))
            .collect::<Result<_, _>>()
            .map_err(NetworkError::map("read", self.name))
    }
}
