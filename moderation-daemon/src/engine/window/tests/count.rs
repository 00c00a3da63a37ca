//! Counting beside a list of everything that ever happened.

use proptest::prelude::*;

use super::*;

/// Everything that counted for one key, and when.
#[derive(Clone, Debug, Default)]
struct List(Vec<(u64, u64)>);

impl List {
    fn used(&self, window_ms: u64, now: u64) -> u64 {
        let counts = |(at, _): &&(u64, u64)| at + window_ms > now;
        self.0.iter().filter(counts).map(|(_, cost)| cost).sum()
    }

    fn frees_at(&self, window_ms: u64, now: u64) -> u64 {
        let oldest = self.0.iter().map(|(at, _)| at + window_ms).filter(|end| *end > now).min();
        oldest.unwrap_or(now + window_ms)
    }
}

/// Time that passes before an event: where windows, ticks and pieces end, where
/// numbers of 16 and of 32 bits begin anew, nothing, and much.
fn any_wait(window_ms: u64) -> impl Strategy<Value = u64> {
    let odd = vec![
        0,
        0,
        0,
        1,
        window_ms - 1,
        window_ms,
        window_ms + 1,
        window_ms / 95,
        window_ms / 2,
        2 * window_ms + 3,
        1 << 16,
        (1 << 16) - 1,
        (1 << 32) - 1,
        (1 << 32) - window_ms,
        (1 << 32) + window_ms / 2,
    ];
    prop_oneof![prop::sample::select(odd), 0..window_ms / 8 + 1, 0..window_ms / 64 + 1]
}

fn any_shape() -> impl Strategy<Value = Shape> {
    prop::sample::select(SHAPES.to_vec())
}

/// A shape, its limit, and a trace of waits and costs.
fn any_trace() -> impl Strategy<Value = (Shape, u64, Vec<(u64, u64)>)> {
    any_shape().prop_flat_map(|shape| {
        let max = match shape {
            Shape::Fixed { .. } => 9,
            Shape::Log { max, .. } | Shape::Buckets { max, .. } => max,
        };
        let large = (max / 3).max(1);
        let cost = prop_oneof![8 => Just(1_u64), 1 => 1..=3_u64, 2 => 1..=large, 1 => Just(max)];
        let step = (any_wait(shape.window_ms()), cost);
        (Just(shape), 1..=max, prop::collection::vec(step, 1..150))
    })
}

