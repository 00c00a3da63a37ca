//! What anyone may read at any time without waiting for the moderator: who is
//! banned, whether the kernel enforces it, who is protected. Only the
//! moderator writes it, after each batch.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use ipnet::IpNet;
use serde::Serialize;

use crate::{
    engine::{Ban, BanIndex, Moment, Prefix, PrefixSet, Size, Subject, Trust, Trusted, longest},
    network::Changes,
    store::Allowed,
};

/// A ban, and whether it is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct BanView {
    /// The ban.
    pub ban: Arc<Ban>,
    /// Whether all of it is in force: what it asks of the kernel, if anything,
    /// is done.
    pub enforced: bool,
    /// What the kernel does about its prefix, if it has one.
    pub network: Option<Enforcement>,
}

impl BanView {
    /// Of a ban that is over: nothing of it is in force.
    pub const fn over(ban: Arc<Ban>) -> Self {
        Self { ban, enforced: false, network: None }
    }
}

/// What the kernel does about a banned prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// It drops the packets.
    Blocked,
    /// It should, and does not yet.
    Pending,
    /// By the rules it need not: the ban holds at the API only.
    Never,
    /// It may not: the prefix belongs to that proxy or CDN.
    Proxy(IpNet),
}

/// How the kernel stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelStatus {
    /// Whether the kernel's maps are open.
    pub open: bool,
    /// Whether the program was on an interface when that was last looked at.
    pub attached: bool,
    /// Why not, or what failed last.
    pub problem: Option<String>,
    /// What the last comparison of kernel and store found and mended.
    pub last_drift: Changes,
}

#[derive(Debug, Default)]
struct State {
    bans: BanIndex,
    /// How many of them are in force.
    enforced: usize,
    blocked: HashSet<Prefix>,
    trust: PrefixSet,
    allowlist: Vec<Allowed>,
    kernel: KernelStatus,
    size: Size,
    runaway: bool,
}

/// See the module. Its lock is never held over an await.
#[derive(Debug, Default)]
pub struct Board(RwLock<State>);

impl Board {
    // Whoever panicked while writing left single entries, all of them whole.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ban that holds for a subject longest.
    pub fn check(&self, subject: &Subject, now: Moment) -> Option<BanView> {
        let state = self.read();
        let ip = subject.ip().filter(|ip| !state.trust.protects(*ip));
        let of_user = subject.user().and_then(|user| state.bans.of_user(user).next());
        let around = ip.into_iter().flat_map(|ip| state.bans.prefixes_around(ip));
        let of_ip = around.map(|prefix| state.bans.of_prefix(prefix).next());
        longest(of_ip.chain([of_user]), now.unix_ms).map(|ban| state.view(ban))
    }

    /// A ban with whether it is in force.
    pub fn view(&self, ban: &Arc<Ban>) -> BanView {
        self.read().view(ban)
    }

    /// Whether what a ban asks of the kernel is done.
    pub fn is_enforced(&self, ban: &Ban) -> bool {
        self.read().is_enforced(ban)
    }

    /// The number of active bans, and of those that are in force.
    pub fn ban_counts(&self) -> (usize, usize) {
        let state = self.read();
        (state.bans.len(), state.enforced)
    }

    /// What forbids a ban on exactly this address, if not on all of its /64.
    pub fn protecting(&self, ip: IpAddr) -> Option<Trusted> {
        self.read().trust.of(ip).filter(|trusted| trusted.trust > Trust::Proxy)
    }

    /// The operator's allowlist, without the configured one.
    pub fn allowlist(&self) -> Vec<Allowed> {
        self.read().allowlist.clone()
    }

    /// How the kernel stands.
    pub fn kernel(&self) -> KernelStatus {
        self.read().kernel.clone()
    }

    /// How full the engine is.
    pub fn size(&self) -> Size {
        self.read().size
    }

    /// Whether automatic bans have stopped, because a rule has run away.
    pub fn is_runaway(&self) -> bool {
        self.read().runaway
    }

    /// Whether the kernel blocks a prefix, as far as is known.
    pub(super) fn is_blocked(&self, prefix: Prefix) -> bool {
        self.read().blocked.contains(&prefix)
    }

    pub(super) fn insert(&self, ban: &Arc<Ban>) {
        let mut state = self.write();
        state.bans.insert(Arc::clone(ban));
        state.enforced += usize::from(state.is_enforced(ban));
    }

    pub(super) fn remove(&self, ban: &Ban) {
        let mut state = self.write();
        state.enforced -= usize::from(state.is_enforced(ban));
        state.bans.remove(ban.id);
    }

    pub(super) fn set_blocked(&self, prefix: Prefix) {
        let mut state = self.write();
        if state.blocked.insert(prefix) {
            state.enforced += state.blocking(prefix);
        }
    }

    pub(super) fn set_unblocked(&self, prefix: Prefix) {
        let mut state = self.write();
        if state.blocked.remove(&prefix) {
            state.enforced -= state.blocking(prefix);
        }
    }

    pub(super) fn replace_blocked(&self, blocked: HashSet<Prefix>) {
        let mut state = self.write();
        state.blocked = blocked;
        state.count_enforced();
    }

    pub(super) fn set_trust(&self, trust: PrefixSet, allowlist: Vec<Allowed>) {
        let mut state = self.write();
        state.trust = trust;
        state.allowlist = allowlist;
        state.count_enforced();
    }

    pub(super) fn set_kernel(&self, kernel: KernelStatus) {
        self.write().kernel = kernel;
    }

    /// Says whether that is news.
    pub(super) fn set_runaway(&self, runaway: bool) -> bool {
        let mut state = self.write();
        std::mem::replace(&mut state.runaway, runaway) != runaway
    }

    pub(super) fn set_size(&self, size: Size) {
        self.write().size = size;
    }
}

impl State {
    fn view(&self, ban: &Arc<Ban>) -> BanView {
        let network = ban.prefix.map(|prefix| self.enforcement(prefix, ban.blocks));
        BanView { ban: Arc::clone(ban), enforced: self.is_enforced(ban), network }
    }

    fn enforcement(&self, prefix: Prefix, blocks: bool) -> Enforcement {
        match self.trust.proxy(prefix) {
            Some(proxy) => Enforcement::Proxy(proxy),
            None if !blocks => Enforcement::Never,
            None if self.blocked.contains(&prefix) => Enforcement::Blocked,
            None => Enforcement::Pending,
        }
    }

    /// Bans on a prefix that are in force exactly if the kernel blocks it.
    fn blocking(&self, prefix: Prefix) -> usize {
        if self.trust.proxy(prefix).is_some() {
            return 0;
        }
        self.bans.of_prefix(prefix).filter(|ban| ban.blocks).count()
    }

    fn count_enforced(&mut self) {
        self.enforced = self.bans.iter().filter(|ban| self.is_enforced(ban)).count();
    }

    fn is_enforced(&self, ban: &Ban) -> bool {
        // One that was lifted or has run out is not in force, whoever else is
        // banned at its address.
        self.bans.get(ban.id).is_some()
            && ban
                .prefix
                .is_none_or(|prefix| self.enforcement(prefix, ban.blocks) != Enforcement::Pending)
    }
}
