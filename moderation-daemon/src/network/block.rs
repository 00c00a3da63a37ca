//! The ban maps as one: where each prefix is kept, the prefilter in front, and
//! the switches beside. Bits are set before an entry appears and cleared after
//! it is gone, so that a crash in between leaves too many, never too few.

use std::{collections::HashSet, net::Ipv6Addr, ops::Add};

use ipnet::IpNet;
use moderation_common::{
    BanEntry, Seeds, Source,
    map::{BANS_HOST, BANS_V4, BANS_V6, SEEDS},
    v4_key, v6_key,
};
use serde::Serialize;

use super::{
    NetworkError, Pins,
    control::{ControlMap, seeds},
    desired::{Desired, of_host, of_v4, of_v6},
    exact::{Exact, Inserted},
    filter::{Bitmap, Filter},
    nets::{NetPages, Nets},
    plan::{Plan, Plans, Room, add},
};
use crate::engine::Prefix;

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

/// What a reconcile came to.
#[derive(Debug)]
pub struct Reconciled {
    /// The wanted prefixes that are not blocked as they should be.
    pub failed: HashSet<Prefix>,
    /// What it changed, or the first failure.
    pub result: Result<Changes, NetworkError>,
}

/// How full the maps are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fill {
    /// Exact entries: addresses and /64s.
    pub exact: usize,
    /// How many there can be.
    pub max_exact: usize,
    /// Blocks.
    pub nets: usize,
    /// How many there can be, of each family.
    pub max_nets: usize,
}

impl Fill {
    /// Whether little room is left: four fifths are taken.
    pub const fn is_high(self) -> bool {
        self.exact * 5 >= self.max_exact * 4 || self.nets * 5 >= self.max_nets * 4
    }
}

/// Where a prefix is kept in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    V4(u32),
    V6(u64),
    Host([u64; 2]),
    Net(IpNet),
}

impl From<Prefix> for Key {
    fn from(prefix: Prefix) -> Self {
        match prefix.net() {
            IpNet::V4(net) if net.prefix_len() == 32 => Self::V4(v4_key(net.addr())),
            IpNet::V6(net) if net.prefix_len() == 64 => Self::V6(v6_key(net.addr())),
            IpNet::V6(net) if net.prefix_len() == 128 => Self::Host(halves(net.addr())),
            net => Self::Net(net),
        }
    }
}

/// The two halves of an address, as they stand in a packet.
pub(super) fn halves(address: Ipv6Addr) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

/// The ban maps, for reading.
#[derive(Debug)]
pub struct BanMaps {
    pub(super) v4: Exact<u32>,
    pub(super) v6: Exact<u64>,
    pub(super) hosts: Exact<[u64; 2]>,
    nets: Nets,
}

impl BanMaps {
    /// Opens the maps.
    ///
    /// # Errors
    ///
    /// If a pin is missing or may not be opened by this user.
    pub fn open(pins: &Pins) -> Result<Self, NetworkError> {
        Ok(Self {
            v4: Exact::open(pins, BANS_V4)?,
            v6: Exact::open(pins, BANS_V6)?,
            hosts: Exact::open(pins, BANS_HOST)?,
            nets: Nets::open(pins)?,
        })
    }

    /// What the kernel holds about exactly this prefix, lapsed or not.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn get(&self, prefix: Prefix) -> Result<Option<BanEntry>, NetworkError> {
        match Key::from(prefix) {
            Key::V4(key) => self.v4.get(key),
            Key::V6(key) => self.v6.get(key),
            Key::Host(key) => self.hosts.get(key),
            Key::Net(net) => self.nets.get(net),
        }
    }

    /// Every entry in the kernel, lapsed ones included.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn all(&self) -> Result<Desired, NetworkError> {
        let mut all = Desired::default();
        self.v4.for_each(|key, entry| {
            all.v4.insert(key, entry);
        })?;
        self.v6.for_each(|key, entry| {
            all.v6.insert(key, entry);
        })?;
        self.hosts.for_each(|key, entry| {
            all.hosts.insert(key, entry);
        })?;
        all.nets = self.nets.all()?;
        Ok(all)
    }
}

