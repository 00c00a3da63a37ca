//! The kernel against the host: random and mutated frames, with the host's
//! build of the parser to say what the kernel must make of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use moderation_common::{BanEntry, Reason, Source};
use moderation_daemon::config::{Ports, Syn};
use moderation_daemon::engine::{Address, Prefix};
use moderation_daemon::network::{AttachOptions, DropMode};
use moderation_ebpf::parse::{self, Kind, Malformed, Packet};
use moderation_tests::frame::{
    ACK, ARP, CUSTOMER, ETHERNET_BYTES, Extension, Frame, LLDP, PORT, PROVIDER, Part, SOURCE_V4,
    SOURCE_V6, SYN, Transport, V4, V6,
};
use moderation_tests::kernel::{Kernel, detached};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::{prop_assert_eq, prop_oneof as weighted};

use crate::{kernel_with, prefix, runner};

/// Of a banned /64 this host is allowed.
const ALLOWED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 5, 5, 0, 0, 0, 0xa);
/// Banned and allowed.
const ALLOWED_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// Banned, and behind it are many.
const PROXY_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Guarded, and in a banned block.
const GUARDED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x88, 7, 0, 0, 0, 1);
/// In a banned block.
const BLOCKED_V4: Ipv4Addr = Ipv4Addr::new(100, 64, 3, 7);
const BLOCKED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x88, 9, 0, 0, 0, 1);
/// Banned as a single address, in a /64 of innocents.
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0xbad);
/// Its ban has lapsed.
const LAPSED_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 78);
/// Nothing is held against these.
const INNOCENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const INNOCENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1);

/// Never shed, but closed to the banned.
const UNSHED: u16 = PORT;
/// Open to the banned.
const EXPLANATION: u16 = PORT + 1;

const LIMIT: u64 = 4;
/// Attempts that are in the sketch alone, until it is suspicious.
const UNSUSPECTED: u64 = LIMIT / 2;

#[test]
fn the_kernel_judges_random_frames_as_the_host_built_parser_would() {
    let Some(world) = World::new() else { return };
    let world = RefCell::new(world);
    let cases = (any_frame(), weighted![9 => Just(false), 1 => Just(true)]);
    runner(20_000)
        .run(&cases, |(bytes, is_observing)| {
            let mut world = world.borrow_mut();
            let expected = world.expected(&bytes, is_observing);
            prop_assert_eq!(world.judged(&bytes, is_observing), expected);
            Ok(())
        })
        .expect("kernel and host agree");
    world.into_inner().check();
}

/// The kernel, and the same in ordinary Rust.
struct World {
    kernel: Kernel,
    bans: Vec<Prefix>,
    allowed: Vec<IpNet>,
    guards: Vec<IpNet>,
    proxies: Vec<IpNet>,
    attempts: HashMap<String, u64>,
    reasons: HashMap<&'static str, usize>,
}

impl World {
    fn new() -> Option<Self> {
        let nets = |ips: &[IpAddr]| -> Vec<IpNet> { ips.iter().map(|ip| (*ip).into()).collect() };
        let (guards, proxies) = (nets(&[GUARDED_V6.into()]), nets(&[PROXY_V4.into()]));
        let options = AttachOptions {
            guards: guards.clone(),
            proxies: proxies.clone(),
            ports: Ports {
                exempt: vec![UNSHED],
                cover_bans: false,
                explanation: Some(EXPLANATION),
            },
            syn: Syn { limit: 4, table: 65_536, ..detached().syn },
            ..detached()
        };
        let mut kernel = kernel_with(&options)?;
        let blocks = ["100.64.0.0/10", "2001:db8:88::/48"].map(prefix);
        let exact: [IpAddr; 4] =
            [SOURCE_V4.into(), ALLOWED_V4.into(), PROXY_V4.into(), SOURCE_V6.into()];
        let mut bans: Vec<_> = exact.into_iter().map(|ip| Prefix::around(ip, 64)).collect();
        bans.push(Prefix::around(HOST_V6.into(), 128));
        bans.extend(blocks);
        for prefix in &bans {
            kernel.ban_prefix(*prefix, BanEntry::NEVER).expect("banned");
        }
        kernel.ban_until(LAPSED_V4, 1).expect("banned");
        let allowed = nets(&[ALLOWED_V4.into(), ALLOWED_V6.into()]);
        kernel.allow(&allowed).expect("allowed");
        let (attempts, reasons) = Default::default();
        Some(Self { kernel, bans, allowed, guards, proxies, attempts, reasons })
    }

    fn judged(&mut self, bytes: &[u8], is_observing: bool) -> Reason {
        let switch = |kernel: &mut Kernel, mode| kernel.network.enforce(mode).expect("switched");
        if is_observing {
            switch(&mut self.kernel, DropMode::Observe);
        }
        let reason = self.kernel.judge(bytes).expect("every frame is counted once");
        if is_observing {
            switch(&mut self.kernel, DropMode::Drop);
        }
        *self.reasons.entry(reason.name()).or_default() += 1;
        reason
    }

