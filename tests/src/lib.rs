//! The laboratory: network namespaces on veth, the daemon as a process and
//! small clients, from which the tests beside it and the demo are made.
//! It judges nothing itself and names no kernel interface but the network's.

#![expect(
    clippy::missing_errors_doc,
    reason = "every error here is a failed experiment, with one way to handle it: report it"
)]

pub mod lab;
pub mod namespace;

pub mod attempt;
pub mod browser;
pub mod caller;
pub mod chat;
pub mod daemon;
pub mod scene;
pub mod visitor;

pub mod bench;
pub mod counter;
pub mod demo;

pub mod cgroup;
pub mod chromium;
pub mod closer;
pub mod express;
pub mod flood;
pub mod frame;
pub mod front;
pub mod kernel;
pub mod machine;
pub mod mongod;
pub mod nginx;
pub mod outsider;
pub mod session;

pub mod interrupt;
pub mod need;
pub mod process;
pub mod random;
pub mod redis;
pub mod stream;
pub mod wait;
pub mod wire;

mod bpffs;
mod config;
mod http;
mod name;
mod range;
mod sweep;
mod times;
