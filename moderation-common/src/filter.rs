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

/// Where a key is in the prefilter: one word in each half of the bitmap and four
/// bits in either, so that a look at a stranger costs one load. Eight keys a
/// word on average let one stranger in thirty pass to the second half, and one
/// in nine hundred on to the exact map.
///
/// Chosen by measurement: at a million bans one bitmap with 16 bits a key lets
/// as few pass, but its 2 MiB do not stay in a CPU's own cache beside all else,
/// and every innocent then waited for the next one. With 8 bits a key and no
/// second half, one innocent in thirty waited for the exact map, which at that
/// size is in no cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The word.
    pub word: u32,
    /// What its bits are made of.
    hash: u64,
}

/// Bits that a key needs at most, in both halves together.
pub const FILTER_BITS: usize = 8;

impl Place {
    /// The place of a hash in the first half; each half has `mask + 1` words.
    #[inline(always)]
    pub const fn first(hash: u64, mask: u64) -> Self {
        Self { word: ((hash >> 32) & mask) as u32, hash }
    }

    /// The place in the second half, which has nothing to do with the first: one
    /// round more of the hash.
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^29 words")]
    #[inline(always)]
    pub const fn second(hash: u64, mask: u64) -> Self {
        let hash = hash.wrapping_mul(0x9fb2_1c65_1e98_df25);
        let hash = hash ^ (hash >> 32);
        Self { word: (((hash >> 32) & mask) + mask + 1) as u32, hash }
    }

    /// Both places.
    pub const fn both(hash: u64, mask: u64) -> [Self; 2] {
        [Self::first(hash, mask), Self::second(hash, mask)]
    }

    /// The bits in the word, all of which are set if the key is in.
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        let [a, b, c, d] = self.positions();
        (1 << a) | (1 << b) | (1 << c) | (1 << d)
    }

    /// The four bits one by one; some may be the same.
    #[inline(always)]
    pub const fn positions(self) -> [u32; 4] {
        let hash = self.hash;
        [
            (hash & 63) as u32,
            ((hash >> 6) & 63) as u32,
            ((hash >> 12) & 63) as u32,
            ((hash >> 18) & 63) as u32,
        ]
    }
}

/// Words in each half of the prefilter for so many keys: 8 bits a key, a power
/// of two.
const fn half_words(max_keys: u32) -> u32 {
    let words = max_keys.div_ceil(8);
    // Not below a cache line; not above 4 GiB in all, which no one has asked for.
    if words < 8 {
        8
    } else if words > 1 << 28 {
        1 << 28
    } else {
        words.next_power_of_two()
    }
}

/// Words of the prefilter, both halves, for so many keys.
pub const fn filter_words(max_keys: u32) -> u32 {
    2 * half_words(max_keys)
}

/// The mask that [`Place`] takes, for a prefilter of so many words in all.
pub const fn filter_mask(words: u32) -> u64 {
    words as u64 / 2 - 1
}
