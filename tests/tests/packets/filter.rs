//! The prefilter's invariant: every key of the exact maps passes the bitmap,
//! whatever was done in whatever order, or a ban is silently without effect.
//! And its other half: what is gone leaves no bit behind.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData};
use ipnet::IpNet;
use moderation_common::map::{BANS_HOST, BANS_V4, BANS_V6, FILTER, SEEDS};
use moderation_common::{
    BanEntry, FILTER_BITS, Place, Reason, Seeds, Source, filter_mask, filter_words, v4_key,
};
use moderation_daemon::clock;
use moderation_daemon::engine::Prefix;
use moderation_daemon::network::{
    AttachOptions, Desired, Network, NetworkError, filter_bits, verify,
};
use moderation_tests::frame::{Frame, SOURCE_V4, SOURCE_V6, Transport};
use moderation_tests::kernel::{Kernel, detached};
use proptest::collection::{btree_map, vec};
use proptest::prelude::{Just, Strategy};
use proptest::sample::select;
use proptest::{prop_assert, prop_assert_eq, prop_oneof};

use crate::{FOR_EVER, HOUR_NS, kernel_with, prefix, runner};

/// One of the things that can happen to the maps.
#[derive(Clone, Debug)]
enum Step {
    Block(Prefix, u64),
    Unblock(Prefix),
    Reconcile(BTreeMap<Prefix, u64>),
    /// The daemon stops or dies, and another one starts and compares.
    Restart,
    /// The daemon starts and does not get further than opening the maps.
    Reopen,
    /// Another loader, as at an upgrade.
    Reload,
    /// A look through the maps.
    Sweep,
}

/// So many exact bans fit, in a bitmap of 512 bits: collisions are the rule.
const ROOM: u32 = 16;

fn small() -> AttachOptions {
    AttachOptions { max_bans: ROOM, max_networks: 8, ..detached() }
}

fn universe() -> Vec<Prefix> {
    let v4 = (0..10_u8).map(|last| format!("198.51.100.{last}"));
    let v6 = (0..8_u8).map(|last| format!("2001:db8:5:{last}::/64"));
    let hosts = (0..8_u8).map(|last| format!("2001:db8:5:{}::{last}/128", last % 4));
    let nets = ["198.51.100.0/29", "198.51.100.0/24", "198.51.100.4/31", "2001:db8:5::/63"];
    let wide = ["198.0.0.0/8", "2001:db8::/32", "2001:db8:5:2::/65"];
    let nets = nets.into_iter().chain(wide).map(str::to_owned);
    v4.chain(v6).chain(hosts).chain(nets).map(|text| prefix(&text)).collect()
}

/// Long past, or far enough apart that none is taken for another.
fn any_expiry() -> impl Strategy<Value = u64> {
    let now = clock::boot_ns();
    select(vec![1, now + HOUR_NS, now + 2 * HOUR_NS, BanEntry::NEVER])
}

fn any_step() -> impl Strategy<Value = Step> {
    let some = || select(universe());
    prop_oneof![
        16 => (some(), any_expiry()).prop_map(|(prefix, expiry)| Step::Block(prefix, expiry)),
        10 => some().prop_map(Step::Unblock),
        4 => btree_map(some(), any_expiry(), 0..24).prop_map(Step::Reconcile),
        2 => Just(Step::Restart),
        2 => Just(Step::Reopen),
        1 => Just(Step::Reload),
        2 => Just(Step::Sweep),
    ]
}

/// What the maps should hold.
#[derive(Debug, Default)]
struct Model {
    bans: BTreeMap<Prefix, u64>,
    /// Reopened, but not compared since: blocks may hold as long as those
    /// around them did.
    is_vague: bool,
}

impl Model {
    fn exact(&self) -> usize {
        self.bans.keys().filter(|prefix| prefix.is_exact()).count()
    }

