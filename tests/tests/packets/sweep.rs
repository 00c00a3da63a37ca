//! The look through the ban maps, page by page: what it finds, what it mends,
//! and what it leaves to a whole reconcile.

use std::net::Ipv6Addr;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap as BpfHashMap, LpmTrie, Map, MapData};
use ipnet::Ipv4Net;
use moderation_common::map::{BANS_HOST, BANS_V4, BANS_V6, NETS_V4, NETS_V6};
use moderation_common::{BanEntry, FILTER_BITS, Reason, v4_key};
use moderation_daemon::clock;
use moderation_daemon::engine::Prefix;
use moderation_daemon::network::{AttachOptions, Changes, Desired, Swept, filter_bits, verify};
use moderation_tests::frame::{Frame, SOURCE_V4, SOURCE_V6};
use moderation_tests::kernel::{Kernel, detached};

use crate::{FOR_EVER, HOUR_NS, kernel, kernel_with, prefix};

fn swept(kernel: &mut Kernel, wanted: &Desired) -> Swept {
    let mut sweep = kernel.network.sweep();
    loop {
        let swept = kernel.network.sweep_on(&mut sweep, |prefix| wanted.get(prefix));
        if let Some(swept) = swept.expect("swept") {
            return swept;
        }
    }
}

fn by_hand<K: Pod>(kernel: &Kernel, map: &str) -> BpfHashMap<MapData, K, u64> {
    let data = MapData::from_pin(kernel.pins().map(map)).expect("it is pinned");
    BpfHashMap::try_from(Map::HashMap(data)).expect("it is a hash")
}

const CLEAN: Swept =
    Swept { changes: Changes { added: 0, updated: 0, removed: 0 }, hidden: 0, has_losses: false };

/// One of each shape.
fn bans() -> Desired {
    let prefixes = ["198.51.100.5", "2001:db8:5:5::/64", "2001:db8:6::1/128", "203.0.113.0/24"];
    prefixes.into_iter().map(|text| (prefix(text), FOR_EVER)).collect()
}

fn banned() -> Option<(Kernel, Desired)> {
    let (mut kernel, bans) = (kernel()?, bans());
    kernel.network.reconcile(bans.clone(), &[]).result.expect("they fit");
    Some((kernel, bans))
}

#[test]
fn a_sweep_of_maps_that_are_right_changes_nothing() {
    let Some((mut kernel, bans)) = banned() else { return };
    for _ in 0..2 {
        assert_eq!(swept(&mut kernel, &bans), CLEAN);
    }
    assert_eq!(kernel.network.bans().all().expect("read"), bans);
    let Some(mut empty) = self::kernel() else { return };
    assert_eq!(swept(&mut empty, &Desired::default()), CLEAN);
}

#[test]
fn what_nobody_wants_is_removed_and_another_expiry_is_written() {
    let Some((mut kernel, bans)) = banned() else { return };
    let later = BanEntry { expires_at_ns: HOUR_NS };
    let wanted: Desired = bans
        .iter()
        .filter(|(prefix, _)| *prefix != self::prefix("198.51.100.5"))
        .map(|(prefix, _)| (prefix, later))
        .collect();
    let changes = Changes { added: 0, updated: 3, removed: 1 };
    assert_eq!(swept(&mut kernel, &wanted), Swept { changes, ..CLEAN });
    assert_eq!(swept(&mut kernel, &wanted), CLEAN);
    for text in ["2001:db8:5:5::/64", "2001:db8:6::1/128", "203.0.113.0/24"] {
        assert_eq!(kernel.network.bans().get(prefix(text)).expect("read"), Some(later), "{text}");
    }
    assert_eq!(kernel.judge(&Frame::default().bytes()).expect("judged"), Reason::Pass);
    assert_eq!(kernel.network.fill().exact, 2);
    assert!(filter_bits(kernel.pins()).expect("read") <= 2 * FILTER_BITS);
}