proptest! {
    /// What is let through never exceeds the limit, in whichever window.
    #[test]
    fn no_window_lets_more_through_than_the_limit((shape, max, trace) in any_trace()) {
        let is_sliding = !matches!(shape, Shape::Fixed { .. });
        let (mut windows, mut passed) = (windows(shape), List::default());
        let mut now = BOOT_MS;
        for (wait, cost) in trace {
            now += wait;
            let usage = windows.usage(key("anna"), 0, now);
            if usage.used + cost <= max {
                windows.charge(&charge(key("anna"), cost, now));
                passed.0.push((now, cost));
            }
            if is_sliding {
                let used = passed.used(shape.window_ms(), now);
                prop_assert!(used <= max, "{used} of {max} in one window");
                prop_assert!(windows.usage(key("anna"), 0, now).used >= used);
            }
        }
    }

    /// Nor is anybody held back for longer than a tick or a piece.
    #[test]
    fn what_has_left_the_window_by_more_than_a_step_does_not_count((shape, max, trace) in any_trace()) {
        prop_assume!(!matches!(shape, Shape::Fixed { .. }));
        let (mut windows, mut passed) = (windows(shape), List::default());
        let (window_ms, slack_ms) = (shape.window_ms(), shape.slack_ms());
        let mut now = BOOT_MS;
        for (wait, cost) in trace {
            now += wait;
            let usage = windows.usage(key("anna"), 0, now);
            let rounding = if shape.is_rounded() { 24 * 150 } else { 0 };
            prop_assert!(usage.used <= passed.used(window_ms + slack_ms, now) + rounding);
            if slack_ms == 0 && !shape.is_rounded() {
                prop_assert_eq!(usage.used, passed.used(window_ms, now));
                prop_assert_eq!(usage.frees_at_boot_ms, passed.frees_at(window_ms, now));
            }
            if usage.used + cost <= max {
                windows.charge(&charge(key("anna"), cost, now));
                passed.0.push((now, cost));
            }
        }
    }

    /// The moment at which something is free again is told to the millisecond.
    #[test]
    fn something_is_free_again_when_it_was_said_and_not_before((shape, max, trace) in any_trace()) {
        let mut windows = windows(shape);
        let mut now = BOOT_MS;
        for (wait, cost) in trace {
            now += wait;
            let Usage { used, frees_at_boot_ms } = windows.usage(key("anna"), 0, now);
            prop_assert!(frees_at_boot_ms > now);
            prop_assert!(frees_at_boot_ms <= now + shape.window_ms() + shape.slack_ms());
            if used > 0 {
                prop_assert_eq!(windows.usage(key("anna"), 0, frees_at_boot_ms - 1).used, used);
                prop_assert!(windows.usage(key("anna"), 0, frees_at_boot_ms).used < used);
            }
            if used + cost <= max {
                windows.charge(&charge(key("anna"), cost, now));
            }
        }
    }

    /// Rejected events count too if somebody wants that: whoever goes on without a
    /// pause is never let in again, whatever had to be forgotten of him.
    #[test]
    fn rejected_events_can_count_like_others((shape, max, trace) in any_trace()) {
        prop_assume!(shape.slack_ms() == 0 && !shape.is_rounded());
        prop_assume!(!matches!(shape, Shape::Fixed { .. }));
        let (mut windows, mut all) = (windows(shape), List::default());
        let mut now = BOOT_MS;
        for (wait, cost) in trace {
            now += wait;
            let cost = cost.min(max);
            let used = all.used(shape.window_ms(), now);
            prop_assert_eq!(windows.usage(key("anna"), 0, now).used.min(max), used.min(max));
            windows.charge(&charge(key("anna"), cost, now));
            all.0.push((now, cost));
        }
    }

    /// A charge that is taken back was never made, also when others came between.
    #[test]
    fn a_refund_undoes_a_charge((shape, max, trace) in any_trace(), index in any::<prop::sample::Index>()) {
        let (mut with, mut without) = (windows(shape), windows(shape));
        let index = index.index(trace.len());
        let (mut now, mut refunded) = (BOOT_MS, None);
        for (position, (wait, cost)) in trace.into_iter().enumerate() {
            // A refund comes while the charge counts, from the same boot.
            now += wait % shape.window_ms();
            let (key, cost) = (key("anna"), cost.min(max));
            let charge = charge(key, cost, now);
            if with.usage(key, 0, now).used + cost > max {
                continue;
            }
            with.charge(&charge);
            if position == index {
                refunded = Some(charge);
            } else {
                without.charge(&charge);
            }
        }
        let Some(charge) = refunded else { return Ok(()) };
        let counted = with.counts(&charge, now);
        with.refund(&charge);
        if let Shape::Fixed { .. } = shape {
            // A window begins with its first event, also if that was taken back.
            prop_assume!(with.usage(key("anna"), 0, now).used > 0);
            prop_assume!(with.usage(key("anna"), 0, now).frees_at_boot_ms
                == without.usage(key("anna"), 0, now).frees_at_boot_ms);
        }
        prop_assert_eq!(with.usage(key("anna"), 0, now), without.usage(key("anna"), 0, now));
        prop_assert!(!with.counts(&charge, now) || !counted || with.usage(key("anna"), 0, now).used > 0);
    }

    /// To charge within a limit is to look, and to charge if it is within. What costs
    /// nothing changes nothing, and needs a window to be asked at once.
    #[test]
    fn to_charge_within_a_limit_is_to_look_and_then_to_charge((shape, max, trace) in any_trace()) {
        let (mut at_once, mut apart) = (windows(shape), windows(shape));
        let (key, mut now) = (key("anna"), BOOT_MS);
        for (step, (wait, cost)) in trace.into_iter().enumerate() {
            now += wait;
            let cost = if step % 4 == 1 { 0 } else { cost };
            let want = apart.usage(key, 0, now);
            let passes = want.used + cost <= max && (cost > 0 || apart.knows(key));
            let got = at_once.charge_within(key, (cost, max), 1_000, now);
            prop_assert_eq!(got.map(|(_, usage)| usage), passes.then_some(want));
            if passes {
                apart.charge(&charge(key, cost, now));
            }
            prop_assert_eq!(at_once.usage(key, 0, now), apart.usage(key, 0, now));
        }
        let mut over = now;
        while apart.usage(key, 0, over).used > 0 {
            over = apart.usage(key, 0, over).frees_at_boot_ms;
        }
        at_once.sweep(over);
        prop_assert_eq!(at_once.len(), 0, "it ends with the last that counts");
    }

    /// A fixed window is that of express-rate-limit's memory store.
    #[test]
    fn a_fixed_window_is_that_of_express_rate_limit(
        trace in prop::collection::vec((any_wait(60_000), 0_usize..3), 1..200),
    ) {
        let mut windows = windows(Shape::Fixed { window_ms: 60_000 });
        let mut clients: [Option<(u64, u64)>; 3] = [None; 3];
        let mut now = BOOT_MS;
        for (wait, client) in trace {
            now += wait;
            let (total_hits, reset_time) = clients[client].get_or_insert((0, now + 60_000));
            if *reset_time <= now {
                (*total_hits, *reset_time) = (0, now + 60_000);
            }
            *total_hits += 1;
            let key = key(["anna", "bert", "carl"][client]);
            let before = windows.usage(key, 0, now);
            windows.charge(&charge(key, 1, now));
            prop_assert_eq!(before.used + 1, *total_hits);
            prop_assert_eq!(before.frees_at_boot_ms, *reset_time);
            let after = windows.usage(key, 0, now);
            prop_assert_eq!((after.used, after.frees_at_boot_ms), (*total_hits, *reset_time));
        }
    }

    /// It makes no difference where batches end, refunds and pardons included.
    #[test]
    fn a_batch_counts_as_one_by_one(
        shape in any_shape(),
        steps in prop::collection::vec((any_wait(1_000), 0_u8..12, 0_usize..3, 1_u64..4), 1..120),
        batch in 2_usize..20,
    ) {
        let keys = ["anna", "bert", "carl"].map(key);
        let (mut single, mut batched) = (windows(shape), windows(shape));
        let (mut now, mut charges) = (BOOT_MS, Vec::<Charge>::new());
        for steps in steps.chunks(batch) {
            now += steps[0].0;
            let mut fresh = Fresh::default();
            let mut changes = Vec::new();
            for (_, act, key, cost) in steps {
                let key = keys[*key];
                let usage = fresh.usage(&batched, key, now);
                prop_assert_eq!(usage, single.usage(key, 0, now));
                prop_assert_eq!(fresh.knows(key) || batched.knows(key), single.knows(key) || fresh.knows(key));
                match act {
                    0 => {
                        let Some(index) = charges.iter().rposition(|charge| charge.key == key) else { continue };
                        let charge = charges.remove(index);
                        let counts = fresh.counts(&batched, &charge, now);
                        prop_assert_eq!(counts, single.counts(&charge, now));
                        if counts {
                            changes.extend(fresh.refund(&batched, &charge).map(|sum| (2, sum)));
                            single.refund(&charge);
                            changes.push((0, charge));
                        }
                    }
                    1 => {
                        changes.extend(fresh.forget(&batched, key).map(|sum| (2, sum)));
                        single.forget(key);
                        charges.retain(|charge| charge.key != key);
                        changes.push((1, charge(key, 0, now)));
                    }
                    _ => {
                        let charge = charge(key, *cost, now);
                        changes.extend(fresh.charge(&batched, &charge).map(|charge| (2, charge)));
                        single.charge(&charge);
                        charges.push(charge);
                    }
                }
            }
            let sums = fresh.sums().iter().map(|sum| (2, *sum));
            for (act, charge) in changes.into_iter().chain(sums) {
                match act {
                    0 => batched.refund(&charge),
                    1 => batched.forget(charge.key),
                    _ => batched.charge(&charge),
                }
            }
        }
        for key in keys {
            prop_assert_eq!(single.usage(key, 0, now), batched.usage(key, 0, now));
        }
    }
}

