//! The entries of one list put in order: each once, none that another makes
//! idle, and as few networks as will do, for a network costs every packet more
//! than a million addresses do.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;
use ipnet::IpNet;

use super::{BadLine, Expiry};
use crate::engine::Prefix;

/// What a list came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Every prefix once with its expiry, in milliseconds since 1970; `None` for
    /// never. Networks come last, each family in its order.
    pub entries: Vec<(Prefix, Option<u64>)>,
    /// The first of the lines that made no sense.
    pub bad: Vec<BadLine>,
    /// What became of the lines.
    pub tally: Tally,
}

/// What became of the lines of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Lines, comments included.
    pub lines: usize,
    /// Lines that made no sense.
    pub bad: usize,
    /// Entries that had lapsed already.
    pub expired: usize,
    /// Entries that were there before, or were covered by a wider one that
    /// lasts as long.
    pub redundant: usize,
    /// Networks that became part of a wider one.
    pub merged: usize,
}

/// A network of at most so many addresses, or /64s, is written out as exact
/// entries.
const WRITTEN_OUT_BITS: u8 = 4;

/// Takes entries as they come.
#[derive(Debug, Default)]
pub(super) struct Collector {
    v4: Vec<(u32, Expiry)>,
    v6_64: Vec<(u64, Expiry)>,
    v6: Vec<(u128, Expiry)>,
    v4_networks: Networks<32, 8>,
    v6_networks: Networks<128, 16>,
    tally: Tally,
}

impl Collector {
    pub(super) fn len(&self) -> usize {
        let networks = self.v4_networks.len + self.v6_networks.len;
        self.v4.len() + self.v6_64.len() + self.v6.len() + networks
    }

    pub(super) fn add(&mut self, prefix: Prefix, expiry: Expiry, now_unix_ms: u64) {
        if !expiry.is_after(now_unix_ms) {
            self.tally.expired += 1;
            return;
        }
        let is_known = match prefix.net() {
            IpNet::V4(net) => {
                let (start, left) = (net.addr().to_bits(), 32 - net.prefix_len());
                if left <= WRITTEN_OUT_BITS {
                    self.v4.extend((0..1 << left).map(|host| (start | host, expiry)));
                    return;
                }
                self.v4_networks.add(u128::from(start), net.prefix_len(), expiry)
            }
            IpNet::V6(net) => {
                let (start, bits) = (net.addr().to_bits(), net.prefix_len());
                if bits <= 64 && 64 - bits <= WRITTEN_OUT_BITS {
                    self.v6_64.extend((0..1 << (64 - bits)).map(|at| (half(start) | at, expiry)));
                    return;
                }
                if 128 - bits <= WRITTEN_OUT_BITS {
                    self.v6.extend((0..1 << (128 - bits)).map(|host| (start | host, expiry)));
                    return;
                }
                self.v6_networks.add(start, bits, expiry)
            }
        };
        self.tally.redundant += usize::from(is_known);
    }

    pub(super) fn into_list(mut self) -> List {
        let before = self.len();
        self.tally.merged = self.v4_networks.settle() + self.v6_networks.settle();
        let v4_networks = self.v4_networks.in_order();
        thin(&mut self.v4, &v4_networks, |key| u128::from(*key));
        let mut v6_networks = self.v6_networks.in_order();
        let around_64s: Vec<_> = v6_networks.iter().filter(|it| it.bits < 64).copied().collect();
        thin(&mut self.v6_64, &around_64s, |key| u128::from(*key) << 64);
        let outlasts_its_64 = |start: u128, expiry: Expiry| {
            let block = self.v6_64.binary_search_by_key(&half(start), |(block, _)| *block);
            block.map_or(true, |at| self.v6_64[at].1 < expiry)
        };
        v6_networks.retain(|it| it.bits < 64 || outlasts_its_64(it.start, it.expiry));
        self.v6.retain(|(key, expiry)| outlasts_its_64(*key, *expiry));
        thin(&mut self.v6, &v6_networks, |key| *key);
        let exact = self.v4.len() + self.v6_64.len() + self.v6.len();
        let left = exact + v4_networks.len() + v6_networks.len();
        self.tally.redundant += before - self.tally.merged - left;
        let mut entries = Vec::with_capacity(left);
        let out = |(prefix, expiry): (Prefix, Expiry)| (prefix, expiry.unix_ms());
        entries.extend(self.v4.iter().map(|(key, it)| out((Prefix::from_v4(*key), *it))));
        entries.extend(self.v6_64.iter().map(|(key, it)| out((Prefix::from_v6_64(*key), *it))));
        entries.extend(self.v6.iter().map(|(key, it)| out((Prefix::from_v6(*key), *it))));
        entries.extend(v4_networks.into_iter().filter_map(|it| it.prefix(32)).map(out));
        entries.extend(v6_networks.into_iter().filter_map(|it| it.prefix(128)).map(out));
        List { entries, bad: Vec::new(), tally: self.tally }
    }
}

