//! Ethernet frames by hand. A [`Frame`]'s default is a well-formed TCP SYN, so
//! that a test names only what is odd about its packet. Nothing is received or
//! understood here.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::lab::{HOST_V4, HOST_V6};

/// Where a default frame comes from; neither private nor anyone's in the lab.
pub const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);
/// The same for IPv6.
pub const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 5, 5, 0, 0, 0, 5);

/// EtherType of IPv4 (IEEE 802 Numbers, IANA).
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of LLDP.
pub const LLDP: u16 = 0x88cc;
/// The tag of a customer's VLAN (802.1Q).
pub const CUSTOMER: u16 = 0x8100;
/// The tag of a provider's VLAN (802.1ad).
pub const PROVIDER: u16 = 0x88a8;

/// FIN, RST, SYN, PSH and ACK (RFC 9293, section 3.1).
pub const FIN: u8 = 0x01;
/// Open a connection.
pub const SYN: u8 = 0x02;
/// There is no such connection.
pub const RST: u8 = 0x04;
/// Deliver at once.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;

/// Where TCP and UDP go by default.
pub const PORT: u16 = 8080;

/// Length of an Ethernet header.
pub const ETHERNET_BYTES: usize = 14;
/// Length of one VLAN tag.
pub const TAG_BYTES: usize = 4;

/// A frame, layer by layer.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The tag protocol identifiers of its VLANs, the outermost first.
    pub tags: Vec<u16>,
    /// Overrides the EtherType that follows from the network layer.
    pub ether_type: Option<u16>,
    /// What the frame carries.
    pub network: Network,
    /// What that carries.
    pub transport: Transport,
    /// Overrides the destination port, [`PORT`], of TCP and UDP.
    pub port: Option<u16>,
    /// What follows the transport's header.
    pub payload: Vec<u8>,
}

/// Layer 3.
#[derive(Clone, Debug)]
pub enum Network {
    /// RFC 791.
    V4(V4),
    /// RFC 8200.
    V6(V6),
    /// Anything else: the bytes after the Ethernet header. There is no
    /// transport and no payload then.
    Other(u16, Vec<u8>),
}

impl Default for Network {
    fn default() -> Self {
        Self::V4(V4::default())
    }
}

/// An IPv4 header. Lengths and the checksum are right unless overridden.
#[derive(Clone, Debug)]
pub struct V4 {
    /// Who sends.
    pub source: Ipv4Addr,
    /// To whom.
    pub destination: Ipv4Addr,
    /// Whole words of options.
    pub options: Vec<u8>,
    /// Which part of a datagram this is.
    pub fragment: Option<Part>,
    /// The version nibble.
    pub version: u8,
    /// Overrides the header length, in words of four octets.
    pub ihl: Option<u8>,
}

impl Default for V4 {
    fn default() -> Self {
        Self {
            source: SOURCE_V4,
            destination: HOST_V4,
            options: Vec::new(),
            fragment: None,
            version: 4,
            ihl: None,
        }
    }
}

/// An IPv6 header and its extensions.
#[derive(Clone, Debug)]
pub struct V6 {
    /// Who sends.
    pub source: Ipv6Addr,
    /// To whom.
    pub destination: Ipv6Addr,
    /// In the order of the packet.
    pub extensions: Vec<Extension>,
    /// The version nibble.
    pub version: u8,
    /// How many routers may still pass it on.
    pub hop_limit: u8,
}

impl Default for V6 {
    fn default() -> Self {
        Self {
            source: SOURCE_V6,
            destination: HOST_V6,
            extensions: Vec::new(),
            version: 6,
            hop_limit: 64,
        }
    }
}

/// A part of a fragmented datagram.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Where it begins, in units of eight octets.
    pub offset: u16,
    /// Whether parts follow.
    pub has_more: bool,
}

