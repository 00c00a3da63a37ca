//! Banned blocks: two tries in the kernel, and here what is wanted of each
//! block. The kernel finds the narrowest block around an address and no other,
//! so a block within others gets the latest expiry of them all.

use std::collections::BTreeMap;

use aya::maps::{LpmTrie, Map, MapData, lpm_trie::Key};
use ipnet::IpNet;
use moderation_common::{
    BanEntry,
    map::{NETS_V4, NETS_V6},
};
use nix::errno::Errno;

use super::{Changes, NetworkError, Pins, exact::errno};

/// Both tries, and what is wanted in them.
#[derive(Debug)]
pub(super) struct Nets {
    v4: LpmTrie<MapData, [u8; 4], u64>,
    v6: LpmTrie<MapData, [u8; 16], u64>,
    capacity: u32,
    wanted: BTreeMap<IpNet, BanEntry>,
}

/// What [`Nets::begin`] leaves to do.
#[derive(Debug)]
pub(super) struct Unfinished {
    /// Nobody wants them.
    surplus: Vec<IpNet>,
    /// They did not fit.
    late: Vec<IpNet>,
    changes: Changes,
    result: Result<(), NetworkError>,
}

impl Default for Unfinished {
    fn default() -> Self {
        let (surplus, late) = (Vec::new(), Vec::new());
        Self { surplus, late, changes: Changes::default(), result: Ok(()) }
    }
}

impl Nets {
    pub(super) fn open(pins: &Pins) -> Result<Self, NetworkError> {
        let data = pins.open_map(NETS_V4)?;
        let capacity = data.info().map_err(NetworkError::map("size", NETS_V4))?.max_entries();
        let v4 =
            LpmTrie::try_from(Map::LpmTrie(data)).map_err(NetworkError::map("open", NETS_V4))?;
        let v6 = LpmTrie::try_from(Map::LpmTrie(pins.open_map(NETS_V6)?))
            .map_err(NetworkError::map("open", NETS_V6))?;
        let mut nets = Self { v4, v6, capacity, wanted: BTreeMap::new() };
        nets.wanted = nets.all()?;
        Ok(nets)
    }

    pub(super) const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many there are of each family.
    pub(super) fn counts(&self) -> (usize, usize) {
        let v4 = self.wanted.keys().filter(|net| net.addr().is_ipv4()).count();
        (v4, self.wanted.len() - v4)
    }

    /// Every block in the kernel.
    pub(super) fn all(&self) -> Result<BTreeMap<IpNet, BanEntry>, NetworkError> {
        let mut all = BTreeMap::new();
        for item in &self.v4 {
            let (key, value) = item.map_err(NetworkError::map("read", NETS_V4))?;
            add(&mut all, key.prefix_len(), key.data().into(), value);
        }
        for item in &self.v6 {
            let (key, value) = item.map_err(NetworkError::map("read", NETS_V6))?;
            add(&mut all, key.prefix_len(), key.data().into(), value);
        }
        Ok(all)
    }

    pub(super) fn get(&self, net: IpNet) -> Result<Option<BanEntry>, NetworkError> {
        Ok(self.all()?.get(&net).copied())
    }

    pub(super) fn insert(&mut self, net: IpNet, entry: BanEntry) -> Result<(), NetworkError> {
        let before = self.wanted.insert(net, entry);
        let written = self.write_within(net);
        if written.is_err() && before.is_none() {
            self.wanted.remove(&net);
        }
        written
    }

    pub(super) fn remove(&mut self, net: IpNet) -> Result<(), NetworkError> {
        self.wanted.remove(&net);
        self.erase(net)?;
        self.write_within(net)
    }

    /// Writes the blocks that lie within `net`, itself included: what surrounds
    /// them has changed.
    fn write_within(&mut self, net: IpNet) -> Result<(), NetworkError> {
        let inner: Vec<_> = self.within(net).collect();
        inner.into_iter().try_for_each(|inner| self.write(inner, self.effective(inner)))
    }

    /// Blocks are in the order of their first addresses.
    fn within(&self, net: IpNet) -> impl Iterator<Item = IpNet> {
        let first = IpNet::new(net.network(), 0).unwrap_or(net);
        let last = IpNet::from(net.broadcast());
        let range = self.wanted.range(first..=last).map(|(inner, _)| *inner);
        range.filter(move |inner| net.contains(inner))
    }

