//! The parser on the host: frames too short for the kernel's test run, and
//! bytes without sense, compared with a parser in ordinary Rust. What the
//! kernel makes of a frame is tested in the package `tests`.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::{vec, vec::Vec};

use moderation_common::{v4_key, v6_key};
use proptest::{
    collection::vec as vec_of,
    prelude::{Just, Strategy, any, prop_oneof},
    prop_assert_eq,
    sample::select,
    test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner},
};

use super::{
    Destination, Frame, Kind, Malformed, Packet, destination, is_neighbour_discovery, kind, network,
};
use crate::parse::Source;

const V4_SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);
const V6_SOURCE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 5, 5, 0, 0, 0, 5);
const CUSTOMER: u16 = 0x8100;
const PROVIDER: u16 = 0x88a8;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// An Ethernet header with VLAN tags.
fn ethernet(tags: &[u16], ether_type: u16) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    for tag in tags {
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0, 7]);
    }
    bytes.extend(ether_type.to_be_bytes());
    bytes
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    (bytes[2], bytes[3]) = (31, 144); // 8080
    (bytes[12], bytes[13]) = (5 << 4, flags);
    bytes
}

/// A neighbour solicitation.
fn discovery() -> Vec<u8> {
    let mut header = vec![0; 40];
    (header[0], header[6], header[7]) = (0x60, 58, 255);
    header[8..24].copy_from_slice(&V6_SOURCE.octets());
    [ethernet(&[], 0x86dd), header, vec![135, 0], vec![0; 22]].concat()
}

fn v4_frame(tags: &[u16], flags: u8) -> Vec<u8> {
    let mut header = vec![0; 20];
    (header[0], header[9]) = (0x45, 6);
    header[12..16].copy_from_slice(&V4_SOURCE.octets());
    [ethernet(tags, 0x0800), header, tcp(flags)].concat()
}

/// With extension headers, the first of which is `next`.
fn v6_frame(tags: &[u16], next: u8, extensions: &[u8], flags: u8) -> Vec<u8> {
    let mut header = vec![0; 40];
    (header[0], header[6]) = (0x60, next);
    header[8..24].copy_from_slice(&V6_SOURCE.octets());
    [ethernet(tags, 0x86dd), header, extensions.to_vec(), tcp(flags)].concat()
}

/// The source, all its octets, and whether it attempts a connection.
type Parsed = (Source, [u8; 16], bool);

fn packet(bytes: &[u8]) -> Result<Option<(Frame<'_>, Packet)>, Malformed> {
    let frame = Frame::new(bytes);
    Ok(network(&frame)?.map(|packet| (frame, packet)))
}

fn parse(bytes: &[u8]) -> Result<Option<Parsed>, Malformed> {
    let Some((frame, packet)) = packet(bytes)? else { return Ok(None) };
    let is_attempt = kind(&frame, &packet) == Kind::Opening;
    Ok(Some((packet.source(), packet.octets(&frame), is_attempt)))
}

/// Everything that is said about a packet.
#[derive(Debug, PartialEq, Eq)]
struct All {
    source: Source,
    address: [u8; 16],
    kind: Kind,
    destination: Option<Destination>,
    is_neighbour_discovery: bool,
}
type Found = Result<Option<All>, Malformed>;

fn all(bytes: &[u8]) -> Found {
    let Some((frame, packet)) = packet(bytes)? else { return Ok(None) };
    Ok(Some(All {
        source: packet.source(),
        address: packet.octets(&frame),
        kind: kind(&frame, &packet),
        destination: destination(&frame, &packet),
        is_neighbour_discovery: is_neighbour_discovery(&frame, &packet),
    }))
}

fn v4_parsed(is_attempt: bool) -> Parsed {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&V4_SOURCE.octets());
    (Source::V4(v4_key(V4_SOURCE)), address, is_attempt)
}

fn v6_parsed(is_attempt: bool) -> Parsed {
    (Source::V6(v6_key(V6_SOURCE)), V6_SOURCE.octets(), is_attempt)
}

