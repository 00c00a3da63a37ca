//! What anyone may read at any time without waiting for the moderator: who is
//! banned or on an imported list, whether the kernel enforces it, who is
//! protected. Only the moderator writes it, after each batch.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use ipnet::IpNet;
use serde::Serialize;

use super::{
    denial::Denials,
    view::{BanView, Enforcement},
};
use crate::{
    blocklist::{Expiry, Imported, Imports, ListSummary, PrefixMap, Source},
    engine::{
        Ban, BanIndex, Moment, Prefix, PrefixSet, Size, Subject, Taken, Trust, Trusted, longest,
    },
    network::Changes,
    store::Allowed,
};

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
    /// The last one that found anything, be it that the maps were new: later ones
    /// do not make it unseen.
    pub drift_seen: Option<DriftSeen>,
}

/// Kernel and store were found apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DriftSeen {
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// In how many entries.
    pub changes: Changes,
}

/// How many prefixes there are, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Different exact prefixes that are banned or imported.
    pub exact: usize,
    /// Different networks.
    pub networks: usize,
    /// Entries of both kinds that the kernel holds.
    pub enforced: usize,
}

#[derive(Debug, Default)]
struct State {
    bans: BanIndex,
    /// How many of them are in force.
    enforced: usize,
    imports: Imports,
    /// Prefixes that are both banned and imported: exact ones, and networks.
    both: (usize, usize),
    blocked: PrefixMap<()>,
    trust: PrefixSet,
    allowlist: Vec<Allowed>,
    kernel: KernelStatus,
    size: Size,
    safe_until_boot_ms: u64,
    runaway: bool,
    /// Nothing is dropped in the kernel, by configuration.
    has_no_kernel: bool,
}

/// See the module. Its lock is never held over an await.
#[derive(Debug, Default)]
pub struct Board {
    state: RwLock<State>,
    denials: Denials,
}

impl Board {
    // Whoever panicked while writing left single entries, all of them whole.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest denials.
    pub const fn denials(&self) -> &Denials {
        &self.denials
    }

    /// The ban or the entry of a list that holds for a subject longest.
    pub fn check(&self, subject: &Subject, now: Moment) -> Option<BanView> {
        self.find(subject, now, |_| true)
    }

    /// The same for a user whom no rule may ban: what rules did to the address
    /// because of others does not hold.
    pub fn check_protected(&self, subject: &Subject, now: Moment) -> Option<BanView> {
        self.find(subject, now, |ban| !ban.is_for_others(subject))
    }

    fn find(
        &self,
        subject: &Subject,
        now: Moment,
        counts: impl Fn(&Ban) -> bool,
    ) -> Option<BanView> {
        let state = self.read();
        if state.bans.is_empty() && state.imports.list_count() == 0 {
            return None;
        }
        let counts = |ban: &&Arc<Ban>| counts(ban);
        let ip = subject.ip().filter(|ip| !state.trust.protects(*ip));
        let of_user = subject.user().and_then(|user| state.bans.of_user(user).find(counts));
        let around = ip.into_iter().flat_map(|ip| state.bans.prefixes_around(ip));
        let of_ip = around.map(|prefix| state.bans.of_prefix(prefix).find(counts));
        let ban = longest(of_ip.chain([of_user]), now.unix_ms);
        let imported = ip.and_then(|ip| state.imports.covering(ip, now.unix_ms));
        match (ban, imported) {
            (Some(ban), Some(entry)) if ban.ends() < entry.expiry.ends() => {
                Some(state.view_imported(&entry))
            }
            (None, Some(entry)) => Some(state.view_imported(&entry)),
            (ban, _) => ban.map(|ban| state.view(ban)),
        }
    }

    /// A ban with whether it is in force.
    pub fn view(&self, ban: &Arc<Ban>) -> BanView {
        self.read().view(ban)
    }

