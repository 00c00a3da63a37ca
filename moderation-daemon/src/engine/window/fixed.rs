//! A fixed window: it begins with a key's first event, every event in it counts,
//! and it ends as a whole, as with express-rate-limit. Around an end it lets
//! twice its limit through; whoever minds takes another shape.

use super::cell::{Head, Tenure};

/// How a limiter's fixed windows are measured. A head's time is when the window
/// ends; what was used of it lies in the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    /// Milliseconds.
    pub(super) window: u64,
}

impl Fixed {
    /// When a window ends that begins now.
    pub(super) const fn end(self, now: u64) -> u64 {
        now.saturating_add(self.window)
    }

    /// What an event takes up.
    pub(super) const fn weight(self, cost: u64) -> u64 {
        cost
    }

    /// Whether the window has ended.
    pub(super) const fn is_over(self, head: Head, now: u64) -> bool {
        head.time <= now
    }

    fn used(bytes: &[u8]) -> u64 {
        bytes.first_chunk().copied().map_or(0, u64::from_le_bytes)
    }

    fn set_used(bytes: &mut [u8], used: u64) {
        bytes[..size_of::<u64>()].copy_from_slice(&used.to_le_bytes());
    }

    pub(super) fn tenure(self, head: Head, bytes: &[u8], fresh: u64, now: u64) -> Tenure {
        if self.is_over(head, now) {
            return Tenure { used: fresh, frees_at: self.end(now) };
        }
        Tenure { used: Self::used(bytes).saturating_add(fresh), frees_at: head.time }
    }

    /// Another `cost` if no more than `max` are used up with it; what was before it.
    pub(super) fn charge_within(
        self,
        head: &mut Head,
        bytes: &mut [u8],
        (cost, max): (u64, u64),
        now: u64,
    ) -> Option<Tenure> {
        let tenure = self.tenure(*head, bytes, 0, now);
        if !tenure.has_room_for(cost, max) {
            return None;
        }
        if cost > 0 {
            self.charge(head, bytes, now, cost);
        }
        Some(tenure)
    }

    /// Another `cost`, in this window or as the beginning of the next.
    pub(super) fn charge(self, head: &mut Head, bytes: &mut [u8], at: u64, cost: u64) {
        let mut used = Self::used(bytes);
        if head.time <= at {
            (head.time, used) = (self.end(at), 0);
        }
        Self::set_used(bytes, used.saturating_add(cost));
    }

    /// Whether a charge of that time, which is not to come, was made in this window, and the
    /// window is not over.
    pub(super) const fn counts(self, head: Head, _bytes: &[u8], at: u64, now: u64) -> bool {
        head.time.saturating_sub(self.window) <= at && now < head.time
    }

    /// Takes back what was charged at that time, if it was in this window. Whether
    /// that changed anything.
    pub(super) fn refund(self, head: &mut Head, bytes: &mut [u8], at: u64, cost: u64) -> bool {
        let used = Self::used(bytes);
        let is_in = self.counts(*head, bytes, at, at);
        let left = if is_in { used.saturating_sub(cost) } else { used };
        Self::set_used(bytes, left);
        left != used
    }

    pub(super) const fn step(self) -> u64 {
        1
    }

    /// The time of a cell that begins now.
    pub(super) const fn latest(self, now: u64) -> u64 {
        self.end(now)
    }

    pub(super) const fn saved(self, _count: u8) -> usize {
        size_of::<u64>()
    }

    pub(super) fn save(self, _head: Head, bytes: &[u8], into: &mut Vec<u8>) {
        into.extend_from_slice(&bytes[..size_of::<u64>()]);
    }

    pub(super) fn load(self, _head: &mut Head, bytes: &mut [u8], saved: &[u8]) {
        bytes[..size_of::<u64>()].copy_from_slice(&saved[..size_of::<u64>()]);
    }
}
