//! Which shape a limiter's windows have, and how that is kept. Chosen once, from
//! the rules; what is in a window is the affair of the measures.

use super::{
    Plan, Size,
    bucket::Buckets,
    cell::{LARGE, Measure, SMALL, greatest},
    fixed::Fixed,
    log::Log,
};
use crate::engine::{LimiterRule, Rules, Unit, Windowing};

/// What one limiter's windows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One begins with a key's first event and ends as a whole.
    Fixed {
        /// How long it is.
        window_ms: u64,
    },
    /// Every stretch of time is one, and each event in it is known.
    Log {
        /// How long it is.
        window_ms: u64,
        /// The largest limit that anybody can have.
        max: u64,
    },
    /// Every stretch of time is one, and sums of its pieces are known.
    Buckets {
        /// How long it is.
        window_ms: u64,
        /// The largest limit that anybody can have.
        max: u64,
    },
}

/// The largest limit whose events are logged.
const MOST_LOGGED: u64 = 1 + (LARGE / 2) as u64;

impl Shape {
    /// That of a limiter.
    pub fn of(rule: &LimiterRule, rules: &Rules) -> Self {
        let (window_ms, max) = (rule.limit.window_ms, rules.largest_max(rule));
        match rules.counting.windows {
            Windowing::Fixed => Self::Fixed { window_ms },
            Windowing::Sliding if rule.unit == Unit::Events && max <= MOST_LOGGED => {
                Self::Log { window_ms, max }
            }
            Windowing::Sliding => Self::Buckets { window_ms, max },
        }
    }

    /// What is written down of it.
    pub(super) const fn parts(self) -> (u8, u64, u64) {
        match self {
            Self::Fixed { window_ms } => (0, window_ms, 0),
            Self::Log { window_ms, max } => (1, window_ms, max),
            Self::Buckets { window_ms, max } => (2, window_ms, max),
        }
    }

    /// What was written down.
    pub(super) const fn from_parts(tag: u8, window_ms: u64, max: u64) -> Option<Self> {
        match tag {
            0 => Some(Self::Fixed { window_ms }),
            1 => Some(Self::Log { window_ms, max }),
            2 => Some(Self::Buckets { window_ms, max }),
            _ => None,
        }
    }

    /// How it is kept: in as few bytes as it fits, with numbers as short as tell
    /// enough.
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::Fixed { window_ms } => {
                Plan { measure: Measure::Fixed(Fixed { window: window_ms }), size: Size::Small }
            }
            Self::Log { window_ms, max } => log(window_ms, max),
            Self::Buckets { window_ms, max } => {
                let measure = if max < greatest::<1>() {
                    Measure::Buckets8(Buckets::new(window_ms, max))
                } else if max < greatest::<2>() {
                    Measure::Buckets16(Buckets::new(window_ms, max))
                } else {
                    Measure::Buckets32(Buckets::new(window_ms, max))
                };
                Plan { measure, size: Size::Large }
            }
        }
    }
}

/// 16 bits where they tell milliseconds apart, or where there is no room for 32.
fn log(window_ms: u64, max: u64) -> Plan {
    let is_short = window_ms <= greatest::<2>();
    let sizes = [(Size::Small, SMALL), (Size::Large, LARGE)];
    let short = || {
        let fits = |(size, bytes)| {
            Some(Plan { measure: Measure::Log16(Log::new(window_ms, max, bytes)?), size })
        };
        sizes.into_iter().find_map(fits)
    };
    let long = || {
        let fits = |(size, bytes)| {
            Some(Plan { measure: Measure::Log32(Log::new(window_ms, max, bytes)?), size })
        };
        sizes.into_iter().find_map(fits)
    };
    let plan = if is_short { short() } else { long().or_else(short) };
    plan.unwrap_or_else(|| Shape::Buckets { window_ms, max }.plan())
}
