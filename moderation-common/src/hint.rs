//! Which corners of the address space have prefixes that are never dropped: a
//! bitmap to ask before a trie is. It may say yes where there is none, never no
//! where there is one.

use core::net::{Ipv4Addr, Ipv6Addr};

/// Words for the IPv4 /16s.
const V4_WORDS: u32 = 1_024;
/// Words for IPv6 /32s and /64s, by hashes of their bits.
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

    /// The bit of an IPv6 address among the prefixes from /32 to /63, given as
    /// the upper 64 of its bits.
    #[inline(always)]
    pub const fn v6_32(upper: u64) -> Self {
        Self::hashed(upper >> 32)
    }

    /// The bit of an IPv6 address among the prefixes from /64 on.
    #[inline(always)]
    pub const fn v6_64(upper: u64) -> Self {
        Self::hashed(upper)
    }

    /// Knuth's multiplicative hash: allocations differ in the middle bits.
    #[inline(always)]
    const fn hashed(bits: u64) -> Self {
        Self::new(V4_WORDS, (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u32)
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
    let last = first | u16::MAX.checked_shr(length.into()).unwrap_or(0);
    (first..=last).for_each(|upper| set(Hint::v4(upper)));
}

/// Calls `set` with every bit of an IPv6 prefix.
pub fn v6_hints(address: Ipv6Addr, length: u8, mut set: impl FnMut(Hint)) {
    let [a, ..] = address.octets();
    let upper = (address.to_bits() >> 64) as u64;
    if length >= 64 {
        return set(Hint::v6_64(upper));
    }
    if length >= 32 {
        return set(Hint::v6_32(upper));
    }
    let last = a | u8::MAX.checked_shr(length.into()).unwrap_or(0);
    (a..=last).for_each(|first| set(Hint::wide(first)));
}
