//! Samples of dropped packets, for somebody who watches.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use moderation_common::{Alarm, BanEntry, Reason};
use moderation_daemon::clock;
use moderation_daemon::config::Syn;
use moderation_daemon::network::{AttachOptions, DropMode, Dropped, Samples};
use moderation_tests::frame::{
    CUSTOMER, Extension, Frame, PORT, Part, SOURCE_V4, SOURCE_V6, Transport, V4, V6,
};
use moderation_tests::kernel::{Kernel, detached};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::{kernel, kernel_with, prefix};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// All that is on the ring now.
async fn read(samples: &mut Samples) -> Vec<Dropped> {
    let mut all = Vec::new();
    while let Ok(some) = timeout(Duration::from_millis(50), samples.next(1_000)).await {
        all.extend(some.expect("read"));
    }
    all
}

fn read_all(kernel: &Kernel) -> Vec<Dropped> {
    runtime().block_on(async { read(&mut Samples::open(kernel.pins()).expect("opened")).await })
}

fn banned() -> Option<Kernel> {
    let mut kernel = kernel()?;
    kernel.ban(SOURCE_V4).expect("banned");
    kernel.ban(SOURCE_V6).expect("banned");
    kernel.ban_prefix(prefix("203.0.113.0/24"), BanEntry::NEVER).expect("banned");
    Some(kernel)
}

#[test]
fn nothing_is_sampled_until_somebody_asks_and_after_he_has_gone() {
    let Some(mut kernel) = banned() else { return };
    let frame = Frame::default().bytes();
    for (every, expected) in [(None, 0), (Some(1), 3), (Some(0), 0), (Some(1), 3)] {
        if let Some(every) = every {
            kernel.network.sample(every).expect("switched");
        }
        for _ in 0..3 {
            kernel.judge(&frame).expect("judged");
        }
        assert_eq!(read_all(&kernel).len(), expected, "one in {every:?}");
    }
}

#[test]
fn a_sample_says_who_why_how_long_and_where_to() {
    let Some(mut kernel) = banned() else { return };
    kernel.network.sample(1).expect("switched");
    let (v4, v6) = (IpAddr::from(SOURCE_V4), IpAddr::from(SOURCE_V6));
    let inside = IpAddr::from([203, 0, 113, 7]);
    let neighbour = Ipv6Addr::new(0x2001, 0xdb8, 5, 5, 0xffff, 0, 0, 9);
    let part = V4 { fragment: Some(Part::FIRST), ..V4::default() };
    let extended = V6 { extensions: vec![Extension::HopByHop(0)], ..V6::default() };
    let cases = [
        (Frame::default(), v4, Reason::BanV4, Some((6, PORT))),
        (Frame::default().tagged(&[CUSTOMER]).to_port(22), v4, Reason::BanV4, Some((6, 22))),
        (Frame::default().carrying(Transport::Udp), v4, Reason::BanV4, Some((17, PORT))),
        (Frame::default().carrying(Transport::Icmp), v4, Reason::BanV4, None),
        (Frame::from(part), v4, Reason::BanV4, None),
        (Frame { payload: vec![7; 900], ..Frame::v6() }, v6, Reason::BanV6, Some((6, PORT))),
        (Frame::from(extended).to_port(443), v6, Reason::BanV6, Some((6, 443))),
        // The address itself, not its /64.
        (Frame::from_v6(neighbour), neighbour.into(), Reason::BanV6, Some((6, PORT))),
        (Frame::from_v4([203, 0, 113, 7].into()), inside, Reason::BanNet, Some((6, PORT))),
    ];
    let before = clock::boot_ns();
    for (frame, _, reason, _) in &cases {
        assert_eq!(kernel.judge(&frame.bytes()).expect("judged"), *reason);
    }
    // An innocent is nobody's business.
    kernel.judge(&Frame::from_v4([192, 0, 2, 1].into()).bytes()).expect("judged");
    let (after, samples) = (clock::boot_ns(), read_all(&kernel));
    assert_eq!(samples.len(), cases.len(), "{samples:?}");
    for (sample, (frame, source, reason, to)) in samples.into_iter().zip(cases) {
        let at_boot_ns = sample.at_boot_ns;
        assert!((before..=after).contains(&at_boot_ns), "{at_boot_ns} in {before}..{after}");
        let expected = Dropped {
            at_boot_ns,
            source,
            reason,
            bytes: u32::try_from(frame.bytes().len()).expect("a frame"),
            protocol: to.map(|(protocol, _)| protocol),
            port: to.map(|(_, port)| port),
        };
        assert_eq!(sample, expected, "{frame:?}");
    }
}

