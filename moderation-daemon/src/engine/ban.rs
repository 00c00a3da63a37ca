//! Bans, and which of them holds for whom.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    net::IpAddr,
    sync::Arc,
};

use super::{Author, Prefix, Severity, Subject, UserId, ViolationType, prefix::Lengths};

/// A ban's number on this host; never used twice.
pub type BanId = u64;

/// A subject, an expiry and a reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Ban {
    /// Its number.
    pub id: BanId,
    /// The banned user.
    pub user: Option<UserId>,
    /// The banned addresses.
    pub prefix: Option<Prefix>,
    /// Whether the kernel is to drop their packets; otherwise the ban holds at
    /// the API only.
    pub blocks: bool,
    /// Why, for people.
    pub reason: String,
    /// The violation that led to it; `None` if an operator banned.
    pub violation: Option<ViolationType>,
    /// The score that led to it.
    pub score: Option<f64>,
    /// Since when, in milliseconds since 1970.
    pub created_at_unix_ms: u64,
    /// Until when, in milliseconds since 1970; `None` for ever.
    pub expires_at_unix_ms: Option<u64>,
    /// Who banned.
    pub by: Author,
    /// The ban that it fell together with and is lifted with.
    pub with: Option<BanId>,
    /// How bad the violation was, if somebody said so.
    pub severity: Option<Severity>,
    /// Whether a person is to look at it.
    pub review: bool,
}

impl Ban {
    /// Whether it has not run out yet.
    pub fn holds_at(&self, now_unix_ms: u64) -> bool {
        self.expires_at_unix_ms.is_none_or(|expiry| now_unix_ms < expiry)
    }

    /// Whether rules banned the address that this subject is at because of
    /// somebody else.
    pub fn is_for_others(&self, subject: &Subject) -> bool {
        self.by == Author::Rule && (self.user.is_none() || self.user.as_ref() != subject.user())
    }

    /// The expiry, with permanent bans after all others.
    pub fn ends(&self) -> u64 {
        self.expires_at_unix_ms.unwrap_or(u64::MAX)
    }
}

/// Active bans, found by number, user, address and expiry.
#[derive(Debug, Default)]
pub struct BanIndex {
    by_id: BTreeMap<BanId, Arc<Ban>>,
    by_user: HashMap<UserId, ByExpiry>,
    by_prefix: HashMap<Prefix, ByExpiry>,
    lengths: Lengths,
    /// How many different /64s are banned in wider blocks.
    in_blocks: HashMap<Prefix, usize>,
    by_expiry: ByExpiry,
}

/// Bans in the order in which they end, so that however many there are for one
/// subject, the last one is found at once.
type ByExpiry = BTreeSet<(u64, BanId)>;

impl BanIndex {
    /// Adds one.
    pub fn insert(&mut self, ban: Arc<Ban>) {
        if let Some(user) = &ban.user {
            self.by_user.entry(user.clone()).or_default().insert((ban.ends(), ban.id));
        }
        if let Some(prefix) = ban.prefix {
            let bans = self.by_prefix.entry(prefix).or_default();
            let is_first = bans.is_empty();
            bans.insert((ban.ends(), ban.id));
            if is_first {
                self.lengths.add(prefix);
                blocks_around(prefix).for_each(|it| *self.in_blocks.entry(it).or_default() += 1);
            }
        }
        self.by_expiry.insert((ban.ends(), ban.id));
        self.by_id.insert(ban.id, ban);
    }

    /// Takes one out.
    pub fn remove(&mut self, id: BanId) -> Option<Arc<Ban>> {
        let ban = self.by_id.remove(&id)?;
        self.by_expiry.remove(&(ban.ends(), id));
        if let Some(user) = &ban.user {
            forget(&mut self.by_user, user, &ban);
        }
        if let Some(prefix) = ban.prefix
            && forget(&mut self.by_prefix, &prefix, &ban)
        {
            self.lengths.remove(prefix);
            blocks_around(prefix).for_each(|block| self.forget_in(block));
        }
        Some(ban)
    }

    /// Takes out those that have run out.
    pub fn expire(&mut self, now_unix_ms: u64) -> Vec<Arc<Ban>> {
        let mut expired = Vec::new();
        while let Some(&(ends, id)) = self.by_expiry.first()
            && ends <= now_unix_ms
        {
            expired.extend(self.remove(id));
        }
        expired
    }

