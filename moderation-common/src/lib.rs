//! What the kernel programs and the daemon must agree on: map names, map keys
//! and map values. Nothing else lives here, and nothing here allocates.

#![no_std]

mod ban;
mod counter;
pub mod map;
mod source;
mod syn;

pub use ban::BanEntry;
pub use counter::{Counter, Reason};
pub use source::{Source, v4_key, v6_key};
pub use syn::{SynEntry, SynKey};
