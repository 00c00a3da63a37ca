//! A map from prefixes that takes little more memory than its keys and values,
//! whatever the mixture of shapes.

use std::{collections::HashMap, hash::Hash, net::IpAddr};

use foldhash::fast::RandomState;
use ipnet::IpNet;

use crate::engine::{Lengths, Prefix};

/// One table for each shape that the kernel looks up exactly, and one for all
/// others: a look-up by address costs one probe per exact shape, and one per
/// length that occurs among the others.
#[derive(Clone, Debug)]
pub struct PrefixMap<V> {
    v4: Table<u32, V>,
    v6_64: Table<u64, V>,
    v6: Table<u128, V>,
    networks: Table<Prefix, V>,
    lengths: Lengths,
}

type Table<K, V> = HashMap<K, V, RandomState>;

/// A prefix as the key of its table.
enum Key {
    V4(u32),
    V6Block(u64),
    V6(u128),
    Network(Prefix),
}

impl Key {
    fn of(prefix: Prefix) -> Self {
        match prefix.net() {
            IpNet::V4(net) if net.prefix_len() == 32 => Self::V4(net.addr().to_bits()),
            IpNet::V6(net) if net.prefix_len() == 64 => Self::V6Block(upper(net.addr().to_bits())),
            IpNet::V6(net) if net.prefix_len() == 128 => Self::V6(net.addr().to_bits()),
            _ => Self::Network(prefix),
        }
    }
}

/// The /64 of an address.
const fn upper(bits: u128) -> u64 {
    (bits >> 64) as u64
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self {
            v4: Table::default(),
            v6_64: Table::default(),
            v6: Table::default(),
            networks: Table::default(),
            lengths: Lengths::default(),
        }
    }
}

impl<V> PrefixMap<V> {
    /// An empty one with room for as many of each shape as `other` has.
    pub fn with_room_for<W>(other: &PrefixMap<W>) -> Self {
        fn table<K, V, W>(other: &Table<K, W>) -> Table<K, V> {
            Table::with_capacity_and_hasher(other.len(), RandomState::default())
        }
        Self {
            v4: table(&other.v4),
            v6_64: table(&other.v6_64),
            v6: table(&other.v6),
            ..Self::default()
        }
    }

    /// Puts a value under exactly this prefix; returns the one before.
    pub fn insert(&mut self, prefix: Prefix, value: V) -> Option<V> {
        match Key::of(prefix) {
            Key::V4(key) => self.v4.insert(key, value),
            Key::V6Block(key) => self.v6_64.insert(key, value),
            Key::V6(key) => self.v6.insert(key, value),
            Key::Network(key) => {
                let old = self.networks.insert(key, value);
                if old.is_none() {
                    self.lengths.add(key);
                }
                old
            }
        }
    }

    /// Takes exactly this prefix out.
    pub fn remove(&mut self, prefix: Prefix) -> Option<V> {
        match Key::of(prefix) {
            Key::V4(key) => take(&mut self.v4, &key),
            Key::V6Block(key) => take(&mut self.v6_64, &key),
            Key::V6(key) => take(&mut self.v6, &key),
            Key::Network(key) => {
                let old = take(&mut self.networks, &key)?;
                self.lengths.remove(key);
                Some(old)
            }
        }
    }

    /// The value of exactly this prefix.
    pub fn get(&self, prefix: Prefix) -> Option<&V> {
        match Key::of(prefix) {
            Key::V4(key) => self.v4.get(&key),
            Key::V6Block(key) => self.v6_64.get(&key),
            Key::V6(key) => self.v6.get(&key),
            Key::Network(key) => self.networks.get(&key),
        }
    }

    /// Whether exactly this prefix is in it.
    pub fn contains(&self, prefix: Prefix) -> bool {
        self.get(prefix).is_some()
    }

