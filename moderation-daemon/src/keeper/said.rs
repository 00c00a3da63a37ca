//! Says of what is wrong again and again that it is, and that it is over: once
//! each.

use std::{collections::BTreeSet, error::Error};

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

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
