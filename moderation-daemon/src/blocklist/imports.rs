//! What was imported: one list per source, each a compact map of prefixes with
//! their expiries. Writing them down is the store's affair, keeping out who is
//! protected the moderator's.

use std::{borrow::Borrow, collections::BTreeMap, fmt, net::IpAddr, str::FromStr, sync::Arc};

use super::PrefixMap;
use crate::engine::Prefix;

/// The name of a source: 1 to 64 letters, digits, dots, dashes and underscores
/// of ASCII.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(Arc<str>);

const MAX_SOURCE_BYTES: usize = 64;

/// A text is no [`Source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a source is named by 1 to {MAX_SOURCE_BYTES} letters, digits, dots, dashes and underscores"
)]
pub struct InvalidSource;

impl Source {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let is_named = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=MAX_SOURCE_BYTES).contains(&text.len()) && text.bytes().all(is_named) {
            return Ok(Self(text.into()));
        }
        Err(InvalidSource)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Source {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// When an entry lapses, in seconds since 1970: half the size of milliseconds,
/// and good until 2106. A fraction counts as a whole second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expiry(u32);

impl Expiry {
    /// It does not.
    pub const NEVER: Self = Self(u32::MAX);

    /// At that moment, in milliseconds since 1970; `None` for never.
    pub fn at(unix_ms: Option<u64>) -> Self {
        let Some(unix_ms) = unix_ms else { return Self::NEVER };
        Self(u32::try_from(unix_ms.div_ceil(1_000)).unwrap_or(u32::MAX).min(u32::MAX - 1))
    }

    /// In milliseconds since 1970; `None` for never.
    pub fn unix_ms(self) -> Option<u64> {
        (self != Self::NEVER).then_some(u64::from(self.0) * 1_000)
    }

    /// In milliseconds since 1970, with never after all others.
    pub fn ends(self) -> u64 {
        Self::ends_of(self.unix_ms())
    }

    /// The same of a moment that is not one of ours.
    pub fn ends_of(unix_ms: Option<u64>) -> u64 {
        unix_ms.unwrap_or(u64::MAX)
    }

    /// Whether it is still to come.
    pub fn is_after(self, now_unix_ms: u64) -> bool {
        self == Self::NEVER || now_unix_ms < u64::from(self.0) * 1_000
    }
}

/// One entry, as it is told to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Whose list it is on.
    pub source: Source,
    /// The prefix.
    pub prefix: Prefix,
    /// Until when.
    pub expiry: Expiry,
    /// When the list last changed, in milliseconds since 1970.
    pub updated_at_unix_ms: u64,
}

/// A list in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListSummary {
    /// Whose it is.
    pub source: Source,
    /// How many entries it has.
    pub entries: usize,
    /// How many of them are networks.
    pub networks: usize,
    /// When it last changed, in milliseconds since 1970.
    pub updated_at_unix_ms: u64,
}

#[derive(Clone, Debug, Default)]
struct Entries {
    map: PrefixMap<Expiry>,
    updated_at_unix_ms: u64,
}

/// Every list.
#[derive(Clone, Debug)]
pub struct Imports {
    lists: BTreeMap<Source, Entries>,
    /// Different prefixes over all lists: exact ones, and networks.
    distinct: (usize, usize),
    /// No entry lapses before this.
    next_expiry: Expiry,
}

impl Default for Imports {
    fn default() -> Self {
        Self { lists: BTreeMap::new(), distinct: (0, 0), next_expiry: Expiry::NEVER }
    }
}

impl Imports {
    /// Makes sure that the source has a list, and notes that it changes.
    pub fn touch(&mut self, source: &Source, now_unix_ms: u64) {
        self.lists.entry(source.clone()).or_default().updated_at_unix_ms = now_unix_ms;
    }

    /// Puts a prefix on a list that [`Imports::touch`] has made; says whether
    /// it was on none before.
    pub fn insert(&mut self, source: &Source, prefix: Prefix, expiry: Expiry) -> bool {
        let Some(list) = self.lists.get_mut(source) else { return false };
        let was_listed = list.map.insert(prefix, expiry).is_some();
        // Asked afterwards, when the place in the table has been fetched anyway.
        let holding = self.lists.values().filter(|list| list.map.contains(prefix));
        let is_new = !was_listed && holding.count() == 1;
        self.next_expiry = self.next_expiry.min(expiry);
        if is_new {
            *self.count(prefix) += 1;
        }
        is_new
    }