/// Whether the prefilter lets through what it must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Exact entries that were looked at.
    pub entries: usize,
    /// Those that the prefilter would hide: a ban without effect each.
    pub hidden: usize,
    /// Entries whose map the program does not look into.
    pub switched_off: usize,
}

/// Compares the pinned maps with the prefilter and the switches; changes
/// nothing.
///
/// # Errors
///
/// If a map cannot be read.
pub fn verify(pins: &Pins) -> Result<Verified, NetworkError> {
    let maps = BanMaps::open(pins)?;
    let seeds = seeds(pins)?;
    let bitmap = Bitmap::open(pins, seeds)?;
    let control = ControlMap::open(pins)?.get()?;
    let mut verified = Verified::default();
    let mut look = |hash: u64| verified.hidden += usize::from(!bitmap.has(hash));
    let mut entries = maps.v4.for_each(|key, _| look(seeds.hash(Source::V4(key))))?;
    entries += maps.v6.for_each(|key, _| look(seeds.hash(Source::V6(key))))?;
    let hosts = maps.hosts.for_each(|key, _| look(seeds.hash_host(key)))?;
    let (nets_v4, nets_v6) = maps.nets.counts();
    verified.entries = entries + hosts;
    for (count, switch) in
        [(hosts, control.hosts), (nets_v4, control.nets_v4), (nets_v6, control.nets_v6)]
    {
        verified.switched_off += if switch == 0 { count } else { 0 };
    }
    Ok(verified)
}

/// Bits that are set in the prefilter: at most two an exact entry, or it slowly
/// fills up and lets ever more strangers through to the exact maps.
///
/// # Errors
///
/// If a map cannot be read.
pub fn filter_bits(pins: &Pins) -> Result<usize, NetworkError> {
    Ok(Bitmap::open(pins, seeds(pins)?)?.ones())
}

/// The ban maps, for the one who writes them.
#[derive(Debug)]
pub(super) struct Blocker {
    maps: BanMaps,
    filter: Filter,
    control: ControlMap,
    /// Exact entries in the kernel, as far as is known.
    exact: usize,
    hosts: usize,
    /// What the prefilter hid when it was opened.
    hidden_at_open: usize,
}

impl Blocker {
    /// Opens the maps, and makes prefilter and switches agree with what is in
    /// them.
    pub(super) fn open(pins: &Pins) -> Result<Self, NetworkError> {
        let mut blocker = Self::open_uncounted(pins)?;
        blocker.rebuild(blocker.filter.seeds())?;
        Ok(blocker)
    }

    /// Opens the maps for a whole reconcile, which looks through them anyway.
    /// Until then no bit is cleared.
    pub(super) fn open_uncounted(pins: &Pins) -> Result<Self, NetworkError> {
        let seeds = seeds(pins)?;
        if seeds == (Seeds { a: 0, b: 0 }) {
            return Err(NetworkError::Unfinished { path: pins.map(SEEDS) });
        }
        let mut filter = Filter::new(Bitmap::open(pins, seeds)?);
        filter.distrust();
        let (maps, control) = (BanMaps::open(pins)?, ControlMap::open(pins)?);
        Ok(Self { maps, filter, control, exact: 0, hosts: 0, hidden_at_open: 0 })
    }

    fn rebuild(&mut self, seeds: Seeds) -> Result<(), NetworkError> {
        let (filter, hidden) = (&mut self.filter, &mut self.hidden_at_open);
        let mut add = |hash: u64| {
            *hidden += usize::from(!filter.has(hash));
            filter.add(hash);
        };
        let v4 = self.maps.v4.for_each(|key, _| add(seeds.hash(Source::V4(key))))?;
        let v6 = self.maps.v6.for_each(|key, _| add(seeds.hash(Source::V6(key))))?;
        self.hosts = self.maps.hosts.for_each(|key, _| add(seeds.hash_host(key)))?;
        self.exact = v4 + v6 + self.hosts;
        self.filter.settle();
        self.switch()
    }

    /// Entries that the prefilter hid when it was opened, each of them a ban
    /// without effect until then.
    pub(super) const fn hidden_at_open(&self) -> usize {
        self.hidden_at_open
    }

