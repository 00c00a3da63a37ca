//! Names of the maps and of the programs: the symbol in the object file and the
//! file name of the pin; the read-only globals that the loader sets; fixed sizes.

/// Banned IPv4 addresses: [`v4_key`](crate::v4_key) to [`BanEntry`](crate::BanEntry).
pub const BANS_V4: &str = "BANS_V4";
/// Banned IPv6 /64s: [`v6_key`](crate::v6_key) to [`BanEntry`](crate::BanEntry).
pub const BANS_V6: &str = "BANS_V6";
/// Banned single IPv6 addresses: sixteen octets to [`BanEntry`](crate::BanEntry).
pub const BANS_HOST: &str = "BANS_HOST";
/// Banned IPv4 blocks: a longest-prefix-match trie to [`BanEntry`](crate::BanEntry).
pub const NETS_V4: &str = "NETS_V4";
/// Banned IPv6 blocks: a longest-prefix-match trie to [`BanEntry`](crate::BanEntry).
pub const NETS_V6: &str = "NETS_V6";
/// The prefilter in front of the exact maps: a bitmap, see [`Place`](crate::Place).
pub const FILTER: &str = "FILTER";
/// What the daemon switches while the program runs: [`Control`](crate::Control).
pub const CONTROL: &str = "CONTROL";
/// The secrets of the hashes: [`Seeds`](crate::Seeds). They live as long as the pins.
pub const SEEDS: &str = "SEEDS";
/// The operator's allowlist, IPv4: a longest-prefix-match trie of four octets.
pub const ALLOW_V4: &str = "ALLOW_V4";
/// The operator's allowlist, IPv6: a longest-prefix-match trie of sixteen octets.
pub const ALLOW_V6: &str = "ALLOW_V6";
/// Where there are allowed prefixes: a bitmap of [`Hint`](crate::Hint)s.
pub const ALLOW_HINTS: &str = "ALLOW_HINTS";
/// Where there are guards and proxies: like [`ALLOW_HINTS`]; only root can write it.
pub const GUARD_HINTS: &str = "GUARD_HINTS";
/// Guards and proxies, IPv4: like [`ALLOW_V4`], to a [`GuardClass`](crate::GuardClass);
/// only root can write it.
pub const GUARD_V4: &str = "GUARD_V4";
/// Guards and proxies, IPv6: like [`GUARD_V4`].
pub const GUARD_V6: &str = "GUARD_V6";
/// Ports with an exemption: the port to [`port flags`](crate::port); only root
/// can write it.
pub const PORTS: &str = "PORTS";
/// Packets per CPU by [`Reason`](crate::Reason): its number to [`Counter`](crate::Counter).
pub const COUNTERS: &str = "COUNTERS";
/// What was lost or did not fit, per CPU: an [`Alarm`](crate::Alarm) to a count.
pub const ALARMS: &str = "ALARMS";
/// The sketch of connection attempts; see [`SketchBlock`](crate::SketchBlock).
pub const SKETCH: &str = "SKETCH";
/// The clocks as they were read last, per CPU.
pub const CLOCK: &str = "CLOCK";
/// Whom each CPU has found banned lately.
pub const RECENT: &str = "RECENT";
/// Sources whose connection attempts are counted exactly:
/// [`RateKey`](crate::RateKey) to [`RateEntry`](crate::RateEntry).
pub const HEAVY: &str = "HEAVY";
/// Completed handshakes by source: [`RateKey`](crate::RateKey) to
/// [`RateEntry`](crate::RateEntry).
pub const HANDSHAKES: &str = "HANDSHAKES";
/// Handshakes beyond the limit, as they happen: a ring of [`Overrun`](crate::Overrun).
pub const OVERRUNS: &str = "OVERRUNS";
/// Dropped packets, one in so many: a ring of [`Sample`](crate::Sample).
pub const SAMPLES: &str = "SAMPLES";
/// Lines for the daemon's log: a ring in aya-log's form, and by its name.
pub const LINES: &str = "AYA_LOGS";
/// When each kind of line was last written, per CPU.
pub const TOLD: &str = "TOLD";

/// Maps that the daemon works on; a loader gives them to the daemon's user.
pub const DAEMON_MAPS: [&str; 18] = [
    BANS_V4,
    BANS_V6,
    BANS_HOST,
    NETS_V4,
    NETS_V6,
    FILTER,
    CONTROL,
    SEEDS,
    ALLOW_V4,
    ALLOW_V6,
    ALLOW_HINTS,
    COUNTERS,
    ALARMS,
    HEAVY,
    HANDSHAKES,
    OVERRUNS,
    SAMPLES,
    LINES,
];
/// Maps that stay root's and that the daemon may read, so that it knows whom a
/// ban would miss, and cannot ban whom they protect.
pub const GUARD_MAPS: [&str; 4] = [GUARD_V4, GUARD_V6, GUARD_HINTS, PORTS];
/// Maps that are root's alone.
pub const ROOT_MAPS: [&str; 4] = [SKETCH, CLOCK, RECENT, TOLD];

/// The XDP program's symbol.
pub const PROGRAM: &str = "moderation";
/// The symbol of the program that counts handshakes.
pub const HANDSHAKE_PROGRAM: &str = "handshakes";

/// Read-only globals, by symbol; all of them are `u64`.
pub mod global {
    /// First seed of the hashes.
    pub const SEED_A: &str = "SEED_A";
    /// Second seed of the hashes.
    pub const SEED_B: &str = "SEED_B";
    /// Words of the prefilter, a power of two, minus one.
    pub const FILTER_MASK: &str = "FILTER_MASK";
    /// Blocks of half the sketch, a power of two, minus one.
    pub const SKETCH_MASK: &str = "SKETCH_MASK";
    /// Connection attempts that a source may make in a window; 0: any number.
    pub const SYN_LIMIT: &str = "SYN_LIMIT";
    /// Half the window of connection attempts, in nanoseconds.
    pub const SYN_HALF_NS: &str = "SYN_HALF_NS";
    /// Handshakes that a source may complete in a window; 0: any number.
    pub const CONNECTION_LIMIT: &str = "CONNECTION_LIMIT";
    /// Not 0: a port has an exemption from bans.
    pub const UNBANNED_PORTS: &str = "UNBANNED_PORTS";
    /// Half the window of handshakes, in nanoseconds.
    pub const CONNECTION_HALF_NS: &str = "CONNECTION_HALF_NS";
}

/// Prefixes of each family in each allowlist: offices, monitors, guards. Not a
/// place for whole countries; a trie's cost grows with its size.
pub const MAX_ALLOWED: u32 = 4_096;
/// Ports that can have an exemption.
pub const MAX_PORTS: u32 = 64;
/// Sources whose handshakes are counted at once; the quietest make room.
pub const MAX_HANDSHAKES: u32 = 65_536;
/// Bytes of the ring of handshakes beyond the limit.
pub const OVERRUN_BYTES: u32 = 256 * 1_024;
/// Bytes of the ring of samples.
pub const SAMPLE_BYTES: u32 = 256 * 1_024;
/// Bytes of the ring of lines; aya-log's choice.
pub const LINE_BYTES: u32 = 128 * 1_024;
/// Kinds of lines: one for each [`Alarm`](crate::Alarm), two for a loader's mistakes.
#[expect(clippy::cast_possible_truncation, reason = "a handful of alarms")]
pub const LINE_KINDS: u32 = crate::Alarm::ALL.len() as u32 + 2;
