//! What one key has used, in one piece of memory of a fixed size. Knows where
//! things lie; what they mean is said by the limiter's measure, which every call
//! brings. Times are on the table's clock, see [`super::inner`].

use super::{Key, bucket::Buckets, fixed::Fixed, log::Log};

/// Bytes for counting in a small cell and in a large one, which are one and two
/// cache lines.
pub(super) const SMALL: usize = 32;
pub(super) const LARGE: usize = 96;

/// A time at which nothing counts any more that ever counted: of what went early.
pub(super) const LONG_AGO: u64 = 0;

/// How one limiter's cells are read; numbers of one size each, for speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Fixed(Fixed),
    Log16(Log<2>),
    Log32(Log<4>),
    Buckets8(Buckets<1>),
    Buckets16(Buckets<2>),
    Buckets32(Buckets<4>),
}

/// The greatest number in so many bytes.
pub(super) const fn greatest<const WIDTH: usize>() -> u64 {
    u64::MAX >> (64 - 8 * WIDTH)
}

/// One of the numbers of so many bytes that lie one behind the other.
#[inline]
pub(super) fn read<const WIDTH: usize>(bytes: &[u8], place: usize) -> u64 {
    let mut number = [0; 8];
    number[..WIDTH].copy_from_slice(&bytes.as_chunks::<WIDTH>().0[place]);
    u64::from_le_bytes(number)
}

/// Puts one of them there; of a larger one, its low bytes.
#[inline]
pub(super) fn write<const WIDTH: usize>(bytes: &mut [u8], place: usize, number: u64) {
    bytes.as_chunks_mut::<WIDTH>().0[place].copy_from_slice(&number.to_le_bytes()[..WIDTH]);
}

/// The same for each kind.
macro_rules! each {
    ($measure:expr, $one:ident => $do:expr) => {
        match $measure {
            Measure::Fixed($one) => $do,
            Measure::Log16($one) => $do,
            Measure::Log32($one) => $do,
            Measure::Buckets8($one) => $do,
            Measure::Buckets16($one) => $do,
            Measure::Buckets32($one) => $do,
        }
    };
}

/// How much of a window has been used, and when some of it is free again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tenure {
    pub(super) used: u64,
    pub(super) frees_at: u64,
}

impl Tenure {
    /// Whether no more than `max` are used up with `cost` more.
    #[inline(always)]
    pub(super) const fn has_room_for(self, cost: u64, max: u64) -> bool {
        self.used.saturating_add(cost) <= max
    }
}

/// The part of a cell that is the same for all measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// When the window ends, or the newest tick or piece in it.
    pub(super) time: u64,
    /// How many ticks or pieces there are behind that.
    pub(super) count: u8,
    /// Where the oldest is.
    pub(super) first: u8,
    /// Whether the cell has changed since it was last written down.
    pub(super) is_changed: bool,
}

impl Head {
    pub(super) const fn count(self) -> usize {
        self.count as usize
    }

    /// A place or a number of places in a cell.
    #[expect(clippy::cast_possible_truncation, reason = "a cell has fewer than 256 bytes")]
    pub(super) const fn small(number: usize) -> u8 {
        number as u8
    }
}

impl Measure {
    /// What has been used of a window that begins now.
    #[inline]
    pub(super) fn begin(&self, fresh: u64, now: u64) -> Tenure {
        let head = Head { time: LONG_AGO, count: 0, first: 0, is_changed: false };
        each!(self, one => one.tenure(head, &[0; LARGE], fresh, now))
    }

    /// What an event takes up.
    #[inline(always)]
    pub(super) fn weight(self, cost: u64) -> u64 {
        each!(self, one => one.weight(cost))
    }

    /// Milliseconds of what is told apart.
    pub(super) fn step(self) -> u64 {
        each!(self, one => one.step())
    }

    /// Whether nothing counts any more in a cell with such a head.
    pub(super) fn is_over(self, head: Head, now: u64) -> bool {
        each!(self, one => one.is_over(head, now))
    }