    /// All that the address lies in.
    pub fn around(&self, ip: IpAddr) -> impl Iterator<Item = (Prefix, &V)> {
        let exact = match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let key = ip.to_bits();
                [self.v4.get(&key).map(|value| (Prefix::from_v4(key), value)), None]
            }
            IpAddr::V6(ip) => {
                let (key, block) = (ip.to_bits(), upper(ip.to_bits()));
                [
                    self.v6.get(&key).map(|value| (Prefix::from_v6(key), value)),
                    self.v6_64.get(&block).map(|value| (Prefix::from_v6_64(block), value)),
                ]
            }
        };
        let networks = self.lengths.around(ip);
        let networks = networks.filter_map(|net| Some((net, self.networks.get(&net)?)));
        exact.into_iter().flatten().chain(networks)
    }

    /// Everything in it, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &V)> {
        let v4 = self.v4.iter().map(|(key, value)| (Prefix::from_v4(*key), value));
        let v6_64 = self.v6_64.iter().map(|(key, value)| (Prefix::from_v6_64(*key), value));
        let v6 = self.v6.iter().map(|(key, value)| (Prefix::from_v6(*key), value));
        let networks = self.networks.iter().map(|(key, value)| (*key, value));
        v4.chain(v6_64).chain(v6).chain(networks)
    }

    /// How many exact prefixes and how many networks it has.
    pub fn counts(&self) -> (usize, usize) {
        (self.v4.len() + self.v6_64.len() + self.v6.len(), self.networks.len())
    }

    /// How many it has.
    pub fn len(&self) -> usize {
        let (exact, networks) = self.counts();
        exact + networks
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<V> FromIterator<(Prefix, V)> for PrefixMap<V> {
    fn from_iter<I: IntoIterator<Item = (Prefix, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (prefix, value) in entries {
            map.insert(prefix, value);
        }
        map
    }
}

/// Below so many entries a table is not worth making smaller.
const SMALL: usize = 1_024;

fn take<K: Eq + Hash, V>(table: &mut Table<K, V>, key: &K) -> Option<V> {
    let old = table.remove(key);
    // What a list made grow need not stay grown when the list has gone.
    if table.capacity() > 8 * table.len().max(SMALL) {
        table.shrink_to(2 * table.len());
    }
    old
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        // Few bits, so that prefixes meet and cover each other.
        let v4 = (0_u32..64, 26_u8..=32).prop_map(|(low, bits)| {
            IpNet::new_assert(IpAddr::from((0xc000_0200 | low).to_be_bytes()), bits)
        });
        let v6 = (0_u128..8, 0_u128..4, 60_u8..=128).prop_map(|(block, host, bits)| {
            let ip = (0x2001_0db8 << 96) | (block << 64) | host;
            IpNet::new_assert(IpAddr::from(ip.to_be_bytes()), bits)
        });
        prop_oneof![v4, v6].prop_map(|net| Prefix::new(net).expect("not too wide"))
    }

    proptest! {
        #[test]
        fn it_is_a_map(
            steps in prop::collection::vec((any_prefix(), any::<bool>(), any::<u8>()), 0..80),
            asked in any_prefix(),
        ) {
            let (mut map, mut model) = (PrefixMap::default(), BTreeMap::new());
            for (prefix, puts, value) in steps {
                if puts {
                    prop_assert_eq!(map.insert(prefix, value), model.insert(prefix, value));
                } else {
                    prop_assert_eq!(map.remove(prefix), model.remove(&prefix));
                }
            }
            let all: BTreeMap<_, _> = map.iter().map(|(prefix, value)| (prefix, *value)).collect();
            prop_assert_eq!(&all, &model);
            prop_assert_eq!(map.get(asked), model.get(&asked));
            let exact = model.keys().filter(|prefix| prefix.is_exact()).count();
            prop_assert_eq!(map.counts(), (exact, model.len() - exact));
            let ip = asked.net().addr();
            let around: BTreeMap<_, _> = map.around(ip).map(|(prefix, it)| (prefix, *it)).collect();
            let want: BTreeMap<_, _> =
                model.into_iter().filter(|(prefix, _)| prefix.contains(ip)).collect();
            prop_assert_eq!(around, want);
        }
    }

    #[test]
    fn a_map_that_grew_becomes_small_again() {
        let mut map: PrefixMap<()> = (0..50_000).map(|key| (Prefix::from_v4(key), ())).collect();
        assert!(map.v4.capacity() >= 50_000);
        (0..50_000).for_each(|key| {
            map.remove(Prefix::from_v4(key));
        });
        assert!(map.v4.capacity() <= 8 * SMALL, "{}", map.v4.capacity());
    }
}
