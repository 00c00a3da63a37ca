//! Addresses of hosts that have names. They are looked up by the system's own
//! resolver, which can take its time: it is waited for so long and no longer.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use super::GuardProblem;
use crate::clock;

/// A name in the DNS has at most so many bytes (RFC 1035, 2.3.4).
pub(super) const MAX_NAME_BYTES: usize = 255;

/// Addresses that are kept of one name. Hosts have a few; whoever answers for
/// a name shall not be able to fill the kernel's map.
const MAX_ADDRESSES: usize = 16;

/// Names that are looked up at once. Each takes a thread, for the resolver may
/// hang for as long as it likes.
const MAX_LOOKUPS: usize = 32;

/// An address as text, with or without a scope (`fe80::1%eth0`, RFC 4007),
/// which a source address in a packet does not have.
pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    let (address, scope) = text.split_once('%').unwrap_or((text, ""));
    let address: IpAddr = address.parse().ok()?;
    (scope.is_empty() || address.is_ipv6()).then(|| address.to_canonical())
}

/// Whether a text can be the name of a host. The resolver takes more than
/// that, but what logins record in its place (`:0`, `tmux(7).%1`) is none.
pub(super) fn is_name(text: &str) -> bool {
    let is_of_names = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !text.is_empty() && text.len() <= MAX_NAME_BYTES && text.chars().all(is_of_names)
}

/// Tells addresses from what has to be looked up.
pub(super) fn split(hosts: &[String]) -> (Vec<IpAddr>, Vec<String>) {
    let addresses = hosts.iter().filter_map(|host| parse_address(host)).collect();
    let names = hosts.iter().filter(|host| parse_address(host).is_none()).cloned().collect();
    (addresses, names)
}

type Lookup = fn(&str) -> io::Result<Vec<IpAddr>>;

/// What names stand for, as of their last good answer.
#[derive(Debug)]
pub(super) struct Names {
    known: BTreeMap<String, Vec<IpAddr>>,
    /// Lookups that have not come back yet, be they from earlier.
    pending: BTreeSet<String>,
    answers: Receiver<Answer>,
    answering: Sender<Answer>,
    lookup: Lookup,
}

#[derive(Debug)]
struct Answer {
    name: String,
    result: io::Result<Vec<IpAddr>>,
}

impl Default for Names {
    fn default() -> Self {
        Self::by(ask_system)
    }
}

fn ask_system(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip().to_canonical()).collect())
}

impl Names {
    fn by(lookup: Lookup) -> Self {
        let (answering, answers) = channel();
        let (known, pending) = Default::default();
        Self { known, pending, answers, answering, lookup }
    }

    /// The addresses of a name; none if it never resolved.
    pub(super) fn addresses(&self, name: &str) -> &[IpAddr] {
        self.known.get(name).map_or(&[], Vec::as_slice)
    }

    /// Looks all of them up, at the same time, and forgets every other name. A
    /// name without an answer keeps the addresses that it had, and is named in
    /// a problem.
    pub(super) fn refresh(
        &mut self,
        names: &BTreeSet<&str>,
        patience: Duration,
    ) -> Vec<GuardProblem> {
        self.known.retain(|name, _| names.contains(name.as_str()));
        let mut problems = Vec::new();
        // What came too late the last time; the error of then is an old story.
        while let Ok(answer) = self.answers.try_recv() {
            drop(self.take(answer, names));
        }
        for name in names {
            problems.extend(self.start(name).err());
        }
        problems.extend(self.wait(names, patience));
        problems
    }

    fn start(&mut self, name: &str) -> Result<(), GuardProblem> {
        if !is_name(name) {
            return Err(GuardProblem::NoName { name: name.to_owned() });
        }
        if self.pending.contains(name) {
            return Ok(()); // still being looked up from the last time
        }
        let started = if self.pending.len() < MAX_LOOKUPS {
            self.spawn(name)
        } else {
            Err(io::Error::other(format!("{MAX_LOOKUPS} names are being looked up already")))
        };
        started.map_err(|source| self.unresolved(name, source))?;
        self.pending.insert(name.to_owned());
        Ok(())
    }

    /// Whatever the thread hangs in, nothing waits for its end.
    fn spawn(&self, name: &str) -> io::Result<()> {
        let (lookup, answering, name) = (self.lookup, self.answering.clone(), name.to_owned());
        let look = move || {
            let result = lookup(&name);
            // Nobody listens any more: then nobody wants to know.
            drop(answering.send(Answer { name, result }));
        };
        thread::Builder::new().name("resolver".to_owned()).spawn(look).map(drop)
    }

    fn wait(&mut self, names: &BTreeSet<&str>, patience: Duration) -> Vec<GuardProblem> {
        let mut problems = Vec::new();
        let patience_ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let deadline_ns = clock::boot_ns().saturating_add(patience_ns);
        while names.iter().any(|name| self.pending.contains(*name)) {
            let left = Duration::from_nanos(deadline_ns.saturating_sub(clock::boot_ns()));
            let Ok(answer) = self.answers.recv_timeout(left) else {
                break;
            };
            problems.extend(self.take(answer, names).err());
        }
        let slow = names.iter().filter(|name| self.pending.contains(**name));
        problems.extend(slow.map(|name| GuardProblem::Slow {
            name: (*name).to_owned(),
            known: self.addresses(name).len(),
            patience,
        }));
        problems
    }

