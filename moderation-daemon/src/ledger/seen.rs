//! What was last seen under each key: what is no longer there was deleted. Only a memory;
//! what follows from it is `follow`'s affair.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Uid, document::subject};
use crate::engine::{Prefix, UserId};

/// A document as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its `_id`, as text.
    pub id: String,
    /// The ban that it stands for.
    pub uid: Uid,
    /// Whose it is.
    pub holder: Holder,
    /// When it ends, in milliseconds since 1970; `None`: never.
    pub expires_at_unix_ms: Option<u64>,
}

/// Who wrote a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This host.
    Here,
    /// Another one.
    Elsewhere,
    /// Nobody with the key.
    Foreign,
}

impl Entry {
    /// Whom its key is about.
    pub fn subject(&self) -> Option<(Option<UserId>, Option<Prefix>)> {
        subject(&self.key)
    }

    pub(super) fn ends(&self) -> u64 {
        self.expires_at_unix_ms.unwrap_or(u64::MAX)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Entries {
    by_key: BTreeMap<String, Entry>,
    keys_by_id: HashMap<String, String>,
    keys_by_uid: HashMap<Uid, BTreeSet<String>>,
    foreign: usize,
}

impl Entries {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.by_key.get(key)
    }

    pub(super) fn by_id(&self, id: &str) -> Option<&Entry> {
        self.keys_by_id.get(id).and_then(|key| self.by_key.get(key))
    }

    pub(super) fn knows(&self, uid: &Uid) -> bool {
        self.keys_by_uid.contains_key(uid)
    }

    /// Whether a ban stands under a key.
    pub(super) fn stands(&self, uid: &Uid, key: &str) -> bool {
        self.by_key.get(key).is_some_and(|entry| entry.uid == *uid)
    }

    pub(super) fn keys_of(&self, uid: &Uid) -> impl Iterator<Item = String> {
        self.keys_by_uid.get(uid).into_iter().flatten().cloned()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.by_key.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) const fn foreign(&self) -> usize {
        self.foreign
    }

    pub(super) fn put(&mut self, entry: Entry) {
        self.remove(&entry.key);
        self.foreign += usize::from(entry.holder == Holder::Foreign);
        self.keys_by_id.insert(entry.id.clone(), entry.key.clone());
        self.keys_by_uid.entry(entry.uid.clone()).or_default().insert(entry.key.clone());
        self.by_key.insert(entry.key.clone(), entry);
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Entry> {
        let entry = self.by_key.remove(key)?;
        self.foreign -= usize::from(entry.holder == Holder::Foreign);
        if self.keys_by_id.get(&entry.id).is_some_and(|known| known == key) {
            self.keys_by_id.remove(&entry.id);
        }
        if let Some(keys) = self.keys_by_uid.get_mut(&entry.uid) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys_by_uid.remove(&entry.uid);
            }
        }
        Some(entry)
    }
}
