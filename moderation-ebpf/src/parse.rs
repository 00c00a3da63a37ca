//! From the bytes of a frame to its source, and on to whether it opens a TCP
//! connection. It decides nothing, reads no map, and never looks beyond the
//! frame.
//!
//! The two steps are apart on purpose: [`network`] reads L2 and the fixed part
//! of L3, which is all that a ban needs; only then does [`opens_connection`]
//! walk extension headers and look at TCP. So a fragment, an unknown protocol
//! or a mangled L4 header cannot slip past a ban.

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
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

/// Longer chains are no honest traffic (RFC 8504, section 5.3, lets a node set
/// such a limit), and the verifier wants a bound.
const MAX_EXTENSION_HEADERS: usize = 6;

/// Whether the packet asks for a TCP connection: SYN set, ACK not. A header
/// that cannot be reached (a later fragment, encryption, a chain too long or
/// cut short) does not.
#[inline(always)]
pub fn opens_connection(frame: &Frame<'_>, packet: &Packet) -> bool {
    let tcp = match packet.source {
        Source::V4(_) => ipv4_tcp(frame, packet.header),
        Source::V6(_) => ipv6_tcp(frame, packet.header),
    };
    matches!(tcp, Ok(Some(offset)) if is_bare_syn(frame, offset))
}

/// The offset of the TCP header, if this is TCP's first fragment or whole.
#[inline(always)]
fn ipv4_tcp(frame: &Frame<'_>, header: usize) -> Result<Option<usize>, Malformed> {
    let fixed: [u8; 20] = frame.read(header)?;
    let length = ((fixed[0] & 0x0f) as usize) * 4;
    if length < 20 {
        return Err(Malformed);
    }
    let fragment_offset = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff;
    let first = fragment_offset == 0;
    Ok((fixed[9] == TCP && first).then_some(header + length))
}

#[inline(always)]
fn ipv6_tcp(frame: &Frame<'_>, header: usize) -> Result<Option<usize>, Malformed> {
    let [mut next] = frame.read(header + 6)?;
    let mut offset = header + 40;
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
                    return Ok(None);
                }
                8
            }
            _ => (header[1] as usize + 1) * 8,
        };
        next = header[0];
        offset += length;
    }
    Ok((next == TCP).then_some(offset))
}

const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

#[inline(always)]
fn is_bare_syn(frame: &Frame<'_>, offset: usize) -> bool {
    matches!(frame.read(offset + TCP_FLAGS), Ok([flags]) if flags & (SYN | ACK) == SYN)
}
