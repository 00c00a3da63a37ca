//! Windows on their way through bytes.

use proptest::prelude::*;

use super::super::snapshot::{MAGIC, VERSION, write_piece, write_text};
use super::*;
use crate::engine::Limiter;

const LIMITERS: [Limiter; 4] =
    [Limiter::LOGIN, Limiter::REGISTRATION, Limiter::MESSAGE_IP, Limiter::MESSAGE_USER];

/// Four limiters of the four kinds that there are most of.
fn shapes() -> Vec<(Limiter, Shape)> {
    let kinds = [SHAPES[0], SHAPES[3], SHAPES[5], SHAPES[8]];
    LIMITERS.into_iter().zip(kinds).collect()
}

fn all_kinds() -> Windows {
    Windows::of(shapes(), 1_000)
}

fn charge_of(limiter: Limiter, name: &str, cost: u64, at_boot_ms: u64) -> Charge {
    Charge { limiter, key: key_of(limiter, name), cost, at_boot_ms }
}

fn file(windows: &mut Windows, boot: &str, now: Moment) -> Vec<u8> {
    let mut bytes = windows.file_head(SEED, boot);
    append(windows, Pass::whole(), now, &mut bytes);
    bytes
}

fn append(windows: &mut Windows, mut pass: Pass, now: Moment, bytes: &mut Vec<u8>) {
    while !pass.is_done() {
        windows.write(&mut pass, 7, now, bytes);
    }
}

fn restored(bytes: &[u8], boot: &str, now: Moment) -> (Windows, RestoredWindows) {
    let mut windows = all_kinds();
    let result = windows.restore(bytes, (SEED, boot), now).expect("it has a head");
    (windows, result)
}

fn names() -> impl Iterator<Item = (Limiter, String)> {
    let of = |limiter| (0..12).map(move |number| (limiter, format!("user {number}")));
    LIMITERS.into_iter().flat_map(of)
}

/// Events of all kinds; the last happens at the moment that is returned.
fn any_windows() -> impl Strategy<Value = (Windows, u64)> {
    let step = (0_usize..4, 0_u8..12, 1_u64..4, prop_oneof![0..2_000_u64, 0..200_000_u64]);
    prop::collection::vec(step, 1..200).prop_map(|steps| {
        let (mut windows, mut now) = (all_kinds(), BOOT_MS);
        for (limiter, name, cost, wait) in steps {
            now += wait;
            windows.charge(&charge_of(LIMITERS[limiter], &format!("user {name}"), cost, now));
        }
        (windows, now)
    })
}

#[test]
fn a_reboot_shortens_nothing_wherever_in_a_piece_either_clock_stands() {
    let (limiter, shape) = shapes()[3];
    let (key, step) = (key_of(limiter, "anna"), shape.plan().measure.step());
    let left = |windows: &Windows, now| windows.usage(key, 0, now).frees_at_boot_ms - now;
    let places = || (0..step).step_by(300);
    for (before, after) in places().flat_map(|before| places().map(move |after| (before, after))) {
        let mut windows = all_kinds();
        windows.charge(&charge_of(limiter, "anna", 1, BOOT_MS + before));
        let then = at(BOOT_MS + before);
        let bytes = file(&mut windows, "one boot", then);
        let now = Moment { boot_ms: 5_000_000 + after, ..then };
        let (restored, _) = restored(&bytes, "another", now);
        let (was, is) = (left(&windows, then.boot_ms), left(&restored, now.boot_ms));
        assert!((was..was + step).contains(&is), "{is} of {was} ms");
    }
}

