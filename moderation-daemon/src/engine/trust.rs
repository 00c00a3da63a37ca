//! Who is never blocked, and why: a set of prefixes that answers quickly
//! whether an address lies in one of them. Where the prefixes come from is not
//! known here.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use foldhash::fast::FixedState;
use ipnet::IpNet;

use super::Prefix;

/// Why a prefix is trusted; the strongest reason comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trust {
    /// A proxy or CDN: bans on it hold, but the kernel drops nothing of it, for
    /// behind it are innocents.
    Proxy,
    /// An operator never wants it banned.
    Allowlist,
    /// Without it the host is lost to its owner: loopback, gateway, resolvers,
    /// databases, the sessions of operators.
    Guard,
}

/// A trusted prefix that has a say about another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// The prefix.
    pub prefix: IpNet,
    /// Why it is trusted.
    pub trust: Trust,
}

/// Prefixes, grouped by their length: a look-up costs one probe per length
/// that occurs, not one per prefix.
#[derive(Clone, Debug, Default)]
pub struct PrefixSet {
    /// Asked about every entry of a list: the standard hasher would take most of
    /// the time. Only operators put anything in.
    prefixes: HashMap<IpNet, Trust, FixedState>,
    v4_lengths: BTreeSet<u8>,
    v6_lengths: BTreeSet<u8>,
    touched: Touched,
    /// In order, to find those within a block.
    guards: BTreeSet<IpNet>,
}

/// Which /16s hold something trusted: of a list of a million, hardly any entry
/// lies in one, and all the others are done with after one look.
#[derive(Clone, Debug, Default)]
struct Touched {
    v4: Bits,
    v6: Bits,
}

/// A bit for each value of the first 16 of an address; empty for none.
type Bits = Vec<u64>;

const COARSE_BITS: u8 = 16;

impl Touched {
    fn note(&mut self, prefix: IpNet) {
        let bits = match prefix {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        };
        bits.resize((1 << COARSE_BITS) / 64, 0);
        for at in coarse(prefix.network())..=coarse(prefix.broadcast()) {
            bits[at / 64] |= 1 << (at % 64);
        }
    }

    fn may_concern(&self, prefix: IpNet) -> bool {
        let bits = match prefix {
            IpNet::V4(_) => &self.v4,
            IpNet::V6(_) => &self.v6,
        };
        let at = coarse(prefix.addr());
        let is_touched = |word: &u64| word >> (at % 64) & 1 == 1;
        prefix.prefix_len() < COARSE_BITS || bits.get(at / 64).is_some_and(is_touched)
    }
}

/// The first 16 bits of an address.
fn coarse(ip: IpAddr) -> usize {
    let [high, low] = match ip {
        IpAddr::V4(ip) => [ip.octets()[0], ip.octets()[1]],
        IpAddr::V6(ip) => [ip.octets()[0], ip.octets()[1]],
    };
    usize::from(u16::from_be_bytes([high, low]))
}

impl PrefixSet {
    /// Trusts a prefix; of several reasons the strongest counts.
    pub fn insert(&mut self, prefix: IpNet, trust: Trust) {
        let prefix = prefix.trunc();
        let lengths = match prefix {
            IpNet::V4(_) => &mut self.v4_lengths,
            IpNet::V6(_) => &mut self.v6_lengths,
        };
        lengths.insert(prefix.prefix_len());
        self.touched.note(prefix);
        let known = self.prefixes.entry(prefix).or_insert(trust);
        *known = trust.max(*known);
        if trust == Trust::Guard {
            self.guards.insert(prefix);
        }
    }

    /// The most trusted prefix in the set that covers `prefix` whole; of
    /// several the widest.
    pub fn covering(&self, prefix: IpNet) -> Option<Trusted> {
        if !self.touched.may_concern(prefix) {
            return None;
        }
        let lengths = match prefix {
            IpNet::V4(_) => &self.v4_lengths,
            IpNet::V6(_) => &self.v6_lengths,
        };
        let mut most: Option<Trusted> = None;
        for length in lengths.range(..=prefix.prefix_len()) {
            let Ok(candidate) = IpNet::new(prefix.addr(), *length) else { continue };
            let prefix = candidate.trunc();
            let Some(trust) = self.prefixes.get(&prefix).copied() else { continue };
            if most.is_none_or(|most| trust > most.trust) {
                most = Some(Trusted { prefix, trust });
            }
        }
        most
    }

    /// What forbids a ban on `prefix`: an allowed or guarded prefix that covers
    /// it, or a guarded one within it. Allowed ones within it forbid nothing:
    /// they pass by themselves, here and in the kernel.
    pub fn forbidding(&self, prefix: Prefix) -> Option<Trusted> {
        let covering = self.covering(prefix.net()).filter(|trusted| trusted.trust > Trust::Proxy);
        covering.or_else(|| self.guard_within(prefix.net()))
    }