    fn desired(&self) -> Desired {
        let entries = self.bans.iter();
        entries.map(|(prefix, expiry)| (*prefix, entry(*expiry))).collect()
    }

    fn drops(&self, ip: IpAddr) -> bool {
        let now = clock::boot_ns();
        self.bans.iter().any(|(prefix, expiry)| prefix.contains(ip) && *expiry > now)
    }
}

const fn entry(expires_at_ns: u64) -> BanEntry {
    BanEntry { expires_at_ns }
}

fn apply(kernel: &mut Kernel, model: &mut Model, step: Step) {
    match step {
        Step::Block(prefix, expiry) => block(kernel, model, prefix, expiry),
        Step::Unblock(prefix) => {
            kernel.network.unblock(prefix).expect("unblocked");
            model.bans.remove(&prefix);
        }
        Step::Reconcile(bans) => {
            model.bans = bans;
            // No more than fit: what happens then is another test's.
            while model.exact() > ROOM as usize {
                let last = model.bans.keys().rfind(|prefix| prefix.is_exact()).copied();
                model.bans.remove(&last.expect("there are too many"));
            }
            compare(kernel, model);
        }
        Step::Restart => {
            kernel.reopen().expect("opened");
            compare(kernel, model);
        }
        Step::Reopen => {
            kernel.reopen().expect("opened");
            assert_eq!(kernel.network.hidden_at_open(), 0);
            model.is_vague = true;
        }
        Step::Reload => kernel.reload(&small()).expect("loaded"),
        Step::Sweep => sweep(kernel, model),
    }
}

fn block(kernel: &mut Kernel, model: &mut Model, prefix: Prefix, expiry: u64) {
    let fits =
        !prefix.is_exact() || model.bans.contains_key(&prefix) || model.exact() < ROOM as usize;
    match kernel.network.block(prefix, entry(expiry)) {
        Ok(()) => {
            assert!(fits, "{prefix} cannot have fitted");
            model.bans.insert(prefix, expiry);
        }
        Err(NetworkError::Full { capacity: ROOM }) => assert!(!fits, "{prefix} would have fitted"),
        Err(error) => panic!("{prefix}: {error}"),
    }
}

fn compare(kernel: &mut Kernel, model: &mut Model) {
    let reconciled = kernel.network.reconcile(model.desired(), &[]);
    reconciled.result.expect("reconciled");
    assert!(reconciled.failed.is_empty());
    model.is_vague = false;
}

fn sweep(kernel: &mut Kernel, model: &Model) {
    let mut sweep = kernel.network.sweep();
    let swept = loop {
        let wanted = |prefix| model.bans.get(&prefix).copied().map(entry);
        if let Some(swept) = kernel.network.sweep_on(&mut sweep, wanted).expect("swept") {
            break swept;
        }
    };
    assert_eq!((swept.changes.drift(), swept.hidden, swept.has_losses), (0, 0, false));
}

/// The invariant, and what it is for.
fn check(kernel: &Kernel, model: &Model, addresses: &[IpAddr]) -> Result<(), String> {
    let verified = verify(kernel.pins()).map_err(|error| error.to_string())?;
    if (verified.hidden, verified.switched_off) != (0, 0) || verified.entries != model.exact() {
        return Err(format!("{verified:?}, and there should be {}", model.exact()));
    }
    let bits = filter_bits(kernel.pins()).map_err(|error| error.to_string())?;
    if bits > FILTER_BITS * model.exact() {
        return Err(format!("{bits} bits for {} entries", model.exact()));
    }
    for ip in addresses {
        let dropped = kernel.drops(&frame_from(*ip)).map_err(|error| error.to_string())?;
        let expected = model.drops(*ip);
        if dropped != expected && !(dropped && model.is_vague) {
            return Err(format!("{ip} was dropped: {dropped}; should be: {expected}"));
        }
    }
    Ok(())
}

