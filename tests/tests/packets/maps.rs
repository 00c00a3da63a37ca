//! The maps as the daemon writes them: capacity, and reconciling by
//! difference.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Result;
use aya::maps::{LpmTrie, Map, MapData};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use moderation_common::map::{ALLOW_V4, ALLOW_V6};
use moderation_common::{BanEntry, Reason};
use moderation_daemon::engine::Prefix;
use moderation_daemon::network::{
    AllowMaps, AttachOptions, Changes, Desired, MAX_ALLOWED, Network, NetworkError, attach, verify,
};
use moderation_tests::frame::{Frame, SOURCE_V4};
use moderation_tests::kernel::{Kernel, Pinboard, detached};
use moderation_tests::need;
use proptest::collection::{btree_set, hash_map};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::prop_assert_eq;

use crate::{FOR_EVER, kernel, kernel_with, runner};

fn v4(last: u8) -> Prefix {
    Prefix::around(IpAddr::from([198, 51, 100, last]), 64)
}

fn v6(last: u16) -> Prefix {
    Prefix::around(Ipv6Addr::new(0x2001, 0xdb8, 0, last, 0, 0, 0, 0).into(), 64)
}

fn host(last: u16) -> Prefix {
    Prefix::around(Ipv6Addr::new(0x2001, 0xdb8, 1, last, 0, 0, 0, 7).into(), 128)
}

#[test]
fn a_ban_beyond_the_capacity_is_refused_as_full_and_the_others_stay() {
    let Some(mut kernel) = kernel_with(&AttachOptions { max_bans: 6, ..detached() }) else {
        return;
    };
    for last in 1..=2 {
        kernel.network.block(v4(last), FOR_EVER).expect("there is room");
        kernel.network.block(v6(last.into()), FOR_EVER).expect("there is room");
        kernel.network.block(host(last.into()), FOR_EVER).expect("there is room");
    }
    // The room is that of all exact bans together.
    for prefix in [v4(5), v6(5), host(5)] {
        let error = kernel.network.block(prefix, FOR_EVER).expect_err("no room");
        assert!(matches!(error, NetworkError::Full { capacity: 6 }), "{error:?}");
        assert!(error.to_string().contains("network.max_bans"), "{error}");
    }
    assert_eq!(kernel.network.bans().all().expect("read").len(), 6);
    let fill = kernel.network.fill();
    assert_eq!((fill.exact, fill.max_exact, fill.is_high()), (6, 6, true));
    // Those that are there already can be prolonged, also after a restart.
    kernel.reopen().expect("opened");
    let soon = BanEntry { expires_at_ns: 7 };
    for prefix in [v4(1), v6(1), host(1)] {
        kernel.network.block(prefix, soon).expect("no new entry");
        assert_eq!(kernel.network.bans().get(prefix).expect("read"), Some(soon));
    }
    // Room can be made by one width for another.
    kernel.network.unblock(v4(2)).expect("unblocked");
    kernel.network.block(host(5), FOR_EVER).expect("there is room again");
    kernel.network.block(v4(2), FOR_EVER).expect_err("and no more");
    assert_eq!(verify(kernel.pins()).expect("read").hidden, 0);
}

#[test]
fn four_fifths_are_a_high_fill() {
    let Some(mut kernel) = kernel_with(&AttachOptions { max_bans: 10, ..detached() }) else {
        return;
    };
    for last in 1..=8 {
        assert!(!kernel.network.fill().is_high());
        kernel.network.block(v4(last), FOR_EVER).expect("there is room");
    }
    assert!(kernel.network.fill().is_high());
}

