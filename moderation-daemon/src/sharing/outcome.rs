//! What comes of asking shared counters, whoever keeps them.

use super::{answer::GroupAnswer, breaker::Fault};
use crate::engine::Score;

/// Something failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Redis: {}{text}", fault.name())]
pub struct Failure {
    /// What kind of failure it is.
    pub fault: Fault,
    text: String,
}

impl Failure {
    /// One, and how the server names it, if it does.
    pub fn new(fault: Fault, text: &str) -> Self {
        let text = if text.is_empty() { String::new() } else { format!(" ({text})") };
        Self { fault, text }
    }
}

/// What somebody finds who asks how things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The server's clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// Changes when all was forgotten.
    pub epoch: String,
}

/// What became of groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Reserved {
    /// The server's clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// In their order, each with which of its claims were taken.
    pub answers: Vec<(GroupAnswer, Vec<bool>)>,
}

/// What became of acts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    /// For each that is about points the score now.
    pub scores: Vec<Option<Score>>,
    /// How many were not done, because the key holds something else.
    pub foreign: usize,
}