    /// A guarded prefix within a block; the block itself is asked about
    /// elsewhere.
    fn guard_within(&self, block: IpNet) -> Option<Trusted> {
        if !self.touched.may_concern(block) {
            return None;
        }
        // In the order of `IpNet` whatever begins within the block stands
        // between its first and its last address, at any length.
        let last = match block {
            IpNet::V4(net) => IpNet::new(net.broadcast().into(), 32),
            IpNet::V6(net) => IpNet::new(net.broadcast().into(), 128),
        };
        let mut within = self.guards.range(block..=last.ok()?);
        within.next().map(|prefix| Trusted { prefix: *prefix, trust: Trust::Guard })
    }

    /// The proxy or CDN that `prefix` belongs to: bans on it hold, but nothing
    /// of it is dropped.
    pub fn proxy(&self, prefix: Prefix) -> Option<IpNet> {
        let covering = self.covering(prefix.net())?;
        (covering.trust == Trust::Proxy).then_some(covering.prefix)
    }

    /// Whether the kernel may drop a prefix, whoever wrote the ban down.
    pub fn lets_drop(&self, prefix: Prefix) -> bool {
        self.covering(prefix.net()).is_none() && self.guard_within(prefix.net()).is_none()
    }

    /// Every guard, in order.
    pub fn guards(&self) -> impl Iterator<Item = &IpNet> {
        self.guards.iter()
    }

    /// Whether exactly this address is never banned, however narrow the prefix
    /// that says so.
    pub fn protects(&self, ip: IpAddr) -> bool {
        self.of(ip).is_some_and(|trusted| trusted.trust > Trust::Proxy)
    }

    /// What is known about exactly this address.
    pub fn of(&self, ip: IpAddr) -> Option<Trusted> {
        self.covering(IpNet::from(ip.to_canonical()))
    }
}