/// The /64 of an address.
const fn half(bits: u128) -> u64 {
    (bits >> 64) as u64
}

/// Leaves each key once, with its last expiry, and none that a network covers
/// for as long.
fn thin<K: Ord + Copy>(
    keys: &mut Vec<(K, Expiry)>,
    networks: &[Network],
    start: impl Fn(&K) -> u128,
) {
    keys.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    keys.dedup_by_key(|(key, _)| *key);
    let mut cover = Cover { networks, next: 0, open: Vec::new() };
    keys.retain(|(key, expiry)| cover.until(start(key)).is_none_or(|until| until < *expiry));
}

/// One network while its list is put in order.
#[derive(Clone, Copy, Debug)]
struct Network {
    start: u128,
    last: u128,
    bits: u8,
    expiry: Expiry,
}

impl Network {
    /// As a prefix of the family whose addresses have so many bits.
    fn prefix(self, width: u8) -> Option<(Prefix, Expiry)> {
        let address = match width {
            32 => u32::try_from(self.start).ok()?.to_be_bytes().into(),
            _ => std::net::IpAddr::from(self.start.to_be_bytes()),
        };
        let net = IpNet::new(address, self.bits).ok()?;
        Some((Prefix::new(net).ok()?, self.expiry))
    }
}

/// A walk along the addresses that knows which networks are around.
struct Cover<'a> {
    networks: &'a [Network],
    next: usize,
    /// Those around the last address, the widest first, each with the last
    /// expiry of itself and those around it.
    open: Vec<(u128, Expiry)>,
}

impl Cover<'_> {
    /// Until when an address is covered; they must come in their order.
    fn until(&mut self, at: u128) -> Option<Expiry> {
        while let Some(network) = self.networks.get(self.next)
            && network.start <= at
        {
            self.next += 1;
            self.close(network.start);
            let around = self.open.last().map_or(network.expiry, |(_, expiry)| *expiry);
            self.open.push((network.last, network.expiry.max(around)));
        }
        self.close(at);
        self.open.last().map(|(_, expiry)| *expiry)
    }

    /// Until when the networks around one cover it; they must come in order.
    fn around(&mut self, network: &Network) -> Option<Expiry> {
        self.close(network.start);
        let around = self.open.last().map(|(_, expiry)| *expiry);
        let until = around.map_or(network.expiry, |around| around.max(network.expiry));
        self.open.push((network.last, until));
        around
    }

    fn close(&mut self, at: u128) {
        while self.open.last().is_some_and(|(last, _)| *last < at) {
            self.open.pop();
        }
    }
}

/// The networks of one family, by length, none wider than `WIDEST`.
#[derive(Debug, Default)]
struct Networks<const WIDTH: u8, const WIDEST: u8> {
    by_bits: BTreeMap<u8, HashMap<u128, Expiry, RandomState>>,
    len: usize,
}

impl<const WIDTH: u8, const WIDEST: u8> Networks<WIDTH, WIDEST> {
    /// Says whether it was there before; the later expiry counts.
    fn add(&mut self, start: u128, bits: u8, expiry: Expiry) -> bool {
        let table = self.by_bits.entry(bits).or_default();
        let known = table.get(&start).copied();
        table.insert(start, known.map_or(expiry, |known| known.max(expiry)));
        self.len += usize::from(known.is_none());
        known.is_some()
    }

    /// Makes them as few as they can be; returns how many were merged.
    fn settle(&mut self) -> usize {
        self.drop_covered();
        let merged = self.merge();
        self.drop_covered();
        merged
    }

