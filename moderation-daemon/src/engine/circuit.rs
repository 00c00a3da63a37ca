//! The brake for rules that have run away: how many bans were called for in the
//! last minute. It only counts; what follows is decided elsewhere.

use std::collections::VecDeque;

/// The stretch in which calls count.
const MINUTE_MS: u64 = 60_000;

/// The most recent calls for automatic bans, those that were refused included,
/// so that a rule that goes on calling keeps the circuit open.
#[derive(Debug)]
pub(super) struct Circuit {
    limit: usize,
    /// Moments of the boot clock, the oldest first; one more than the limit.
    calls: VecDeque<u64>,
}

impl Circuit {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit: limit as usize, calls: VecDeque::new() }
    }

    pub(super) fn call(&mut self, at_boot_ms: u64) {
        if self.calls.len() > self.limit {
            self.calls.pop_front();
        }
        self.calls.push_back(at_boot_ms);
    }

    /// Whether more than the limit were called for within the last minute.
    pub(super) fn is_open(&self, now_boot_ms: u64) -> bool {
        self.calls.len() > self.limit && is_recent(self.calls[0], now_boot_ms)
    }

    /// Whether one more call, after `fresh` ones, is one too many.
    pub(super) fn is_one_too_many(&self, fresh: &[u64], now_boot_ms: u64) -> bool {
        // With the calls in a row, that one decides that has `limit - 1` after it.
        let from_end = match fresh.len().checked_sub(self.limit) {
            Some(index) => return is_recent(fresh[index], now_boot_ms),
            None => self.limit - fresh.len(),
        };
        let decisive = self.calls.len().checked_sub(from_end);
        decisive.is_some_and(|index| is_recent(self.calls[index], now_boot_ms))
    }
}

const fn is_recent(at_boot_ms: u64, now_boot_ms: u64) -> bool {
    now_boot_ms < at_boot_ms.saturating_add(MINUTE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_many_as_the_limit_are_not_too_many_within_a_minute_and_one_more_is() {
        let mut circuit = Circuit::new(2);
        let mut states = Vec::new();
        for at in [0, 1, 2, 3] {
            states.push((circuit.is_one_too_many(&[], at), circuit.is_open(at)));
            circuit.call(at);
        }
        let open_after_three = [(false, false), (false, false), (true, false), (true, true)];
        assert_eq!(states, open_after_three);
        assert!(circuit.is_open(MINUTE_MS) && !circuit.is_open(MINUTE_MS + 1), "of the last three");
    }

    proptest! {
        /// Against counting the calls of the last minute one by one, wherever
        /// the batch begins.
        #[test]
        fn one_too_many_is_what_counting_says(
            limit in 1_u32..6,
            waits in prop::collection::vec(0_u64..30_000, 1..40),
            fresh_from in 0_usize..40,
        ) {
            let mut times = Vec::new();
            let mut now = 0;
            for wait in waits {
                now += wait;
                times.push(now);
            }
            let (last, before) = times.split_last().expect("at least one");
            let (old, fresh) = before.split_at(fresh_from.min(before.len()));
            let mut circuit = Circuit::new(limit);
            old.iter().for_each(|at| circuit.call(*at));
            let within = before.iter().filter(|at| **at + MINUTE_MS > *last).count();
            prop_assert_eq!(circuit.is_one_too_many(fresh, *last), within + 1 > limit as usize);
            fresh.iter().chain([last]).for_each(|at| circuit.call(*at));
            prop_assert_eq!(circuit.is_open(*last), within + 1 > limit as usize);
            prop_assert!(!circuit.is_open(*last + MINUTE_MS));
        }
    }
}