#[test]
fn reconciling_makes_room_before_it_fills_it() {
    let Some(mut kernel) = kernel_with(&AttachOptions { max_bans: 8, ..detached() }) else {
        return;
    };
    let bans = |range: std::ops::Range<u8>| -> Desired {
        range.flat_map(|last| [(v4(last), FOR_EVER), (v6(last.into()), FOR_EVER)]).collect()
    };
    kernel.network.reconcile(bans(0..4), &[]).result.expect("they fit");
    let changes = kernel.network.reconcile(bans(2..6), &[]).result.expect("they fit, too");
    assert_eq!(changes, Changes { added: 4, updated: 0, removed: 4 });
    assert_eq!(kernel.network.bans().all().expect("read"), bans(2..6));
}

#[test]
fn a_reconcile_goes_by_no_look_that_is_older_than_what_was_written_last() {
    let ways: [fn(&mut Network); 3] = [
        |network| network.block(v4(9), FOR_EVER).expect("blocked"),
        |network| network.unblock(v4(1)).expect("unblocked"),
        |network| {
            let new = Desired::from_iter([(host(9), FOR_EVER), (v6(9), FOR_EVER)]);
            assert!(network.block_new(&new).failed.is_empty());
        },
    ];
    for (number, write) in ways.into_iter().enumerate() {
        let Some(mut kernel) = kernel() else { return };
        let wanted: Desired =
            [v4(1), v6(1), host(1)].map(|prefix| (prefix, FOR_EVER)).into_iter().collect();
        kernel.network.reconcile(wanted.clone(), &[]).result.expect("they fit");
        kernel.network.look().expect("read");
        write(&mut kernel.network);
        kernel.network.reconcile(wanted.clone(), &[]).result.expect("reconciled");
        assert_eq!(kernel.network.bans().all().expect("read"), wanted, "way {number}");
        kernel.network.look().expect("read");
        let again = kernel.network.reconcile(wanted, &[]).result.expect("reconciled");
        assert_eq!(again, Changes::default());
        let verified = verify(kernel.pins()).expect("read");
        assert_eq!((verified.entries, verified.hidden, verified.switched_off), (3, 0, 0));
    }
}

#[test]
fn what_a_reconcile_cannot_fit_is_named_and_the_rest_is_in_force() {
    let Some(mut kernel) = kernel_with(&AttachOptions { max_bans: 8, ..detached() }) else {
        return;
    };
    let wanted: Desired =
        (0..6_u8).flat_map(|last| [(v4(last), FOR_EVER), (host(last.into()), FOR_EVER)]).collect();
    let reconciled = kernel.network.reconcile(wanted.clone(), &[]);
    let error = reconciled.result.expect_err("four too many");
    assert!(matches!(error, NetworkError::Full { capacity: 8 }), "{error:?}");
    assert_eq!(reconciled.failed.len(), 4);
    let all = kernel.network.bans().all().expect("read");
    for (prefix, entry) in wanted.iter() {
        let expected = (!reconciled.failed.contains(&prefix)).then_some(entry);
        assert_eq!(all.get(prefix), expected, "{prefix}");
    }
    let verified = verify(kernel.pins()).expect("read");
    assert_eq!((verified.entries, verified.hidden, verified.switched_off), (8, 0, 0));
    assert_eq!(kernel.network.fill().exact, 8);
}