    pub(super) const fn maps(&self) -> &BanMaps {
        &self.maps
    }

    pub(super) const fn control(&mut self) -> &mut ControlMap {
        &mut self.control
    }

    /// Exact entries in the kernel, as far as is known.
    pub(super) const fn exact(&self) -> usize {
        self.exact
    }

    pub(super) fn fill(&self) -> Fill {
        let (nets_v4, nets_v6) = self.maps.nets.counts();
        Fill {
            exact: self.exact,
            max_exact: self.capacity() as usize,
            nets: nets_v4.max(nets_v6),
            max_nets: self.maps.nets.capacity() as usize,
        }
    }

    /// All exact maps are made for as many entries as there may be together.
    const fn capacity(&self) -> u32 {
        self.maps.v4.capacity()
    }

    /// Lets the program look into those maps only in which there is something.
    /// On before the first entry, off after the last.
    fn switch(&mut self) -> Result<(), NetworkError> {
        let (nets_v4, nets_v6) = self.maps.nets.counts();
        let hosts = self.hosts;
        self.control.change(|control| {
            control.hosts = u32::from(hosts > 0);
            control.nets_v4 = u32::from(nets_v4 > 0);
            control.nets_v6 = u32::from(nets_v6 > 0);
        })
    }

    pub(super) fn block(&mut self, prefix: Prefix, entry: BanEntry) -> Result<(), NetworkError> {
        let key = Key::from(prefix);
        let Some(hash) = key.hash(self.filter.seeds()) else {
            return self.block_net(prefix.net(), entry);
        };
        // One that is there already always fits.
        if self.room() == 0 && self.maps.get(prefix)?.is_none() {
            return Err(NetworkError::Full { capacity: self.capacity() });
        }
        if matches!(key, Key::Host(_)) {
            self.control.change(|control| control.hosts = 1)?;
        }
        let was_known = self.filter.knows(hash);
        self.filter.add(hash);
        let inserted = match key {
            Key::V4(key) => self.maps.v4.insert(key, entry),
            Key::V6(key) => self.maps.v6.insert(key, entry),
            Key::Host(key) => self.maps.hosts.insert(key, entry),
            Key::Net(_) => unreachable!("blocks have no hash"),
        };
        match inserted {
            // Somebody else has put it there: it counts from now on.
            Ok(Inserted::Known) if !was_known => self.gained(key),
            Ok(Inserted::New) => self.gained(key),
            _ => self.filter.remove(hash),
        }
        match inserted? {
            Inserted::New => Ok(()),
            // It may end sooner now.
            Inserted::Known => self.control.forget(),
        }
    }

    fn gained(&mut self, key: Key) {
        self.exact += 1;
        self.hosts += usize::from(matches!(key, Key::Host(_)));
    }

    /// Makes an entry count that is in its map although nobody has put it there
    /// by way of this; `true` if it was without effect until now.
    pub(super) fn reveal(&mut self, prefix: Prefix) -> Result<bool, NetworkError> {
        let key = Key::from(prefix);
        let Some(hash) = key.hash(self.filter.seeds()) else { return Ok(false) };
        let is_unseen = matches!(key, Key::Host(_)) && self.hosts == 0;
        let (is_known, is_hidden) = (self.filter.knows(hash), !self.filter.has(hash));
        if is_known && !is_hidden && !is_unseen {
            return Ok(false);
        }
        if is_unseen {
            self.control.change(|control| control.hosts = 1)?;
        }
        self.filter.add(hash);
        self.filter.distrust();
        if !is_known {
            self.gained(key);
        }
        Ok(is_hidden || is_unseen)
    }

    /// Whether the prefilter's counts are those of the entries. If not, a whole
    /// reconcile makes them anew.
    pub(super) const fn is_counted(&self) -> bool {
        self.filter.is_exact()
    }

    /// Begins a look through the blocks.
    pub(super) fn net_pages(&self) -> NetPages {
        self.maps.nets.pages()
    }

