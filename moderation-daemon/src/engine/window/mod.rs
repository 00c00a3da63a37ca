//! Counting: how much of its limits everybody has used. What a window is depends
//! on the rules and on how large the limit is; each key takes one piece of memory
//! of a fixed size, and the table of them is bounded by whoever asks. Whether a
//! count is too high, and what follows from that, is decided elsewhere.

mod bucket;
mod cell;
mod fixed;
mod fresh;
mod index;
mod log;
mod shape;
mod snapshot;
mod table;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{Key, Limiter, Rules, kind::MAX_KINDS};
use cell::{Cell, LARGE, Measure, SMALL, Tenure};
use table::Table;

pub(super) use fresh::Fresh;
pub use shape::Shape;
pub use snapshot::{BadSnapshot, Pass, RestoredWindows, snapshot_seed};

/// What one event counts towards one limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The limiter.
    pub limiter: Limiter,
    /// Whose window.
    pub key: Key,
    /// How much.
    pub cost: u64,
    /// When, on the boot clock.
    pub at_boot_ms: u64,
}

/// How much of a limit is used up, before the event that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What counts now.
    pub used: u64,
    /// When some of it, or of this event, counts no longer, on the boot clock.
    pub frees_at_boot_ms: u64,
}

/// What a limiter says about one event, wherever it was counted. An engine
/// takes this as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The limiter.
    pub limiter: Limiter,
    /// Whose window.
    pub key: Key,
    /// What is allowed.
    pub max: u64,
    /// What this event costs.
    pub cost: u64,
    /// What was used up before it.
    pub usage: Usage,
    /// Whether the window is that of all who came when the table was full.
    pub is_shared: bool,
}

impl Count {
    /// Whether this event is one too many.
    pub const fn exceeds(&self) -> bool {
        self.usage.used.saturating_add(self.cost) > self.max
    }

    /// How much more is allowed after this event, or without it if it is one
    /// too many.
    pub const fn remaining(&self) -> u64 {
        let left = self.max.saturating_sub(self.usage.used);
        if self.exceeds() { left } else { left.saturating_sub(self.cost) }
    }

    /// When it is worth trying again, on the boot clock.
    pub const fn retry_at_boot_ms(&self) -> u64 {
        self.usage.frees_at_boot_ms
    }

    /// What it counts if it is to count.
    pub const fn charge(&self, at_boot_ms: u64) -> Charge {
        Charge { limiter: self.limiter, key: self.key, cost: self.cost, at_boot_ms }
    }
}

/// How one limiter's windows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    measure: Measure,
    size: Size,
}

/// Which table a cell is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Small,
    Large,
}

/// What is known of each limiter.
#[derive(Debug)]
struct Limits {
    /// By the limiter's number; `None`: it is off.
    plans: Vec<Option<Plan>>,
    /// The limiters that are on, for what is written down by name.
    shapes: Vec<(Limiter, Shape)>,
}

/// The windows that are counted on this host.
#[derive(Debug)]
pub(super) struct Windows {
    limits: Arc<Limits>,
    small: Table<SMALL>,
    large: Table<LARGE>,
    /// When there is little room, what is over goes sooner.
    bound: usize,
    swept_at_boot_ms: Option<u64>,
    /// Somebody writes them down: what goes early must be told.
    is_recorded: bool,
}

/// Does the same with whichever of two tables a size names.
macro_rules! sized {
    ($size:expr, $small:expr, $large:expr, $table:ident => $do:expr) => {
        match $size {
            Size::Small => {
                let $table = $small;
                $do
            }
            Size::Large => {
                let $table = $large;
                $do
            }
        }
    };
}

/// Every key is looked at this often, whether it is over.
const SWEEP_MS: u64 = 60_000;
/// How much sooner if there is little room.
const HASTE: u64 = 16;

/// The table's clock begins long before the host did, for windows that are older
/// than its clock: they come from before it started.
const EPOCH_MS: u64 = 1 << 40;

/// A time on the table's clock. It stands still after some hundred million years,
/// so that a window always ends later than now.
fn inner(boot_ms: u64) -> u64 {
    EPOCH_MS + boot_ms.min(u64::MAX / 4)
}

