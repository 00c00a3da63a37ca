//! Which keys have a place, and until when.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::engine::{Rules, Unit};

fn names(count: usize) -> Vec<Key> {
    (0..count).map(|number| key(&format!("user {number}"))).collect()
}

proptest! {
    /// Whatever comes and goes, each key has what it counted and nobody else's.
    #[test]
    fn every_key_keeps_its_own_count(
        steps in prop::collection::vec((0_usize..600, 0_u8..10, 0_u64..900), 1..1_500),
    ) {
        let keys = names(600);
        let mut windows = windows(Shape::Fixed { window_ms: 60_000 });
        let mut model: HashMap<Key, (u64, u64)> = HashMap::new();
        let mut now = BOOT_MS;
        for (number, act, wait) in steps {
            now += wait;
            let key = keys[number];
            match act {
                0 => {
                    windows.forget(key);
                    model.remove(&key);
                }
                1 => windows.sweep(now),
                _ => {
                    windows.charge(&charge(key, 1, now));
                    let (hits, ends) = model.entry(key).or_insert((0, 0));
                    if *ends <= now {
                        (*hits, *ends) = (0, now + 60_000);
                    }
                    *hits += 1;
                }
            }
        }
        for key in keys {
            let want = model.get(&key).filter(|(_, ends)| *ends > now).map_or(0, |(hits, _)| *hits);
            prop_assert_eq!(windows.usage(key, 0, now).used, want);
        }
        prop_assert!(windows.len() <= model.len());
        windows.sweep(now + 60_000 + SWEEP_MS);
        prop_assert_eq!(windows.len(), 0);
    }
}

#[test]
fn a_sweep_takes_what_is_over_within_a_minute_and_nothing_else() {
    for shape in SHAPES {
        let mut windows = Windows::of(vec![(LIMITER, shape)], 1_000_000);
        let keys = names(2_000);
        let (old, fresh) = keys.split_at(1_600);
        let now = BOOT_MS + 10 * (shape.window_ms() + shape.slack_ms());
        windows.sweep(BOOT_MS);
        for key in old {
            windows.charge(&charge(*key, 1, BOOT_MS));
        }
        for key in fresh {
            windows.charge(&charge(*key, 1, now + SWEEP_MS));
        }
        windows.swept_at_boot_ms = Some(now);
        for second in 1..=60 {
            windows.sweep(now + second * 1_000);
        }
        assert_eq!(windows.len(), fresh.len(), "{shape:?}");
        assert!(fresh.iter().all(|key| windows.usage(*key, 0, now + SWEEP_MS).used > 0));
    }
}

#[test]
fn a_sweep_looks_at_a_share_of_the_keys_only() {
    let mut windows = Windows::of(vec![(LIMITER, SHAPES[0])], 1_000_000);
    for key in names(6_000) {
        windows.charge(&charge(key, 1, BOOT_MS));
    }
    windows.swept_at_boot_ms = Some(BOOT_MS + 60_000);
    windows.sweep(BOOT_MS + 61_000);
    assert_eq!(windows.len(), 5_900);
    windows.bound = 6_800;
    windows.sweep(BOOT_MS + 62_000);
    assert_eq!(windows.len(), 5_800, "there is room as long as an eighth is free");
    windows.bound = 6_000;
    windows.sweep(BOOT_MS + 63_000);
    assert!(windows.len() < 4_500, "it hurries when there is little room");
}

#[test]
fn a_window_is_swept_away_when_the_last_of_it_is_free_and_not_before() {
    for shape in SHAPES {
        let mut windows = windows(shape);
        windows.charge(&charge(key("anna"), 1, BOOT_MS));
        let over = windows.usage(key("anna"), 0, BOOT_MS).frees_at_boot_ms;
        for (now, left) in [(over - 1, 1), (over, 0)] {
            windows.swept_at_boot_ms = None;
            windows.sweep(now);
            assert_eq!(windows.len(), left, "{shape:?} at {now}");
        }
    }
}

#[test]
fn what_an_attack_made_grow_does_not_stay_grown() {
    let mut windows = Windows::of(vec![(LIMITER, SHAPES[0])], 1_000_000);
    for key in names(100_000) {
        windows.charge(&charge(key, 1, BOOT_MS));
    }
    let grown = windows.small.capacity();
    windows.sweep(BOOT_MS + 60_000 + SWEEP_MS);
    assert_eq!(windows.len(), 0);
    let left = windows.small.capacity();
    assert!(left.0 <= grown.0 / 8 && left.1 == 0, "{grown:?} to {left:?}");
}

#[test]
fn the_index_has_no_more_places_than_it_needs() {
    let mut windows = Windows::of(vec![(LIMITER, SHAPES[0])], 1_000_000);
    for key in names(20_000) {
        windows.charge(&charge(key, 1, BOOT_MS));
    }
    // Each part is filled to three quarters, and then has twice as many.
    let (places, _) = windows.small.capacity();
    assert!(places <= 20_000 * 8 / 3, "{places}");
}

#[test]
fn only_few_events_are_logged_one_by_one() {
    let rules = Rules::hardened();
    let cases = [
        (Unit::Events, 49, true),
        (Unit::Events, 50, false),
        (Unit::Bytes, 1, false),
        (Unit::Tokens, 49, false),
    ];
    for (unit, max, is_logged) in cases {
        let mut rule = rules.limiters[0].clone();
        (rule.unit, rule.limit.max, rule.is_tiered) = (unit, max, false);
        let shape = Shape::of(&rule, &Rules { adaptive: None, ..rules.clone() });
        assert_eq!(matches!(shape, Shape::Log { .. }), is_logged, "{max} {unit:?}: {shape:?}");
    }
}

#[test]
fn keys_are_spread_over_the_parts_of_the_index() {
    let mut windows = Windows::of(vec![(LIMITER, SHAPES[0])], 1_000_000);
    for key in names(25_600) {
        windows.charge(&charge(key, 1, BOOT_MS));
    }
    let longest = windows.small.longest_shard();
    assert!(longest < 160, "100 on average, {longest} in one");
}

#[test]
fn sums_are_as_short_as_tell_the_limit_and_one_more_so_that_pieces_are_many() {
    let pieces = [(1, 95), (254, 95), (255, 47), (65_534, 47), (65_535, 23), (u64::MAX, 23)];
    for (max, pieces) in pieces {
        let plan = Shape::Buckets { window_ms: 60_000, max }.plan();
        assert_eq!(plan.measure.step(), 60_000_u64.div_ceil(pieces), "up to {max}");
    }
}
