//! nginx.
pub mod log;
