//! The prefilter's user-space half: the kernel's bitmap, mapped into memory, and
//! beside it how many keys need each bit, so that keys can leave.
//!
//! What must never happen is that a key is in an exact map and not in the
//! bitmap: that would be a silent way past a ban. So bits are set before a key
//! is inserted, and cleared after it is deleted; and in doubt all are set,
//! which is always right, only slower.

use std::{
    num::NonZeroUsize,
    os::fd::AsFd as _,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use moderation_common::{Place, Seeds, filter_mask, map::FILTER};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{NetworkError, Pins};

/// The mapped bitmap.
#[derive(Debug)]
pub(super) struct Bitmap {
    words: NonNull<AtomicU64>,
    len: NonZeroUsize,
    mask: u64,
    seeds: Seeds,
    /// Keeps the map itself.
    _data: MapData,
}

// SAFETY: the memory is the process's for as long as this lives, and is only
// reached through atomics.
#[expect(unsafe_code, reason = "a mapping belongs to no thread")]
unsafe impl Send for Bitmap {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a mapping belongs to no thread")]
unsafe impl Sync for Bitmap {}

impl Bitmap {
    /// Maps the pinned bitmap.
    pub(super) fn open(pins: &Pins, seeds: Seeds) -> Result<Self, NetworkError> {
        let data = pins.open_map(FILTER)?;
        let words = data.info().map_err(NetworkError::map("size", FILTER))?.max_entries();
        let mask = filter_mask(words);
        let len = NonZeroUsize::new(words as usize).expect("the kernel makes no empty array");
        let bytes = len.saturating_mul(const { NonZeroUsize::new(8).expect("not zero") });
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        #[expect(unsafe_code, reason = "the point of a mappable map")]
        let address =
            unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, data.fd().as_fd(), 0) }
                .map_err(|source| NetworkError::MapFilter { source })?;
        Ok(Self { words: address.cast(), len, mask, seeds, _data: data })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has that many words and lives as long as `self`.
        #[expect(unsafe_code, reason = "mapped memory is reached by pointer")]
        unsafe {
            std::slice::from_raw_parts(self.words.as_ptr(), self.len.get())
        }
    }

    /// Where the key with this hash is.
    fn places(&self, hash: u64) -> [Place; 2] {
        Place::both(hash, self.mask)
    }

    pub(super) const fn seeds(&self) -> Seeds {
        self.seeds
    }

    /// Whether a key with this hash would be looked for in the exact maps.
    pub(super) fn has(&self, hash: u64) -> bool {
        self.places(hash).into_iter().all(|place| {
            let word = self.words()[place.word as usize].load(Ordering::Relaxed);
            word & place.bits() == place.bits()
        })
    }

    /// How many bits are set.
    pub(super) fn ones(&self) -> usize {
        self.words().iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    /// Makes every key pass, whatever there is behind.
    pub(super) fn fill(&self) {
        for word in self.words() {
            word.store(u64::MAX, Ordering::Relaxed);
        }
    }
}

impl Drop for Bitmap {
    fn drop(&mut self) {
        // SAFETY: mapped in `open` with this length, and not used any more.
        #[expect(unsafe_code, reason = "what was mapped is unmapped")]
        let unmapped = unsafe { munmap(self.words.cast(), self.len.get() * 8) };
        debug_assert!(unmapped.is_ok(), "the mapping was ours");
    }
}

/// The bitmap with its counts: what the one who writes bans needs.
#[derive(Debug)]
pub(super) struct Filter {
    bitmap: Bitmap,
    /// How many keys need each bit. One that reaches 255 stays set until the
    /// next look through all keys.
    counts: Vec<u8>,
    /// Whether the counts are those of the keys. While they may not be, bits
    /// are set, but none is cleared.
    is_exact: bool,
}

impl Filter {
    /// An empty filter over a bitmap, whose bits stay until [`Filter::settle`].
    pub(super) fn new(bitmap: Bitmap) -> Self {
        let counts = vec![0; bitmap.len.get() * 64];
        Self { bitmap, counts, is_exact: false }
    }

    /// Forgets the counts, for a look through all keys that adds each of them
    /// and ends with [`Filter::settle`]. The bits stay.
    pub(super) fn recount(&mut self) {
        self.counts.fill(0);
        self.is_exact = false;
    }

    /// The counts are wrong, as somebody else has written keys: no bit is
    /// cleared until they have been made anew.
    pub(super) const fn distrust(&mut self) {
        self.is_exact = false;
    }

    /// Whether bits can be cleared.
    pub(super) const fn is_exact(&self) -> bool {
        self.is_exact
    }

    pub(super) const fn seeds(&self) -> Seeds {
        self.bitmap.seeds()
    }

    /// Whether a key with this hash would be looked for in the exact maps.
    pub(super) fn has(&self, hash: u64) -> bool {
        self.bitmap.has(hash)
    }

    /// Whether a key with this hash may have been added: never `false` for one
    /// that was.
    pub(super) fn knows(&self, hash: u64) -> bool {
        self.bitmap.places(hash).into_iter().flat_map(Self::bits).all(|bit| self.counts[bit] > 0)
    }

    /// Before a key is inserted.
    pub(super) fn add(&mut self, hash: u64) {
        for place in self.bitmap.places(hash) {
            for bit in Self::bits(place) {
                self.counts[bit] = self.counts[bit].saturating_add(1);
            }
            self.bitmap.words()[place.word as usize].fetch_or(place.bits(), Ordering::SeqCst);
        }
    }

    /// After a key was deleted.
    pub(super) fn remove(&mut self, hash: u64) {
        // A key that nobody has added: what bits it shares are others'.
        self.is_exact &= self.knows(hash);
        if !self.is_exact {
            return;
        }
        for bit in self.bitmap.places(hash).into_iter().flat_map(Self::bits) {
            let count = &mut self.counts[bit];
            match *count {
                u8::MAX | 0 => continue, // nobody knows how many
                _ => *count -= 1,
            }
            if *count == 0 {
                let word = &self.bitmap.words()[bit / 64];
                word.fetch_and(!(1 << (bit % 64)), Ordering::SeqCst);
            }
        }
    }

    fn bits(place: Place) -> [usize; 4] {
        place.positions().map(|bit| place.word as usize * 64 + bit as usize)
    }

    /// Clears the bits that nobody needs, once all keys are added.
    pub(super) fn settle(&mut self) {
        for (word, counts) in self.bitmap.words().iter().zip(self.counts.chunks_exact(64)) {
            let needed = counts
                .iter()
                .enumerate()
                .fold(0_u64, |bits, (bit, count)| if *count > 0 { bits | 1 << bit } else { bits });
            if word.load(Ordering::Relaxed) != needed {
                word.store(needed, Ordering::SeqCst);
            }
        }
        self.is_exact = true;
    }
}