    /// Two halves that lapse together are one.
    fn merge(&mut self) -> usize {
        let before = self.len;
        for bits in (WIDEST + 1..=WIDTH).rev() {
            let half = 1_u128 << (WIDTH - bits);
            let Some(table) = self.by_bits.get_mut(&bits) else { continue };
            let is_pair = |start: u128, expiry| {
                start & half == 0 && table.get(&(start | half)) == Some(expiry)
            };
            let pairs: Vec<_> = table
                .iter()
                .filter(|(start, expiry)| is_pair(**start, *expiry))
                .map(|(start, expiry)| (*start, *expiry))
                .collect();
            for (start, _) in &pairs {
                table.remove(start);
                table.remove(&(start | half));
            }
            self.len -= 2 * pairs.len();
            for (start, expiry) in pairs {
                self.add(start, bits - 1, expiry);
            }
        }
        before - self.len
    }

    fn drop_covered(&mut self) {
        let in_order = self.in_order();
        let mut cover = Cover { networks: &in_order, next: 0, open: Vec::new() };
        for network in &in_order {
            // Those around it, without itself.
            let around = cover.around(network);
            if around.is_some_and(|until| network.expiry <= until)
                && let Some(table) = self.by_bits.get_mut(&network.bits)
            {
                table.remove(&network.start);
                self.len -= 1;
            }
        }
    }

