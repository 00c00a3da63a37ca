//! An exact log of the window, for small limits: one stamp an event. The newest
//! is kept in full, the older ones as their low bits, in a ring.
//!
//! A stamp is a tick, which is a millisecond, or a 65,535th of the window where
//! there are only 16 bits for it. No stamp is ever further from the newest than
//! a window, so low bits say it all, however long a key was quiet. An event's
//! tick is rounded up and now is rounded down: an event may count for two ticks
//! too long, never too short.

use super::cell::{Head, LONG_AGO, Tenure, greatest, read, write};

/// How a limiter's logs are measured, with stamps of so many bytes. A head's time
/// is the newest tick, its count is that of the older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Log<const WIDTH: usize> {
    /// Milliseconds.
    tick: u64,
    /// Ticks of a window.
    span: u64,
    /// Events that are kept; one beyond that takes the oldest one's place, which
    /// changes no decision.
    most: u8,
}

impl<const WIDTH: usize> Log<WIDTH> {
    /// For limits up to `max`, in rings of so many bytes; `None` if they do not
    /// fit.
    pub(super) fn new(window_ms: u64, max: u64, bytes: usize) -> Option<Self> {
        let tick = window_ms.div_ceil(greatest::<WIDTH>()).max(1);
        let fits = max <= 1 + (bytes / WIDTH) as u64;
        let most = u8::try_from(max.max(1)).ok().filter(|_| fits)?;
        Some(Self { tick, span: window_ms.div_ceil(tick), most })
    }

    const fn most(self) -> u64 {
        self.most as u64
    }

    /// What an event takes up.
    pub(super) const fn weight(self, cost: u64) -> u64 {
        cost
    }

    /// The tick of an event.
    const fn tick_of(self, at: u64) -> u64 {
        if self.tick == 1 { at } else { at.div_ceil(self.tick) }
    }

    const fn leaves(self, tick: u64) -> u64 {
        let left = tick.saturating_add(self.span);
        if self.tick == 1 { left } else { left.saturating_mul(self.tick) }
    }

    /// When an event of now no longer counts.
    pub(super) const fn end(self, now: u64) -> u64 {
        self.leaves(self.tick_of(now))
    }

    /// Ages below this count now; 0 if not even the newest event does.
    #[inline]
    const fn horizon(self, head: Head, now: u64) -> u64 {
        let now = if self.tick == 1 { now } else { now / self.tick };
        self.span.saturating_add(head.time).saturating_sub(now)
    }

    /// Whether the newest event has left the window.
    pub(super) const fn is_over(self, head: Head, now: u64) -> bool {
        self.horizon(head, now) == 0
    }

    #[inline]
    const fn place<const BYTES: usize>(head: Head, index: usize) -> usize {
        let (place, places) = (head.first as usize + index, BYTES / WIDTH);
        if place < places { place } else { place - places }
    }

    /// How many ticks one of the older events was before the newest.
    #[inline]
    fn age<const BYTES: usize>(head: Head, ring: &[u8; BYTES], index: usize) -> u64 {
        let stamp = read::<WIDTH>(ring, Self::place::<BYTES>(head, index));
        head.time.wrapping_sub(stamp) & greatest::<WIDTH>()
    }

    /// How many of the older ones have left the window, and the age of the oldest
    /// event that has not.
    #[inline]
    fn gone<const BYTES: usize>(head: Head, ring: &[u8; BYTES], horizon: u64) -> (usize, u64) {
        for index in 0..head.count() {
            let age = Self::age(head, ring, index);
            if age < horizon {
                return (index, age);
            }
        }
        (head.count(), 0)
    }

    #[inline]
    pub(super) fn tenure<const BYTES: usize>(
        self,
        head: Head,
        ring: &[u8; BYTES],
        fresh: u64,
        now: u64,
    ) -> Tenure {
        let horizon = self.horizon(head, now);
        if horizon == 0 {
            return Tenure { used: fresh.min(self.most()), frees_at: self.end(now) };
        }
        let (gone, age) = Self::gone(head, ring, horizon);
        let used = 1 + (head.count() - gone) as u64;
        if fresh > 0 {
            return self.tenure_with((head, gone, used), ring, fresh, now);
        }
        Tenure { used, frees_at: self.leaves(head.time - age) }
    }

    /// With more events, which may have taken the places of some.
    #[cold]
    fn tenure_with<const BYTES: usize>(
        self,
        (head, gone, used): (Head, usize, u64),
        ring: &[u8; BYTES],
        fresh: u64,
        now: u64,
    ) -> Tenure {
        let all = used + fresh.min(self.most());
        let replaced = all.saturating_sub(self.most());
        let oldest = gone.saturating_add(usize::try_from(replaced).unwrap_or(usize::MAX));
        let frees_at = if replaced >= used {
            self.end(now)
        } else if oldest >= head.count() {
            self.leaves(head.time)
        } else {
            self.leaves(head.time - Self::age(head, ring, oldest))
        };
        Tenure { used: all.min(self.most()), frees_at }
    }

    /// So many more events, not 0.
    pub(super) fn charge<const BYTES: usize>(
        self,
        head: &mut Head,
        ring: &mut [u8; BYTES],
        at: u64,
        events: u64,
    ) {
        let horizon = self.horizon(*head, at);
        let (gone, _) = Self::gone(*head, ring, horizon);
        self.add((head, gone), ring, (at, events), horizon);
    }