#[test]
fn entries_of_somebody_elses_hand_are_taken_out_whatever_their_width() {
    let Some((mut kernel, bans)) = banned() else { return };
    for octet in 0..100_u8 {
        let v4 = v4_key([192, 0, 2, octet].into());
        by_hand(&kernel, BANS_V4).insert(v4, BanEntry::NEVER, 0).expect("inserted");
        let v6 = u64::from(octet) + 1;
        by_hand(&kernel, BANS_V6).insert(v6, BanEntry::NEVER, 0).expect("inserted");
        by_hand::<[u8; 16]>(&kernel, BANS_HOST)
            .insert([octet; 16], BanEntry::NEVER, 0)
            .expect("inserted");
    }
    let found = swept(&mut kernel, &bans);
    assert_eq!(found.changes, Changes { added: 0, updated: 0, removed: 300 });
    assert!(found.has_losses, "only a whole reconcile counts anew");
    let all = kernel.network.bans().all().expect("read");
    assert_eq!(all, bans);
    assert_eq!(verify(kernel.pins()).expect("read").hidden, 0);
    kernel.network.reconcile(bans.clone(), &[]).result.expect("reconciled");
    assert_eq!(swept(&mut kernel, &bans), CLEAN);
    assert_eq!(kernel.network.fill().exact, 3);
}

#[test]
fn a_wanted_entry_that_somebody_else_has_put_there_is_put_into_force() {
    let Some(mut kernel) = kernel() else { return };
    let wanted = bans();
    let host = "2001:db8:6::1".parse::<Ipv6Addr>().expect("an address");
    by_hand(&kernel, BANS_V4).insert(v4_key(SOURCE_V4), BanEntry::NEVER, 0).expect("inserted");
    by_hand::<[u8; 16]>(&kernel, BANS_HOST)
        .insert(host.octets(), BanEntry::NEVER, 0)
        .expect("inserted");
    assert_eq!(verify(kernel.pins()).expect("read").hidden, 2);
    let found = swept(&mut kernel, &wanted);
    assert_eq!((found.hidden, found.changes.drift(), found.has_losses), (2, 0, true));
    let verified = verify(kernel.pins()).expect("read");
    assert_eq!((verified.hidden, verified.switched_off), (0, 0));
    assert_eq!(kernel.judge(&Frame::default().bytes()).expect("judged"), Reason::BanV4);
    let frame = Frame::from_v6(host).bytes();
    assert_eq!(kernel.judge(&frame).expect("judged"), Reason::BanV6);
}

#[test]
fn entries_that_have_vanished_are_reported_and_a_reconcile_brings_them_back() {
    let Some((mut kernel, bans)) = banned() else { return };
    by_hand::<u32>(&kernel, BANS_V4).remove(&v4_key(SOURCE_V4)).expect("it was there");
    assert_eq!(swept(&mut kernel, &bans), Swept { has_losses: true, ..CLEAN });
    let changes = kernel.network.reconcile(bans.clone(), &[]).result.expect("reconciled");
    assert_eq!(changes, Changes { added: 1, updated: 0, removed: 0 });
    assert_eq!(swept(&mut kernel, &bans), CLEAN);
    // One lost and one put there: the number alone would not tell.
    by_hand::<u32>(&kernel, BANS_V4).remove(&v4_key(SOURCE_V4)).expect("it was there");
    let stranger = v4_key([192, 0, 2, 1].into());
    by_hand(&kernel, BANS_V4).insert(stranger, BanEntry::NEVER, 0).expect("inserted");
    assert!(swept(&mut kernel, &bans).has_losses);
    kernel.network.reconcile(bans.clone(), &[]).result.expect("reconciled");
    assert_eq!(swept(&mut kernel, &bans), CLEAN);
}

