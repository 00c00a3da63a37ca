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
    /// Its IPv6 source's /64 is banned.
    BanV6 = 4,
    /// Its source is banned, but on the allowlist or guarded.
    AllowOverride = 5,
}

impl Reason {
    /// Every reason, in the order of the indexes.
    pub const ALL: [Self; 6] =
        [Self::Pass, Self::NotIp, Self::Malformed, Self::BanV4, Self::BanV6, Self::AllowOverride];

    /// The index into `COUNTERS`.
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Whether a packet with this reason is dropped.
    pub const fn drops(self) -> bool {
        matches!(self, Self::BanV4 | Self::BanV6)
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
