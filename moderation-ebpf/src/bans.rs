//! Who is banned: exact keys with an expiry, and the allowlists that overrule
//! them. Entries come and go from user space only; nothing here writes.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{HashMap, LpmTrie, lpm_trie::Key},
};
use moderation_common::{BanEntry, Reason, Source, map::MAX_ALLOWED};
use moderation_ebpf::parse::Packet;

/// How many bans each family holds unless the loader says otherwise.
const MAX_BANS: u32 = 1_000_000;

// Not preallocated: a million empty entries would take 80 MB instead of 17,
// and only user space inserts. Never an LRU: whoever caused many bans would
// push out the old ones.
#[map]
static BANS_V4: HashMap<u32, u64> = HashMap::with_max_entries(MAX_BANS, BPF_F_NO_PREALLOC);
#[map]
static BANS_V6: HashMap<u64, u64> = HashMap::with_max_entries(MAX_BANS, BPF_F_NO_PREALLOC);

#[map]
static ALLOW_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(MAX_ALLOWED, BPF_F_NO_PREALLOC);
#[map]
static ALLOW_V6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(MAX_ALLOWED, BPF_F_NO_PREALLOC);
#[map]
static GUARD_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(MAX_ALLOWED, BPF_F_NO_PREALLOC);
#[map]
static GUARD_V6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(MAX_ALLOWED, BPF_F_NO_PREALLOC);

/// Whether the packet's source is banned now. The allowlists are looked at
/// only when it would be dropped, so that innocents do not pay for them.
#[inline(always)]
pub(crate) fn judge(packet: &Packet) -> Reason {
    let reason = if holds(packet.source) {
        match packet.source {
            Source::V4(_) => Reason::BanV4,
            Source::V6(_) => Reason::BanV6,
        }
    } else {
        return Reason::Pass;
    };
    if is_allowed(packet) { Reason::AllowOverride } else { reason }
}

#[inline(always)]
fn holds(source: Source) -> bool {
    // SAFETY: the value is eight bytes that the kernel replaces as a whole,
    // never in place, and it is copied at once.
    #[expect(unsafe_code, reason = "map values are shared with user space")]
    let expires_at_ns = unsafe {
        match source {
            Source::V4(key) => BANS_V4.get(key),
            Source::V6(key) => BANS_V6.get(key),
        }
        .copied()
    };
    match expires_at_ns {
        Some(expires_at_ns) => BanEntry { expires_at_ns }.holds_at(now_ns()),
        None => false,
    }
}

#[inline(always)]
fn is_allowed(packet: &Packet) -> bool {
    match packet.source {
        Source::V4(_) => {
            let [a, b, c, d, ..] = packet.address;
            let key = Key::new(32, [a, b, c, d]);
            GUARD_V4.get(&key).is_some() || ALLOW_V4.get(&key).is_some()
        }
        Source::V6(_) => {
            let key = Key::new(128, packet.address);
            GUARD_V6.get(&key).is_some() || ALLOW_V6.get(&key).is_some()
        }
    }
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper only reads a clock.
    #[expect(unsafe_code, reason = "every kernel helper is foreign code")]
    unsafe {
        bpf_ktime_get_boot_ns()
    }
}