impl Part {
    /// The only part: whole, and yet with a fragment header (RFC 6946).
    pub const ATOMIC: Self = Self { offset: 0, has_more: false };
    /// The part with the transport's header.
    pub const FIRST: Self = Self { offset: 0, has_more: true };
    /// A part from the middle.
    pub const LATER: Self = Self { offset: 8, has_more: true };
    /// The last part.
    pub const LAST: Self = Self { offset: 16, has_more: false };
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug)]
pub enum Extension {
    /// Hop-by-hop options, of this many units of eight octets beyond the first.
    HopByHop(u8),
    /// A routing header, likewise.
    Routing(u8),
    /// Destination options, likewise.
    Destination(u8),
    /// A mobility header (RFC 6275), likewise.
    Mobility(u8),
    /// A fragment header.
    Fragment(Part),
    /// An authentication header (RFC 4302) with this many words of checksum.
    Authentication(u8),
}

impl Extension {
    const fn protocol(self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Routing(_) => 43,
            Self::Fragment(_) => 44,
            Self::Authentication(_) => 51,
            Self::Destination(_) => 60,
            Self::Mobility(_) => 135,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        match self {
            Self::HopByHop(units)
            | Self::Routing(units)
            | Self::Destination(units)
            | Self::Mobility(units) => {
                let mut bytes = vec![0; 8 * (usize::from(units) + 1)];
                (bytes[0], bytes[1]) = (next, units);
                bytes
            }
            Self::Fragment(Part { offset, has_more }) => {
                let [high, low] = (offset << 3 | u16::from(has_more)).to_be_bytes();
                vec![next, 0, high, low, 0, 0, 0, 7]
            }
            Self::Authentication(words) => {
                // Its length counts words, less two (RFC 4302, section 2.2).
                let mut bytes = vec![0; 12 + 4 * usize::from(words)];
                (bytes[0], bytes[1]) = (next, words + 1);
                bytes
            }
        }
    }
}

/// Layer 4.
#[derive(Clone, Copy, Debug)]
pub enum Transport {
    /// TCP with these flags.
    Tcp(u8),
    /// UDP.
    Udp,
    /// An echo request of the packet's family.
    Icmp,
    /// `ICMPv6` of this type and code, with the body of a neighbour solicitation.
    Discovery(u8, u8),
    /// Another protocol, without a header of its own.
    Protocol(u8),
}

impl Default for Transport {
    fn default() -> Self {
        Self::Tcp(SYN)
    }
}

impl From<V4> for Frame {
    fn from(network: V4) -> Self {
        Self { network: Network::V4(network), ..Self::default() }
    }
}

impl From<V6> for Frame {
    fn from(network: V6) -> Self {
        Self { network: Network::V6(network), ..Self::default() }
    }
}

impl Frame {
    /// A well-formed IPv6 SYN.
    pub fn v6() -> Self {
        V6::default().into()
    }

    /// A SYN from there.
    pub fn from_v4(source: Ipv4Addr) -> Self {
        V4 { source, ..V4::default() }.into()
    }

    /// A SYN from there.
    pub fn from_v6(source: Ipv6Addr) -> Self {
        V6 { source, ..V6::default() }.into()
    }

    /// A frame that is not IP.
    pub fn other(ether_type: u16, body: &[u8]) -> Self {
        Self { network: Network::Other(ether_type, body.to_vec()), ..Self::default() }
    }

    /// The same in these VLANs.
    #[must_use]
    pub fn tagged(mut self, tags: &[u16]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    /// The same to another port.
    #[must_use]
    pub const fn to_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The same with another transport.
    #[must_use]
    pub fn carrying(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Where the header of layer 3 begins.
    pub fn network_offset(&self) -> usize {
        ETHERNET_BYTES + TAG_BYTES * self.tags.len()
    }

    /// The frame as it is on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend(7_u16.to_be_bytes()); // VLAN 7
        }
        let (ether_type, packet) = self.packet();
        bytes.extend(self.ether_type.unwrap_or(ether_type).to_be_bytes());
        bytes.extend(packet);
        bytes
    }

