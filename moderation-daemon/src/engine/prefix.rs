//! The block of addresses that a ban is about, at any width. What is counted
//! and scored is an [`Address`], at one width per family.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Address;

/// A CIDR block as bans have it: its host bits are zero, and it is IPv4 if it
/// lies within the IPv4-mapped addresses (RFC 4291, 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(IpNet);

/// Wider blocks than these are a slip of the hand, not a ban: they hold whole
/// registries.
const WIDEST_V4: u8 = 8;
const WIDEST_V6: u8 = 16;

/// Bits of `::ffff:0:0/96`, in front of an IPv4 address.
const MAPPED_BITS: u8 = 96;

/// Why something is no [`Prefix`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrefix {
    /// Neither an address nor a block.
    #[error("{text:?} is neither an IPv4 nor an IPv6 address, nor a prefix of some")]
    Syntax {
        /// What was given.
        text: String,
    },
    /// A block that nobody can mean.
    #[error("{prefix} cannot be banned: it is wider than a /{widest}")]
    TooWide {
        /// What was given.
        prefix: IpNet,
        /// The widest of its family that can be banned.
        widest: u8,
    },
}

impl Prefix {
    /// A block of that network.
    ///
    /// # Errors
    ///
    /// [`InvalidPrefix::TooWide`].
    pub fn new(net: IpNet) -> Result<Self, InvalidPrefix> {
        let net = unmapped(net).trunc();
        let widest = match net {
            IpNet::V4(_) => WIDEST_V4,
            IpNet::V6(_) => WIDEST_V6,
        };
        if net.prefix_len() < widest {
            return Err(InvalidPrefix::TooWide { prefix: net, widest });
        }
        Ok(Self(net))
    }

    /// The block that an address is banned as: the address itself if it is
    /// IPv4, else the `v6_bits` wide block around it (16 to 128).
    pub fn around(ip: IpAddr, v6_bits: u8) -> Self {
        let bits = v6_bits.clamp(WIDEST_V6, 128);
        Self(match ip.to_canonical() {
            IpAddr::V4(ip) => IpNet::V4(Ipv4Net::from(ip)),
            IpAddr::V6(ip) => IpNet::V6(Ipv6Net::new_assert(ip, bits).trunc()),
        })
    }

    /// The exact IPv4 address whose bits are `key`.
    pub fn from_v4(key: u32) -> Self {
        Self(IpNet::V4(Ipv4Net::from(std::net::Ipv4Addr::from_bits(key))))
    }

    /// The IPv6 /64 whose upper half is `key`.
    pub fn from_v6_64(key: u64) -> Self {
        let network = Ipv6Addr::from_bits(u128::from(key) << 64);
        Self(IpNet::V6(Ipv6Net::new_assert(network, 64)))
    }

    /// The single IPv6 address whose bits are `key`.
    pub fn from_v6(key: u128) -> Self {
        Self(IpNet::V6(Ipv6Net::from(Ipv6Addr::from_bits(key))))
    }

    /// The block.
    pub const fn net(self) -> IpNet {
        self.0
    }

    /// Whether the address lies in it.
    pub fn contains(self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// Whether it is one that the kernel looks up exactly: an IPv4 address, an
    /// IPv6 /64 or a single IPv6 address. All others are *networks*.
    pub const fn is_exact(self) -> bool {
        match self.0 {
            IpNet::V4(net) => net.prefix_len() == 32,
            IpNet::V6(net) => matches!(net.prefix_len(), 64 | 128),
        }
    }
}

impl Prefix {
    /// The `bits` wide block around an IPv6 /64; `None` if it is no /64.
    pub(super) fn block_of_64(self, bits: u8) -> Option<Self> {
        match self.0 {
            IpNet::V6(net) if net.prefix_len() == 64 => Some(Self::around(self.0.addr(), bits)),
            _ => None,
        }
    }