#[test]
fn many_bans_at_once_of_which_some_are_there_already() {
    const MANY: u32 = 9_000; // more than two of the kernel's batches
    let Some(mut kernel) = kernel_with(&AttachOptions { max_bans: 30_000, ..detached() }) else {
        return;
    };
    let key = |index: u32| u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let all: Vec<_> = (0..MANY)
        .flat_map(|index| {
            let (narrow, wide) = (Prefix::from_v4(0x2000_0000 + index), u128::from(key(index)));
            [narrow, Prefix::from_v6_64(key(index)), Prefix::from_v6(wide << 64 | 1)]
        })
        .map(|prefix| (prefix, FOR_EVER))
        .collect();
    for (prefix, _) in all.iter().step_by(7) {
        kernel.network.block(*prefix, FOR_EVER).expect("there is room");
    }
    let present = all.iter().step_by(7).count();
    let wanted: Desired = all.iter().copied().collect();
    let changes = kernel.network.reconcile(wanted.clone(), &[]).result.expect("they fit");
    assert_eq!(changes, Changes { added: all.len() - present, updated: 0, removed: 0 });
    assert_eq!(kernel.network.bans().all().expect("read"), wanted);
    let verified = verify(kernel.pins()).expect("read");
    assert_eq!((verified.entries, verified.hidden), (all.len(), 0));
    // Lifting half of them, in batches too.
    let half: Desired = all.iter().copied().skip(all.len() / 2).collect();
    let changes = kernel.network.reconcile(half.clone(), &[]).result.expect("reconciled");
    assert_eq!(changes, Changes { added: 0, updated: 0, removed: all.len() / 2 });
    assert_eq!(kernel.network.bans().all().expect("read"), half);
    assert_eq!(verify(kernel.pins()).expect("read").hidden, 0);
    kernel.network.reconcile(Desired::default(), &[]).result.expect("reconciled");
    assert_eq!(moderation_daemon::network::filter_bits(kernel.pins()).expect("read"), 0);
}

#[test]
fn maps_without_seeds_are_not_opened() {
    let Some(kernel) = kernel() else { return };
    let data = MapData::from_pin(kernel.pins().map("SEEDS")).expect("it is pinned");
    let mut seeds = aya::maps::Array::<_, [u64; 2]>::try_from(Map::Array(data)).expect("an array");
    seeds.set(0, [0; 2], 0).expect("written");
    // As in the middle of a first load: bans by other seeds would be hidden.
    let error = Network::open(kernel.pins()).expect_err("not finished");
    assert!(matches!(error, NetworkError::Unfinished { .. }), "{error:?}");
    assert!(error.to_string().contains("xdp attach"), "{error}");
}

#[test]
fn an_expiry_that_only_jitters_is_left_alone_and_another_is_written() {
    let Some(mut kernel) = kernel() else { return };
    let entry = |expires_at_ns| BanEntry { expires_at_ns };
    let second = 1_000_000_000;
    kernel.network.block(v4(1), entry(100 * second)).expect("banned");
    let mut reconciled_to = |expires_at_ns| {
        let wanted = Desired::from_iter([(v4(1), entry(expires_at_ns))]);
        let changes = kernel.network.reconcile(wanted, &[]).result.expect("reconciled");
        let kept = kernel.network.bans().get(v4(1)).expect("read").expect("it is banned");
        (changes.updated, kept.expires_at_ns / second)
    };
    assert_eq!(reconciled_to(100 * second + second / 2), (0, 100));
    assert_eq!(reconciled_to(99 * second + second / 2), (0, 100));
    assert_eq!(reconciled_to(101 * second), (1, 101));
    assert_eq!(reconciled_to(100 * second), (1, 100));
    assert_eq!(reconciled_to(BanEntry::NEVER), (1, BanEntry::NEVER / second));
}

#[test]
fn an_allowlist_that_does_not_fit_is_refused_before_anything_is_changed() {
    let Some(mut kernel) = kernel() else { return };
    let kept = prefix([198, 51, 100, 0].into(), 24);
    kernel.allow(&[kept]).expect("allowed");
    let many = |count: usize| -> Vec<IpNet> {
        let first = u32::from(Ipv4Addr::new(20, 0, 0, 0));
        let addresses = (first..).map(|address| prefix(Ipv4Addr::from(address).into(), 32));
        addresses.take(count).collect()
    };
    let error = kernel.allow(&many(MAX_ALLOWED + 1)).expect_err("too many");
    assert!(error.to_string().contains("4097"), "{error}");
    kernel.ban(SOURCE_V4).expect("banned");
    let judged = kernel.judge(&Frame::default().bytes()).expect("judged");
    assert_eq!(judged, Reason::AllowOverride);
    kernel.allow(&many(MAX_ALLOWED)).expect("as many as fit");
}