#[test]
fn a_clock_that_stands_still_or_goes_back_frees_nothing() {
    for shape in SHAPES {
        let mut windows = windows(shape);
        let max = match shape {
            Shape::Fixed { .. } => 9,
            Shape::Log { max, .. } | Shape::Buckets { max, .. } => max,
        };
        windows.charge(&charge(key("anna"), max, BOOT_MS));
        for now in [BOOT_MS, BOOT_MS, BOOT_MS - 1, BOOT_MS - shape.window_ms(), 0] {
            assert!(windows.usage(key("anna"), 0, now).used >= max, "{shape:?} at {now}");
        }
        windows.charge(&charge(key("anna"), 1, BOOT_MS - 5));
        assert!(windows.usage(key("anna"), 0, BOOT_MS).used >= max, "{shape:?}");
    }
}

#[test]
fn times_at_the_ends_of_the_clock_are_times_too() {
    for shape in SHAPES {
        let mut windows = windows(shape);
        for now in [0, 1, u64::MAX - 1, u64::MAX] {
            windows.charge(&charge(key("anna"), 1, now));
            assert!(windows.usage(key("anna"), 0, now).used >= 1, "{shape:?} at {now}");
        }
    }
}

#[test]
fn an_endless_window_and_an_endless_limit_are_counted() {
    for (window_ms, max) in [(u64::MAX, 5), (u64::MAX, u64::MAX), (0, 5), (0, u64::MAX), (1, 300)] {
        for shape in [
            Shape::Fixed { window_ms },
            Shape::Log { window_ms, max: max.min(49) },
            Shape::Buckets { window_ms, max },
        ] {
            let mut windows = windows(shape);
            windows.charge(&charge(key("anna"), 3, 1_000));
            let used = windows.usage(key("anna"), 0, 1_000).used;
            assert_eq!(used == 0, window_ms == 0, "{shape:?}: {used}");
            windows.charge(&charge(key("anna"), u64::MAX, 1_000));
            windows.refund(&charge(key("anna"), u64::MAX, 1_000));
        }
    }
}

