//! The hash that kernel and daemon share, and the places that a key has in the
//! prefilter and in the sketch. Seeded, so that nobody outside can choose
//! addresses that collide.

use crate::Source;

/// The secrets of the hashes, drawn when the maps are made.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// Goes in first.
    pub a: u64,
    /// Goes in between the two rounds.
    pub b: u64,
}

const _: () = assert!(size_of::<Seeds>() == size_of::<[u64; 2]>());

impl Seeds {
    /// The hash of a source.
    #[inline(always)]
    pub const fn hash(self, source: Source) -> u64 {
        match source {
            Source::V4(key) => self.mix(key as u64),
            Source::V6(key) => self.mix(key),
        }
    }

    /// The hash of a single IPv6 address, whose two halves are as they stand in
    /// the packet.
    #[inline(always)]
    pub const fn hash_host(self, [upper, lower]: [u64; 2]) -> u64 {
        self.mix(lower ^ self.mix(upper))
    }

    /// Two rounds of multiply and fold. The multipliers are those of rrmxmx
    /// (Pelle Evensen, "On the mixing functions in fast splittable
    /// pseudorandom number generators", 2018): odd, with well-spread bits.
    #[inline(always)]
    const fn mix(self, key: u64) -> u64 {
        let mut hash = (key ^ self.a).wrapping_mul(0x9fb2_1c65_1e98_df25);
        hash ^= hash >> 32;
        hash = (hash ^ self.b).wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^ (hash >> 32)
    }
}

/// Where a key is in the prefilter: one word of the bitmap and four bits in it,
/// so that a look costs one load. Eight keys a word on average (8 bits a key)
/// let one stranger in thirty pass on to the exact map.
///
/// Chosen by measurement: at a million bans 16 bits a key and two bits of them
/// let fewer pass, but 2 MiB do not stay in a CPU's own cache beside all else,
/// and every innocent then waited for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The word.
    pub word: u32,
    /// Its bits; both are set if the key is in.
    pub bits: u64,
}

impl Place {
    /// The place of a hash in a bitmap of `mask + 1` words.
    #[inline(always)]
    pub const fn of(hash: u64, mask: u64) -> Self {
        let word = ((hash >> 32) & mask) as u32;
        let [a, b, c, d] = Self::positions(hash);
        Self { word, bits: (1 << a) | (1 << b) | (1 << c) | (1 << d) }
    }

    /// The four bits one by one; some may be the same.
    #[inline(always)]
    pub const fn positions(hash: u64) -> [u32; 4] {
        [
            (hash & 63) as u32,
            ((hash >> 6) & 63) as u32,
            ((hash >> 12) & 63) as u32,
            ((hash >> 18) & 63) as u32,
        ]
    }
}

/// Words of the prefilter for so many keys: 8 bits a key, a power of two.
pub const fn filter_words(max_keys: u32) -> u32 {
    let words = max_keys.div_ceil(8);
    // Not below a cache line; not above 4 GiB, which no one has asked for.
    if words < 8 {
        8
    } else if words > 1 << 29 {
        1 << 29
    } else {
        words.next_power_of_two()
    }
}
