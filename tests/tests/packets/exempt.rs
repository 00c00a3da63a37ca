//! Who and what passes although it would be dropped: by source, by port, and
//! neighbour discovery. Everything that only looks like it stays dropped.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use moderation_common::{BanEntry, Reason};
use moderation_daemon::config::Ports;
use moderation_daemon::network::{AttachOptions, DropMode};
use moderation_tests::frame::{
    ACK, CUSTOMER, Extension, Frame, PORT, PROVIDER, PSH, Part, RST, SOURCE_V4, SOURCE_V6, SYN,
    Transport, V4, V6,
};
use moderation_tests::kernel::{Kernel, detached};

use crate::{kernel, kernel_with};

type Case = (&'static str, Vec<u8>);

/// The default frames' port is open to the banned; so is the next one, where
/// they can read why they are.
fn with_open_ports() -> Option<Kernel> {
    let ports = Ports { exempt: vec![PORT], cover_bans: true, explanation: Some(PORT + 1) };
    let mut kernel = kernel_with(&AttachOptions { ports, ..detached() })?;
    kernel.ban(SOURCE_V4).expect("banned");
    kernel.ban(SOURCE_V6).expect("banned");
    Some(kernel)
}

fn assert_all(kernel: &Kernel, cases: &[Case], v4: Reason, v6: Reason) {
    for (name, bytes) in cases {
        let is_v4 = bytes.windows(4).any(|octets| octets == SOURCE_V4.octets());
        let expected = if is_v4 { v4 } else { v6 };
        assert_eq!(kernel.judge(bytes).expect(name), expected, "{name}: {bytes:x?}");
    }
}

fn v4(change: impl FnOnce(&mut V4)) -> Frame {
    let mut header = V4::default();
    change(&mut header);
    header.into()
}

fn v6(extensions: &[Extension]) -> Frame {
    V6 { extensions: extensions.to_vec(), ..V6::default() }.into()
}

#[test]
fn a_whole_tcp_or_udp_packet_to_an_open_port_passes() {
    use Extension::{Authentication, Destination, HopByHop, Routing};
    let Some(kernel) = with_open_ports() else { return };
    let cases: Vec<Case> = vec![
        ("syn", Frame::default().bytes()),
        ("data", Frame::default().carrying(Transport::Tcp(ACK | PSH)).bytes()),
        ("reset", Frame::default().carrying(Transport::Tcp(RST)).bytes()),
        ("udp", Frame::default().carrying(Transport::Udp).bytes()),
        ("to the explanation", Frame::default().to_port(PORT + 1).bytes()),
        ("in vlans", Frame::default().tagged(&[PROVIDER, CUSTOMER]).bytes()),
        ("with options", v4(|v4| v4.options = vec![1; 40]).bytes()),
        ("with a payload", Frame { payload: vec![7; 900], ..Frame::default() }.bytes()),
        ("ipv6", Frame::v6().bytes()),
        ("ipv6 udp", Frame::v6().carrying(Transport::Udp).bytes()),
        ("behind extensions", v6(&[HopByHop(0), Routing(1), Destination(2)]).bytes()),
        ("behind authentication", v6(&[Authentication(3)]).bytes()),
        ("behind six headers", v6(&[Destination(0); 6]).bytes()),
    ];
    assert_all(&kernel, &cases, Reason::ExemptPort, Reason::ExemptPort);
}

#[test]
fn what_is_not_a_whole_packet_to_an_open_port_stays_dropped() {
    let Some(kernel) = with_open_ports() else { return };
    let looks_open = |frame: Frame| Frame { payload: PORT.to_be_bytes().repeat(20), ..frame };
    let udp = Frame::default().carrying(Transport::Udp);
    let to = |port: u16| Frame::default().to_port(port);
    let mut cases: Vec<Case> = vec![
        ("another port", to(PORT - 1).bytes()),
        ("no port", to(0).bytes()),
        ("the octets swapped", to(PORT.swap_bytes()).bytes()),
        ("udp to another port", udp.clone().to_port(22).bytes()),
        ("ipv6 to another port", Frame::v6().to_port(443).bytes()),
        ("icmp", looks_open(Frame::default().carrying(Transport::Icmp)).bytes()),
        ("icmpv6", looks_open(Frame::v6().carrying(Transport::Icmp)).bytes()),
        ("a header shorter than can be", v4(|v4| v4.ihl = Some(4)).bytes()),
        ("no header length", v4(|v4| v4.ihl = Some(0)).bytes()),
        ("udp cut to seven bytes", udp.truncated(14 + 20 + 7)),
        ("udp cut behind its port", udp.truncated(14 + 20 + 4)),
        ("nothing behind the header", Frame::default().truncated(14 + 20)),
        ("ipv6 with nothing behind", Frame::v6().truncated(14 + 40)),
    ];
    // GRE, ESP, SCTP, UDP-Lite, DCCP: what looks like a port there is none.
    for protocol in [47, 50, 132, 136, 33, 4, 41, 0, 255] {
        let carrying = |frame: Frame| looks_open(frame.carrying(Transport::Protocol(protocol)));
        cases.push(("another protocol", carrying(Frame::default()).bytes()));
        cases.push(("another protocol", carrying(Frame::v6()).bytes()));
    }
    assert_all(&kernel, &cases, Reason::BanV4, Reason::BanV6);
}

#[test]
fn no_fragment_to_an_open_port_passes_not_even_an_atomic_one() {
    use Extension::{Destination, Fragment, HopByHop};
    let Some(kernel) = with_open_ports() else { return };
    let mut cases: Vec<Case> = Vec::new();
    for transport in [Transport::Tcp(SYN), Transport::Tcp(ACK), Transport::Udp] {
        for part in [Part::FIRST, Part::LATER, Part::LAST, Part { offset: 1, has_more: false }] {
            let frame = v4(|v4| v4.fragment = Some(part)).carrying(transport);
            cases.push(("ipv4", frame.bytes()));
        }
        for part in [Part::FIRST, Part::LATER, Part::LAST, Part::ATOMIC] {
            let chains = [
                vec![Fragment(part)],
                vec![HopByHop(0), Fragment(part)],
                vec![Fragment(part), Destination(0)],
            ];
            for chain in chains {
                cases.push(("ipv6", v6(&chain).carrying(transport).bytes()));
            }
        }
    }
    assert_all(&kernel, &cases, Reason::BanV4, Reason::BanV6);
    // An IPv4 packet that is whole has no such header.
    let whole = v4(|v4| v4.fragment = Some(Part::ATOMIC)).bytes();
    assert_eq!(kernel.judge(&whole).expect("judged"), Reason::ExemptPort);
    let mut unfragmentable = Frame::default().bytes();
    unfragmentable[14 + 6] = 0x40;
    assert_eq!(kernel.judge(&unfragmentable).expect("judged"), Reason::ExemptPort);
}

#[test]
fn a_tcp_header_must_be_there_with_all_the_words_that_it_claims() {
    let Some(kernel) = with_open_ports() else { return };
    let chain = [Extension::Destination(0)];
    let frames = [
        (Frame::default(), 14 + 20, Reason::BanV4),
        (v4(|v4| v4.options = vec![1; 8]).tagged(&[CUSTOMER]), 18 + 28, Reason::BanV4),
        (v6(&chain), 14 + 48, Reason::BanV6),
    ];
    for (frame, tcp, ban) in frames {
        let frame = Frame { payload: vec![0; 12], ..frame };
        for words in 0..=15_usize {
            let mut bytes = frame.bytes();
            bytes[tcp + 12] = u8::try_from(words).expect("a nibble") << 4;
            for length in tcp..=bytes.len() {
                let is_whole = words >= 5 && length >= tcp + 4 * words && length >= tcp + 20;
                let expected = if is_whole { Reason::ExemptPort } else { ban };
                let judged = kernel.judge(&bytes[..length]).expect("judged");
                assert_eq!(judged, expected, "{words} words, {length} bytes of {frame:?}");
            }
        }
    }
}

#[test]
fn a_port_in_the_wrong_place_opens_nothing() {
    let Some(kernel) = with_open_ports() else { return };
    let port = PORT.to_be_bytes();
    // Where it would be without the extension headers, and just beside.
    let chains: [&[Extension]; 4] = [
        &[Extension::Destination(2)],
        &[Extension::HopByHop(0), Extension::Destination(1)],
        &[Extension::Authentication(4)],
        &[Extension::Routing(2)],
    ];
    for chain in chains {
        let frame = v6(chain).to_port(1);
        let (mut bytes, fixed) = (frame.bytes(), 14 + 40);
        let whole = bytes.len();
        for at in (fixed + 2..whole - 20).step_by(2) {
            // Lengths and next headers stay as they are.
            if at % 8 != fixed % 8 {
                bytes[at..at + 2].copy_from_slice(&port);
            }
        }
        assert_eq!(kernel.judge(&bytes).expect("judged"), Reason::BanV6, "{chain:?}");
    }
    // In the place of the source port, and behind more headers than are walked.
    let mut reversed = Frame::default().to_port(1).bytes();
    reversed[34..36].copy_from_slice(&port);
    assert_eq!(kernel.judge(&reversed).expect("judged"), Reason::BanV4);
    let seven = v6(&[Extension::Destination(0); 7]).bytes();
    assert_eq!(kernel.judge(&seven).expect("judged"), Reason::BanV6);
    // In IPv4 options.
    let mut options = v4(|v4| v4.options = vec![1; 8]).to_port(1).bytes();
    options[36..38].copy_from_slice(&port);
    assert_eq!(kernel.judge(&options).expect("judged"), Reason::BanV4);
}

#[test]
fn an_exempt_port_is_closed_to_the_banned_unless_it_covers_bans() {
    let ports = Ports { exempt: vec![PORT], cover_bans: false, explanation: Some(PORT + 1) };
    let Some(mut kernel) = kernel_with(&AttachOptions { ports, ..detached() }) else { return };
    kernel.ban(SOURCE_V4).expect("banned");
    let judge = |kernel: &Kernel, port| {
        kernel.judge(&Frame::default().to_port(port).bytes()).expect("judged")
    };
    assert_eq!(judge(&kernel, PORT), Reason::BanV4);
    assert_eq!(judge(&kernel, PORT + 1), Reason::ExemptPort);
    // The next loader has other ports.
    let ports = Ports { exempt: vec![PORT], cover_bans: true, explanation: None };
    kernel.reload(&AttachOptions { ports, ..detached() }).expect("loaded anew");
    assert_eq!(judge(&kernel, PORT), Reason::ExemptPort);
    assert_eq!(judge(&kernel, PORT + 1), Reason::BanV4);
    // An innocent needs no exemption.
    kernel.network.unblock("198.51.100.5".parse().expect("a prefix")).expect("unblocked");
    assert_eq!(judge(&kernel, PORT), Reason::Pass);
}

/// A frame of neighbour discovery, with what is odd about it.
fn discovery(kind: u8, code: u8, change: impl FnOnce(&mut V6)) -> Frame {
    let mut header = V6 { hop_limit: 255, ..V6::default() };
    change(&mut header);
    Frame::from(header).carrying(Transport::Discovery(kind, code))
}

#[test]
fn neighbour_discovery_of_a_banned_source_passes_as_rfc_4861_demands_it_and_no_other_way() {
    let Some(mut kernel) = kernel() else { return };
    kernel.ban(SOURCE_V6).expect("banned");
    kernel.ban(SOURCE_V4).expect("banned");
    let (plain, passes) = (|_: &mut V6| {}, Reason::NeighbourDiscovery);
    let judge = |frame: &Frame| kernel.judge(&frame.bytes()).expect("judged");
    for kind in 0..=u8::MAX {
        let expected = if (133..=136).contains(&kind) { passes } else { Reason::BanV6 };
        assert_eq!(judge(&discovery(kind, 0, plain)), expected, "type {kind}");
        assert_eq!(judge(&discovery(kind, 0, plain).tagged(&[CUSTOMER])), expected, "{kind}");
        assert_eq!(judge(&discovery(kind, 1, plain)), Reason::BanV6, "code 1 of type {kind}");
    }
    for hop_limit in [0, 1, 64, 128, 254] {
        let routed = discovery(135, 0, |v6| v6.hop_limit = hop_limit);
        assert_eq!(judge(&routed), Reason::BanV6, "hop limit {hop_limit}");
    }
    let chains = [
        Extension::HopByHop(0),
        Extension::Destination(0),
        Extension::Routing(0),
        Extension::Fragment(Part::FIRST),
        Extension::Fragment(Part::ATOMIC),
        Extension::Fragment(Part::LATER),
        Extension::Authentication(3),
    ];
    for extension in chains {
        let extended = discovery(136, 0, |v6| v6.extensions = vec![extension]);
        assert_eq!(judge(&extended), Reason::BanV6, "{extension:?}");
    }
    let whole = discovery(135, 0, plain);
    for length in 14 + 40..whole.bytes().len() {
        let expected = if length < 14 + 48 { Reason::BanV6 } else { passes };
        assert_eq!(kernel.judge(&whole.truncated(length)).expect("judged"), expected, "{length}");
    }
    // IPv4 has no such thing, whatever the bytes.
    let v4 = Frame::default().carrying(Transport::Discovery(135, 0));
    assert_eq!(judge(&v4), Reason::BanV4);
}

#[test]
fn neighbour_discovery_passes_whatever_the_shape_of_the_ban_and_is_plain_for_an_innocent() {
    let Some(mut kernel) = kernel() else { return };
    let frame = discovery(135, 0, |_| {}).bytes();
    assert_eq!(kernel.judge(&frame).expect("judged"), Reason::Pass);
    for prefix in ["2001:db8:5:5::5/128", "2001:db8:5:5::/64", "2001:db8::/32"] {
        let prefix = prefix.parse().expect("a prefix");
        kernel.ban_prefix(prefix, BanEntry::NEVER).expect("banned");
        assert_eq!(kernel.judge(&frame).expect("judged"), Reason::NeighbourDiscovery);
        kernel.network.unblock(prefix).expect("unblocked");
    }
}

#[test]
fn observing_drops_nothing_and_counts_what_would_be() {
    let Some(mut kernel) = kernel_with(&AttachOptions { enforce: false, ..detached() }) else {
        return;
    };
    let bans = ["198.51.100.5", "2001:db8:5:5::/64", "2001:db8:6::1/128", "203.0.113.0/24"];
    for ban in bans {
        kernel.ban_prefix(ban.parse().expect("a prefix"), BanEntry::NEVER).expect("banned");
    }
    kernel.allow(&prefixes(&["203.0.113.9/32"])).expect("allowed");
    let frames = [
        (Frame::default(), Reason::BanV4),
        (Frame::v6(), Reason::BanV6),
        (Frame::from_v6(Ipv6Addr::new(0x2001, 0xdb8, 6, 0, 0, 0, 0, 1)), Reason::BanV6),
        (Frame::from_v4([203, 0, 113, 7].into()), Reason::BanNet),
    ];
    let others = [
        (Frame::from_v4([203, 0, 113, 9].into()), Reason::AllowOverride),
        (Frame::from_v4([192, 0, 2, 9].into()), Reason::Pass),
        (discovery(135, 0, |_| {}), Reason::NeighbourDiscovery),
    ];
    for mode in [DropMode::Observe, DropMode::Drop, DropMode::Observe] {
        kernel.network.enforce(mode).expect("switched");
        for (frame, enforced) in &frames {
            let observed = Reason::ObserveWouldDrop;
            let expected = if mode == DropMode::Drop { *enforced } else { observed };
            assert_eq!(kernel.judge(&frame.bytes()).expect("judged"), expected, "{frame:?}");
        }
        for (frame, expected) in &others {
            assert_eq!(kernel.judge(&frame.bytes()).expect("judged"), *expected, "{frame:?}");
        }
    }
}

#[test]
fn guards_proxies_and_the_allowlist_are_told_apart() {
    let guards = prefixes(&["10.0.0.0/8", "2001:db8:a::/48"]);
    let proxies = prefixes(&["10.9.0.0/16", "203.0.113.0/24", "2001:db8:b::/48", "10.8.0.1/32"]);
    let options = AttachOptions { guards, proxies, ..detached() };
    let Some(mut kernel) = kernel_with(&options) else { return };
    kernel.allow(&prefixes(&["203.0.113.9/32", "192.0.2.0/24"])).expect("allowed");
    for block in ["10.0.0.0/8", "203.0.0.0/8", "192.0.0.0/8", "2001:db8::/32"] {
        kernel.ban_prefix(block.parse().expect("a prefix"), BanEntry::NEVER).expect("banned");
    }
    let sources = [
        ("10.1.2.3", Reason::AllowOverride),
        // The narrower of a guard and a proxy gives the name.
        ("10.9.2.3", Reason::ProxyOverride),
        ("10.8.0.1", Reason::ProxyOverride),
        ("203.0.113.8", Reason::ProxyOverride),
        ("203.0.113.9", Reason::AllowOverride),
        ("203.0.114.9", Reason::BanV4),
        ("192.0.2.1", Reason::AllowOverride),
        ("2001:db8:a::1", Reason::AllowOverride),
        ("2001:db8:b::1", Reason::ProxyOverride),
        ("2001:db8:c::1", Reason::BanV6),
    ];
    assert_sources(&mut kernel, &sources);
}

#[test]
fn one_prefix_that_is_a_guard_and_a_proxy_is_a_guard() {
    let both = prefixes(&["198.51.100.0/24", "2001:db8:5::/48"]);
    let options = AttachOptions { guards: both.clone(), proxies: both, ..detached() };
    let Some(mut kernel) = kernel_with(&options) else { return };
    let sources =
        [("198.51.100.5", Reason::AllowOverride), ("2001:db8:5:5::5", Reason::AllowOverride)];
    assert_sources(&mut kernel, &sources);
}

#[test]
fn an_allowed_source_within_a_banned_block_passes_and_its_neighbours_do_not() {
    let Some(mut kernel) = kernel() else { return };
    for block in ["198.51.100.0/24", "2001:db8::/32"] {
        kernel.ban_prefix(block.parse().expect("a prefix"), BanEntry::NEVER).expect("banned");
    }
    kernel.allow(&prefixes(&["198.51.100.5/32", "2001:db8:5:5::5/128"])).expect("allowed");
    let judge = |frame: Frame| kernel.judge(&frame.bytes()).expect("judged");
    assert_eq!(judge(Frame::default()), Reason::AllowOverride);
    assert_eq!(judge(Frame::v6()), Reason::AllowOverride);
    assert_eq!(judge(Frame::from_v4([198, 51, 100, 4].into())), Reason::BanNet);
    let neighbour = Ipv6Addr::new(0x2001, 0xdb8, 5, 5, 0, 0, 0, 6);
    assert_eq!(judge(Frame::from_v6(neighbour)), Reason::BanNet);
    // Whole, cut or in parts: by its source.
    assert_eq!(judge(v4(|v4| v4.fragment = Some(Part::LATER))), Reason::AllowOverride);
    assert_eq!(kernel.judge(&Frame::v6().truncated(54)).expect("judged"), Reason::AllowOverride);
}

fn prefixes(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}

/// The verdict on frames from `sources`, which are all banned.
fn assert_sources(kernel: &mut Kernel, sources: &[(&str, Reason)]) {
    for (source, expected) in sources {
        let ip: IpAddr = source.parse().expect("an address");
        kernel.ban(ip).expect("banned");
        let frame = match ip {
            IpAddr::V4(ip) => Frame::from_v4(ip),
            IpAddr::V6(ip) => Frame::from_v6(ip),
        };
        assert_eq!(kernel.judge(&frame.bytes()).expect("judged"), *expected, "{source}");
    }
}

#[test]
fn the_operators_allowlist_overrules_a_ban_to_the_last_bit() {
    let Some(mut kernel) = kernel() else { return };
    let allowed = ["198.51.100.0/25", "203.0.113.9/32", "2001:db8:7::/48", "2001:db8:5:5::5/128"];
    kernel.allow(&prefixes(&allowed)).expect("allowed");
    let sources = [
        ("198.51.100.0", Reason::AllowOverride),
        ("198.51.100.127", Reason::AllowOverride),
        ("198.51.100.128", Reason::BanV4),
        ("203.0.113.8", Reason::BanV4),
        ("203.0.113.9", Reason::AllowOverride),
        ("203.0.113.10", Reason::BanV4),
        ("2001:db8:7:ffff::1", Reason::AllowOverride),
        ("2001:db8:8::1", Reason::BanV6),
        // One host of a banned /64, and its neighbours in it.
        ("2001:db8:5:5::5", Reason::AllowOverride),
        ("2001:db8:5:5::4", Reason::BanV6),
        ("2001:db8:5:5::6", Reason::BanV6),
    ];
    assert_sources(&mut kernel, &sources);
    kernel.allow(&[]).expect("no longer allowed");
    let dropped = sources.map(|(source, _)| {
        (source, if source.contains(':') { Reason::BanV6 } else { Reason::BanV4 })
    });
    assert_sources(&mut kernel, &dropped);
}

#[test]
fn a_guarded_prefix_is_never_dropped_whatever_the_daemon_writes() {
    let guards = prefixes(&["10.0.0.0/8", "203.0.113.9/32", "fc00::/7"]);
    let Some(mut kernel) = kernel_with(&AttachOptions { guards, ..detached() }) else { return };
    // All that the daemon's user may write: bans, and an allowlist without it.
    kernel.allow(&[]).expect("an empty allowlist");
    let sources = [
        ("10.1.2.3", Reason::AllowOverride),
        ("9.255.255.255", Reason::BanV4),
        ("11.0.0.0", Reason::BanV4),
        ("203.0.113.9", Reason::AllowOverride),
        ("203.0.113.10", Reason::BanV4),
        ("fd00::1", Reason::AllowOverride),
        ("fe00::1", Reason::BanV6),
    ];
    assert_sources(&mut kernel, &sources);
}

#[test]
fn guards_can_protect_everything() {
    let guards = prefixes(&["0.0.0.0/0", "::/0"]);
    let Some(mut kernel) = kernel_with(&AttachOptions { guards, ..detached() }) else { return };
    let sources = ["198.51.100.5", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::1"];
    assert_sources(&mut kernel, &sources.map(|source| (source, Reason::AllowOverride)));
}

#[test]
fn an_innocent_on_the_allowlist_is_not_counted_as_overruled() {
    let Some(mut kernel) = kernel() else { return };
    kernel.allow(&prefixes(&["198.51.100.0/24", "2001:db8::/32"])).expect("allowed");
    for frame in [Frame::default(), Frame::v6()] {
        assert_eq!(kernel.judge(&frame.bytes()).expect("judged"), Reason::Pass);
    }
}
