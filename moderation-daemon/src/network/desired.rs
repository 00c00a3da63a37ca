//! Prefixes with their expiries, sorted by where the kernel keeps them: what it
//! should hold, or what it does.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use moderation_common::BanEntry;

use super::block::Key;
use crate::engine::Prefix;

/// Exact entries of one width, each key once, in the order of the keys. Sorted
/// and not hashed: a million are sorted in half the time that a table of them takes
/// to fill, and two such lists are compared in one walk.
pub(super) type Entries<K> = Vec<(K, BanEntry)>;

/// A set of prefixes, each with the moment at which it lapses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub(super) v4: Entries<u32>,
    pub(super) v6: Entries<u64>,
    pub(super) hosts: Entries<[u64; 2]>,
    pub(super) nets: BTreeMap<IpNet, BanEntry>,
}

impl Desired {
    /// Whatever `tell` tells, in any order. Of two entries of one prefix the one
    /// that lapses later stays.
    pub fn told_by(tell: impl FnOnce(&mut dyn FnMut(Prefix, BanEntry))) -> Self {
        let mut desired = Self::default();
        tell(&mut |prefix, entry| desired.push(prefix, entry));
        let Self { v4, v6, hosts, nets } = desired;
        Self { v4: sorted(v4), v6: sorted(v6), hosts: sorted(hosts), nets }
    }

    fn push(&mut self, prefix: Prefix, entry: BanEntry) {
        match Key::from(prefix) {
            Key::V4(key) => self.v4.push((key, entry)),
            Key::V6(key) => self.v6.push((key, entry)),
            Key::Host(key) => self.hosts.push((key, entry)),
            Key::Net(net) => keep_later(self.nets.entry(net).or_insert(entry), entry),
        }
    }

    /// The entry of exactly this prefix.
    pub fn get(&self, prefix: Prefix) -> Option<BanEntry> {
        match Key::from(prefix) {
            Key::V4(key) => find(&self.v4, key),
            Key::V6(key) => find(&self.v6, key),
            Key::Host(key) => find(&self.hosts, key),
            Key::Net(net) => self.nets.get(&net).copied(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len() + self.hosts.len() + self.nets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every one, in the order of the kernel's keys.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, BanEntry)> {
        let v4 = self.v4.iter().map(|(key, entry)| (of_v4(*key), *entry));
        let v6 = self.v6.iter().map(|(key, entry)| (of_v6(*key), *entry));
        let hosts = self.hosts.iter().map(|(key, entry)| (of_host(*key), *entry));
        let nets = self.nets.iter();
        // What the kernel holds may be wider than a ban of ours can be.
        let nets = nets.filter_map(|(net, entry)| Some((Prefix::new(*net).ok()?, *entry)));
        v4.chain(v6).chain(hosts).chain(nets)
    }
}

impl FromIterator<(Prefix, BanEntry)> for Desired {
    fn from_iter<I: IntoIterator<Item = (Prefix, BanEntry)>>(entries: I) -> Self {
        Self::told_by(|take| entries.into_iter().for_each(|(prefix, entry)| take(prefix, entry)))
    }
}

/// Puts entries in order, with the later expiry of those that have one key.
pub(super) fn sorted<K: Ord + Copy>(mut entries: Vec<(K, BanEntry)>) -> Entries<K> {
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries.dedup_by(|(key, entry), (kept, known)| {
        let is_same = key == kept;
        if is_same {
            keep_later(known, *entry);
        }
        is_same
    });
    entries
}

fn keep_later(known: &mut BanEntry, entry: BanEntry) {
    known.expires_at_ns = known.expires_at_ns.max(entry.expires_at_ns);
}

fn find<K: Ord + Copy>(entries: &Entries<K>, key: K) -> Option<BanEntry> {
    let at = entries.binary_search_by_key(&key, |(key, _)| *key).ok()?;
    Some(entries[at].1)
}

pub(super) fn of_v4(key: u32) -> Prefix {
    let net = Ipv4Net::from(Ipv4Addr::from(key.to_ne_bytes()));
    Prefix::new(IpNet::V4(net)).expect("a single address can be banned")
}

pub(super) fn of_v6(key: u64) -> Prefix {
    let [a, b, c, d, e, f, g, h] = key.to_ne_bytes();
    let first = Ipv6Addr::from([a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0]);
    let net = Ipv6Net::new_assert(first, 64);
    Prefix::new(IpNet::V6(net)).expect("a /64 can be banned")
}

pub(super) fn of_host([upper, lower]: [u64; 2]) -> Prefix {
    let octets = u128::from(u64::from_be(upper)) << 64 | u128::from(u64::from_be(lower));
    let net = Ipv6Net::from(Ipv6Addr::from_bits(octets));
    Prefix::new(IpNet::V6(net)).expect("a single address can be banned")
}
