//! Whoever types the command must not be locked out by it: the addresses that
//! operators of this host are logged in from.

use std::{env, net::IpAddr};

use anyhow::bail;

use crate::{
    engine::Prefix,
    exit::tell,
    guard::{self, Collected, GuardProblem, Sources},
    keeper::SourceFiles,
};

/// The addresses of the login sessions that must not be banned: everybody's, by
/// the records of logins, for under sudo nothing else tells whose the command
/// is. What OpenSSH says to its session (ssh(1), SSH_CONNECTION) is taken beside
/// it, for systems that keep no such records.
fn own_addresses(sources: &Sources) -> Vec<IpAddr> {
    let connection = env::var("SSH_CONNECTION").unwrap_or_default();
    let client = connection.split_whitespace().next().and_then(|client| client.parse().ok());
    let Collected { guards, problems } = guard::own_sessions(sources);
    // That there are no records at all is said once, when the filter is attached.
    let problems = problems.iter().filter(|it| !matches!(it, GuardProblem::NoSessions { .. }));
    problems.for_each(|problem| tell("warning", problem));
    guards.into_iter().map(|guard| guard.prefix.addr()).chain(client).collect()
}

/// The addresses that no ban by this command may cover.
#[derive(Clone, Debug)]
pub(super) struct OwnSessions(Vec<IpAddr>);

impl OwnSessions {
    pub(super) fn find(files: &SourceFiles) -> Self {
        Self(own_addresses(&files.sources(&[])))
    }

    /// The address of a session that lies within a prefix.
    pub(super) fn within(&self, prefix: Prefix) -> Option<IpAddr> {
        self.0.iter().copied().find(|ip| prefix.contains(*ip))
    }

    /// Refuses a ban that would cover one.
    pub(super) fn refuse(&self, prefix: Prefix) -> anyhow::Result<()> {
        match self.within(prefix) {
            Some(ip) => {
                bail!(
                    "{prefix} covers {ip}, from where somebody is logged in: that would lock them out"
                )
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_that_covers_a_session_is_refused() {
        let own = OwnSessions(vec!["192.0.2.7".parse().expect("an address")]);
        for (prefix, refused) in [("192.0.2.7", true), ("192.0.2.0/24", true), ("192.0.2.8", false)]
        {
            let result = own.refuse(prefix.parse().expect("a prefix"));
            assert_eq!(result.is_err(), refused, "{prefix}: {result:?}");
        }
    }
}