#[test]
fn a_charge_of_nothing_takes_no_place() {
    let mut windows = windows(SHAPES[1]);
    windows.charge(&charge(key("anna"), 0, BOOT_MS));
    assert_eq!(windows.len(), 0);
    let mut fresh = Fresh::default();
    assert_eq!(fresh.charge(&windows, &charge(key("anna"), 0, BOOT_MS)), None);
    assert_eq!(fresh.len(), 0);
}

#[test]
fn a_limiter_that_is_off_counts_nothing() {
    let mut windows = windows(SHAPES[1]);
    let key = key_of(Limiter::MESSAGE_USER, "anna");
    let charge = Charge { limiter: Limiter::MESSAGE_USER, key, cost: 1, at_boot_ms: BOOT_MS };
    windows.charge(&charge);
    windows.refund(&charge);
    windows.forget(key);
    assert_eq!((windows.len(), windows.knows(key)), (0, false));
    assert_eq!(windows.usage(key, 0, BOOT_MS).used, 0);
    assert!(!windows.counts(&charge, BOOT_MS));
}

#[test]
fn what_was_counted_leaves_a_window_in_the_order_in_which_it_came() {
    for shape in SHAPES.into_iter().filter(|shape| !matches!(shape, Shape::Fixed { .. })) {
        let mut windows = windows(shape);
        let weight = windows.weight(&charge(key("anna"), 1, BOOT_MS));
        let times = [0, 4, 5].map(|tenths| BOOT_MS + shape.window_ms() * tenths / 10);
        let max = match shape {
            Shape::Fixed { .. } => 9,
            Shape::Log { max, .. } | Shape::Buckets { max, .. } => max,
        };
        let times = &times[..times.len().min(usize::try_from(max).unwrap_or(usize::MAX))];
        times.iter().for_each(|at| windows.charge(&charge(key("anna"), 1, *at)));
        for (gone, at) in times.iter().enumerate() {
            let left = (times.len() - gone) as u64 * weight;
            let end = at + shape.window_ms();
            assert_eq!(windows.usage(key("anna"), 0, end - 1).used, left, "{shape:?}");
            let used = windows.usage(key("anna"), 0, end + shape.slack_ms()).used;
            assert!(used < left, "{shape:?}: {used} of {left} after {gone} have left");
        }
    }
}