    /// Takes a prefix off a list; says whether it is on none any more.
    pub fn remove(&mut self, source: &Source, prefix: Prefix) -> bool {
        let list = self.lists.get_mut(source);
        if list.and_then(|list| list.map.remove(prefix)).is_none() {
            return false;
        }
        let is_gone = !self.contains(prefix);
        if is_gone {
            *self.count(prefix) -= 1;
        }
        is_gone
    }

    /// Forgets a list that is empty.
    pub fn forget(&mut self, source: &Source) {
        if self.lists.get(source).is_some_and(|list| list.map.is_empty()) {
            self.lists.remove(source);
        }
    }

    /// Whether a list has exactly this prefix.
    pub fn contains(&self, prefix: Prefix) -> bool {
        self.lists.values().any(|list| list.map.contains(prefix))
    }

    /// Until when exactly this prefix is listed; the last of its lists counts.
    pub fn until(&self, prefix: Prefix) -> Option<Expiry> {
        self.lists.values().filter_map(|list| list.map.get(prefix)).max().copied()
    }

    /// Each list's entry for exactly this prefix.
    pub fn of_prefix(&self, prefix: Prefix) -> impl Iterator<Item = Imported> {
        self.lists.iter().filter_map(move |(source, list)| {
            list.map.get(prefix).map(|expiry| list.told(source, prefix, *expiry))
        })
    }

    /// The entry that holds for an address longest.
    pub fn covering(&self, ip: IpAddr, now_unix_ms: u64) -> Option<Imported> {
        let lists = self.lists.iter().flat_map(|(source, list)| {
            let around = list.map.around(ip).filter(|(_, expiry)| expiry.is_after(now_unix_ms));
            around.map(move |(prefix, expiry)| (*expiry, prefix, source, list))
        });
        let (expiry, prefix, source, list) = lists.max_by_key(|(expiry, ..)| *expiry)?;
        Some(list.told(source, prefix, expiry))
    }

    /// Every prefix with its expiry, once per list that has it.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, Expiry)> {
        let entries = self.lists.values().flat_map(|list| list.map.iter());
        entries.map(|(prefix, expiry)| (prefix, *expiry))
    }

    /// An empty map with room for the longest list.
    pub fn room<V>(&self) -> PrefixMap<V> {
        let longest = self.lists.values().map(|list| &list.map).max_by_key(|map| map.len());
        longest.map_or_else(PrefixMap::default, PrefixMap::with_room_for)
    }

    /// Every list in short.
    pub fn lists(&self) -> impl Iterator<Item = ListSummary> {
        self.lists.iter().map(|(source, list)| ListSummary {
            source: source.clone(),
            entries: list.map.len(),
            networks: list.map.counts().1,
            updated_at_unix_ms: list.updated_at_unix_ms,
        })
    }

    /// Whether there is a list of that source.
    pub fn has(&self, source: &Source) -> bool {
        self.lists.contains_key(source)
    }

    /// How many lists there are.
    pub fn list_count(&self) -> usize {
        self.lists.len()
    }

    /// How many different prefixes: exact ones, and networks.
    pub const fn counts(&self) -> (usize, usize) {
        self.distinct
    }

    /// Whether some entry may have lapsed.
    pub fn may_have_lapsed(&self, now_unix_ms: u64) -> bool {
        !self.next_expiry.is_after(now_unix_ms)
    }

    /// Finds the next expiry anew, after lapsed entries were removed. Looks at
    /// every entry.
    pub fn find_next_expiry(&mut self) {
        self.next_expiry = self.iter().map(|(_, expiry)| expiry).min().unwrap_or(Expiry::NEVER);
    }

    const fn count(&mut self, prefix: Prefix) -> &mut usize {
        if prefix.is_exact() { &mut self.distinct.0 } else { &mut self.distinct.1 }
    }
}

