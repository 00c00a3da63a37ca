//! Bans, and which of them holds for whom.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    sync::Arc,
};

use super::{Address, UserId, ViolationType};

/// A ban's number on this host; never used twice.
pub type BanId = u64;

/// A subject, an expiry and a reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Ban {
    /// Its number.
    pub id: BanId,
    /// The banned user.
    pub user: Option<UserId>,
    /// The banned address.
    pub address: Option<Address>,
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
}

impl Ban {
    /// Whether it has not run out yet.
    pub fn holds_at(&self, now_unix_ms: u64) -> bool {
        self.expires_at_unix_ms.is_none_or(|expiry| now_unix_ms < expiry)
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
    by_address: HashMap<Address, ByExpiry>,
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
        if let Some(address) = ban.address {
            self.by_address.entry(address).or_default().insert((ban.ends(), ban.id));
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
        if let Some(address) = &ban.address {
            forget(&mut self.by_address, address, &ban);
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

    /// Those that name the address; the last to end comes first.
    pub fn of_address(&self, address: Address) -> impl Iterator<Item = &Arc<Ban>> {
        self.of(self.by_address.get(&address))
    }

    fn of<'a>(
        &'a self,
        bans: Option<&'a ByExpiry>,
    ) -> impl Iterator<Item = &'a Arc<Ban>> + use<'a> {
        bans.into_iter().flat_map(|bans| bans.iter().rev()).filter_map(|(_, id)| self.by_id.get(id))
    }

    /// Every banned address, with the moment at which its last ban runs out;
    /// `None` for never.
    pub fn addresses(&self) -> impl Iterator<Item = (Address, Option<u64>)> {
        self.by_address.keys().map(|address| (*address, self.address_until(*address).flatten()))
    }

    /// When the last ban of an address runs out: `Some(None)` for never,
    /// `None` if there is no ban.
    pub fn address_until(&self, address: Address) -> Option<Option<u64>> {
        self.of_address(address).next().map(|ban| ban.expires_at_unix_ms)
    }
}

/// The one among several bans that holds longest, if any holds at all.
pub(crate) fn longest<'a>(
    candidates: impl IntoIterator<Item = Option<&'a Arc<Ban>>>,
    now_unix_ms: u64,
) -> Option<&'a Arc<Ban>> {
    let holding = candidates.into_iter().flatten().filter(|ban| ban.holds_at(now_unix_ms));
    holding.max_by_key(|ban| ban.ends())
}

fn forget<K: Eq + Hash>(index: &mut HashMap<K, ByExpiry>, key: &K, ban: &Ban) {
    if let Some(bans) = index.get_mut(key) {
        bans.remove(&(ban.ends(), ban.id));
        if bans.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(id: BanId, user: &str, address: &str, expires: Option<u64>) -> Arc<Ban> {
        Arc::new(Ban {
            id,
            user: user.parse().ok(),
            address: address.parse().ok(),
            reason: "test".to_owned(),
            violation: None,
            score: None,
            created_at_unix_ms: 0,
            expires_at_unix_ms: expires,
        })
    }

    #[test]
    fn an_address_stays_banned_until_its_last_ban_ends() {
        let mut index = BanIndex::default();
        index.insert(ban(1, "anna", "192.0.2.7", Some(100)));
        index.insert(ban(2, "bert", "192.0.2.7", Some(200)));
        let address = "192.0.2.7".parse().expect("a valid address");
        assert_eq!(index.address_until(address), Some(Some(200)));
        index.remove(2);
        assert_eq!(index.address_until(address), Some(Some(100)));
        assert_eq!(index.expire(99), []);
        assert_eq!(index.expire(100).len(), 1);
        assert_eq!(index.address_until(address), None);
        assert!(index.is_empty() && index.by_user.is_empty() && index.by_address.is_empty());
    }

    #[test]
    fn a_permanent_ban_outlasts_every_other() {
        let mut index = BanIndex::default();
        index.insert(ban(1, "anna", "192.0.2.7", None));
        index.insert(ban(2, "anna", "192.0.2.7", Some(u64::MAX - 1)));
        let address = "192.0.2.7".parse().expect("a valid address");
        assert_eq!(index.address_until(address), Some(None));
        assert_eq!(index.expire(u64::MAX - 1).len(), 1);
    }
}
