//! What follows when shared documents come, change and go: a state machine that is told
//! what was seen and says what to do. A document that is gone was deleted by somebody, or
//! has expired, or belongs to a ban that was lifted, or the database has lost it; telling
//! these apart is what this is for. It performs nothing itself.

use std::collections::{HashSet, VecDeque};

use super::{
    BanDocument, Entry, ForeignBan, Holder, Judged, LiftDocument, Memory, Origin, Uid, Unusable,
    seen::Entries,
};
use crate::engine::{Author, Ban, Moment};

/// What it goes by.
#[derive(Clone, Debug)]
pub struct FollowSettings {
    /// This host's name.
    pub host: String,
    /// By how much hosts' clocks may differ, in milliseconds.
    pub skew_ms: u64,
    /// How many bans may be deleted at once; more are a loss of data.
    pub most_deleted: usize,
    /// For how long deletions are collected before they are judged, in milliseconds.
    pub settle_ms: u64,
    /// How many foreign documents are heeded at once.
    pub most_foreign: usize,
    /// Whether kernels drop what foreign documents name.
    pub foreign_blocks: bool,
    /// How many of these in a minute; those beyond hold at the API only.
    pub foreign_per_minute: usize,
}

/// Deletions that go on are judged nevertheless, so that one of them is felt within a
/// second.
const SETTLE_AT_MOST: u64 = 3;
/// After a loss, whatever else turns out to be gone belongs to it: it may be noticed
/// before all that is gone was told.
const LOSS_LASTS_MS: u64 = 10_000;
/// Lifts that are remembered; older ones are in the store.
const MOST_LIFTS: usize = 100_000;
const MINUTE_MS: u64 = 60_000;

/// Something that happened elsewhere, and is to hold here.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A ban fell.
    Ban {
        /// Its name everywhere.
        uid: Uid,
        /// Who made it.
        origin: Origin,
        /// The ban, without a number.
        ban: Box<Ban>,
    },
    /// A ban was lifted, which all hosts know.
    Lift {
        /// Its name.
        uid: Uid,
        /// The host that lifted it.
        host: String,
    },
    /// Somebody deleted a document, which no other host may know.
    Pardon(Entry),
    /// Documents of these bans are gone: those of this host are to be shared again.
    Reship(Vec<Uid>),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Let it hold here, too.
    Tell(Change),
    /// Share all of them again.
    ReshipAll,
    /// Remember what was seen.
    Note(Entry),
    /// Forget what is gone. Who else is banned under that key may take its place.
    Forget(String),
    /// Remove a copy of LibreChat's that is about somebody who was not banned.
    RemoveCopy(String),
    /// Tell somebody.
    Alarm(Alarm),
}

/// What operators must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// Documents are gone that nobody meant to delete; they are written again.
    DataLoss,
    /// There are more foreign documents than are heeded.
    ForeignFull,
    /// Too many foreign documents at once: the last ones hold at the API only.
    ForeignRunaway,
    /// A document makes no sense.
    Unusable,
    /// A lift without a valid signature.
    Forged,
    /// Another host has this one's name.
    SameName,
}

impl Alarm {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::DataLoss,
        Self::ForeignFull,
        Self::ForeignRunaway,
        Self::Unusable,
        Self::Forged,
        Self::SameName,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DataLoss => "data_loss",
            Self::ForeignFull => "foreign_full",
            Self::ForeignRunaway => "foreign_runaway",
            Self::Unusable => "unusable",
            Self::Forged => "forged",
            Self::SameName => "same_name",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Follow {
    settings: FollowSettings,
    entries: Entries,
    lifted: Memory<Uid>,
    /// Gone, and not judged yet.
    gone: Vec<Entry>,
    /// When the first and the last of them went, on the boot clock.
    gone_since: Option<(u64, u64)>,
    /// Until when what is gone was lost, on the boot clock.
    lost_until: u64,
    /// When foreign documents were blocked, on the boot clock.
    blocked: VecDeque<u64>,
    /// Whether what is known is told again, to see whether it holds.
    is_thorough: bool,
}

impl Follow {
    /// Goes on with what was seen in an earlier life.
    pub fn new(settings: FollowSettings, seen: Vec<Entry>) -> Self {
        let mut entries = Entries::default();
        seen.into_iter().for_each(|entry| entries.put(entry));
        Self {
            settings,
            entries,
            lifted: Memory::new(MOST_LIFTS),
            gone: Vec::new(),
            gone_since: None,
            lost_until: 0,
            blocked: VecDeque::new(),
            is_thorough: false,
        }
    }

    /// From now on, or no longer, bans are told though they are known: one may have been
    /// refused, or lifted without a word.
    pub const fn set_thorough(&mut self, is_thorough: bool) {
        self.is_thorough = is_thorough;
    }

    /// What is under a key, as far as is known.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All keys under which something was seen.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }

    /// The keys under which a ban stands.
    pub fn keys_of(&self, uid: &Uid) -> impl Iterator<Item = String> {
        self.entries.keys_of(uid)
    }

    /// How many documents there are.
    pub fn documents(&self) -> usize {
        self.entries.len()
    }

