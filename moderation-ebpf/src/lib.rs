//! The part of the kernel programs that is plain arithmetic: on a frame's bytes,
//! on the sketch, and on a benchmark's sources. It compiles for the host too,
//! where its unit tests run.

#![no_std]

#[cfg(test)]
extern crate std;

pub mod generator;
pub mod parse;
pub mod sketch;
