//! From one load to the next: seeds stay with their maps, and what an earlier
//! layout of the maps holds is taken over without a gap.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

use aya::maps::{Array, Map, MapData};
use moderation_common::map::{BANS_V4, SEEDS};
use moderation_common::{BanEntry, FILTER_BITS, Reason};
use moderation_daemon::clock;
use moderation_daemon::config::AttachMode;
use moderation_daemon::engine::Prefix;
use moderation_daemon::network::{
    AttachOptions, Desired, Network, Pins, TestProgram, attach, filter_bits, verify,
};
use moderation_tests::frame::{Frame, SOURCE_V4};
use moderation_tests::kernel::{Kernel, Pinboard, detached};
use moderation_tests::lab::{INTERFACE, Pair};
use moderation_tests::need;
use nix::unistd::Uid;

use crate::{HOUR_NS, kernel, prefix};

/// Every shape, and expiries of all kinds.
fn bans() -> Desired {
    let soon = clock::boot_ns() + HOUR_NS;
    let bans = [
        ("198.51.100.5", BanEntry::NEVER),
        ("192.0.2.1", soon),
        ("192.0.2.2", 1),
        ("2001:db8:5:5::/64", soon),
        ("2001:db8:6::1/128", BanEntry::NEVER),
        ("203.0.113.0/24", soon),
        ("203.0.112.0/23", BanEntry::NEVER),
        ("2001:db8:7::/48", soon),
    ];
    bans.into_iter()
        .map(|(text, expires_at_ns)| (prefix(text), BanEntry { expires_at_ns }))
        .collect()
}

fn is_dropped(program: &TestProgram, ip: &str) -> bool {
    let frame = match ip.parse().expect("an address") {
        IpAddr::V4(ip) => Frame::from_v4(ip),
        IpAddr::V6(ip) => Frame::from_v6(ip),
    };
    program.drops(&frame.bytes()).expect("judged")
}

fn assert_in_force(pins: &Pins) {
    let program = TestProgram::open(pins).expect("it is pinned");
    let banned = [
        "198.51.100.5",
        "192.0.2.1",
        "2001:db8:5:5::9",
        "2001:db8:6::1",
        "203.0.113.7",
        "203.0.112.7",
        "2001:db8:7:7::7",
    ];
    for ip in banned {
        assert!(is_dropped(&program, ip), "{ip}");
    }
    for ip in ["192.0.2.2", "198.51.100.6", "203.0.113.9", "2001:db8:6::2"] {
        assert!(!is_dropped(&program, ip), "{ip}");
    }
}

#[test]
fn bans_allowlist_and_owner_of_an_earlier_layout_are_taken_over() {
    if !need::root() {
        return;
    }
    let board = Pinboard::reserve().expect("a folder");
    let (old, new) = (Pins::of_schema(board.path(), "v1"), board.pins());
    let owner = Uid::from_raw(65_534);
    attach(&old, &AttachOptions { owner: Some(owner), ..detached() }).expect("loaded");
    let allowed = ["203.0.113.9/32", "2001:db8:7:1::/64"].map(|text| text.parse().expect("a net"));
    let mut network = Network::open(&old).expect("opened");
    let bans = bans();
    network.reconcile(bans.clone(), &allowed).result.expect("they fit");
    assert_in_force(&old);
    drop(network);

    let guards = vec!["10.0.0.0/8".parse().expect("a prefix")];
    attach(new, &AttachOptions { owner: None, guards, ..detached() }).expect("loaded");
    // Before any daemon has looked at the new maps, and after.
    assert_in_force(new);
    let verified = verify(new).expect("read");
    assert_eq!((verified.entries, verified.hidden, verified.switched_off), (5, 0, 0));
    assert!(!board.path().join("v1").exists(), "the old folder is gone");
    assert_eq!(new.owner(), Some(owner));
    let seeds = std::fs::metadata(new.map(SEEDS)).expect("it is pinned");
    assert_eq!((seeds.uid(), seeds.mode() & 0o777), (65_534, 0o600));

    let mut network = Network::open(new).expect("opened");
    assert_eq!(network.hidden_at_open(), 0);
    assert_in_force(new);
    assert!(filter_bits(new).expect("read") <= 5 * FILTER_BITS, "no bit more than needed");
    let reconciled = network.reconcile(bans, &allowed);
    assert_eq!(reconciled.result.expect("reconciled").drift(), 0, "nothing was lost or added");
    assert_in_force(new);
}

#[test]
fn an_interrupted_migration_is_finished_by_the_next_and_later_bans_stay() {
    if !need::root() {
        return;
    }
    let board = Pinboard::reserve().expect("a folder");
    let (old, new) = (Pins::of_schema(board.path(), "v1"), board.pins());
    attach(&old, &detached()).expect("loaded");
    let mut network = Network::open(&old).expect("opened");
    network.block(prefix("198.51.100.5"), BanEntry { expires_at_ns: 1 }).expect("banned");
    network.block(prefix("192.0.2.1"), BanEntry { expires_at_ns: u64::MAX }).expect("banned");
    // The new maps were made, and one ban is in them with a later expiry.
    let elsewhere = Pinboard::reserve().expect("a folder");
    attach(elsewhere.pins(), &detached()).expect("loaded");
    Network::open(elsewhere.pins())
        .and_then(|mut network| {
            network.block(prefix("198.51.100.5"), BanEntry { expires_at_ns: u64::MAX })
        })
        .expect("banned");
    let made = elsewhere.path().join(Pins::SCHEMA);
    std::fs::create_dir(board.path().join(Pins::SCHEMA)).expect("a folder");
    for pin in std::fs::read_dir(made).expect("it is there").flatten() {
        if pin.file_type().is_ok_and(|kind| kind.is_file()) && pin.file_name() != "moderation" {
            std::fs::rename(pin.path(), new.map(&pin.file_name().to_string_lossy()))
                .expect("moved");
        }
    }
    attach(new, &detached()).expect("loaded");
    let program = TestProgram::open(new).expect("it is pinned");
    for ip in ["198.51.100.5", "192.0.2.1"] {
        assert!(is_dropped(&program, ip), "{ip}: the later expiry holds");
    }
    assert!(!board.path().join("v1").exists());
}

