//! What was heard, as much of it as there is room for: the oldest is forgotten first.

use std::{
    collections::{HashSet, VecDeque},
    hash::Hash,
};

/// See the module.
#[derive(Clone, Debug)]
pub struct Memory<T> {
    most: usize,
    known: HashSet<T>,
    in_order: VecDeque<T>,
    forgotten: u64,
}

impl<T: Clone + Eq + Hash> Memory<T> {
    /// With room for so many, at least one.
    pub fn new(most: usize) -> Self {
        Self { most, known: HashSet::new(), in_order: VecDeque::new(), forgotten: 0 }
    }

    /// Says whether that is news.
    pub fn remember(&mut self, it: &T) -> bool {
        if !self.known.insert(it.clone()) {
            return false;
        }
        self.in_order.push_back(it.clone());
        if self.in_order.len() > self.most
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.known.remove(&oldest);
            self.forgotten += 1;
        }
        true
    }

    /// Whether it was heard and is not forgotten.
    pub fn contains(&self, it: &T) -> bool {
        self.known.contains(it)
    }

    /// How many were forgotten since this was asked last.
    pub const fn take_forgotten(&mut self) -> u64 {
        std::mem::replace(&mut self.forgotten, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_counted_and_nothing_is_remembered_twice() {
        let mut memory = Memory::new(2);
        assert!(memory.remember(&1) && memory.remember(&2) && !memory.remember(&1));
        assert_eq!(memory.take_forgotten(), 0);
        assert!(memory.remember(&3));
        assert_eq!([1, 2, 3].map(|it| memory.contains(&it)), [false, true, true]);
        assert_eq!((memory.take_forgotten(), memory.take_forgotten()), (1, 0));
    }
}
