//! Reading what the kernel counts: packets by reason, what was lost, and
//! connections by source.

use std::{fmt, net::IpAddr};

use aya::maps::{HashMap as BpfHashMap, Map, MapData, PerCpuArray};
use moderation_common::{
    Alarm, Counter, RateEntry, Reason,
    map::{ALARMS, COUNTERS, HANDSHAKES, HEAVY},
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

/// What was lost or did not fit, since the maps were made.
///
/// # Errors
///
/// If the map cannot be read.
pub fn alarms(pins: &Pins) -> Result<Vec<(Alarm, u64)>, NetworkError> {
    let map: PerCpuArray<MapData, u64> =
        PerCpuArray::try_from(Map::PerCpuArray(pins.open_map(ALARMS)?))
            .map_err(NetworkError::map("open", ALARMS))?;
    let count = |alarm: Alarm| {
        let rows = map.get(&alarm.index(), 0).map_err(NetworkError::map("read", ALARMS))?;
        Ok((alarm, rows.iter().sum()))
    };
    Alarm::ALL.into_iter().map(count).collect()
}

/// A table of counts by source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Connection attempts of those that make many.
    Heavy,
    /// Completed handshakes.
    Handshakes,
}

impl Table {
    const fn map(self) -> &'static str {
        match self {
            Self::Heavy => HEAVY,
            Self::Handshakes => HANDSHAKES,
        }
    }
}

/// Connections by source, as the kernel counts them in two half windows.
#[derive(Debug)]
pub struct Rates {
    table: Table,
    map: BpfHashMap<MapData, [u64; 2], [u64; 3]>,
}

/// One source's count in the window that ends now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// The source, as text: an address or a /64.
    pub source: String,
    /// How many in the window.
    pub count: u64,
    /// How many beyond the limit since the kernel has known the source.
    pub excess: u64,
}

/// A number for half a window, as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u32);

impl Epoch {
    /// The half window at that moment of the kernel's coarse clock.
    #[expect(clippy::cast_possible_truncation, reason = "the kernel keeps 32 bits of it, too")]
    pub fn at(monotonic_ns: u64, window: std::time::Duration) -> Self {
        Self((monotonic_ns / super::object::half_ns(window)) as u32)
    }
}

impl Rates {
    /// Opens a pinned table.
    ///
    /// # Errors
    ///
    /// If the pin is missing or may not be opened by this user.
    pub fn open(pins: &Pins, table: Table) -> Result<Self, NetworkError> {
        let data = pins.open_map(table.map())?;
        let map = match table {
            Table::Heavy => Map::HashMap(data),
            Table::Handshakes => Map::LruHashMap(data),
        };
        let map = BpfHashMap::try_from(map).map_err(NetworkError::map("open", table.map()))?;
        Ok(Self { table, map })
    }

    /// The `most` busiest sources in the window that ends in `now`, busiest
    /// first.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn busiest(&self, most: usize, now: Epoch) -> Result<Vec<Rate>, NetworkError> {
        let mut rates = Vec::new();
        for (key, entry) in self.entries()? {
            let count = entry.count_at(now.0);
            if count > 0 {
                rates.push(Rate { source: source(key), count, excess: entry.excess });
            }
        }
        rates.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.source.cmp(&b.source)));
        rates.truncate(most);
        Ok(rates)
    }

    /// How many sources there are.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn len(&self) -> Result<usize, NetworkError> {
        Ok(self.entries()?.len())
    }

    /// Whether there are none.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn is_empty(&self) -> Result<bool, NetworkError> {
        Ok(self.len()? == 0)
    }

    /// Makes room: forgets sources that have been quiet for a whole window.
    /// Returns how many are left.
    ///
    /// # Errors
    ///
    /// If the map cannot be read or written.
    pub fn forget_quiet(&mut self, now: Epoch) -> Result<usize, NetworkError> {
        let name = self.table.map();
        let entries = self.entries()?;
        let mut left = entries.len();
        for (key, entry) in entries {
            if entry.count_at(now.0) == 0 && entry.last_epoch() != now.0.wrapping_add(1) {
                // The kernel may have been quicker, for an LRU.
                drop(self.map.remove(&key));
                left -= 1;
            }
        }
        tracing::trace!(table = name, left, "forgot quiet sources");
        Ok(left)
    }

    /// Entries as they are now; the kernel may start over when the entry that a
    /// look stands on is gone, so no key counts twice, and there is an end.
    fn entries(&self) -> Result<std::collections::HashMap<[u64; 2], RateEntry>, NetworkError> {
        let mut found = std::collections::HashMap::new();
        for item in self.map.iter().take(MAX_LOOKS) {
            let (key, [even, odd, excess]) =
                item.map_err(NetworkError::map("read", self.table.map()))?;
            found.insert(key, RateEntry { halves: [even, odd], excess });
        }
        Ok(found)
    }
}

/// Entries that are read at most: four times as many as there can be.
const MAX_LOOKS: usize = 4 * 65_536;

/// See [`moderation_common::RateKey`]: the family, then the ban key.
pub(super) fn source([family, key]: [u64; 2]) -> String {
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
