//! That the `librechat` profile does what LibreChat does: its libraries, in the
//! versions that it locks, and ours are asked the same. Their differences are those
//! of differences.toml.

mod browser;
mod differences;
mod harness;
mod replay;
mod settings;
mod stories;