impl Entries {
    fn told(&self, source: &Source, prefix: Prefix, expiry: Expiry) -> Imported {
        let updated_at_unix_ms = self.updated_at_unix_ms;
        Imported { source: source.clone(), prefix, expiry, updated_at_unix_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str) -> Source {
        name.parse().expect("a source")
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    fn imports(entries: &[(&str, &str, Option<u64>)]) -> Imports {
        let mut imports = Imports::default();
        for (name, text, expires) in entries {
            imports.touch(&source(name), 1);
            imports.insert(&source(name), prefix(text), Expiry::at(*expires));
        }
        imports
    }

    #[test]
    fn a_source_has_a_short_plain_name() {
        for name in ["firehol_level1", "a", "x.y-z", &"x".repeat(64)] {
            assert!(name.parse::<Source>().is_ok(), "{name}");
        }
        for name in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert_eq!(name.parse::<Source>(), Err(InvalidSource), "{name}");
        }
    }

    #[test]
    fn an_expiry_is_never_before_its_moment() {
        let cases = [(0, 0), (1, 1_000), (1_000, 1_000), (1_001, 2_000)];
        for (at, want) in cases {
            assert_eq!(Expiry::at(Some(at)).unix_ms(), Some(want), "{at}");
        }
        assert_eq!(Expiry::at(None).unix_ms(), None);
        let far = Expiry::at(Some(u64::MAX));
        assert!(far < Expiry::NEVER && far.is_after(4_000_000_000_000));
        assert!(Expiry::at(Some(1_000)).is_after(999) && !Expiry::at(Some(1_000)).is_after(1_000));
    }

    #[test]
    fn what_covers_an_address_longest_is_told_with_its_source() {
        let imports = imports(&[
            ("one", "192.0.2.7", Some(5_000)),
            ("two", "192.0.2.0/24", Some(9_000)),
            ("two", "192.0.2.7", Some(2_000)),
            ("six", "2001:db8::/64", None),
            ("six", "2001:db8::5/128", Some(9_000)),
        ]);
        let told = |ip: &str, now| {
            let found = imports.covering(ip.parse().expect("an address"), now)?;
            Some(format!("{} {}", found.source, found.prefix))
        };
        assert_eq!(told("192.0.2.7", 0).as_deref(), Some("two 192.0.2.0/24"));
        assert_eq!(told("::ffff:192.0.2.9", 0).as_deref(), Some("two 192.0.2.0/24"));
        assert_eq!(told("192.0.2.7", 9_000), None);
        assert_eq!(told("2001:db8::5", 0).as_deref(), Some("six 2001:db8::/64"));
        assert_eq!(told("198.51.100.1", 0), None);
        assert_eq!(imports.until(prefix("192.0.2.7")), Some(Expiry::at(Some(5_000))));
        assert_eq!(imports.counts(), (3, 1));
    }

    #[test]
    fn a_prefix_on_two_lists_is_one_until_both_have_let_it_go() {
        let mut imports = imports(&[("one", "192.0.2.7", None), ("two", "192.0.2.7", Some(9_000))]);
        assert_eq!(imports.counts(), (1, 0));
        assert!(!imports.remove(&source("one"), prefix("192.0.2.7")));
        assert!(!imports.remove(&source("one"), prefix("192.0.2.7")), "only once");
        assert_eq!(imports.until(prefix("192.0.2.7")), Some(Expiry::at(Some(9_000))));
        assert!(imports.remove(&source("two"), prefix("192.0.2.7")));
        assert_eq!(imports.counts(), (0, 0));
        imports.forget(&source("one"));
        assert!(!imports.has(&source("one")) && imports.has(&source("two")));
    }

    #[test]
    fn it_knows_when_to_look_for_lapsed_entries() {
        let mut imports = imports(&[("one", "192.0.2.7", Some(5_000)), ("one", "192.0.2.8", None)]);
        assert!(!imports.may_have_lapsed(4_999) && imports.may_have_lapsed(5_000));
        imports.remove(&source("one"), prefix("192.0.2.7"));
        imports.find_next_expiry();
        assert!(!imports.may_have_lapsed(u64::MAX));
    }
}
