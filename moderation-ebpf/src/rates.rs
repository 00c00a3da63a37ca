//! Connection attempts per source in a fixed window. It only counts: a bare
//! SYN can be forged and must never cause a ban.

use aya_ebpf::{Global, helpers::bpf_ktime_get_boot_ns, macros::map, maps::LruHashMap};
use moderation_common::{Source, SynEntry, SynKey};

/// Length of the window; the loader overrides it.
#[expect(unsafe_code, reason = "the loader finds the variable by its symbol")]
#[unsafe(no_mangle)]
static SYN_WINDOW_NS: Global<u64> = Global::new(10_000_000_000);

/// An LRU, because anyone can fill it with forged sources: what is lost is a
/// count, not a ban.
#[map]
static SYNS: LruHashMap<SynKey, SynEntry> = LruHashMap::with_max_entries(65_536, 0);

/// Counts one connection attempt of `source`.
#[inline(always)]
pub(crate) fn count(source: Source) {
    let key = SynKey::from(source);
    // SAFETY: the helper only reads a clock.
    #[expect(unsafe_code, reason = "every kernel helper is foreign code")]
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    match SYNS.get_ptr_mut(key) {
        Some(entry) => add(entry, now_ns),
        // A lost race or a full LRU loses one count of a rate, which is
        // noise; the packet passes either way.
        None => drop(SYNS.insert(key, SynEntry { window_start_ns: now_ns, syns: 1 }, 0)),
    }
}

#[inline(always)]
fn add(entry: *mut SynEntry, now_ns: u64) {
    // SAFETY: the kernel keeps the entry alive until the program returns. Two
    // CPUs may write at once; each field is an aligned word, so that the worst
    // is a miscount of this window.
    #[expect(unsafe_code, reason = "map values are reached by pointer")]
    unsafe {
        // Another CPU may have begun a window a moment later than now.
        if now_ns.saturating_sub((*entry).window_start_ns) >= SYN_WINDOW_NS.load() {
            (*entry).window_start_ns = now_ns;
            (*entry).syns = 1;
        } else {
            (*entry).syns += 1;
        }
    }
}