    /// Looks at some blocks and mends them; `None` after the last.
    pub(super) fn sweep_nets(
        &mut self,
        pages: &mut NetPages,
        wanted: impl Fn(Prefix) -> Option<BanEntry>,
    ) -> Result<Option<Changes>, NetworkError> {
        // An exact prefix is wanted in its own map, if it is.
        let wanted = |net| {
            let prefix = Prefix::new(net).ok()?;
            if Key::from(prefix) == Key::Net(net) { wanted(prefix) } else { None }
        };
        let changes = self.maps.nets.sweep_on(pages, wanted)?;
        if changes.is_none() {
            self.switch()?;
        }
        Ok(changes)
    }

    fn block_net(&mut self, net: IpNet, entry: BanEntry) -> Result<(), NetworkError> {
        self.control.change(|control| match net {
            IpNet::V4(_) => control.nets_v4 = 1,
            IpNet::V6(_) => control.nets_v6 = 1,
        })?;
        self.maps.nets.insert(net, entry)
    }

    pub(super) fn unblock(&mut self, prefix: Prefix) -> Result<(), NetworkError> {
        let key = Key::from(prefix);
        let removed = match key {
            Key::V4(key) => self.maps.v4.remove(key)?,
            Key::V6(key) => self.maps.v6.remove(key)?,
            Key::Host(key) => self.maps.hosts.remove(key)?,
            Key::Net(net) => {
                self.maps.nets.remove(net)?;
                return self.switch();
            }
        };
        let Some(hash) = key.hash(self.filter.seeds()).filter(|_| removed) else {
            return Ok(());
        };
        let forgotten = self.control.forget();
        if !self.filter.knows(hash) {
            // Somebody else had put it there: it was never counted.
            self.filter.distrust();
            return forgotten;
        }
        self.filter.remove(hash);
        self.exact = self.exact.saturating_sub(1);
        if matches!(key, Key::Host(_)) {
            self.hosts = self.hosts.saturating_sub(1);
            return self.switch();
        }
        forgotten
    }

    /// Blocks prefixes that are not blocked yet, a thousand to a call. What one
    /// failure leaves possible is done nevertheless.
    pub(super) fn block_new(&mut self, new: Desired) -> Reconciled {
        let mut failed = HashSet::new();
        let result = self.add_new(new, &mut failed);
        Reconciled { failed, result }
    }

    fn add_new(
        &mut self,
        new: Desired,
        failed: &mut HashSet<Prefix>,
    ) -> Result<Changes, NetworkError> {
        let before = self.exact;
        if !new.hosts.is_empty() {
            self.control.change(|control| control.hosts = 1)?;
        }
        let seeds = self.filter.seeds();
        let mut room = Room { left: self.room(), capacity: self.capacity() };
        let BanMaps { v4, v6, hosts, .. } = &mut self.maps;
        let filter = &mut self.filter;
        let mut result = add(
            v4,
            new.v4,
            filter,
            |key| seeds.hash(Source::V4(key)),
            &mut room,
            |key| {
                failed.insert(of_v4(key));
            },
        );
        result = result.and(add(
            v6,
            new.v6,
            filter,
            |key| seeds.hash(Source::V6(key)),
            &mut room,
            |key| {
                failed.insert(of_v6(key));
            },
        ));
        let left = room.left;
        result = result.and(add(
            hosts,
            new.hosts,
            filter,
            |key| seeds.hash_host(key),
            &mut room,
            |key| {
                failed.insert(of_host(key));
            },
        ));
        self.hosts += left - room.left;
        self.exact = (room.capacity as usize).saturating_sub(room.left);
        for (net, entry) in new.nets {
            if let Err(error) = self.block_net(net, entry) {
                failed.extend(Prefix::new(net).ok());
                result = result.and(Err(error));
            }
        }
        result.map(|()| Changes { added: self.exact - before, ..Changes::default() })
    }

    /// Makes the kernel hold exactly what is wanted. What one failure leaves
    /// possible is done nevertheless.
    pub(super) fn reconcile(&mut self, wanted: Desired) -> Reconciled {
        let mut failed = HashSet::new();
        let result = self.reconcile_all(wanted, &mut failed);
        // Also after a failure, before which some may have gone.
        let switched = self.switch().and_then(|()| self.control.forget());
        let result = result.and_then(|changes| switched.map(|()| changes));
        Reconciled { failed, result }
    }

