//! Whether the program drops what a peer sends, asked of the same maps, all of
//! them opened for reading only. It says nothing about single packets and
//! counts nothing.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use moderation_common::{
    BanEntry,
    map::{
        ALLOW_V4, ALLOW_V6, BANS_HOST, BANS_V4, BANS_V6, GUARD_V4, GUARD_V6, NETS_V4, NETS_V6,
        PORTS,
    },
    port, v4_key, v6_key,
};

use super::{
    NetworkError, Pins, allow::open_trie, block::halves, control::ControlMap, exact::Exact,
};

/// A trie of one family, and its name.
struct Trie<K: Pod, V: Pod> {
    name: &'static str,
    map: LpmTrie<MapData, K, V>,
}

/// See the module.
pub struct Judge {
    control: ControlMap,
    bans_v4: Exact<u32>,
    bans_v6: Exact<u64>,
    bans_host: Exact<[u64; 2]>,
    nets_v4: Trie<[u8; 4], u64>,
    nets_v6: Trie<[u8; 16], u64>,
    exempt_v4: [Trie<[u8; 4], u32>; 2],
    exempt_v6: [Trie<[u8; 16], u32>; 2],
    ports: BpfHashMap<MapData, u16, u32>,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").finish_non_exhaustive()
    }
}

impl Judge {
    /// Opens the maps. Whoever may read them may do that; it takes no
    /// capability.
    ///
    /// # Errors
    ///
    /// If a pin is missing or may not be read by this user.
    pub fn open(pins: &Pins) -> Result<Self, NetworkError> {
        let ports = BpfHashMap::try_from(Map::HashMap(pins.open_to_read(PORTS)?))
            .map_err(NetworkError::map("open", PORTS))?;
        Ok(Self {
            control: ControlMap::open_to_read(pins)?,
            bans_v4: Exact::open_to_read(pins, BANS_V4)?,
            bans_v6: Exact::open_to_read(pins, BANS_V6)?,
            bans_host: Exact::open_to_read(pins, BANS_HOST)?,
            nets_v4: Trie::open(pins, NETS_V4)?,
            nets_v6: Trie::open(pins, NETS_V6)?,
            exempt_v4: [Trie::open(pins, GUARD_V4)?, Trie::open(pins, ALLOW_V4)?],
            exempt_v6: [Trie::open(pins, GUARD_V6)?, Trie::open(pins, ALLOW_V6)?],
            ports,
        })
    }

    /// Whether packets are dropped at all; in observe mode none are.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn enforces(&self) -> Result<bool, NetworkError> {
        Ok(self.control.get()?.observe == 0)
    }

    /// Whether what `peer` sends to `local` is dropped for a ban, if anything
    /// is: a ban holds at `now_ns` (`CLOCK_BOOTTIME`), and no guard, proxy or
    /// allowed prefix is around it and no exemption on the port. Looked at in
    /// the program's order, and as there the exemptions only at the end.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn condemns(
        &self,
        peer: IpAddr,
        local: SocketAddr,
        now_ns: u64,
    ) -> Result<bool, NetworkError> {
        let peer = peer.to_canonical();
        Ok(self.is_banned(peer, now_ns)? && !self.is_exempt(peer, local.port())?)
    }

    /// The maps that the program skips are empty, and so skipped by themselves.
    fn is_banned(&self, peer: IpAddr, now_ns: u64) -> Result<bool, NetworkError> {
        let holds = |entry: Option<BanEntry>| entry.is_some_and(|entry| entry.holds_at(now_ns));
        let net = |found: Option<u64>| found.map(|expires_at_ns| BanEntry { expires_at_ns });
        Ok(match peer {
            IpAddr::V4(ip) => {
                holds(self.bans_v4.get(v4_key(ip))?) || holds(net(self.nets_v4.get(ip.octets())?))
            }
            IpAddr::V6(ip) => {
                holds(self.bans_v6.get(v6_key(ip))?)
                    || holds(self.bans_host.get(halves(ip))?)
                    || holds(net(self.nets_v6.get(ip.octets())?))
            }
        })
    }

    fn is_exempt(&self, peer: IpAddr, local_port: u16) -> Result<bool, NetworkError> {
        let flags = match self.ports.get(&local_port, 0) {
            Ok(flags) => flags,
            Err(MapError::KeyNotFound) => 0,
            Err(error) => return Err(NetworkError::map("read", PORTS)(error)),
        };
        Ok(flags & port::UNBANNED != 0
            || match peer {
                IpAddr::V4(ip) => any(&self.exempt_v4, ip.octets())?,
                IpAddr::V6(ip) => any(&self.exempt_v6, ip.octets())?,
            })
    }
}

fn any<K: Pod>(tries: &[Trie<K, u32>], octets: K) -> Result<bool, NetworkError> {
    for trie in tries {
        if trie.get(octets)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

impl<K: Pod, V: Pod> Trie<K, V> {
    fn open(pins: &Pins, name: &'static str) -> Result<Self, NetworkError> {
        Ok(Self { name, map: open_trie(pins.open_to_read(name)?, name)? })
    }

    /// What the narrowest prefix around an address has.
    fn get(&self, octets: K) -> Result<Option<V>, NetworkError> {
        let bits = u32::try_from(8 * size_of::<K>()).unwrap_or(u32::MAX);
        match self.map.get(&Key::new(bits, octets), 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(NetworkError::map("read", self.name)(error)),
        }
    }
}