proptest! {
    /// The same boot's clock goes on: everything counts as if nothing had happened.
    #[test]
    fn windows_count_on_after_a_restart(
        (mut windows, now) in any_windows(),
        pause in 0_u64..400_000,
    ) {
        let bytes = file(&mut windows, "boot", at(now));
        let later = now + pause;
        let (restored, result) = restored(&bytes, "boot", at(later));
        prop_assert_eq!(result.bad, None);
        for (limiter, name) in names() {
            let key = key_of(limiter, &name);
            prop_assert_eq!(restored.usage(key, 0, later), windows.usage(key, 0, later));
        }
    }

    /// Another boot's clock begins anew; what counts and for how long stays, but for
    /// a tick or a piece more.
    #[test]
    fn windows_count_on_after_a_reboot(
        (mut windows, now) in any_windows(),
        pause in 0_u64..400_000,
        boot_ms in prop_oneof![0..10_000_u64, any::<u32>().prop_map(u64::from)],
    ) {
        let bytes = file(&mut windows, "one boot", at(now));
        let then = at(now + pause);
        let (restored, result) = restored(&bytes, "another", Moment { boot_ms, ..then });
        prop_assert_eq!(result.bad, None);
        for ((limiter, name), (_, shape)) in names().flat_map(|name| shapes().into_iter().map(move |shape| (name.clone(), shape))) {
            if !shapes().contains(&(limiter, shape)) {
                continue;
            }
            let key = key_of(limiter, &name);
            let (was, is) = (windows.usage(key, 0, then.boot_ms), restored.usage(key, 0, boot_ms));
            let slack = shape.slack_ms();
            prop_assert!(is.used >= was.used, "{} of {}", is.used, was.used);
            prop_assert!(is.used <= windows.usage(key, 0, then.boot_ms.saturating_sub(slack)).used.max(was.used));
            let (left_was, left_is) = (was.frees_at_boot_ms - then.boot_ms, is.frees_at_boot_ms - boot_ms);
            if was.used == is.used && was.used > 0 {
                prop_assert!((left_was..=left_was + slack).contains(&left_is), "{left_was} {left_is} {slack}");
            }
        }
    }

    /// What changed since is enough, in whatever pieces it comes.
    #[test]
    fn a_file_of_changes_brings_a_whole_one_up_to_date(
        (mut windows, now) in any_windows(),
        steps in prop::collection::vec((0_usize..4, 0_u8..14, 0_u64..900, 0_u8..9), 1..60),
    ) {
        let mut bytes = file(&mut windows, "boot", at(now));
        let mut now = now;
        for (limiter, name, wait, act) in steps {
            now += wait;
            let charge = charge_of(LIMITERS[limiter], &format!("user {name}"), 1, now);
            match act {
                0 => windows.forget(charge.key),
                1 => windows.refund(&Charge { at_boot_ms: now - wait, ..charge }),
                2 => windows.sweep(now),
                3 => append(&mut windows, Pass::changes(), at(now), &mut bytes),
                _ => windows.charge(&charge),
            }
        }
        append(&mut windows, Pass::changes(), at(now), &mut bytes);
        let (restored, result) = restored(&bytes, "boot", at(now));
        prop_assert_eq!(result.bad, None);
        for (limiter, name) in names() {
            let key = key_of(limiter, &name);
            prop_assert_eq!(restored.usage(key, 0, now), windows.usage(key, 0, now));
        }
        let before = bytes.len();
        append(&mut windows, Pass::changes(), at(now), &mut bytes);
        prop_assert_eq!(bytes.len(), before, "nothing has changed since");
    }

    /// Sweeps go on while a file is written, and move windows about: none is missed.
    #[test]
    fn no_window_slips_through_while_others_are_swept_away(
        quiet in prop::collection::vec(any::<bool>(), 1..120),
        only_changed in any::<bool>(),
        steps in prop::collection::vec((0_u64..40_000, 1_usize..9), 1..40),
    ) {
        let mut windows = all_kinds();
        let charges: Vec<_> = (0_u32..).zip(&quiet).map(|(number, is_quiet)| {
            // Over within the minute of a sweep, or not.
            let limiter = if *is_quiet { LIMITERS[0] } else { LIMITERS[1] };
            charge_of(limiter, &format!("user {number}"), 1, BOOT_MS)
        }).collect();
        charges.iter().for_each(|charge| windows.charge(charge));
        let mut bytes = windows.file_head(SEED, "boot");
        let mut pass = if only_changed { Pass::changes() } else { Pass::whole() };
        let (mut now, mut steps) = (BOOT_MS, steps.into_iter());
        while !pass.is_done() {
            let (wait, most) = steps.next().unwrap_or((0, 9));
            now = (now + wait).min(BOOT_MS + 299_999);
            windows.write(&mut pass, most, at(now), &mut bytes);
            windows.sweep(now);
        }
        let (restored, _) = restored(&bytes, "boot", at(now));
        for charge in charges {
            let (was, is) = (windows.usage(charge.key, 0, now), restored.usage(charge.key, 0, now));
            prop_assert_eq!(was, is, "{:?}", charge);
        }
    }

    /// Wherever it breaks off, what came before is there, and it is told.
    #[test]
    fn a_torn_file_is_read_up_to_the_tear(
        (mut windows, now) in any_windows(),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = file(&mut windows, "boot", at(now));
        let (whole, _) = restored(&bytes, "boot", at(now));
        let torn = &bytes[..cut.index(bytes.len())];
        let mut read = all_kinds();
        match read.restore(torn, (SEED, "boot"), at(now)) {
            Err(bad) => {
                let is_cut = matches!(bad, BadSnapshot::Foreign | BadSnapshot::Torn { .. });
                prop_assert!(is_cut, "{bad}");
            }
            Ok(result) => {
                // Between two pieces it cannot be seen.
                let is_between = result.bad.is_none();
                let is_torn = matches!(result.bad, Some(BadSnapshot::Torn { .. }));
                prop_assert!(is_between || is_torn);
            }
        }
        for (limiter, name) in names() {
            let key = key_of(limiter, &name);
            let (part, all) = (read.usage(key, 0, now), whole.usage(key, 0, now));
            prop_assert!(part == all || part.used == 0);
        }
    }

    /// No bit can be wrong without being noticed.
    #[test]
    fn a_flipped_bit_is_noticed_and_believed_by_nobody(
        (mut windows, now) in any_windows(),
        place in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let mut bytes = file(&mut windows, "boot", at(now));
        let (whole, _) = restored(&bytes, "boot", at(now));
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let mut read = all_kinds();
        let result = read.restore(&bytes, (SEED, "boot"), at(now));
        prop_assert!(result.is_err() || result.is_ok_and(|result| result.bad.is_some()));
        for (limiter, name) in names() {
            let key = key_of(limiter, &name);
            let (part, all) = (read.usage(key, 0, now), whole.usage(key, 0, now));
            prop_assert!(part == all || part.used == 0);
        }
    }

    /// Whatever is in a file, reading it ends, and nobody comes to harm.
    #[test]
    fn junk_is_read_without_harm(
        junk in prop::collection::vec(any::<u8>(), 0..400),
        sound in any::<bool>(),
    ) {
        let mut windows = all_kinds();
        let mut bytes = windows.file_head(SEED, "boot");
        if sound {
            // Behind a right checksum, as if somebody had written it.
            let length = u32::try_from(junk.len()).expect("short");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&crc32fast::hash(&junk).to_le_bytes());
        }
        bytes.extend_from_slice(&junk);
        let result = windows.restore(&bytes, (SEED, "other"), at(BOOT_MS));
        prop_assert!(result.is_ok());
        prop_assert!(windows.restore(&junk, (SEED, "other"), at(BOOT_MS)).is_err());
        windows.sweep(BOOT_MS);
        for (limiter, name) in names() {
            windows.usage(key_of(limiter, &name), 0, BOOT_MS);
        }
    }
}

