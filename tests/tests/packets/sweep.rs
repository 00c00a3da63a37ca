//! The look through the exact maps, page by page: what it finds, what it mends,
//! and what it leaves to a whole reconcile.

use std::net::Ipv6Addr;

use aya::Pod;
use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use moderation_common::map::{BANS_HOST, BANS_V4, BANS_V6};
use moderation_common::{BanEntry, Reason, v4_key};
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

/// One of each shape, and a block, which a sweep does not look at.
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
    let changes = Changes { added: 0, updated: 2, removed: 1 };
    assert_eq!(swept(&mut kernel, &wanted), Swept { changes, ..CLEAN });
    assert_eq!(swept(&mut kernel, &wanted), CLEAN);
    for text in ["2001:db8:5:5::/64", "2001:db8:6::1/128"] {
        assert_eq!(kernel.network.bans().get(prefix(text)).expect("read"), Some(later), "{text}");
    }
    assert_eq!(kernel.judge(&Frame::default().bytes()).expect("judged"), Reason::Pass);
    assert_eq!(kernel.network.fill().exact, 2);
    assert!(filter_bits(kernel.pins()).expect("read") <= 8);
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
    // Also those that come later.
    let wanted = bans(0..20_000);
    kernel.network.reconcile(bans(0..10_000), &[]).result.expect("they fit");
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
