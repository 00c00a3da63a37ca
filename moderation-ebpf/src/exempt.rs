//! Who and what passes although it would be dropped. Looked at only then, so
//! that innocents do not pay for it.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{HashMap, LpmTrie, lpm_trie::Key},
};
use moderation_common::{
    GuardClass, Reason, Source,
    map::{MAX_ALLOWED, MAX_PORTS},
    port,
};
use moderation_ebpf::parse::{Frame, Packet, destination, is_neighbour_discovery};

#[map]
static ALLOW_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(MAX_ALLOWED, BPF_F_NO_PREALLOC);
#[map]
static ALLOW_V6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(MAX_ALLOWED, BPF_F_NO_PREALLOC);
#[map]
static GUARD_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(MAX_ALLOWED, BPF_F_NO_PREALLOC);
#[map]
static GUARD_V6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(MAX_ALLOWED, BPF_F_NO_PREALLOC);
#[map]
static PORTS: HashMap<u16, u32> = HashMap::with_max_entries(MAX_PORTS, 0);

/// Why a packet of a banned source passes nevertheless.
#[inline(always)]
pub(crate) fn from_ban(frame: &Frame<'_>, packet: &Packet) -> Option<Reason> {
    if let Some(reason) = source(packet) {
        return Some(reason);
    }
    if is_neighbour_discovery(frame, packet) {
        return Some(Reason::NeighbourDiscovery);
    }
    has_port(frame, packet, port::UNBANNED).then_some(Reason::ExemptPort)
}

/// Why a connection attempt of a source that is too fast passes nevertheless.
#[inline(always)]
pub(crate) fn from_rate(frame: &Frame<'_>, packet: &Packet) -> Option<Reason> {
    if let Some(reason) = source(packet) {
        return Some(reason);
    }
    has_port(frame, packet, port::UNSHED).then_some(Reason::ExemptPort)
}

#[inline(always)]
fn source(packet: &Packet) -> Option<Reason> {
    let (guard, is_allowed) = match packet.source {
        Source::V4(_) => {
            let [a, b, c, d, ..] = packet.address;
            let key = Key::new(32, [a, b, c, d]);
            (GUARD_V4.get(&key), ALLOW_V4.get(&key).is_some())
        }
        Source::V6(_) => {
            let key = Key::new(128, packet.address);
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

/// Whether the packet goes to a port with that flag.
#[inline(always)]
fn has_port(frame: &Frame<'_>, packet: &Packet, flag: u32) -> bool {
    let Some(destination) = destination(frame, packet) else { return false };
    // SAFETY: the value is one word that is copied at once.
    #[expect(unsafe_code, reason = "map values are shared with user space")]
    let flags = unsafe { PORTS.get(destination.port).copied() };
    flags.is_some_and(|flags| flags & flag != 0)
}