    /// The frame cut off after so many bytes.
    pub fn truncated(&self, length: usize) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.truncate(length);
        bytes
    }

    fn packet(&self) -> (u16, Vec<u8>) {
        match &self.network {
            Network::V4(v4) => (IPV4, self.v4_packet(v4)),
            Network::V6(v6) => (IPV6, self.v6_packet(v6)),
            Network::Other(ether_type, body) => (*ether_type, body.clone()),
        }
    }

    fn v4_packet(&self, v4: &V4) -> Vec<u8> {
        assert!(v4.options.len().is_multiple_of(4), "options are padded to words");
        let protocol = self.protocol(Family::V4);
        let addresses = [v4.source.octets(), v4.destination.octets()].concat();
        let body = self.body(v4.fragment, &pseudo_header(&addresses, protocol), Family::V4);
        let words = u8::try_from(5 + v4.options.len() / 4).expect("options fit their nibble");
        let mut header = vec![0; 12];
        header[0] = v4.version << 4 | v4.ihl.unwrap_or(words);
        let length = 4 * usize::from(words) + body.len();
        header[2..4].copy_from_slice(&length_field(length));
        let part = v4.fragment.unwrap_or(Part { offset: 0, has_more: false });
        let fragment = u16::from(part.has_more) << 13 | part.offset;
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        (header[8], header[9]) = (64, protocol);
        header.extend(addresses);
        header.extend(&v4.options);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        [header, body].concat()
    }

    fn v6_packet(&self, v6: &V6) -> Vec<u8> {
        let protocol = self.protocol(Family::V6);
        let addresses = [v6.source.octets(), v6.destination.octets()].concat();
        let part = v6.extensions.iter().find_map(|extension| match extension {
            Extension::Fragment(part) => Some(*part),
            _ => None,
        });
        let mut body = self.body(part, &pseudo_header(&addresses, protocol), Family::V6);
        let mut next = protocol;
        for extension in v6.extensions.iter().rev() {
            body = [extension.bytes(next), body].concat();
            next = extension.protocol();
        }
        let mut header = vec![v6.version << 4, 0, 0, 0];
        header.extend(length_field(body.len()));
        header.extend([next, v6.hop_limit]);
        header.extend(addresses);
        [header, body].concat()
    }

    const fn protocol(&self, family: Family) -> u8 {
        match (self.transport, family) {
            (Transport::Tcp(_), _) => 6,
            (Transport::Udp, _) => 17,
            (Transport::Icmp, Family::V4) => 1,
            // In IPv4 nonsense, for whoever does not look at the family.
            (Transport::Icmp, Family::V6) | (Transport::Discovery(..), _) => 58,
            (Transport::Protocol(number), _) => number,
        }
    }

    /// What follows the IP headers. A later part holds no transport header.
    fn body(&self, part: Option<Part>, pseudo_header: &[u8], family: Family) -> Vec<u8> {
        if part.is_some_and(|part| part.offset > 0) {
            // Would be read as a SYN by whoever took it for a TCP header.
            return [vec![SYN; 24], self.payload.clone()].concat();
        }
        let (mut header, sum_at) = self.transport.header(self.payload.len(), family);
        if matches!(self.transport, Transport::Tcp(_) | Transport::Udp) {
            header[2..4].copy_from_slice(&self.port.unwrap_or(PORT).to_be_bytes());
        }
        let mut body = [header, self.payload.clone()].concat();
        if let Some(at) = sum_at {
            let covered = match (self.transport, family) {
                (Transport::Icmp, Family::V4) => Vec::new(), // RFC 792: ICMP alone
                _ => with_length(pseudo_header, body.len()),
            };
            let sum = checksum(&[covered, body.clone()].concat());
            body[at..at + 2].copy_from_slice(&sum);
        }
        body
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Transport {
    /// The header with a checksum of zero, and where the checksum belongs.
    fn header(self, payload_bytes: usize, family: Family) -> (Vec<u8>, Option<usize>) {
        match self {
            Self::Tcp(flags) => {
                // From port 40000, five words, window 65535.
                let header = [156, 64, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, flags];
                ([&header[..], &[0xff, 0xff, 0, 0, 0, 0]].concat(), Some(16))
            }
            Self::Udp => {
                let [high, low] = length_field(8 + payload_bytes);
                (vec![156, 64, 0, 0, high, low, 0, 0], Some(6))
            }
            Self::Icmp => {
                let echo_request = if matches!(family, Family::V4) { 8 } else { 128 };
                (vec![echo_request, 0, 0, 0, 0, 1, 0, 1], Some(2))
            }
            Self::Discovery(kind, code) => ([&[kind, code, 0, 0][..], &[0; 20]].concat(), Some(2)),
            Self::Protocol(_) => (Vec::new(), None),
        }
    }
}

fn length_field(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("no jumbograms").to_be_bytes()
}

/// What a transport's checksum covers besides the segment, less the length.
fn pseudo_header(addresses: &[u8], protocol: u8) -> Vec<u8> {
    [addresses, &[0, protocol]].concat()
}

fn with_length(pseudo_header: &[u8], length: usize) -> Vec<u8> {
    [pseudo_header, &length_field(length)].concat()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let folded = u16::try_from(sum).expect("just folded");
    (!folded).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header that contains its own checksum sums up to zero.
    fn adds_up(bytes: &[u8]) -> bool {
        checksum(bytes) == [0, 0]
    }

    #[test]
    fn the_default_is_a_well_formed_ipv4_syn() {
        let bytes = Frame::default().bytes();
        assert_eq!(bytes.len(), 14 + 20 + 20);
        assert_eq!(bytes[12..15], [0x08, 0x00, 0x45]);
        assert_eq!(bytes[16..18], [0, 40]);
        assert!(adds_up(&bytes[14..34]));
        assert_eq!(bytes[26..30], SOURCE_V4.octets());
        assert_eq!((bytes[23], bytes[47]), (6, SYN));
        assert!(adds_up(&[&bytes[26..34], &[0, 6, 0, 20], &bytes[34..]].concat()));
    }

    #[test]
    fn an_ipv6_frame_is_well_formed_behind_its_extensions() {
        let extensions =
            vec![Extension::HopByHop(1), Extension::Authentication(3), Extension::Destination(0)];
        let bytes = Frame::from(V6 { extensions, ..V6::default() }).bytes();
        let length = 16 + 24 + 8 + 20;
        assert_eq!(bytes.len(), 14 + 40 + length);
        assert_eq!(bytes[14], 0x60);
        assert_eq!(usize::from(bytes[19]), length);
        assert_eq!(bytes[20], 0); // hop-by-hop
        assert_eq!(bytes[54..56], [51, 1]);
        assert_eq!(bytes[70..72], [60, 4]);
        assert_eq!(bytes[94..96], [6, 0]);
        let tcp = &bytes[102..];
        assert!(adds_up(&[&bytes[22..54], &[0, 6, 0, 20], tcp].concat()));
    }

    #[test]
    fn tags_options_and_fragments_are_where_they_belong() {
        let v4 = V4 { options: vec![1; 8], fragment: Some(Part::FIRST), ..V4::default() };
        let frame = Frame::from(v4).tagged(&[PROVIDER, CUSTOMER]);
        let bytes = frame.bytes();
        assert_eq!(bytes[12..14], PROVIDER.to_be_bytes());
        assert_eq!(bytes[16..18], CUSTOMER.to_be_bytes());
        assert_eq!(bytes[20..22], IPV4.to_be_bytes());
        let packet = &bytes[frame.network_offset()..];
        assert_eq!(packet[0], 0x47);
        assert_eq!(packet[6..8], [0x20, 0]);
        assert!(adds_up(&packet[..28]));
        assert_eq!(packet[28 + 13], SYN);
    }

    #[test]
    fn icmp_and_udp_add_up_in_both_families() {
        for transport in [Transport::Icmp, Transport::Udp] {
            let v4 = Frame { payload: vec![7; 5], ..Frame::default() }.carrying(transport).bytes();
            let number = v4[23];
            let covered = match transport {
                Transport::Icmp => Vec::new(),
                _ => [&v4[26..34], &[0, number, 0, 13]].concat(),
            };
            assert!(adds_up(&[&covered, &v4[34..]].concat()), "{transport:?}");
            let v6 = Frame { payload: vec![7; 5], ..Frame::v6() }.carrying(transport).bytes();
            let covered = [&v6[22..54], &[0, v6[20], 0, 13]].concat();
            assert!(adds_up(&[&covered, &v6[54..]].concat()), "{transport:?}");
        }
    }
}
