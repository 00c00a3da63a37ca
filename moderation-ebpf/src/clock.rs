//! The clocks. Reading one costs as much as all else that is done to a banned
//! packet, except for the number of the timer's tick, which is one load: so the
//! clocks are read once a tick and kept.

use aya_ebpf::{
    Global,
    helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns},
    macros::map,
    maps::PerCpuArray,
};

/// What a CPU reads once in a tick of the timer.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tick {
    /// Which tick: the kernel's `jiffies`.
    number: u64,
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    boot_ns: u64,
    /// The half window of connection attempts.
    syn_epoch: u64,
}

/// What this CPU read in the last tick in which it asked.
#[map]
static CLOCK: PerCpuArray<Tick> = PerCpuArray::with_max_entries(1, 0);

#[expect(unsafe_code, reason = "the loader finds the variable by its symbol")]
#[unsafe(no_mangle)]
static SYN_HALF_NS: Global<u64> = Global::new(5_000_000_000);

/// Nanoseconds of `CLOCK_BOOTTIME`, never ahead and at most a tick (1 to 10 ms)
/// behind, so that no ban ends early.
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    match tick() {
        Some(tick) => tick.boot_ns,
        None => exact_boot_ns(),
    }
}

/// The half window of connection attempts.
#[inline(always)]
pub(crate) fn syn_epoch() -> u64 {
    match tick() {
        Some(tick) => tick.syn_epoch,
        None => epoch(SYN_HALF_NS.load()),
    }
}

/// The number of the half window, of `half_ns` each, since boot.
#[inline(always)]
pub(crate) fn epoch(half_ns: u64) -> u64 {
    coarse_ns() / half_ns.max(1)
}

#[inline(always)]
fn tick() -> Option<&'static Tick> {
    let tick = CLOCK.get_ptr_mut(0)?;
    // SAFETY: the row is this CPU's own, and an XDP program is not preempted by
    // another one on its CPU.
    #[expect(unsafe_code, reason = "map values are reached by pointer")]
    unsafe {
        let number = tick_number();
        if (*tick).number != number {
            read(tick, number);
        }
        Some(&*tick)
    }
}

/// The running number of the timer's ticks.
#[inline(always)]
pub(crate) fn tick_number() -> u64 {
    // SAFETY: the helper only reads a number.
    #[expect(unsafe_code, reason = "every kernel helper is foreign code")]
    unsafe {
        bpf_jiffies64()
    }
}

/// Rarely, and so on its own.
///
/// # Safety
///
/// `tick` must be this CPU's row of `CLOCK`.
#[inline(always)]
#[expect(unsafe_code, reason = "map values are reached by pointer")]
unsafe fn read(tick: *mut Tick, number: u64) {
    let (boot_ns, syn_epoch) = (exact_boot_ns(), epoch(SYN_HALF_NS.load()));
    // SAFETY: the caller's promise.
    unsafe {
        *tick = Tick { number, boot_ns, syn_epoch };
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
