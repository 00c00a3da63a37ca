//! Limits, scores and bans for chat hosts; bans are enforced in the kernel.
//!
//! A violation's way through this crate: [`api`] parses it, the [`moderator`]
//! lets the [`engine`] decide, the [`store`] write it down, and the
//! [`network`] block the address, in that order, and then answers.
//! [`daemon`] and [`ctl`] are the two programs.

pub mod ctl;
pub mod daemon;
mod sharers;
mod supervisor;

pub mod api;
pub mod feed;
pub mod moderator;
pub mod nginx;
#[cfg(feature = "mongodb")]
pub mod share;

pub mod blocklist;
pub mod engine;
pub mod guard;
pub mod keeper;
pub mod ledger;
pub mod librechat;
pub mod network;
pub mod sharing;
pub mod store;

pub mod clock;
pub mod config;
pub mod credential;
pub mod exit;
pub mod listen;
pub mod metrics;
pub mod pseudonym;
mod random;
pub mod telemetry;
