//! Names of the maps and of the program: the symbol in the object file and the
//! file name of the pin.

/// Banned IPv4 addresses: [`v4_key`](crate::v4_key) to [`BanEntry`](crate::BanEntry).
pub const BANS_V4: &str = "BANS_V4";
/// Banned IPv6 /64s: [`v6_key`](crate::v6_key) to [`BanEntry`](crate::BanEntry).
pub const BANS_V6: &str = "BANS_V6";
/// The operator's allowlist, IPv4: a longest-prefix-match trie of four octets.
pub const ALLOW_V4: &str = "ALLOW_V4";
/// The operator's allowlist, IPv6: a longest-prefix-match trie of sixteen octets.
pub const ALLOW_V6: &str = "ALLOW_V6";
/// The guard allowlist, IPv4: like [`ALLOW_V4`], but only root can write it.
pub const GUARD_V4: &str = "GUARD_V4";
/// The guard allowlist, IPv6: like [`ALLOW_V6`], but only root can write it.
pub const GUARD_V6: &str = "GUARD_V6";
/// Packets per CPU by [`Reason`](crate::Reason): its number to [`Counter`](crate::Counter).
pub const COUNTERS: &str = "COUNTERS";
/// Connection attempts by source: [`SynKey`](crate::SynKey) to [`SynEntry`](crate::SynEntry).
pub const SYNS: &str = "SYNS";

/// Maps that the daemon works on; a loader gives them to the daemon's user.
pub const DAEMON_MAPS: [&str; 6] = [BANS_V4, BANS_V6, ALLOW_V4, ALLOW_V6, COUNTERS, SYNS];
/// Maps that stay root's, so that a compromised daemon cannot ban what they protect.
pub const ROOT_MAPS: [&str; 2] = [GUARD_V4, GUARD_V6];

/// The XDP program's symbol.
pub const PROGRAM: &str = "moderation";
/// Read-only global: length of the window in which `SYNS` counts, in nanoseconds.
pub const SYN_WINDOW_NS: &str = "SYN_WINDOW_NS";

/// Prefixes of each family in each allowlist: offices, monitors, guards. Not a
/// place for whole countries; a trie's cost grows with its size.
pub const MAX_ALLOWED: u32 = 4_096;
