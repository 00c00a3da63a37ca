//! Who must never be locked out of this host: itself, its gateways, resolvers
//! and databases, and whoever is logged in to it. This room only collects; it
//! writes nothing into the kernel and decides nothing about bans.
//!
//! What a stranger can bring about adds nothing here. An open connection to
//! port 22 does not: only sessions count that a login program has registered
//! after it knew who it is, and therefore no table of sockets is looked at.

mod file;
mod host;
mod login;
mod logind;
mod problem;
mod resolver;
mod session;
mod utmp;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};

use crate::network;
use host::Names;

pub use problem::GuardProblem;

/// Why a prefix must not be locked out. In this order it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// This host, as it sees itself.
    Loopback,
    /// An address of one of its interfaces.
    OwnAddress,
    /// The next hop of a default route.
    Gateway,
    /// A DNS server that it asks.
    Resolver,
    /// A host that the configuration names, such as a database.
    Host,
    /// The other end of an authenticated login session.
    Session,
}

impl Why {
    /// One word, for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::OwnAddress => "own_address",
            Self::Gateway => "gateway",
            Self::Resolver => "resolver",
            Self::Host => "host",
            Self::Session => "session",
        }
    }

    /// For people; completes "… is protected because it is …".
    pub const fn text(self) -> &'static str {
        match self {
            Self::Loopback => "this host itself",
            Self::OwnAddress => "one of this host's own addresses",
            Self::Gateway => "this host's default gateway",
            Self::Resolver => "a DNS server that this host asks",
            Self::Host => "a host that this one depends on",
            Self::Session => "where somebody is logged in from",
        }
    }
}

/// A prefix that must not be locked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guard {
    /// Whom: one address, or all of loopback.
    pub prefix: IpNet,
    /// Why.
    pub why: Why,
}

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Files in the format of resolv.conf(5); any may be missing.
    pub resolv_conf: Vec<PathBuf>,
    /// The login records, utmp(5).
    pub utmp: PathBuf,
    /// logind's folder of sessions.
    pub sessions: PathBuf,
    /// Who must own the login records and the sessions, by uid: root.
    pub owner: u32,
    /// Names or addresses that this host depends on, such as databases.
    pub hosts: Vec<String>,
    /// How long the system's resolver may take for all names together.
    pub patience: Duration,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            // With systemd-resolved the first names its stub on loopback; the
            // second has the servers behind it.
            resolv_conf: vec!["/etc/resolv.conf".into(), "/run/systemd/resolve/resolv.conf".into()],
            utmp: "/run/utmp".into(),
            sessions: "/run/systemd/sessions".into(),
            owner: 0,
            hosts: Vec::new(),
            patience: Duration::from_secs(2),
        }
    }
}

/// What was found, and what could not be looked at.
#[derive(Debug, Default)]
pub struct Collected {
    /// Sorted, each once; one prefix can be there for several reasons.
    pub guards: Vec<Guard>,
    /// What is missing, and why. None of them hides the others' guards.
    pub problems: Vec<GuardProblem>,
}

impl Collected {
    /// The prefixes, sorted, each once.
    pub fn prefixes(&self) -> Vec<IpNet> {
        let prefixes: BTreeSet<_> = self.guards.iter().map(|guard| guard.prefix).collect();
        prefixes.into_iter().collect()
    }

    /// Takes over from the time before what could not be looked at this time,
    /// so that a passing trouble takes nobody's protection away.
    pub fn keep(&mut self, previous: &[Guard]) {
        let lost: BTreeSet<_> = self.problems.iter().filter_map(GuardProblem::lost).collect();
        self.guards.extend(previous.iter().filter(|guard| lost.contains(&guard.why)));
        self.tidy();
    }

    fn add(&mut self, why: Why, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses.into_iter().map(|address| address.to_canonical());
        // Loopback is there as a whole; the others are nobody's address.
        let are_somebody = addresses.filter(|address| {
            !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
        });
        let guards = are_somebody.map(|address| Guard { prefix: IpNet::from(address), why });
        self.guards.extend(guards);
    }

    fn add_or_tell(&mut self, why: Why, found: Result<BTreeSet<IpAddr>, GuardProblem>) {
        match found {
            Ok(addresses) => self.add(why, addresses),
            Err(problem) => self.problems.push(problem),
        }
    }

    /// All names are looked up at once.
    fn add_named(
        &mut self,
        why: Why,
        wanted: impl IntoIterator<Item = String>,
        known: &mut Names,
        patience: Duration,
    ) {
        let wanted: BTreeSet<_> = wanted.into_iter().collect();
        self.problems.extend(known.refresh(&wanted.iter().map(String::as_str).collect(), patience));
        for name in &wanted {
            self.add(why, known.addresses(name).iter().copied());
        }
    }

    /// Takes in what was looked for elsewhere.
    pub fn merge(&mut self, other: Self) {
        self.guards.extend(other.guards);
        self.problems.extend(other.problems);
        self.tidy();
    }

    fn tidy(&mut self) {
        self.guards.sort_unstable();
        self.guards.dedup();
    }
}

/// All of 127.0.0.0/8 is this host (RFC 1122, 3.2.1.3); of IPv6 only one
/// address is.
const LOOPBACK_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

/// What the system's resolver said before about the names of hosts, and about
/// those that logins are recorded with.
#[derive(Debug, Default)]
pub struct Resolved {
    hosts: Names,
    logins: Names,
}

/// Looks everywhere. Names that do not resolve now keep the addresses that
/// `resolved` knows from before. Takes at most a little longer than twice the
/// sources' patience.
pub fn collect(sources: &Sources, resolved: &mut Resolved) -> Collected {
    let mut collected = lasting(sources, resolved);
    collected.merge(sessions(sources, resolved));
    collected
}

/// What changes rarely, and may take a while to find: everything but sessions.
pub fn lasting(sources: &Sources, resolved: &mut Resolved) -> Collected {
    let mut collected = Collected::default();
    let loopback = [IpNet::V4(LOOPBACK_V4), IpAddr::V6(Ipv6Addr::LOCALHOST).into()];
    collected.guards.extend(loopback.map(|prefix| Guard { prefix, why: Why::Loopback }));
    let own = network::own_addresses()
        .map_err(|source| GuardProblem::Kernel { why: Why::OwnAddress, source });
    collected.add_or_tell(Why::OwnAddress, own);
    let gateways =
        network::gateways().map_err(|source| GuardProblem::Kernel { why: Why::Gateway, source });
    collected.add_or_tell(Why::Gateway, gateways);
    for path in &sources.resolv_conf {
        collected.add_or_tell(Why::Resolver, resolver::read(path));
    }
    let (addresses, names) = host::split(&sources.hosts);
    collected.add(Why::Host, addresses);
    collected.add_named(Why::Host, names, &mut resolved.hosts, sources.patience);
    collected.tidy();
    collected
}

/// Only where people are logged in from, with every address that their host's
/// name stands for if no address is recorded.
pub fn sessions(sources: &Sources, resolved: &mut Resolved) -> Collected {
    let mut collected = Collected::default();
    let (peers, problems) = session::peers(sources);
    collected.problems.extend(problems);
    collected.add(Why::Session, peers.addresses);
    collected.add_named(Why::Session, peers.names, &mut resolved.logins, sources.patience);
    collected.tidy();
    collected
}

/// [`sessions`] for one look. Needs no privilege and does not look at the
/// environment, so that it is the same under sudo.
pub fn own_sessions(sources: &Sources) -> Collected {
    sessions(sources, &mut Resolved::default())
}

#[cfg(test)]
mod tests;