    /// The entries of lists for exactly these prefixes.
    pub fn imported(&self, prefixes: &[Prefix]) -> Vec<BanView> {
        let state = self.read();
        let entries = prefixes.iter().flat_map(|prefix| state.imports.of_prefix(*prefix));
        entries.map(|entry| state.view_imported(&entry)).collect()
    }

    /// The number of active bans, and of those that are in force.
    pub fn ban_counts(&self) -> (usize, usize) {
        let state = self.read();
        (state.bans.len(), state.enforced)
    }

    /// How many prefixes there are.
    pub fn fill(&self) -> Fill {
        let state = self.read();
        let (bans, imports) = (state.bans.prefix_counts(), state.imports.counts());
        Fill {
            exact: bans.0 + imports.0 - state.both.0,
            networks: bans.1 + imports.1 - state.both.1,
            enforced: state.blocked.len(),
        }
    }

    /// Every imported list in short.
    pub fn lists(&self) -> Vec<ListSummary> {
        self.read().imports.lists().collect()
    }

    /// Whether there is a list of that source.
    pub fn has_list(&self, source: &Source) -> bool {
        self.read().imports.has(source)
    }

    /// What forbids a ban on exactly this address, if not on all of its /64.
    pub fn protecting(&self, ip: IpAddr) -> Option<Trusted> {
        self.read().trust.of(ip).filter(|trusted| trusted.trust > Trust::Proxy)
    }

    /// The operator's allowlist, without the configured one.
    pub fn allowlist(&self) -> Vec<Allowed> {
        self.read().allowlist.clone()
    }

    /// Every prefix that is guarded, whether by configuration or because root's
    /// loader found it.
    pub fn guards(&self) -> Vec<IpNet> {
        self.read().trust.guards().copied().collect()
    }

    /// How the kernel stands.
    pub fn kernel(&self) -> KernelStatus {
        self.read().kernel.clone()
    }

    /// How full the engine is.
    pub fn size(&self) -> Size {
        self.read().size
    }

    /// What limits counted after this moment of the boot clock, a crash would forget;
    /// known to a second.
    pub fn safe_until_boot_ms(&self) -> u64 {
        self.read().safe_until_boot_ms
    }

    /// Whether automatic bans have stopped, because a rule has run away.
    pub fn is_runaway(&self) -> bool {
        self.read().runaway
    }
}

/// What the kernel should hold, and what it does.
impl Board {
    /// Until when the kernel should block exactly this prefix, in milliseconds
    /// since 1970: `Some(None)` for ever, `None` if it should not. Whoever is
    /// trusted is left out, whoever wrote the ban down.
    pub fn wanted(&self, prefix: Prefix) -> Option<Option<u64>> {
        self.read().wanted(prefix)
    }

    /// Calls `take` with every prefix that the kernel should block, each once,
    /// and until when. Nothing may be written to the board meanwhile.
    pub fn for_each_wanted(&self, mut take: impl FnMut(Prefix, Option<u64>)) {
        let state = self.read();
        for prefix in state.bans.prefixes() {
            if let Some(until) = state.wanted(prefix) {
                take(prefix, until);
            }
        }
        let (several, both) = (state.imports.list_count() > 1, state.both != (0, 0));
        let mut seen: PrefixMap<()> = PrefixMap::default();
        for (prefix, expiry) in state.imports.iter() {
            let is_banned = || state.bans.of_prefix(prefix).next().is_some();
            if both && is_banned() || !state.trust.lets_drop(prefix) {
                continue;
            }
            if !several {
                take(prefix, expiry.unix_ms());
            } else if seen.insert(prefix, ()).is_none()
                && let Some(until) = state.wanted(prefix)
            {
                take(prefix, until);
            }
        }
    }

    /// An empty map with room for most of them: hosts with many bans have them
    /// from a list.
    pub(super) fn room<V>(&self) -> PrefixMap<V> {
        self.read().imports.room()
    }

