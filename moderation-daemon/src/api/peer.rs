//! Who is at the other end of a connection, and whether they may be. The
//! socket's permissions keep strangers out already; this holds if somebody
//! loosened them.

use std::{fs, io};

use nix::unistd::{Gid, Uid};
use tokio::net::UnixStream;

/// The process at the other end, by `SO_PEERCRED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: Option<i32>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })
    }

    /// Root, the daemon's own user, and members of the socket's group.
    pub(crate) fn is_admitted(self, group: Option<Gid>) -> bool {
        if self.uid == 0 || self.uid == Uid::effective().as_raw() {
            return true;
        }
        let Some(group) = group.map(Gid::as_raw) else { return false };
        self.gid == group || self.supplementary_groups().contains(&group)
    }

    /// Containers join by supplementary group, which `SO_PEERCRED` leaves out.
    /// A process that cannot be looked at has none.
    fn supplementary_groups(self) -> Vec<u32> {
        let status =
            self.pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let status = status.unwrap_or_default();
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
        groups.unwrap_or_default().split_whitespace().filter_map(|id| id.parse().ok()).collect()
    }

    /// How the audit trail names an operator.
    pub(super) fn name(self) -> String {
        let user = nix::unistd::User::from_uid(Uid::from_raw(self.uid)).ok().flatten();
        user.map_or_else(|| format!("uid {}", self.uid), |user| user.name)
    }
}