impl FromIterator<(IpNet, Trust)> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = (IpNet, Trust)>>(prefixes: I) -> Self {
        let mut set = Self::default();
        prefixes.into_iter().for_each(|(prefix, trust)| set.insert(prefix, trust));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a valid prefix")
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a valid prefix")
    }

    fn set(prefixes: &[(&str, Trust)]) -> PrefixSet {
        prefixes.iter().map(|(text, trust)| (net(text), *trust)).collect()
    }

    #[test]
    fn what_is_covered_cannot_be_banned_nor_what_holds_a_guard() {
        let set = set(&[
            ("192.0.2.0/24", Trust::Allowlist),
            ("203.0.113.7/32", Trust::Guard),
            ("203.0.113.64/28", Trust::Guard),
            ("198.51.100.0/24", Trust::Proxy),
            ("2001:db8:7::/48", Trust::Allowlist),
            ("2001:db8:8::5/128", Trust::Guard),
            ("2001:db8:9::5/128", Trust::Allowlist),
        ]);
        let cases = [
            ("192.0.2.0", Some("192.0.2.0/24")),
            ("192.0.2.128/25", Some("192.0.2.0/24")),
            ("192.0.2.0/24", Some("192.0.2.0/24")),
            // It holds a prefix that is only allowed.
            ("192.0.0.0/16", None),
            ("192.0.3.0", None),
            ("203.0.113.7", Some("203.0.113.7/32")),
            ("203.0.113.6/31", Some("203.0.113.7/32")),
            ("203.0.113.0/24", Some("203.0.113.7/32")),
            ("203.0.113.65", Some("203.0.113.64/28")),
            ("203.0.113.64/26", Some("203.0.113.64/28")),
            ("203.0.113.8", None),
            ("203.0.113.128/25", None),
            ("198.51.100.1", None),
            ("2001:db8:7:1::/64", Some("2001:db8:7::/48")),
            ("2001:db8:8::/64", Some("2001:db8:8::5/128")),
            ("2001:db8:8:1::/64", None),
            // One allowed address of a /64 does not protect its neighbours.
            ("2001:db8:9::/64", None),
            ("2001:db8:9::5/128", Some("2001:db8:9::5/128")),
        ];
        for (text, want) in cases {
            let got = set.forbidding(prefix(text)).map(|trusted| trusted.prefix);
            assert_eq!(got, want.map(net), "{text}");
        }
    }

    #[test]
    fn bans_on_a_proxy_hold_but_nothing_of_it_is_dropped() {
        let set = set(&[
            ("198.51.100.0/24", Trust::Proxy),
            ("198.51.100.7/32", Trust::Allowlist),
            ("203.0.113.0/24", Trust::Proxy),
            ("203.0.113.0/24", Trust::Guard),
        ]);
        let within = prefix("198.51.100.1");
        assert_eq!(set.proxy(within), Some(net("198.51.100.0/24")));
        assert!(!set.lets_drop(within) && set.forbidding(within).is_none());
        // Part of it is a proxy: the rest can be dropped, the kernel knows.
        assert!(set.lets_drop(prefix("198.51.0.0/16")));
        let allowed = prefix("198.51.100.7");
        assert_eq!(set.proxy(allowed), None, "the stronger reason counts");
        assert_eq!(set.forbidding(allowed).map(|it| it.trust), Some(Trust::Allowlist));
        let twice = set.forbidding(prefix("203.0.113.1")).map(|it| it.trust);
        assert_eq!(twice, Some(Trust::Guard));
    }

    #[test]
    fn of_prefixes_that_are_trusted_alike_the_widest_is_named_and_guards_in_order() {
        let set = set(&[
            ("192.0.2.0/24", Trust::Guard),
            ("192.0.2.0/28", Trust::Guard),
            ("192.0.0.0/16", Trust::Allowlist),
            ("10.0.0.0/8", Trust::Proxy),
        ]);
        let named = |text| set.covering(net(text)).map(|it| (it.prefix, it.trust));
        assert_eq!(named("192.0.2.1/32"), Some((net("192.0.2.0/24"), Trust::Guard)));
        assert_eq!(named("192.0.3.1/32"), Some((net("192.0.0.0/16"), Trust::Allowlist)));
        assert_eq!(named("10.0.0.0/8"), Some((net("10.0.0.0/8"), Trust::Proxy)));
        let guards: Vec<_> = set.guards().copied().collect();
        assert_eq!(guards, [net("192.0.2.0/24"), net("192.0.2.0/28")]);
    }

    #[test]
    fn a_guard_is_found_in_every_16_bits_of_a_wide_block_and_of_neighbours() {
        let set = set(&[
            ("10.200.0.1/32", Trust::Guard),
            ("10.201.0.1/32", Trust::Guard),
            ("172.16.0.0/12", Trust::Allowlist),
        ]);
        let forbids = |text: &str| set.forbidding(prefix(text)).is_some();
        assert!(forbids("10.0.0.0/8"), "it begins where nobody is trusted");
        assert!(forbids("10.200.0.0/15"));
        for inside in ["10.200.0.1", "10.201.0.1", "172.16.0.1", "172.24.0.0/16", "172.31.255.255"]
        {
            assert!(forbids(inside), "{inside}");
        }
        for outside in ["10.200.0.2", "10.202.0.1", "172.15.0.1", "172.32.0.1", "11.200.0.1"] {
            assert!(!forbids(outside), "{outside}");
        }
    }

    #[test]
    fn an_address_is_protected_however_narrow_the_prefix() {
        let set = set(&[("2001:db8:9::1/128", Trust::Allowlist), ("192.0.2.0/24", Trust::Guard)]);
        let protects = |ip: &str| set.protects(ip.parse().expect("a valid address"));
        assert!(protects("2001:db8:9::1"));
        assert!(!protects("2001:db8:9::2"));
        assert!(protects("::ffff:192.0.2.9"));
        let proxy = self::set(&[("198.51.100.0/24", Trust::Proxy)]);
        assert!(!proxy.protects("198.51.100.1".parse().expect("an address")), "it can be banned");
    }

    fn any_net(near: u32) -> impl Strategy<Value = IpNet> {
        // Few leading bits differ, so that some do cover each other.
        (any::<u32>(), 8_u8..=32).prop_map(move |(bits, length)| {
            IpNet::new_assert(IpAddr::from((near ^ (bits & 0xffff)).to_be_bytes()), length).trunc()
        })
    }

    fn any_trust() -> impl Strategy<Value = Trust> {
        prop::sample::select(vec![Trust::Proxy, Trust::Allowlist, Trust::Guard])
    }

    proptest! {
        #[test]
        fn a_set_agrees_with_asking_every_prefix(
            prefixes in prop::collection::vec((any_net(0xc000_0200), any_trust()), 0..20),
            asked in any_net(0xc000_0200),
        ) {
            let set: PrefixSet = prefixes.iter().copied().collect();
            let covering = prefixes.iter().filter(|(net, _)| net.contains(&asked));
            let most = covering.map(|(_, trust)| *trust).max();
            prop_assert_eq!(set.covering(asked).map(|trusted| trusted.trust), most);
            let holds_guard =
                prefixes.iter().any(|(net, trust)| *trust == Trust::Guard && asked.contains(net));
            let want = most.is_some_and(|most| most > Trust::Proxy) || holds_guard;
            let asked = Prefix::new(asked).expect("not too wide");
            prop_assert_eq!(set.forbidding(asked).is_some(), want);
        }
    }
}
