//! Who is guarded, put together from the configuration and from what is found
//! on this host, and written into the kernel by difference.

use std::{collections::BTreeSet, time::Duration};

use ipnet::IpNet;

use crate::{
    clock, config,
    guard::{self, Collected, Guard, Resolved, Sources},
    network::{AllowMaps, Changes, Guards, NetworkError, PinIdentity, Pins},
    telemetry::chain,
};

/// How often everything is looked at: some hosts have a million routes, and
/// name servers are not to be asked all the time. Sessions are looked at in
/// every round.
const EVERYWHERE: Duration = Duration::from_secs(30);

/// How long guards that are there at the start stay although nobody can tell
/// why: long enough for a name server to come up, short enough that a session
/// does not protect for long after its end.
const INHERITANCE: Duration = Duration::from_secs(5 * 60);

/// What one look found.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Who must not be locked out, and why; sorted.
    pub guards: Vec<Guard>,
    /// Who was guarded before, and stays so until all sources can be looked at.
    pub inherited: BTreeSet<IpNet>,
    /// What is missing, and why.
    pub problems: Vec<String>,
    /// Whether somebody may be missing.
    has_gaps: bool,
}

impl Look {
    fn take(&mut self, collected: Collected) {
        self.has_gaps |= collected.problems.iter().any(guard::GuardProblem::is_gap);
        self.problems.extend(collected.problems.iter().map(|problem| chain(problem)));
        self.guards.extend(collected.guards);
        self.guards.sort_unstable();
        self.guards.dedup();
    }
}

/// See the module.
#[derive(Debug)]
pub struct Guardian {
    sources: Sources,
    configured: Vec<IpNet>,
    proxies: Vec<IpNet>,
    resolved: Resolved,
    lasting: Look,
    /// When to look everywhere again, by the boot clock.
    everywhere_at_ns: u64,
    /// What the kernel had at the start, and until when that counts.
    inherited: BTreeSet<IpNet>,
    inherited_until_ns: Option<u64>,
    written: Option<Written>,
}

/// What was written, where, and until when it is believed to be there.
#[derive(Debug)]
struct Written {
    guards: BTreeSet<IpNet>,
    pins: PinIdentity,
    until_ns: u64,
}

impl Guardian {
    /// As configured; looks at nothing yet.
    pub fn new(network: &config::Network, sources: Sources) -> Self {
        Self {
            sources,
            configured: network.guards.clone(),
            proxies: network.proxies.clone(),
            resolved: Resolved::default(),
            lasting: Look::default(),
            everywhere_at_ns: 0,
            inherited: BTreeSet::new(),
            inherited_until_ns: None,
            written: None,
        }
    }

    /// Has the next look be one at everything.
    pub const fn look_everywhere(&mut self) {
        self.everywhere_at_ns = 0;
    }

    /// Looks for whom to guard; writes nothing.
    pub fn look(&mut self, pins: &Pins) -> Look {
        let now_ns = clock::boot_ns();
        if now_ns >= self.everywhere_at_ns {
            let mut lasting = guard::lasting(&self.sources, &mut self.resolved);
            lasting.keep(&self.lasting.guards);
            self.lasting = Look::default();
            self.lasting.take(lasting);
            self.everywhere_at_ns = now_ns.saturating_add(nanoseconds(EVERYWHERE));
        }
        let mut look = self.lasting.clone();
        look.take(guard::sessions(&self.sources, &mut self.resolved));
        self.inherit(pins, &mut look, now_ns);
        look
    }

    /// A start while a source cannot be looked at takes nobody's protection
    /// away.
    fn inherit(&mut self, pins: &Pins, look: &mut Look, now_ns: u64) {
        let until_ns = *self.inherited_until_ns.get_or_insert_with(|| {
            // Before anything was loaded there is nothing to inherit.
            self.inherited = Guards::read(pins).map(|guards| guards.guards).unwrap_or_default();
            now_ns.saturating_add(nanoseconds(INHERITANCE))
        });
        if !look.has_gaps || now_ns >= until_ns {
            self.inherited.clear();
        }
        look.inherited.clone_from(&self.inherited);
    }

    /// Every prefix of a look and of the configuration, each once.
    pub fn prefixes(&self, look: &Look) -> BTreeSet<IpNet> {
        let found = look.guards.iter().map(|guard| guard.prefix);
        found.chain(self.configured.iter().copied()).chain(look.inherited.clone()).collect()
    }

    /// The configured guards.
    pub fn configured(&self) -> &[IpNet] {
        &self.configured
    }

    /// The configured proxies.
    pub fn proxies(&self) -> &[IpNet] {
        &self.proxies
    }

    /// Makes the kernel guard exactly these, by difference. `None` if they were
    /// written only just now.
    ///
    /// # Errors
    ///
    /// If there are too many, or the maps cannot be written.
    pub fn write(&mut self, pins: &Pins, look: &Look) -> Result<Option<Changes>, NetworkError> {
        let (guards, now_ns, identity) = (self.prefixes(look), clock::boot_ns(), pins.identity());
        let is_there = self.written.as_ref().is_some_and(|written| {
            written.guards == guards && Some(written.pins) == identity && now_ns < written.until_ns
        });
        if is_there {
            return Ok(None);
        }
        self.written = None;
        let list: Vec<_> = guards.iter().copied().collect();
        let changes = AllowMaps::open_guards(pins)?.set_guards(&list, &self.proxies)?;
        let until_ns = now_ns.saturating_add(nanoseconds(EVERYWHERE));
        self.written = identity.map(|pins| Written { guards, pins, until_ns });
        Ok(Some(changes))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
