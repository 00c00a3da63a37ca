//! The outbox by the store's public face.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::*;
use crate::ledger::{Entry, Holder, Origin, Uid};

const NOW: u64 = 10_000;

fn shared(folder: &TempDir, most: u64) -> (Store, Arc<Outbox>) {
    open(folder).shared(most).expect("readable")
}

fn falls(id: BanId) -> Change {
    Change::Ban(Arc::new(Ban { with: None, ..ban(id, Some(2 * NOW)) }))
}

fn lifted(id: BanId) -> Change {
    let ban = Arc::new(ban(id, Some(2 * NOW)));
    Change::Lift(Lift { ban, at_unix_ms: NOW, by: "root".to_owned() })
}

fn reader(store: &Store, folder: &TempDir) -> Reader {
    store.reader(&folder.path().join("moderation.db")).expect("the same file")
}

fn waiting(store: &Store, folder: &TempDir) -> Vec<(BanId, bool)> {
    let rows = reader(store, folder).outbox(100).expect("readable");
    rows.iter().map(|row| (row.shared.ban.id, row.shared.lifted.is_some())).collect()
}

fn uid(number: u8) -> Uid {
    Uid::from_bytes([number; 16])
}

fn entry(key: &str) -> Entry {
    Entry {
        key: key.to_owned(),
        id: format!("\"{key}\""),
        uid: uid(9),
        holder: Holder::Elsewhere,
        expires_at_unix_ms: Some(NOW),
    }
}

#[test]
fn every_change_of_a_ban_waits_in_its_order_and_says_how_the_ban_stands_by_now() {
    let folder = folder();
    let (mut store, outbox) = shared(&folder, 100);
    store.commit(&[falls(1), falls(2)]).expect("a commit");
    store.commit(&[score("anna", 1.0, 5)]).expect("a commit");
    assert_eq!(waiting(&store, &folder), [(1, false), (2, false)]);
    store.commit(&[lifted(1)]).expect("a commit");
    assert_eq!(waiting(&store, &folder), [(1, true), (2, false), (1, true)]);
    assert_eq!((outbox.rows(), outbox.oldest_unix_ms()), (3, 1_000));
}

#[test]
fn what_waits_survives_the_daemon_and_is_gone_when_it_was_acknowledged() {
    let folder = folder();
    let (mut store, _) = shared(&folder, 100);
    store.commit(&[falls(1), falls(2)]).expect("a commit");
    drop(store);
    let (mut store, outbox) = shared(&folder, 100);
    assert_eq!(outbox.rows(), 2);
    let rows = reader(&store, &folder).outbox(1).expect("readable");
    let notes = Notes { sent: vec![rows[0].row], ..Notes::default() };
    store.commit_noted(&[], &notes).expect("a commit");
    assert_eq!(waiting(&store, &folder), [(2, false)]);
    assert_eq!(outbox.rows(), 1);
}

#[test]
fn what_is_fresh_is_told_at_once_however_full_the_outbox_is_and_what_came_from_elsewhere_is_not() {
    let folder = folder();
    let (mut store, outbox) = shared(&folder, 1);
    let mut fresh = outbox.fresh(3);
    let drain = |fresh: &mut mpsc::Receiver<BanId>| -> Vec<BanId> {
        std::iter::from_fn(|| fresh.try_recv().ok()).collect()
    };
    store.commit(&[falls(1), falls(2)]).expect("a commit");
    let rows = reader(&store, &folder).outbox(9).expect("readable");
    let notes = Notes { sent: vec![rows[0].row], again: [2].into(), ..Notes::default() };
    store.commit_noted(&[lifted(1)], &notes).expect("a commit");
    assert_eq!(drain(&mut fresh), [1, 2, 1]);
    let beta = (uid(3), Origin::Host("beta".to_owned()));
    let notes = Notes { taken: [(3, beta)].into(), told: [2].into(), ..Notes::default() };
    store.commit_noted(&[falls(3), lifted(2)], &notes).expect("a commit");
    assert!(drain(&mut fresh).is_empty());
    store.commit(&[falls(4), falls(5), falls(6), falls(7)]).expect("a commit");
    assert_eq!((outbox.take_missed(), outbox.take_missed()), (1, 0));
    assert_eq!(drain(&mut fresh), [4, 5, 6]);
    let bans = reader(&store, &folder).shared_bans(&[4, 99, 1]).expect("readable");
    let bans: Vec<_> = bans.iter().map(|it| (it.ban.id, it.lifted.is_some())).collect();
    assert_eq!(bans, [(4, false), (1, true)]);
}

#[test]
fn without_sharing_nothing_waits_and_every_ban_has_its_name_all_the_same() {
    let folder = folder();
    let mut store = open(&folder);
    store.commit(&[falls(1), falls(2)]).expect("a commit");
    assert_eq!(waiting(&store, &folder), []);
    let bans = reader(&store, &folder).own_bans(0, 10, NOW).expect("readable");
    assert_eq!(bans.len(), 2);
    assert_ne!(bans[0].uid, bans[1].uid);
    assert_eq!(bans[0].origin, Origin::Here);
}

