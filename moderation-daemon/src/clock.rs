//! The only place that reads clocks.

use std::{
    fs, io,
    time::{Duration, SystemTime},
};

use moderation_common::BanEntry;
use nix::time::{ClockId, clock_gettime};
use tokio::time::{Interval, MissedTickBehavior};

use crate::engine::Moment;

/// Now, by wall clock and boot clock.
pub fn now() -> Moment {
    Moment { boot_ms: boot_ns() / 1_000_000, unix_ms: unix_ms() }
}

/// Nanoseconds of `CLOCK_BOOTTIME`, the clock of `bpf_ktime_get_boot_ns`: it
/// counts suspended time and cannot be set.
pub fn boot_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had it since 2.6.39");
    u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
}

/// Which boot of this host `CLOCK_BOOTTIME` began with.
///
/// # Errors
///
/// If `/proc` does not say.
pub fn boot_id() -> io::Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim_end().to_owned())
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock behind `bpf_ktime_get_coarse_ns`,
/// by which the kernel programs count rates.
pub fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has always had it");
    u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970; 0 before that.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Ticks at once and then again and again; after a late one the next comes a whole period
/// later.
pub(crate) fn ticker(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// A wall-clock expiry as the kernel keeps it. `None` is never. The two clocks
/// drift apart when the wall clock is set; reconciling converts anew.
pub fn ban_entry(expires_at_unix_ms: Option<u64>, now_boot_ns: u64, now_unix_ms: u64) -> BanEntry {
    let expires_at_ns = expires_at_unix_ms.map_or(BanEntry::NEVER, |expiry| {
        let left_ms = expiry.saturating_sub(now_unix_ms);
        // Just short of NEVER: a ban with an end is not a permanent one.
        now_boot_ns.saturating_add(left_ms.saturating_mul(1_000_000)).min(BanEntry::NEVER - 1)
    });
    BanEntry { expires_at_ns }
}

/// A wall-clock time as text, RFC 3339 in UTC.
pub fn rfc3339(unix_ms: u64) -> String {
    let time =
        i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// The same as JavaScript prints dates: always with three digits of a second.
pub fn iso8601(unix_ms: u64) -> String {
    let time =
        i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let time = time.unwrap_or(jiff::Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_keeps_its_distance_from_now_when_it_changes_clocks() {
        const BOOT_NS: u64 = 7_000_000_000;
        let cases = [
            (Some(10_000), 5_000, BOOT_NS + 5_000_000_000),
            (Some(4_000), 4_500, BOOT_NS), // over already
            (None, 5_000, BanEntry::NEVER),
            (Some(u64::MAX), 0, BanEntry::NEVER - 1),
        ];
        for (expiry, now_unix_ms, want) in cases {
            let entry = ban_entry(expiry, BOOT_NS, now_unix_ms);
            assert_eq!(entry.expires_at_ns, want, "{expiry:?}");
        }
    }
}
