//! Who and what passes although it would be dropped. Looked at only then, so
//! that innocents do not pay for it.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, lpm_trie::Key},
};
use moderation_common::{
    GuardClass, HINT_WORDS, Hint, Reason, Source,
    map::{MAX_ALLOWED, MAX_PORTS},
    port,
};
use moderation_ebpf::parse::{Frame, Packet, destination, is_icmpv6, is_neighbour_discovery};

#[map]
static ALLOW_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(MAX_ALLOWED, BPF_F_NO_PREALLOC);
#[map]
static ALLOW_V6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(MAX_ALLOWED, BPF_F_NO_PREALLOC);
#[map]
static GUARD_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(MAX_ALLOWED, BPF_F_NO_PREALLOC);
#[map]
static GUARD_V6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(MAX_ALLOWED, BPF_F_NO_PREALLOC);
#[map]
static ALLOW_HINTS: Array<u64> = Array::with_max_entries(HINT_WORDS, 0);
#[map]
static GUARD_HINTS: Array<u64> = Array::with_max_entries(HINT_WORDS, 0);
/// Whether any port has an exemption from bans; the loader says so.
#[expect(unsafe_code, reason = "the loader finds the variable by its symbol")]
#[unsafe(no_mangle)]
static UNBANNED_PORTS: Global<u64> = Global::new(1);
#[map]
static PORTS: HashMap<u16, u32> = HashMap::with_max_entries(MAX_PORTS, 0);

/// Whether [`from_ban`] is worth asking: never `false` for a packet that it lets
/// pass.
#[inline(always)]
pub(crate) fn may_be(frame: &Frame<'_>, packet: &Packet) -> bool {
    UNBANNED_PORTS.load() != 0
        || is_hinted(&GUARD_HINTS, packet.source())
        || is_hinted(&ALLOW_HINTS, packet.source())
        || is_icmpv6(frame, packet)
}

/// Why a packet of a banned source passes nevertheless.
#[inline(always)]
pub(crate) fn from_ban(frame: &Frame<'_>, packet: &Packet) -> Option<Reason> {
    if let Some(reason) = source(frame, packet) {
        return Some(reason);
    }
    if is_neighbour_discovery(frame, packet) {
        return Some(Reason::NeighbourDiscovery);
    }
    let is_exempt = UNBANNED_PORTS.load() != 0 && has_port(frame, packet, port::UNBANNED);
    is_exempt.then_some(Reason::ExemptPort)
}

/// Why a connection attempt of a source that is too fast passes nevertheless.
#[inline(always)]
pub(crate) fn from_rate(frame: &Frame<'_>, packet: &Packet) -> Option<Reason> {
    if let Some(reason) = source(frame, packet) {
        return Some(reason);
    }
    has_port(frame, packet, port::UNSHED).then_some(Reason::ExemptPort)
}

/// The tries are asked only where there is something in them.
#[inline(always)]
fn source(frame: &Frame<'_>, packet: &Packet) -> Option<Reason> {
    if !is_hinted(&GUARD_HINTS, packet.source()) && !is_hinted(&ALLOW_HINTS, packet.source()) {
        return None;
    }
    let (guard, is_allowed) = match packet.source() {
        Source::V4(key) => {
            let key = Key::new(32, key.to_ne_bytes());
            (GUARD_V4.get(&key), ALLOW_V4.get(&key).is_some())
        }
        Source::V6(_) => {
            let key = Key::new(128, packet.octets(frame));
            (GUARD_V6.get(&key), ALLOW_V6.get(&key).is_some())
        }
    };
    match guard {
        Some(class) if *class == GuardClass::Proxy as u32 && !is_allowed => {
            Some(Reason::ProxyOverride)
        }
        Some(_) => Some(Reason::AllowOverride),
        None if is_allowed => Some(Reason::AllowOverride),
        None => None,
    }
}

/// Whether there may be a prefix around the source.
#[inline(always)]
fn is_hinted(hints: &Array<u64>, source: Source) -> bool {
    match source {
        Source::V4(key) => has(hints, Hint::v4((u32::from_be(key) >> 16) as u16)),
        Source::V6(key) => {
            let upper = u64::from_be(key);
            has(hints, Hint::v6_64(upper))
                || has(hints, Hint::v6_32(upper))
                || has(hints, Hint::wide((upper >> 56) as u8))
        }
    }
}

#[inline(always)]
fn has(hints: &Array<u64>, hint: Hint) -> bool {
    // A word that is not there is the loader's mistake: ask the trie.
    hints.get(hint.word).is_none_or(|word| word & hint.bit != 0)
}

/// Whether the packet goes to a port with that flag.
#[inline(always)]
fn has_port(frame: &Frame<'_>, packet: &Packet, flag: u32) -> bool {
    let Some(destination) = destination(frame, packet) else { return false };
    // SAFETY: the value is one word that is copied at once.
    #[expect(unsafe_code, reason = "map values are shared with user space")]
    let flags = unsafe { PORTS.get(destination.port).copied() };
    flags.is_some_and(|flags| flags & flag != 0)
}
