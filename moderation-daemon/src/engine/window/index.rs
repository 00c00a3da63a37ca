//! Cells' numbers by digest. A slot says both which digest it is about and which cell
//! that is, so that finding a cell is one look here and one there, and growing looks
//! nowhere else. (hashbrown's table has the two in different places: one look more, each
//! of which takes as long as all the rest of a decision.) Knows no cell.

/// Parts, of which one at a time grows: a 256th of a million is done before anybody
/// notices.
const PARTS: usize = 256;
/// Slots of a part that has few.
const FEW: usize = 16;
/// A slot that says nothing: no cell has that number.
const FREE: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Index(Vec<Part>);

/// Open addressing: whoever finds the place of his digest taken takes the next free one.
#[derive(Clone, Debug, Default)]
struct Part {
    /// A power of two of them, or none; a quarter is free.
    slots: Vec<u64>,
    taken: usize,
}

/// What a slot has of a digest; the rest of it chooses the part.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
const fn tag(digest: u64) -> u32 {
    digest as u32
}

const fn part(digest: u64) -> usize {
    (digest >> 32) as usize % PARTS
}

const fn slot(tag: u32, number: u32) -> u64 {
    (tag as u64) << 32 | number as u64
}

const fn tag_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
const fn number_of(slot: u64) -> u32 {
    slot as u32
}

impl Index {
    pub(super) fn new() -> Self {
        Self(vec![Part::default(); PARTS])
    }

    /// The number under that digest of which `is_it` says so.
    #[inline]
    pub(super) fn find(&self, digest: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let (part, tag) = (&self.0[part(digest)], tag(digest));
        let mask = part.slots.len().wrapping_sub(1);
        let mut place = tag as usize;
        loop {
            let slot = *part.slots.get(place & mask)?;
            if tag_of(slot) == tag && slot != FREE && is_it(number_of(slot)) {
                return Some(number_of(slot));
            }
            if slot == FREE {
                return None;
            }
            place += 1;
        }
    }

    /// Where looking for a digest begins.
    #[inline]
    pub(super) fn first(&self, digest: u64) -> Option<&u64> {
        let slots = &self.0[part(digest)].slots;
        slots.get(tag(digest) as usize & slots.len().wrapping_sub(1))
    }

    /// Adds one that is not there.
    pub(super) fn insert(&mut self, digest: u64, number: u32) {
        let part = &mut self.0[part(digest)];
        if (part.taken + 1) * 4 > part.slots.len() * 3 {
            part.resize((part.slots.len() * 2).max(FEW));
        }
        part.put(slot(tag(digest), number));
        part.taken += 1;
    }

    pub(super) fn remove(&mut self, digest: u64, number: u32) {
        let part = &mut self.0[part(digest)];
        let Some(place) = part.place(slot(tag(digest), number)) else { return };
        part.free(place);
        part.taken -= 1;
        // What an attack made grow need not stay grown.
        if part.slots.len() > 8 * part.taken.max(FEW) {
            part.resize((part.taken * 2).next_power_of_two().max(FEW));
        }
    }

    /// Gives what was under one number another one.
    pub(super) fn renumber(&mut self, digest: u64, from: u32, to: u32) {
        let part = &mut self.0[part(digest)];
        if let Some(place) = part.place(slot(tag(digest), from)) {
            part.slots[place] = slot(tag(digest), to);
        }
    }
}

impl Part {
    /// Where a slot's way begins that ends with the slot or a free one.
    const fn begin(&self, slot: u64) -> usize {
        tag_of(slot) as usize & (self.slots.len() - 1)
    }

    const fn next(&self, place: usize) -> usize {
        (place + 1) & (self.slots.len() - 1)
    }

    fn put(&mut self, slot: u64) {
        let mut place = self.begin(slot);
        while self.slots[place] != FREE {
            place = self.next(place);
        }
        self.slots[place] = slot;
    }

    fn place(&self, slot: u64) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut place = self.begin(slot);
        while self.slots[place] != slot {
            if self.slots[place] == FREE {
                return None;
            }
            place = self.next(place);
        }
        Some(place)
    }

    /// Frees a place, and moves up whoever's way led over it.
    fn free(&mut self, mut place: usize) {
        let last = self.slots.len() - 1;
        let mut other = self.next(place);
        while self.slots[other] != FREE {
            let way = other.wrapping_sub(self.begin(self.slots[other])) & last;
            if way >= other.wrapping_sub(place) & last {
                self.slots[place] = self.slots[other];
                place = other;
            }
            other = self.next(other);
        }
        self.slots[place] = FREE;
    }

    fn resize(&mut self, slots: usize) {
        let old = std::mem::replace(&mut self.slots, vec![FREE; slots]);
        old.into_iter().filter(|slot| *slot != FREE).for_each(|slot| self.put(slot));
    }
}

#[cfg(test)]
impl Index {
    /// Places for slots.
    pub(super) fn capacity(&self) -> usize {
        self.0.iter().map(|part| part.slots.len()).sum()
    }

    /// Slots that are taken in the part that has most.
    pub(super) fn longest(&self) -> usize {
        self.0.iter().map(|part| part.taken).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Digests of which many fall into one part, and many of those to one place.
    fn digest(key: u64) -> u64 {
        (key % 3) << 32 | (key % 7) << 16 | (key % 5)
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes_every_number_is_found_and_no_other(
            steps in prop::collection::vec((0_u8..4, 0_u64..2_000, 0_u32..100_000), 1..3_000),
        ) {
            let (mut index, mut model) = (Index::new(), BTreeMap::<u32, u64>::new());
            for (act, key, number) in steps {
                let known = model.keys().next().copied().filter(|_| number % 2 == 0);
                match (act, known) {
                    (0, Some(old)) => {
                        index.remove(model[&old], old);
                        model.remove(&old);
                    }
                    (1, Some(old)) if !model.contains_key(&number) => {
                        let digest = model.remove(&old).expect("known");
                        index.renumber(digest, old, number);
                        model.insert(number, digest);
                    }
                    _ if !model.contains_key(&number) => {
                        index.insert(digest(key), number);
                        model.insert(number, digest(key));
                    }
                    _ => {}
                }
            }
            for (number, digest) in &model {
                prop_assert_eq!(index.find(*digest, |found| found == *number), Some(*number));
            }
            let mut found = 0;
            for key in 0..105 {
                index.find(digest(key), |number| {
                    found += usize::from(model.get(&number) == Some(&digest(key)));
                    false
                });
            }
            prop_assert_eq!(found, model.len(), "and each once");
        }
    }

    #[test]
    fn a_part_that_was_large_shrinks_when_less_than_an_eighth_of_it_is_taken() {
        let (mut index, many) = (Index::new(), 4_096);
        // All in one part.
        (0..many).for_each(|number| index.insert(number.into(), number));
        let mut left = many;
        for (until, capacity) in
            [(1_024, 8_192), (1_023, 2_048), (256, 2_048), (255, 512), (63, 128), (0, 128)]
        {
            while left > until {
                left -= 1;
                index.remove(left.into(), left);
            }
            assert_eq!(index.capacity(), capacity, "of {left}");
            let is_found = |number: &u32| index.find((*number).into(), |_| true) == Some(*number);
            assert!((0..left).all(|number| is_found(&number)), "of {left}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_removed() {
        let mut index = Index::new();
        index.remove(7, 1);
        index.renumber(7, 1, 2);
        assert_eq!(index.find(7, |_| true), None);
        index.insert(7, 1);
        index.remove(7, 2);
        assert_eq!(index.find(7, |_| true), Some(1));
    }
}
