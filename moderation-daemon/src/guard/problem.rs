//! What can keep the guards from being complete. It is told, not handled: the
//! other sources are looked at all the same.

use std::{io, path::PathBuf, time::Duration};

use super::Why;
use crate::network::NetworkError;

/// What is missing, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum GuardProblem {
    /// The kernel does not say.
    #[error("cannot protect what is {}", why.text())]
    Kernel {
        /// What it was asked for.
        why: Why,
        /// Why it does not.
        source: NetworkError,
    },
    /// A file or folder is there and cannot be read.
    #[error("cannot read {}, so nobody is protected for being {}", path.display(), why.text())]
    Read {
        /// What would be in it.
        why: Why,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A login record that somebody else than root could have written.
    #[error(
        "{} does not count as a login: it must be a plain file that belongs to uid {owner} and \
         that not everybody can write",
        path.display()
    )]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// Whose it must be.
        owner: u32,
    },
    /// A file that is longer than it can honestly be.
    #[error("{} has more than {limit_bytes} bytes; the rest is ignored", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How much of it is read.
        limit_bytes: u64,
    },
    /// A file of login records that has records of another size.
    #[error(
        "{} is no file of login records as this system's C library writes them",
        path.display()
    )]
    NoRecords {
        /// The file.
        path: PathBuf,
    },
    /// More sessions than are looked at.
    #[error("there are more than {limit} login sessions; the rest are not protected")]
    TooManySessions {
        /// How many are looked at.
        limit: usize,
    },
    /// Neither logind nor login records.
    #[error(
        "there are neither {} nor {}: whoever is logged in is not protected; \
         put the addresses that you come from on the allowlist",
        sessions.display(), utmp.display()
    )]
    NoSessions {
        /// logind's folder.
        sessions: PathBuf,
        /// The login records.
        utmp: PathBuf,
    },
    /// What cannot be the name of a host.
    #[error("{name:?} is neither an address nor a name of a host")]
    NoName {
        /// What was given.
        name: String,
    },
    /// A name that has no address now.
    #[error("cannot find out the address of {name}{}", kept(*known))]
    Unresolved {
        /// The name.
        name: String,
        /// How many addresses are known from before, and kept.
        known: usize,
        /// Why not.
        source: io::Error,
    },
    /// The resolver does not answer.
    #[error("no answer within {patience:?} about the address of {name}{}", kept(*known))]
    Slow {
        /// The name.
        name: String,
        /// How many addresses are known from before, and kept.
        known: usize,
        /// How long it was waited for.
        patience: Duration,
    },
}

impl GuardProblem {
    /// Which guards could not be looked at, all of them; see
    /// [`Collected::keep`](super::Collected::keep).
    ///
    /// Sessions are none of them. Logins are recorded in two places, and if
    /// one could not be read for long, a session would be protected after its
    /// end.
    pub const fn lost(&self) -> Option<Why> {
        match self {
            Self::Kernel { why, .. } => Some(*why),
            Self::Read { why, .. } if !matches!(why, Why::Session) => Some(*why),
            _ => None,
        }
    }

    /// Whether somebody may be missing of whom nothing is known from before.
    pub const fn is_gap(&self) -> bool {
        match self {
            Self::Unresolved { known, .. } | Self::Slow { known, .. } => *known == 0,
            _ => self.lost().is_some(),
        }
    }
}

fn kept(known: usize) -> &'static str {
    if known == 0 { "" } else { "; what it was before is still protected" }
}