    /// Whether what another one wrote down means the same here.
    pub(super) fn reads(self, other: Self) -> bool {
        match (self, other) {
            (Self::Fixed(one), Self::Fixed(other)) => one == other,
            (Self::Log16(one), Self::Log16(other)) => one.reads(other),
            (Self::Log32(one), Self::Log32(other)) => one.reads(other),
            (Self::Buckets8(one), Self::Buckets8(other)) => one == other,
            (Self::Buckets16(one), Self::Buckets16(other)) => one == other,
            (Self::Buckets32(one), Self::Buckets32(other)) => one == other,
            _ => false,
        }
    }

    /// Bytes that a cell of this count has to say.
    pub(super) fn saved(self, count: u8) -> usize {
        each!(self, one => one.saved(count))
    }

    /// A head's time on a clock that shows `by` milliseconds more; later rather
    /// than sooner, but not later than if it were now.
    pub(super) fn shift(self, time: u64, by: i64, now: u64) -> u64 {
        let latest = each!(self, one => one.latest(now));
        let step = i64::try_from(self.step()).unwrap_or(i64::MAX);
        let steps = by.saturating_add(step - 1).div_euclid(step);
        time.saturating_add_signed(steps).min(latest)
    }
}

/// See the module.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Cell<const BYTES: usize> {
    pub(super) key: Key,
    pub(super) head: Head,
    pub(super) bytes: [u8; BYTES],
}

// Nobody's count lies in more cache lines than it has to.
const _: () = assert!(size_of::<Cell<SMALL>>() == 64 && size_of::<Cell<LARGE>>() == 128);

impl<const BYTES: usize> Cell<BYTES> {
    /// One that never counted anything.
    pub(super) const fn new(key: Key) -> Self {
        let head = Head { time: LONG_AGO, count: 0, first: 0, is_changed: false };
        Self { key, head, bytes: [0; BYTES] }
    }

    /// What has been used of the window that ends now, with `fresh` more of this very
    /// moment.
    #[inline(always)]
    pub(super) fn tenure(&self, measure: &Measure, fresh: u64, now: u64) -> Tenure {
        each!(measure, one => one.tenure(self.head, &self.bytes, fresh, now))
    }

    /// Another `cost`, which is not 0.
    #[inline]
    pub(super) fn charge(&mut self, measure: &Measure, at: u64, cost: u64) {
        self.head.is_changed = true;
        each!(measure, one => one.charge(&mut self.head, &mut self.bytes, at, cost));
    }

    /// Another `cost` if no more than `max` are used up with it; what was before it.
    #[inline(always)]
    pub(super) fn charge_within(
        &mut self,
        measure: &Measure,
        (cost, max): (u64, u64),
        now: u64,
    ) -> Option<Tenure> {
        let tenure = each!(measure, one => {
            one.charge_within(&mut self.head, &mut self.bytes, (cost, max), now)
        })?;
        self.head.is_changed |= cost > 0;
        Some(tenure)
    }

    /// Whether a charge of that time counts now.
    pub(super) fn counts(&self, measure: Measure, at: u64, now: u64) -> bool {
        each!(measure, one => one.counts(self.head, &self.bytes, at, now))
    }

    /// Takes back what was charged at that time, as far as it is still there.
    pub(super) fn refund(&mut self, measure: Measure, at: u64, cost: u64) {
        let is_changed =
            each!(measure, one => one.refund(&mut self.head, &mut self.bytes, at, cost));
        self.head.is_changed |= is_changed;
    }

    /// Forgets everything.
    pub(super) const fn clear(&mut self) {
        self.head = Head { time: LONG_AGO, count: 0, first: 0, is_changed: true };
    }

    /// Whether it went early.
    pub(super) const fn is_cleared(&self) -> bool {
        self.head.time == LONG_AGO
    }

    /// What it says beside its key and its head, in an order that no ring matters
    /// to.
    pub(super) fn save(&self, measure: Measure, into: &mut Vec<u8>) {
        each!(measure, one => one.save(self.head, &self.bytes, into));
    }

    /// Says what another one said, as far as it has room for it.
    pub(super) fn load(&mut self, measure: Measure, time: u64, count: u8, saved: &[u8]) {
        self.head = Head { time, count, first: 0, is_changed: true };
        self.bytes = [0; BYTES];
        each!(measure, one => one.load(&mut self.head, &mut self.bytes, saved));
    }

    /// Whether nothing in it counts any more.
    pub(super) fn is_over(&self, measure: Measure, now: u64) -> bool {
        measure.is_over(self.head, now)
    }
}