    /// The one with that number.
    pub fn get(&self, id: BanId) -> Option<&Arc<Ban>> {
        self.by_id.get(&id)
    }

    /// Every one, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Ban>> {
        self.by_id.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Those that name the user; the last to end comes first.
    pub fn of_user<'a>(&'a self, user: &UserId) -> impl Iterator<Item = &'a Arc<Ban>> + use<'a> {
        self.of(self.by_user.get(user))
    }

    /// Those on exactly this prefix; the last to end comes first.
    pub fn of_prefix(&self, prefix: Prefix) -> impl Iterator<Item = &Arc<Ban>> {
        self.of(self.by_prefix.get(&prefix))
    }

    /// The banned prefixes that the address lies in, the widest first.
    pub fn prefixes_around(&self, ip: IpAddr) -> impl Iterator<Item = Prefix> + use<'_> {
        self.lengths.around(ip).filter(|prefix| self.by_prefix.contains_key(prefix))
    }

    /// Whether there is any ban on that user or around that address.
    #[inline]
    pub(super) fn may_hold(&self, subject: &Subject) -> bool {
        let of_user = || subject.user().is_some_and(|user| self.by_user.contains_key(user));
        let around = || subject.ip().is_some_and(|ip| self.prefixes_around(ip).next().is_some());
        !self.is_empty() && (of_user() || around())
    }

    fn of<'a>(
        &'a self,
        bans: Option<&'a ByExpiry>,
    ) -> impl Iterator<Item = &'a Arc<Ban>> + use<'a> {
        bans.into_iter().flat_map(|bans| bans.iter().rev()).filter_map(|(_, id)| self.by_id.get(id))
    }

    /// Every banned prefix, each once.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + use<'_> {
        self.by_prefix.keys().copied()
    }

    /// Until when the kernel is to block exactly this prefix: `Some(None)` for
    /// ever, `None` if no ban asks for it.
    pub fn blocked_until(&self, prefix: Prefix) -> Option<Option<u64>> {
        self.of_prefix(prefix).find(|ban| ban.blocks).map(|ban| ban.expires_at_unix_ms)
    }

    /// How many different /64s are banned in a /56 or /48.
    pub(super) fn banned_64s(&self, block: Prefix) -> usize {
        self.in_blocks.get(&block).copied().unwrap_or(0)
    }

    fn forget_in(&mut self, block: Prefix) {
        if let Some(count) = self.in_blocks.get_mut(&block) {
            *count -= 1;
            if *count == 0 {
                self.in_blocks.remove(&block);
            }
        }
    }

    /// How many different prefixes are banned: exact ones, and networks.
    pub const fn prefix_counts(&self) -> (usize, usize) {
        self.lengths.counts()
    }
}

/// The blocks in which a banned /64 counts.
fn blocks_around(prefix: Prefix) -> impl Iterator<Item = Prefix> {
    [56, 48].into_iter().filter_map(move |bits| prefix.block_of_64(bits))
}

/// The one among several bans that holds longest, if any holds at all.
pub(crate) fn longest<'a>(
    candidates: impl IntoIterator<Item = Option<&'a Arc<Ban>>>,
    now_unix_ms: u64,
) -> Option<&'a Arc<Ban>> {
    let holding = candidates.into_iter().flatten().filter(|ban| ban.holds_at(now_unix_ms));
    holding.max_by_key(|ban| ban.ends())
}