    /// The verdict by the host's parser and plain lists.
    fn expected(&mut self, bytes: &[u8], is_observing: bool) -> Reason {
        let frame = parse::Frame::new(bytes);
        let reason = match parse::network(&frame) {
            Ok(Some(packet)) => self.of_packet(&frame, &packet),
            Ok(None) => Reason::NotIp,
            Err(Malformed) => Reason::Malformed,
        };
        if is_observing && reason.drops() { Reason::ObserveWouldDrop } else { reason }
    }

    fn of_packet(&mut self, frame: &parse::Frame<'_>, packet: &Packet) -> Reason {
        let ip = match packet.source() {
            Source::V4(key) => IpAddr::from(key.to_ne_bytes()),
            Source::V6(_) => IpAddr::from(packet.octets(frame)),
        };
        let port = parse::destination(frame, packet).map(|to| to.port);
        let exemption = self.exemption(ip);
        let mut passes_as = Reason::Pass;
        if let Some(ban) = self.ban(ip) {
            match exemption {
                Some(exemption) => return exemption,
                None if parse::is_neighbour_discovery(frame, packet) => {
                    return Reason::NeighbourDiscovery;
                }
                None if port == Some(EXPLANATION) => passes_as = Reason::ExemptPort,
                None => return ban,
            }
        }
        match parse::kind(frame, packet) {
            Kind::Fragment => Reason::Fragment,
            Kind::Opening if self.is_too_fast(ip) => match exemption {
                Some(exemption) => exemption,
                None if port == Some(UNSHED) => Reason::ExemptPort,
                None => Reason::SynRate,
            },
            Kind::Opening | Kind::Other => passes_as,
        }
    }

    fn ban(&self, ip: IpAddr) -> Option<Reason> {
        // An IPv4-mapped source is an IPv6 one on the wire.
        let holds = |ban: &&Prefix| ban.net().contains(&ip);
        let mut bans: Vec<_> = self.bans.iter().filter(holds).collect();
        bans.sort_by_key(|ban| !ban.is_exact());
        let ban = bans.first()?;
        Some(match ip {
            _ if !ban.is_exact() => Reason::BanNet,
            IpAddr::V4(_) => Reason::BanV4,
            IpAddr::V6(_) => Reason::BanV6,
        })
    }

    fn exemption(&self, ip: IpAddr) -> Option<Reason> {
        let is_in = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
        if is_in(&self.guards) || is_in(&self.allowed) {
            return Some(Reason::AllowOverride);
        }
        is_in(&self.proxies).then_some(Reason::ProxyOverride)
    }

    fn is_too_fast(&mut self, ip: IpAddr) -> bool {
        let attempts = self.attempts.entry(name(ip)).or_default();
        *attempts += 1;
        *attempts > UNSUSPECTED + LIMIT
    }

    /// The kernel counted the same attempts, and no verdict was a rarity.
    fn check(mut self) {
        let counted: HashMap<_, _> = self.kernel.attempts().expect("read").into_iter().collect();
        self.attempts.retain(|_, attempts| {
            *attempts = attempts.saturating_sub(UNSUSPECTED);
            *attempts > 0
        });
        assert!(counted.len() >= 5, "many sources: {counted:?}");
        assert_eq!(counted, self.attempts);
        for reason in Reason::ALL {
            let times = self.reasons.get(reason.name()).copied().unwrap_or_default();
            assert!(times > 40, "{reason:?} only {times} times");
        }
    }
}

/// As the kernel's table has it: an address or its /64, never unmapped.
fn name(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(_) => Address::from(ip).to_string(),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Address::from(IpAddr::from(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))).to_string()
        }
    }
}

/// Mostly good frames with a few bytes changed, cut off or added; sometimes
/// noise with an EtherType that makes the parser look at it.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    weighted![9 => any_mutant(), 1 => any_noise()]
}

fn any_mutant() -> impl Strategy<Value = Vec<u8>> {
    // The headers are in the first bytes; most changes should hit them.
    let place = prop_oneof![0..80_usize, 12..16_usize, any::<Index>().prop_map(|i| i.index(1500))];
    let value = prop_oneof![
        any::<u8>(),
        select(vec![0, 6, 17, 43, 44, 51, 58, 60, 135, 255, 0x45, 0x50, 0x60, 0x81])
    ];
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
    let innocents = [INNOCENT_V4, LAPSED_V4];
    for source in [SOURCE_V4, ALLOWED_V4, PROXY_V4, BLOCKED_V4].into_iter().chain(innocents) {
        frames.extend(v4_frames(source));
    }
    for source in [SOURCE_V6, ALLOWED_V6, GUARDED_V6, BLOCKED_V6, HOST_V6, INNOCENT_V6] {
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
    for port in [EXPLANATION, 443] {
        frames.push(Frame::from(plain.clone()).to_port(port));
    }
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
    for port in [EXPLANATION, 443] {
        frames.push(Frame::from(plain.clone()).to_port(port));
    }
    let near = V6 { hop_limit: 255, ..plain.clone() };
    frames.push(Frame::from(near).carrying(Transport::Discovery(135, 0)));
    frames.push(Frame::from(plain).carrying(Transport::Udp));
    frames
}
