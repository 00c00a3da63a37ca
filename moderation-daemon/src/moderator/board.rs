//! What anyone may read at any time without waiting for the moderator: who is
//! banned, whether the kernel enforces it, who is protected. Only the
//! moderator writes it, after each batch.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use serde::Serialize;

use crate::{
    engine::{Ban, BanIndex, Moment, Prefix, PrefixSet, Size, Subject, longest},
    network::Changes,
    store::Allowed,
};

/// A ban, and whether it is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct BanView {
    /// The ban.
    pub ban: Arc<Ban>,
    /// Whether all of it is in force: its address, if it has one, is blocked
    /// in the kernel.
    pub enforced: bool,
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
        let ip = subject.ip().filter(|ip| !state.trust.contains(*ip));
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

    /// Whether exactly this address is protected, if not all of its /64.
    pub fn is_protected(&self, ip: IpAddr) -> bool {
        self.read().trust.contains(ip)
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
            state.enforced += state.bans.of_prefix(prefix).filter(|ban| ban.blocks).count();
        }
    }

    pub(super) fn set_unblocked(&self, prefix: Prefix) {
        let mut state = self.write();
        if state.blocked.remove(&prefix) {
            state.enforced -= state.bans.of_prefix(prefix).filter(|ban| ban.blocks).count();
        }
    }

    pub(super) fn replace_blocked(&self, blocked: HashSet<Prefix>) {
        let mut state = self.write();
        state.blocked = blocked;
        state.enforced = state.bans.iter().filter(|ban| state.is_enforced(ban)).count();
    }

    pub(super) fn set_trust(&self, trust: PrefixSet, allowlist: Vec<Allowed>) {
        let mut state = self.write();
        state.trust = trust;
        state.allowlist = allowlist;
    }

    pub(super) fn set_kernel(&self, kernel: KernelStatus) {
        self.write().kernel = kernel;
    }

    pub(super) fn set_size(&self, size: Size) {
        self.write().size = size;
    }
}

impl State {
    fn view(&self, ban: &Arc<Ban>) -> BanView {
        BanView { ban: Arc::clone(ban), enforced: self.is_enforced(ban) }
    }

    fn is_enforced(&self, ban: &Ban) -> bool {
        // One that was lifted or has run out is not in force, whoever else is
        // banned at its address.
        self.bans.get(ban.id).is_some()
            && ban.prefix.is_none_or(|prefix| !ban.blocks || self.blocked.contains(&prefix))
    }
}