/// Says whether the key has no ban left.
fn forget<K: Eq + Hash>(index: &mut HashMap<K, ByExpiry>, key: &K, ban: &Ban) -> bool {
    let Some(bans) = index.get_mut(key) else { return false };
    bans.remove(&(ban.ends(), ban.id));
    let is_last = bans.is_empty();
    if is_last {
        index.remove(key);
    }
    is_last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(id: BanId, user: &str, prefix: &str, expires: Option<u64>) -> Ban {
        Ban {
            id,
            user: user.parse().ok(),
            prefix: prefix.parse().ok(),
            blocks: true,
            reason: "test".to_owned(),
            violation: None,
            score: None,
            created_at_unix_ms: 0,
            expires_at_unix_ms: expires,
            by: Author::Rule,
            with: None,
            severity: None,
            review: false,
        }
    }

    fn index(bans: impl IntoIterator<Item = Ban>) -> BanIndex {
        let mut index = BanIndex::default();
        bans.into_iter().for_each(|ban| index.insert(Arc::new(ban)));
        index
    }

    #[test]
    fn an_address_stays_banned_until_its_last_ban_ends() {
        let mut index =
            index([ban(1, "anna", "192.0.2.7", Some(100)), ban(2, "bert", "192.0.2.7", Some(200))]);
        let prefix = "192.0.2.7".parse().expect("a valid address");
        assert_eq!(index.blocked_until(prefix), Some(Some(200)));
        index.remove(2);
        assert_eq!(index.blocked_until(prefix), Some(Some(100)));
        assert_eq!(index.expire(99), []);
        assert_eq!(index.expire(100).len(), 1);
        assert_eq!(index.blocked_until(prefix), None);
        assert!(index.is_empty() && index.by_user.is_empty() && index.by_prefix.is_empty());
        assert_eq!(index.prefix_counts(), (0, 0));
        assert!(index.in_blocks.is_empty());
    }

    #[test]
    fn a_block_counts_its_different_64s_as_long_as_each_is_banned() {
        let (first, other) = ("2001:db8:0:1::/64", "2001:db8:0:2::/64");
        let mut index = index([
            ban(1, "", first, None),
            ban(2, "", first, Some(9)),
            ban(3, "", other, None),
            ban(4, "", "2001:db8:0:100::/64", None),
        ]);
        let counts = |index: &BanIndex| {
            ["2001:db8::/56", "2001:db8::/48", "2001:db8:1::/48"]
                .map(|block| index.banned_64s(block.parse().expect("a block")))
        };
        assert_eq!(counts(&index), [2, 3, 0]);
        for (id, want) in [(2, [2, 3, 0]), (1, [1, 2, 0]), (3, [0, 1, 0]), (4, [0, 0, 0])] {
            index.remove(id);
            assert_eq!(counts(&index), want, "without {id}");
        }
        assert!(index.in_blocks.is_empty(), "nothing is left of blocks without bans");
    }

    #[test]
    fn a_permanent_ban_outlasts_every_other() {
        let mut index = index([
            ban(1, "anna", "192.0.2.7", None),
            ban(2, "anna", "192.0.2.7", Some(u64::MAX - 1)),
        ]);
        let prefix = "192.0.2.7".parse().expect("a valid address");
        assert_eq!(index.blocked_until(prefix), Some(None));
        assert_eq!(index.expire(u64::MAX - 1).len(), 1);
    }

    #[test]
    fn the_kernel_blocks_as_long_as_a_ban_asks_it_to_and_no_longer() {
        let soft = Ban { blocks: false, ..ban(1, "anna", "192.0.2.7", None) };
        let mut index = index([soft, ban(2, "bert", "192.0.2.7", Some(100))]);
        let prefix = "192.0.2.7".parse().expect("a valid address");
        assert_eq!(index.blocked_until(prefix), Some(Some(100)));
        index.remove(2);
        assert_eq!(index.blocked_until(prefix), None);
        assert_eq!(index.of_prefix(prefix).count(), 1, "it holds at the API");
    }

    #[test]
    fn every_prefix_around_an_address_is_found() {
        let index = index([
            ban(1, "", "192.0.2.7", None),
            ban(2, "", "192.0.2.0/24", None),
            ban(3, "", "192.0.0.0/16", None),
            ban(4, "", "198.51.100.0/24", None),
            ban(5, "", "2001:db8::/32", None),
            ban(6, "", "2001:db8::7/128", None),
        ]);
        let around = |ip: &str| {
            let ip = ip.parse().expect("an address");
            index.prefixes_around(ip).map(|prefix| prefix.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(around("192.0.2.7"), ["192.0.0.0/16", "192.0.2.0/24", "192.0.2.7"]);
        assert_eq!(around("::ffff:192.0.2.8"), ["192.0.0.0/16", "192.0.2.0/24"]);
        assert_eq!(around("2001:db8::7"), ["2001:db8::/32", "2001:db8::7/128"]);
        assert_eq!(around("203.0.113.1"), Vec::<String>::new());
        assert_eq!(index.prefix_counts(), (2, 4));
    }
}