    /// How many foreign documents there are.
    pub const fn foreign(&self) -> usize {
        self.entries.foreign()
    }

    /// A document of this host was written.
    pub fn wrote(&mut self, entry: Entry) {
        self.entries.put(entry);
    }

    /// Documents under these keys were removed because their ban was lifted. What stands
    /// there for another ban stays.
    pub fn removed(&mut self, uid: &Uid, keys: &[String]) {
        self.lifted.remember(uid);
        for key in keys {
            if self.entries.stands(uid, key) {
                self.entries.remove(key);
            }
        }
    }

    /// A document was seen.
    pub fn see(&mut self, id: &str, judged: Judged, now: Moment) -> Vec<Step> {
        match judged {
            Judged::Ban(document) => self.see_ban(id, &document, now),
            Judged::Lift(document) => self.see_lift(&document),
            Judged::Foreign(document) => self.see_foreign(id, document, now),
            Judged::Copy { key, of, uid } => self.see_copy(key, &of, &uid),
            Judged::Other => Vec::new(),
            Judged::Unusable(Unusable::Forged) => vec![Step::Alarm(Alarm::Forged)],
            Judged::Unusable(_) => vec![Step::Alarm(Alarm::Unusable)],
        }
    }

    fn see_ban(&mut self, id: &str, document: &BanDocument, now: Moment) -> Vec<Step> {
        if document.expires_at_unix_ms.is_some_and(|ends| ends <= now.unix_ms) {
            return Vec::new();
        }
        let uid = &document.uid;
        if self.lifted.contains(uid) {
            // A lift beats an older ban, whoever brought its document back.
            return vec![Step::Tell(Change::Reship(vec![uid.clone()]))];
        }
        let is_own = document.host == self.settings.host;
        let holder = if is_own { Holder::Here } else { Holder::Elsewhere };
        let entry = Entry {
            key: document.key.clone(),
            id: id.to_owned(),
            uid: uid.clone(),
            holder,
            expires_at_unix_ms: document.expires_at_unix_ms,
        };
        let before = self.entries.get(&entry.key);
        if before == Some(&entry) && !self.is_thorough {
            return Vec::new();
        }
        let mut steps = Vec::new();
        // Somebody overwrote what is to be seen here for longer.
        let lost = before.filter(|before| {
            before.holder == Holder::Here && before.uid != *uid && before.ends() > entry.ends()
        });
        if let Some(lost) = lost {
            steps.push(Step::Tell(Change::Reship(vec![lost.uid.clone()])));
        }
        let is_known = self.entries.knows(uid) && !self.is_thorough;
        self.entries.put(entry.clone());
        steps.push(Step::Note(entry));
        if !is_known {
            match document.ban() {
                Some(ban) => {
                    let origin =
                        if is_own { Origin::Here } else { Origin::Host(document.host.clone()) };
                    let (uid, ban) = (uid.clone(), Box::new(ban));
                    steps.push(Step::Tell(Change::Ban { uid, origin, ban }));
                }
                None => steps.push(Step::Alarm(Alarm::Unusable)),
            }
        }
        steps
    }

    fn see_lift(&mut self, document: &LiftDocument) -> Vec<Step> {
        if !self.lifted.remember(&document.uid) {
            return Vec::new();
        }
        let (uid, host) = (document.uid.clone(), document.host.clone());
        vec![Step::Tell(Change::Lift { uid, host })]
    }

    fn see_foreign(&mut self, id: &str, document: ForeignBan, now: Moment) -> Vec<Step> {
        let ForeignBan { key, uid, user, prefix, expires_at_unix_ms } = document;
        if expires_at_unix_ms.is_some_and(|ends| ends <= now.unix_ms) {
            return Vec::new();
        }
        let before = self.entries.get(&key);
        let is_same = |entry: &Entry| entry.uid == uid && entry.id == id;
        if before.is_some_and(is_same) && !self.is_thorough {
            return Vec::new();
        }
        let is_counted = before.is_some_and(|entry| entry.holder == Holder::Foreign);
        if !is_counted && self.entries.foreign() >= self.settings.most_foreign {
            return vec![Step::Alarm(Alarm::ForeignFull)];
        }
        let mut steps = Vec::new();
        let wants_block = self.settings.foreign_blocks && prefix.is_some();
        let blocks = wants_block && self.may_block(now);
        if wants_block && !blocks {
            steps.push(Step::Alarm(Alarm::ForeignRunaway));
        }
        let holder = Holder::Foreign;
        let entry = Entry {
            key: key.clone(),
            id: id.to_owned(),
            uid: uid.clone(),
            holder,
            expires_at_unix_ms,
        };
        self.entries.put(entry.clone());
        steps.push(Step::Note(entry));
        let ban = Ban {
            id: 0,
            user,
            prefix,
            blocks,
            reason: format!(
                "a document in the shared database bans {}",
                subject_kind(prefix.is_some())
            ),
            violation: None,
            score: None,
            created_at_unix_ms: now.unix_ms,
            expires_at_unix_ms,
            by: Author::Operator("foreign".into()),
            with: None,
            severity: None,
            review: false,
        };
        let (origin, ban) = (Origin::Foreign, Box::new(ban));
        steps.push(Step::Tell(Change::Ban { uid, origin, ban }));
        steps
    }

