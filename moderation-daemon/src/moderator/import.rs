//! Lists on their way: written down by a thread of their own while decisions
//! go on, then shown, then enforced, then acknowledged. One slice is on its way
//! at a time. Reading lists is not known here.

use std::{future::pending, time::Duration};

use tokio::task::{JoinError, JoinHandle};

use super::{
    Moderator, Reply, Unavailable,
    pending::respond,
    task::{StoreLost, Task},
};
use crate::{
    blocklist::{Expiry, Source},
    clock,
    engine::{Moment, Prefix, Trusted},
    store::{ImportStore, Place, Removal, RunMismatch, Slice, StoreError},
};

/// Entries that are on their way at a time: little enough that the kernel has
/// them in half a millisecond, for decisions wait that long.
pub const SLICE: usize = 512;
/// More lists are a mistake; each is asked about every address.
const MAX_LISTS: usize = 64;
/// Refused entries that are named.
const MAX_NAMED: usize = 100;
/// How long a caller waits for a slice: a disk under load has many to write.
pub(super) const IMPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// Part of a list.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Whose list.
    pub source: Source,
    /// The number of its import, if it is part of one that began.
    pub run: Option<u64>,
    /// At most [`SLICE`], with their expiries in milliseconds since 1970; `None`
    /// for never.
    pub entries: Vec<(Prefix, Option<u64>)>,
}

/// Why nothing of a list is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportRefusal {
    /// There are as many lists as there may be.
    #[error("there are {MAX_LISTS} imported lists already; remove one first")]
    TooManyLists,
    /// Somebody else imports the same list.
    #[error(transparent)]
    OtherRun(#[from] RunMismatch),
}

/// Why an entry is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is protected.
    Protected(Trusted),
    /// There is no room for another exact prefix, or another network.
    Full,
    /// It had lapsed already.
    Expired,
}

impl Refused {
    /// Its name in metrics and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Protected(_) => "protected",
            Self::Full => "full",
            Self::Expired => "expired",
        }
    }
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Entries that are on the list now.
    pub accepted: usize,
    /// Those of them that belong to a proxy or CDN: they hold at the API only.
    pub proxied: usize,
    /// Entries that were refused because they are protected.
    pub protected: usize,
    /// Entries that found no room.
    pub full: usize,
    /// Entries that had lapsed already.
    pub expired: usize,
    /// The first entries that were refused, at most a hundred.
    pub refused: Vec<(Prefix, Refused)>,
}

impl Added {
    fn refuse(&mut self, prefix: Prefix, why: Refused) {
        match why {
            Refused::Protected(_) => self.protected += 1,
            Refused::Full => self.full += 1,
            Refused::Expired => self.expired += 1,
        }
        if self.refused.len() < MAX_NAMED && why != Refused::Expired {
            self.refused.push((prefix, why));
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.accepted += other.accepted;
        self.proxied += other.proxied;
        self.protected += other.protected;
        self.full += other.full;
        self.expired += other.expired;
        self.refused.extend(other.refused);
        self.refused.truncate(MAX_NAMED);
        self
    }
}

/// What can be asked about lists.
#[derive(Debug)]
pub(super) enum Job {
    Begin(Source, String, Reply<Result<u64, ImportRefusal>>),
    Add(Batch, String, Reply<Result<Added, ImportRefusal>>),
    Remove(Removal, Place, Option<Reply<Result<Slice, ImportRefusal>>>),
}

/// What the thread has done, and with what.
#[derive(Debug)]
pub(super) struct Done {
    store: ImportStore,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Begun(Source, Result<u64, StoreError>, Reply<Result<u64, ImportRefusal>>),
    Added {
        source: Source,
        entries: Vec<(Prefix, Expiry)>,
        added: Added,
        result: Result<Result<(), RunMismatch>, StoreError>,
        reply: Reply<Result<Added, ImportRefusal>>,
    },
    Removed {
        what: Removal,
        result: Result<Result<Slice, RunMismatch>, StoreError>,
        reply: Option<Reply<Result<Slice, ImportRefusal>>>,
    },
}

/// The store of lists, at rest or at work.
#[derive(Debug)]
pub(super) struct Importer {
    store: Option<ImportStore>,
    running: Option<JoinHandle<Done>>,
    /// Lapsed entries that are still to be removed, and from where on.
    lapsed: Option<(Removal, Place)>,
}

impl Importer {
    pub(super) const fn new(store: ImportStore) -> Self {
        Self { store: Some(store), running: None, lapsed: None }
    }

