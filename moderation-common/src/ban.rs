//! The value of a ban in the kernel.

/// One ban, the value stored under a source in `BANS_V4` and `BANS_V6`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanEntry {
    /// When the ban lapses, in nanoseconds of `CLOCK_BOOTTIME` (the clock of
    /// `bpf_ktime_get_boot_ns`); [`BanEntry::NEVER`] for a permanent ban.
    pub expires_at_ns: u64,
}

impl BanEntry {
    /// The expiry of a ban that does not lapse.
    pub const NEVER: u64 = u64::MAX;

    /// Whether the ban still holds at `now_ns` (`CLOCK_BOOTTIME`).
    #[inline(always)]
    pub const fn holds_at(self, now_ns: u64) -> bool {
        now_ns < self.expires_at_ns
    }
}

// A field added without thought to its alignment would put uninitialized
// padding into a kernel map value; fail the build instead.
const _: () = assert!(size_of::<BanEntry>() == size_of::<u64>());