#[test]
fn what_came_from_elsewhere_is_not_told_back() {
    let folder = folder();
    let (mut store, outbox) = shared(&folder, 100);
    let taken = BTreeMap::from([
        (1, (uid(1), Origin::Host("beta".to_owned()))),
        (2, (uid(2), Origin::Foreign)),
    ]);
    let notes = Notes { taken, ..Notes::default() };
    store.commit_noted(&[falls(1), falls(2), falls(3)], &notes).expect("a commit");
    assert_eq!(waiting(&store, &folder), [(3, false)]);
    let named = store.named(&[uid(1), uid(2), uid(7)]).expect("readable");
    assert_eq!(named.len(), 2);
    assert_eq!(named[&uid(1)], Named { id: 1, is_lifted: false });
    let own = reader(&store, &folder).own_bans(0, 10, NOW).expect("readable");
    assert_eq!(own.iter().map(|it| it.ban.id).collect::<Vec<_>>(), [3]);

    let notes = Notes { told: [1].into(), ..Notes::default() };
    store.commit_noted(&[lifted(1), lifted(2)], &notes).expect("a commit");
    assert_eq!(waiting(&store, &folder), [(3, false), (2, true)]);
    assert!(store.named(&[uid(1)]).expect("readable")[&uid(1)].is_lifted);
    assert_eq!(outbox.rows(), 2);
}

#[test]
fn a_full_outbox_loses_no_ban_and_says_that_there_is_a_gap_until_all_was_compared() {
    let folder = folder();
    let (mut store, outbox) = shared(&folder, 2);
    store.commit(&[falls(1), falls(2), falls(3)]).expect("bans are no matter of the outbox");
    assert_eq!((outbox.rows(), outbox.has_gap()), (2, true));
    assert_eq!(reader(&store, &folder).own_bans(0, 10, NOW).expect("readable").len(), 3);
    drop(store);
    let (mut store, outbox) = shared(&folder, 2);
    assert!(outbox.has_gap());
    let rows = reader(&store, &folder).outbox(10).expect("readable");
    let sent = rows.iter().map(|row| row.row).collect();
    let notes = Notes { sent, is_compared: true, ..Notes::default() };
    store.commit_noted(&[], &notes).expect("a commit");
    assert_eq!((outbox.rows(), outbox.has_gap()), (0, false));
}

#[test]
fn all_bans_of_this_host_that_hold_can_be_shared_again_each_once() {
    let folder = folder();
    let (mut store, _) = shared(&folder, 100);
    let over = Change::Ban(Arc::new(ban(4, Some(NOW - 1))));
    store.commit(&[falls(1), falls(2), falls(3), over, lifted(2)]).expect("a commit");
    let rows = reader(&store, &folder).outbox(10).expect("readable");
    let sent = rows.iter().map(|row| row.row).collect();
    let notes = Notes { sent, all_again: true, at_unix_ms: NOW, ..Notes::default() };
    store.commit_noted(&[], &notes).expect("a commit");
    assert_eq!(waiting(&store, &folder), [(1, false), (3, false)]);
    let notes = Notes { all_again: true, at_unix_ms: NOW, ..Notes::default() };
    store.commit_noted(&[], &notes).expect("a commit");
    assert_eq!(waiting(&store, &folder).len(), 2, "they wait already");
}

#[test]
fn another_ban_takes_the_place_of_a_document_that_is_gone() {
    let folder = folder();
    let (mut store, _) = shared(&folder, 100);
    store.commit(&[falls(1), falls(2), lifted(1)]).expect("a commit");
    let rows = reader(&store, &folder).outbox(10).expect("readable");
    let sent = rows.iter().map(|row| row.row).collect();
    let gone = vec!["BANS:anna".to_owned(), "BANS:nobody".to_owned()];
    let notes = Notes { sent, gone, at_unix_ms: NOW, ..Notes::default() };
    store.commit_noted(&[], &notes).expect("a commit");
    assert_eq!(waiting(&store, &folder), [(2, false)]);
}

#[test]
fn what_was_seen_and_until_where_is_read_back() {
    let folder = folder();
    let (mut store, _) = shared(&folder, 100);
    let notes = Notes {
        seen: vec![entry("BANS:anna"), entry("BANS:bert")],
        position: Some(vec![1, 2, 3]),
        beat_unix_ms: Some(NOW),
        ..Notes::default()
    };
    store.commit_noted(&[], &notes).expect("a commit");
    let later = Entry { expires_at_unix_ms: None, ..entry("BANS:anna") };
    let notes =
        Notes { seen: vec![later.clone()], gone: vec!["BANS:bert".to_owned()], ..Notes::default() };
    store.commit_noted(&[], &notes).expect("a commit");
    let reader = reader(&store, &folder);
    assert_eq!(reader.seen().expect("readable"), [later]);
    assert_eq!(reader.followed().expect("readable"), (Some(vec![1, 2, 3]), Some(NOW)));
}

#[test]
fn bans_of_before_have_names_too_and_what_waits_is_kept() {
    let folder = folder();
    let (mut store, _) = shared(&folder, 100);
    store.commit(&[falls(1), lifted(1), falls(2)]).expect("a commit");
    store.prune(u64::MAX / 4, Keep::all(Duration::from_secs(1), 10)).expect("a commit");
    assert_eq!(waiting(&store, &folder), [(1, true), (1, true), (2, false)]);
    let rows = reader(&store, &folder).outbox(10).expect("readable");
    let sent = rows.iter().map(|row| row.row).collect();
    store.commit_noted(&[], &Notes { sent, ..Notes::default() }).expect("a commit");
    store.prune(u64::MAX / 4, Keep::all(Duration::from_secs(1), 10)).expect("a commit");
    let all = BanPage { all: true, limit: 9, after: 0, order: BanOrder::Number, now_ms: 0 };
    assert!(listed(&store, &folder, all).is_empty());
}