proptest! {
    /// Somebody's limiters with whatever windows and maxima: told apart from ours, or
    /// read as ours, and nobody comes to harm.
    #[test]
    fn limiters_of_any_shape_are_read_without_harm(
        tag in 0_u8..4,
        window_ms in prop_oneof![0..3_u64, Just(60_000), any::<u64>()],
        max in prop_oneof![0..3_u64, Just(7), any::<u64>()],
        cell in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        write_piece(&mut bytes, |piece| {
            SEED.iter().for_each(|word| piece.extend_from_slice(&word.to_le_bytes()));
            write_text(piece, "boot");
            piece.push(0);
            write_text(piece, LIMITERS[0].name());
            piece.push(tag);
            piece.extend_from_slice(&window_ms.to_le_bytes());
            piece.extend_from_slice(&max.to_le_bytes());
        });
        write_piece(&mut bytes, |piece| {
            piece.extend_from_slice(&[0; 24]);
            piece.push(0);
            piece.extend_from_slice(&cell);
        });
        let mut windows = all_kinds();
        let read = windows.restore(&bytes, (SEED, "boot"), at(BOOT_MS));
        let restored = read.map_or(0, |read| read.restored);
        prop_assert_eq!(windows.len().min(1), restored.min(1));
        windows.usage(key_of(LIMITERS[0], "anna"), 0, BOOT_MS);
    }
}

