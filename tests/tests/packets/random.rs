//! The kernel against the host: random and mutated frames, with the host's
//! build of the parser to say what the kernel must make of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use moderation_common::{Reason, Source, v4_key, v6_key};
use moderation_daemon::engine::Address;
use moderation_ebpf::parse::{self, Malformed, Packet};
use moderation_tests::frame::{
    ACK, ARP, CUSTOMER, ETHERNET_BYTES, Extension, Frame, LLDP, PROVIDER, Part, SOURCE_V4,
    SOURCE_V6, SYN, Transport, V4, V6,
};
use moderation_tests::kernel::Kernel;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use proptest::{prop_assert_eq, prop_oneof as weighted};

use crate::kernel;

/// Of a banned /64 this host is allowed.
const ALLOWED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 5, 5, 0, 0, 0, 0xa);
/// Banned and allowed.
const ALLOWED_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// Neither.
const INNOCENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const INNOCENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1);

#[test]
fn the_kernel_judges_random_frames_as_the_host_built_parser_would() {
    const CASES: u32 = 20_000;
    let Some(kernel) = prepared() else { return };
    let tally = RefCell::new(Tally::default());
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
        .run(&any_frame(), |bytes| {
            let (expected, attempt) = expected(&bytes);
            let judged = kernel.judge(&bytes).expect("every frame is counted once");
            prop_assert_eq!(judged, expected);
            tally.borrow_mut().add(judged, attempt);
            Ok(())
        })
        .expect("kernel and host agree");
    tally.into_inner().check(&kernel);
}

fn prepared() -> Option<Kernel> {
    let mut kernel = kernel()?;
    for ip in banned() {
        kernel.ban(ip).expect("banned");
    }
    kernel.allow(&allowed()).expect("allowed");
    Some(kernel)
}

fn banned() -> [IpAddr; 3] {
    [SOURCE_V4.into(), ALLOWED_V4.into(), SOURCE_V6.into()]
}

fn allowed() -> [IpNet; 2] {
    [IpAddr::from(ALLOWED_V4).into(), IpAddr::from(ALLOWED_V6).into()]
}

/// The verdict by the host's parser and plain sets, and whose connection
/// attempt is to be counted.
fn expected(bytes: &[u8]) -> (Reason, Option<Source>) {
    let frame = parse::Frame::new(bytes);
    let packet = match parse::network(&frame) {
        Ok(Some(packet)) => packet,
        Ok(None) => return (Reason::NotIp, None),
        Err(Malformed) => return (Reason::Malformed, None),
    };
    let is_banned = banned().into_iter().any(|ip| key(ip) == packet.source);
    let reason = match (is_banned, is_allowed(&packet), packet.source) {
        (false, ..) => Reason::Pass,
        (true, true, _) => Reason::AllowOverride,
        (true, false, Source::V4(_)) => Reason::BanV4,
        (true, false, Source::V6(_)) => Reason::BanV6,
    };
    let kind = parse::kind(&frame, &packet);
    let is_attempt = reason == Reason::Pass && kind == Kind::Opening;
    (reason, is_attempt.then_some(packet.source))
}

fn key(ip: IpAddr) -> Source {
    match ip {
        IpAddr::V4(ip) => Source::V4(v4_key(ip)),
        IpAddr::V6(ip) => Source::V6(v6_key(ip)),
    }
}

fn is_allowed(packet: &Packet) -> bool {
    let ip = match packet.source {
        Source::V4(key) => IpAddr::from(key.to_ne_bytes()),
        Source::V6(_) => IpAddr::from(packet.address),
    };
    allowed().iter().any(|prefix| prefix.contains(&ip))
}

/// What was expected, all in all.
#[derive(Default)]
struct Tally {
    reasons: HashMap<&'static str, usize>,
    attempts: HashMap<String, u64>,
}

impl Tally {
    fn add(&mut self, reason: Reason, attempt: Option<Source>) {
        *self.reasons.entry(reason.name()).or_default() += 1;
        if let Some(source) = attempt {
            *self.attempts.entry(name(source)).or_default() += 1;
        }
    }

