//! A corpus of frames from a banned source and from its neighbours, each with
//! the verdict that it must get.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use moderation_common::{BanEntry, Reason};
use moderation_daemon::clock;
use moderation_daemon::engine::Prefix;
use moderation_daemon::network::Counters;
use moderation_tests::frame::{
    ACK, ARP, CUSTOMER, ETHERNET_BYTES, Extension, FIN, Frame, IPV4, IPV6, LLDP, PROVIDER, PSH,
    Part, RST, SOURCE_V4, SOURCE_V6, SYN, Transport, V4, V6,
};
use moderation_tests::kernel::Kernel;
use moderation_tests::wait;

use crate::kernel;

type Case = (&'static str, Frame, Reason);

/// With both default sources banned, nothing allowed.
fn assert_verdicts(cases: Vec<Case>) {
    let Some(mut kernel) = kernel() else { return };
    ban_defaults(&mut kernel);
    assert!(!cases.is_empty());
    for (name, frame, expected) in cases {
        let reason = kernel.judge(&frame.bytes()).expect(name);
        assert_eq!(reason, expected, "{name}: {frame:?}");
    }
}

fn ban_defaults(kernel: &mut Kernel) {
    kernel.ban(SOURCE_V4).expect("banned");
    kernel.ban(SOURCE_V6).expect("banned");
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
fn every_transport_of_a_banned_source_is_dropped() {
    let transports = [
        ("syn", Transport::Tcp(SYN)),
        ("data of an established connection", Transport::Tcp(ACK | PSH)),
        ("the end of one", Transport::Tcp(FIN | ACK)),
        ("a reset", Transport::Tcp(RST)),
        ("udp", Transport::Udp),
        ("icmp", Transport::Icmp),
        ("gre", Transport::Protocol(47)),
        ("esp", Transport::Protocol(50)),
        ("sctp", Transport::Protocol(132)),
        ("ipv4 in ip", Transport::Protocol(4)),
        ("an experiment", Transport::Protocol(253)),
        ("a reserved protocol", Transport::Protocol(255)),
    ];
    let cases = transports.into_iter().flat_map(|(name, transport)| {
        [
            (name, Frame::default().carrying(transport), Reason::BanV4),
            (name, Frame::v6().carrying(transport), Reason::BanV6),
        ]
    });
    assert_verdicts(cases.collect());
}

#[test]
fn a_ban_holds_behind_up_to_two_vlan_tags_of_either_kind() {
    let tags: [(&str, &[u16]); 6] = [
        ("customer", &[CUSTOMER]),
        ("provider", &[PROVIDER]),
        ("customer twice", &[CUSTOMER, CUSTOMER]),
        ("provider twice", &[PROVIDER, PROVIDER]),
        ("provider around customer", &[PROVIDER, CUSTOMER]),
        ("customer around provider", &[CUSTOMER, PROVIDER]),
    ];
    let cases = tags.into_iter().flat_map(|(name, tags)| {
        [
            (name, Frame::default().tagged(tags), Reason::BanV4),
            (name, Frame::v6().tagged(tags), Reason::BanV6),
            (name, Frame::from_v4(Ipv4Addr::new(198, 51, 100, 6)).tagged(tags), Reason::Pass),
            (name, Frame::other(ARP, &[0; 28]).tagged(tags), Reason::NotIp),
        ]
    });
    assert_verdicts(cases.collect());
}

#[test]
fn what_is_not_ip_passes() {
    assert_verdicts(vec![
        ("arp", Frame::other(ARP, &[0; 28]), Reason::NotIp),
        ("lldp", Frame::other(LLDP, &[0; 46]), Reason::NotIp),
        ("mpls", Frame::other(0x8847, &[0; 46]), Reason::NotIp),
        ("pppoe", Frame::other(0x8864, &[0; 46]), Reason::NotIp),
        ("an 802.3 length", Frame::other(46, &[0; 46]), Reason::NotIp),
        ("the old tag of QinQ", Frame::default().tagged(&[0x9100]), Reason::NotIp),
        ("three tags", Frame::default().tagged(&[PROVIDER, CUSTOMER, CUSTOMER]), Reason::NotIp),
        ("three tags, ipv6", Frame::v6().tagged(&[CUSTOMER; 3]), Reason::NotIp),
    ]);
}

#[test]
fn no_fragment_of_a_banned_source_slips_past() {
    let parts = [("first", Part::FIRST), ("later", Part::LATER), ("last", Part::LAST)];
    let cases = parts.into_iter().flat_map(|(name, part)| {
        [
            (name, v4(|v4| v4.fragment = Some(part)), Reason::BanV4),
            (name, v4(|v4| v4.fragment = Some(part)).carrying(Transport::Udp), Reason::BanV4),
            (name, v6(&[Extension::Fragment(part)]), Reason::BanV6),
            (name, v6(&[Extension::HopByHop(0), Extension::Fragment(part)]), Reason::BanV6),
        ]
    });
    assert_verdicts(cases.collect());
}

#[test]
fn no_ipv4_option_hides_a_banned_source() {
    assert_verdicts(vec![
        ("one word", v4(|v4| v4.options = vec![1; 4]), Reason::BanV4),
        ("as many as fit", v4(|v4| v4.options = vec![1; 40]), Reason::BanV4),
        ("a source route", v4(|v4| v4.options = vec![131, 7, 4, 9, 9, 9, 9, 0]), Reason::BanV4),
    ]);
}

#[test]
fn no_ipv6_extension_header_hides_a_banned_source() {
    use Extension::{Authentication, Destination, Fragment, HopByHop, Mobility, Routing};
    assert_verdicts(vec![
        ("hop-by-hop", v6(&[HopByHop(0)]), Reason::BanV6),
        ("routing", v6(&[Routing(2)]), Reason::BanV6),
        ("destination", v6(&[Destination(1)]), Reason::BanV6),
        ("mobility", v6(&[Mobility(0)]), Reason::BanV6),
        ("authentication", v6(&[Authentication(3)]), Reason::BanV6),
        ("a long one", v6(&[Destination(255)]), Reason::BanV6),
        ("six", v6(&[Destination(0); 6]), Reason::BanV6),
        ("more than are walked", v6(&[Destination(0); 7]), Reason::BanV6),
        ("absurdly many", v6(&[Destination(0); 60]), Reason::BanV6),
        (
            "all in the recommended order",
            v6(&[HopByHop(0), Destination(0), Routing(0), Fragment(Part::FIRST), Mobility(0)]),
            Reason::BanV6,
        ),
        ("no next header", v6(&[]).carrying(Transport::Protocol(59)), Reason::BanV6),
    ]);
}

#[test]
fn a_nonsensical_header_length_does_not_hide_a_banned_source() {
    let cases = (0..16).map(|ihl| ("an IHL", v4(|v4| v4.ihl = Some(ihl)), Reason::BanV4));
    assert_verdicts(cases.collect());
}

#[test]
fn a_version_that_contradicts_the_ethertype_is_malformed_and_passes() {
    let mut cases: Vec<Case> = Vec::new();
    for version in 0..16 {
        let v4_reason = if version == 4 { Reason::BanV4 } else { Reason::Malformed };
        let v6_reason = if version == 6 { Reason::BanV6 } else { Reason::Malformed };
        cases.push(("ipv4", v4(|v4| v4.version = version), v4_reason));
        cases.push(("ipv6", V6 { version, ..V6::default() }.into(), v6_reason));
    }
    let mislabelled = |frame: Frame, ether_type| Frame { ether_type: Some(ether_type), ..frame };
    cases.push(("ipv4 called ipv6", mislabelled(Frame::default(), IPV6), Reason::Malformed));
    cases.push(("ipv6 called ipv4", mislabelled(Frame::v6(), IPV4), Reason::Malformed));
    assert_verdicts(cases);
}

#[test]
fn neighbours_of_a_banned_source_pass() {
    let v4_neighbours =
        [[198, 51, 100, 4], [198, 51, 100, 6], [198, 51, 101, 5], [5, 100, 51, 198]];
    let v4 = v4_neighbours
        .map(|octets| ("another address", Frame::from_v4(octets.into()), Reason::Pass));
    let v6_neighbours: [Ipv6Addr; 4] = [
        "2001:db8:5:4::5".parse().expect("an address"),
        "2001:db8:5:6::5".parse().expect("an address"),
        "2001:db8:5:4:ffff:ffff:ffff:ffff".parse().expect("an address"),
        "2001:db8:6:5::5".parse().expect("an address"),
    ];
    let v6 = v6_neighbours.map(|source| ("another /64", Frame::from_v6(source), Reason::Pass));
    assert_verdicts(v4.into_iter().chain(v6).collect());
}

#[test]
fn a_ban_holds_for_the_whole_64_of_an_ipv6_address() {
    let same: [Ipv6Addr; 3] = [
        "2001:db8:5:5::".parse().expect("an address"),
        "2001:db8:5:5::6".parse().expect("an address"),
        "2001:db8:5:5:ffff:ffff:ffff:ffff".parse().expect("an address"),
    ];
    let cases = same.map(|source| ("the same /64", Frame::from_v6(source), Reason::BanV6));
    assert_verdicts(cases.into());
}

#[test]
fn a_ban_of_one_ipv6_address_holds_for_that_address_alone() {
    let Some(mut kernel) = kernel() else { return };
    let host = "2001:db8:5:5::5/128".parse::<Prefix>().expect("a prefix");
    let neighbour = Ipv6Addr::new(0x2001, 0xdb8, 5, 5, 0, 0, 0, 6);
    let low_half = Ipv6Addr::new(0x2001, 0xdb8, 5, 6, 0, 0, 0, 5);
    let judge =
        |kernel: &Kernel, source| kernel.judge(&Frame::from_v6(source).bytes()).expect("judged");
    for (hour, expected) in [(0, Reason::Pass), (1, Reason::BanV6)] {
        let expires_at_ns = clock::boot_ns() + hour * 3_600_000_000_000;
        kernel.ban_prefix(host, expires_at_ns).expect("banned");
        assert_eq!(judge(&kernel, SOURCE_V6), expected);
        assert_eq!(judge(&kernel, neighbour), Reason::Pass);
        assert_eq!(judge(&kernel, low_half), Reason::Pass);
    }
    // The /64 around it has a ban of its own.
    kernel.ban(SOURCE_V6).expect("banned");
    kernel.network.unblock(host).expect("unblocked");
    assert_eq!(judge(&kernel, SOURCE_V6), Reason::BanV6);
    assert_eq!(judge(&kernel, neighbour), Reason::BanV6);
    kernel.network.unblock(Prefix::around(SOURCE_V6.into(), 64)).expect("unblocked");
    assert_eq!(judge(&kernel, SOURCE_V6), Reason::Pass);
}

#[test]
fn a_later_fragment_of_an_innocent_is_counted_apart() {
    let Some(kernel) = kernel() else { return };
    for (part, expected) in [
        (Part::FIRST, Reason::Pass),
        (Part::LATER, Reason::Fragment),
        (Part::LAST, Reason::Fragment),
        (Part::ATOMIC, Reason::Pass),
    ] {
        let v4 = v4(|v4| v4.fragment = Some(part));
        for frame in [v4, v6(&[Extension::Fragment(part)])] {
            assert_eq!(kernel.judge(&frame.bytes()).expect("judged"), expected, "{frame:?}");
        }
    }
}

#[test]
fn being_the_destination_is_no_crime() {
    let to_v4 = V4 { source: Ipv4Addr::new(192, 0, 2, 9), destination: SOURCE_V4, ..V4::default() };
    let source = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1);
    let to_v6 = V6 { source, destination: SOURCE_V6, ..V6::default() };
    assert_verdicts(vec![
        ("to a banned address", to_v4.into(), Reason::Pass),
        ("to a banned /64", to_v6.into(), Reason::Pass),
    ]);
}

#[test]
fn a_frame_in_several_buffers_is_judged_by_its_first() {
    let Some(mut kernel) = kernel() else { return };
    ban_defaults(&mut kernel);
    let jumbo = Frame { payload: vec![0; 8_900], ..Frame::default() };
    // Counted are the bytes of the first buffer only, so `judge` is too strict.
    let counters = Counters::open(kernel.pins()).expect("they are pinned");
    let before = counters.read(Reason::BanV4).expect("read");
    assert!(kernel.drops(&jumbo.bytes()).expect("the program takes fragments"));
    let after = counters.read(Reason::BanV4).expect("read");
    assert_eq!(after.packets, before.packets + 1);
    assert!(after.bytes > before.bytes);
}

#[test]
fn a_truncated_frame_is_judged_as_soon_as_its_fixed_ip_header_is_complete() {
    let Some(mut kernel) = kernel() else { return };
    ban_defaults(&mut kernel);
    let tags: [&[u16]; 4] = [&[], &[CUSTOMER], &[PROVIDER, CUSTOMER], &[CUSTOMER, CUSTOMER]];
    for tags in tags {
        assert_truncations(&kernel, &Frame::default().tagged(tags), 20, Reason::BanV4);
        assert_truncations(&kernel, &Frame::v6().tagged(tags), 40, Reason::BanV6);
        let options = v4(|v4| v4.options = vec![1; 12]);
        assert_truncations(&kernel, &options.tagged(tags), 20, Reason::BanV4);
        let extended = v6(&[Extension::HopByHop(1), Extension::Fragment(Part::FIRST)]);
        assert_truncations(&kernel, &extended.tagged(tags), 40, Reason::BanV6);
    }
}

fn assert_truncations(kernel: &Kernel, frame: &Frame, fixed: usize, ban: Reason) {
    let complete = frame.network_offset() + fixed;
    for length in ETHERNET_BYTES..=frame.bytes().len() {
        let expected = if length < complete { Reason::Malformed } else { ban };
        let reason = kernel.judge(&frame.truncated(length)).expect("it is counted");
        assert_eq!(reason, expected, "{length} bytes of {frame:?}");
    }
}

#[test]
fn a_truncated_frame_of_an_innocent_passes_and_is_counted_the_same_way() {
    let Some(kernel) = kernel() else { return };
    let extended = v6(&[Extension::Routing(1), Extension::Authentication(2)]);
    for (frame, fixed) in [(Frame::default(), 20), (extended, 40)] {
        assert_truncations(&kernel, &frame, fixed, Reason::Pass);
    }
}

#[test]
fn a_ban_that_has_lapsed_lets_packets_through() {
    let Some(mut kernel) = kernel() else { return };
    let now = clock::boot_ns();
    for (expires_at_ns, v4, v6) in [
        (0, Reason::Pass, Reason::Pass),
        (1, Reason::Pass, Reason::Pass),
        (now, Reason::Pass, Reason::Pass),
        (now + 3_600_000_000_000, Reason::BanV4, Reason::BanV6),
        (BanEntry::NEVER - 1, Reason::BanV4, Reason::BanV6),
        (BanEntry::NEVER, Reason::BanV4, Reason::BanV6),
    ] {
        kernel.ban_until(SOURCE_V4, expires_at_ns).expect("banned");
        kernel.ban_until(SOURCE_V6, expires_at_ns).expect("banned");
        assert_eq!(kernel.judge(&Frame::default().bytes()).expect("judged"), v4);
        assert_eq!(kernel.judge(&Frame::v6().bytes()).expect("judged"), v6);
    }
}

/// The program reads the exact clock every hundredth of a second, by a clock
/// that ticks as rarely on some kernels; and this test is not alone here.
const LATE_NS: u64 = 50_000_000;

#[test]
fn a_ban_lapses_by_the_kernels_clock_and_not_before() {
    let Some(mut kernel) = kernel() else { return };
    let frame = Frame::default().bytes();
    let expires_at_ns = clock::boot_ns() + 200_000_000;
    kernel.ban_until(SOURCE_V4, expires_at_ns).expect("banned");
    wait::until("the ban to lapse", Duration::from_secs(10), || {
        let before = clock::boot_ns();
        let reason = kernel.judge(&frame)?;
        let after = clock::boot_ns();
        match reason {
            Reason::BanV4 => {
                assert!(before < expires_at_ns + LATE_NS, "dropped after the ban's end");
            }
            _ => assert!(after >= expires_at_ns, "passed before the ban's end"),
        }
        Ok((reason == Reason::Pass).then_some(()))
    })
    .expect("it lapses");
}

#[test]
fn a_ban_that_is_lifted_lets_packets_through() {
    let Some(mut kernel) = kernel() else { return };
    ban_defaults(&mut kernel);
    for (source, frame) in
        [(IpAddr::from(SOURCE_V4), Frame::default()), (SOURCE_V6.into(), Frame::v6())]
    {
        let prefix = Prefix::around(source, 64);
        assert!(kernel.judge(&frame.bytes()).expect("judged").drops());
        kernel.network.unblock(prefix).expect("unblocked");
        assert_eq!(kernel.judge(&frame.bytes()).expect("judged"), Reason::Pass);
        kernel.network.unblock(prefix).expect("lifting twice is no error");
    }
}