#[test]
fn what_is_left_is_told_as_it_is_after_an_event_that_passes_and_before_one_that_does_not() {
    let cases = [
        (10, 0, 1, 9),
        (10, 3, 2, 5),
        (10, 9, 1, 0),
        (10, 9, 2, 1),
        (10, 10, 0, 0),
        (10, 12, 1, 0),
        // Nothing exceeds the greatest limit there is.
        (u64::MAX, 1, u64::MAX, 0),
    ];
    for (max, used, cost, want) in cases {
        let usage = Usage { used, frees_at_boot_ms: BOOT_MS + 7 };
        let (limiter, is_shared) = (LIMITER, false);
        let count = Count { limiter, key: key("anna"), max, cost, usage, is_shared };
        assert_eq!(count.remaining(), want, "{used} of {max}, {cost} more");
        assert_eq!(count.retry_at_boot_ms(), BOOT_MS + 7);
    }
}

#[test]
fn a_charge_counts_until_it_is_free_again_and_one_that_never_was_counts_at_no_time() {
    for shape in SHAPES {
        let mut windows = windows(shape);
        let charge = charge(key("anna"), 1, BOOT_MS);
        windows.charge(&charge);
        let end = windows.usage(charge.key, 0, BOOT_MS).frees_at_boot_ms;
        for (now, want) in [(BOOT_MS, true), (end - 1, true), (end, false)] {
            assert_eq!(windows.counts(&charge, now), want, "{shape:?} at {now}");
        }
        if !matches!(shape, Shape::Fixed { .. }) {
            let at_boot_ms = end - 1;
            let never = Charge { at_boot_ms, ..charge };
            assert!(!windows.counts(&never, at_boot_ms), "{shape:?}");
        }
    }
}

#[test]
fn a_charge_that_has_left_the_window_is_taken_back_from_nothing_that_came_after_it() {
    for shape in SHAPES {
        let step = shape.plan().measure.step().max(1);
        for steps in 1..=200 {
            let mut windows = windows(shape);
            let charge = charge(key("anna"), 1, BOOT_MS);
            let later = windows.usage(charge.key, 0, BOOT_MS).frees_at_boot_ms + steps * step;
            windows.charge(&charge);
            windows.charge(&Charge { at_boot_ms: later, ..charge });
            let before = windows.usage(charge.key, 0, later);
            windows.refund(&charge);
            assert_eq!(windows.usage(charge.key, 0, later), before, "{shape:?}, {steps} steps");
        }
    }
}

#[test]
fn whoever_took_back_all_is_as_free_as_somebody_new() {
    let begins = |shape: &Shape| !matches!(shape, Shape::Fixed { .. });
    for shape in SHAPES.into_iter().filter(begins) {
        let mut windows = windows(shape);
        let charge = charge(key("anna"), 1, BOOT_MS);
        windows.charge(&charge);
        windows.refund(&charge);
        for part in 0..10 {
            let now = BOOT_MS + part * shape.window_ms() / 10;
            let new = windows.usage(key("bert"), 0, now);
            assert_eq!(windows.usage(charge.key, 0, now), new, "{shape:?} after {part} tenths");
        }
    }
}

