//! Banned blocks: blocks within blocks, of which the kernel finds the narrowest
//! only, and capacity.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use aya::maps::{Array, Map, MapData};
use moderation_common::map::CONTROL;
use moderation_common::{BanEntry, Reason};
use moderation_daemon::clock;
use moderation_daemon::network::{
    AttachOptions, Changes, Desired, NetworkError, TestProgram, verify,
};
use moderation_tests::frame::Frame;
use moderation_tests::kernel::{Kernel, detached};

use crate::{FOR_EVER, HOUR_NS, kernel, kernel_with, prefix};

const PAST: u64 = 1;

fn judge(kernel: &Kernel, ip: &str) -> Reason {
    let frame = match ip.parse().expect("an address") {
        IpAddr::V4(ip) => Frame::from_v4(ip),
        IpAddr::V6(ip) => Frame::from_v6(ip),
    };
    kernel.judge(&frame.bytes()).expect("judged")
}

fn assert_drops(kernel: &Kernel, dropped: &[&str], passed: &[&str]) {
    for ip in dropped {
        assert_eq!(judge(kernel, ip), Reason::BanNet, "{ip}");
    }
    for ip in passed {
        assert_eq!(judge(kernel, ip), Reason::Pass, "{ip}");
    }
}

fn desired(bans: &[(&str, u64)]) -> Desired {
    let entry = |expires_at_ns| BanEntry { expires_at_ns };
    bans.iter().map(|(text, expiry)| (prefix(text), entry(*expiry))).collect()
}

#[test]
fn a_block_holds_to_its_last_address_and_no_further() {
    let Some(mut kernel) = kernel() else { return };
    let blocks = ["203.0.113.64/26", "192.0.2.6/31", "2001:db8:70::/44", "2001:db8:1:2:8000::/65"];
    for block in blocks {
        kernel.ban_prefix(prefix(block), BanEntry::NEVER).expect("banned");
    }
    let dropped = [
        "203.0.113.64",
        "203.0.113.127",
        "192.0.2.6",
        "192.0.2.7",
        "2001:db8:70::",
        "2001:db8:7f:ffff:ffff::1",
        "2001:db8:1:2:8000::",
        "2001:db8:1:2:ffff::1",
    ];
    let passed = [
        "203.0.113.63",
        "203.0.113.128",
        "192.0.2.5",
        "192.0.2.8",
        "2001:db8:6f:ffff::1",
        "2001:db8:80::",
        "2001:db8:1:2:7fff::1",
        "2001:db8:1:3:8000::1",
    ];
    assert_drops(&kernel, &dropped, &passed);
    for block in blocks {
        kernel.network.unblock(prefix(block)).expect("unblocked");
    }
    assert_drops(&kernel, &[], &dropped);
}

#[test]
fn an_exact_ban_within_a_block_is_named_first_and_its_end_leaves_the_block() {
    let Some(mut kernel) = kernel() else { return };
    kernel.ban_prefix(prefix("198.51.100.0/24"), BanEntry::NEVER).expect("banned");
    kernel.ban_prefix(prefix("2001:db8::/32"), BanEntry::NEVER).expect("banned");
    for (ip, exact) in [("198.51.100.5", "198.51.100.5"), ("2001:db8:5:5::5", "2001:db8:5:5::/64")]
    {
        let ban = if ip.contains(':') { Reason::BanV6 } else { Reason::BanV4 };
        kernel.ban_prefix(prefix(exact), BanEntry::NEVER).expect("banned");
        assert_eq!(judge(&kernel, ip), ban);
        kernel.ban_prefix(prefix(exact), PAST).expect("banned");
        assert_eq!(judge(&kernel, ip), Reason::BanNet, "the exact one has lapsed");
        kernel.network.unblock(prefix(exact)).expect("unblocked");
        assert_eq!(judge(&kernel, ip), Reason::BanNet);
    }
}

/// Outer, middle and inner block, and an address that is in that one only.
const NESTS: [[&str; 6]; 2] = [
    ["198.0.0.0/8", "198.51.0.0/16", "198.51.100.0/24", "198.9.9.9", "198.51.9.9", "198.51.100.9"],
    [
        "2001:db8::/32",
        "2001:db8:5::/48",
        "2001:db8:5:6::/63",
        "2001:db8:9::1",
        "2001:db8:5:9::1",
        "2001:db8:5:7::1",
    ],
];

