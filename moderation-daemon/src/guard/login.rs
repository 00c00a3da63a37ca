//! What both records of logins, logind's and utmp, say about a login: who it
//! is from, and whether it still lasts. It reads neither.

use std::net::IpAddr;

use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

use super::host::parse_address;

/// An authenticated login from somewhere else that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Login {
    /// The other end as recorded: an address, a name, or neither.
    pub(super) host: String,
    /// Its address, if one is recorded.
    pub(super) address: Option<IpAddr>,
}

impl Login {
    pub(super) fn from_host(host: &str) -> Self {
        Self { host: host.to_owned(), address: parse_address(host) }
    }
}

/// Whether there is a process of this number. That it is still the same one is
/// left open: the records of logins outlive their processes only where these
/// were killed.
pub(super) fn is_alive(pid: i32) -> bool {
    // Zero and below mean groups of processes (kill(2)).
    pid > 0 && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}