/// And back.
const fn outer(time: u64) -> u64 {
    time.saturating_sub(EPOCH_MS)
}

impl Windows {
    pub(super) fn new(rules: &Rules) -> Self {
        let shapes = rules.limiters.iter().map(|rule| (rule.limiter, Shape::of(rule, rules)));
        Self::of(shapes.collect(), rules.bounds.windows)
    }

    fn of(shapes: Vec<(Limiter, Shape)>, bound: usize) -> Self {
        let mut plans = vec![None; MAX_KINDS];
        for (limiter, shape) in &shapes {
            plans[usize::from(limiter.index())] = Some(shape.plan());
        }
        Self::empty(Arc::new(Limits { plans, shapes }), bound)
    }

    fn empty(limits: Arc<Limits>, bound: usize) -> Self {
        let (small, large) = (Table::new(), Table::new());
        Self { limits, small, large, bound, swept_at_boot_ms: None, is_recorded: false }
    }

    /// The same limiters, and nothing counted yet. What it forgets it keeps as a
    /// window in which nothing counts.
    fn like(&self) -> Self {
        Self { is_recorded: true, ..Self::empty(Arc::clone(&self.limits), self.bound) }
    }

    /// Has fetched what [`Windows::locate`] reads.
    #[inline]
    pub(super) fn fetch_index(&self, key: Key) {
        let Some(plan) = self.limits.plan(key) else { return };
        sized!(plan.size, &self.small, &self.large, table => table.fetch_index(key));
    }

    /// The key with the place where it most likely is, and has that fetched.
    #[inline]
    pub(super) fn locate(&self, key: Key) -> Key {
        let Some(plan) = self.limits.plan(key) else { return key };
        let number = sized!(plan.size, &self.small, &self.large, table => table.guess(key));
        number.map_or(key, |number| key.at(number))
    }

    /// Whether the key has its place.
    pub(super) fn knows(&self, key: Key) -> bool {
        self.limits.plan(key).is_some_and(
            |plan| sized!(plan.size, &self.small, &self.large, table => table.get(key).is_some()),
        )
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.small.len() + self.large.len()
    }

    /// What was used up, and `fresh` more that was charged at this very moment; and the
    /// key with its place, if it has one.
    #[inline(always)]
    pub(super) fn look_up(&self, key: Key, fresh: u64, now_boot_ms: u64) -> (Key, Usage) {
        let now = inner(now_boot_ms);
        let Some(Plan { measure, size }) = self.limits.plan(key) else {
            return (key, Usage { used: 0, frees_at_boot_ms: now_boot_ms });
        };
        sized!(*size, &self.small, &self.large, table => {
            let (key, Tenure { used, frees_at }) = match table.number(key) {
                Some(number) => (key.at(number), table.at(number).tenure(measure, fresh, now)),
                None => (key.bare(), measure.begin(fresh, now)),
            };
            (key, Usage { used, frees_at_boot_ms: outer(frees_at) })
        })
    }

    /// What a charge takes up, which can be more than it costs where large numbers
    /// are counted.
    #[inline(always)]
    fn weight(&self, charge: &Charge) -> u64 {
        self.limits.plan(charge.key).map_or(0, |plan| plan.measure.weight(charge.cost))
    }

    #[inline]
    pub(super) fn charge(&mut self, charge: &Charge) {
        let Charge { key, cost, at_boot_ms, .. } = *charge;
        let Some(Plan { measure, size }) = self.limits.plan(key).filter(|_| cost > 0) else {
            return;
        };
        sized!(*size, &mut self.small, &mut self.large, table => {
            table.put(key).charge(measure, inner(at_boot_ms), cost);
        });
    }