#[test]
fn a_block_within_others_holds_as_long_as_the_last_of_them() {
    let Some(mut kernel) = kernel() else { return };
    let soon = clock::boot_ns() + HOUR_NS;
    for [outer, middle, inner, in_outer, in_middle, in_inner] in NESTS {
        // In either order, and with every one of them the longest.
        for (expiries, dropped) in [
            ([soon, PAST, PAST], [true, true, true]),
            ([PAST, soon, PAST], [false, true, true]),
            ([PAST, PAST, soon], [false, false, true]),
            ([PAST, soon, BanEntry::NEVER], [false, true, true]),
            ([PAST, PAST, PAST], [false, false, false]),
        ] {
            let bans: Vec<_> = [outer, middle, inner].into_iter().zip(expiries).collect();
            let reversed = bans.iter().rev().copied().collect();
            for bans in [bans, reversed] {
                for (net, expiry) in &bans {
                    kernel.ban_prefix(prefix(net), *expiry).expect("banned");
                }
                for (ip, is_dropped) in [in_outer, in_middle, in_inner].into_iter().zip(dropped) {
                    let expected = if is_dropped { Reason::BanNet } else { Reason::Pass };
                    assert_eq!(judge(&kernel, ip), expected, "{ip} with {bans:?}");
                }
                for (net, _) in bans {
                    kernel.network.unblock(prefix(net)).expect("unblocked");
                }
            }
        }
    }
}

#[test]
fn when_the_outer_block_goes_the_inner_one_has_its_own_expiry_again() {
    let Some(mut kernel) = kernel() else { return };
    let soon = clock::boot_ns() + HOUR_NS;
    for [outer, middle, inner, in_outer, in_middle, in_inner] in NESTS {
        let bans = [(outer, BanEntry::NEVER), (middle, soon), (inner, PAST)];
        for (net, expiry) in bans {
            kernel.ban_prefix(prefix(net), expiry).expect("banned");
        }
        assert_drops(&kernel, &[in_outer, in_middle, in_inner], &[]);
        let held = |kernel: &Kernel, net| {
            let entry = kernel.network.bans().get(prefix(net)).expect("read");
            entry.expect("it is there").expires_at_ns
        };
        assert_eq!([held(&kernel, middle), held(&kernel, inner)], [BanEntry::NEVER; 2]);
        // A daemon that starts anew compares, and so learns each one's own.
        kernel.reopen().expect("opened");
        let changes = kernel.network.reconcile(desired(&bans), &[]).result.expect("reconciled");
        assert_eq!(changes, Changes::default(), "nothing is touched");
        kernel.network.unblock(prefix(outer)).expect("unblocked");
        assert_eq!([held(&kernel, middle), held(&kernel, inner)], [soon; 2]);
        assert_drops(&kernel, &[in_middle, in_inner], &[in_outer]);
        kernel.network.unblock(prefix(middle)).expect("unblocked");
        assert_eq!(held(&kernel, inner), PAST);
        assert_drops(&kernel, &[], &[in_outer, in_middle, in_inner]);
        kernel.network.unblock(prefix(inner)).expect("unblocked");
    }
}

#[test]
fn a_shorter_ban_on_the_outer_block_shortens_what_it_has_lent() {
    let Some(mut kernel) = kernel() else { return };
    let [[outer, _, inner, in_outer, _, in_inner], _] = NESTS;
    kernel.ban_prefix(prefix(inner), PAST).expect("banned");
    kernel.ban_prefix(prefix(outer), BanEntry::NEVER).expect("banned");
    assert_drops(&kernel, &[in_outer, in_inner], &[]);
    kernel.ban_prefix(prefix(outer), PAST).expect("banned");
    assert_drops(&kernel, &[], &[in_outer, in_inner]);
}

#[test]
fn the_map_of_blocks_is_full_at_its_capacity_in_each_family() {
    let options = AttachOptions { max_networks: 4, ..detached() };
    let Some(mut kernel) = kernel_with(&options) else { return };
    let v4 = |number: u8| prefix(&format!("10.{number}.0.0/16"));
    let v6 = |number: u8| prefix(&format!("2001:db8:{number}::/48"));
    for number in 0..4 {
        kernel.network.block(v4(number), FOR_EVER).expect("there is room");
        kernel.network.block(v6(number), FOR_EVER).expect("each family has its own");
    }
    assert!(kernel.network.fill().is_high());
    for one_too_many in [v4(4), v6(4)] {
        let error = kernel.network.block(one_too_many, FOR_EVER).expect_err("no room");
        assert!(matches!(error, NetworkError::NetsFull { capacity: 4 }), "{error:?}");
        assert!(error.to_string().contains("network.max_networks"), "{error}");
        assert_eq!(kernel.network.bans().get(one_too_many).expect("read"), None);
    }
    assert_drops(&kernel, &["10.3.0.1", "2001:db8:3::1"], &["10.4.0.1", "2001:db8:4::1"]);
    // One that is there already can be prolonged, and room can be made.
    kernel.network.block(v4(1), BanEntry { expires_at_ns: PAST }).expect("no new entry");
    assert_drops(&kernel, &["10.0.0.1"], &["10.1.0.1"]);
    kernel.network.unblock(v4(1)).expect("unblocked");
    kernel.network.block(v4(4), FOR_EVER).expect("there is room again");
    // Exact bans are counted elsewhere.
    kernel.ban([10, 9, 9, 9]).expect("banned");
}

