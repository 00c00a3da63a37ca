//! A window in pieces, for large limits and for costs other than one: each piece
//! has a sum, in a ring, and counts until all of it has left the window. An
//! event may count for a piece too long, never too short.

use super::cell::{Head, LARGE, Tenure, greatest, read, write};

/// How a limiter's pieces are measured, with sums of so many bytes. A head's time
/// is the newest piece, and no piece further behind it than its count has a sum.
/// The greatest sum means "that or more", and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buckets<const WIDTH: usize> {
    /// Milliseconds of a piece.
    width: u64,
    /// Pieces that count, with the newest.
    span: u64,
    /// What a sum of one stands for, rounded up.
    unit: u64,
}

impl<const WIDTH: usize> Buckets<WIDTH> {
    const PIECES: u64 = (LARGE / WIDTH) as u64;

    /// For limits up to `max`.
    pub(super) fn new(window_ms: u64, max: u64) -> Self {
        let width = window_ms.div_ceil(Self::PIECES - 1).max(1);
        // From the last millisecond of a piece to that of the last that counts.
        let span = window_ms.checked_sub(1).map_or(0, |rest| 1 + rest.div_ceil(width));
        Self { width, span, unit: max.div_ceil(greatest::<WIDTH>() - 1).max(1) }
    }

    /// Where the sum of a piece is.
    #[expect(clippy::cast_possible_truncation, reason = "there are few pieces")]
    const fn place(piece: u64) -> usize {
        (piece % Self::PIECES) as usize
    }

    fn sum(ring: &[u8], piece: u64) -> u64 {
        read::<WIDTH>(ring, Self::place(piece))
    }

    fn set_sum(ring: &mut [u8], piece: u64, sum: u64) {
        write::<WIDTH>(ring, Self::place(piece), sum.min(greatest::<WIDTH>()));
    }

    const fn piece(self, at: u64) -> u64 {
        at / self.width
    }

    /// What an event takes up.
    pub(super) const fn weight(self, cost: u64) -> u64 {
        if self.unit == 1 { cost } else { cost.div_ceil(self.unit).saturating_mul(self.unit) }
    }

    /// More than this is not told apart; it is more than the limit.
    const fn most(self) -> u64 {
        greatest::<WIDTH>().saturating_mul(self.unit)
    }

    const fn leaves(self, piece: u64) -> u64 {
        piece.saturating_add(self.span).saturating_mul(self.width)
    }

    /// How many pieces there are from the newest to now's; `None` if all that was
    /// counted has left the window.
    fn passed(self, head: Head, now: u64) -> Option<u64> {
        let passed = self.piece(now).saturating_sub(head.time);
        Some(passed).filter(|passed| *passed < self.span)
    }

    /// Whether everything has left the window.
    pub(super) fn is_over(self, head: Head, now: u64) -> bool {
        self.passed(head, now).is_none()
    }

    pub(super) fn tenure(self, head: Head, ring: &[u8], fresh: u64, now: u64) -> Tenure {
        let (mut total, mut oldest) = (0, self.piece(now));
        if let Some(passed) = self.passed(head, now) {
            total = (0..LARGE / WIDTH).map(|place| read::<WIDTH>(ring, place)).sum();
            let first = (head.time + passed + 1).saturating_sub(self.span);
            let mut piece = head.time - u64::from(head.count);
            while piece < first {
                total -= Self::sum(ring, piece);
                piece += 1;
            }
            while total > 0 && Self::sum(ring, piece) == 0 {
                piece += 1;
            }
            oldest = if total > 0 { piece } else { oldest };
        }
        let used = total.saturating_mul(self.unit).saturating_add(fresh).min(self.most());
        Tenure { used, frees_at: self.leaves(oldest) }
    }

    /// Another `cost` if no more than `max` are used up with it; what was before it.
    pub(super) fn charge_within(
        self,
        head: &mut Head,
        ring: &mut [u8],
        (cost, max): (u64, u64),
        now: u64,
    ) -> Option<Tenure> {
        let tenure = self.tenure(*head, ring, 0, now);
        if !tenure.has_room_for(cost, max) {
            return None;
        }
        if cost > 0 {
            self.charge(head, ring, now, cost);
        }
        Some(tenure)
    }

    /// Another `cost`.
    pub(super) fn charge(self, head: &mut Head, ring: &mut [u8], at: u64, cost: u64) {
        match self.passed(*head, at) {
            None => {
                ring.fill(0);
                *head = Head { time: self.piece(at), count: 0, ..*head };
            }
            Some(passed) => {
                for piece in head.time + 1..=head.time + passed {
                    Self::set_sum(ring, piece, 0);
                }
                head.time += passed;
                let behind = (u64::from(head.count) + passed).min(Self::PIECES - 1);
                head.count = Head::small(usize::try_from(behind).unwrap_or(0));
            }
        }
        while head.count > 0 && Self::sum(ring, head.time - u64::from(head.count)) == 0 {
            head.count -= 1;
        }
        let sum = Self::sum(ring, head.time).saturating_add(cost.div_ceil(self.unit));
        Self::set_sum(ring, head.time, sum);
    }

    /// The piece in which a charge of that time is, and its sum. Nobody knows what
    /// is in one that is full, or in none.
    fn find(self, head: Head, ring: &[u8], at: u64) -> Option<(u64, u64)> {
        let piece = self.piece(at);
        let behind = head.time.checked_sub(piece)?;
        let sum = Self::sum(ring, piece);
        let is_known = behind < Self::PIECES && (1..greatest::<WIDTH>()).contains(&sum);
        is_known.then_some((piece, sum))
    }

    /// Whether a charge of that time counts now.
    pub(super) fn counts(self, head: Head, ring: &[u8], at: u64, now: u64) -> bool {
        let is_in = self.piece(now).saturating_sub(self.piece(at)) < self.span;
        is_in && self.find(head, ring, at).is_some()
    }

    /// Takes back what was charged at that time, if it is still there. Whether that
    /// changed anything.
    pub(super) fn refund(self, head: &mut Head, ring: &mut [u8], at: u64, cost: u64) -> bool {
        let Some((piece, sum)) = self.find(*head, ring, at) else { return false };
        Self::set_sum(ring, piece, sum.saturating_sub(cost.div_ceil(self.unit)));
        true
    }

    pub(super) const fn step(self) -> u64 {
        self.width
    }

    /// The latest time of a cell that comes from another clock: its pieces began
    /// elsewhere in theirs, and may end later than here, not sooner.
    pub(super) const fn latest(self, now: u64) -> u64 {
        now.div_ceil(self.width)
    }

    pub(super) const fn saved(self, count: u8) -> usize {
        (count as usize + 1) * WIDTH
    }

    /// The sums, newest first.
    pub(super) fn save(self, head: Head, ring: &[u8], into: &mut Vec<u8>) {
        for behind in 0..=u64::from(head.count) {
            let sum = Self::sum(ring, head.time.saturating_sub(behind));
            into.extend_from_slice(&sum.to_le_bytes()[..WIDTH]);
        }
    }

    pub(super) fn load(self, head: &mut Head, ring: &mut [u8], saved: &[u8]) {
        head.count = Head::small(head.count().min(LARGE / WIDTH - 1));
        for behind in 0..=head.count() {
            let piece = head.time.saturating_sub(behind as u64);
            Self::set_sum(ring, piece, read::<WIDTH>(saved, behind));
        }
    }
}
