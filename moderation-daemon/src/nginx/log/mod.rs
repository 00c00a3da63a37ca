//! Hearing after: what became of requests that nginx asked about.
pub mod line;
pub mod pending;
