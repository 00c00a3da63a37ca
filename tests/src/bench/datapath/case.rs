//! What the data path is measured with: which packet, from whom, among how many bans.
//! Plain data; runs nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use moderation_ebpf::generator::{self, Generator};

use crate::bench::driver::Action;
use crate::frame::{ACK, CUSTOMER, Frame, SYN, Transport, V4, V6};

/// How many bans there are in all, step by step.
pub(super) const LEVELS: [u32; 4] = [0, 1_000, 100_000, 1_000_000];

// Indexes of sources (see `moderation_ebpf::generator`), apart from each other.
const INNOCENTS: u32 = 0;
const BANNED: u32 = 1 << 22;
const FORGED: u32 = 1 << 24;

/// As many innocents as a busy host sees in a day; more than any cache holds.
const MANY: u32 = 1 << 20;
/// Innocents that open connections in the place of a single one.
const FEW: u32 = 16;
/// The first of the banned are on the operator's allowlist: an office or two, one
/// address each.
const ALLOWED: u32 = 256;
/// What the peer denies: the first banned sources that are not allowed.
const PEER_RULES: u32 = 2;

/// Who sends what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A packet of a connection that exists, from someone against whom there is nothing.
    Innocent,
    /// The same person opens a connection.
    InnocentSyn,
    /// A packet of someone who is banned; random ones are drawn from those whom the
    /// peer denies.
    Banned,
    /// The same, drawn from all the banned, for whom the peer has no room: what it costs
    /// to look up someone who is in no cache. No goal, as there is nothing to compare.
    BannedAnyone,
    /// A packet of someone who is banned and on the allowlist.
    Allowlisted,
    /// SYNs whose sources are forged, a million of them, after a million of the same.
    ForgedFlood,
}

/// The family of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// How many sources the packets of one case come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sources {
    One,
    Random,
}

/// Whether the frame has a VLAN's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tagging {
    Plain,
    Vlan,
}

/// One row of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) kind: Kind,
    pub(super) family: Family,
    pub(super) tagging: Tagging,
    pub(super) sources: Sources,
    /// Bans of the family.
    pub(super) bans: u32,
}

impl Case {
    /// All cases of a family with so many bans.
    pub(super) fn all(family: Family, bans: u32) -> Vec<Self> {
        let kinds = [
            Kind::Innocent,
            Kind::InnocentSyn,
            Kind::Banned,
            Kind::BannedAnyone,
            Kind::Allowlisted,
        ];
        let mut cases = Vec::new();
        for tagging in [Tagging::Plain, Tagging::Vlan] {
            for sources in [Sources::One, Sources::Random] {
                let case = |kind| Self { kind, family, tagging, sources, bans };
                cases.extend(kinds.map(case).into_iter().filter(Case::exists));
            }
        }
        let flood = Self {
            kind: Kind::ForgedFlood,
            family,
            tagging: Tagging::Plain,
            sources: Sources::Random,
            bans,
        };
        cases.push(flood);
        cases
    }

    /// Whether few innocents open more connections than innocents do.
    pub(super) const fn is_hasty(&self) -> bool {
        matches!((self.kind, self.sources), (Kind::InnocentSyn, Sources::One))
    }

    const fn exists(&self) -> bool {
        match self.kind {
            Kind::Innocent | Kind::InnocentSyn => true,
            Kind::BannedAnyone => self.bans > 0 && matches!(self.sources, Sources::Random),
            _ => self.bans > 0,
        }
    }