    /// Charges if that is within `max`, and if there is a place for the key or another
    /// one may be added up to `bound`; none is, for a charge of nothing. What was used up
    /// before, and the key, from now on found sooner.
    #[inline(always)]
    pub(super) fn charge_within(
        &mut self,
        key: Key,
        (cost, max): (u64, u64),
        bound: usize,
        now_boot_ms: u64,
    ) -> Option<(Key, Usage)> {
        let Some(Plan { measure, size }) = self.limits.plan(key) else {
            return Some((key, Usage { used: 0, frees_at_boot_ms: now_boot_ms }));
        };
        let now = inner(now_boot_ms);
        let known = sized!(*size, &self.small, &self.large, table => table.number(key));
        if known.is_none() && !((1..=max).contains(&cost) && self.len() < bound) {
            return None;
        }
        sized!(*size, &mut self.small, &mut self.large, table => {
            let number = known.unwrap_or_else(|| table.place(key));
            let Tenure { used, frees_at } = table.at_mut(number).charge_within(measure, (cost, max), now)?;
            Some((key.at(number), Usage { used, frees_at_boot_ms: outer(frees_at) }))
        })
    }

    /// Whether a charge counts still.
    pub(super) fn counts(&self, charge: &Charge, now_boot_ms: u64) -> bool {
        let (at, now) = (inner(charge.at_boot_ms), inner(now_boot_ms));
        self.limits.plan(charge.key).is_some_and(|Plan { measure, size }| {
            sized!(*size, &self.small, &self.large, table => {
                table.get(charge.key).is_some_and(|cell| cell.counts(*measure, at, now))
            })
        })
    }

    /// Takes a charge back, as far as it is still there; only one that let somebody
    /// through, and once.
    pub(super) fn refund(&mut self, charge: &Charge) {
        let Some(Plan { measure, size }) = self.limits.plan(charge.key) else { return };
        sized!(*size, &mut self.small, &mut self.large, table => {
            if let Some(cell) = table.get_mut(charge.key) {
                cell.refund(*measure, inner(charge.at_boot_ms), charge.cost);
            }
        });
    }

    /// Forgets all that was counted for a key.
    pub(super) fn forget(&mut self, key: Key) {
        let Some(plan) = self.limits.plan(key) else { return };
        let is_recorded = self.is_recorded;
        sized!(plan.size, &mut self.small, &mut self.large, table => {
            if is_recorded {
                table.get_mut(key).into_iter().for_each(Cell::clear);
            } else {
                table.remove(key);
            }
        });
    }

    /// Takes over what another one counted for a key.
    fn adopt(&mut self, other: &Self, key: Key) {
        let Some(plan) = self.limits.plan(key) else { return };
        match plan.size {
            Size::Small => self.small.adopt(&other.small, key),
            Size::Large => self.large.adopt(&other.large, key),
        }
    }

    /// Forgets windows that are over: of all keys the share that is due, so that
    /// each has its turn once a minute.
    pub(super) fn sweep(&mut self, now_boot_ms: u64) {
        let since = self.swept_at_boot_ms.map_or(SWEEP_MS, |at| now_boot_ms.saturating_sub(at));
        let is_tight = self.len() >= self.bound / 8 * 7;
        let haste = if is_tight { HASTE } else { 1 };
        let share = (since.saturating_mul(haste).min(SWEEP_MS), SWEEP_MS);
        self.swept_at_boot_ms = Some(now_boot_ms);
        let (now, limits, is_recorded) = (inner(now_boot_ms), &self.limits, self.is_recorded);
        self.small.sweep(share, |cell| limits.has_no_use_for(cell, now, is_recorded));
        self.large.sweep(share, |cell| limits.has_no_use_for(cell, now, is_recorded));
    }
}

impl Limits {
    #[inline]
    fn plan(&self, key: Key) -> Option<&Plan> {
        self.plans[usize::from(key.limiter())].as_ref()
    }

    /// Whether nothing counts in a cell any more. One that went early stays until it
    /// is written down that it did, if anything is.
    fn has_no_use_for<const BYTES: usize>(
        &self,
        cell: &Cell<BYTES>,
        now: u64,
        is_recorded: bool,
    ) -> bool {
        let plan = self.plans[usize::from(cell.key.limiter())];
        let is_over = plan.is_none_or(|plan| cell.is_over(plan.measure, now));
        is_over && !(is_recorded && cell.is_cleared() && cell.head.is_changed)
    }
}

#[cfg(test)]
impl Windows {
    fn usage(&self, key: Key, fresh: u64, now_boot_ms: u64) -> Usage {
        self.look_up(key, fresh, now_boot_ms).1
    }
}
