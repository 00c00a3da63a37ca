//! What is a connection attempt and what is not, by the exact count. The limit
//! here is one attempt, so that every source is counted exactly from its first;
//! what a limit does is in `rates`.

use std::net::Ipv6Addr;
use std::time::Duration;

use moderation_common::Reason;
use moderation_daemon::clock;
use moderation_daemon::config::Syn;
use moderation_daemon::network::{AttachOptions, Epoch, Rates, Table};
use moderation_tests::frame::{
    ACK, CUSTOMER, Extension, FIN, Frame, PROVIDER, PSH, Part, RST, SOURCE_V4, SOURCE_V6, SYN,
    Transport, V4, V6,
};
use moderation_tests::kernel::{Kernel, detached};
use moderation_tests::wait;

use crate::kernel_with;

const V4_NAME: &str = "198.51.100.5";
const V6_NAME: &str = "2001:db8:5:5::/64";

/// Counts every attempt exactly.
fn counting() -> Option<Kernel> {
    let syn = Syn { limit: 1, ..detached().syn };
    kernel_with(&AttachOptions { syn, ..detached() })
}

fn v6(extensions: &[Extension]) -> Frame {
    V6 { extensions: extensions.to_vec(), ..V6::default() }.into()
}

/// Each frame alone must change the count of `source` by `expected`.
fn assert_counts(source: &str, expected: u64, frames: &[Frame]) {
    let Some(kernel) = counting() else { return };
    for frame in frames {
        let before = kernel.attempts_of(source).expect("read");
        let reason = kernel.judge(&frame.bytes()).expect("judged");
        let is_shed = reason == Reason::SynRate;
        assert_eq!(is_shed, expected > 0 && before > 0, "{reason:?} for {frame:?}");
        let after = kernel.attempts_of(source).expect("read");
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
        Frame::from(V4 { fragment: Some(Part::ATOMIC), ..V4::default() }),
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
        v6(&[Fragment(Part::ATOMIC)]),
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
    let Some(kernel) = counting() else { return };
    let extended = v6(&[Extension::Routing(1)]);
    for (frame, source, tcp) in [
        (Frame::default(), V4_NAME, 14 + 20),
        (Frame::v6(), V6_NAME, 14 + 40),
        (extended.tagged(&[CUSTOMER]), V6_NAME, 18 + 40 + 16),
    ] {
        for length in 14..=frame.bytes().len() {
            let before = kernel.attempts_of(source).expect("read");
            kernel.judge(&frame.truncated(length)).expect("judged");
            let counted = kernel.attempts_of(source).expect("read") - before;
            assert_eq!(counted, u64::from(length >= tcp + 14), "{length} bytes of {frame:?}");
        }
    }
}

#[test]
fn a_banned_source_is_not_counted_and_an_allowed_one_only_if_it_is_not_banned() {
    let Some(mut kernel) = counting() else { return };
    let syn = Frame::default().bytes();
    kernel.ban(SOURCE_V4).expect("banned");
    assert_eq!(kernel.judge(&syn).expect("judged"), Reason::BanV4);
    assert_eq!(kernel.attempts_of(V4_NAME).expect("read"), 0);
    kernel.allow(&["198.51.100.5/32".parse().expect("a prefix")]).expect("allowed");
    assert_eq!(kernel.judge(&syn).expect("judged"), Reason::AllowOverride);
    assert_eq!(kernel.attempts_of(V4_NAME).expect("read"), 0);
    kernel.network.unblock(crate::prefix(V4_NAME)).expect("unblocked");
    assert_eq!(kernel.judge(&syn).expect("judged"), Reason::Pass);
    assert_eq!(kernel.judge(&syn).expect("judged"), Reason::AllowOverride, "over the limit");
    assert_eq!(kernel.attempts_of(V4_NAME).expect("read"), 2);
}

#[test]
fn sources_are_counted_apart_and_the_busiest_come_first() {
    let Some(kernel) = counting() else { return };
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
    let window = detached().syn.window;
    let now = || Epoch::at(clock::monotonic_ns(), window);
    let rates = Rates::open(kernel.pins(), Table::Heavy).expect("opened");
    let busiest = |most| -> Vec<(String, u64, u64)> {
        let rates = rates.busiest(most, now()).expect("read");
        rates.into_iter().map(|rate| (rate.source, rate.count, rate.excess)).collect()
    };
    let named = |name: &str, syns| (name.to_owned(), syns, syns - 1);
    let all = [
        named(V6_NAME, 5),
        named("c633:6405::/64", 4),
        named(V4_NAME, 2),
        named("198.51.100.6", 1),
    ];
    assert_eq!(busiest(10), all);
    assert_eq!(busiest(2), all[..2]);
    let later = Epoch::at(clock::monotonic_ns() + 2 * 3_600_000_000_000, window);
    assert_eq!(rates.busiest(10, later).expect("read"), [], "all windows began earlier");
}

#[test]
fn a_window_that_is_over_starts_again_at_one() {
    const WINDOW: Duration = Duration::from_millis(40);
    let syn = Syn { limit: 1, window: WINDOW, ..detached().syn };
    let Some(kernel) = kernel_with(&AttachOptions { syn, ..detached() }) else { return };
    for _ in 0..3 {
        kernel.judge(&Frame::default().bytes()).expect("judged");
        let counted = kernel.attempts_of(V4_NAME).expect("read");
        assert!(counted <= 1, "{counted}: one, or none if it has just ended");
        let over_at_ns = clock::monotonic_ns() + 100_000_000;
        wait::until("the window to end", Duration::from_secs(5), || {
            Ok((clock::monotonic_ns() > over_at_ns).then_some(()))
        })
        .expect("time goes by");
        assert_eq!(kernel.attempts_of(V4_NAME).expect("read"), 0);
    }
}

#[test]
fn quiet_sources_are_forgotten_and_others_are_not() {
    const WINDOW: Duration = Duration::from_millis(200);
    let syn = Syn { limit: 1, window: WINDOW, ..detached().syn };
    let Some(kernel) = kernel_with(&AttachOptions { syn, ..detached() }) else { return };
    let mut rates = Rates::open(kernel.pins(), Table::Heavy).expect("opened");
    let mut forget =
        || rates.forget_quiet(Epoch::at(clock::monotonic_ns(), WINDOW)).expect("forgotten");
    kernel.judge(&Frame::v6().bytes()).expect("judged");
    wait::until("it to be forgotten", Duration::from_secs(5), || {
        kernel.judge(&Frame::default().bytes())?;
        Ok((forget() == 1).then_some(()))
    })
    .expect("one of the two is quiet");
    assert_eq!(kernel.attempts_of(V6_NAME).expect("read"), 0);
}

#[test]
fn the_window_is_as_long_as_the_loader_says() {
    let Some(kernel) = counting() else { return }; // an hour
    let syn = Frame::default().bytes();
    for expected in 1..=50 {
        kernel.judge(&syn).expect("judged");
        assert_eq!(kernel.attempts_of(V4_NAME).expect("read"), expected);
    }
    assert_eq!(SOURCE_V4.to_string(), V4_NAME);
}