    /// Whether all of `other` lies in it.
    pub fn covers(self, other: Self) -> bool {
        self.0.contains(&other.0)
    }
}

/// An IPv6 block within the IPv4-mapped addresses as the IPv4 block it is.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let Some(v4) = v6.addr().to_ipv4_mapped() else { return net };
    match v6.prefix_len().checked_sub(MAPPED_BITS) {
        Some(bits) => IpNet::V4(Ipv4Net::new_assert(v4, bits)),
        None => net,
    }
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    /// An address stands for itself alone: `192.0.2.7`, `2001:db8::1`. A block
    /// may have host bits: `192.0.2.7/24` is `192.0.2.0/24`.
    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::around(ip, 128));
        }
        match text.parse::<IpNet>() {
            Ok(net) => Self::new(net),
            Err(_) => Err(InvalidPrefix::Syntax { text: text.chars().take(64).collect() }),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpNet::V4(net) if net.prefix_len() == 32 => net.addr().fmt(f),
            net => net.fmt(f),
        }
    }
}

impl From<Address> for Prefix {
    fn from(address: Address) -> Self {
        Self(address.prefix())
    }
}

/// How many prefixes there are of each length, so that a look-up costs one
/// probe per length that occurs, not one per prefix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lengths {
    v4: BTreeMap<u8, usize>,
    v6: BTreeMap<u8, usize>,
    exact: usize,
    networks: usize,
}

impl Lengths {
    /// One more such prefix.
    pub(crate) fn add(&mut self, prefix: Prefix) {
        *self.of(prefix).entry(prefix.0.prefix_len()).or_default() += 1;
        *self.count(prefix) += 1;
    }

    /// One less; it must have been added.
    pub(crate) fn remove(&mut self, prefix: Prefix) {
        let length = prefix.0.prefix_len();
        let lengths = self.of(prefix);
        let left = lengths.get(&length).copied().unwrap_or(1) - 1;
        if left == 0 {
            lengths.remove(&length);
        } else {
            lengths.insert(length, left);
        }
        *self.count(prefix) -= 1;
    }

