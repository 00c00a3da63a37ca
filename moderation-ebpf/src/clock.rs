//! The clocks. Reading one exactly costs as much as all else that is done to a
//! banned packet, so the exact one is read rarely and the coarse one often.

use aya_ebpf::{
    helpers::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns},
    macros::map,
    maps::PerCpuArray,
};

/// What this CPU last read: the coarse clock, and the boot clock with it.
#[map]
static CLOCK: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// For so long, by the coarse clock, what was read last is good enough.
const FRESH_FOR_NS: u64 = 10_000_000;

/// Nanoseconds of `CLOCK_BOOTTIME`, never ahead and at most two hundredths of a
/// second behind, so that no ban ends early. After a suspend, during which the
/// coarse clock stands still, it is behind for that long.
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    let coarse = coarse_ns();
    let Some(known) = CLOCK.get_ptr_mut(0) else { return exact_boot_ns() };
    // SAFETY: the row is this CPU's own.
    #[expect(unsafe_code, reason = "map values are reached by pointer")]
    unsafe {
        if coarse.wrapping_sub((*known)[0]) < FRESH_FOR_NS {
            return (*known)[1];
        }
        let boot = exact_boot_ns();
        *known = [coarse, boot];
        boot
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, at most a timer tick behind.
#[inline(always)]
pub(crate) fn coarse_ns() -> u64 {
    // SAFETY: the helper only reads a clock.
    #[expect(unsafe_code, reason = "every kernel helper is foreign code")]
    unsafe {
        bpf_ktime_get_coarse_ns()
    }
}

#[inline(always)]
fn exact_boot_ns() -> u64 {
    // SAFETY: the helper only reads a clock.
    #[expect(unsafe_code, reason = "every kernel helper is foreign code")]
    unsafe {
        bpf_ktime_get_boot_ns()
    }
}