#[test]
fn bans_that_come_and_go_during_a_sweep_are_no_losses() {
    let options = AttachOptions { max_bans: 20_000, ..detached() };
    let Some(mut kernel) = kernel_with(&options) else { return };
    let bans = |range: std::ops::Range<u32>| -> Desired {
        range.map(|key| (Prefix::from_v4(0x2000_0000 + key), FOR_EVER)).collect()
    };
    let mut wanted = bans(0..10_000);
    kernel.network.reconcile(wanted.clone(), &[]).result.expect("they fit");
    let (mut sweep, mut page) = (kernel.network.sweep(), 0_u32);
    let found = loop {
        let swept = kernel.network.sweep_on(&mut sweep, |prefix| wanted.get(prefix));
        if let Some(swept) = swept.expect("swept") {
            break swept;
        }
        page += 1;
        for key in 0..50 {
            let (old, new) = (50 * page + key, 10_000 + 50 * page + key);
            kernel.network.unblock(Prefix::from_v4(0x2000_0000 + old)).expect("unblocked");
            let prefix = Prefix::from_v4(0x2000_0000 + new);
            kernel.network.block(prefix, FOR_EVER).expect("there is room");
            wanted.insert(prefix, FOR_EVER);
        }
    };
    assert!(page > 10, "in pages: {page}");
    assert_eq!(found.changes, Changes::default());
    assert_eq!(found.hidden, 0);
    assert_eq!(kernel.network.fill().exact, 10_000);
}

#[test]
fn an_expiry_that_somebody_else_has_changed_is_mended() {
    let Some((mut kernel, bans)) = banned() else { return };
    by_hand(&kernel, BANS_V4).insert(v4_key(SOURCE_V4), 1, 0).expect("written");
    assert_eq!(kernel.judge(&Frame::default().bytes()).expect("judged"), Reason::Pass);
    let changes = Changes { added: 0, updated: 1, removed: 0 };
    assert_eq!(swept(&mut kernel, &bans), Swept { changes, ..CLEAN });
    assert_eq!(kernel.judge(&Frame::default().bytes()).expect("judged"), Reason::BanV4);
    let v6 = Prefix::around(SOURCE_V6.into(), 64);
    assert_eq!(kernel.network.bans().get(v6).expect("read"), Some(FOR_EVER));
}

fn trie<K: Pod>(kernel: &Kernel, map: &str) -> LpmTrie<MapData, K, u64> {
    let data = MapData::from_pin(kernel.pins().map(map)).expect("it is pinned");
    LpmTrie::try_from(Map::LpmTrie(data)).expect("it is a trie")
}

/// Blocks within blocks, which have the latest expiry of those around them.
fn nested() -> Desired {
    let hour = clock::boot_ns() + HOUR_NS;
    let blocks = [
        ("203.0.113.0/24", hour),
        ("203.0.112.0/23", BanEntry::NEVER),
        ("203.0.113.64/26", 1),
        ("2001:db8:7::/48", hour),
        ("2001:db8:7:8000::/49", BanEntry::NEVER),
    ];
    let entry = |(text, expires_at_ns)| (prefix(text), BanEntry { expires_at_ns });
    blocks.into_iter().map(entry).collect()
}

#[test]
fn blocks_of_somebody_elses_hand_go_whatever_their_width_and_nobody_elses() {
    let Some(mut kernel) = kernel() else { return };
    let mut wanted = nested();
    // Banned alone, which a trie has no say in.
    wanted.insert(prefix("198.51.100.5"), FOR_EVER);
    kernel.network.reconcile(wanted.clone(), &[]).result.expect("they fit");
    let right = kernel.network.bans().all().expect("read");
    let mut v4 = trie::<[u8; 4]>(&kernel, NETS_V4);
    let mut v6 = trie::<[u8; 16]>(&kernel, NETS_V6);
    let foreign =
        [(0, [0; 4]), (8, [203, 0, 0, 0]), (25, [203, 0, 113, 0]), (32, [198, 51, 100, 5])];
    for (length, octets) in foreign {
        v4.insert(&Key::new(length, octets), BanEntry::NEVER, 0).expect("inserted");
    }
    for length in [0, 3, 32, 64, 128] {
        let octets = "2001:db8:7::".parse::<Ipv6Addr>().expect("an address").octets();
        v6.insert(&Key::new(length, octets), BanEntry::NEVER, 0).expect("inserted");
    }
    assert_eq!(
        kernel.judge(&Frame::from_v4([9; 4].into()).bytes()).expect("judged"),
        Reason::BanNet
    );
    let changes = Changes { added: 0, updated: 0, removed: 9 };
    assert_eq!(swept(&mut kernel, &wanted), Swept { changes, ..CLEAN });
    assert_eq!(kernel.network.bans().all().expect("read"), right);
    assert_eq!(swept(&mut kernel, &wanted), CLEAN);
    assert_eq!(kernel.judge(&Frame::from_v4([9; 4].into()).bytes()).expect("judged"), Reason::Pass);
}

