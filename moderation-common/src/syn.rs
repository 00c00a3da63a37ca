//! Connection attempts (SYN without ACK) counted by source.

use crate::Source;

/// The key in `SYNS`: family (4 or 6) and the source's ban key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynKey {
    /// 4 or 6.
    pub family: u64,
    /// The source as in [`Source`]; an IPv4 key fills the low half.
    pub source: u64,
}

impl From<Source> for SynKey {
    #[inline(always)]
    fn from(source: Source) -> Self {
        match source {
            Source::V4(key) => Self { family: 4, source: key as u64 },
            Source::V6(key) => Self { family: 6, source: key },
        }
    }
}

/// The value in `SYNS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SynEntry {
    /// Start of the window that is being counted, nanoseconds of `CLOCK_BOOTTIME`.
    pub window_start_ns: u64,
    /// SYNs without ACK since then.
    pub syns: u64,
}

const _: () = assert!(size_of::<SynKey>() == size_of::<[u64; 2]>());
const _: () = assert!(size_of::<SynEntry>() == size_of::<[u64; 2]>());