    /// The blocks of those lengths that hold the address, the widest first.
    pub(crate) fn around(&self, ip: IpAddr) -> impl Iterator<Item = Prefix> + use<'_> {
        let ip = ip.to_canonical();
        let lengths = if ip.is_ipv4() { &self.v4 } else { &self.v6 };
        lengths
            .keys()
            .filter_map(move |length| IpNet::new(ip, *length).ok().map(|net| Prefix(net.trunc())))
    }

    /// Exact ones, and networks.
    pub(crate) const fn counts(&self) -> (usize, usize) {
        (self.exact, self.networks)
    }

    const fn of(&mut self, prefix: Prefix) -> &mut BTreeMap<u8, usize> {
        match prefix.0 {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        }
    }

    const fn count(&mut self, prefix: Prefix) -> &mut usize {
        if prefix.is_exact() { &mut self.exact } else { &mut self.networks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_prefix_is_an_address_or_a_block_that_somebody_can_mean() {
        let cases = [
            ("192.0.2.7", Some("192.0.2.7")),
            ("192.0.2.7/32", Some("192.0.2.7")),
            ("192.0.2.7/24", Some("192.0.2.0/24")),
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.0.0.0/7", None),
            ("0.0.0.0/0", None),
            ("2001:db8::1", Some("2001:db8::1/128")),
            ("2001:db8::1/128", Some("2001:db8::1/128")),
            ("2001:db8:1:2:3:4:5:6/64", Some("2001:db8:1:2::/64")),
            ("2001::/16", Some("2001::/16")),
            ("2001::/15", None),
            ("::/0", None),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("::ffff:192.0.2.7/128", Some("192.0.2.7")),
            ("::ffff:192.0.2.7/120", Some("192.0.2.0/24")),
            ("::ffff:0.0.0.0/96", None),
            ("192.0.2.7:443", None),
            ("192.0.2.007", None),
            ("192.0.2.0/33", None),
            ("everyone", None),
            ("", None),
        ];
        for (text, want) in cases {
            let got = text.parse::<Prefix>().ok().map(|prefix| prefix.to_string());
            assert_eq!(got.as_deref(), want, "{text}");
        }
    }

    #[test]
    fn what_is_too_wide_is_named_with_the_widest_that_is_not() {
        let error = "0.0.0.0/4".parse::<Prefix>().expect_err("a sixteenth of the Internet");
        assert_eq!(error.to_string(), "0.0.0.0/4 cannot be banned: it is wider than a /8");
    }

    #[test]
    fn an_address_is_banned_at_the_configured_width_if_it_is_ipv6() {
        let around = |ip: &str, bits| Prefix::around(ip.parse().expect("an address"), bits);
        assert_eq!(around("2001:db8:1:2::3", 64).to_string(), "2001:db8:1:2::/64");
        assert_eq!(around("2001:db8:1:2::3", 48).to_string(), "2001:db8:1::/48");
        assert_eq!(around("2001:db8:1:2::3", 128).to_string(), "2001:db8:1:2::3/128");
        assert_eq!(around("192.0.2.7", 48).to_string(), "192.0.2.7");
        assert_eq!(around("::ffff:192.0.2.7", 64).to_string(), "192.0.2.7");
    }

    #[test]
    fn three_shapes_are_exact_and_all_others_are_networks() {
        let is_exact = |text: &str| text.parse::<Prefix>().expect("a prefix").is_exact();
        for text in ["192.0.2.7", "2001:db8::/64", "2001:db8::1/128"] {
            assert!(is_exact(text), "{text}");
        }
        for text in ["192.0.2.0/31", "2001:db8::/63", "2001:db8::/65", "2001:db8::/127"] {
            assert!(!is_exact(text), "{text}");
        }
    }

    #[test]
    fn lengths_are_those_that_are_there_and_counted_by_shape() {
        let prefix = |text: &str| text.parse::<Prefix>().expect("a prefix");
        let mut lengths = Lengths::default();
        let all = ["192.0.2.0/24", "198.51.100.0/24", "192.0.2.7", "2001:db8::/64"].map(prefix);
        all.iter().for_each(|it| lengths.add(*it));
        let around = |lengths: &Lengths, ip: &str| {
            let around = lengths.around(ip.parse().expect("an address"));
            around.map(|it| it.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(around(&lengths, "192.0.2.9"), ["192.0.2.0/24", "192.0.2.9"]);
        assert_eq!(around(&lengths, "2001:db8::9"), ["2001:db8::/64"]);
        assert_eq!(lengths.counts(), (2, 2));
        lengths.remove(all[0]);
        assert_eq!(around(&lengths, "192.0.2.9"), ["192.0.2.0/24", "192.0.2.9"], "one is left");
        lengths.remove(all[1]);
        assert_eq!(around(&lengths, "192.0.2.9"), ["192.0.2.9"]);
        assert_eq!(lengths.counts(), (2, 0));
        all[2..].iter().for_each(|it| lengths.remove(*it));
        assert_eq!((around(&lengths, "192.0.2.9").len(), lengths.counts()), (0, (0, 0)));
    }

    #[test]
    fn only_a_64_is_part_of_wider_blocks() {
        let block = |text: &str| {
            text.parse::<Prefix>().expect("a prefix").block_of_64(56).map(|it| it.to_string())
        };
        assert_eq!(block("2001:db8:0:1ff::/64").as_deref(), Some("2001:db8:0:100::/56"));
        for other in ["2001:db8::/56", "2001:db8::7/128", "192.0.2.7"] {
            assert_eq!(block(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_prefix_comes_back_from_its_text(bits in any::<u128>(), length in 16_u8..=128) {
            let net = IpNet::new_assert(Ipv6Addr::from_bits(bits).into(), length);
            let prefix = Prefix::new(net).expect("not too wide");
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
            prop_assert!(prefix.contains(net.addr()));
        }

        #[test]
        fn keys_come_back_as_prefixes(v4 in any::<u32>(), v6 in any::<u128>()) {
            let upper = u64::try_from(v6 >> 64).expect("the upper half");
            prop_assert_eq!(Prefix::from_v4(v4).net().addr(), IpAddr::from(v4.to_be_bytes()));
            prop_assert!(Prefix::from_v6_64(upper).contains(Ipv6Addr::from_bits(v6).into()));
            prop_assert!(Prefix::from_v6(v6).is_exact() && Prefix::from_v6_64(upper).is_exact());
        }
    }
}