    /// By their first address, the wider first.
    fn in_order(&self) -> Vec<Network> {
        let networks = self.by_bits.iter().flat_map(|(bits, table)| {
            table.iter().map(move |(start, expiry)| {
                let size = 1_u128 << (WIDTH - bits);
                Network { start: *start, last: start | (size - 1), bits: *bits, expiry: *expiry }
            })
        });
        let mut networks: Vec<_> = networks.collect();
        networks.sort_unstable_by_key(|network| (network.start, network.bits));
        networks
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_000;

    fn list(entries: &[(&str, Option<u64>)]) -> List {
        let mut collector = Collector::default();
        for (prefix, expires) in entries {
            let prefix = prefix.parse().expect("a prefix");
            collector.add(prefix, Expiry::at(*expires), NOW);
        }
        collector.into_list()
    }

    fn told(list: &List) -> Vec<String> {
        list.entries.iter().map(|(prefix, _)| prefix.to_string()).collect()
    }

    #[test]
    fn each_prefix_is_there_once_with_its_last_expiry() {
        let list = list(&[
            ("192.0.2.7", Some(9_000)),
            ("192.0.2.7", None),
            ("192.0.2.7", Some(5_000)),
            ("198.51.100.0/24", Some(5_000)),
            ("198.51.100.0/24", Some(7_000)),
            ("192.0.2.8", Some(1_000)),
        ]);
        let want = [("192.0.2.7", None), ("198.51.100.0/24", Some(7_000))];
        let want = want.map(|(prefix, expiry)| (prefix.parse().expect("a prefix"), expiry));
        assert_eq!(list.entries, want);
        assert_eq!((list.tally.redundant, list.tally.expired), (3, 1));
    }

    #[test]
    fn what_a_network_covers_as_long_is_dropped() {
        let list = list(&[
            ("192.0.2.0/24", Some(5_000)),
            ("192.0.0.0/16", Some(3_000)),
            ("192.0.2.7", Some(5_000)),
            ("192.0.2.8", Some(5_001)),
            ("192.0.3.1", Some(3_000)),
            ("192.0.3.2", None),
            ("192.0.4.0/24", Some(2_000)),
            ("192.1.0.0", Some(2_000)),
            ("2001:db8::/64", Some(5_000)),
            ("2001:db8::5", Some(4_000)),
            ("2001:db8::6", Some(9_000)),
        ]);
        let want = [
            "192.0.2.8",
            "192.0.3.2",
            "192.1.0.0",
            "2001:db8::/64",
            "2001:db8::6/128",
            "192.0.0.0/16",
            "192.0.2.0/24",
        ];
        assert_eq!(told(&list), want);
        assert_eq!(list.tally.redundant, 4);
    }

    #[test]
    fn networks_become_one_but_addresses_never_become_a_network() {
        let text = |range: std::ops::Range<u32>| {
            range.map(|i| format!("10.{i}.0.0/16")).collect::<Vec<_>>()
        };
        let nets = text(0..256);
        let entries: Vec<_> = nets.iter().map(|net| (net.as_str(), None)).collect();
        let whole = list(&entries);
        assert_eq!(told(&whole), ["10.0.0.0/8"]);
        assert_eq!(whole.tally.merged, 255);
        let two = list(&[("10.0.0.0/9", Some(5_000)), ("10.128.0.0/9", Some(6_000))]);
        assert_eq!(two.entries.len(), 2, "they do not lapse together");
        let widest = list(&[("10.0.0.0/8", None), ("11.0.0.0/8", None)]);
        assert_eq!(widest.entries.len(), 2, "wider than a /8 is no ban");
        let addresses: Vec<_> = (0..256).map(|i| format!("192.0.2.{i}")).collect();
        let entries: Vec<_> = addresses.iter().map(|it| (it.as_str(), None)).collect();
        assert_eq!(list(&entries).entries.len(), 256);
    }

    #[test]
    fn small_networks_are_written_out() {
        for (prefix, count) in [
            ("192.0.2.0/28", 16),
            ("192.0.2.2/31", 2),
            ("2001:db8::/60", 16),
            ("2001:db8::/63", 2),
            ("2001:db8::/124", 16),
        ] {
            let list = list(&[(prefix, None)]);
            assert_eq!(list.entries.len(), count, "{prefix}");
            assert!(list.entries.iter().all(|(prefix, _)| prefix.is_exact()), "{prefix}");
        }
        for prefix in ["192.0.2.0/27", "2001:db8::/59", "2001:db8::/123", "2001:db8::/96"] {
            assert_eq!(told(&list(&[(prefix, None)])), [prefix]);
        }
    }

    /// Until when an address is listed, by asking each entry.
    fn until(entries: &[(Prefix, Option<u64>)], ip: IpAddr) -> Option<u64> {
        let around = entries.iter().filter(|(prefix, _)| prefix.contains(ip));
        around.map(|(_, expiry)| expiry.unwrap_or(u64::MAX)).max()
    }

    fn any_entry() -> impl Strategy<Value = (Prefix, Option<u64>)> {
        let expiry = prop::sample::select(vec![Some(2_000), Some(3_000), Some(4_000), None]);
        let v4 = (0_u32..1_024, 20_u8..=32).prop_map(|(low, bits)| {
            IpNet::new_assert(IpAddr::from((0xc000_0000 | low).to_be_bytes()), bits)
        });
        let v6 = (0_u128..64, 0_u128..4, 56_u8..=128).prop_map(|(block, host, bits)| {
            let ip = (0x2001_0db8 << 96) | (block << 64) | host;
            IpNet::new_assert(IpAddr::from(ip.to_be_bytes()), bits)
        });
        let prefix = prop_oneof![3 => v4, 2 => v6];
        (prefix.prop_map(|net| Prefix::new(net).expect("not too wide")), expiry)
    }

    proptest! {
        /// Whatever is done to a list, every address is on it exactly as long.
        #[test]
        fn putting_a_list_in_order_changes_nothing_for_any_address(
            entries in prop::collection::vec(any_entry(), 0..60),
            asked in prop::collection::vec((0_u32..1_200, 0_u128..70, 0_u128..6), 20),
        ) {
            let mut collector = Collector::default();
            entries.iter().for_each(|(prefix, at)| collector.add(*prefix, Expiry::at(*at), NOW));
            let list = collector.into_list();
            let edges = entries.iter().flat_map(|(prefix, _)| {
                [prefix.net().addr(), prefix.net().broadcast()]
            });
            let random = asked.into_iter().flat_map(|(low, block, host)| {
                let v6 = (0x2001_0db8_u128 << 96) | (block << 64) | host;
                [IpAddr::from((0xc000_0000 | low).to_be_bytes()), IpAddr::from(v6.to_be_bytes())]
            });
            for ip in edges.chain(random) {
                prop_assert_eq!(until(&list.entries, ip), until(&entries, ip), "{}", ip);
            }
            let mut prefixes: Vec<_> = list.entries.iter().map(|(prefix, _)| *prefix).collect();
            prefixes.sort_unstable();
            prefixes.dedup();
            prop_assert_eq!(prefixes.len(), list.entries.len(), "each once");
        }
    }
}
