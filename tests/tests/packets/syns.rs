//! Connection attempts are counted by source, and nothing else is.

use std::net::Ipv6Addr;
use std::time::Duration;

use moderation_common::Reason;
use moderation_daemon::clock;
use moderation_daemon::network::AttachOptions;
use moderation_tests::frame::{
    ACK, CUSTOMER, Extension, FIN, Frame, PROVIDER, PSH, Part, RST, SOURCE_V4, SOURCE_V6, SYN,
    Transport, V4, V6,
};
use moderation_tests::kernel::{Kernel, detached};
use moderation_tests::{need, wait};

use crate::kernel;

const V4_NAME: &str = "198.51.100.5";
const V6_NAME: &str = "2001:db8:5:5::/64";

fn v6(extensions: &[Extension]) -> Frame {
    V6 { extensions: extensions.to_vec(), ..V6::default() }.into()
}

/// Each frame alone must change the count of `source` by `expected`.
fn assert_counts(source: &str, expected: u64, frames: &[Frame]) {
    let Some(kernel) = kernel() else { return };
    for frame in frames {
        let before = kernel.syns_of(source).expect("read");
        assert_eq!(kernel.judge(&frame.bytes()).expect("judged"), Reason::Pass);
        let after = kernel.syns_of(source).expect("read");
        assert_eq!(after, before + expected, "{frame:?}");
    }
}

#[test]
fn a_syn_without_ack_is_a_connection_attempt() {
    let options = V4 { options: vec![1; 40], ..V4::default() };
    let first = V4 { fragment: Some(Part::FIRST), ..V4::default() };
    let frames = [
        Frame::default(),
        Frame::default().carrying(Transport::Tcp(SYN | PSH)),
        Frame::default().carrying(Transport::Tcp(SYN | RST | FIN)),
        Frame::default().tagged(&[CUSTOMER]),
        Frame::default().tagged(&[PROVIDER, CUSTOMER]),
        Frame::from(options.clone()),
        Frame::from(options).tagged(&[CUSTOMER, CUSTOMER]),
        Frame::from(first),
    ];
    assert_counts(V4_NAME, 1, &frames);
}

#[test]
fn an_ipv6_syn_is_counted_behind_vlan_tags_and_up_to_six_extension_headers() {
    use Extension::{Authentication, Destination, Fragment, HopByHop, Mobility, Routing};
    let frames = [
        Frame::v6(),
        Frame::v6().tagged(&[CUSTOMER]),
        Frame::v6().tagged(&[PROVIDER, CUSTOMER]),
        v6(&[HopByHop(0)]),
        v6(&[Routing(3)]),
        v6(&[Destination(1)]),
        v6(&[Mobility(0)]),
        v6(&[Authentication(3)]),
        v6(&[Authentication(0)]),
        v6(&[Fragment(Part::FIRST)]),
        v6(&[HopByHop(0), Destination(0), Routing(0), Authentication(3), Mobility(2)]),
        v6(&[HopByHop(1), Fragment(Part::FIRST), Authentication(1)]).tagged(&[PROVIDER, PROVIDER]),
        v6(&[Destination(0); 6]),
    ];
    assert_counts(V6_NAME, 1, &frames);
}

#[test]
fn no_other_packet_is_a_connection_attempt() {
    let fragment = |part| Frame::from(V4 { fragment: Some(part), ..V4::default() });
    let looks_like_syn = |frame: Frame| Frame { payload: vec![SYN; 24], ..frame };
    let mut frames: Vec<_> = [ACK | SYN, ACK, ACK | PSH, FIN | ACK, RST, FIN, 0]
        .map(|flags| Frame::default().carrying(Transport::Tcp(flags)))
        .into();
    frames.extend([
        fragment(Part::LATER),
        fragment(Part::LAST),
        // Offsets in which either octet of the field is zero.
        fragment(Part { offset: 0x0100, has_more: true }),
        fragment(Part { offset: 0x1000, has_more: false }),
        looks_like_syn(Frame::default().carrying(Transport::Udp)),
        looks_like_syn(Frame::default().carrying(Transport::Icmp)),
        looks_like_syn(Frame::default().carrying(Transport::Protocol(47))),
        Frame::from(V4 { ihl: Some(4), ..V4::default() }),
        Frame::from(V4 { ihl: Some(0), ..V4::default() }),
        Frame::from(V4 { ihl: Some(15), ..V4::default() }),
    ]);
    assert_counts(V4_NAME, 0, &frames);
}

