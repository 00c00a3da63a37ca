//! What the daemon switches while the program runs, and small enumerations that
//! stand in maps.

/// The one value of `CONTROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Not 0: count what would be dropped, drop nothing.
    pub observe: u32,
    /// Not 0: there are single IPv6 addresses to look for.
    pub hosts: u32,
    /// Not 0: there are IPv4 blocks to look for.
    pub nets_v4: u32,
    /// Not 0: there are IPv6 blocks to look for.
    pub nets_v6: u32,
    /// One dropped packet in so many is put on the ring; 0: none.
    pub sample_every: u32,
    /// Another one whenever a ban was lifted: what was found out before is asked
    /// anew.
    pub generation: u32,
}

impl Control {
    /// Whether what is to be dropped is dropped and no more.
    #[inline(always)]
    pub const fn is_quiet(&self) -> bool {
        self.observe | self.sample_every == 0
    }
}

const _: () = assert!(size_of::<Control>() == 24);

/// Why a prefix in `GUARD_V4` and `GUARD_V6` is never dropped.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardClass {
    /// This host cannot do without it, or its operator sits there.
    Guard = 1,
    /// A proxy or CDN: behind it are many, who are told apart further up.
    Proxy = 2,
}

/// Flags of a port in `PORTS`.
pub mod port {
    /// Its connection attempts are never shed by rate.
    pub const UNSHED: u32 = 1;
    /// Banned sources reach it.
    pub const UNBANNED: u32 = 2;
}

/// What was lost or did not fit; the index into `ALARMS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// A heavy source passed uncounted: the exact table is full.
    HeavyFull = 0,
    /// A sample found its ring full.
    SampleLost = 1,
    /// A handshake beyond the limit found its ring full.
    OverrunLost = 2,
}

impl Alarm {
    /// Every alarm, in the order of the indexes.
    pub const ALL: [Self; 3] = [Self::HeavyFull, Self::SampleLost, Self::OverrunLost];

    /// The index into `ALARMS`.
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The label in metrics and in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HeavyFull => "rate_table_full",
            Self::SampleLost => "samples_lost",
            Self::OverrunLost => "overruns_lost",
        }
    }
}
