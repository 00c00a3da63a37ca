//! How sharing stands, for the status, metrics and doctor. Written by the tasks alone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    sharing::Fault,
    store::{
        Backlog, Outbox,
        mongo::{Mongo, MongoError},
    },
};

/// What the task is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShareState {
    /// It looks for the database.
    #[default]
    Connecting,
    /// It compares everything.
    Comparing,
    /// It is told of changes.
    Following,
    /// It asks for changes.
    Polling,
    /// Something failed; it waits, and tries again.
    Waiting,
}

impl ShareState {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Connecting, Self::Comparing, Self::Following, Self::Polling, Self::Waiting];

    /// Its name in status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Comparing => "comparing",
            Self::Following => "following",
            Self::Polling => "polling",
            Self::Waiting => "waiting",
        }
    }
}

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareView {
    /// What it is about.
    pub state: ShareState,
    /// What failed last, unless that is over.
    pub problem: Option<MongoError>,
    /// Anything else that failed last.
    pub trouble: Option<String>,
    /// By how many milliseconds our clock is ahead of the database's.
    pub skew_ms: Option<i64>,
    /// Foreign documents that are heeded.
    pub foreign: usize,
    /// Documents that were seen and still are there.
    pub documents: usize,
    /// How messages fare.
    pub messages: MessagesView,
    /// Whether another host has this one's name.
    pub has_twin: bool,
}

/// How messages fare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessagesView {
    /// Whether bans are told by message at all.
    pub is_used: bool,
    /// Whether it is listened.
    pub is_listening: bool,
    /// Why nothing can be said, if nothing can.
    pub fault: Option<Fault>,
}

/// How sending records of violations stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordsView {
    /// How much waits.
    pub backlog: Backlog,
    /// What failed last, unless that is over.
    pub problem: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct ShareStatus {
    view: Mutex<ShareView>,
    records: Mutex<RecordsView>,
    mongo: Mutex<Option<Mongo>>,
    outbox: Arc<Outbox>,
}

impl ShareStatus {
    pub(super) fn new(outbox: Arc<Outbox>) -> Self {
        Self { view: Mutex::default(), records: Mutex::default(), mongo: Mutex::default(), outbox }
    }

    /// How it stands now.
    pub fn view(&self) -> ShareView {
        self.lock().clone()
    }

    /// How sending records of violations stands.
    pub fn records(&self) -> RecordsView {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change_records(&self, change: impl FnOnce(&mut RecordsView)) {
        change(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What waits to be told.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The database, if its connection string made sense.
    pub fn mongo(&self) -> Option<Mongo> {
        self.mongo.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_mongo(&self, mongo: &Mongo) {
        *self.mongo.lock().unwrap_or_else(PoisonError::into_inner) = Some(mongo.clone());
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut ShareView)) {
        change(&mut self.lock());
    }

    #[cfg(feature = "redis")]
    pub(super) fn messages<T>(&self, change: impl FnOnce(&mut MessagesView) -> T) -> T {
        change(&mut self.lock().messages)
    }

    /// Whoever panicked has changed single values, all of them whole.
    fn lock(&self) -> MutexGuard<'_, ShareView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