#[test]
fn blocks_that_vanished_come_back_and_other_expiries_are_mended() {
    let Some(mut kernel) = kernel() else { return };
    let wanted = nested();
    kernel.network.reconcile(wanted.clone(), &[]).result.expect("they fit");
    let right = kernel.network.bans().all().expect("read");
    let mut v4 = trie::<[u8; 4]>(&kernel, NETS_V4);
    let mut v6 = trie::<[u8; 16]>(&kernel, NETS_V6);
    v4.remove(&Key::new(23, [203, 0, 112, 0])).expect("it was there");
    v4.insert(&Key::new(26, [203, 0, 113, 64]), 1, 0).expect("written");
    // The prefix is ours; what is behind it is not.
    v4.insert(&Key::new(24, [203, 0, 113, 7]), 1, 0).expect("written");
    let inner = "2001:db8:7:8000::".parse::<Ipv6Addr>().expect("an address").octets();
    v6.remove(&Key::new(49, inner)).expect("it was there");
    let frame = Frame::from_v4([203, 0, 113, 65].into()).bytes();
    assert_eq!(kernel.judge(&frame).expect("judged"), Reason::Pass);

    let changes = Changes { added: 2, updated: 2, removed: 0 };
    assert_eq!(swept(&mut kernel, &wanted), Swept { changes, ..CLEAN });
    assert_eq!(kernel.network.bans().all().expect("read"), right);
    assert_eq!(kernel.judge(&frame).expect("judged"), Reason::BanNet);
    assert_eq!(swept(&mut kernel, &wanted), CLEAN);
}

/// A few thousand blocks in pages, some of which come and go meanwhile, also the
/// one that a page ended with.
#[test]
fn blocks_that_come_and_go_during_a_sweep_are_no_drift() {
    let options = AttachOptions { max_networks: 8_192, ..detached() };
    let Some(mut kernel) = kernel_with(&options) else { return };
    let block = |number: u32| {
        let net = Ipv4Net::new((0x2000_0000 + (number << 8)).into(), 24).expect("a block");
        Prefix::new(net.into()).expect("not too wide")
    };
    let mut wanted: Desired = (0..4_000).map(|number| (block(number), FOR_EVER)).collect();
    kernel.network.reconcile(wanted.clone(), &[]).result.expect("they fit");
    let (mut sweep, mut steps) = (kernel.network.sweep(), 0);
    let found = loop {
        let swept = kernel.network.sweep_on(&mut sweep, |prefix| wanted.get(prefix));
        if let Some(swept) = swept.expect("swept") {
            break swept;
        }
        steps += 1;
        // The ends of the first pages, and others.
        let gone = steps * 64 - 1;
        if gone < 2_000 {
            kernel.network.unblock(block(gone)).expect("unblocked");
            kernel.network.block(block(5_000 + gone), FOR_EVER).expect("there is room");
            let others = wanted.iter().filter(|(prefix, _)| *prefix != block(gone));
            wanted = others.chain([(block(5_000 + gone), FOR_EVER)]).collect();
        }
    };
    assert!(steps > 60, "in pages: {steps}");
    assert_eq!(found, CLEAN);
    assert_eq!(kernel.network.bans().all().expect("read"), wanted);
}
