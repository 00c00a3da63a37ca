//! Where people are logged in from, from both records of logins together. It
//! never looks at connections: whoever merely connects is not logged in.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{GuardProblem, Sources, host::is_name, logind, utmp};

/// How many logins of each record are looked at.
pub(super) const MAX_SESSIONS: usize = 1024;

/// The other ends of all logins.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Peers {
    /// Those whose address is recorded.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Those of whom only a name is: sshd with `UseDNS yes`, seen by logind.
    pub(super) names: BTreeSet<String>,
}

pub(super) fn peers(sources: &Sources) -> (Peers, Vec<GuardProblem>) {
    let mut problems = Vec::new();
    let recorded = utmp::read(&sources.utmp, sources.owner, &mut problems);
    let sessions = logind::read(&sources.sessions, sources.owner, &mut problems);
    if recorded.is_none() && sessions.is_none() {
        let (sessions, utmp) = (sources.sessions.clone(), sources.utmp.clone());
        problems.push(GuardProblem::NoSessions { sessions, utmp });
    }
    let logins = [recorded.unwrap_or_default(), sessions.unwrap_or_default()].concat();
    // The records of utmp have the address beside the name.
    let by_name: BTreeMap<_, _> =
        logins.iter().filter_map(|login| Some((login.host.as_str(), login.address?))).collect();
    let mut peers = Peers::default();
    for login in &logins {
        match login.address.or_else(|| by_name.get(login.host.as_str()).copied()) {
            Some(address) => peers.addresses.extend([address]),
            None if is_name(&login.host) => peers.names.extend([login.host.clone()]),
            None => {}
        }
    }
    (peers, problems)
}
