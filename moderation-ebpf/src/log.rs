//! Lines in the daemon's log about what should be rare: the first of a kind on a
//! CPU, and then at most one a minute. Nothing is counted here, and a line that
//! finds no room is lost: the alarms count. Every line is a function of its own,
//! so that a program has only those that it needs, away from a packet's way.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use aya_log_ebpf::{error, warn};
use moderation_common::{
    Alarm,
    map::{HANDSHAKE_PROGRAM, LINE_KINDS, PROGRAM},
};

use crate::clock;

/// When this CPU last wrote each kind of line, by the coarse clock.
#[map]
static TOLD: PerCpuArray<u64> = PerCpuArray::with_max_entries(LINE_KINDS, 0);

/// For so long a CPU writes no other line of the kind.
const SILENCE_NS: u64 = 60_000_000_000;

/// Kinds of lines beside those of the alarms, which have the alarm's index.
const NO_CONTROL: u32 = LINE_KINDS - 2;
const SHORT_FILTER: u32 = LINE_KINDS - 1;

/// Tells of something lost, of which this CPU has counted so much.
#[inline(always)]
pub(crate) fn alarm(alarm: Alarm, count: u64) {
    match alarm {
        Alarm::HeavyFull => heavy_full(count),
        Alarm::SampleLost => sample_lost(count),
        Alarm::OverrunLost => overrun_lost(count),
    }
}

#[cold]
#[inline(never)]
fn heavy_full(count: u64) {
    if is_time(Alarm::HeavyFull.index()) {
        warn!(
            (),
            target: PROGRAM,
            "a source that opens connections too fast passes: the exact table is full \
             (network.syn.table); attempts so far on this CPU: {}", count
        );
    }
}

#[cold]
#[inline(never)]
fn sample_lost(count: u64) {
    if is_time(Alarm::SampleLost.index()) {
        warn!((), target: PROGRAM, "the ring of samples is full; lost so far on this CPU: {}", count);
    }
}

#[cold]
#[inline(never)]
fn overrun_lost(count: u64) {
    if is_time(Alarm::OverrunLost.index()) {
        warn!(
            (),
            target: HANDSHAKE_PROGRAM,
            "a handshake beyond the limit finds its ring full; lost so far on this CPU: {}", count
        );
    }
}

/// Tells of a loader's mistake: every packet passes.
#[cold]
#[inline(never)]
pub(crate) fn no_control() {
    if is_time(NO_CONTROL) {
        error!((), target: PROGRAM, "there are no switches: nothing is judged");
    }
}

/// Tells of a loader's mistake: the prefilter lets all pass to the exact maps.
#[cold]
#[inline(never)]
pub(crate) fn short_filter() {
    if is_time(SHORT_FILTER) {
        error!((), target: PROGRAM, "the prefilter is shorter than the program was told");
    }
}

/// Whether a line of that kind may be written; it then counts as written.
#[inline(always)]
fn is_time(kind: u32) -> bool {
    let Some(told) = TOLD.get_ptr_mut(kind) else { return false };
    let now = clock::coarse_ns();
    // SAFETY: the row is this CPU's own. Should one program interrupt another on
    // it, there are two lines.
    #[expect(unsafe_code, reason = "map values are reached by pointer")]
    unsafe {
        if *told != 0 && now.wrapping_sub(*told) < SILENCE_NS {
            return false;
        }
        *told = now;
    }
    true
}
