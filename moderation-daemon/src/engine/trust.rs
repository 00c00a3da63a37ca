//! Who is never blocked: a set of prefixes that answers quickly whether an
//! address lies in one of them.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::Address;

/// Prefixes, grouped by their length: a look-up costs one probe per length
/// that occurs, not one per prefix.
#[derive(Clone, Debug, Default)]
pub struct PrefixSet {
    prefixes: HashSet<IpNet>,
    v4_lengths: BTreeSet<u8>,
    v6_lengths: BTreeSet<u8>,
}

impl PrefixSet {
    /// The prefix in the set that covers `prefix` whole, the widest one.
    pub fn covering(&self, prefix: IpNet) -> Option<IpNet> {
        let lengths = match prefix {
            IpNet::V4(_) => &self.v4_lengths,
            IpNet::V6(_) => &self.v6_lengths,
        };
        lengths
            .range(..=prefix.prefix_len())
            .filter_map(|length| IpNet::new(prefix.addr(), *length).ok())
            .map(|candidate| candidate.trunc())
            .find(|candidate| self.prefixes.contains(candidate))
    }

    /// The prefix that protects an address: a ban on it would be void.
    pub fn protecting(&self, address: Address) -> Option<IpNet> {
        self.covering(address.prefix())
    }

    /// Whether exactly this address is in the set, however narrow the prefix.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.covering(IpNet::from(ip.to_canonical())).is_some()
    }

    /// Its prefixes.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.prefixes.iter()
    }
}

impl FromIterator<IpNet> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> Self {
        let mut set = Self::default();
        for prefix in prefixes {
            let lengths = match prefix {
                IpNet::V4(_) => &mut set.v4_lengths,
                IpNet::V6(_) => &mut set.v6_lengths,
            };
            lengths.insert(prefix.prefix_len());
            set.prefixes.insert(prefix.trunc());
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_set_protects_what_its_prefixes_cover() {
        let set: PrefixSet = ["192.0.2.0/24", "2001:db8:7::/48", "2001:db8:9::1/128"]
            .into_iter()
            .map(|prefix| prefix.parse().expect("a valid prefix"))
            .collect();
        let cases = [
            ("192.0.2.0", true),
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("2001:db8:7:1::5", true),
            ("2001:db8:8::", false),
            // One address of a /64 does not protect its neighbours.
            ("2001:db8:9::1", false),
        ];
        for (address, want) in cases {
            let address = address.parse().expect("a valid address");
            assert_eq!(set.protecting(address).is_some(), want, "{address}");
        }
        assert!(set.contains("2001:db8:9::1".parse().expect("a valid address")));
        assert!(!set.contains("2001:db8:9::2".parse().expect("a valid address")));
        assert!(set.contains("::ffff:192.0.2.9".parse().expect("a valid address")));
    }

    proptest! {
        #[test]
        fn a_set_agrees_with_asking_every_prefix(
            prefixes in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..20),
            ip in any::<u32>(),
        ) {
            let prefixes: Vec<IpNet> = prefixes
                .into_iter()
                // Few leading bits, so that some do cover the address.
                .map(|(bits, length)| {
                    let address = IpAddr::from((ip ^ (bits & 0xff)).to_be_bytes());
                    IpNet::new_assert(address, length)
                })
                .collect();
            let ip = IpAddr::from(ip.to_be_bytes());
            let want = prefixes.iter().any(|prefix| prefix.contains(&ip));
            let set: PrefixSet = prefixes.into_iter().collect();
            prop_assert_eq!(set.contains(ip), want);
        }
    }
}
