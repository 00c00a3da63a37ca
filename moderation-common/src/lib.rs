//! What the kernel programs and the daemon must agree on: map names, map keys,
//! map values and the hash in between. Nothing else lives here, and nothing here
//! allocates.

#![no_std]

mod ban;
mod control;
mod counter;
mod filter;
mod hint;
pub mod map;
mod rate;
mod source;

pub use ban::BanEntry;
pub use control::{Alarm, Control, GuardClass, port};
pub use counter::{Counter, Reason};
pub use filter::{FILTER_BITS, Place, Seeds, filter_mask, filter_words};
pub use hint::{HINT_WORDS, Hint, v4_hints, v6_hints};
pub use rate::{
    Overrun, RateEntry, RateKey, SKETCH_BLOCK_BYTES, SKETCH_ROWS, SKETCH_SLOTS, Sample,
    SketchBlock, sketch_blocks, suspicious,
};
pub use source::{Source, v4_key, v6_key};
