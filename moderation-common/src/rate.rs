//! Counting by source: the blocks of the sketch, and entries that are exact.
//! Time is cut into half windows with a running number, the epoch; a count is
//! that of the current half and of the one before.

use core::cell::Cell;

use crate::Source;

/// A source in `HEAVY` and `HANDSHAKES`: family (4 or 6) and its ban key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateKey {
    /// 4 or 6.
    pub family: u64,
    /// The source as in [`Source`]; an IPv4 key fills the low half.
    pub source: u64,
}

impl From<Source> for RateKey {
    #[inline(always)]
    fn from(source: Source) -> Self {
        match source {
            Source::V4(key) => Self { family: 4, source: key as u64 },
            Source::V6(key) => Self { family: 6, source: key },
        }
    }
}

/// An exact count in two half windows, shared by all CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateEntry {
    /// Even and odd epochs take turns: the epoch in the upper 32 bits, its
    /// count in the lower, so that both are always of one epoch.
    pub halves: [u64; 2],
    /// How many were beyond the limit since the entry was made.
    pub excess: u64,
}

impl RateEntry {
    /// The count in the window that ends in `epoch`.
    #[inline(always)]
    pub const fn count_at(&self, epoch: u32) -> u64 {
        let [even, odd] = self.halves;
        let (current, previous) = if epoch & 1 == 0 { (even, odd) } else { (odd, even) };
        Self::of(current, epoch) + Self::of(previous, epoch.wrapping_sub(1))
    }

    /// The last epoch in which anything was counted.
    pub const fn last_epoch(&self) -> u32 {
        let [even, odd] = self.halves;
        let latest = if even > odd { even } else { odd };
        (latest >> 32) as u32
    }

    #[inline(always)]
    const fn of(half: u64, epoch: u32) -> u64 {
        if half >> 32 == epoch as u64 { half & 0xffff_ffff } else { 0 }
    }
}

/// Rows of counters in a block: independent places for one source.
pub const SKETCH_ROWS: usize = 4;
/// Counters in a row: what a cache line leaves beside the epoch.
pub const SKETCH_SLOTS: usize = 7;

/// One block of the sketch, a cache line. A source has one block, and in it
/// one counter in each row, so that counting costs two lines (this half window
/// and the last), whatever the size of the sketch.
///
/// CPUs write it without locks: what is lost is a count of a count that is only
/// a suspicion.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct SketchBlock {
    /// The half window that the counters are of.
    pub epoch: Cell<u64>,
    /// The counters; they stop at their largest value.
    pub rows: [[Cell<u16>; SKETCH_SLOTS]; SKETCH_ROWS],
}

/// A sketch entry as user space sees it: eight words.
pub const SKETCH_BLOCK_BYTES: u32 = 64;

const _: () = assert!(size_of::<RateKey>() == size_of::<[u64; 2]>());
const _: () = assert!(size_of::<RateEntry>() == size_of::<[u64; 3]>());
const _: () = assert!(size_of::<SketchBlock>() == SKETCH_BLOCK_BYTES as usize);

/// From how many attempts on, by the sketch, a source is counted exactly: half
/// the limit, so that whoever makes more than the limit in a window is suspected
/// well before its end; and half of what a counter can tell, however high the
/// limit.
#[inline(always)]
pub const fn suspicious(limit: u64) -> u64 {
    const MOST: u64 = u16::MAX as u64 / 2;
    if limit / 2 < MOST { limit / 2 } else { MOST }
}

/// Blocks in each half of the sketch, a power of two, for a flood of so many
/// attempts in a window from as many forged sources, and for a limit: the
/// flood's share of a counter stays below a quarter of what is [`suspicious`].
#[expect(clippy::cast_possible_truncation, reason = "at most 2^18 blocks")]
pub const fn sketch_blocks(flood: u32, limit: u32) -> u32 {
    const FEWEST: u64 = 64;
    const MOST: u64 = 1 << 18; // 32 MiB for both halves
    let threshold = suspicious(limit as u64);
    // An eighth of a limit of 1, at least.
    let limit = if threshold == 0 { 1 } else { 2 * threshold };
    let blocks = (8 * flood as u64).div_ceil(SKETCH_SLOTS as u64 * limit);
    let blocks = if blocks < FEWEST { FEWEST } else { blocks.next_power_of_two() };
    (if blocks > MOST { MOST } else { blocks }) as u32
}

/// A handshake beyond the limit.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// Who.
    pub source: RateKey,
    /// The address itself; IPv4 fills the first four octets.
    pub address: [u8; 16],
    /// How many in the window, this one included.
    pub count: u64,
}

/// A dropped packet, as far as it is shown.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub at_ns: u64,
    /// The source address; IPv4 fills the first four octets.
    pub address: [u8; 16],
    /// 4 or 6.
    pub family: u32,
    /// The [`Reason`](crate::Reason)'s number.
    pub reason: u32,
    /// The frame's length.
    pub bytes: u32,
    /// The destination port, 0 if it was not looked for or not there.
    pub port: u16,
    /// The protocol number that goes with the port.
    pub protocol: u16,
}

const _: () = assert!(size_of::<Overrun>() == 40);
const _: () = assert!(size_of::<Sample>() == 40);
