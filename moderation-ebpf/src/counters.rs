//! Packets and bytes by reason, and what was lost, one row per CPU: no
//! contention, summed by user space.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use moderation_common::{Alarm, Counter, Reason};

use crate::log;

#[map]
static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(REASONS, 0);
#[map]
static ALARMS: PerCpuArray<u64> = PerCpuArray::with_max_entries(ALARM_KINDS, 0);

#[expect(clippy::cast_possible_truncation, reason = "a handful of reasons")]
const REASONS: u32 = Reason::ALL.len() as u32;
#[expect(clippy::cast_possible_truncation, reason = "a handful of alarms")]
const ALARM_KINDS: u32 = Alarm::ALL.len() as u32;

/// Counts one packet of `bytes` bytes under the reason of that number.
#[inline(always)]
pub(crate) fn count(reason: u32, bytes: usize) {
    let Some(counter) = COUNTERS.get_ptr_mut(reason) else {
        return;
    };
    // SAFETY: the row is this CPU's own, and an XDP program is not preempted
    // by another one on its CPU.
    #[expect(unsafe_code, reason = "map values are reached by pointer")]
    unsafe {
        (*counter).packets += 1;
        (*counter).bytes += bytes as u64;
    }
}

/// Counts something that was lost, and tells of it now and then.
#[inline(always)]
pub(crate) fn alarm(alarm: Alarm) {
    let Some(count) = ALARMS.get_ptr_mut(alarm.index()) else {
        return;
    };
    // SAFETY: the row is this CPU's own. Should one program interrupt another
    // on it, one count is lost of something that is lost in thousands.
    #[expect(unsafe_code, reason = "map values are reached by pointer")]
    let count = unsafe {
        *count += 1;
        *count
    };
    log::alarm(alarm, count);
}
