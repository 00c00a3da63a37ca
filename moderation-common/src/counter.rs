//! Why a packet passed or was dropped, and the counter kept for each reason.

/// What decided about a packet; the index into `COUNTERS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing was held against its source.
    Pass = 0,
    /// Neither IPv4 nor IPv6: ARP, LLDP, MPLS, a third VLAN tag, …
    NotIp = 1,
    /// The frame ends before the fixed part of its IP header does, or the
    /// header's version contradicts its EtherType.
    Malformed = 2,
    /// Its IPv4 source is banned.
    BanV4 = 3,
    /// Its IPv6 source, or that one's /64, is banned.
    BanV6 = 4,
    /// Its source is banned or too fast, but guarded or on the allowlist.
    AllowOverride = 5,
    /// A block around its source is banned.
    BanNet = 6,
    /// It asks for a connection, of which its source has asked for too many.
    SynRate = 7,
    /// Its source is banned or too fast, but a proxy or CDN.
    ProxyOverride = 8,
    /// Its source is banned or too fast, but the port is exempt.
    ExemptPort = 9,
    /// Its source is banned, but it is neighbour discovery on the link (RFC
    /// 4861): without it the gateway itself could be lost.
    NeighbourDiscovery = 10,
    /// It would have been dropped, but the program only observes.
    ObserveWouldDrop = 11,
    /// Nothing was held against its source; a later fragment, in which there
    /// is no port and no flag to look at.
    Fragment = 12,
}

impl Reason {
    /// Every reason, in the order of the indexes.
    pub const ALL: [Self; 13] = [
        Self::Pass,
        Self::NotIp,
        Self::Malformed,
        Self::BanV4,
        Self::BanV6,
        Self::AllowOverride,
        Self::BanNet,
        Self::SynRate,
        Self::ProxyOverride,
        Self::ExemptPort,
        Self::NeighbourDiscovery,
        Self::ObserveWouldDrop,
        Self::Fragment,
    ];

    /// The index into `COUNTERS`.
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The reason with that index.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.get(index as usize).copied()
    }

    /// Whether a packet with this reason is dropped.
    #[inline(always)]
    pub const fn drops(self) -> bool {
        Self::index_drops(self.index())
    }

    /// The same by the number.
    #[inline(always)]
    pub const fn index_drops(index: u32) -> bool {
        const DROPPING: u32 = 1 << Reason::BanV4.index()
            | 1 << Reason::BanV6.index()
            | 1 << Reason::BanNet.index()
            | 1 << Reason::SynRate.index();
        DROPPING >> (index & 31) & 1 == 1
    }

    /// The label in metrics and in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::NotIp => "not_ip",
            Self::Malformed => "malformed",
            Self::BanV4 => "ban_v4",
            Self::BanV6 => "ban_v6",
            Self::AllowOverride => "allow_override",
            Self::BanNet => "ban_net",
            Self::SynRate => "syn_rate",
            Self::ProxyOverride => "proxy_override",
            Self::ExemptPort => "exempt_port",
            Self::NeighbourDiscovery => "neighbour_discovery",
            Self::ObserveWouldDrop => "observe_would_drop",
            Self::Fragment => "fragment",
        }
    }
}

/// One CPU's count for one reason.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets since the maps were made.
    pub packets: u64,
    /// Their bytes from the Ethernet header on. Of a packet in several
    /// buffers (jumbo frames) only the first buffer's.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Counter>() == size_of::<[u64; 2]>());

impl From<[u64; 2]> for Counter {
    fn from([packets, bytes]: [u64; 2]) -> Self {
        Self { packets, bytes }
    }
}
