//! Whom this CPU has found banned within this tick of the timer, so that a flood
//! from few sources is looked up once a tick. It only ever knows of bans: whom
//! it does not know is looked up.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use moderation_common::{Control, Source};

use crate::clock;

/// Sources that are remembered at most: more than attack one host from few
/// places, and few enough to stay in the CPU's first cache.
const REMEMBERED: u32 = 64;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Finding {
    /// In which tick, by which a ban's end is judged as well.
    tick: u64,
    /// The source's key.
    key: u64,
    /// Its family, and the generation of the bans that it was found among: none
    /// has been lifted since.
    family: u32,
    generation: u32,
}

#[map]
static RECENT: PerCpuArray<Finding> = PerCpuArray::with_max_entries(REMEMBERED, 0);

/// What is remembered in the place of one source, and what would be if that
/// source were banned.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    place: *mut Finding,
    banned: Finding,
}

/// The memory for a source with this hash.
#[inline(always)]
pub(crate) fn of(source: Source, hash: u64, control: &Control) -> Option<Memory> {
    // Bits that the prefilter's first look does not use.
    let place = RECENT.get_ptr_mut((hash >> 24 & 0xff) as u32 % REMEMBERED)?;
    let (family, key) = match source {
        Source::V4(key) => (4, u64::from(key)),
        Source::V6(key) => (6, key),
    };
    let banned =
        Finding { tick: clock::tick_number(), key, family, generation: control.generation };
    Some(Memory { place, banned })
}

impl Memory {
    /// Whether the source was found banned, and nothing has changed since.
    #[inline(always)]
    pub(crate) fn is_banned(self) -> bool {
        // SAFETY: the row is this CPU's own.
        #[expect(unsafe_code, reason = "map values are reached by pointer")]
        let known = unsafe { *self.place };
        known == self.banned
    }

    /// Remembers that the source was found banned.
    #[inline(always)]
    pub(crate) fn note(self) {
        // SAFETY: as above.
        #[expect(unsafe_code, reason = "map values are reached by pointer")]
        unsafe {
            *self.place = self.banned;
        }
    }
}
