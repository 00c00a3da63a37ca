//! Who is banned: a bitmap that lets almost every innocent pass at the price of
//! one load, exact keys with an expiry behind it, and blocks where there are
//! any. Entries come and go from user space only; nothing here writes.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LpmTrie, lpm_trie::Key},
};
use moderation_common::{BanEntry, Control, Place, Reason, Seeds, Source, filter_words};
use moderation_ebpf::parse::{Frame, Packet};

use crate::{clock, log, recent};

/// How many bans there can be unless the loader says otherwise.
const MAX_BANS: u32 = 1_000_000;
/// How many of them blocks. A trie's cost grows with its size, and freeing one
/// of millions locks a CPU for seconds.
const MAX_NETS: u32 = 16_384;

// Not preallocated: a million empty entries would take 80 MB instead of 17,
// and only user space inserts. Never an LRU: whoever caused many bans would
// push out the old ones.
#[map]
static BANS_V4: HashMap<u32, u64> = HashMap::with_max_entries(MAX_BANS, BPF_F_NO_PREALLOC);
#[map]
static BANS_V6: HashMap<u64, u64> = HashMap::with_max_entries(MAX_BANS, BPF_F_NO_PREALLOC);
#[map]
static BANS_HOST: HashMap<[u64; 2], u64> = HashMap::with_max_entries(MAX_BANS, BPF_F_NO_PREALLOC);
#[map]
static NETS_V4: LpmTrie<[u8; 4], u64> = LpmTrie::with_max_entries(MAX_NETS, BPF_F_NO_PREALLOC);
#[map]
static NETS_V6: LpmTrie<[u8; 16], u64> = LpmTrie::with_max_entries(MAX_NETS, BPF_F_NO_PREALLOC);

/// Mapped into the daemon, which sets bits without asking the kernel.
#[map]
static FILTER: Array<u64> = Array::with_max_entries(filter_words(MAX_BANS), BPF_F_MMAPABLE);

#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

#[map]
static SEEDS: Array<Seeds> = Array::with_max_entries(1, 0);

#[expect(unsafe_code, reason = "the loader finds the variable by its symbol")]
#[unsafe(no_mangle)]
static SEED_A: Global<u64> = Global::new(0);
#[expect(unsafe_code, reason = "the loader finds the variable by its symbol")]
#[unsafe(no_mangle)]
static SEED_B: Global<u64> = Global::new(0);
#[expect(unsafe_code, reason = "the loader finds the variable by its symbol")]
#[unsafe(no_mangle)]
static FILTER_MASK: Global<u64> = Global::new(0);

/// What the daemon has switched. The kernel makes the entry with the map.
#[inline(always)]
pub(crate) fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

/// The secrets of the hashes. The loader copies them from `SEEDS` into the
/// program, where they are constants.
#[inline(always)]
pub(crate) fn seeds() -> Seeds {
    Seeds { a: SEED_A.load(), b: SEED_B.load() }
}

/// The ban that holds against the packet's source now.
#[inline(always)]
pub(crate) fn find(
    frame: &Frame<'_>,
    packet: &Packet,
    hash: u64,
    control: &Control,
) -> Option<Reason> {
    let is_banned = is_banned(packet.source(), hash, control);
    match packet.source() {
        Source::V4(_) if is_banned => return Some(Reason::BanV4),
        Source::V6(_) if is_banned => return Some(Reason::BanV6),
        Source::V4(key) => {
            if control.nets_v4 != 0 {
                return in_net(NETS_V4.get(Key::new(32, key.to_ne_bytes())));
            }
        }
        Source::V6(_) => {
            if control.hosts != 0 {
                let address = packet.address(frame);
                if may_hold(seeds().hash_host(address)) && lasts(BANS_HOST.get_ptr(address)) {
                    return Some(Reason::BanV6);
                }
            }
            if control.nets_v6 != 0 {
                return in_net(NETS_V6.get(Key::new(128, packet.octets(frame))));
            }
        }
    }
    None
}

/// Whether there is a ban on the source itself.
#[inline(always)]
fn is_banned(source: Source, hash: u64, control: &Control) -> bool {
    if !is_set(Place::first(hash, FILTER_MASK.load())) {
        return false;
    }
    let Some(memory) = recent::of(source, hash, control) else { return is_exactly(source, hash) };
    if memory.is_banned() {
        return true;
    }
    let found = is_exactly(source, hash);
    if found {
        memory.note();
    }
    found
}

/// The same from the second half of the prefilter on.
#[inline(always)]
fn is_exactly(source: Source, hash: u64) -> bool {
    is_set(Place::second(hash, FILTER_MASK.load()))
        && match source {
            Source::V4(key) => lasts(BANS_V4.get_ptr(key)),
            Source::V6(key) => lasts(BANS_V6.get_ptr(key)),
        }
}

/// Whether a key may be in the exact maps: never `false` for one that is.
#[inline(always)]
fn may_hold(hash: u64) -> bool {
    let mask = FILTER_MASK.load();
    is_set(Place::first(hash, mask)) && is_set(Place::second(hash, mask))
}

#[inline(always)]
fn is_set(place: Place) -> bool {
    let Some(word) = FILTER.get(place.word) else {
        log::short_filter();
        return true; // look behind it
    };
    word & place.bits() == place.bits()
}

#[inline(always)]
fn lasts(entry: Option<*const u64>) -> bool {
    // SAFETY: the value is eight bytes that the kernel replaces as a whole,
    // never in place, and it is copied at once.
    #[expect(unsafe_code, reason = "map values are shared with user space")]
    let expires_at_ns = entry.map(|entry| unsafe { *entry });
    expires_at_ns.is_some_and(holds)
}

/// A permanent ban needs no clock.
#[inline(always)]
fn holds(expires_at_ns: u64) -> bool {
    expires_at_ns == BanEntry::NEVER || BanEntry { expires_at_ns }.holds_at(clock::boot_ns())
}

/// Blocks within blocks: user space gives the inner one the latest expiry of
/// those around it, as the trie finds nothing but the narrowest.
#[inline(always)]
fn in_net(expires_at_ns: Option<&u64>) -> Option<Reason> {
    holds(*expires_at_ns?).then_some(Reason::BanNet)
}