#[test]
fn what_is_shed_and_what_would_be_dropped_is_sampled_with_its_reason() {
    let syn = Syn { limit: 1, ..detached().syn };
    let Some(mut kernel) = kernel_with(&AttachOptions { syn, ..detached() }) else { return };
    kernel.network.sample(1).expect("switched");
    let frame = Frame::default().bytes();
    kernel.judge(&frame).expect("judged");
    assert_eq!(kernel.judge(&frame).expect("judged"), Reason::SynRate);
    kernel.network.enforce(DropMode::Observe).expect("switched");
    kernel.ban(SOURCE_V4).expect("banned");
    assert_eq!(kernel.judge(&frame).expect("judged"), Reason::ObserveWouldDrop);
    let reasons: Vec<_> = read_all(&kernel).into_iter().map(|sample| sample.reason).collect();
    assert_eq!(reasons, [Reason::SynRate, Reason::BanV4]);
}

#[test]
fn one_in_so_many_is_about_one_in_so_many() {
    let Some(mut kernel) = banned() else { return };
    kernel.network.sample(10).expect("switched");
    let frame = Frame::default().bytes();
    for _ in 0..5_000 {
        kernel.drops(&frame).expect("judged");
    }
    let samples = read_all(&kernel).len();
    // Ten standard deviations around 500.
    assert!((290..=710).contains(&samples), "{samples}");
}

#[test]
fn what_finds_the_ring_full_is_dropped_all_the_same_and_counted_as_lost() {
    const SENT: u64 = 6_000;
    let Some(mut kernel) = banned() else { return };
    kernel.network.sample(1).expect("switched");
    let frame = Frame::default().bytes();
    for _ in 0..SENT {
        assert!(kernel.drops(&frame).expect("judged"));
    }
    let lost = kernel.alarms(Alarm::SampleLost).expect("read");
    let read = read_all(&kernel).len() as u64;
    assert!(lost > 0 && read > 5_000, "{lost} lost, {read} read");
    assert_eq!(read + lost, SENT);
    // There is room again.
    kernel.drops(&frame).expect("judged");
    assert_eq!(read_all(&kernel).len(), 1);
    assert_eq!(kernel.alarms(Alarm::SampleLost).expect("read"), lost);
}

#[test]
fn whoever_waits_for_a_sample_gets_it_as_it_happens_and_never_more_than_asked_for() {
    let Some(mut kernel) = banned() else { return };
    kernel.network.sample(1).expect("switched");
    let frame = Frame::default().bytes();
    runtime().block_on(async {
        let mut samples = Samples::open(kernel.pins()).expect("opened");
        for count in [1, 7] {
            let nothing = timeout(Duration::from_millis(20), samples.next(3)).await;
            assert!(nothing.is_err(), "nothing has happened");
            for _ in 0..count {
                kernel.drops(&frame).expect("judged");
            }
            let mut left = count;
            while left > 0 {
                let some = timeout(Duration::from_secs(5), samples.next(3)).await;
                let some = some.expect("in time").expect("read");
                assert_eq!(some.len(), left.min(3));
                left -= some.len();
            }
        }
    });
}