    pub(super) const fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Returns when the thread has done its work; never, if there is none.
    pub(super) async fn finished(&mut self) -> Result<Done, JoinError> {
        match &mut self.running {
            Some(running) => running.await,
            None => pending().await,
        }
    }
}

impl Task {
    /// Lets the thread do a job. It must be at rest.
    pub(super) fn start_import(&mut self, job: Job) {
        let Some(store) = self.importer.store.take() else { return };
        let now = clock::now();
        match job {
            Job::Begin(source, by, reply) => self.start_begin(store, source, by, reply, now),
            Job::Add(batch, by, reply) => self.start_add(store, batch, by, reply, now),
            Job::Remove(what, place, reply) => self.work(store, move |store| {
                let result = remove(store, &what, &place);
                Work::Removed { what, result, reply }
            }),
        }
    }

    fn start_begin(
        &mut self,
        store: ImportStore,
        source: Source,
        by: String,
        reply: Reply<Result<u64, ImportRefusal>>,
        now: Moment,
    ) {
        if self.is_one_list_too_many(&source) {
            self.importer.store = Some(store);
            return respond(reply, Ok(Err(ImportRefusal::TooManyLists)));
        }
        self.work(store, move |store| {
            let run = store.begin(&source, &by, now.unix_ms);
            Work::Begun(source, run, reply)
        });
    }

    fn start_add(
        &mut self,
        store: ImportStore,
        batch: Batch,
        by: String,
        reply: Reply<Result<Added, ImportRefusal>>,
        now: Moment,
    ) {
        if self.is_one_list_too_many(&batch.source) {
            self.importer.store = Some(store);
            return respond(reply, Ok(Err(ImportRefusal::TooManyLists)));
        }
        let (entries, added) = self.admit(&batch.entries, now);
        let Batch { source, run, .. } = batch;
        self.work(store, move |store| {
            let result = store.add(&source, run, &entries, &by, now.unix_ms);
            Work::Added { source, entries, added, result, reply }
        });
    }

    fn is_one_list_too_many(&self, source: &Source) -> bool {
        !self.board.has_list(source) && self.board.lists().len() >= MAX_LISTS
    }

    fn work(
        &mut self,
        mut store: ImportStore,
        work: impl FnOnce(&mut ImportStore) -> Work + Send + 'static,
    ) {
        self.importer.running = Some(tokio::task::spawn_blocking(move || {
            let work = work(&mut store);
            Done { store, work }
        }));
    }

    /// Who may be put on a list, and who not. Reserves room: decisions go on
    /// meanwhile, and take some.
    fn admit(
        &mut self,
        entries: &[(Prefix, Option<u64>)],
        now: Moment,
    ) -> (Vec<(Prefix, Expiry)>, Added) {
        let (bounds, fill) = (self.setup.rules.bounds, self.board.fill());
        let mut taken = self.board.taken();
        let mut exact = bounds.bans.saturating_sub(fill.exact);
        let mut networks = bounds.networks.saturating_sub(fill.networks);
        let (mut admitted, mut added) = (Vec::with_capacity(entries.len()), Added::default());
        for (prefix, expires) in entries {
            let expiry = Expiry::at(*expires);
            if !expiry.is_after(now.unix_ms) {
                added.refuse(*prefix, Refused::Expired);
                continue;
            }
            if let Some(trusted) = self.engine.trust().forbidding(*prefix) {
                added.refuse(*prefix, Refused::Protected(trusted));
                continue;
            }
            if !self.board.has_place(*prefix) {
                let (left, taken) = if prefix.is_exact() {
                    (&mut exact, &mut taken.exact)
                } else {
                    (&mut networks, &mut taken.networks)
                };
                if *left == 0 {
                    added.refuse(*prefix, Refused::Full);
                    continue;
                }
                *left -= 1;
                *taken += 1;
            }
            added.proxied += usize::from(self.engine.trust().proxy(*prefix).is_some());
            admitted.push((*prefix, expiry));
        }
        added.accepted = admitted.len();
        self.engine.set_taken(taken);
        (admitted, added)
    }

    /// Shows and enforces what the thread has written down, and answers.
    pub(super) fn finish_import(&mut self, done: Result<Done, JoinError>) -> Result<(), StoreLost> {
        self.importer.running = None;
        let Done { store, work } = done.map_err(|_| StoreLost)?;
        self.importer.store = Some(store);
        match work {
            Work::Begun(source, run, reply) => {
                let run = run.map_err(|error| self.import_failed(&error));
                if run.is_ok() {
                    self.board.import(&source, &[], clock::now());
                }
                respond(reply, run.map(Ok));
            }
            Work::Added { source, entries, added, result, reply } => {
                let answer = self.added(&source, &entries, added, result);
                respond(reply, answer);
            }
            Work::Removed { what, result, reply } => {
                let answer = self.removed(&what, result);
                if let Some(reply) = reply {
                    respond(reply, answer);
                }
            }
        }
        self.engine.set_taken(self.board.taken());
        self.watch_fill();
        Ok(())
    }