#[test]
fn a_frame_without_a_whole_ethernet_header_is_malformed() {
    for fill in [0x00, 0x08, 0x45, 0x81, 0xff] {
        for length in 0..14 {
            let bytes = vec![fill; length];
            let frame = Frame::new(&bytes);
            assert_eq!(frame.len(), length);
            assert_eq!(frame.is_empty(), length == 0);
            assert_eq!(network(&frame), Err(Malformed), "{length} times {fill:#x}");
        }
    }
    for frame in [v4_frame(&[], SYN), v6_frame(&[], 6, &[], SYN), v4_frame(&[CUSTOMER], SYN)] {
        for length in 0..14 {
            assert_eq!(parse(&frame[..length]), Err(Malformed), "{length} bytes");
        }
    }
}

#[test]
fn the_source_is_found_behind_up_to_two_tags() {
    let tags: [&[u16]; 5] =
        [&[], &[CUSTOMER], &[PROVIDER], &[PROVIDER, CUSTOMER], &[CUSTOMER, PROVIDER]];
    for tags in tags {
        assert_eq!(parse(&v4_frame(tags, SYN)), Ok(Some(v4_parsed(true))));
        assert_eq!(parse(&v4_frame(tags, SYN | ACK)), Ok(Some(v4_parsed(false))));
        assert_eq!(parse(&v6_frame(tags, 6, &[], SYN)), Ok(Some(v6_parsed(true))));
        assert_eq!(parse(&v6_frame(tags, 6, &[], ACK)), Ok(Some(v6_parsed(false))));
    }
    assert_eq!(parse(&v4_frame(&[CUSTOMER; 3], SYN)), Ok(None));
    assert_eq!(parse(&v6_frame(&[PROVIDER; 3], 6, &[], SYN)), Ok(None));
}

#[test]
fn every_cut_is_malformed_until_the_fixed_ip_header_is_there() {
    for tags in [&[][..], &[CUSTOMER], &[PROVIDER, CUSTOMER]] {
        let at = 14 + 4 * tags.len();
        let v4 = v4_frame(tags, SYN);
        for length in 0..=v4.len() {
            let expected = if length < at + 20 {
                Err(Malformed)
            } else {
                Ok(Some(v4_parsed(length >= at + 34)))
            };
            assert_eq!(parse(&v4[..length]), expected, "{length} bytes, {tags:x?}");
        }
        let v6 = v6_frame(tags, 0, &[6, 0, 0, 0, 0, 0, 0, 0], SYN);
        for length in 0..=v6.len() {
            let expected = if length < at + 40 {
                Err(Malformed)
            } else {
                Ok(Some(v6_parsed(length >= at + 62)))
            };
            assert_eq!(parse(&v6[..length]), expected, "{length} bytes, {tags:x?}");
        }
    }
}

#[test]
fn a_chain_of_six_extension_headers_is_walked_and_one_of_seven_is_not() {
    let chain = |headers: usize| {
        let mut extensions = [60, 0, 0, 0, 0, 0, 0, 0].repeat(headers);
        extensions[8 * (headers - 1)] = 6;
        v6_frame(&[], 60, &extensions, SYN)
    };
    assert_eq!(parse(&chain(6)), Ok(Some(v6_parsed(true))));
    assert_eq!(parse(&chain(7)), Ok(Some(v6_parsed(false))));
}

/// The parser once more, on slices: slow, obvious, unfit for the verifier.
fn reference(bytes: &[u8]) -> Found {
    let mut rest = bytes.get(12..).ok_or(Malformed)?;
    for _ in 0..2 {
        if let [0x81, 0x00, _, _, inner @ ..] | [0x88, 0xa8, _, _, inner @ ..] = rest {
            rest = inner;
        }
    }
    match rest {
        [0x08, 0x00, packet @ ..] => v4_reference(packet).map(Some),
        [0x86, 0xdd, packet @ ..] => v6_reference(packet).map(Some),
        // Cut off within a tag, or before it said what follows.
        [] | [_] | [0x81, 0x00] | [0x81, 0x00, _] | [0x88, 0xa8] | [0x88, 0xa8, _] => {
            is_third_tag(bytes, rest)
        }
        _ => Ok(None),
    }
}

