//! From the bytes of a frame to its source, and on to what it wants. It decides
//! nothing, reads no map, and never looks beyond the frame.
//!
//! The steps are apart on purpose: [`network`] reads L2 and the fixed part of
//! L3, which is all that a ban needs; only then does [`kind`] walk extension
//! headers and look at TCP, and only for what would be dropped do
//! [`destination`] and [`is_neighbour_discovery`] look for an exemption. So a
//! fragment, an unknown protocol or a mangled L4 header cannot slip past a ban.

#[cfg(test)]
mod tests;

use core::marker::PhantomData;

use moderation_common::Source;

/// The frame is not what its headers claim, or ends within them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The bytes of one frame, from its Ethernet header on.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    start: usize,
    end: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Frame<'a> {
    /// A frame in ordinary memory.
    pub fn new(bytes: &'a [u8]) -> Self {
        let start = bytes.as_ptr() as usize;
        Self { start, end: start + bytes.len(), bytes: PhantomData }
    }

    /// The frame between two packet pointers of an XDP context.
    ///
    /// # Safety
    ///
    /// `start..end` must stay readable for `'a`.
    #[expect(unsafe_code, reason = "the kernel hands out packets as addresses")]
    #[inline(always)]
    pub unsafe fn from_raw(start: usize, end: usize) -> Self {
        Self { start, end, bytes: PhantomData }
    }

    /// Where it begins and ends.
    #[inline(always)]
    pub fn ends(&self) -> (usize, usize) {
        (self.start, self.end)
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The field at `offset`, in the byte order of the frame, if the frame has it
    /// all.
    #[inline(always)]
    fn read<T: Field>(&self, offset: usize) -> Result<T, Malformed> {
        self.require(offset, size_of::<T>())?;
        Ok(T::load(self.start + offset))
    }

    /// The rest of the frame from an offset that is known only now. For the
    /// verifier it begins at a pointer of its own: compared with the frame's
    /// end and read through the same one, however the compiler sorts its sums.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the only way to keep the compiler from it")]
    fn after(&self, offset: usize) -> Self {
        let start = self.start + offset;
        // SAFETY: an initialized variable of this function.
        let start = unsafe { core::ptr::read_volatile(&raw const start) };
        Self { start, end: self.end, bytes: PhantomData }
    }

    /// Whether the frame has `length` bytes at `offset`.
    #[inline(always)]
    fn require(&self, offset: usize, length: usize) -> Result<(), Malformed> {
        // The verifier wants the comparison of addresses, not a slice.
        if self.start + offset + length > self.end { Err(Malformed) } else { Ok(()) }
    }
}

/// An integer that is read from a frame as a whole, wherever it lies.
trait Field: Copy {
    /// Reads it at an address within a frame, as has been compared.
    fn load(address: usize) -> Self;
}

macro_rules! field {
    ($type:ty) => {
        impl Field for $type {
            #[cfg(not(target_arch = "bpf"))]
            #[inline(always)]
            #[expect(unsafe_code, reason = "packets are addresses here")]
            fn load(address: usize) -> Self {
                // SAFETY: the field lies within the frame.
                unsafe { (address as *const Self).read_unaligned() }
            }

            /// One load. What Rust calls unaligned the compiler takes apart into
            /// bytes for this target, at ten times the cost; the verifier knows
            /// on which CPUs that is necessary, and refuses it there.
            #[cfg(target_arch = "bpf")]
            #[inline(always)]
            #[expect(unsafe_code, reason = "packets are addresses here")]
            fn load(address: usize) -> Self {
                // SAFETY: the field lies within the frame.
                unsafe { *(address as *const Self) }
            }
        }
    };
}

field!(u8);
field!(u16);
field!(u32);
field!(u64);

/// A frame that carries IP, as far as a ban needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its source as one word, whatever the family. Were it one variable for each, the
    /// compiler would load the other one, too, which nobody has written; before Linux
    /// 6.3 the verifier refuses that.
    key: u64,
    is_v6: bool,
    /// Offset of the IP header in the frame.
    header: usize,
}

// EtherTypes (IEEE 802 Numbers, IANA), as they stand in a frame.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const VLAN_CUSTOMER: u16 = 0x8100_u16.to_be();
const VLAN_SERVICE: u16 = 0x88a8_u16.to_be();

const ETHERNET_HEADER: usize = 14;
const VLAN_TAG: usize = 4;
/// 802.1ad has a service tag around a customer tag; more is no Ethernet of ours.
const MAX_VLAN_TAGS: usize = 2;