#[test]
fn only_the_same_seed_reads_a_file() {
    let mut windows = all_kinds();
    let bytes = file(&mut windows, "boot", at(BOOT_MS));
    assert_eq!(snapshot_seed(&bytes), Ok(SEED));
    let refused = windows.restore(&bytes, ([1, 2], "boot"), at(BOOT_MS));
    assert_eq!(refused, Err(BadSnapshot::OtherSeed));
    assert_eq!(snapshot_seed(b"SQLite format 3"), Err(BadSnapshot::Foreign));
    assert_eq!(snapshot_seed(&[]), Err(BadSnapshot::Foreign));
}

#[test]
fn a_limiter_with_another_shape_begins_anew_and_a_new_limit_does_not() {
    let now = BOOT_MS + 10;
    let mut written = Windows::of(vec![(LIMITERS[0], SHAPES[3]), (LIMITERS[1], SHAPES[3])], 100);
    for limiter in &LIMITERS[..2] {
        for _ in 0..5 {
            written.charge(&charge_of(*limiter, "anna", 1, BOOT_MS));
        }
    }
    let bytes = file(&mut written, "boot", at(now));
    let cases = [
        (Shape::Log { window_ms: 300_000, max: 7 }, 5),
        (Shape::Log { window_ms: 300_000, max: 20 }, 5),
        (Shape::Log { window_ms: 300_000, max: 2 }, 2),
        (Shape::Log { window_ms: 300_000, max: 49 }, 0),
        (Shape::Log { window_ms: 299_999, max: 7 }, 0),
        (Shape::Fixed { window_ms: 300_000 }, 0),
        (Shape::Buckets { window_ms: 300_000, max: 7 }, 0),
    ];
    for (shape, used) in cases {
        let mut windows = Windows::of(vec![(LIMITERS[0], shape)], 100);
        let result = windows.restore(&bytes, (SEED, "boot"), at(now)).expect("it has a head");
        assert_eq!(windows.usage(key_of(LIMITERS[0], "anna"), 0, now).used, used, "{shape:?}");
        assert_eq!(result.restored, usize::from(used > 0), "{shape:?}");
        assert_eq!(result.changed, 2 - result.restored, "the other one is off");
    }
}

#[test]
fn a_file_brings_no_more_windows_than_there_may_be() {
    let mut windows = all_kinds();
    for number in 0..50 {
        windows.charge(&charge_of(LIMITER, &format!("user {number}"), 1, BOOT_MS));
    }
    let bytes = file(&mut windows, "boot", at(BOOT_MS));
    let mut read = Windows::of(shapes(), 20);
    let result = read.restore(&bytes, (SEED, "boot"), at(BOOT_MS)).expect("it has a head");
    assert_eq!((read.len(), result.restored, result.surplus), (20, 20, 30));
    let again = read.restore(&bytes, (SEED, "boot"), at(BOOT_MS)).expect("it has a head");
    assert_eq!((read.len(), again.restored, again.surplus), (20, 20, 30));
}

#[test]
fn what_is_over_is_not_read() {
    let mut windows = all_kinds();
    for (limiter, name) in names() {
        windows.charge(&charge_of(limiter, &name, 1, BOOT_MS));
    }
    let bytes = file(&mut windows, "boot", at(BOOT_MS));
    let (read, result) = restored(&bytes, "boot", at(BOOT_MS + 10_000_000));
    assert_eq!((read.len(), result.restored, result.over), (0, 0, 48));
}