/// A third tag is not IP, complete or not; a first or second one is cut off.
fn is_third_tag(bytes: &[u8], rest: &[u8]) -> Found {
    let tags = (bytes.len() - 12 - rest.len()) / 4;
    if tags == 2 && rest.len() >= 2 { Ok(None) } else { Err(Malformed) }
}

/// What follows the IP header: nothing, a later fragment, or a protocol with
/// its bytes and whether they are a part of more.
enum Upper<'a> {
    None,
    LaterFragment,
    Protocol { number: u8, bytes: &'a [u8], is_part: bool },
}

fn v4_reference(packet: &[u8]) -> Result<All, Malformed> {
    let fixed = packet.get(..20).filter(|fixed| fixed[0] >> 4 == 4).ok_or(Malformed)?;
    let mut address = [0; 16];
    address[..4].copy_from_slice(&fixed[12..16]);
    let source = Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]);
    let length = usize::from(fixed[0] % 16) * 4;
    let upper = if length < 20 {
        Upper::None
    } else if fixed[6] & 0x1f != 0 || fixed[7] != 0 {
        Upper::LaterFragment
    } else {
        let bytes = packet.get(length..).unwrap_or_default();
        Upper::Protocol { number: fixed[9], bytes, is_part: fixed[6] & 0x20 != 0 }
    };
    Ok(judged(Source::V4(v4_key(source)), address, &upper, false))
}

fn v6_reference(packet: &[u8]) -> Result<All, Malformed> {
    let fixed = packet.get(..40).filter(|fixed| fixed[0] >> 4 == 6).ok_or(Malformed)?;
    let address: [u8; 16] = fixed[8..24].try_into().expect("sixteen octets");
    let source = Source::V6(v6_key(Ipv6Addr::from(address)));
    let discovers = packet.len() >= 48
        && matches!((fixed[6], fixed[7], packet[40], packet[41]), (58, 255, 133..=136, 0));
    Ok(judged(source, address, &v6_upper(fixed[6], &packet[40..]), discovers))
}