/// Reads L2 and the fixed part of the IP header; `None` if it is not IP.
///
/// # Errors
///
/// [`Malformed`] if the frame ends before the fixed IP header does, or the
/// header's version is not that of the EtherType.
#[inline(always)]
pub fn network(frame: &Frame<'_>) -> Result<Option<Packet>, Malformed> {
    let mut header = ETHERNET_HEADER;
    let mut ether_type = frame.read::<u16>(12)?;
    for _ in 0..MAX_VLAN_TAGS {
        if ether_type != VLAN_CUSTOMER && ether_type != VLAN_SERVICE {
            break;
        }
        ether_type = frame.read::<u16>(header + 2)?;
        header += VLAN_TAG;
    }
    match ether_type {
        IPV4 => ipv4(frame, header).map(Some),
        IPV6 => ipv6(frame, header).map(Some),
        _ => Ok(None),
    }
}

/// RFC 791. Only the fixed 20 octets are asked for: options that run past the
/// end of the frame do not hide the source from a ban.
#[inline(always)]
fn ipv4(frame: &Frame<'_>, header: usize) -> Result<Packet, Malformed> {
    frame.require(header, 20)?;
    if frame.read::<u8>(header)? >> 4 != 4 {
        return Err(Malformed);
    }
    Ok(Packet { key: u64::from(frame.read::<u32>(header + 12)?), is_v6: false, header })
}

/// RFC 8200.
#[inline(always)]
fn ipv6(frame: &Frame<'_>, header: usize) -> Result<Packet, Malformed> {
    frame.require(header, 40)?;
    if frame.read::<u8>(header)? >> 4 != 6 {
        return Err(Malformed);
    }
    Ok(Packet { key: frame.read(header + 8)?, is_v6: true, header })
}

/// In a packed packet: it is IPv6.
const PACKED_V6: u64 = 1 << 32;

impl Packet {
    /// Its source, at the width at which bans are exact.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "what was widened is narrowed again")]
    pub const fn source(&self) -> Source {
        if self.is_v6 { Source::V6(self.key) } else { Source::V4(self.key as u32) }
    }

    /// As two words, which fit into registers.
    #[inline(always)]
    pub const fn pack(&self) -> [u64; 2] {
        let family = if self.is_v6 { PACKED_V6 } else { 0 };
        [self.header as u64 | family, self.key]
    }

    /// What [`Packet::pack`] packed.
    #[inline(always)]
    pub const fn unpack([place, key]: [u64; 2]) -> Self {
        // The verifier follows a bound, not a value, into another function.
        let header = (place & 0x1f) as usize;
        Self { key, is_v6: place & PACKED_V6 != 0, header }
    }

    /// The whole source address in network order, in two halves; an IPv4
    /// address is in the first four octets.
    #[inline(always)]
    pub fn address(&self, frame: &Frame<'_>) -> [u64; 2] {
        match self.source() {
            Source::V4(key) => {
                let [a, b, c, d] = key.to_ne_bytes();
                [u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), 0]
            }
            // The header was found whole before.
            Source::V6(upper) => [upper, frame.read(self.header + 16).unwrap_or(0)],
        }
    }

    /// The same as octets.
    #[inline(always)]
    pub fn octets(&self, frame: &Frame<'_>) -> [u8; 16] {
        let [upper, lower] = self.address(frame);
        let [a, b, c, d, e, f, g, h] = upper.to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = lower.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }
}

// Protocol numbers (IANA).
const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

/// Longer chains are no honest traffic (RFC 8504, section 5.3, lets a node set
/// such a limit), and the verifier wants a bound.
const MAX_EXTENSION_HEADERS: usize = 6;

/// What follows the IP header, as far as it can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Upper {
    /// Its protocol number.
    protocol: u8,
    /// Its offset in the frame.
    offset: usize,
    /// Whether it is a part of a packet: the first.
    is_fragment: bool,
}

/// What comes after the IP header.
enum Reached {
    Upper(Upper),
    /// A later fragment: there is no header in it.
    LaterFragment,
}

#[inline(always)]
fn upper(frame: &Frame<'_>, packet: &Packet) -> Result<Reached, Malformed> {
    match packet.source() {
        Source::V4(_) => ipv4_upper(frame, packet.header),
        Source::V6(_) => ipv6_upper(frame, packet.header),
    }
}

const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();
const MORE_FRAGMENTS: u16 = 0x2000_u16.to_be();

#[inline(always)]
fn ipv4_upper(frame: &Frame<'_>, header: usize) -> Result<Reached, Malformed> {
    frame.require(header, 20)?;
    let length = ((frame.read::<u8>(header)? & 0x0f) as usize) * 4;
    if length < 20 {
        return Err(Malformed);
    }
    let fragment = frame.read::<u16>(header + 6)?;
    if fragment & FRAGMENT_OFFSET != 0 {
        return Ok(Reached::LaterFragment);
    }
    let is_fragment = fragment & MORE_FRAGMENTS != 0;
    let protocol = frame.read(header + 9)?;
    Ok(Reached::Upper(Upper { protocol, offset: header + length, is_fragment }))
}