    /// The banned and imported prefixes that lie within a block, or around it.
    pub(super) fn touching(&self, block: IpNet) -> Vec<Prefix> {
        let state = self.read();
        let touches =
            |prefix: &Prefix| block.contains(&prefix.net()) || prefix.net().contains(&block);
        let bans = state.bans.prefixes().filter(touches);
        bans.chain(state.imports.iter().map(|(prefix, _)| prefix).filter(touches)).collect()
    }

    /// Whether the kernel blocks a prefix, as far as is known.
    pub(super) fn is_blocked(&self, prefix: Prefix) -> bool {
        self.read().blocked.contains(prefix)
    }

    /// Notes that the kernel blocks these now.
    pub(super) fn set_blocked(&self, prefixes: impl IntoIterator<Item = Prefix>) {
        let mut state = self.write();
        for prefix in prefixes {
            if state.blocked.insert(prefix, ()).is_none() {
                state.enforced += state.blocking(prefix);
            }
        }
    }

    /// Notes that the kernel does not block these any more.
    pub(super) fn set_unblocked(&self, prefixes: impl IntoIterator<Item = Prefix>) {
        let mut state = self.write();
        for prefix in prefixes {
            if state.blocked.remove(prefix).is_some() {
                state.enforced -= state.blocking(prefix);
            }
        }
    }

    /// Notes all that the kernel blocks.
    pub(super) fn replace_blocked(&self, blocked: PrefixMap<()>) {
        let mut state = self.write();
        state.blocked = blocked;
        state.count_enforced();
    }
}

/// What the moderator writes.
impl Board {
    pub(super) fn insert(&self, ban: &Arc<Ban>) {
        let mut state = self.write();
        state.around(ban.prefix, |state| state.bans.insert(Arc::clone(ban)));
        state.enforced += usize::from(state.is_enforced(ban));
    }

    pub(super) fn remove(&self, ban: &Ban) {
        let mut state = self.write();
        state.enforced -= usize::from(state.is_enforced(ban));
        state.around(ban.prefix, |state| drop(state.bans.remove(ban.id)));
    }

    /// Shows what was read back at the start.
    pub(super) fn set_imports(&self, imports: Imports) {
        let mut state = self.write();
        let both = state.bans.prefixes().filter(|prefix| imports.contains(*prefix));
        let (exact, networks): (Vec<_>, Vec<_>) = both.partition(|prefix| prefix.is_exact());
        state.both = (exact.len(), networks.len());
        state.imports = imports;
    }

    /// Shows entries that are on a list from now on.
    pub(super) fn import(&self, source: &Source, entries: &[(Prefix, Expiry)], now: Moment) {
        let mut state = self.write();
        state.imports.touch(source, now.unix_ms);
        for (prefix, expiry) in entries {
            let insert = |state: &mut State| state.imports.insert(source, *prefix, *expiry);
            state.around(Some(*prefix), insert);
        }
    }

    /// Takes an entry off a list.
    pub(super) fn unimport(&self, source: &Source, prefix: Prefix) {
        let mut state = self.write();
        state.around(Some(prefix), |state| state.imports.remove(source, prefix));
    }

    /// Forgets a list that has become empty.
    pub(super) fn forget_list(&self, source: &Source) {
        self.write().imports.forget(source);
    }

    /// Whether lists may have lapsed entries.
    pub(super) fn imports_may_have_lapsed(&self, now: Moment) -> bool {
        self.read().imports.may_have_lapsed(now.unix_ms)
    }

    /// To be called when lapsed entries have been taken off.
    pub(super) fn find_next_expiry(&self) {
        self.write().imports.find_next_expiry();
    }

    /// Places that imports take.
    pub(super) fn taken(&self) -> Taken {
        let (exact, networks) = self.read().imports.counts();
        Taken { exact, networks }
    }