    /// So many more if no more than `max` are in the window with them; what was in it
    /// before.
    #[inline(always)]
    pub(super) fn charge_within<const BYTES: usize>(
        self,
        head: &mut Head,
        ring: &mut [u8; BYTES],
        (events, max): (u64, u64),
        now: u64,
    ) -> Option<Tenure> {
        let horizon = self.horizon(*head, now);
        let (gone, age) = Self::gone(*head, ring, horizon);
        let tenure = if horizon == 0 {
            Tenure { used: 0, frees_at: self.end(now) }
        } else {
            let used = 1 + (head.count() - gone) as u64;
            Tenure { used, frees_at: self.leaves(head.time - age) }
        };
        if !tenure.has_room_for(events, max) {
            return None;
        }
        if events > 0 {
            self.add((head, gone), ring, (now, events), horizon);
        }
        Some(tenure)
    }

    /// So many more events, not 0, where so many have left the window.
    #[inline(always)]
    fn add<const BYTES: usize>(
        self,
        (head, gone): (&mut Head, usize),
        ring: &mut [u8; BYTES],
        (at, events): (u64, u64),
        horizon: u64,
    ) {
        let tick = self.tick_of(at);
        let mut events = events.min(self.most());
        if horizon == 0 {
            *head = Head { time: tick, count: 0, ..*head };
            events -= 1;
        } else {
            Self::forget_oldest::<BYTES>(head, gone);
        }
        for _ in 0..events {
            if head.count > 0 && head.count() + 1 >= usize::from(self.most) {
                // As many as there may be.
                Self::forget_oldest::<BYTES>(head, 1);
            }
            if self.most > 1 {
                let place = Self::place::<BYTES>(*head, head.count());
                write::<WIDTH>(ring, place, head.time);
                head.count += 1;
            }
            head.time = tick.max(head.time);
        }
    }

    /// Drops so many of the oldest, but not the newest.
    #[inline(always)]
    const fn forget_oldest<const BYTES: usize>(head: &mut Head, events: usize) {
        head.first = Head::small(Self::place::<BYTES>(*head, events));
        head.count -= Head::small(events);
    }

    /// Which of the older ones has the tick of that time, the newest of several;
    /// their number for the newest event.
    fn find<const BYTES: usize>(self, head: Head, ring: &[u8; BYTES], at: u64) -> Option<usize> {
        let age = head.time.checked_sub(self.tick_of(at))?;
        let has_age = |index: &usize| Self::age(head, ring, *index) == age;
        if age == 0 { Some(head.count()) } else { (0..head.count()).rfind(has_age) }
    }

    /// Whether there is an event of that time that counts now.
    pub(super) fn counts<const BYTES: usize>(
        self,
        head: Head,
        ring: &[u8; BYTES],
        at: u64,
        now: u64,
    ) -> bool {
        let age = head.time.saturating_sub(self.tick_of(at));
        age < self.horizon(head, now) && self.find(head, ring, at).is_some()
    }

    /// Takes so many events of that time out, as far as they are there. Whether that
    /// changed anything.
    pub(super) fn refund<const BYTES: usize>(
        self,
        head: &mut Head,
        ring: &mut [u8; BYTES],
        at: u64,
        events: u64,
    ) -> bool {
        let before = *head;
        for _ in 0..events.min(self.most()) {
            let Some(index) = self.find(*head, ring, at) else { break };
            let Some(last) = head.count().checked_sub(1) else {
                head.time = LONG_AGO;
                break;
            };
            let newest = head.time - Self::age(*head, ring, last);
            // Those behind it move up by one, and the newest takes the last place.
            for index in index..last {
                let next = read::<WIDTH>(ring, Self::place::<BYTES>(*head, index + 1));
                write::<WIDTH>(ring, Self::place::<BYTES>(*head, index), next);
            }
            if index > last {
                head.time = newest;
            }
            head.count -= 1;
        }
        (before.time, before.count) != (head.time, head.count)
    }

    /// The same stamps mean the same times.
    pub(super) const fn reads(self, other: Self) -> bool {
        self.tick == other.tick && self.span == other.span
    }

    pub(super) const fn step(self) -> u64 {
        self.tick
    }

    /// The time of a cell that begins now.
    pub(super) const fn latest(self, now: u64) -> u64 {
        self.tick_of(now)
    }

    pub(super) const fn saved(self, count: u8) -> usize {
        count as usize * WIDTH
    }

    /// How long before the newest event each older one was, oldest first.
    pub(super) fn save<const BYTES: usize>(
        self,
        head: Head,
        ring: &[u8; BYTES],
        into: &mut Vec<u8>,
    ) {
        for index in 0..head.count() {
            let age = Self::age(head, ring, index);
            into.extend_from_slice(&age.to_le_bytes()[..WIDTH]);
        }
    }

    pub(super) fn load<const BYTES: usize>(
        self,
        head: &mut Head,
        ring: &mut [u8; BYTES],
        saved: &[u8],
    ) {
        let room = usize::from(self.most) - 1;
        let surplus = head.count().saturating_sub(room);
        head.count = Head::small(head.count() - surplus);
        for index in 0..head.count() {
            let age = read::<WIDTH>(saved, surplus + index);
            write::<WIDTH>(ring, index, head.time.wrapping_sub(age));
        }
    }
}