    fn reconcile_all(
        &mut self,
        mut wanted: Desired,
        failed: &mut HashSet<Prefix>,
    ) -> Result<Changes, NetworkError> {
        let Plans { v4: v4_plan, v6: v6_plan, hosts: hosts_plan } = match self.plan(&mut wanted) {
            Ok(plans) => plans,
            Err(error) => {
                failed.extend(wanted.iter().map(|(prefix, _)| prefix));
                return Err(error);
            }
        };
        let seeds = self.filter.seeds();
        let mut room = Room { left: self.room(), capacity: self.capacity() };
        let BanMaps { v4, v6, hosts, nets } = &mut self.maps;
        let filter = &mut self.filter;
        let (v4_hash, v6_hash) =
            (|key| seeds.hash(Source::V4(key)), |key| seeds.hash(Source::V6(key)));
        let host_hash = |key| seeds.hash_host(key);
        // Blocks come first and go last: a source may be wanted in one that was
        // wanted alone, or the other way round.
        let rest = nets.begin(wanted.nets);
        // Removing first makes room in maps that are nearly full.
        let removed = [
            v4_plan.remove(v4, filter, v4_hash, &mut room),
            v6_plan.remove(v6, filter, v6_hash, &mut room),
            hosts_plan.remove(hosts, filter, host_hash, &mut room),
        ];
        let written = [
            v4_plan.write(v4, wanted.v4, filter, v4_hash, &mut room, |key| {
                failed.insert(of_v4(key));
            }),
            v6_plan.write(v6, wanted.v6, filter, v6_hash, &mut room, |key| {
                failed.insert(of_v6(key));
            }),
            hosts_plan.write(hosts, wanted.hosts, filter, host_hash, &mut room, |key| {
                failed.insert(of_host(key));
            }),
        ];
        let blocks = nets.finish(rest, |net| {
            failed.extend(Prefix::new(net).ok());
        });
        self.exact = (room.capacity as usize).saturating_sub(room.left);
        self.hosts = self.maps.hosts.for_each(|_, _| {})?;
        let mut all = removed.into_iter().chain(written).chain([blocks]);
        all.try_fold(Changes::default(), |sum, changes| Ok(sum + changes?))
    }

    /// Compares the exact maps with what is wanted, and counts their entries
    /// anew: somebody else may have written or removed some. Leaves in `wanted`
    /// what is missing, or after an error what is not known to be there.
    fn plan(&mut self, wanted: &mut Desired) -> Result<Plans, NetworkError> {
        self.control.change(|control| {
            control.hosts |= u32::from(!wanted.hosts.is_empty());
            control.nets_v4 |= u32::from(!wanted.nets.is_empty());
            control.nets_v6 |= u32::from(!wanted.nets.is_empty());
        })?;
        let seeds = self.filter.seeds();
        let (maps, filter) = (&self.maps, &mut self.filter);
        filter.recount();
        let (mut exact, mut hidden) = (0, 0);
        let mut add = |hash: u64| {
            hidden += usize::from(!filter.has(hash));
            filter.add(hash);
            exact += 1;
        };
        let v4 = Plan::of(&maps.v4, &mut wanted.v4, |key| add(seeds.hash(Source::V4(key))))?;
        let v6 = Plan::of(&maps.v6, &mut wanted.v6, |key| add(seeds.hash(Source::V6(key))))?;
        let hosts = Plan::of(&maps.hosts, &mut wanted.hosts, |key| add(seeds.hash_host(key)))?;
        filter.settle();
        (self.exact, self.hidden_at_open) = (exact, hidden);
        Ok(Plans { v4, v6, hosts })
    }

    fn room(&self) -> usize {
        (self.capacity() as usize).saturating_sub(self.exact)
    }
}

impl Key {
    /// The hash of an exact key; blocks have none.
    const fn hash(self, seeds: Seeds) -> Option<u64> {
        match self {
            Self::V4(key) => Some(seeds.hash(Source::V4(key))),
            Self::V6(key) => Some(seeds.hash(Source::V6(key))),
            Self::Host(key) => Some(seeds.hash_host(key)),
            Self::Net(_) => None,
        }
    }
}