#[inline(always)]
fn ipv6_upper(frame: &Frame<'_>, header: usize) -> Result<Reached, Malformed> {
    let mut next: u8 = frame.read(header + 6)?;
    let mut offset = header + 40;
    let mut is_fragment = false;
    for _ in 0..MAX_EXTENSION_HEADERS {
        // All eight octets at once: the verifier loses sight of the frame's end
        // between two reads at an offset that it does not know.
        let header = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | AUTHENTICATION | FRAGMENT => {
                frame.read::<u64>(offset)?.to_ne_bytes()
            }
            _ => break,
        };
        let length = match next {
            // RFC 4302: in units of four octets, minus two.
            AUTHENTICATION => (header[1] as usize + 2) * 4,
            FRAGMENT => {
                if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                    return Ok(Reached::LaterFragment);
                }
                is_fragment = true;
                8
            }
            _ => (header[1] as usize + 1) * 8,
        };
        next = header[0];
        offset += length;
    }
    Ok(Reached::Upper(Upper { protocol: next, offset, is_fragment }))
}

/// What a packet of an innocent is to the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It asks for a TCP connection: SYN set, ACK not.
    Opening,
    /// A later fragment.
    Fragment,
    /// Anything else, including what cannot be reached: encryption, a chain of
    /// headers that is too long or cut short.
    Other,
}

/// Tells a packet's kind; looks at L4.
#[inline(always)]
pub fn kind(frame: &Frame<'_>, packet: &Packet) -> Kind {
    match upper(frame, packet) {
        Ok(Reached::LaterFragment) => Kind::Fragment,
        Ok(Reached::Upper(upper))
            if upper.protocol == TCP && is_bare_syn(frame.after(upper.offset)) =>
        {
            Kind::Opening
        }
        _ => Kind::Other,
    }
}

const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

#[inline(always)]
fn is_bare_syn(tcp: Frame<'_>) -> bool {
    matches!(tcp.read::<u8>(TCP_FLAGS), Ok(flags) if flags & (SYN | ACK) == SYN)
}

/// A packet's destination, which an exemption can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// TCP or UDP, by its number.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

/// The destination of a packet that is whole: a complete TCP or UDP header, and
/// no fragment. Everything else has none, so that no exemption fits it.
#[inline(always)]
pub fn destination(frame: &Frame<'_>, packet: &Packet) -> Option<Destination> {
    let Ok(Reached::Upper(Upper { protocol, offset, is_fragment: false })) = upper(frame, packet)
    else {
        return None;
    };
    let header = frame.after(offset);
    let complete = match protocol {
        TCP => is_whole_tcp(header),
        UDP => header.require(0, 8).is_ok(),
        _ => false,
    };
    if !complete {
        return None;
    }
    let port = u16::from_be(header.read(2).ok()?);
    Some(Destination { protocol, port })
}

/// RFC 9293: the data offset counts words of four octets, the fixed five
/// included.
#[inline(always)]
fn is_whole_tcp(header: Frame<'_>) -> bool {
    let Ok(length) = header.read::<u8>(12) else { return false };
    let length = ((length >> 4) as usize) * 4;
    length >= 20 && header.require(0, length).is_ok()
}

/// Whether ICMPv6 follows the fixed header at once.
#[inline(always)]
pub fn is_icmpv6(frame: &Frame<'_>, packet: &Packet) -> bool {
    matches!(packet.source(), Source::V6(_)) && frame.read(packet.header + 6) == Ok(ICMPV6)
}

/// Neighbour and router discovery as RFC 4861 demands it: hop limit 255, which
/// no router lets through, code 0, and no header in between (section 6.1, 7.1;
/// RFC 6980 forbids fragments). Redirects are left out: nothing is lost without
/// them, and a banned neighbour could move routes.
#[inline(always)]
pub fn is_neighbour_discovery(frame: &Frame<'_>, packet: &Packet) -> bool {
    const ROUTER_SOLICITATION: u8 = 133;
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    if !matches!(packet.source(), Source::V6(_)) {
        return false;
    }
    let Ok(next_and_hops) = frame.read::<u16>(packet.header + 6) else { return false };
    let [next, hop_limit] = next_and_hops.to_ne_bytes();
    let Ok(icmp) = frame.read::<u64>(packet.header + 40) else { return false };
    let [kind, code, ..] = icmp.to_ne_bytes();
    let discovers = (ROUTER_SOLICITATION..=NEIGHBOUR_ADVERTISEMENT).contains(&kind);
    next == ICMPV6 && hop_limit == 255 && code == 0 && discovers
}
