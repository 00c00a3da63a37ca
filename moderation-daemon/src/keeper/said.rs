//! Says of what is wrong again and again that it is, and that it is over: once
//! each.

use std::collections::BTreeSet;

/// What is wrong, as of the last round.
#[derive(Debug, Default)]
pub(super) struct Said(BTreeSet<String>);

impl Said {
    /// Takes what is wrong now, and logs what has changed.
    pub(super) fn say(&mut self, problems: impl IntoIterator<Item = String>) {
        let now: BTreeSet<_> = problems.into_iter().collect();
        for problem in now.difference(&self.0) {
            tracing::warn!(problem, "not all is as it should be");
        }
        for problem in self.0.difference(&now) {
            tracing::info!(problem, "over");
        }
        self.0 = now;
    }
}
