//! Cells by key: an index of small numbers in front of the cells themselves,
//! which lie close together. Finding one is one look far away, growing moves no
//! cell, and whoever has to look at all of them goes through them in order.

use super::{cell::Cell, index::Index};
use crate::engine::Key;

/// Cells that are allocated together: so many that the list of those pieces stays in
/// the processor's own cache.
const CHUNK: usize = 8_192;

/// Bytes that a processor fetches together.
const LINE: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Table<const BYTES: usize> {
    index: Index,
    cells: Cells<BYTES>,
    /// The sweep goes from the last cell to the first: so many are left, of so many
    /// that there were when it began. Whatever takes a removed one's place has been
    /// looked at.
    unswept: (usize, usize),
}

/// Has the processor fetch what is to be read soon; nobody waits for it.
#[inline(always)]
fn fetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..size_of::<T>().div_ceil(LINE) {
        let place = std::ptr::from_ref(what).cast::<i8>().wrapping_add(line * LINE);
        #[expect(unsafe_code, reason = "a hint to the processor")]
        // SAFETY: it reads nothing, and every x86-64 has it.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
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
            // The first grows as it is used, since many a table stays small.
            last => {
                let room = if last.is_some() { CHUNK } else { 1 };
                let mut chunk = Vec::with_capacity(room);
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
        Self { index: Index::new(), cells: Cells(Vec::new()), unswept: (0, 0) }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Which cell is the key's.
    #[inline(always)]
    pub(super) fn number(&self, key: Key) -> Option<u32> {
        if key.is_placed() && self.cells.is_at(key) {
            return Some(key.place());
        }
        self.index.find(key.digest(), |number| {
            let cell = self.cells.get(number);
            fetch(cell);
            cell.key == key
        })
    }

    /// Has fetched what [`Table::guess`] reads.
    #[inline]
    pub(super) fn fetch_index(&self, key: Key) {
        self.index.first(key.digest()).into_iter().for_each(fetch);
    }

    /// Which cell is most likely the key's, which is being fetched.
    #[inline]
    pub(super) fn guess(&self, key: Key) -> Option<u32> {
        let number = self.index.find(key.digest(), |_| true)?;
        fetch(self.cells.get(number));
        Some(number)
    }

    /// The cell of that number.
    #[inline]
    pub(super) fn at(&self, number: u32) -> &Cell<BYTES> {
        self.cells.get(number)
    }

    /// The same, to be changed.
    #[inline]
    pub(super) fn at_mut(&mut self, number: u32) -> &mut Cell<BYTES> {
        self.cells.get_mut(number)
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
    pub(super) fn place(&mut self, key: Key) -> u32 {
        if let Some(number) = self.number(key) {
            return number;
        }
        let number = u32::try_from(self.cells.len()).expect("memory ends before that");
        self.index.insert(key.digest(), number);
        self.cells.push(Cell::new(key.bare()));
        number
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
        index.remove(cells.get(number).key.digest(), number);
        let Some(last) = cells.pop() else { return };
        let Ok(moved) = u32::try_from(cells.len()) else { return };
        if moved == number {
            return;
        }
        index.renumber(last.key.digest(), moved, number);
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
        (self.index.capacity(), self.cells.0.len() * CHUNK)
    }

    /// Keys in the part of the index that has most.
    pub(super) fn longest_shard(&self) -> usize {
        self.index.longest()
    }
}
