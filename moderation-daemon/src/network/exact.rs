//! One ban map: keys of one width, each with the moment at which its ban lapses.
//! A hash map of exact keys, or a trie, whose keys are prefixes. It knows nothing
//! of the prefilter in front of it.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{Pod, maps::MapData};
use moderation_common::BanEntry;
use nix::libc;

use super::{
    NetworkError, Pins,
    sys::{self, BPF_EXIST, BPF_NOEXIST, Batch, Pages},
};

/// Entries that are read or written by one call: some 300 µs' worth.
pub(super) const BATCH: usize = 1_024;

/// Keys and their values.
pub(super) type Page<'p, K> = (&'p [K], &'p [u64]);

/// A pinned map from `K` to an expiry.
#[derive(Debug)]
pub(super) struct Exact<K> {
    name: &'static str,
    capacity: u32,
    data: MapData,
    key: PhantomData<K>,
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    New,
    Known,
}

impl<K: Pod + Default> Exact<K> {
    pub(super) fn open(pins: &Pins, name: &'static str) -> Result<Self, NetworkError> {
        Self::new(pins, name, pins.open_map(name)?)
    }

    /// The same for one who only looks into it.
    pub(super) fn open_to_read(pins: &Pins, name: &'static str) -> Result<Self, NetworkError> {
        Self::new(pins, name, pins.open_to_read(name)?)
    }

    fn new(pins: &Pins, name: &'static str, data: MapData) -> Result<Self, NetworkError> {
        let capacity = entries::<K, u64>(pins, name, &data)?;
        Ok(Self { name, capacity, data, key: PhantomData })
    }

    pub(super) const fn capacity(&self) -> u32 {
        self.capacity
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    /// Sets the expiry of a key. A trie takes it for new in any case before Linux
    /// 6.13, which ignores there what the flags ask for.
    pub(super) fn insert(&mut self, key: K, entry: BanEntry) -> Result<Inserted, NetworkError> {
        let set = |flags| sys::update(self.fd(), &key, &entry.expires_at_ns, flags);
        match set(BPF_NOEXIST) {
            Ok(()) => Ok(Inserted::New),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                set(BPF_EXIST).map(|()| Inserted::Known).map_err(|error| self.refused(error))
            }
            Err(error) => Err(self.refused(error)),
        }
    }

    fn refused(&self, error: io::Error) -> NetworkError {
        match error.raw_os_error() {
            Some(libc::E2BIG) => NetworkError::Full { capacity: self.capacity },
            // Only a trie says this.
            Some(libc::ENOSPC) => NetworkError::NetsFull { capacity: self.capacity },
            _ => self.failed("write to", error),
        }
    }

    /// Sets the expiries of many keys, in order, until the first failure; says
    /// how many it has set, and the failure.
    pub(super) fn insert_many(
        &mut self,
        keys: &[K],
        values: &[u64],
    ) -> (usize, Result<(), NetworkError>) {
        let mut at = 0;
        while at < keys.len() {
            let end = keys.len().min(at + BATCH);
            let Batch { done, result } =
                sys::update_batch(self.fd(), &keys[at..end], &values[at..end]);
            at += done;
            // The one that stopped the batch may do alone: the kernel takes
            // memory in portions, and may have been out of one.
            if result.is_err() {
                let entry = BanEntry { expires_at_ns: values[at] };
                if let Err(error) = self.insert(keys[at], entry) {
                    return (at, Err(error));
                }
                at += 1;
            }
        }
        (at, Ok(()))
    }

    /// Deletes a key; `false` if it was not there.
    pub(super) fn remove(&mut self, key: K) -> Result<bool, NetworkError> {
        sys::delete(self.fd(), &key).map_err(|error| self.failed("remove from", error))
    }

    /// Deletes many keys; calls `done` for each that was there.
    pub(super) fn remove_many(
        &mut self,
        keys: &[K],
        mut done: impl FnMut(usize),
    ) -> Result<(), NetworkError> {
        let mut at = 0;
        while at < keys.len() {
            let end = keys.len().min(at + BATCH);
            let Batch { done: count, result } = sys::delete_batch(self.fd(), &keys[at..end]);
            (at..at + count).for_each(&mut done);
            at += count;
            match result {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => at += 1,
                Err(error) => return Err(self.failed("remove from", error)),
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, key: K) -> Result<Option<BanEntry>, NetworkError> {
        let found = sys::lookup(self.fd(), &key).map_err(|error| self.failed("read", error))?;
        Ok(found.map(|expires_at_ns| BanEntry { expires_at_ns }))
    }

    /// Calls `found` with every entry.
    pub(super) fn for_each(
        &self,
        mut found: impl FnMut(K, BanEntry),
    ) -> Result<usize, NetworkError> {
        let mut pages = Pages::new(4 * BATCH);
        let mut total = 0;
        while let Some((keys, values)) = self.page(&mut pages)? {
            total += keys.len();
            for (key, value) in keys.iter().zip(values) {
                found(*key, BanEntry { expires_at_ns: *value });
            }
        }
        Ok(total)
    }

    /// The next page of a look through the map.
    pub(super) fn page<'p>(
        &self,
        pages: &'p mut Pages<K, u64>,
    ) -> Result<Option<Page<'p, K>>, NetworkError> {
        pages.next(self.fd()).map_err(|error| self.failed("read", error))
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> NetworkError {
        NetworkError::Batch { operation, map: self.name, source }
    }
}

/// How many entries there can be in a map from `K` to `V`, which it must be: the
/// kernel reads and writes as much as the map's sizes say.
pub(super) fn entries<K, V>(
    pins: &Pins,
    name: &'static str,
    data: &MapData,
) -> Result<u32, NetworkError> {
    let info = data.info().map_err(NetworkError::map("size", name))?;
    if info.key_size() as usize != size_of::<K>() || info.value_size() as usize != size_of::<V>() {
        return Err(NetworkError::ForeignMap { path: pins.map(name) });
    }
    Ok(info.max_entries())
}
