//! Whoever types the command must not be locked out by it: the addresses that
//! operators of this host are logged in from.

use std::{env, net::IpAddr};

use anyhow::bail;

use crate::engine::Prefix;

/// The addresses of the login sessions that must not be banned.
// The one place that asks for them. OpenSSH sets the variable for the session
// itself (ssh(1)); sudo strips it, which is why more than this is needed.
fn own_addresses() -> Vec<IpAddr> {
    let connection = env::var("SSH_CONNECTION").unwrap_or_default();
    let client = connection.split_whitespace().next().and_then(|client| client.parse().ok());
    client.into_iter().collect()
}

/// The addresses that no ban by this command may cover.
#[derive(Clone, Debug)]
pub(super) struct OwnSessions(Vec<IpAddr>);

impl OwnSessions {
    pub(super) fn find() -> Self {
        Self(own_addresses())
    }

    /// The address of a session that lies within a prefix.
    pub(super) fn within(&self, prefix: Prefix) -> Option<IpAddr> {
        self.0.iter().copied().find(|ip| prefix.contains(*ip))
    }

    /// Refuses a ban that would cover one.
    pub(super) fn refuse(&self, prefix: Prefix) -> anyhow::Result<()> {
        match self.within(prefix) {
            Some(ip) => {
                bail!("{prefix} covers {ip}, from where you are logged in: that would lock you out")
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