#[test]
fn no_other_ipv6_packet_is_a_connection_attempt() {
    use Extension::{Destination, Fragment};
    let looks_like_syn = |frame: Frame| Frame { payload: vec![SYN; 64], ..frame };
    let frames = [
        Frame::v6().carrying(Transport::Tcp(SYN | ACK)),
        v6(&[Fragment(Part::LATER)]),
        v6(&[Fragment(Part { offset: 0x0020, has_more: true })]),
        v6(&[Fragment(Part { offset: 0x1000, has_more: false })]),
        v6(&[Fragment(Part { offset: 1, has_more: false })]),
        v6(&[Destination(0), Fragment(Part::LAST)]),
        v6(&[Destination(0); 7]),
        looks_like_syn(Frame::v6().carrying(Transport::Udp)),
        looks_like_syn(Frame::v6().carrying(Transport::Icmp)),
        looks_like_syn(Frame::v6().carrying(Transport::Protocol(50))),
        looks_like_syn(Frame::v6().carrying(Transport::Protocol(59))),
    ];
    assert_counts(V6_NAME, 0, &frames);
}

#[test]
fn a_syn_is_counted_only_if_its_flags_are_in_the_frame() {
    let Some(kernel) = kernel() else { return };
    let extended = v6(&[Extension::Routing(1)]);
    for (frame, source, tcp) in [
        (Frame::default(), V4_NAME, 14 + 20),
        (Frame::v6(), V6_NAME, 14 + 40),
        (extended.tagged(&[CUSTOMER]), V6_NAME, 18 + 40 + 16),
    ] {
        for length in 14..=frame.bytes().len() {
            let before = kernel.syns_of(source).expect("read");
            kernel.judge(&frame.truncated(length)).expect("judged");
            let counted = kernel.syns_of(source).expect("read") - before;
            assert_eq!(counted, u64::from(length >= tcp + 14), "{length} bytes of {frame:?}");
        }
    }
}

#[test]
fn a_banned_source_is_dropped_uncounted_and_an_allowed_one_is_counted() {
    let Some(mut kernel) = kernel() else { return };
    let syn = Frame::default().bytes();
    kernel.ban(SOURCE_V4).expect("banned");
    assert_eq!(kernel.judge(&syn).expect("judged"), Reason::BanV4);
    assert_eq!(kernel.syns_of(V4_NAME).expect("read"), 0);
    kernel.allow(&["198.51.100.5/32".parse().expect("a prefix")]).expect("allowed");
    assert_eq!(kernel.judge(&syn).expect("judged"), Reason::AllowOverride);
    assert_eq!(kernel.syns_of(V4_NAME).expect("read"), 1);
}

#[test]
fn sources_are_counted_apart_and_the_busiest_come_first() {
    let Some(kernel) = kernel() else { return };
    let mut sent = vec![(Frame::default(), 2), (Frame::v6(), 3)];
    // Another host of the same /64 adds to its count.
    let [a, b, c, d, ..] = SOURCE_V6.segments();
    sent.push((Frame::from_v6(Ipv6Addr::new(a, b, c, d, 9, 9, 9, 9)), 2));
    sent.push((Frame::from_v4([198, 51, 100, 6].into()), 1));
    // An IPv6 source whose key looks like that of the IPv4 source.
    let alike = Ipv6Addr::new(0xc633, 0x6405, 0, 0, 0, 0, 0, 1);
    sent.push((Frame::from_v6(alike), 4));
    for (frame, times) in &sent {
        for _ in 0..*times {
            kernel.judge(&frame.bytes()).expect("judged");
        }
    }
    let busiest = |most| -> Vec<(String, u64)> {
        let counts = kernel.network.syns().busiest(most, 0).expect("read");
        counts.into_iter().map(|count| (count.source, count.syns)).collect()
    };
    let named = |name: &str, syns| (name.to_owned(), syns);
    let all = [
        named(V6_NAME, 5),
        named("c633:6405::/64", 4),
        named(V4_NAME, 2),
        named("198.51.100.6", 1),
    ];
    assert_eq!(busiest(10), all);
    assert_eq!(busiest(2), all[..2]);
    let none = kernel.network.syns().busiest(10, clock::boot_ns()).expect("read");
    assert_eq!(none, [], "all windows began earlier");
}

#[test]
fn a_window_that_is_over_starts_again_at_one() {
    const WINDOW: Duration = Duration::from_millis(1);
    if !need::root() {
        return;
    }
    let options = AttachOptions { syn_window: WINDOW, ..detached() };
    let kernel = Kernel::with(&options).expect("the program loads");
    for _ in 0..3 {
        kernel.judge(&Frame::default().bytes()).expect("judged");
        assert_eq!(kernel.syns_of(V4_NAME).expect("read"), 1);
        let over_at_ns = clock::boot_ns() + 1_000_000;
        wait::until("the window to end", Duration::from_secs(5), || {
            Ok((clock::boot_ns() > over_at_ns).then_some(()))
        })
        .expect("time goes by");
    }
}

#[test]
fn the_window_is_as_long_as_the_loader_says() {
    let Some(kernel) = kernel() else { return }; // an hour
    let syn = Frame::default().bytes();
    for expected in 1..=50 {
        kernel.judge(&syn).expect("judged");
        assert_eq!(kernel.syns_of(V4_NAME).expect("read"), expected);
    }
    assert_eq!(SOURCE_V4.to_string(), V4_NAME);
}