    /// Such as `innocent_v4_1m_bans`.
    pub(super) fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Innocent => "innocent",
            Kind::InnocentSyn => "innocent_syn",
            Kind::Banned => "banned",
            Kind::BannedAnyone => "banned_anyone",
            Kind::Allowlisted => "allowlisted",
            Kind::ForgedFlood => "forged_flood_syn",
        };
        let family = match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        };
        let tagging = match self.tagging {
            Tagging::Plain => "",
            Tagging::Vlan => "_vlan",
        };
        let sources = match self.sources {
            Sources::One => "",
            Sources::Random => "_random",
        };
        format!("{kind}_{family}{tagging}_{}_bans{sources}", round(self.bans))
    }

    /// The frame; the driver gives it its source.
    pub(super) fn frame(&self) -> Vec<u8> {
        match self.kind {
            Kind::InnocentSyn | Kind::ForgedFlood => self.carrying(SYN),
            _ => self.carrying(ACK),
        }
    }

    /// The same packet of a connection that exists, if this one opens one.
    pub(super) fn without_syn(&self) -> Option<Vec<u8>> {
        let opens = matches!(self.kind, Kind::InnocentSyn | Kind::ForgedFlood);
        opens.then(|| self.carrying(ACK))
    }

    fn carrying(&self, flags: u8) -> Vec<u8> {
        let frame = match self.family {
            Family::V4 => Frame::from(V4::default()),
            Family::V6 => Frame::from(V6::default()),
        };
        let frame = frame.carrying(Transport::Tcp(flags));
        match self.tagging {
            Tagging::Plain => frame.bytes(),
            Tagging::Vlan => frame.tagged(&[CUSTOMER]).bytes(),
        }
    }

    /// Whom the packets come from when they meet our program.
    pub(super) const fn ours(&self) -> Generator {
        let (base, many) = match self.kind {
            Kind::Innocent | Kind::InnocentSyn => (INNOCENTS, MANY),
            Kind::Banned => (BANNED + ALLOWED, PEER_RULES),
            Kind::BannedAnyone => (BANNED + ALLOWED, self.bans - ALLOWED),
            Kind::Allowlisted => (BANNED, ALLOWED),
            Kind::ForgedFlood => (FORGED, MANY),
        };
        self.drawn(base, many)
    }

    /// The same for the peer, which has two rules however many bans we have.
    pub(super) const fn theirs(&self) -> Generator {
        match self.kind {
            Kind::BannedAnyone => self.drawn(BANNED + ALLOWED, PEER_RULES),
            _ => self.ours(),
        }
    }

    /// Packets that went before those that are measured.
    pub(super) const fn forerunners(&self) -> u32 {
        match self.kind {
            Kind::ForgedFlood => MANY,
            _ => 1,
        }
    }

    const fn drawn(&self, base: u32, many: u32) -> Generator {
        match self.sources {
            // One that opened millions of connections would be no innocent, whatever
            // the limit.
            Sources::One if self.is_hasty() => Generator::new(base, FEW),
            Sources::One => Generator::new(base, 1),
            Sources::Random => Generator::new(base, many),
        }
    }

    /// What must become of the packet: with ours, and with the peer.
    pub(super) const fn expected(&self) -> Action {
        match self.kind {
            Kind::Banned | Kind::BannedAnyone => Action::Drop,
            _ => Action::Pass,
        }
    }

    /// The peer's half of the row.
    pub(super) const fn peer(&self) -> &'static str {
        match self.kind {
            Kind::Banned | Kind::BannedAnyone => "xdp-filter drop",
            _ => "xdp-filter pass",
        }
    }
}

/// The banned sources from the `from`th to before the `to`th.
pub(super) fn banned(family: Family, from: u32, to: u32) -> impl Iterator<Item = IpAddr> {
    (from..to).map(move |number| address(family, BANNED + number))
}

/// What the peer denies.
pub(super) fn denied() -> Vec<IpAddr> {
    let of = |family| banned(family, ALLOWED, ALLOWED + PEER_RULES);
    of(Family::V4).chain(of(Family::V6)).collect()
}

/// The operator's allowlist.
pub(super) fn allowlist(family: Family) -> Vec<IpNet> {
    banned(family, 0, ALLOWED).map(IpNet::from).collect()
}

/// As the driver writes it into the frame of [`Case::frame`].
fn address(family: Family, index: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(generator::v4(index)).into(),
        Family::V6 => {
            let mut octets = V6::default().source.octets();
            octets[..8].copy_from_slice(&generator::v6(index));
            Ipv6Addr::from(octets).into()
        }
    }
}

fn round(count: u32) -> String {
    match count {
        1_000_000.. => format!("{}m", count / 1_000_000),
        1_000.. => format!("{}k", count / 1_000),
        _ => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const CASE: Case = Case {
        kind: Kind::Innocent,
        family: Family::V4,
        tagging: Tagging::Plain,
        sources: Sources::One,
        bans: 1_000_000,
    };

    #[test]
    fn a_case_has_a_name_of_its_own() {
        assert_eq!(CASE.name(), "innocent_v4_1m_bans");
        let names: Vec<String> = [Family::V4, Family::V6]
            .into_iter()
            .flat_map(|family| LEVELS.into_iter().flat_map(move |bans| Case::all(family, bans)))
            .map(|case| case.name())
            .collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        assert_eq!(names.len(), 2 * (8 + 3 * 18 + 4));
    }

    #[test]
    fn innocents_and_the_banned_share_no_source() {
        let banned: HashSet<IpAddr> = banned(Family::V4, 0, 1_000_000).collect();
        let mut draw = Case { sources: Sources::Random, ..CASE }.ours();
        assert!((0..100_000).all(|_| !banned.contains(&address(Family::V4, draw.draw()))));
        assert_eq!(banned.len(), 1_000_000);
    }

    #[test]
    fn who_is_measured_as_banned_is_not_on_the_allowlist() {
        for bans in LEVELS.into_iter().filter(|bans| *bans > 0) {
            let kind = Kind::BannedAnyone;
            let case = Case { kind, sources: Sources::Random, bans, ..CASE };
            let allowed = allowlist(Family::V4);
            let banned: HashSet<IpAddr> = banned(Family::V4, 0, bans).collect();
            for mut draw in [case.ours(), case.theirs()] {
                let source = address(Family::V4, draw.draw());
                assert!(banned.contains(&source) && !allowed.contains(&IpNet::from(source)));
            }
        }
    }
}