#[test]
fn prefixes_with_host_bits_are_their_network_and_double_ones_count_once() {
    let Some(mut kernel) = kernel() else { return };
    let texts = ["198.51.100.77/24", "198.51.100.0/24", "2001:db8::9/32", "2001:db8::/32"];
    let prefixes = texts.map(|text| text.parse().expect("a prefix"));
    let changes = kernel.network.reconcile_allowlist(&prefixes).expect("reconciled");
    assert_eq!(changes, Changes { added: 2, updated: 0, removed: 0 });
    let again = kernel.network.reconcile_allowlist(&prefixes).expect("reconciled");
    assert_eq!(again, Changes::default());
}

#[test]
fn a_second_loader_adopts_the_maps_and_renews_the_guards() {
    if !need::root() {
        return;
    }
    let board = Pinboard::reserve().expect("a folder");
    let load = |guards: &[&str]| {
        let guards = guards.iter().map(|text| text.parse().expect("a prefix")).collect();
        attach(board.pins(), &AttachOptions { guards, ..detached() }).expect("loaded");
    };
    load(&["10.0.0.0/8"]);
    let mut network = Network::open(board.pins()).expect("open");
    network.block(v4(1), FOR_EVER).expect("banned");
    let identity = board.pins().identity();
    load(&["172.16.0.0/12"]);
    assert_eq!(board.pins().identity(), identity, "the same maps");
    let reopened = Network::open(board.pins()).expect("open");
    assert_eq!(reopened.bans().get(v4(1)).expect("read"), Some(FOR_EVER));
    // Not even the first opener was cut off.
    network.block(v4(2), FOR_EVER).expect("banned");
    assert_eq!(reopened.bans().get(v4(2)).expect("read"), Some(FOR_EVER));
    drop(AllowMaps::open_guards(board.pins()).expect("the guards are there"));
    let guards = v4_prefixes(&board.pins().map("GUARD_V4")).expect("read");
    assert_eq!(guards, [prefix([172, 16, 0, 0].into(), 12)]);
}

fn prefix(ip: IpAddr, length: u8) -> IpNet {
    IpNet::new(ip, length).expect("lengths fit")
}

/// Few values, so that one set's members are often in the next one, too.
fn any_exact() -> impl Strategy<Value = Prefix> {
    prop_oneof![
        (0..12_u8).prop_map(v4),
        (0..12_u16).prop_map(v6),
        (0..12_u16).prop_map(host),
        any::<u32>().prop_map(Prefix::from_v4),
        // An IPv4-mapped address is an IPv4 address.
        (any::<u128>(), prop_oneof![Just(64), Just(128)])
            .prop_map(|(bits, width)| Prefix::around(Ipv6Addr::from(bits).into(), width)),
    ]
}

fn any_entry() -> impl Strategy<Value = BanEntry> {
    let seconds = (0..5_u64).prop_map(|seconds| seconds * 1_000_000_000);
    prop_oneof![seconds, Just(BanEntry::NEVER), any::<u64>()]
        .prop_map(|expires_at_ns| BanEntry { expires_at_ns })
}

fn any_prefix() -> impl Strategy<Value = IpNet> {
    let v4 = (prop_oneof![Just(0xc633_6400_u32), any::<u32>()], 0..=32_u8)
        .prop_map(|(bits, length)| IpNet::V4(Ipv4Net::new_assert(bits.into(), length).trunc()));
    let v6 = (prop_oneof![Just(0x2001_0db8_u128 << 96), any::<u128>()], 0..=128_u8)
        .prop_map(|(bits, length)| IpNet::V6(Ipv6Net::new_assert(bits.into(), length).trunc()));
    prop_oneof![v4, v6]
}

