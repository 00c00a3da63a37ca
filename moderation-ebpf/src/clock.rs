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

/// For so long the coarse clock tells how far the boot clock has gone on. They
/// differ after a suspend only, during which the coarse one stands still.
const KNOWN_FOR_NS: u64 = 10_000_000;

/// Nanoseconds of `CLOCK_BOOTTIME`, at most a timer tick (1 to 10 ms) behind;
/// after a suspend, for the first hundredth of a second, as before it.
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    let coarse = coarse_ns();
    let Some(known) = CLOCK.get_ptr_mut(0) else { return exact_boot_ns() };
    // SAFETY: the row is this CPU's own.
    #[expect(unsafe_code, reason = "map values are reached by pointer")]
    unsafe {
        let since = coarse.wrapping_sub((*known)[0]);
        if since < KNOWN_FOR_NS {
            return (*known)[1] + since;
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
