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

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `N` bytes at `offset`, if the frame has them all.
    #[expect(unsafe_code, reason = "the verifier wants the comparison of addresses, not a slice")]
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Result<[u8; N], Malformed> {
        if self.start + offset + N > self.end {
            return Err(Malformed);
        }
        let field = (self.start + offset) as *const [u8; N];
        // SAFETY: the field lies within the frame, as just compared, and a
        // byte array has no alignment.
        Ok(unsafe { *field })
    }

    /// Whether the frame has `length` bytes, at most 60, at `offset`.
    #[inline(always)]
    fn has(&self, offset: usize, length: usize) -> bool {
        self.start + offset + length <= self.end
    }

    #[inline(always)]
    fn read_u16(&self, offset: usize) -> Result<u16, Malformed> {
        self.read(offset).map(u16::from_be_bytes)
    }
}

/// A frame that carries IP, as far as a ban needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its source, at the width at which bans are exact.
    pub source: Source,
    /// The whole source address in network order; IPv4 fills the first four octets.
    pub address: [u8; 16],
    /// Offset of the IP header in the frame.
    header: usize,
}

// EtherTypes (IEEE 802 Numbers, IANA).
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN_CUSTOMER: u16 = 0x8100;
const VLAN_SERVICE: u16 = 0x88a8;

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
    let mut ether_type = frame.read_u16(12)?;
    for _ in 0..MAX_VLAN_TAGS {
        if ether_type != VLAN_CUSTOMER && ether_type != VLAN_SERVICE {
            break;
        }
        ether_type = frame.read_u16(header + 2)?;
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
    let fixed: [u8; 20] = frame.read(header)?;
    if fixed[0] >> 4 != 4 {
        return Err(Malformed);
    }
    let octets = [fixed[12], fixed[13], fixed[14], fixed[15]];
    let mut address = [0; 16];
    address[0] = octets[0];
    address[1] = octets[1];
    address[2] = octets[2];
    address[3] = octets[3];
    Ok(Packet { source: Source::V4(u32::from_ne_bytes(octets)), address, header })
}

/// RFC 8200.
#[inline(always)]
fn ipv6(frame: &Frame<'_>, header: usize) -> Result<Packet, Malformed> {
    let fixed: [u8; 40] = frame.read(header)?;
    if fixed[0] >> 4 != 6 {
        return Err(Malformed);
    }
    let address: [u8; 16] = frame.read(header + 8)?;
    let prefix: [u8; 8] = frame.read(header + 8)?;
    Ok(Packet { source: Source::V6(u64::from_ne_bytes(prefix)), address, header })
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
    match packet.source {
        Source::V4(_) => ipv4_upper(frame, packet.header),
        Source::V6(_) => ipv6_upper(frame, packet.header),
    }
}

const FRAGMENT_OFFSET: u16 = 0x1fff;
const MORE_FRAGMENTS: u16 = 0x2000;

#[inline(always)]
fn ipv4_upper(frame: &Frame<'_>, header: usize) -> Result<Reached, Malformed> {
    let fixed: [u8; 20] = frame.read(header)?;
    let length = ((fixed[0] & 0x0f) as usize) * 4;
    if length < 20 {
        return Err(Malformed);
    }
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]);
    if fragment & FRAGMENT_OFFSET != 0 {
        return Ok(Reached::LaterFragment);
    }
    let is_fragment = fragment & MORE_FRAGMENTS != 0;
    Ok(Reached::Upper(Upper { protocol: fixed[9], offset: header + length, is_fragment }))
}

#[inline(always)]
fn ipv6_upper(frame: &Frame<'_>, header: usize) -> Result<Reached, Malformed> {
    let [mut next] = frame.read(header + 6)?;
    let mut offset = header + 40;
    let mut is_fragment = false;
    for _ in 0..MAX_EXTENSION_HEADERS {
        let header: [u8; 8] = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | AUTHENTICATION | FRAGMENT => {
                frame.read(offset)?
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
        Ok(Reached::Upper(upper)) if upper.protocol == TCP && is_bare_syn(frame, upper.offset) => {
            Kind::Opening
        }
        _ => Kind::Other,
    }
}

const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

#[inline(always)]
fn is_bare_syn(frame: &Frame<'_>, offset: usize) -> bool {
    matches!(frame.read(offset + TCP_FLAGS), Ok([flags]) if flags & (SYN | ACK) == SYN)
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
    let complete = match protocol {
        TCP => is_whole_tcp(frame, offset),
        UDP => frame.read::<8>(offset).is_ok(),
        _ => false,
    };
    if !complete {
        return None;
    }
    let port = frame.read_u16(offset + 2).ok()?;
    Some(Destination { protocol, port })
}

/// RFC 9293: the data offset counts words of four octets, the fixed five
/// included.
#[inline(always)]
fn is_whole_tcp(frame: &Frame<'_>, offset: usize) -> bool {
    let Ok(fixed) = frame.read::<20>(offset) else { return false };
    let length = ((fixed[12] >> 4) as usize) * 4;
    length >= 20 && frame.has(offset, length)
}

/// Neighbour and router discovery as RFC 4861 demands it: hop limit 255, which
/// no router lets through, code 0, and no header in between (section 6.1, 7.1;
/// RFC 6980 forbids fragments). Redirects are left out: nothing is lost without
/// them, and a banned neighbour could move routes.
#[inline(always)]
pub fn is_neighbour_discovery(frame: &Frame<'_>, packet: &Packet) -> bool {
    const ROUTER_SOLICITATION: u8 = 133;
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    if !matches!(packet.source, Source::V6(_)) {
        return false;
    }
    let Ok([next, hop_limit]) = frame.read(packet.header + 6) else { return false };
    let Ok([kind, code, ..]) = frame.read::<8>(packet.header + 40) else { return false };
    let discovers = kind >= ROUTER_SOLICITATION && kind <= NEIGHBOUR_ADVERTISEMENT;
    next == ICMPV6 && hop_limit == 255 && code == 0 && discovers
}
