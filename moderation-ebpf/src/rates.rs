//! Counting by source: connection attempts (SYN) in a sketch and, of those who
//! stand out in it, exactly; completed handshakes exactly.
//!
//! A bare SYN can be forged: it never causes a ban. Too many of one source are
//! dropped while they are too many, by the exact count alone. A completed
//! handshake cannot be forged, and is told to the daemon.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LruHashMap, RingBuf},
};
use moderation_common::{
    Alarm, Overrun, RateEntry, RateKey, SketchBlock, Source,
    map::{MAX_HANDSHAKES, OVERRUN_BYTES},
    suspicious,
};
use moderation_ebpf::sketch;

use crate::{clock, counters};

#[expect(unsafe_code, reason = "the loader finds the variable by its symbol")]
#[unsafe(no_mangle)]
static SYN_LIMIT: Global<u64> = Global::new(0);
#[expect(unsafe_code, reason = "the loader finds the variable by its symbol")]
#[unsafe(no_mangle)]
static SKETCH_MASK: Global<u64> = Global::new(0);
#[expect(unsafe_code, reason = "the loader finds the variable by its symbol")]
#[unsafe(no_mangle)]
static CONNECTION_LIMIT: Global<u64> = Global::new(0);
#[expect(unsafe_code, reason = "the loader finds the variable by its symbol")]
#[unsafe(no_mangle)]
static CONNECTION_HALF_NS: Global<u64> = Global::new(5_000_000_000);

/// Both halves of the sketch; the loader sets the size. Mappable, because the
/// entries of such an array begin at a page, and so each at a cache line.
#[map]
static SKETCH: Array<[u64; 8]> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// Plain, not an LRU: whoever makes many sources look heavy cannot push out
/// those that are. Emptied of quiet sources by user space.
#[map]
static HEAVY: HashMap<RateKey, RateEntry> = HashMap::with_max_entries(16_384, 0);

/// An LRU: handshakes cannot be forged, and what is lost is the count of the
/// source that was quiet longest.
#[map]
static HANDSHAKES: LruHashMap<RateKey, RateEntry> = LruHashMap::with_max_entries(MAX_HANDSHAKES, 0);

#[map]
static OVERRUNS: RingBuf = RingBuf::with_byte_size(OVERRUN_BYTES, 0);

/// Counts a connection attempt; `true` if its source has made too many.
#[inline(always)]
pub(crate) fn is_too_fast(source: Source, hash: u64) -> bool {
    let limit = SYN_LIMIT.load();
    if limit == 0 {
        return false;
    }
    let epoch = clock::syn_epoch();
    if suspicion(epoch, hash) <= suspicious(limit) {
        return false;
    }
    match exact(source, epoch) {
        Some(entry) => shed(entry, epoch, limit),
        None => {
            counters::alarm(Alarm::HeavyFull);
            false
        }
    }
}

#[inline(always)]
fn suspicion(epoch: u64, hash: u64) -> u64 {
    // A source's two halves lie side by side: a CPU that fetches the one line
    // mostly fetches the other with it.
    let pair = 2 * ((hash >> 32) & SKETCH_MASK.load());
    let half = epoch & 1;
    let (Some(current), Some(previous)) =
        (sketch_block(pair + half), sketch_block(pair + (half ^ 1)))
    else {
        return 0;
    };
    let count = sketch::count(current, previous, epoch, hash);
    let limit = SYN_LIMIT.load();
    if u64::from(count) <= suspicious(limit) {
        return 0;
    }
    u64::from(sketch::without_noise(current, previous, epoch, hash))
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the sketch has at most 2^19 blocks")]
fn sketch_block(index: u64) -> Option<&'static SketchBlock> {
    let words = SKETCH.get_ptr_mut(index as u32)?;
    // SAFETY: eight words that are there as long as the map, aligned to a cache
    // line. Other CPUs write them at the same time; see `SketchBlock`.
    #[expect(unsafe_code, reason = "map values are reached by pointer")]
    Some(unsafe { &*words.cast::<SketchBlock>() })
}

/// The source's place in the exact table, made if there is room.
#[inline(always)]
fn exact(source: Source, epoch: u64) -> Option<*mut RateEntry> {
    let key = RateKey::from(source);
    if let Some(entry) = HEAVY.get_ptr_mut(key) {
        return Some(entry);
    }
    let mut fresh = RateEntry { halves: [0; 2], excess: 0 };
    fresh.halves[(epoch & 1) as usize] = epoch << 32;
    const ONLY_NEW: u64 = 1; // BPF_NOEXIST
    // Refused if another CPU was quicker, whose entry counts then, or for want of
    // room, of which the look tells.
    HEAVY.insert(key, fresh, ONLY_NEW).ok();
    HEAVY.get_ptr_mut(key)
}

/// Counts exactly; attempts that are dropped count too, so that the source has
/// to become slower before it is heard again.
#[inline(always)]
fn shed(entry: *mut RateEntry, epoch: u64, limit: u64) -> bool {
    let count = count(entry, epoch);
    if count <= limit {
        return false;
    }
    // SAFETY: as in `count`.
    #[expect(unsafe_code, reason = "map values are reached by pointer")]
    unsafe {
        increment(&raw mut (*entry).excess);
    }
    true
}

/// Adds one to the current half and gives the count of the window.
#[inline(always)]
fn count(entry: *mut RateEntry, epoch: u64) -> u64 {
    let number = epoch & 0xffff_ffff;
    // SAFETY: the kernel keeps the entry alive until the program returns, and
    // its words are aligned. Other CPUs write them too, each as a whole.
    #[expect(unsafe_code, reason = "map values are reached by pointer")]
    unsafe {
        let halves = (&raw mut (*entry).halves).cast::<u64>();
        let half = halves.add((number & 1) as usize);
        if *half >> 32 == number {
            increment(half);
        } else {
            // Two CPUs that begin the half at the same moment lose one count.
            *half = number << 32 | 1;
        }
        (*entry).count_at(number as u32)
    }
}

/// Adds one, whatever other CPUs do. The intrinsic, because `AtomicU64` has no
/// addition on a target without compare-and-swap.
///
/// # Safety
///
/// `word` must be an aligned word of a map's value.
#[inline(always)]
#[expect(unsafe_code, reason = "map values are reached by pointer")]
unsafe fn increment(word: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, 1) };
}

/// Counts a completed handshake, and tells the daemon of those beyond the limit.
#[inline(always)]
pub(crate) fn handshake(source: Source, address: [u8; 16]) {
    let limit = CONNECTION_LIMIT.load();
    let epoch = clock::epoch(CONNECTION_HALF_NS.load());
    let key = RateKey::from(source);
    let entry = match HANDSHAKES.get_ptr_mut(key) {
        Some(entry) => entry,
        None => {
            HANDSHAKES.insert(key, RateEntry { halves: [0; 2], excess: 0 }, 0).ok();
            let Some(entry) = HANDSHAKES.get_ptr_mut(key) else { return };
            entry
        }
    };
    let count = count(entry, epoch);
    if limit == 0 || count <= limit {
        return;
    }
    // SAFETY: as in `count`.
    #[expect(unsafe_code, reason = "map values are reached by pointer")]
    unsafe {
        increment(&raw mut (*entry).excess);
    }
    match OVERRUNS.reserve::<Overrun>(0) {
        Some(mut slot) => {
            slot.write(Overrun { source: key, address, count });
            slot.submit(0);
        }
        None => counters::alarm(Alarm::OverrunLost),
    }
}