#[test]
fn the_link_of_an_earlier_layout_moves_and_holds_its_interface_all_the_while() {
    if !need::root() {
        return;
    }
    let pair = Pair::new().expect("two namespaces");
    let board = Pinboard::reserve().expect("a folder");
    let (old, new) = (Pins::of_schema(board.path(), "v1"), board.pins());
    let options = AttachOptions {
        interfaces: vec![INTERFACE.to_owned()],
        mode: AttachMode::Native,
        ..detached()
    };
    let attached = |pins: &Pins| {
        let attached = pair.host.run(|| Ok(attach(pins, &options)?)).expect("attached");
        assert!(attached.failures.is_empty(), "{attached:?}");
        let [attachment] = &attached.attachments[..] else { panic!("{attached:?}") };
        attachment.program_id
    };
    let before = attached(&old);
    Network::open(&old)
        .and_then(|mut network| network.reconcile(bans(), &[]).result)
        .expect("they fit");
    let inode = |pins: &Pins| std::fs::metadata(pins.link(INTERFACE)).expect("pinned").ino();
    let link = inode(&old);
    let after = attached(new);
    assert_ne!(before, after, "the new program");
    assert_eq!(link, inode(new), "under the same link");
    assert_eq!(new.interfaces(), [INTERFACE]);
    assert!(old.interfaces().is_empty());
    let program = TestProgram::open(new).expect("it is pinned");
    assert!(is_dropped(&program, "198.51.100.5"));
}

fn seeds(kernel: &Kernel) -> Array<MapData, [u64; 2]> {
    let data = MapData::from_pin(kernel.pins().map(SEEDS)).expect("they are pinned");
    Array::try_from(Map::Array(data)).expect("it is an array")
}

#[test]
fn seeds_are_drawn_once_for_all_the_loads_of_the_same_maps() {
    let (Some(mut one), Some(other)) = (kernel(), kernel()) else { return };
    let of = |kernel: &Kernel| seeds(kernel).get(&0, 0).expect("read");
    let drawn = of(&one);
    assert!(drawn.iter().all(|seed| *seed != 0) && drawn[0] != drawn[1], "{drawn:x?}");
    assert_ne!(drawn, of(&other));
    one.ban(SOURCE_V4).expect("banned");
    for _ in 0..3 {
        one.reload(&detached()).expect("loaded");
        assert_eq!(of(&one), drawn);
        assert_eq!(one.judge(&Frame::default().bytes()).expect("judged"), Reason::BanV4);
    }
}

#[test]
fn a_load_that_was_interrupted_before_its_seeds_were_kept_hides_no_ban() {
    let Some(mut kernel) = kernel() else { return };
    for text in ["198.51.100.5", "2001:db8:5:5::/64", "2001:db8:6::1/128"] {
        kernel.ban_prefix(prefix(text), BanEntry::NEVER).expect("banned");
    }
    for daemon_comes_first in [false, true] {
        seeds(&kernel).set(0, [0; 2], 0).expect("written");
        if daemon_comes_first {
            assert!(Network::open(kernel.pins()).is_err(), "it waits for the loader");
        }
        kernel.reload(&detached()).expect("loaded");
        assert_eq!(verify(kernel.pins()).expect("read").hidden, 0, "all pass");
        assert_eq!(kernel.judge(&Frame::default().bytes()).expect("judged"), Reason::BanV4);
        kernel.reopen().expect("opened");
        assert_eq!(kernel.network.hidden_at_open(), 0);
        assert!(filter_bits(kernel.pins()).expect("read") <= 3 * FILTER_BITS);
        assert_eq!(kernel.judge(&Frame::default().bytes()).expect("judged"), Reason::BanV4);
        assert_eq!(kernel.judge(&Frame::v6().bytes()).expect("judged"), Reason::BanV6);
    }
}

#[test]
fn maps_keep_their_size_and_the_program_goes_by_it() {
    let Some(mut kernel) = kernel() else { return };
    kernel.ban(SOURCE_V4).expect("banned");
    for max_bans in [16, 1_000_000] {
        let syn = moderation_daemon::config::Syn { limit: 3, flood: 50_000_000, ..detached().syn };
        kernel.reload(&AttachOptions { max_bans, syn, ..detached() }).expect("loaded");
        kernel.reopen().expect("opened");
        assert_eq!(kernel.network.fill().max_exact, 4_096);
        let more = Prefix::around(IpAddr::from([192, 0, 2, 1]), 64);
        kernel.network.block(more, BanEntry { expires_at_ns: u64::MAX }).expect("banned");
        for frame in [Frame::default(), Frame::from_v4([192, 0, 2, 1].into())] {
            assert_eq!(kernel.judge(&frame.bytes()).expect("judged"), Reason::BanV4);
        }
        assert!(std::fs::metadata(kernel.pins().map(BANS_V4)).is_ok());
    }
}