    /// Whether exactly this prefix is banned or imported: it has its place.
    pub(super) fn has_place(&self, prefix: Prefix) -> bool {
        let state = self.read();
        state.imports.contains(prefix) || state.bans.of_prefix(prefix).next().is_some()
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

    /// To be called when the configuration has nothing dropped in the kernel.
    pub(super) fn set_no_kernel(&self) {
        let mut state = self.write();
        state.has_no_kernel = true;
        state.count_enforced();
    }

    /// Says whether that is news.
    pub(super) fn set_runaway(&self, runaway: bool) -> bool {
        let mut state = self.write();
        std::mem::replace(&mut state.runaway, runaway) != runaway
    }

    pub(super) fn set_size(&self, size: Size) {
        self.write().size = size;
    }

    pub(super) fn set_safe_until(&self, boot_ms: u64) {
        self.write().safe_until_boot_ms = boot_ms;
    }
}

impl State {
    fn view(&self, ban: &Arc<Ban>) -> BanView {
        let network = ban.prefix.map(|prefix| self.enforcement(prefix, ban.blocks));
        let enforced = self.is_enforced(ban);
        BanView { ban: Arc::clone(ban), enforced, network, source: None }
    }

    fn view_imported(&self, entry: &Imported) -> BanView {
        BanView::imported(entry, self.enforcement(entry.prefix, true))
    }

    fn enforcement(&self, prefix: Prefix, blocks: bool) -> Enforcement {
        match self.trust.proxy(prefix) {
            Some(proxy) => Enforcement::Proxy(proxy),
            None if !blocks => Enforcement::Never,
            None if self.has_no_kernel => Enforcement::Off,
            None if self.blocked.contains(prefix) => Enforcement::Blocked,
            None => Enforcement::Pending,
        }
    }

    fn wanted(&self, prefix: Prefix) -> Option<Option<u64>> {
        let ban = self.bans.blocked_until(prefix).map(Expiry::ends_of);
        let entry = self.imports.until(prefix).map(Expiry::ends);
        let ends = ban.max(entry)?;
        self.trust.lets_drop(prefix).then_some((ends != u64::MAX).then_some(ends))
    }

