//! The arithmetic of the sketch: where a source counts, and what its counters
//! say. Plain code over a pair of blocks; finding the blocks, and what follows
//! from a suspicion, is the programs' affair.

#[cfg(test)]
mod tests;

use core::cell::Cell;

use moderation_common::{SKETCH_ROWS, SKETCH_SLOTS, SketchBlock};

/// Counts one attempt of the source with this hash in the block of the current
/// half window, and estimates its attempts in this half and the one before:
/// the least of its counters, without what passers-by have left in them.
///
/// Passers-by are estimated in each row by the row's least counter. So a flood
/// of forged sources, which fills all counters alike, makes nobody suspicious
/// (a plain count-min sketch shows hundreds for sources that sent nothing),
/// and a second heavy source in the row does not hide the first.
#[inline(always)]
pub fn count(current: &SketchBlock, previous: &SketchBlock, epoch: u64, hash: u64) -> u32 {
    if current.epoch.get() != epoch {
        clear(current, epoch);
    }
    let previous = (previous.epoch.get().wrapping_add(1) == epoch).then_some(previous);
    let mut least = u32::MAX;
    for row in 0..SKETCH_ROWS {
        let slot = slot(hash, row);
        let Some(counter) = current.rows[row].get(slot) else { return 0 };
        let here = counter.get().saturating_add(1);
        counter.set(here);
        let before = previous.map_or(0, |block| at(&block.rows[row], slot));
        least = least.min(u32::from(here) + before);
    }
    least
}

/// The same without the noise; [`count`] is asked first, and this only if that
/// is suspicious.
#[inline(always)]
pub fn without_noise(current: &SketchBlock, previous: &SketchBlock, epoch: u64, hash: u64) -> u32 {
    let previous = (previous.epoch.get().wrapping_add(1) == epoch).then_some(previous);
    let mut least = u32::MAX;
    for row in 0..SKETCH_ROWS {
        let counters = &current.rows[row];
        let before = previous.map(|block| &block.rows[row]);
        let sum = |slot| at(counters, slot) + before.map_or(0, |row| at(row, slot));
        let mut noise = u32::MAX;
        for slot in 0..SKETCH_SLOTS {
            noise = noise.min(sum(slot));
        }
        least = least.min(sum(slot(hash, row)).saturating_sub(noise));
    }
    least
}

/// The counter of a source in a row: a part of the hash that the choice of the
/// block does not use, scaled to the number of slots.
#[inline(always)]
const fn slot(hash: u64, row: usize) -> usize {
    let part = (hash >> (8 * row)) & 0xff;
    ((part * SKETCH_SLOTS as u64) >> 8) as usize
}

#[inline(always)]
fn at(row: &[Cell<u16>; SKETCH_SLOTS], slot: usize) -> u32 {
    row.get(slot).map_or(0, |counter| u32::from(counter.get()))
}

#[inline(always)]
fn clear(block: &SketchBlock, epoch: u64) {
    const WORDS: usize = size_of::<[[Cell<u16>; SKETCH_SLOTS]; SKETCH_ROWS]>() / size_of::<u64>();
    let words = block.rows.as_ptr().cast::<Cell<u64>>();
    for word in 0..WORDS {
        // SAFETY: the counters fill seven words, which follow another word and so
        // are aligned; a cell of words is as good as cells of their halves.
        // Volatile, or the compiler would call a function that clears bytes.
        #[expect(unsafe_code, reason = "seven stores instead of twenty-eight")]
        unsafe {
            (*words.add(word)).as_ptr().write_volatile(0);
        }
    }
    block.epoch.set(epoch);
}
