//! What a batch counted, laid over the windows of the engine, which it leaves as
//! they are. All of a batch happens at one moment, so that what it counted for a
//! key is a sum; only a key that something was taken back from has a window of
//! its own here.

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::{Charge, Usage, Windows};
use crate::engine::Key;

/// Words of the filter in front of the sums: a cache line or two, since every batch
/// begins with an empty one.
const WORDS: usize = 16;
/// More sums than this are not looked through, but looked up.
const FEW: usize = 64;

/// What was counted for each key; a single decision rarely counts for more than two.
type Sums = SmallVec<[Charge; 2]>;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::engine) struct Fresh {
    /// A bit for every key that has a sum, and for some others: most keys have none,
    /// and that is seen here.
    filter: [u64; WORDS],
    /// What was counted for a key, at what it takes up.
    sums: Sums,
    /// Where each of them is, if they are more than a few.
    places: HashTable<u32>,
    /// Keys that something was taken back from.
    own: Option<Box<Windows>>,
}

impl Fresh {
    /// What was used up, and the key, from now on found sooner if it has its place in
    /// those windows.
    #[inline(always)]
    pub(in crate::engine) fn look_up(
        &self,
        windows: &Windows,
        key: Key,
        now_boot_ms: u64,
    ) -> (Key, Usage) {
        if let Some(own) = self.own_of(key) {
            return (windows.look_up(key, 0, now_boot_ms).0, own.look_up(key, 0, now_boot_ms).1);
        }
        let fresh = self.place(key).map_or(0, |place| self.sums[place].cost);
        windows.look_up(key, fresh, now_boot_ms)
    }

    #[inline]
    fn own_of(&self, key: Key) -> Option<&Windows> {
        self.own.as_deref().filter(|own| own.knows(key))
    }

    const fn bit(key: Key) -> (usize, u64) {
        let hash = key.digest();
        ((hash >> 40) as usize % WORDS, 1 << (hash >> 50 & 63))
    }

    #[inline(always)]
    fn place(&self, key: Key) -> Option<usize> {
        let (word, bit) = Self::bit(key);
        if self.filter[word] & bit == 0 { None } else { self.find(key) }
    }

    fn find(&self, key: Key) -> Option<usize> {
        if self.sums.len() <= FEW {
            return self.sums.iter().rposition(|sum| sum.key == key);
        }
        let is_it = |place: &u32| self.sums[*place as usize].key == key;
        self.places.find(key.digest(), is_it).map(|place| *place as usize)
    }

    #[inline]
    fn push(&mut self, sum: Charge) {
        let (word, bit) = Self::bit(sum.key);
        self.filter[word] |= bit;
        self.sums.push(sum);
        if self.sums.len() > FEW {
            self.index();
        }
    }

    /// Finds a place for the sums that have none.
    #[cold]
    fn index(&mut self) {
        let Self { sums, places, .. } = self;
        let hash = |place: &u32| sums[*place as usize].key.digest();
        for place in places.len()..sums.len() {
            let place = u32::try_from(place).expect("memory ends before that");
            places.insert_unique(hash(&place), place, hash);
        }
    }

    /// Whether the batch has counted for that key.
    pub(in crate::engine) fn knows(&self, key: Key) -> bool {
        self.place(key).is_some() || self.own_of(key).is_some()
    }

    /// For how many keys it has, at most.
    #[inline]
    pub(in crate::engine) fn len(&self) -> usize {
        self.sums.len() + self.own.as_ref().map_or(0, |own| own.len())
    }

    /// Counts. What is a sum is told by [`Fresh::sums`]; returns what is not.
    #[must_use]
    #[inline(always)]
    pub(in crate::engine) fn charge(
        &mut self,
        windows: &Windows,
        charge: &Charge,
    ) -> Option<Charge> {
        if let Some(own) = self.own.as_mut().filter(|own| own.knows(charge.key)) {
            own.charge(charge);
            return Some(*charge);
        }
        let cost = windows.weight(charge);
        if let Some(place) = self.place(charge.key) {
            let sum = &mut self.sums[place].cost;
            *sum = sum.saturating_add(cost);
        } else if cost > 0 {
            self.push(Charge { cost, ..*charge });
        }
        None
    }

    /// The sums of all keys but those that something was taken back from.
    pub(in crate::engine) fn sums(&self) -> &[Charge] {
        &self.sums
    }

    /// Whether a charge counts still.
    pub(in crate::engine) fn counts(
        &self,
        windows: &Windows,
        charge: &Charge,
        now_boot_ms: u64,
    ) -> bool {
        if let Some(own) = self.own_of(charge.key) {
            return own.counts(charge, now_boot_ms);
        }
        let fresh = self.place(charge.key).map(|place| self.sums[place]);
        fresh.is_some_and(|fresh| fresh.at_boot_ms == charge.at_boot_ms)
            || windows.counts(charge, now_boot_ms)
    }

    /// Takes a charge back. Returns the key's sum, which is to be told before that
    /// and is no longer a sum.
    #[must_use]
    pub(in crate::engine) fn refund(
        &mut self,
        windows: &Windows,
        charge: &Charge,
    ) -> Option<Charge> {
        let (own, sum) = self.own(windows, charge.key);
        own.refund(charge);
        sum
    }

    /// Forgets all that was counted for a key. Returns its sum as
    /// [`Fresh::refund`] does.
    #[must_use]
    pub(in crate::engine) fn forget(&mut self, windows: &Windows, key: Key) -> Option<Charge> {
        let (own, sum) = self.own(windows, key);
        own.forget(key);
        sum
    }

    /// Windows in which the key's is its own, and its sum if it had one.
    fn own(&mut self, windows: &Windows, key: Key) -> (&mut Windows, Option<Charge>) {
        let sum = self.place(key).map(|place| self.sums.swap_remove(place));
        // The last one may have taken its place.
        self.places.clear();
        if self.sums.len() > FEW {
            self.index();
        }
        let own = self.own.get_or_insert_with(|| Box::new(windows.like()));
        if !own.knows(key) {
            own.adopt(windows, key);
        }
        if let Some(sum) = &sum {
            own.charge(sum);
        }
        (own, sum)
    }
}

#[cfg(test)]
impl Fresh {
    pub(super) fn usage(&self, windows: &Windows, key: Key, now_boot_ms: u64) -> Usage {
        self.look_up(windows, key, now_boot_ms).1
    }
}