fn v6_upper(mut number: u8, mut bytes: &[u8]) -> Upper<'_> {
    let mut is_part = false;
    for _ in 0..6 {
        if ![0, 43, 44, 51, 60, 135].contains(&number) {
            break;
        }
        let Some(header) = bytes.get(..8) else { return Upper::None };
        let length = match number {
            44 if header[2] != 0 || header[3] & 0xf8 != 0 => return Upper::LaterFragment,
            44 => 8,
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        is_part |= number == 44;
        number = header[0];
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Upper::Protocol { number, bytes, is_part }
}

fn judged(
    source: Source,
    address: [u8; 16],
    upper: &Upper<'_>,
    is_neighbour_discovery: bool,
) -> All {
    let kind = match upper {
        Upper::LaterFragment => Kind::Fragment,
        Upper::Protocol { number: 6, bytes, .. } if is_syn(bytes) => Kind::Opening,
        _ => Kind::Other,
    };
    let destination = match *upper {
        Upper::Protocol { number, bytes, is_part: false } if is_whole(number, bytes) => {
            let port = u16::from_be_bytes([bytes[2], bytes[3]]);
            Some(Destination { protocol: number, port })
        }
        _ => None,
    };
    All { source, address, kind, destination, is_neighbour_discovery }
}

fn is_syn(tcp: &[u8]) -> bool {
    tcp.get(13).is_some_and(|flags| flags & 0x12 == 2)
}

fn is_whole(protocol: u8, bytes: &[u8]) -> bool {
    match protocol {
        6 => bytes.get(12).is_some_and(|byte| (5..=bytes.len() / 4).contains(&(byte >> 4).into())),
        17 => bytes.len() >= 8,
        _ => false,
    }
}

fn check(strategy: &impl Strategy<Value = Vec<u8>>, property: impl Fn(&[u8]) -> TestCaseResult) {
    let config = Config { cases: 20_000, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
        .run(strategy, |bytes| property(&bytes))
        .expect("the property holds");
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => any_mutant(), 1 => vec_of(any::<u8>(), 0..120)]
}

/// A good frame with some bytes changed, cut anywhere.
fn any_mutant() -> impl Strategy<Value = Vec<u8>> {
    // Routing, destination options, a fragment; authentication, mobility.
    let fragment = [60, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 9];
    let signed = [135, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
    let frames = [&[][..], &[CUSTOMER], &[PROVIDER, CUSTOMER], &[CUSTOMER; 3]].map(|tags| {
        let ipv6 = |next, extensions| v6_frame(tags, next, extensions, SYN);
        [v4_frame(tags, SYN), ipv6(6, &[]), ipv6(43, &fragment), ipv6(51, &signed)]
    });
    let udp = [0, 53, 0, 53, 0, 8, 0, 0];
    let others = [discovery(), v6_frame(&[], 17, &udp, SYN)];
    let value = prop_oneof![
        any::<u8>(),
        select(vec![0, 1, 6, 17, 43, 44, 51, 58, 60, 0x45, 0x50, 0x60, 0x81, 133, 255])
    ];
    let length = prop_oneof![Just(usize::MAX), 0..130_usize];
    (select([&frames.concat()[..], &others].concat()), vec_of((0..130_usize, value), 0..5), length)
        .prop_map(|(mut bytes, changes, length)| {
            for (place, value) in changes {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = value;
                }
            }
            bytes.truncate(length);
            bytes
        })
}

#[test]
fn a_destination_is_that_of_a_whole_header() {
    let at = |bytes: &[u8]| {
        let (frame, packet) = packet(bytes).expect("it is well-formed").expect("it is IP");
        destination(&frame, &packet).map(|to| (to.protocol, to.port))
    };
    let tcp = v4_frame(&[], SYN);
    assert_eq!(at(&tcp), Some((6, 8080)));
    assert_eq!(at(&tcp[..tcp.len() - 1]), None, "cut short");
    for (words, expected) in [(4, None), (5, Some((6, 8080))), (6, None)] {
        let mut bytes = tcp.clone();
        bytes[14 + 20 + 12] = words << 4;
        assert_eq!(at(&bytes), expected, "{words} words");
    }
    let mut more_follow = tcp;
    more_follow[14 + 6] = 0x20;
    assert_eq!(at(&more_follow), None, "a fragment");
}

#[test]
fn neighbour_discovery_is_of_four_types_with_hop_limit_255_and_nothing_in_between() {
    let is = |change: (usize, u8), length: usize| {
        let mut bytes = discovery();
        bytes[change.0] = change.1;
        bytes.truncate(length);
        all(&bytes).expect("it is well-formed").expect("it is IP").is_neighbour_discovery
    };
    let (next, hop_limit, kind, code) = (14 + 6, 14 + 7, 14 + 40, 14 + 41);
    let whole = discovery().len();
    for number in 0..=u8::MAX {
        assert_eq!(is((kind, number), whole), (133..=136).contains(&number), "type {number}");
        assert_eq!(is((code, number), whole), number == 0, "code {number}");
        assert_eq!(is((hop_limit, number), whole), number == 255, "hop limit {number}");
        assert_eq!(is((next, number), whole), number == 58, "protocol {number}");
    }
    assert!(is((kind, 135), 14 + 48) && !is((kind, 135), 14 + 47), "the fixed part is there");
}

#[test]
fn any_bytes_are_parsed_as_by_a_parser_on_slices() {
    check(&any_frame(), |bytes| {
        prop_assert_eq!(all(bytes), reference(bytes));
        Ok(())
    });
}

#[test]
fn what_lies_around_a_frame_makes_no_difference() {
    check(&any_frame(), |bytes| {
        let alone = all(bytes);
        for fill in [0x00, 0x06, SYN, 0x45, 0xff] {
            let around = [vec![fill; 64], bytes.to_vec(), vec![fill; 4096]].concat();
            prop_assert_eq!(&all(&around[64..64 + bytes.len()]), &alone);
        }
        Ok(())
    });
}