#[test]
fn a_wall_clock_that_was_set_back_shortens_nothing_and_prolongs_by_a_window_at_most() {
    let mut windows = all_kinds();
    let charge = charge_of(Limiter::LOGIN, "anna", 1, BOOT_MS);
    windows.charge(&charge);
    let bytes = file(&mut windows, "one boot", at(BOOT_MS));
    let now = Moment { boot_ms: 5_000, unix_ms: 0 };
    let (read, _) = restored(&bytes, "another", now);
    let usage = read.usage(charge.key, 0, now.boot_ms);
    assert_eq!((usage.used, usage.frees_at_boot_ms), (1, now.boot_ms + 60_000));
}

#[test]
fn what_was_forgotten_stays_forgotten_after_a_restart() {
    let mut windows = all_kinds();
    let charge = charge_of(Limiter::LOGIN, "anna", 1, BOOT_MS);
    windows.charge(&charge);
    let mut bytes = file(&mut windows, "boot", at(BOOT_MS));
    windows.forget(charge.key);
    // A sweep that comes first does not take the news with it.
    windows.sweep(BOOT_MS + SWEEP_MS);
    append(&mut windows, Pass::changes(), at(BOOT_MS), &mut bytes);
    let (read, _) = restored(&bytes, "boot", at(BOOT_MS));
    assert_eq!(read.usage(charge.key, 0, BOOT_MS).used, 0);
    windows.sweep(BOOT_MS + 2 * SWEEP_MS);
    assert_eq!(windows.len(), 0, "and the next one takes it");
}

#[test]
fn what_was_written_down_is_read_by_the_same_shape_and_by_no_other() {
    for (place, one) in SHAPES.iter().enumerate() {
        for (other_place, other) in SHAPES.iter().enumerate() {
            let reads = one.plan().measure.reads(other.plan().measure);
            assert_eq!(reads, place == other_place, "{one:?} and {other:?}");
        }
    }
}

#[test]
fn what_is_charged_within_a_limit_is_a_change_unless_it_costs_nothing() {
    let mut windows = all_kinds();
    for limiter in LIMITERS {
        windows.charge(&charge_of(limiter, "anna", 1, BOOT_MS));
    }
    let mut bytes = file(&mut windows, "boot", at(BOOT_MS));
    for limiter in LIMITERS {
        for (cost, is_change) in [(0, false), (1, true)] {
            let key = key_of(limiter, "anna");
            assert!(windows.charge_within(key, (cost, 2), 1_000, BOOT_MS).is_some());
            let before = bytes.len();
            append(&mut windows, Pass::changes(), at(BOOT_MS), &mut bytes);
            assert_eq!(bytes.len() > before, is_change, "{limiter}, {cost}");
        }
    }
}

#[test]
fn what_is_taken_back_is_a_change_if_it_was_there() {
    let mut windows = all_kinds();
    let at_boot_ms = BOOT_MS + 1_000;
    for (limiter, shape) in shapes() {
        let charge = charge_of(limiter, "anna", 1, at_boot_ms);
        windows.charge(&charge);
        let mut bytes = file(&mut windows, "boot", at(at_boot_ms));
        let never = Charge { at_boot_ms: BOOT_MS, ..charge };
        // A fixed window knows no times.
        let is_first = usize::from(matches!(shape, Shape::Fixed { .. }));
        let refunds = [(never, false), (charge, true), (charge, false)];
        for (back, is_change) in refunds.into_iter().skip(is_first) {
            windows.refund(&back);
            let before = bytes.len();
            append(&mut windows, Pass::changes(), at(at_boot_ms), &mut bytes);
            assert_eq!(bytes.len() > before, is_change, "{shape:?}, {back:?}");
        }
        let (read, _) = restored(&bytes, "boot", at(at_boot_ms));
        assert_eq!(read.usage(charge.key, 0, at_boot_ms).used, 0, "{shape:?}");
    }
}