    fn take(&mut self, answer: Answer, names: &BTreeSet<&str>) -> Result<(), GuardProblem> {
        let Answer { name, result } = answer;
        self.pending.remove(&name);
        if !names.contains(name.as_str()) {
            return Ok(());
        }
        let nothing = || Err(io::Error::other("it has no address"));
        let found = result.and_then(|found| if found.is_empty() { nothing() } else { Ok(found) });
        let mut addresses = found.map_err(|source| self.unresolved(&name, source))?;
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        self.known.insert(name, addresses);
        Ok(())
    }

    fn unresolved(&self, name: &str, source: io::Error) -> GuardProblem {
        GuardProblem::Unresolved {
            name: name.to_owned(),
            known: self.addresses(name).len(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn refresh(resolved: &mut Names, names: &[&str], patience: Duration) -> Vec<String> {
        let names = names.iter().copied().collect();
        resolved.refresh(&names, patience).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn scopes_are_no_part_of_an_address_and_mapped_ones_are_ipv4() {
        let cases = [
            ("192.0.2.7", Some("192.0.2.7")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("fe80::1%2", Some("fe80::1")),
            ("192.0.2.7%eth0", None),
            ("192.0.2.7:22", None),
            ("192.0.2.7 ", None),
            ("example.org", None),
            ("", None),
            ("%", None),
        ];
        for (text, expected) in cases {
            let found = parse_address(text).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_logins_record_that_is_no_host_is_no_name() {
        for name in ["db.example", "db-1", "a_b", "localhost", "LOCAL."] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(MAX_NAME_BYTES + 1);
        for text in ["", ":0", ":pts/1:S.0", "tmux(7).%1", "a b", "a\0b", "é.example", &long] {
            assert!(!is_name(text), "{text:?}");
        }
    }

    #[test]
    fn the_systems_resolver_is_asked() {
        let mut resolved = Names::default();
        assert_eq!(refresh(&mut resolved, &["localhost"], PATIENCE), [""; 0]);
        assert!(resolved.addresses("localhost").iter().all(IpAddr::is_loopback));
        assert!(!resolved.addresses("localhost").is_empty());
    }

    #[test]
    fn a_name_that_does_not_resolve_is_named_and_keeps_its_last_good_addresses() {
        static IS_DOWN: AtomicBool = AtomicBool::new(false);
        let mut resolved = Names::by(|name| match name {
            _ if IS_DOWN.load(Ordering::SeqCst) => Err(io::Error::other("down")),
            "db" => Ok(vec!["192.0.2.9".parse().expect("an address")]),
            "empty" => Ok(Vec::new()),
            _ => Err(io::Error::other("no such name")),
        });
        let problems = refresh(&mut resolved, &["db", "gone", "empty"], PATIENCE);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().any(|text| text.contains("address of gone")), "{problems:?}");
        assert!(problems.iter().any(|text| text.contains("address of empty")), "{problems:?}");
        IS_DOWN.store(true, Ordering::SeqCst);
        let problems = refresh(&mut resolved, &["db"], PATIENCE);
        assert!(problems[0].contains("db; what it was before is still protected"), "{problems:?}");
        assert_eq!(resolved.addresses("db").len(), 1);
        assert_eq!(refresh(&mut resolved, &[], PATIENCE), [""; 0]);
        assert!(resolved.addresses("db").is_empty(), "nobody asks for it any more");
    }

    #[test]
    fn a_resolver_that_hangs_is_neither_waited_for_nor_asked_again() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        static GO_ON: AtomicBool = AtomicBool::new(false);
        let mut resolved = Names::by(|_| {
            ASKED.fetch_add(1, Ordering::SeqCst);
            while !GO_ON.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            Ok(vec!["192.0.2.9".parse().expect("an address")])
        });
        for _ in 0..2 {
            let problems = refresh(&mut resolved, &["db"], Duration::from_millis(1));
            assert!(problems[0].contains("no answer within 1ms"), "{problems:?}");
        }
        assert!(ASKED.load(Ordering::SeqCst) <= 1, "its thread may not have run yet");
        GO_ON.store(true, Ordering::SeqCst);
        assert_eq!(refresh(&mut resolved, &["db"], PATIENCE), [""; 0]);
        assert_eq!(resolved.addresses("db").len(), 1);
    }

    #[test]
    fn one_name_cannot_fill_the_map() {
        let mut resolved =
            Names::by(|_| Ok((0..=255).map(|last| IpAddr::from([192, 0, 2, last])).collect()));
        refresh(&mut resolved, &["many"], PATIENCE);
        assert_eq!(resolved.addresses("many").len(), MAX_ADDRESSES);
    }

    #[test]
    fn what_cannot_be_a_name_is_not_looked_up() {
        let mut resolved = Names::by(|name| unreachable!("{name}"));
        let problems = refresh(&mut resolved, &["a b"], PATIENCE);
        assert!(problems[0].contains("neither an address nor a name"), "{problems:?}");
    }
}
