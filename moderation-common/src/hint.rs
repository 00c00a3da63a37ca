//! Which corners of the address space have prefixes that are never dropped: a
//! bitmap to ask before a trie is. It may say yes where there is none, never no
//! where there is one.

use core::net::{Ipv4Addr, Ipv6Addr};

/// Words for the IPv4 /16s.
const V4_WORDS: u32 = 1_024;
/// Words for the IPv6 /32s, by a hash of their 32 bits.
const V6_WORDS: u32 = 1_024;
/// Words for the first octets of IPv6 addresses, for prefixes wider than /32.
const WIDE_WORDS: u32 = 4;

/// Words of the bitmap.
pub const HINT_WORDS: u32 = V4_WORDS + V6_WORDS + WIDE_WORDS;

/// One bit of the bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The word.
    pub word: u32,
    /// The bit in it.
    pub bit: u64,
}

impl Hint {
    const fn new(base: u32, index: u32) -> Self {
        Self { word: base + index / 64, bit: 1 << (index % 64) }
    }

    /// The bit of an IPv4 address, given as the upper 16 of its bits.
    #[inline(always)]
    pub const fn v4(upper: u16) -> Self {
        Self::new(0, upper as u32)
    }

    /// The bit of an IPv6 address, given as the upper 32 of its bits.
    #[inline(always)]
    pub const fn v6(upper: u32) -> Self {
        // Knuth's multiplicative hash: allocations differ in the middle bits.
        Self::new(V4_WORDS, upper.wrapping_mul(0x9e37_79b1) >> 16)
    }

    /// The bit of the IPv6 addresses with that first octet.
    #[inline(always)]
    pub const fn wide(first: u8) -> Self {
        Self::new(V4_WORDS + V6_WORDS, first as u32)
    }
}

/// Calls `set` with every bit of an IPv4 prefix.
pub fn v4_hints(address: Ipv4Addr, length: u8, mut set: impl FnMut(Hint)) {
    let [a, b, ..] = address.octets();
    let first = u16::from_be_bytes([a, b]);
    let more = 16_u32.saturating_sub(length as u32);
    for offset in 0..1_u32 << more {
        set(Hint::v4(first.wrapping_add(offset as u16)));
    }
}

/// Calls `set` with every bit of an IPv6 prefix.
pub fn v6_hints(address: Ipv6Addr, length: u8, mut set: impl FnMut(Hint)) {
    let [a, b, c, d, ..] = address.octets();
    if length >= 32 {
        return set(Hint::v6(u32::from_be_bytes([a, b, c, d])));
    }
    for offset in 0..1_u32 << 8_u32.saturating_sub(length as u32) {
        set(Hint::wide(a.wrapping_add(offset as u8)));
    }
}