#[test]
fn reconciling_full_maps_of_blocks_makes_room_and_names_what_does_not_fit() {
    let options = AttachOptions { max_networks: 4, ..detached() };
    let Some(mut kernel) = kernel_with(&options) else { return };
    let wanted = |range: std::ops::Range<u8>| -> Desired {
        range.map(|number| (prefix(&format!("10.{number}.0.0/16")), FOR_EVER)).collect()
    };
    kernel.network.reconcile(wanted(0..4), &[]).result.expect("they fit");
    let changes = kernel.network.reconcile(wanted(2..6), &[]).result.expect("they fit, too");
    assert_eq!(changes, Changes { added: 2, updated: 0, removed: 2 });
    assert_eq!(kernel.network.bans().all().expect("read"), wanted(2..6));
    let reconciled = kernel.network.reconcile(wanted(2..8), &[]);
    assert!(matches!(reconciled.result, Err(NetworkError::NetsFull { capacity: 4 })));
    assert_eq!(reconciled.failed.len(), 2);
    assert_eq!(kernel.network.bans().all().expect("read").len(), 4);
}

#[test]
fn the_program_looks_for_blocks_and_hosts_only_while_there_are_some() {
    let Some(mut kernel) = kernel() else { return };
    let control = kernel.pins().map(CONTROL);
    let switches = || {
        let data = MapData::from_pin(&control).expect("it is pinned");
        let map = Array::<_, [u32; 6]>::try_from(Map::Array(data));
        let [_, hosts, nets_v4, nets_v6, ..] =
            map.expect("an array").get(&0, 0).expect("it has one entry");
        [hosts, nets_v4, nets_v6]
    };
    assert_eq!(switches(), [0, 0, 0]);
    for (net, on) in
        [("2001:db8::1/128", [1, 0, 0]), ("10.0.0.0/8", [0, 1, 0]), ("2001:db8::/32", [0, 0, 1])]
    {
        kernel.network.block(prefix(net), FOR_EVER).expect("banned");
        assert_eq!(switches(), on, "{net}");
        kernel.reopen().expect("opened");
        assert_eq!(switches(), on, "{net} after a restart");
        kernel.network.unblock(prefix(net)).expect("unblocked");
        assert_eq!(switches(), [0, 0, 0], "{net} is gone");
        kernel.network.reconcile(desired(&[(net, BanEntry::NEVER)]), &[]).result.expect("done");
        assert_eq!(switches(), on, "{net} by a reconcile");
        assert_eq!(verify(kernel.pins()).expect("read").switched_off, 0);
        kernel.network.reconcile(Desired::default(), &[]).result.expect("done");
        assert_eq!(switches(), [0, 0, 0], "{net} is gone again");
    }
}

#[test]
fn nobody_passes_while_a_ban_changes_its_shape() {
    // From alone to a block and back, wider and narrower: by packets that are
    // judged all the while.
    let Some(mut kernel) = kernel() else { return };
    let shapes = ["198.51.100.5", "198.51.100.0/24", "198.51.0.0/16", "198.51.100.4/31"];
    kernel.ban_prefix(prefix(shapes[0]), BanEntry::NEVER).expect("banned");
    let program = TestProgram::open(kernel.pins()).expect("pinned");
    let frame = Frame::default().bytes();
    let is_over = AtomicBool::new(false);
    let (judged, passed) = thread::scope(|scope| {
        let judging = scope.spawn(|| {
            let (mut judged, mut passed) = (0, 0);
            while !is_over.load(Ordering::Relaxed) {
                passed += u32::from(!program.drops(&frame).expect("judged"));
                judged += 1;
            }
            (judged, passed)
        });
        for round in 0..2_000 {
            let shape = shapes[(round * 7 % 4) ^ usize::from(round % 8 > 3)];
            let wanted = desired(&[(shape, BanEntry::NEVER)]);
            kernel.network.reconcile(wanted, &[]).result.expect("reconciled");
        }
        is_over.store(true, Ordering::Relaxed);
        judging.join().expect("it does not panic")
    });
    assert!(judged > 2_000, "only {judged} packets");
    assert_eq!(passed, 0, "of {judged}");
}
