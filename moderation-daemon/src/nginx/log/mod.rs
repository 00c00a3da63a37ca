//! Hearing after: what became of requests that nginx asked about.
pub mod ear;
pub mod line;
pub mod outcome;
pub mod pending;
