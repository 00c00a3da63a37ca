//! The ban maps: exact keys, each with the moment at which it lapses.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    ops::Add,
};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, MapData, MapError},
};
use ipnet::IpNet;
use moderation_common::{
    BanEntry, Source,
    map::{BANS_V4, BANS_V6},
    v4_key, v6_key,
};
use nix::errno::Errno;
use serde::Serialize;

use super::{NetworkError, Pins};
use crate::engine::Address;

/// Both families' pinned ban maps.
#[derive(Debug)]
pub struct BanMaps {
    v4: BanMap<u32>,
    v6: BanMap<u64>,
}

#[derive(Debug)]
struct BanMap<K: Pod> {
    name: &'static str,
    capacity: u32,
    map: BpfHashMap<MapData, K, u64>,
}

/// What a reconcile changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Entries that were missing in the kernel.
    pub added: usize,
    /// Entries whose expiry was another.
    pub updated: usize,
    /// Entries that nobody wanted.
    pub removed: usize,
}

/// What a reconcile came to.
#[derive(Debug)]
pub struct Reconciled {
    /// The wanted addresses that are blocked now as they should be.
    pub blocked: HashSet<Address>,
    /// What it changed, or the first failure.
    pub result: Result<Changes, NetworkError>,
}

impl Changes {
    /// How far kernel and store were apart.
    pub const fn drift(self) -> usize {
        self.added + self.updated + self.removed
    }
}

impl Add for Changes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            added: self.added + other.added,
            updated: self.updated + other.updated,
            removed: self.removed + other.removed,
        }
    }
}

impl BanMaps {
    /// Opens both maps.
    ///
    /// # Errors
    ///
    /// If a pin is missing or may not be opened by this user.
    pub fn open(pins: &Pins) -> Result<Self, NetworkError> {
        Ok(Self { v4: BanMap::open(pins, BANS_V4)?, v6: BanMap::open(pins, BANS_V6)? })
    }

    pub(super) fn block(&mut self, address: Address, entry: BanEntry) -> Result<(), NetworkError> {
        match key(address) {
            Source::V4(key) => self.v4.insert(key, entry),
            Source::V6(key) => self.v6.insert(key, entry),
        }
    }

    pub(super) fn unblock(&mut self, address: Address) -> Result<(), NetworkError> {
        match key(address) {
            Source::V4(key) => self.v4.remove(key),
            Source::V6(key) => self.v6.remove(key),
        }
    }

    /// What the kernel holds about one address, lapsed or not.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn get(&self, address: Address) -> Result<Option<BanEntry>, NetworkError> {
        match key(address) {
            Source::V4(key) => self.v4.get(key),
            Source::V6(key) => self.v6.get(key),
        }
    }

    /// Every entry in the kernel, lapsed ones included.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn all(&self) -> Result<HashMap<Address, BanEntry>, NetworkError> {
        let v4 = self.v4.entries()?.into_iter().map(|(key, entry)| (v4_address(key), entry));
        let v6 = self.v6.entries()?.into_iter().map(|(key, entry)| (v6_address(key), entry));
        Ok(v4.chain(v6).collect())
    }

    /// See [`Network::reconcile`](super::Network::reconcile).
    pub(super) fn reconcile(&mut self, wanted: &HashMap<Address, BanEntry>) -> Reconciled {
        let present = match self.all() {
            Ok(present) => present,
            Err(error) => return Reconciled { blocked: HashSet::new(), result: Err(error) },
        };
        let mut changes = Changes::default();
        let mut failure = Ok(());
        // Removing first makes room in a map that is nearly full.
        for address in present.keys().filter(|address| !wanted.contains_key(*address)) {
            failure = failure.and(self.unblock(*address));
            changes.removed += 1;
        }
        let mut blocked = HashSet::with_capacity(wanted.len());
        for (address, entry) in wanted {
            let done = match present.get(address) {
                Some(old) if agree(*old, *entry) => Ok(()),
                old => {
                    changes.updated += usize::from(old.is_some());
                    changes.added += usize::from(old.is_none());
                    self.block(*address, *entry)
                }
            };
            if done.is_ok() {
                blocked.insert(*address);
            }
            failure = failure.and(done);
        }
        Reconciled { blocked, result: failure.map(|()| changes) }
    }
}

/// The expiry is kept by wall clock in the store and by boot clock in the
/// kernel; converting at two moments differs by how far the clocks were
/// adjusted in between.
const TOLERANCE_NS: u64 = 500_000_000;

fn agree(one: BanEntry, other: BanEntry) -> bool {
    one.expires_at_ns.abs_diff(other.expires_at_ns) <= TOLERANCE_NS
}

fn key(address: Address) -> Source {
    match address.prefix() {
        IpNet::V4(net) => Source::V4(v4_key(net.addr())),
        IpNet::V6(net) => Source::V6(v6_key(net.addr())),
    }
}

fn v4_address(key: u32) -> Address {
    Address::from(IpAddr::from(key.to_ne_bytes()))
}

fn v6_address(key: u64) -> Address {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&key.to_ne_bytes());
    Address::from(IpAddr::from(octets))
}

impl<K: Pod> BanMap<K> {
    fn open(pins: &Pins, name: &'static str) -> Result<Self, NetworkError> {
        let data = pins.open_map(name)?;
        let capacity = data.info().map_err(NetworkError::map("size", name))?.max_entries();
        let map = BpfHashMap::try_from(aya::maps::Map::HashMap(data))
            .map_err(NetworkError::map("open", name))?;
        Ok(Self { name, capacity, map })
    }

    fn insert(&mut self, key: K, entry: BanEntry) -> Result<(), NetworkError> {
        self.map.insert(key, entry.expires_at_ns, 0).map_err(|source| match errno(&source) {
            Some(Errno::E2BIG) => NetworkError::Full { capacity: self.capacity },
            _ => NetworkError::map("write to", self.name)(source),
        })
    }

    fn remove(&mut self, key: K) -> Result<(), NetworkError> {
        match self.map.remove(&key) {
            Err(source) if errno(&source) != Some(Errno::ENOENT) => {
                Err(NetworkError::map("remove from", self.name)(source))
            }
            _ => Ok(()),
        }
    }

    fn get(&self, key: K) -> Result<Option<BanEntry>, NetworkError> {
        match self.map.get(&key, 0) {
            Ok(expires_at_ns) => Ok(Some(BanEntry { expires_at_ns })),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(NetworkError::map("read", self.name)(source)),
        }
    }

    fn entries(&self) -> Result<Vec<(K, BanEntry)>, NetworkError> {
        self.map
            .iter()
            .map(|item| item.map(|(key, expires_at_ns)| (key, BanEntry { expires_at_ns })))
            .collect::<Result<_, _>>()
            .map_err(NetworkError::map("read", self.name))
    }
}

fn errno(error: &MapError) -> Option<Errno> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}