    /// The circuit of foreign documents: another than that of rules, which somebody who
    /// writes documents must not be able to open.
    fn may_block(&mut self, now: Moment) -> bool {
        while self.blocked.front().is_some_and(|at| now.boot_ms.saturating_sub(*at) >= MINUTE_MS) {
            self.blocked.pop_front();
        }
        let may = self.blocked.len() < self.settings.foreign_per_minute;
        if may {
            self.blocked.push_back(now.boot_ms);
        }
        may
    }

    /// LibreChat writes a copy for whoever meets the ban: a neighbour at the same address,
    /// or a proxy that many share.
    fn see_copy(&self, key: String, of: &str, uid: &Uid) -> Vec<Step> {
        let is_ours = self.entries.knows(uid) || self.lifted.contains(uid);
        let is_rightful = self.entries.stands(uid, of) && !self.lifted.contains(uid);
        if is_ours && !is_rightful { vec![Step::RemoveCopy(key)] } else { Vec::new() }
    }

    /// The document with this `_id` is gone.
    pub fn gone(&mut self, id: &str, now: Moment) {
        if let Some(key) = self.entries.by_id(id).map(|entry| entry.key.clone()) {
            self.miss(&key, now);
        }
    }

    fn miss(&mut self, key: &str, now: Moment) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.gone.push(entry);
        let first = self.gone_since.map_or(now.boot_ms, |(first, _)| first);
        self.gone_since = Some((first, now.boot_ms));
    }

    /// All keys that there are were listed, after their documents and all lifts were seen.
    pub fn listed(&mut self, is_there: impl Fn(&str) -> bool, now: Moment) {
        let missing = self.entries.iter().filter(|entry| !is_there(&entry.key));
        let missing: Vec<_> = missing.map(|entry| entry.key.clone()).collect();
        missing.iter().for_each(|key| self.miss(key, now));
    }

    /// The keys under which something is gone, and that is not judged yet.
    pub fn missing(&self) -> HashSet<String> {
        self.gone.iter().map(|entry| entry.key.clone()).collect()
    }

    /// The collection is gone, or the database was set back, or is another one: what is gone
    /// nobody meant to delete. What is there has to be seen anew.
    pub fn lost(&mut self, now: Moment) -> Vec<Step> {
        self.lost_until = now.boot_ms.saturating_add(LOSS_LASTS_MS);
        let keys: Vec<_> = self.keys().map(str::to_owned).collect();
        let mut steps = vec![Step::Alarm(Alarm::DataLoss)];
        for key in keys {
            self.entries.remove(&key);
            steps.push(Step::Forget(key));
        }
        steps.extend(self.take_gone().into_iter().map(|entry| Step::Forget(entry.key)));
        steps.push(Step::ReshipAll);
        steps
    }

    fn take_gone(&mut self) -> Vec<Entry> {
        self.gone_since = None;
        std::mem::take(&mut self.gone)
    }

    /// In how many milliseconds [`Follow::settle`] has something to judge.
    pub fn settles_in(&self, now: Moment) -> Option<u64> {
        let (first, last) = self.gone_since?;
        let settle = self.settings.settle_ms;
        let due = (last + settle).min(first + SETTLE_AT_MOST * settle);
        Some(due.saturating_sub(now.boot_ms))
    }

    /// Judges what is gone, if it is time.
    pub fn settle(&mut self, now: Moment) -> Vec<Step> {
        if self.settles_in(now) != Some(0) {
            return Vec::new();
        }
        let gone = self.take_gone();
        let (deleted, over): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|entry| self.was_deleted(entry, now));
        let mut steps: Vec<_> = over
            .into_iter()
            .filter(|entry| self.entries.get(&entry.key).is_none())
            .map(|entry| Step::Forget(entry.key))
            .collect();
        let bans: HashSet<_> = deleted.iter().map(|entry| entry.uid.clone()).collect();
        let is_known = now.boot_ms < self.lost_until;
        if is_known || bans.len() > self.settings.most_deleted {
            if !is_known {
                steps.push(Step::Alarm(Alarm::DataLoss));
            }
            steps.extend(deleted.into_iter().map(|entry| Step::Forget(entry.key)));
            let mut bans: Vec<_> = bans.into_iter().collect();
            bans.sort();
            steps.push(Step::Tell(Change::Reship(bans)));
        } else {
            steps.extend(deleted.into_iter().map(|entry| Step::Tell(Change::Pardon(entry))));
        }
        steps
    }

    /// By somebody who meant it: it was not over, not lifted, and did not come back.
    fn was_deleted(&self, entry: &Entry, now: Moment) -> bool {
        let is_over = entry
            .expires_at_unix_ms
            .is_some_and(|ends| now.unix_ms.saturating_add(self.settings.skew_ms) >= ends);
        !is_over && !self.lifted.contains(&entry.uid) && self.entries.get(&entry.key).is_none()
    }
}

const fn subject_kind(is_address: bool) -> &'static str {
    if is_address { "this address" } else { "this user" }
}
