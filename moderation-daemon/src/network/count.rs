//! Reading what the kernel counts: packets by reason, connection attempts by
//! source.

use std::{collections::HashMap, fmt, net::IpAddr};

use aya::maps::{HashMap as BpfHashMap, Map, MapData, PerCpuArray};
use moderation_common::{
    Counter, Reason,
    map::{COUNTERS, SYNS},
};
use serde::Serialize;

use super::{NetworkError, Pins};
use crate::engine::Address;

/// Packets and bytes by reason.
pub struct Counters(PerCpuArray<MapData, [u64; 2]>);

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl Counters {
    /// Opens the pinned counters.
    ///
    /// # Errors
    ///
    /// If the pin is missing or may not be opened by this user.
    pub fn open(pins: &Pins) -> Result<Self, NetworkError> {
        PerCpuArray::try_from(Map::PerCpuArray(pins.open_map(COUNTERS)?))
            .map(Self)
            .map_err(NetworkError::map("open", COUNTERS))
    }

    /// The count for one reason, over all CPUs.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn read(&self, reason: Reason) -> Result<Counter, NetworkError> {
        let rows = self.0.get(&reason.index(), 0).map_err(NetworkError::map("read", COUNTERS))?;
        Ok(rows.iter().copied().map(Counter::from).fold(Counter::default(), |sum, row| Counter {
            packets: sum.packets + row.packets,
            bytes: sum.bytes + row.bytes,
        }))
    }

    /// Every reason's count.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn all(&self) -> Result<Vec<(Reason, Counter)>, NetworkError> {
        Reason::ALL.into_iter().map(|reason| Ok((reason, self.read(reason)?))).collect()
    }
}

/// Connection attempts (SYN without ACK) by source.
#[derive(Debug)]
pub struct Syns(BpfHashMap<MapData, [u64; 2], [u64; 2]>);

/// One source's connection attempts in its current window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SynCount {
    /// The source, as text: an address or a /64.
    pub source: String,
    /// Attempts since the window began.
    pub syns: u64,
}

/// Entries that are read at most: four times as many as there can be.
const MAX_LOOKS: usize = 4 * 65_536;

impl Syns {
    /// Opens the pinned counts.
    ///
    /// # Errors
    ///
    /// If the pin is missing or may not be opened by this user.
    pub fn open(pins: &Pins) -> Result<Self, NetworkError> {
        BpfHashMap::try_from(Map::LruHashMap(pins.open_map(SYNS)?))
            .map(Self)
            .map_err(NetworkError::map("open", SYNS))
    }

    /// The `most` busiest sources, busiest first. Windows that began before
    /// `since_ns` (`CLOCK_BOOTTIME`) are over and left out.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn busiest(&self, most: usize, since_ns: u64) -> Result<Vec<SynCount>, NetworkError> {
        // The kernel starts over when the entry that it stands on is pushed out,
        // which a flood does all the time: no key twice, and an end.
        let mut current = HashMap::new();
        for item in self.0.iter().take(MAX_LOOKS) {
            let (key, [window_start_ns, syns]) = item.map_err(NetworkError::map("read", SYNS))?;
            if window_start_ns >= since_ns {
                current.insert(key, syns);
            }
        }
        let counts = current.into_iter();
        let mut counts: Vec<_> =
            counts.map(|(key, syns)| SynCount { source: source(key), syns }).collect();
        counts.sort_by(|a, b| b.syns.cmp(&a.syns).then_with(|| a.source.cmp(&b.source)));
        counts.truncate(most);
        Ok(counts)
    }
}

/// See [`moderation_common::SynKey`]: the family, then the ban key.
fn source([family, key]: [u64; 2]) -> String {
    let ip = match u32::try_from(key) {
        Ok(key) if family == 4 => IpAddr::from(key.to_ne_bytes()),
        _ => {
            let mut octets = [0; 16];
            octets[..8].copy_from_slice(&key.to_ne_bytes());
            IpAddr::from(octets)
        }
    };
    Address::from(ip).to_string()
}
