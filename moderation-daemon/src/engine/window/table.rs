//! Cells by key: an index of small numbers in front of the cells themselves,
//! which lie close together. Finding one is one look far away, growing moves no
//! cell, and whoever has to look at all of them goes through them in order.

use hashbrown::{HashTable, hash_table::Entry};

use super::cell::Cell;
use crate::engine::Key;

/// Parts of the index, of which one at a time grows: a 256th of a million is done
/// before anybody notices.
const SHARDS: usize = 256;
/// Cells that are allocated together.
const CHUNK: usize = 256;

/// The part of the index that a key is in; of other bits than the index goes by.
const fn shard(key: Key) -> usize {
    (key.digest() >> 32) as usize % SHARDS
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table<const BYTES: usize> {
    index: Vec<HashTable<u32>>,
    cells: Cells<BYTES>,
    /// The sweep goes from the last cell to the first: so many are left, of so many
    /// that there were when it began. Whatever takes a removed one's place has been
    /// looked at.
    unswept: (usize, usize),
}

/// Cells by number, from 0 on without a gap.
#[derive(Debug)]
struct Cells<const BYTES: usize>(Vec<Vec<Cell<BYTES>>>);

impl<const BYTES: usize> Cells<BYTES> {
    #[inline]
    fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * CHUNK + last.len())
    }

    #[inline]
    fn get(&self, number: u32) -> &Cell<BYTES> {
        &self.0[number as usize / CHUNK][number as usize % CHUNK]
    }

    #[inline]
    fn get_mut(&mut self, number: u32) -> &mut Cell<BYTES> {
        &mut self.0[number as usize / CHUNK][number as usize % CHUNK]
    }

    /// Whether the key knows its place.
    #[inline]
    fn is_at(&self, key: Key) -> bool {
        let place = key.place() as usize;
        let cell = self.0.get(place / CHUNK).and_then(|chunk| chunk.get(place % CHUNK));
        cell.is_some_and(|cell| cell.key == key)
    }

    fn push(&mut self, cell: Cell<BYTES>) {
        match self.0.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(cell),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(cell);
                self.0.push(chunk);
            }
        }
    }

    fn pop(&mut self) -> Option<Cell<BYTES>> {
        let last = self.0.last_mut()?;
        let cell = last.pop();
        if last.is_empty() {
            self.0.pop();
        }
        cell
    }
}

impl<const BYTES: usize> Table<BYTES> {
    pub(super) fn new() -> Self {
        Self { index: vec![HashTable::new(); SHARDS], cells: Cells(Vec::new()), unswept: (0, 0) }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Which cell is the key's.
    #[inline]
    pub(super) fn number(&self, key: Key) -> Option<u32> {
        if self.cells.is_at(key) {
            return Some(key.place());
        }
        let is_it = |number: &u32| self.cells.get(*number).key == key;
        self.index[shard(key)].find(key.digest(), is_it).copied()
    }

    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<&Cell<BYTES>> {
        Some(self.cells.get(self.number(key)?))
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Cell<BYTES>> {
        let number = self.number(key)?;
        Some(self.cells.get_mut(number))
    }

    /// The cell of a key, a new one if there was none.
    #[inline]
    pub(super) fn put(&mut self, key: Key) -> &mut Cell<BYTES> {
        let number = if self.cells.is_at(key) { key.place() } else { self.place(key) };
        self.cells.get_mut(number)
    }

    /// The number of a key's cell, a new one if it had none.
    fn place(&mut self, key: Key) -> u32 {
        let cells = &self.cells;
        let is_it = |number: &u32| cells.get(*number).key == key;
        let hash = |number: &u32| cells.get(*number).key.digest();
        match self.index[shard(key)].entry(key.digest(), is_it, hash) {
            Entry::Occupied(place) => *place.get(),
            Entry::Vacant(place) => {
                let number = u32::try_from(cells.len()).expect("memory ends before that");
                place.insert(number);
                self.cells.push(Cell::new(key.bare()));
                number
            }
        }
    }

    /// Takes over what another one has of a key.
    pub(super) fn adopt(&mut self, other: &Self, key: Key) {
        if let Some(cell) = other.get(key) {
            self.put(key.bare()).clone_from(cell);
        }
    }

    pub(super) fn remove(&mut self, key: Key) {
        if let Some(number) = self.number(key) {
            self.remove_at(number);
        }
    }

    /// Removes one, and gives its number to the last one.
    fn remove_at(&mut self, number: u32) {
        let Self { index, cells, .. } = self;
        let key = cells.get(number).key;
        let part = &mut index[shard(key)];
        if let Ok(place) = part.find_entry(key.digest(), |known| *known == number) {
            place.remove();
        }
        // What an attack made grow need not stay grown.
        if part.capacity() > 4 * part.len().max(16) {
            part.shrink_to(2 * part.len(), |number| cells.get(*number).key.digest());
        }
        let Some(last) = cells.pop() else { return };
        let Ok(moved) = u32::try_from(cells.len()) else { return };
        if moved == number {
            return;
        }
        let place = index[shard(last.key)].find_mut(last.key.digest(), |known| *known == moved);
        place.into_iter().for_each(|place| *place = number);
        *cells.get_mut(number) = last;
    }

    /// Goes on through the cells, over a share of them, and removes those of which
    /// `is_gone` says so.
    pub(super) fn sweep(
        &mut self,
        (share, of): (u64, u64),
        is_gone: impl Fn(&Cell<BYTES>) -> bool,
    ) {
        if self.unswept.0 == 0 || share >= of {
            self.unswept = (self.len(), self.len());
        }
        let due = (self.unswept.1 as u64).saturating_mul(share).div_ceil(of);
        for _ in 0..due {
            let Some(next) = self.unswept.0.min(self.len()).checked_sub(1) else { break };
            self.unswept.0 = next;
            let number = u32::try_from(next).expect("memory ends before that");
            if is_gone(self.cells.get(number)) {
                self.remove_at(number);
            }
        }
    }

    /// The cells from a number on.
    pub(super) fn cells_from(&mut self, number: usize) -> impl Iterator<Item = &mut Cell<BYTES>> {
        let (chunk, skip) = (number / CHUNK, number % CHUNK);
        self.cells.0.iter_mut().skip(chunk).flatten().skip(skip)
    }
}

#[cfg(test)]
impl<const BYTES: usize> Table<BYTES> {
    /// Places in the index and for cells.
    pub(super) fn capacity(&self) -> (usize, usize) {
        let places = self.index.iter().map(HashTable::capacity).sum();
        (places, self.cells.0.len() * CHUNK)
    }

    /// Keys in the part of the index that has most.
    pub(super) fn longest_shard(&self) -> usize {
        self.index.iter().map(HashTable::len).max().unwrap_or(0)
    }
}
