//! Which source each frame of a benchmark comes from. `BPF_PROG_TEST_RUN` repeats one
//! frame, so the driver (`driver.rs`) gives it another source each time; kernel and
//! benchmark agree here on which index is which address. The program that hosts install
//! knows nothing of it.

/// From which indexes the driver draws; the value in its map `GENERATOR`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generator {
    /// Of `xorshift64` (Marsaglia: Xorshift RNGs, 2003); never 0.
    pub state: u64,
    /// The first index.
    pub base: u64,
    /// How many indexes from there on; 1 draws the same one each time.
    pub span: u64,
}

const _: () = assert!(size_of::<Generator>() == size_of::<[u64; 3]>());

/// Indexes below this have addresses of their own, in both families.
pub const INDEXES: u32 = 1 << 29;

/// Odd, so that multiplying by it permutes the indexes; its bits are those of the
/// golden ratio, so that neighbours come to lie far apart.
const SCATTER: u32 = 0x9e37_79b1;

impl Generator {
    /// One that draws from `span` indexes, the first of which is `base`.
    pub const fn new(base: u32, span: u32) -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, base: base as u64, span: span as u64 }
    }

    /// As it lies in the map.
    pub const fn words(self) -> [u64; 3] {
        [self.state, self.base, self.span]
    }

    /// The next index.
    #[expect(clippy::cast_possible_truncation, reason = "made from indexes of 32 bits")]
    #[inline(always)]
    pub const fn draw(&mut self) -> u32 {
        let mut state = self.state;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.state = state;
        // The high half of the product is uniform below `span`, without a division.
        let below_span = ((state >> 32) * self.span) >> 32;
        (self.base + below_span) as u32
    }
}

/// The IPv4 address of an index, in network order. All are in 32.0.0.0/3, where nothing
/// is private, loopback or otherwise guarded.
#[inline(always)]
pub const fn v4(index: u32) -> [u8; 4] {
    let host = index.wrapping_mul(SCATTER) % INDEXES;
    (0x2000_0000 | host).to_be_bytes()
}

/// The IPv6 /64 of an index, in network order, within 2001:db8::/32.
#[inline(always)]
pub const fn v6(index: u32) -> [u8; 8] {
    (0x2001_0db8_0000_0000 | index.wrapping_mul(SCATTER) as u64).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    proptest::proptest! {
        #[test]
        fn two_indexes_have_two_addresses(one in 0..INDEXES, other in 0..INDEXES) {
            proptest::prop_assert_eq!(one == other, v4(one) == v4(other));
            proptest::prop_assert_eq!(one == other, v6(one) == v6(other));
        }
    }

    #[test]
    fn neighbours_are_not_in_each_others_networks() {
        let networks: HashSet<[u8; 2]> =
            (0..100).map(|index| [v4(index)[0], v4(index)[1]]).collect();
        assert_eq!(networks.len(), 100);
    }

    #[test]
    fn no_address_is_of_a_kind_that_guards_protect() {
        for index in (0..INDEXES).step_by(9973) {
            let address = Ipv4Addr::from(v4(index));
            let special = address.is_private() || address.is_loopback() || address.is_link_local();
            assert!(!special && (32..64).contains(&address.octets()[0]), "{address}");
        }
    }

    #[test]
    fn every_index_of_the_span_is_drawn_and_no_other() {
        let mut generator = Generator::new(1000, 50);
        let drawn: HashSet<u32> = (0..2_000).map(|_| generator.draw()).collect();
        assert_eq!(drawn, (1000..1050).collect());
    }

    #[test]
    fn a_span_of_one_is_one_source() {
        let mut generator = Generator::new(7, 1);
        assert!((0..100).all(|_| generator.draw() == 7));
    }
}