fn frame_from(ip: IpAddr) -> Vec<u8> {
    let frame = match ip {
        IpAddr::V4(ip) => Frame::from_v4(ip),
        IpAddr::V6(ip) => Frame::from_v6(ip),
    };
    frame.carrying(Transport::Udp).bytes()
}

/// One in each prefix of the universe, the first, and the last.
fn addresses() -> Vec<IpAddr> {
    let both = universe().into_iter().flat_map(|prefix| match prefix.net() {
        IpNet::V4(net) => [IpAddr::from(net.network()), net.broadcast().into()],
        IpNet::V6(net) => [IpAddr::from(net.network()), net.broadcast().into()],
    });
    both.collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn whatever_happens_in_whatever_order_exactly_the_banned_are_dropped() {
    let Some(kernel) = kernel_with(&small()) else { return };
    let (kernel, addresses) = (RefCell::new(kernel), addresses());
    runner(80)
        .run(&vec(any_step(), 1..40), |steps| {
            let mut kernel = kernel.borrow_mut();
            let mut model = Model::default();
            for step in steps {
                let text = format!("{step:?}");
                apply(&mut kernel, &mut model, step);
                let checked = check(&kernel, &model, &addresses);
                prop_assert!(checked.is_ok(), "{checked:?} after {text}");
            }
            for prefix in std::mem::take(&mut model.bans).into_keys() {
                kernel.network.unblock(prefix).expect("unblocked");
            }
            prop_assert_eq!(filter_bits(kernel.pins()).expect("read"), 0, "a bit is left over");
            Ok(())
        })
        .expect("the invariant holds");
}

/// As somebody else's hand in the maps would.
fn insert_by_hand(kernel: &Kernel, source: u32) {
    let mut map: BpfHashMap<_, u32, u64> = open_v4(kernel);
    map.insert(source, BanEntry::NEVER, 0).expect("inserted");
}

fn open_v4(kernel: &Kernel) -> BpfHashMap<MapData, u32, u64> {
    let data = MapData::from_pin(kernel.pins().map(BANS_V4)).expect("it is pinned");
    BpfHashMap::try_from(Map::HashMap(data)).expect("it is a hash")
}

fn clear_bitmap(kernel: &Kernel) {
    let data = MapData::from_pin(kernel.pins().map(FILTER)).expect("it is pinned");
    let mut words: Array<_, u64> = Array::try_from(Map::Array(data)).expect("it is an array");
    for index in 0..words.len() {
        words.set(index, 0, 0).expect("written");
    }
}

#[test]
fn a_bitmap_that_was_zeroed_by_hand_is_reported_and_mended_at_the_next_start() {
    let Some(mut kernel) = kernel_with(&detached()) else { return };
    let bans = ["198.51.100.5", "2001:db8:5:5::/64", "2001:db8:6::1/128"];
    for ban in bans {
        kernel.ban_prefix(prefix(ban), BanEntry::NEVER).expect("banned");
    }
    clear_bitmap(&kernel);
    assert_eq!(kernel.judge(&Frame::default().bytes()).expect("judged"), Reason::Pass);
    let verified = verify(kernel.pins()).expect("read");
    assert_eq!((verified.entries, verified.hidden), (3, 3));
    kernel.reopen().expect("opened");
    assert_eq!(kernel.network.hidden_at_open(), 3);
    assert_eq!(verify(kernel.pins()).expect("read").hidden, 0);
    assert_eq!(kernel.judge(&Frame::default().bytes()).expect("judged"), Reason::BanV4);
    assert_eq!(kernel.judge(&Frame::v6().bytes()).expect("judged"), Reason::BanV6);
    kernel.reopen().expect("opened");
    assert_eq!(kernel.network.hidden_at_open(), 0);
}

#[test]
fn a_bitmap_that_was_zeroed_under_a_running_daemon_is_mended_by_its_next_look() {
    for whole in [true, false] {
        let Some(mut kernel) = kernel_with(&detached()) else { return };
        kernel.ban(SOURCE_V4).expect("banned");
        kernel.ban(SOURCE_V6).expect("banned");
        clear_bitmap(&kernel);
        let bans = kernel.network.bans().all().expect("read");
        if whole {
            kernel.network.reconcile(bans, &[]).result.expect("reconciled");
        } else {
            let mut sweep = kernel.network.sweep();
            let swept = loop {
                let swept = kernel.network.sweep_on(&mut sweep, |prefix| bans.get(prefix));
                if let Some(swept) = swept.expect("swept") {
                    break swept;
                }
            };
            assert_eq!(swept.hidden, 2);
            assert!(swept.has_losses, "the counts are no longer right");
        }
        assert_eq!(verify(kernel.pins()).expect("read").hidden, 0);
        assert_eq!(kernel.judge(&Frame::default().bytes()).expect("judged"), Reason::BanV4);
    }
}

/// A key one of whose bits is another's and one nobody's: whoever took it for
/// his own would take the bit from that other one when it goes.
fn colliding(kernel: &Kernel, banned: &[u32]) -> u32 {
    let data = MapData::from_pin(kernel.pins().map(SEEDS)).expect("they are pinned");
    let map: Array<_, [u64; 2]> = Array::try_from(Map::Array(data)).expect("it is an array");
    let [a, b] = map.get(&0, 0).expect("read");
    let mask = filter_mask(filter_words(ROOM));
    let place = |key: u32| Place::first(Seeds { a, b }.hash(Source::V4(key)), mask);
    let shared = |foreign: Place| {
        let near = banned.iter().map(|key| place(*key)).filter(|near| near.word == foreign.word);
        near.fold(0, |bits, near| bits | near.bits()) & foreign.bits()
    };
    let collides = |key: &u32| {
        let foreign = place(*key);
        foreign.bits().count_ones() == 2 && shared(foreign).count_ones() == 1
    };
    (0..u32::MAX).find(collides).expect("one of them all does")
}

#[test]
fn an_entry_of_somebody_elses_hand_takes_no_bit_with_it_when_it_goes() {
    let banned: Vec<u32> = (1..12_u8).map(|last| v4_key([198, 51, 100, last].into())).collect();
    let ways: [fn(&mut Kernel, &Desired, Prefix); 3] = [
        |kernel, wanted, _| {
            kernel.network.reconcile(wanted.clone(), &[]).result.expect("reconciled");
        },
        |kernel, wanted, _| {
            let mut sweep = kernel.network.sweep();
            let wanted = |prefix| wanted.get(prefix);
            while kernel.network.sweep_on(&mut sweep, wanted).expect("swept").is_none() {}
        },
        |kernel, _, foreign| kernel.network.unblock(foreign).expect("unblocked"),
    ];
    for (number, way) in ways.into_iter().enumerate() {
        let Some(mut kernel) = kernel_with(&small()) else { return };
        for key in &banned {
            kernel.ban(IpAddr::from(key.to_ne_bytes())).expect("banned");
        }
        let wanted = kernel.network.bans().all().expect("read");
        let foreign = colliding(&kernel, &banned);
        insert_by_hand(&kernel, foreign);
        way(&mut kernel, &wanted, Prefix::around(IpAddr::from(foreign.to_ne_bytes()), 64));
        let verified = verify(kernel.pins()).expect("read");
        assert_eq!((verified.entries, verified.hidden), (banned.len(), 0), "way {number}");
    }
}

#[test]
fn a_ban_on_what_somebody_else_has_put_there_is_in_force() {
    let Some(mut kernel) = kernel_with(&small()) else { return };
    insert_by_hand(&kernel, v4_key(SOURCE_V4));
    let frame = Frame::default().bytes();
    assert_eq!(kernel.judge(&frame).expect("judged"), Reason::Pass, "hidden, as nobody knows");
    kernel.ban(SOURCE_V4).expect("banned");
    assert_eq!(kernel.judge(&frame).expect("judged"), Reason::BanV4);
    assert_eq!(kernel.network.fill().exact, 1);
    kernel.network.unblock(prefix("198.51.100.5")).expect("unblocked");
    assert_eq!(kernel.judge(&frame).expect("judged"), Reason::Pass);
    assert_eq!(filter_bits(kernel.pins()).expect("read"), 0);
    assert_eq!(kernel.network.fill().exact, 0);
}

#[test]
fn entries_that_vanish_leave_bits_behind_only_until_the_next_whole_look() {
    let Some(mut kernel) = kernel_with(&small()) else { return };
    for last in 1..=9_u8 {
        kernel.ban(IpAddr::from([198, 51, 100, last])).expect("banned");
    }
    let wanted = kernel.network.bans().all().expect("read");
    for round in 0..300 {
        let mut map = open_v4(&kernel);
        for last in 1..=9_u8 {
            map.remove(&v4_key([198, 51, 100, last].into())).expect("it was there");
        }
        let result = kernel.network.reconcile(wanted.clone(), &[]).result;
        assert_eq!(result.expect("reconciled").added, 9, "round {round}");
        assert_eq!(kernel.network.fill().exact, 9);
    }
    kernel.network.reconcile(Desired::default(), &[]).result.expect("reconciled");
    assert_eq!(filter_bits(kernel.pins()).expect("read"), 0);
}

#[test]
fn counters_that_are_full_stay_so_until_all_keys_are_looked_at_again() {
    const MANY: u32 = 100_000;
    let Some(mut kernel) = kernel_with(&small()) else { return };
    // Larger maps behind the small bitmap: some four hundred keys a bit.
    for name in [BANS_V4, BANS_V6, BANS_HOST] {
        fs::remove_file(kernel.pins().map(name)).expect("unpinned");
    }
    kernel.reload(&AttachOptions { max_bans: MANY, ..small() }).expect("loaded");
    kernel.reopen().expect("opened");
    let bans = |range: std::ops::Range<u32>| -> Desired {
        range.map(|key| (Prefix::from_v4(0x2000_0000 + key), FOR_EVER)).collect()
    };
    kernel.network.reconcile(bans(0..MANY), &[]).result.expect("they fit");
    let all_bits = filter_words(ROOM) as usize * 64;
    assert_eq!(filter_bits(kernel.pins()).expect("read"), all_bits, "every bit is needed");
    for key in 100..MANY {
        kernel.network.unblock(Prefix::from_v4(0x2000_0000 + key)).expect("unblocked");
    }
    let verified = verify(kernel.pins()).expect("read");
    assert_eq!((verified.entries, verified.hidden), (100, 0));
    assert_eq!(filter_bits(kernel.pins()).expect("read"), all_bits, "nobody knows how many");
    kernel.network.reconcile(bans(0..100), &[]).result.expect("reconciled");
    assert!(filter_bits(kernel.pins()).expect("read") <= 100 * FILTER_BITS);
    kernel.network.reconcile(Desired::default(), &[]).result.expect("reconciled");
    assert_eq!(filter_bits(kernel.pins()).expect("read"), 0);
}

#[test]
fn two_daemons_at_once_hide_nothing_that_both_have_banned() {
    // Not meant to be, but a late one of an upgrade may still be at work.
    let Some(mut kernel) = kernel_with(&small()) else { return };
    let mut late = Network::open(kernel.pins()).expect("opened");
    kernel.ban(SOURCE_V4).expect("banned");
    late.block(prefix("198.51.100.5"), FOR_EVER).expect("banned");
    late.block(prefix("198.51.100.6"), FOR_EVER).expect("banned");
    let verified = verify(kernel.pins()).expect("read");
    assert_eq!((verified.entries, verified.hidden), (2, 0));
}