#[test]
fn reconciling_makes_the_kernel_hold_what_is_wanted_and_touches_nothing_else() {
    let Some(kernel) = kernel() else { return };
    let (kernel, seen) = (RefCell::new(kernel), RefCell::new(Changes::default()));
    let sets = (hash_map(any_exact(), any_entry(), 0..40), btree_set(any_prefix(), 0..20));
    runner(300)
        .run(&sets, |(wanted, allowed)| {
            let mut kernel = kernel.borrow_mut();
            let wanted: Desired = wanted.into_iter().collect();
            let before = kernel.network.bans().all().expect("read");
            let allowed: Vec<_> = allowed.into_iter().collect();
            let missing = allowed_prefixes(&kernel, &allowed).expect("read");
            let changes =
                kernel.network.reconcile(wanted.clone(), &allowed).result.expect("reconciled");
            let after = kernel.network.bans().all().expect("read");
            prop_assert_eq!(changes, difference(&before, &wanted) + missing);
            prop_assert_eq!(&after, &settled(&before, &wanted));
            prop_assert_eq!(allowed_prefixes(&kernel, &allowed).expect("read"), Changes::default());
            let again = kernel.network.reconcile(wanted, &allowed).result.expect("reconciled");
            prop_assert_eq!(again, Changes::default());
            let total = *seen.borrow();
            *seen.borrow_mut() = total + changes;
            Ok(())
        })
        .expect("the property holds");
    let Changes { added, updated, removed } = seen.into_inner();
    assert!(added > 0 && updated > 0 && removed > 0, "the sets did overlap");
}

const TOLERANCE_NS: u64 = 500_000_000;

fn is_settled(old: BanEntry, new: BanEntry) -> bool {
    old.expires_at_ns.abs_diff(new.expires_at_ns) <= TOLERANCE_NS
}

fn difference(before: &Desired, wanted: &Desired) -> Changes {
    let is_updated = |(prefix, entry): &(Prefix, BanEntry)| {
        before.get(*prefix).is_some_and(|old| !is_settled(old, *entry))
    };
    let not_in = |one: &Desired, other: &Desired| {
        one.iter().filter(|(prefix, _)| other.get(*prefix).is_none()).count()
    };
    Changes {
        added: not_in(wanted, before),
        updated: wanted.iter().filter(is_updated).count(),
        removed: not_in(before, wanted),
    }
}

/// What is wanted, but with the old expiry where that is near enough: such an
/// entry must not have been written.
fn settled(before: &Desired, wanted: &Desired) -> Desired {
    let settle = |(prefix, entry): (Prefix, BanEntry)| {
        let old = before.get(prefix).filter(|old| is_settled(*old, entry));
        (prefix, old.unwrap_or(entry))
    };
    wanted.iter().map(settle).collect()
}

/// How far the kernel's allowlist is from `wanted`.
fn allowed_prefixes(kernel: &Kernel, wanted: &[IpNet]) -> Result<Changes> {
    let mut present = v4_prefixes(&kernel.pins().map(ALLOW_V4))?;
    present.extend(v6_prefixes(&kernel.pins().map(ALLOW_V6))?);
    let added = wanted.iter().filter(|prefix| !present.contains(prefix)).count();
    let removed = present.iter().filter(|prefix| !wanted.contains(prefix)).count();
    Ok(Changes { added, updated: 0, removed })
}

fn v4_prefixes(pin: &Path) -> Result<Vec<IpNet>> {
    let trie = LpmTrie::<_, [u8; 4], u32>::try_from(Map::LpmTrie(MapData::from_pin(pin)?))?;
    let prefixes = trie.keys().map(|key| {
        let key = key?;
        Ok(prefix(key.data().into(), u8::try_from(key.prefix_len())?))
    });
    prefixes.collect()
}

fn v6_prefixes(pin: &Path) -> Result<Vec<IpNet>> {
    let trie = LpmTrie::<_, [u8; 16], u32>::try_from(Map::LpmTrie(MapData::from_pin(pin)?))?;
    let prefixes = trie.keys().map(|key| {
        let key = key?;
        Ok(prefix(key.data().into(), u8::try_from(key.prefix_len())?))
    });
    prefixes.collect()
}
