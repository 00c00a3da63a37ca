//! What must hold of windows, whatever happens.

mod count;
mod snapshot;
mod table;

use super::*;
use crate::engine::{Bearer, Keys, Moment};

/// A boot that is some weeks old, so that low bits of its clock have wrapped.
const BOOT_MS: u64 = (1 << 32) - 70_000;
const SEED: [u64; 2] = [7, 11];
const LIMITER: Limiter = Limiter::LOGIN;

fn windows(shape: Shape) -> Windows {
    Windows::of(vec![(LIMITER, shape)], 1_000)
}

fn key(name: &str) -> Key {
    key_of(LIMITER, name)
}

fn key_of(limiter: Limiter, name: &str) -> Key {
    Keys::new(SEED).of(limiter, &Bearer::User(name.parse().expect("an id")))
}

fn charge(key: Key, cost: u64, at_boot_ms: u64) -> Charge {
    Charge { limiter: LIMITER, key, cost, at_boot_ms }
}

fn at(boot_ms: u64) -> Moment {
    Moment { boot_ms, unix_ms: 1_700_000_000_000 + boot_ms }
}

/// One of each way to keep windows.
const SHAPES: [Shape; 11] = [
    Shape::Fixed { window_ms: 60_000 },
    // 16 bits, one tick a millisecond; in a small and in a large cell.
    Shape::Log { window_ms: 60_000, max: 17 },
    Shape::Log { window_ms: 65_535, max: 40 },
    // 32 bits.
    Shape::Log { window_ms: 300_000, max: 7 },
    Shape::Log { window_ms: 3_600_000, max: 25 },
    // 16 bits, ticks of several milliseconds.
    Shape::Log { window_ms: 3_600_000, max: 49 },
    Shape::Log { window_ms: 1_000, max: 1 },
    Shape::Buckets { window_ms: 60_000, max: 254 },
    Shape::Buckets { window_ms: 60_001, max: 1_000 },
    Shape::Buckets { window_ms: 900_000, max: 10_000_000 },
    Shape::Buckets { window_ms: 10, max: 100_000_000_000 },
];

impl Shape {
    const fn window_ms(self) -> u64 {
        self.parts().1
    }

    /// How much longer than its window an event may count.
    fn slack_ms(self) -> u64 {
        match self.plan().measure {
            Measure::Fixed(_) => 0,
            measure => match measure.step() {
                1 => 0,
                step => 2 * step,
            },
        }
    }

    /// Whether costs are counted in larger units.
    fn is_rounded(self) -> bool {
        let (window_ms, max) = (self.window_ms(), 1);
        let of = |cost| windows(self).weight(&charge(key("anna"), cost, window_ms));
        of(max) > max
    }
}
