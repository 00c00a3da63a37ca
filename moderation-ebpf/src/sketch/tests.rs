//! The sketch against exact counts: what it may hide (nobody who is fast) and
//! whom it may suspect (nobody who is not, whatever flood goes on around).

use std::{collections::HashMap, vec::Vec};

use moderation_common::{Seeds, Source, sketch_blocks, suspicious};
use proptest::{
    collection::vec as vec_of,
    prelude::{Strategy, any},
    prop_assert, proptest,
};

use super::*;

const SEEDS: Seeds = Seeds { a: 0x0123_4567_89ab_cdef, b: 0xfeed_face_cafe_beef };

const fn hash(source: u32) -> u64 {
    SEEDS.hash(Source::V4(source))
}

/// Both halves, as the kernel has them.
struct Sketch {
    halves: [Vec<SketchBlock>; 2],
}

impl Sketch {
    fn new(blocks: u32) -> Self {
        let half = || (0..blocks).map(|_| empty()).collect();
        Self { halves: [half(), half()] }
    }

    fn blocks(&self, epoch: u64, hash: u64) -> (&SketchBlock, &SketchBlock) {
        let [even, odd] = &self.halves;
        let (current, previous) = if epoch.is_multiple_of(2) { (even, odd) } else { (odd, even) };
        let mask = even.len() as u64 - 1;
        let block = usize::try_from((hash >> 32) & mask).expect("below the mask");
        (&current[block], &previous[block])
    }

    fn count(&self, epoch: u64, hash: u64) -> u32 {
        let (current, previous) = self.blocks(epoch, hash);
        count(current, previous, epoch, hash)
    }

    fn without_noise(&self, epoch: u64, hash: u64) -> u32 {
        let (current, previous) = self.blocks(epoch, hash);
        without_noise(current, previous, epoch, hash)
    }

    /// What the program makes of an attempt: whether it suspects the source.
    fn suspects(&self, epoch: u64, hash: u64, limit: u32) -> bool {
        let threshold = suspicious(limit.into());
        u64::from(self.count(epoch, hash)) > threshold
            && u64::from(self.without_noise(epoch, hash)) > threshold
    }
}

fn empty() -> SketchBlock {
    let row = || std::array::from_fn(|_| Cell::new(0));
    SketchBlock { epoch: Cell::new(0), rows: std::array::from_fn(|_| row()) }
}

/// Attempts by source and epoch, in the order of time.
fn any_attempts() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let steps = vec_of((0..30_u8, 0..40_u32), 1..600);
    (any::<u32>(), steps).prop_map(|(start, steps)| {
        let mut epoch = u64::from(start);
        let attempts = steps.into_iter().map(|(step, source)| {
            // Mostly the same half window, sometimes the next or one far off.
            epoch += match step {
                0 => 1,
                1 => 2,
                2 => 7,
                _ => 0,
            };
            (epoch, source)
        });
        attempts.collect()
    })
}

proptest! {
    #[test]
    fn it_never_counts_fewer_than_there_were(attempts in any_attempts(), blocks in 0..3_u32) {
        let sketch = Sketch::new(1 << blocks);
        let mut exact = HashMap::<(u64, u32), u32>::new();
        for (epoch, source) in attempts {
            *exact.entry((epoch, source)).or_default() += 1;
            let of = |epoch| exact.get(&(epoch, source)).copied().unwrap_or_default();
            let window = of(epoch) + epoch.checked_sub(1).map_or(0, of);
            let counted = sketch.count(epoch, hash(source));
            prop_assert!(counted >= window, "{counted} of {window}");
            let quiet = sketch.without_noise(epoch, hash(source));
            prop_assert!(quiet <= counted, "{quiet} of {counted}");
        }
    }

    #[test]
    fn a_source_alone_is_counted_exactly(source in any::<u32>(), times in 1..500_u32) {
        let sketch = Sketch::new(64);
        for expected in 1..=times {
            let counted = sketch.count(9, hash(source));
            prop_assert!(counted == expected && sketch.without_noise(9, hash(source)) == expected);
        }
    }
}

#[test]
fn a_window_is_this_half_and_the_one_before() {
    let source = hash(7);
    for start in [0, 1, 100, u64::from(u32::MAX)] {
        let sketch = Sketch::new(1);
        let times = |epoch, times| (0..times).fold(0, |_, _| sketch.count(epoch, source));
        assert_eq!(times(start, 5), 5, "from {start} on");
        assert_eq!(times(start + 1, 3), 8, "the half before counts");
        assert_eq!(times(start + 2, 1), 4, "the half before that does not");
        assert_eq!(times(start + 4, 1), 1, "nor one before a half in which nothing was");
        assert_eq!(times(start + 9, 2), 2, "nor one long ago in the other place");
        assert_eq!(times(start + 10, 1), 3);
    }
}

#[test]
fn counters_stop_at_their_largest_value() {
    let sketch = Sketch::new(1);
    let most = u32::from(u16::MAX);
    for _ in 0..most + 10 {
        sketch.count(4, hash(7));
    }
    assert_eq!(sketch.count(4, hash(7)), most);
    for _ in 0..most + 10 {
        sketch.count(5, hash(7));
    }
    assert_eq!(sketch.count(5, hash(7)), 2 * most);
    assert_eq!(sketch.without_noise(5, hash(7)), 2 * most);
}