    /// The kernel counted the same attempts, and no verdict was a rarity.
    fn check(self, kernel: &Kernel) {
        let counted = kernel.network.syns().busiest(usize::MAX, 0).expect("read");
        let counted: HashMap<_, _> =
            counted.into_iter().map(|count| (count.source, count.syns)).collect();
        assert!(counted.len() > 10, "many sources: {counted:?}");
        assert_eq!(counted, self.attempts);
        for reason in Reason::ALL {
            let times = self.reasons.get(reason.name()).copied().unwrap_or_default();
            assert!(times > 100, "{reason:?} only {times} times");
        }
    }
}

fn name(source: Source) -> String {
    let ip = match source {
        Source::V4(key) => IpAddr::from(key.to_ne_bytes()),
        Source::V6(key) => IpAddr::from(Ipv6Addr::from_bits(
            u128::from(u64::from_be_bytes(key.to_ne_bytes())) << 64,
        )),
    };
    Address::from(ip).to_string()
}

/// Mostly good frames with a few bytes changed, cut off or added; sometimes
/// noise with an EtherType that makes the parser look at it.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    weighted![9 => any_mutant(), 1 => any_noise()]
}

fn any_mutant() -> impl Strategy<Value = Vec<u8>> {
    // The headers are in the first bytes; most changes should hit them.
    let place = prop_oneof![0..80_usize, 12..16_usize, any::<Index>().prop_map(|i| i.index(1500))];
    let value = prop_oneof![any::<u8>(), select(vec![0, 6, 43, 44, 51, 60, 135, 0x45, 0x60, 0x81])];
    let changes = vec((place, value), 0..5);
    let length = prop_oneof![3 => Just(None), 1 => any::<Index>().prop_map(Some)];
    (select(frames()), changes, length, vec(any::<u8>(), 0..8)).prop_map(
        |(mut bytes, changes, length, tail)| {
            bytes.extend(tail);
            for (place, value) in changes {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = value;
                }
            }
            if let Some(length) = length {
                bytes.truncate(ETHERNET_BYTES + length.index(bytes.len() - ETHERNET_BYTES + 1));
            }
            bytes
        },
    )
}

fn any_noise() -> impl Strategy<Value = Vec<u8>> {
    let ether_type = select(vec![0x0800_u16, 0x86dd, CUSTOMER, PROVIDER, ARP]);
    (vec(any::<u8>(), ETHERNET_BYTES..200), ether_type).prop_map(|(mut bytes, ether_type)| {
        bytes[12..14].copy_from_slice(&ether_type.to_be_bytes());
        bytes
    })
}

/// Good frames of every kind, from every kind of source, in and out of VLANs.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = vec![Frame::other(ARP, &[0; 28]), Frame::other(LLDP, &[0; 46])];
    for source in [SOURCE_V4, ALLOWED_V4, INNOCENT_V4] {
        frames.extend(v4_frames(source));
    }
    for source in [SOURCE_V6, ALLOWED_V6, INNOCENT_V6] {
        frames.extend(v6_frames(source));
    }
    let tags: [&[u16]; 4] = [&[], &[CUSTOMER], &[PROVIDER, CUSTOMER], &[CUSTOMER; 3]];
    let tagged = tags.iter().flat_map(|tags| frames.iter().map(|frame| frame.clone().tagged(tags)));
    tagged.map(|frame| frame.bytes()).collect()
}

fn v4_frames(source: Ipv4Addr) -> Vec<Frame> {
    let plain = V4 { source, ..V4::default() };
    let later = V4 { fragment: Some(Part::LATER), ..plain.clone() };
    let options = V4 { options: vec![1; 8], ..plain };
    let transports = [Transport::Tcp(SYN | ACK), Transport::Udp, Transport::Icmp];
    let mut frames: Vec<_> = [plain.clone(), later, options].map(Frame::from).into();
    frames.extend(transports.map(|transport| Frame::from(plain.clone()).carrying(transport)));
    frames
}

fn v6_frames(source: Ipv6Addr) -> Vec<Frame> {
    let plain = V6 { source, ..V6::default() };
    let chains = [
        vec![],
        vec![Extension::HopByHop(0), Extension::Routing(1)],
        vec![Extension::Fragment(Part::FIRST), Extension::Authentication(2)],
        vec![Extension::Fragment(Part::LATER)],
        vec![Extension::Destination(0); 8],
    ];
    let mut frames: Vec<_> =
        chains.map(|extensions| Frame::from(V6 { extensions, ..plain.clone() })).into();
    frames.push(Frame::from(plain).carrying(Transport::Udp));
    frames
}
