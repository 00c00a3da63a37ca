//! Banned blocks: two tries in the kernel, and here what is wanted of each
//! block. The kernel finds the narrowest block around an address and no other,
//! so a block within others gets the latest expiry of them all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use moderation_common::{
    BanEntry,
    map::{NETS_V4, NETS_V6},
};

use super::{
    Changes, NetworkError, Pins,
    exact::{Exact, Inserted},
    plan::agree,
    sys::Pages,
};

/// A key of a trie: the prefix's length as a word, then its octets (`struct
/// bpf_lpm_trie_key`).
pub(super) type V4Key = [u8; 8];
pub(super) type V6Key = [u8; 20];

/// Both tries, and what is wanted in them.
#[derive(Debug)]
pub(super) struct Nets {
    v4: Exact<V4Key>,
    v6: Exact<V6Key>,
    wanted: BTreeMap<IpNet, BanEntry>,
}

/// Blocks that are looked at by one call; each may be within a hundred others.
const PAGE: usize = 64;

/// A look through both tries that is under way.
pub(super) struct NetPages {
    v4: Pages<V4Key, u64>,
    v6: Pages<V6Key, u64>,
    /// Wanted ones that were not found yet, and found ones that nobody wants.
    doubtful: BTreeSet<IpNet>,
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
        let (v4, v6) = (Exact::open(pins, NETS_V4)?, Exact::open(pins, NETS_V6)?);
        let mut nets = Self { v4, v6, wanted: BTreeMap::new() };
        nets.wanted = nets.all()?;
        Ok(nets)
    }

    pub(super) const fn capacity(&self) -> u32 {
        self.v4.capacity()
    }

    /// How many there are of each family.
    pub(super) fn counts(&self) -> (usize, usize) {
        let v4 = self.wanted.keys().filter(|net| net.addr().is_ipv4()).count();
        (v4, self.wanted.len() - v4)
    }

    /// Every block in the kernel.
    pub(super) fn all(&self) -> Result<BTreeMap<IpNet, BanEntry>, NetworkError> {
        let mut all = BTreeMap::new();
        self.v4.for_each(|key, entry| all.extend(net(&key).map(|net| (net, entry))))?;
        self.v6.for_each(|key, entry| all.extend(net(&key).map(|net| (net, entry))))?;
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

    /// `false` if the kernel did not hold it.
    pub(super) fn remove(&mut self, net: IpNet) -> Result<bool, NetworkError> {
        let was_wanted = self.wanted.remove(&net).is_some();
        let was_there = self.erase(net)?;
        if was_wanted {
            self.write_within(net)?;
        }
        Ok(was_there)
    }

    /// Writes the blocks that lie within `net`, itself included: what surrounds
    /// them has changed.
    fn write_within(&mut self, net: IpNet) -> Result<(), NetworkError> {
        let inner: Vec<_> = self.within(net).collect();
        inner.into_iter().try_for_each(|inner| self.write(inner).map(drop))
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
    pub(super) fn begin(&mut self, wanted: BTreeMap<IpNet, BanEntry>) -> Unfinished {
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
            if self.write(net).is_err() {
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
            result = result.and(self.erase(net).map(drop));
            changes.removed += 1;
        }
        for net in late {
            if let Err(error) = self.write(net) {
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

    /// Gives the kernel what it should hold of a wanted block.
    fn write(&mut self, net: IpNet) -> Result<Inserted, NetworkError> {
        let entry = self.effective(net);
        match net {
            IpNet::V4(net) => self.v4.insert(key(net.prefix_len(), net.addr().octets()), entry),
            IpNet::V6(net) => self.v6.insert(key(net.prefix_len(), net.addr().octets()), entry),
        }
    }

    fn erase(&mut self, net: IpNet) -> Result<bool, NetworkError> {
        match net {
            IpNet::V4(net) => self.v4.remove(key(net.prefix_len(), net.addr().octets())),
            IpNet::V6(net) => self.v6.remove(key(net.prefix_len(), net.addr().octets())),
        }
    }

    /// Begins a look through both tries.
    pub(super) fn pages(&self) -> NetPages {
        let doubtful = self.wanted.keys().copied().collect();
        NetPages { v4: Pages::new(PAGE), v6: Pages::new(PAGE), doubtful }
    }

    /// Looks at one page and mends it; then, as many at a time, what is missing
    /// and what nobody wants. The latter only then: a page goes on from the last
    /// key of the one before. `None` when there is nothing left to do.
    pub(super) fn sweep_on(
        &mut self,
        pages: &mut NetPages,
        wanted: impl Fn(IpNet) -> Option<BanEntry>,
    ) -> Result<Option<Changes>, NetworkError> {
        let mut changes = Changes::default();
        if let Some(page) = self.page(pages)? {
            for (net, old) in page {
                if let Some(entry) = wanted(net) {
                    changes.updated += usize::from(self.mend(net, entry, old)?);
                    pages.doubtful.remove(&net);
                } else {
                    pages.doubtful.insert(net);
                }
            }
            return Ok(Some(changes));
        }
        if pages.doubtful.is_empty() {
            return Ok(None);
        }
        for net in std::iter::from_fn(|| pages.doubtful.pop_first()).take(PAGE) {
            if wanted(net).is_none() {
                changes.removed += usize::from(self.remove(net)?);
            } else if self.wanted.contains_key(&net) {
                changes.added += usize::from(self.write(net)? == Inserted::New);
            }
        }
        Ok(Some(changes))
    }

    fn page(&self, pages: &mut NetPages) -> Result<Option<Vec<(IpNet, BanEntry)>>, NetworkError> {
        if let Some(page) = self.v4.page(&mut pages.v4)? {
            return Ok(Some(entries(page)));
        }
        Ok(self.v6.page(&mut pages.v6)?.map(entries))
    }

    /// Writes a block anew, unless the kernel holds what it should.
    fn mend(&mut self, net: IpNet, entry: BanEntry, old: BanEntry) -> Result<bool, NetworkError> {
        if !self.wanted.get(&net).is_some_and(|known| agree(*known, entry)) {
            // After opening, all that is known is what the kernel holds.
            self.insert(net, entry)?;
            return Ok(!agree(old, self.effective(net)));
        }
        if agree(old, self.effective(net)) {
            return Ok(false);
        }
        self.write(net).map(|_| true)
    }
}

fn key<const O: usize, const N: usize>(length: u8, octets: [u8; O]) -> [u8; N] {
    const { assert!(O + 4 == N) };
    let mut key = [0; N];
    key[..4].copy_from_slice(&u32::from(length).to_ne_bytes());
    key[4..].copy_from_slice(&octets);
    key
}

/// A length beyond the address's is none that the kernel holds. What is behind
/// the prefix is as somebody wrote it.
fn net(key: &[u8]) -> Option<IpNet> {
    let (length, octets) = key.split_first_chunk()?;
    let address = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
    };
    let length = u8::try_from(u32::from_ne_bytes(*length)).ok()?;
    IpNet::new(address, length).ok().map(|net| net.trunc())
}

fn entries<K: AsRef<[u8]>>((keys, values): (&[K], &[u64])) -> Vec<(IpNet, BanEntry)> {
    let entries = keys.iter().zip(values);
    let entries = entries.filter_map(|(key, value)| Some((net(key.as_ref())?, *value)));
    entries.map(|(net, expires_at_ns)| (net, BanEntry { expires_at_ns })).collect()
}