#[test]
fn whichever_of_several_is_taken_back_the_others_leave_when_they_would_have() {
    let slides = |shape: &Shape| {
        let holds_three = !matches!(shape, Shape::Log { max: ..3, .. });
        holds_three && !matches!(shape, Shape::Fixed { .. })
    };
    for shape in SHAPES.into_iter().filter(slides) {
        let tenth = shape.window_ms() / 10;
        let charges = [0, 4, 5].map(|tenths| charge(key("anna"), 1, BOOT_MS + tenths * tenth));
        for back in &charges {
            let (mut with, mut without) = (windows(shape), windows(shape));
            charges.iter().for_each(|charge| with.charge(charge));
            charges.iter().filter(|charge| *charge != back).for_each(|it| without.charge(it));
            with.refund(back);
            for now in (5..20).map(|tenths| BOOT_MS + tenths * tenth) {
                let want = without.usage(back.key, 0, now);
                assert_eq!(
                    with.usage(back.key, 0, now),
                    want,
                    "{shape:?} without {back:?} at {now}"
                );
            }
        }
    }
}

#[test]
fn nothing_is_taken_back_from_a_sum_that_is_full() {
    for shape in SHAPES.into_iter().filter(|shape| matches!(shape, Shape::Buckets { .. })) {
        let mut windows = windows(shape);
        let charge = charge(key("anna"), u64::MAX, BOOT_MS);
        windows.charge(&charge);
        let full = windows.usage(charge.key, 0, BOOT_MS);
        windows.refund(&charge);
        assert_eq!(windows.usage(charge.key, 0, BOOT_MS), full, "{shape:?}");
        assert!(!windows.counts(&charge, BOOT_MS), "{shape:?}");
    }
}

#[test]
fn of_more_sums_than_there_is_room_for_the_newest_are_read() {
    for (max, width) in [(254, 1), (255, 2), (65_535, 4)] {
        let measure = Shape::Buckets { window_ms: 60_000, max }.plan().measure;
        let mut saved = vec![0; 201 * width];
        saved.chunks_mut(width).for_each(|sum| sum[0] = 1);
        saved[0] = 7;
        let (now, mut cell) = (inner(BOOT_MS), Cell::<LARGE>::new(key("anna")));
        cell.load(measure, now / measure.step(), 200, &saved);
        let used = cell.tenure(&measure, 0, now).used;
        assert_eq!(used, 7 + (LARGE / width - 1) as u64, "sums of {width} bytes");
    }
}

#[test]
fn a_batch_of_any_size_has_one_sum_for_each_key_also_after_something_was_taken_back() {
    let windows = windows(SHAPES[1]);
    for count in [1, 2, 63, 64, 65, 66, 67, 200] {
        let mut fresh = Fresh::default();
        let charges: Vec<_> =
            (0..count).map(|number| charge(key(&format!("user {number}")), 1, BOOT_MS)).collect();
        for _ in 0..2 {
            for charge in &charges {
                assert_eq!(fresh.charge(&windows, charge), None, "it is a sum");
            }
        }
        assert_eq!((fresh.len(), fresh.sums().len()), (count, count));
        for (taken, back) in charges.iter().take(3).enumerate() {
            let sum = fresh.refund(&windows, back).map(|sum| (sum.key, sum.cost));
            assert_eq!(sum, Some((back.key, 2 + taken as u64)), "{taken} of {count}");
            for charge in &charges[taken + 1..] {
                assert_eq!(fresh.charge(&windows, charge), None);
            }
            assert_eq!((fresh.len(), fresh.sums().len()), (count, count - taken - 1));
            let used = |charge: &Charge| fresh.usage(&windows, charge.key, BOOT_MS).used;
            let left = &charges[taken + 1..];
            assert!(left.iter().all(|charge| used(charge) == 3 + taken as u64), "of {count}");
            assert_eq!(used(back), 1 + taken as u64);
        }
        assert!(charges.iter().all(|charge| fresh.knows(charge.key)));
        assert!(!fresh.knows(key("nobody")));
    }
}
