//! Prefixes with their expiries, sorted by where the kernel keeps them: what it
//! should hold, or what it does.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, Ipv6Addr},
};

use foldhash::fast::RandomState;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use moderation_common::BanEntry;

use super::block::Key;
use crate::engine::Prefix;

/// Exact entries of one width. The hash is a quick one: a million entries are
/// put in at a start.
pub(super) type Entries<K> = HashMap<K, BanEntry, RandomState>;

/// A set of prefixes, each with the moment at which it lapses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub(super) v4: Entries<u32>,
    pub(super) v6: Entries<u64>,
    pub(super) hosts: Entries<[u64; 2]>,
    pub(super) nets: BTreeMap<IpNet, BanEntry>,
}

impl Desired {
    /// Adds a prefix. Of two entries the one that lapses later stays.
    pub fn insert(&mut self, prefix: Prefix, entry: BanEntry) {
        let old = match Key::from(prefix) {
            Key::V4(key) => self.v4.entry(key).or_insert(entry),
            Key::V6(key) => self.v6.entry(key).or_insert(entry),
            Key::Host(key) => self.hosts.entry(key).or_insert(entry),
            Key::Net(net) => self.nets.entry(net).or_insert(entry),
        };
        old.expires_at_ns = old.expires_at_ns.max(entry.expires_at_ns);
    }

    /// The entry of exactly this prefix.
    pub fn get(&self, prefix: Prefix) -> Option<BanEntry> {
        match Key::from(prefix) {
            Key::V4(key) => self.v4.get(&key).copied(),
            Key::V6(key) => self.v6.get(&key).copied(),
            Key::Host(key) => self.hosts.get(&key).copied(),
            Key::Net(net) => self.nets.get(&net).copied(),
        }
    }

    /// Makes room for so many more IPv4 addresses, of which there are mostly
    /// most.
    pub fn reserve(&mut self, more: usize) {
        self.v4.reserve(more);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len() + self.hosts.len() + self.nets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every one, in no order.
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
        let mut desired = Self::default();
        entries.into_iter().for_each(|(prefix, entry)| desired.insert(prefix, entry));
        desired
    }
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