    fn added(
        &mut self,
        source: &Source,
        entries: &[(Prefix, Expiry)],
        added: Added,
        result: Result<Result<(), RunMismatch>, StoreError>,
    ) -> Result<Result<Added, ImportRefusal>, Unavailable> {
        if let Err(mismatch) = result.map_err(|error| self.import_failed(&error))? {
            return Ok(Err(mismatch.into()));
        }
        self.metrics.imported(&added);
        self.board.import(source, entries, clock::now());
        self.enforcer.project(entries.iter().map(|(prefix, _)| *prefix));
        Ok(Ok(added))
    }

    fn removed(
        &mut self,
        what: &Removal,
        result: Result<Result<Slice, RunMismatch>, StoreError>,
    ) -> Result<Result<Slice, ImportRefusal>, Unavailable> {
        let is_housekeeping = matches!(what, Removal::Expired(_));
        if is_housekeeping {
            self.importer.lapsed = None;
        }
        let slice = match result.map_err(|error| self.import_failed(&error))? {
            Ok(slice) => slice,
            Err(mismatch) => return Ok(Err(mismatch.into())),
        };
        for removed in &slice.removed {
            self.board.unimport(&removed.source, removed.prefix);
        }
        self.enforcer.project(slice.removed.iter().map(|removed| removed.prefix));
        match (&slice.rest, what) {
            (None, Removal::Source(source)) => self.board.forget_list(source),
            (None, Removal::Expired(_)) => self.board.find_next_expiry(),
            (Some(rest), Removal::Expired(_)) => {
                self.importer.lapsed = Some((what.clone(), rest.clone()));
            }
            _ => {}
        }
        Ok(Ok(slice))
    }

    fn import_failed(&mut self, error: &StoreError) -> Unavailable {
        self.store_failed(error, "an imported list was not changed");
        Unavailable::Store
    }

    /// Removes entries that have lapsed, slice by slice; called when the thread
    /// is at rest. They bind nobody any more, neither here nor in the kernel:
    /// this is for the room that they take.
    pub(super) fn remove_lapsed(&mut self) -> bool {
        let Some((what, place)) = self.importer.lapsed.take() else { return false };
        self.start_import(Job::Remove(what, place, None));
        true
    }

    /// Looks for lapsed entries; to be called once in a while.
    pub(super) fn look_for_lapsed(&mut self, now: Moment) {
        if self.importer.lapsed.is_none() && self.board.imports_may_have_lapsed(now) {
            self.importer.lapsed = Some((Removal::Expired(now.unix_ms), Place::default()));
        }
    }

    /// Waits for what is on its way when the daemon stops.
    pub(super) async fn finish_imports(&mut self) -> Result<(), StoreLost> {
        if !self.importer.is_busy() {
            return Ok(());
        }
        let done = self.importer.finished().await;
        self.finish_import(done)
    }
}

fn remove(
    store: &mut ImportStore,
    what: &Removal,
    place: &Place,
) -> Result<Result<Slice, RunMismatch>, StoreError> {
    if let Removal::Stale(source, Some(run)) = what
        && !store.is_latest(source, *run)?
    {
        return Ok(Err(RunMismatch));
    }
    store.remove(what, place).map(Ok)
}

impl Moderator {
    /// Begins an import of a list; returns its number.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn begin_import(
        &self,
        source: Source,
        by: String,
    ) -> Result<Result<u64, ImportRefusal>, Unavailable> {
        self.ask_about_lists(|reply| Job::Begin(source, by, reply)).await
    }

    /// Puts at most [`SLICE`] entries on a list.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn import(
        &self,
        batch: Batch,
        by: String,
    ) -> Result<Result<Added, ImportRefusal>, Unavailable> {
        self.ask_about_lists(|reply| Job::Add(batch, by, reply)).await
    }

    /// Takes entries off lists, all that `what` names; returns how many.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn remove_imported(
        &self,
        what: Removal,
    ) -> Result<Result<usize, ImportRefusal>, Unavailable> {
        let (mut count, mut place) = (0, Place::default());
        loop {
            let (what, from) = (what.clone(), place);
            let job = |reply| Job::Remove(what, from, Some(reply));
            let slice = match self.ask_about_lists(job).await? {
                Ok(slice) => slice,
                Err(refusal) => return Ok(Err(refusal)),
            };
            count += slice.removed.len();
            match slice.rest {
                Some(rest) => place = rest,
                None => return Ok(Ok(count)),
            }
        }
    }

    async fn ask_about_lists<T>(
        &self,
        job: impl FnOnce(Reply<T>) -> Job,
    ) -> Result<T, Unavailable> {
        self.ask(&self.lists, job, IMPORT_TIMEOUT).await
    }
}