    /// Writes these blocks, as far as they fit; what else the kernel holds stays
    /// until [`Nets::finish`], so that nobody passes who is blocked before and
    /// after, but by another block.
    pub(super) fn begin(
        &mut self,
        wanted: BTreeMap<IpNet, BanEntry>,
        agree: impl Fn(BanEntry, BanEntry) -> bool,
    ) -> Unfinished {
        self.wanted = wanted;
        let present = match self.all() {
            Ok(present) => present,
            Err(error) => return Unfinished { result: Err(error), ..Unfinished::default() },
        };
        let surplus = present.keys().filter(|net| !self.wanted.contains_key(*net));
        let mut rest = Unfinished { surplus: surplus.copied().collect(), ..Unfinished::default() };
        let wanted: Vec<_> = self.wanted.keys().copied().collect();
        for net in wanted {
            let entry = self.effective(net);
            match present.get(&net) {
                Some(old) if agree(*old, entry) => continue,
                Some(_) => rest.changes.updated += 1,
                None => rest.changes.added += 1,
            }
            if self.write(net, entry).is_err() {
                rest.late.push(net);
            }
        }
        rest
    }

    /// Erases the others, and writes what did not fit beside them; calls
    /// `failed` for each wanted block that is not as it should be.
    pub(super) fn finish(
        &mut self,
        rest: Unfinished,
        mut failed: impl FnMut(IpNet),
    ) -> Result<Changes, NetworkError> {
        let Unfinished { surplus, late, mut changes, mut result } = rest;
        if result.is_err() {
            self.wanted.keys().for_each(|net| failed(*net));
        }
        for net in surplus {
            result = result.and(self.erase(net));
            changes.removed += 1;
        }
        for net in late {
            if let Err(error) = self.write(net, self.effective(net)) {
                failed(net);
                result = result.and(Err(error));
            }
        }
        result.map(|()| changes)
    }

    /// The latest expiry of a block and of those around it.
    fn effective(&self, net: IpNet) -> BanEntry {
        let around = (0..=net.prefix_len())
            .filter_map(|length| IpNet::new(net.addr(), length).ok())
            .filter_map(|outer| self.wanted.get(&outer.trunc()));
        let expires_at_ns = around.map(|entry| entry.expires_at_ns).max().unwrap_or(0);
        BanEntry { expires_at_ns }
    }

    fn write(&mut self, net: IpNet, entry: BanEntry) -> Result<(), NetworkError> {
        let (name, written) = match net {
            IpNet::V4(net) => {
                let key = Key::new(net.prefix_len().into(), net.addr().octets());
                (NETS_V4, self.v4.insert(&key, entry.expires_at_ns, 0))
            }
            IpNet::V6(net) => {
                let key = Key::new(net.prefix_len().into(), net.addr().octets());
                (NETS_V6, self.v6.insert(&key, entry.expires_at_ns, 0))
            }
        };
        written.map_err(|error| match errno(&error) {
            Some(Errno::ENOSPC) => NetworkError::NetsFull { capacity: self.capacity },
            _ => NetworkError::map("write to", name)(error),
        })
    }

    fn erase(&mut self, net: IpNet) -> Result<(), NetworkError> {
        let (name, removed) = match net {
            IpNet::V4(net) => {
                let key = Key::new(net.prefix_len().into(), net.addr().octets());
                (NETS_V4, self.v4.remove(&key))
            }
            IpNet::V6(net) => {
                let key = Key::new(net.prefix_len().into(), net.addr().octets());
                (NETS_V6, self.v6.remove(&key))
            }
        };
        match removed {
            Err(error) if errno(&error) != Some(Errno::ENOENT) => {
                Err(NetworkError::map("remove from", name)(error))
            }
            _ => Ok(()),
        }
    }
}

fn add(to: &mut BTreeMap<IpNet, BanEntry>, length: u32, address: std::net::IpAddr, value: u64) {
    // The kernel holds no prefix that is longer than its address.
    let net = u8::try_from(length).ok().and_then(|length| IpNet::new(address, length).ok());
    if let Some(net) = net {
        to.insert(net, BanEntry { expires_at_ns: value });
    }
}
