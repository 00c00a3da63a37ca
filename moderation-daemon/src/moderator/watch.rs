//! What the task tells operators by itself, once: that room runs out, and that automatic
//! bans have stopped. It changes nothing.

use super::task::Task;
use crate::engine::Moment;

/// Of the places for bans, from where on there is little room.
const NEARLY_FULL_PERCENT: usize = 80;

impl Task {
    /// Warns, once, before there is no room for another ban.
    pub(super) fn watch_fill(&mut self) {
        let (fill, bounds) = (self.board.fill(), self.setup.rules.bounds);
        let is_above = |percent: usize| {
            fill.exact * 100 >= bounds.bans * percent
                || fill.networks * 100 >= bounds.networks * percent
        };
        if !self.is_nearly_full && is_above(NEARLY_FULL_PERCENT) {
            self.is_nearly_full = true;
            tracing::warn!(
                exact = fill.exact,
                max_bans = bounds.bans,
                networks = fill.networks,
                max_networks = bounds.networks,
                "there is little room for more bans: raise network.max_bans or \
                 network.max_networks, or remove an imported list"
            );
        } else if self.is_nearly_full && !is_above(NEARLY_FULL_PERCENT - 5) {
            self.is_nearly_full = false;
        }
    }

    /// Says so, once, when automatic bans stop and when they go on.
    pub(super) fn watch_circuit(&self, now: Moment) {
        let is_open = self.engine.is_runaway(now);
        if !self.board.set_runaway(is_open) {
            return;
        }
        let limit = self.setup.rules.ban.max_per_minute;
        if is_open {
            tracing::error!(
                limit,
                "automatic bans have stopped: more were called for in a minute than \
                 bans.max_per_minute; look for the rule that has run away"
            );
        } else {
            tracing::info!(limit, "automatic bans fall again");
        }
    }
}