    /// Changes what is known about a prefix, and keeps count of those that are
    /// both banned and imported.
    fn around<T>(&mut self, prefix: Option<Prefix>, change: impl FnOnce(&mut Self) -> T) {
        let is_both = |state: &Self, prefix: Prefix| {
            state.imports.contains(prefix) && state.bans.of_prefix(prefix).next().is_some()
        };
        let before = prefix.is_some_and(|prefix| is_both(self, prefix));
        drop(change(self));
        let Some(prefix) = prefix else { return };
        let count = if prefix.is_exact() { &mut self.both.0 } else { &mut self.both.1 };
        *count -= usize::from(before);
        let after = is_both(self, prefix);
        let count = if prefix.is_exact() { &mut self.both.0 } else { &mut self.both.1 };
        *count += usize::from(after);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Author;

    const NOW: Moment = Moment { boot_ms: 0, unix_ms: 1_000 };

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    fn ban(id: u64, text: &str, expires_at_unix_ms: Option<u64>, blocks: bool) -> Arc<Ban> {
        Arc::new(Ban {
            id,
            user: None,
            prefix: Some(prefix(text)),
            blocks,
            reason: "test".to_owned(),
            violation: None,
            score: None,
            created_at_unix_ms: 0,
            expires_at_unix_ms,
            by: Author::Rule,
            with: None,
            severity: None,
            review: false,
        })
    }

    fn source(name: &str) -> Source {
        name.parse().expect("a source")
    }

    fn list(board: &Board, name: &str, entries: &[(&str, Option<u64>)]) {
        let parse = |(text, expires): &(&str, Option<u64>)| (prefix(text), Expiry::at(*expires));
        board.import(&source(name), &entries.iter().map(parse).collect::<Vec<_>>(), NOW);
    }

    #[test]
    fn the_kernel_should_block_as_long_as_a_ban_or_a_list_says() {
        let board = Board::default();
        board.insert(&ban(1, "192.0.2.1", Some(5_000), true));
        board.insert(&ban(2, "192.0.2.2", Some(5_000), false));
        board.insert(&ban(3, "192.0.2.3", None, true));
        list(&board, "one", &[("192.0.2.1", Some(9_000)), ("192.0.2.2", Some(2_000))]);
        list(&board, "two", &[("192.0.2.1", None), ("192.0.2.4", Some(2_000))]);
        let cases = [
            ("192.0.2.1", Some(None)),
            ("192.0.2.2", Some(Some(2_000))),
            ("192.0.2.3", Some(None)),
            ("192.0.2.4", Some(Some(2_000))),
            ("192.0.2.5", None),
        ];
        for (text, want) in cases {
            assert_eq!(board.wanted(prefix(text)), want, "{text}");
        }
        let mut all = Vec::new();
        board.for_each_wanted(|prefix, until| all.push((prefix, until)));
        all.sort();
        let want: Vec<_> =
            cases[..4].iter().map(|(text, want)| (prefix(text), want.flatten())).collect();
        assert_eq!(all, want, "each once");
        let fill = board.fill();
        assert_eq!((fill.exact, fill.networks), (4, 0));
    }

    #[test]
    fn prefixes_that_are_both_banned_and_imported_count_once_whatever_goes_first() {
        let board = Board::default();
        let exact = || board.fill().exact;
        board.insert(&ban(1, "192.0.2.1", None, true));
        list(&board, "one", &[("192.0.2.1", None), ("192.0.2.2", None)]);
        board.insert(&ban(2, "192.0.2.2", None, true));
        assert_eq!(exact(), 2);
        board.unimport(&source("one"), prefix("192.0.2.1"));
        board.remove(&ban(2, "192.0.2.2", None, true));
        assert_eq!(exact(), 2);
        board.unimport(&source("one"), prefix("192.0.2.2"));
        board.remove(&ban(1, "192.0.2.1", None, true));
        assert_eq!(board.fill(), Fill::default());
    }

    #[test]
    fn without_a_kernel_nothing_waits_for_one() {
        let board = Board::default();
        let (first, second) = (ban(1, "192.0.2.1", None, true), ban(2, "192.0.2.2", None, true));
        board.insert(&first);
        assert_eq!(board.ban_counts(), (1, 0));
        board.set_no_kernel();
        assert_eq!(board.ban_counts(), (1, 1), "what was read back before, too");
        board.insert(&second);
        assert_eq!(board.ban_counts(), (2, 2));
        let view = board.view(&second);
        assert_eq!((view.network, view.enforced), (Some(Enforcement::Off), true));
        let soft = ban(3, "192.0.2.3", None, false);
        board.insert(&soft);
        assert_eq!(board.view(&soft).network, Some(Enforcement::Never), "with a kernel neither");
        list(&board, "one", &[("198.51.100.1", None)]);
        assert_eq!(board.imported(&[prefix("198.51.100.1")])[0].network, Some(Enforcement::Off));
        board.remove(&first);
        assert_eq!(board.ban_counts(), (2, 2));
    }

    #[test]
    fn an_imported_address_is_banned_and_its_list_is_named() {
        let board = Board::default();
        list(&board, "one", &[("192.0.2.0/24", Some(9_000))]);
        board.insert(&ban(1, "192.0.2.1", Some(5_000), true));
        let check = |ip: &str, unix_ms| {
            let subject = Subject::new(None, ip.parse().ok()).expect("an address");
            board.check(&subject, Moment { unix_ms, ..NOW })
        };
        let longer = check("192.0.2.1", 0).expect("banned and listed");
        assert_eq!(longer.source, Some(source("one")));
        assert_eq!(longer.network, Some(Enforcement::Pending));
        board.set_blocked([prefix("192.0.2.0/24")]);
        assert!(check("192.0.2.9", 0).expect("listed").enforced);
        assert_eq!(check("192.0.2.9", 9_000), None);
        let office = ("192.0.2.9/32".parse().expect("a prefix"), Trust::Allowlist);
        board.set_trust([office].into_iter().collect(), Vec::new());
        assert_eq!(check("192.0.2.9", 0), None, "whoever is allowed passes");
        assert!(check("192.0.2.8", 0).is_some());
    }
}