#[test]
fn no_limit_is_beyond_what_a_counter_can_tell() {
    for limit in [1, 2, 1_000, 65_535, 131_070, 131_071, 262_144, 1_000_000, u32::MAX] {
        let sketch = Sketch::new(1);
        let found = (0..=limit).find(|_| sketch.suspects(3, hash(7), limit));
        assert!(found.is_some_and(|after| after <= limit / 2), "{limit}: {found:?}");
    }
}

#[test]
fn a_second_heavy_source_in_the_block_does_not_hide_the_first() {
    let sketch = Sketch::new(1);
    for _ in 0..100 {
        for source in 0..4 {
            sketch.count(2, hash(source));
        }
    }
    for source in 0..4 {
        let found = sketch.without_noise(2, hash(source));
        assert!((100..200).contains(&found), "{found} of source {source}");
    }
}

/// A million forged sources with one attempt each, in random order with the
/// heavy ones, over both halves of a window, as dense as the configuration
/// says that the sketch must stand. Gives, at the end, who was ever suspected.
fn flooded(flood: u32, limit: u32, heavy: &[(u32, u32)]) -> Flooded {
    const FORGED: u32 = 0x4000_0000;
    let sketch = Sketch::new(sketch_blocks(flood, limit));
    let mut attempts: Vec<u32> = (0..flood).map(|index| FORGED + index).collect();
    for (source, times) in heavy {
        attempts.extend((0..*times).map(|_| *source));
    }
    shuffle(&mut attempts);
    let half = attempts.len() / 2;
    let mut found = Flooded::default();
    for (index, source) in attempts.iter().enumerate() {
        let epoch = if index < half { 8 } else { 9 };
        if sketch.suspects(epoch, hash(*source), limit) {
            if *source >= FORGED {
                found.forged += 1;
            } else {
                *found.heavy.entry(*source).or_default() += 1;
            }
        }
    }
    // Bystanders: as if they were to attempt now for the first, the third time.
    for bystander in 0x1000..0x3000 {
        let suspected = (0..3).any(|_| sketch.suspects(9, hash(bystander), limit));
        found.bystanders += u32::from(suspected);
    }
    found
}

#[derive(Debug, Default)]
struct Flooded {
    forged: u32,
    bystanders: u32,
    /// How many attempts of each heavy source were under suspicion.
    heavy: HashMap<u32, u32>,
}

/// Fisher and Yates, with Marsaglia's xorshift.
fn shuffle(items: &mut [u32]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = usize::try_from(state % (last as u64 + 1)).expect("an index");
        items.swap(last, other);
    }
}

#[test]
fn a_flood_of_a_million_makes_nobody_suspicious_and_hides_nobody_who_is_fast() {
    // The bound: a limit of 20 attempts. Below, chance alone brings a few of a
    // million above a threshold of less than ten; they are counted exactly
    // then, and not shed.
    for limit in [20, 100, 1_000] {
        let heavy: Vec<_> = [(1, limit), (2, limit + limit / 4), (3, limit * 2)].into();
        let found = flooded(1_000_000, limit, &heavy);
        assert_eq!((found.forged, found.bystanders), (0, 0), "limit {limit}: {found:?}");
        for (source, times) in heavy {
            let suspected = found.heavy.get(&source).copied().unwrap_or_default();
            // Counted exactly from half the limit on, give or take the noise,
            // which is an eighth of it.
            let least = times - limit / 2 - limit / 4;
            assert!(suspected >= least, "limit {limit}: {suspected} of {times}, {found:?}");
        }
    }
}

#[test]
fn a_flood_beyond_the_configured_one_is_noise_all_the_same() {
    // Made for a hundred thousand: ten times as many fill the counters with
    // more than the limit, evenly.
    let limit = 100;
    let sketch = Sketch::new(sketch_blocks(100_000, limit));
    let (mut plain, mut suspected) = (0, 0);
    for source in 0..1_000_000 {
        suspected += u32::from(sketch.suspects(8, hash(source), limit));
        plain = plain.max(sketch.count(8, hash(source)));
    }
    assert!(plain > limit, "a plain sketch would shed whoever came: {plain}");
    assert!(suspected < 1_000, "one in a thousand at most: {suspected}");
}

#[test]
fn the_sketch_grows_with_the_flood_and_shrinks_with_the_limit() {
    assert_eq!(sketch_blocks(0, 1_000), 64);
    assert_eq!(sketch_blocks(1_000_000, 1_000), 2_048);
    assert_eq!(sketch_blocks(1_000_000, 100), 16_384);
    assert_eq!(sketch_blocks(u32::MAX, 1), 1 << 18);
    assert_eq!(sketch_blocks(1_000_000, 0), sketch_blocks(1_000_000, 1));
    // A limit that no counter can reach takes no fewer than the highest one.
    assert_eq!(sketch_blocks(u32::MAX, u32::MAX), sketch_blocks(u32::MAX, 65_536));
    for flood in [1, 1_000, 1_000_000, u32::MAX] {
        for limit in [0, 1, 10, 1_000_000, u32::MAX] {
            assert!(sketch_blocks(flood, limit).is_power_of_two());
        }
    }
}
