//! The source of a packet as the ban maps key it.

use core::net::{Ipv4Addr, Ipv6Addr};

/// Where a packet claims to come from, at the width at which bans are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An IPv4 address, as its key in `BANS_V4`.
    V4(u32),
    /// The /64 of an IPv6 address, as its key in `BANS_V6`.
    V6(u64),
}

/// The key of an IPv4 address: its four octets as they stand in the packet.
#[inline(always)]
pub const fn v4_key(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

/// The key of an IPv6 address: the eight octets of its /64 as they stand in
/// the packet. The host part is left out: whoever holds one address of a /64
/// usually holds them all (RFC 6177).
#[inline(always)]
pub const fn v6_key(address: Ipv6Addr) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = address.octets();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}
