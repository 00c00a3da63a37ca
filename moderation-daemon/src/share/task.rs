//! The task: sessions with the shared database, one after the other, each until something
//! fails. What is read goes through [`Follow`]; what that says is done here.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};

use super::{ShareSettings, ShareState, ShareStatus, compare::Stamps, records::Records};
use crate::{
    clock,
    ledger::{Alarm, Follow, Standing, Step, Taken, judge},
    metrics::Metrics,
    moderator::{Fate, Moderator, News, Unavailable},
    random,
    store::{
        Outbox, Reader, StoreError,
        mongo::{Changes, Event, Found, Kind, Mongo, MongoError},
    },
    telemetry::Throttle,
};

/// Changes that are taken to the moderator in one go: it is busy with them for some
/// milliseconds.
pub(super) const BATCH: usize = 128;
/// How often a sign of life is left; that the database is gone is noticed by it, too.
const BEAT: Duration = Duration::from_secs(5);
/// After so many signs of life without one of another host under our name, there is none.
const TWIN_BEATS: u8 = 2;
/// How often, and for how long in all, a busy moderator is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const ASK_AT_MOST: u32 = 100;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The database.
    #[error(transparent)]
    Mongo(#[from] MongoError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The moderator.
    #[error(transparent)]
    Moderator(#[from] Unavailable),
    /// The collection is another one: everything begins anew.
    #[error("the shared collection was dropped")]
    Dropped,
}

/// A running task. Dropped, it ends; what waits, waits for the next life.
#[derive(Debug)]
pub struct Sharing {
    task: JoinHandle<()>,
    records: Option<JoinHandle<()>>,
    /// How it stands.
    pub status: Arc<ShareStatus>,
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(records) = &self.records {
            records.abort();
        }
    }
}

/// Starts the task. `life` is a name that no other life of this or another host has.
///
/// # Errors
///
/// If the store cannot be read.
pub fn start(
    settings: ShareSettings,
    moderator: Moderator,
    reader: Reader,
    outbox: Arc<Outbox>,
    metrics: Arc<Metrics>,
    life: String,
) -> Result<Sharing, StoreError> {
    let status = Arc::new(ShareStatus::new(Arc::clone(&outbox)));
    let (position, beat) = reader.followed()?;
    let follow = Follow::new(settings.follow.clone(), reader.seen()?);
    let records = settings.mongo.records.is_some().then(|| Records {
        moderator: moderator.clone(),
        reader: reader.clone(),
        status: Arc::clone(&status),
        metrics: Arc::clone(&metrics),
    });
    let task = Task {
        settings,
        moderator,
        reader,
        outbox,
        status: Arc::clone(&status),
        metrics,
        follow,
        stamps: Stamps::default(),
        position,
        life: Life { id: life, taken: Taken { beat_unix_ms: beat, at_unix_ms: None }, twin: 0 },
        is_compared: false,
        is_torn: false,
        lines: Throttle::default(),
    };
    let records = records.map(|records| tokio::spawn(records.run()));
    Ok(Sharing { task: tokio::spawn(task.run()), records, status })
}

pub(super) struct Task {
    pub(super) settings: ShareSettings,
    pub(super) moderator: Moderator,
    pub(super) reader: Reader,
    pub(super) outbox: Arc<Outbox>,
    pub(super) status: Arc<ShareStatus>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) follow: Follow,
    /// What was listed last, to see what is another.
    pub(super) stamps: Stamps,
    /// Until where changes were followed.
    position: Option<Vec<u8>>,
    life: Life,
    /// Whether all was compared in this life.
    is_compared: bool,
    /// Whether something was followed and not taken over.
    is_torn: bool,
    lines: Throttle,
}

/// This life of this host, as others see it.
struct Life {
    id: String,
    /// The last sign of it that the database took.
    taken: Taken,
    /// Signs of life since another host was met under our name, counted down.
    twin: u8,
}

impl Task {
    async fn run(mut self) {
        let mut pause = Pause::default();
        let mut mongo = None;
        loop {
            let begun = Instant::now();
            let ended = self.session(&mut mongo).await;
            if begun.elapsed() > 2 * BEAT {
                pause = Pause::default();
            }
            self.report(&ended);
            if matches!(&ended, Ended::Mongo(error) if error.is_about_rights()) {
                // Connections stay with the user whom they came as, though there may be
                // another one of that name by now.
                mongo = None;
            }
            tokio::time::sleep(pause.next()).await;
        }
    }

    fn report(&mut self, ended: &Ended) {
        let name = match ended {
            Ended::Mongo(error) => error.name(),
            Ended::Store(_) => "store",
            Ended::Moderator(_) => "moderator",
            Ended::Dropped => "dropped",
        };
        self.metrics.ledger_failed(name);
        let (problem, trouble) = match ended {
            Ended::Mongo(error) => (Some(error.clone()), None),
            ended => (None, Some(ended.to_string())),
        };
        let before = self.status.view();
        let is_news = (&before.problem, &before.trouble) != (&problem, &trouble);
        self.status.change(|view| {
            view.state = ShareState::Waiting;
            view.problem = problem;
            view.trouble = trouble;
        });
        if is_news && let Some(suppressed) = self.lines.permit(clock::now().boot_ms) {
            let error = ended as &dyn std::error::Error;
            tracing::warn!(error, suppressed, "bans are not shared just now; they wait");
        }
    }

    async fn session(&mut self, kept: &mut Option<Mongo>) -> Ended {
        match self.try_session(kept).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_session(
        &mut self,
        kept: &mut Option<Mongo>,
    ) -> Result<std::convert::Infallible, Ended> {
        if self.is_torn {
            // What was followed is not what is written down: begin with that.
            let reader = self.reader.clone();
            let seen = blocking(move || reader.seen()).await?;
            self.follow = Follow::new(self.settings.follow.clone(), seen);
            (self.is_compared, self.is_torn) = (false, false);
        }
        let mongo = match kept {
            Some(mongo) => mongo.clone(),
            None => {
                let mongo = Mongo::new(&self.settings.mongo).await?;
                self.status.set_mongo(&mongo);
                kept.insert(mongo).clone()
            }
        };
        let kind = mongo.kind().await?;
        mongo.ensure_indexes().await?;
        match kind {
            Kind::Telling => self.follow_changes(&mongo).await,
            Kind::Alone => self.ask_for_changes(&mongo).await,
        }
    }

    /// With a server that tells of changes. They are followed from before everything is
    /// compared, so that none is missed.
    async fn follow_changes(&mut self, mongo: &Mongo) -> Result<std::convert::Infallible, Ended> {
        // Where changes are followed from now on, those since the last session are not told.
        self.is_compared &= self.position.is_some();
        let mut changes = match self.go_on(mongo).await {
            Err(Ended::Mongo(error)) if error.is_history_lost() => self.begin_anew(mongo).await?,
            changes => changes?,
        };
        if !self.is_compared {
            self.compare(mongo).await?;
            self.is_compared = true;
        }
        self.well(ShareState::Following);
        self.outbox.ring();
        let mut beat = clock::ticker(BEAT);
        loop {
            let settles_in = self.follow.settles_in(clock::now());
            tokio::select! {
                event = changes.next() => self.take(mongo, &mut changes, event).await?,
                () = self.outbox.filled() => self.ship(mongo).await?,
                () = sleep_ms(settles_in), if settles_in.is_some() => self.settle(mongo).await?,
                _ = beat.tick() => self.live(mongo, changes.position()).await?,
            }
        }
    }

    /// From where we were, if the server still knows that; it may find out with the first
    /// answer only.
    async fn go_on(&mut self, mongo: &Mongo) -> Result<Changes, Ended> {
        let mut changes = mongo.watch(self.position.as_deref()).await?;
        if self.position.is_some() {
            let first = changes.next().await;
            self.take(mongo, &mut changes, first).await?;
        }
        Ok(changes)
    }

    /// Where one was is no longer known: what is gone meanwhile nobody can have meant.
    async fn begin_anew(&mut self, mongo: &Mongo) -> Result<Changes, Ended> {
        self.position = None;
        let changes = mongo.watch(None).await?;
        self.compare_after_a_loss(mongo).await?;
        self.is_compared = true;
        Ok(changes)
    }

    async fn take(
        &mut self,
        mongo: &Mongo,
        changes: &mut Changes,
        first: Result<Event, MongoError>,
    ) -> Result<(), Ended> {
        let mut steps = Vec::new();
        let mut is_dropped = false;
        // What came before the stream broke counts: it is followed from here on, so that
        // nobody would tell of it again.
        let (events, broken) = changes.batch(first?, BATCH);
        self.is_torn = true;
        for event in events {
            match event {
                Event::Seen(found) => steps.extend(self.see(*found)),
                Event::Gone(id) => self.follow.gone(&id, clock::now()),
                Event::Dropped => {
                    steps.extend(self.follow.lost(clock::now()));
                    self.stamps = Stamps::default();
                    is_dropped = true;
                }
                Event::Other => {}
            }
        }
        let position = if is_dropped { None } else { changes.position() };
        if steps.is_empty() && !is_dropped {
            // Nothing happened: where we are is written down now and then.
            self.is_torn = false;
            return broken.map_or(Ok(()), |error| Err(error.into()));
        }
        self.perform(mongo, steps, position.clone()).await?;
        if is_dropped {
            // The stream has ended with it, or ends next.
            self.position = None;
            self.is_compared = false;
            return Err(Ended::Dropped);
        }
        if position.is_some() {
            self.position = position;
        }
        broken.map_or(Ok(()), |error| Err(error.into()))
    }

    pub(super) fn see(&mut self, found: Found) -> Vec<Step> {
        let judged = judge(&found.key, found.fields, &self.settings.mac);
        self.follow.see(&found.id, judged, clock::now())
    }

    /// With one that has to be asked.
    async fn ask_for_changes(&mut self, mongo: &Mongo) -> Result<std::convert::Infallible, Ended> {
        if !self.is_compared {
            self.compare(mongo).await?;
            self.is_compared = true;
        }
        self.well(ShareState::Polling);
        self.outbox.ring();
        let mut beat = clock::ticker(BEAT);
        let mut due = Instant::now() + self.settings.poll;
        loop {
            let settles_in = self.follow.settles_in(clock::now());
            tokio::select! {
                () = tokio::time::sleep_until(due) => {
                    let begun = Instant::now();
                    self.poll(mongo).await?;
                    // A long list is not asked for all the time.
                    due = Instant::now() + self.settings.poll.max(3 * begun.elapsed());
                }
                () = self.outbox.filled() => self.ship(mongo).await?,
                () = sleep_ms(settles_in), if settles_in.is_some() => self.settle(mongo).await?,
                _ = beat.tick() => self.live(mongo, None).await?,
            }
        }
    }

    fn well(&self, state: ShareState) {
        let before = self.status.view();
        if before.problem.is_some() || before.trouble.is_some() {
            tracing::info!("bans are shared again");
        }
        self.status.change(|view| {
            view.state = state;
            view.problem = None;
            view.trouble = None;
        });
    }

    /// Judges what is gone, unless the database itself was set back.
    async fn settle(&mut self, mongo: &Mongo) -> Result<(), Ended> {
        if self.follow.settles_in(clock::now()) != Some(0) {
            return Ok(());
        }
        if self.was_set_back(mongo).await? {
            return self.compare_after_a_loss(mongo).await;
        }
        let steps = self.follow.settle(clock::now());
        self.perform(mongo, steps, None).await
    }

    /// Whether the database has an older sign of life of ours than it once took, or none.
    pub(super) async fn was_set_back(&mut self, mongo: &Mongo) -> Result<bool, Ended> {
        if self.life.taken.beat_unix_ms.is_none() {
            return Ok(false);
        }
        let there = mongo.sign_of_life(&self.settings.follow.host).await?;
        let standing = self.life.taken.judge(there.as_ref(), &self.life.id);
        if standing == Standing::Twin {
            self.meet_twin();
        }
        Ok(standing == Standing::SetBack)
    }

    /// Nobody can tell whose bans are whose then.
    fn meet_twin(&mut self) {
        if self.life.twin == 0 {
            let host = &self.settings.follow.host;
            self.metrics.ledger_alarm(Alarm::SameName);
            tracing::error!(
                host,
                "another host has this host's name: give each its own (mongodb.host)"
            );
        }
        self.life.twin = TWIN_BEATS;
    }

    /// Leaves a sign of life, unless the database was set back meanwhile, and writes down
    /// that it did and where we are: an older one is known by it after a crash, too.
    async fn live(&mut self, mongo: &Mongo, position: Option<Vec<u8>>) -> Result<(), Ended> {
        self.life.twin = self.life.twin.saturating_sub(1);
        if self.was_set_back(mongo).await? {
            return self.compare_after_a_loss(mongo).await;
        }
        self.leave_sign(mongo, position).await
    }

    pub(super) async fn leave_sign(
        &mut self,
        mongo: &Mongo,
        position: Option<Vec<u8>>,
    ) -> Result<(), Ended> {
        let now = clock::now().unix_ms;
        let server = mongo.beat(&self.settings.follow.host, &self.life.id, now).await?;
        self.life.taken = Taken { beat_unix_ms: Some(now), at_unix_ms: server };
        let skew = server.map(|server| now.cast_signed().saturating_sub(server.cast_signed()));
        let (foreign, documents) = (self.follow.foreign(), self.follow.documents());
        self.status.change(|view| {
            view.skew_ms = skew;
            view.foreign = foreign;
            view.documents = documents;
            view.has_twin = self.life.twin > 0;
        });
        let mut news = News::default();
        news.notes.beat_unix_ms = Some(now);
        news.notes.position.clone_from(&position);
        self.hear(news).await?;
        if position.is_some() {
            self.position = position;
        }
        Ok(())
    }

    /// Does what follows, in order.
    pub(super) async fn perform(
        &mut self,
        mongo: &Mongo,
        steps: Vec<Step>,
        position: Option<Vec<u8>>,
    ) -> Result<(), Ended> {
        // Until all of it is done, what was followed is ahead of what is written down.
        self.is_torn = true;
        let mut copies = Vec::new();
        let mut news = News::default();
        for step in steps {
            match step {
                Step::Tell(change) => news.changes.push(change),
                Step::ReshipAll => news.notes.all_again = true,
                Step::Note(entry) => news.notes.seen.push(entry),
                Step::Forget(key) => news.notes.gone.push(key),
                Step::RemoveCopy(key) => copies.push(key),
                Step::Alarm(alarm) => {
                    self.metrics.ledger_alarm(alarm);
                    if let Some(suppressed) = self.lines.permit(clock::now().boot_ms) {
                        let alarm = alarm.name();
                        tracing::error!(alarm, suppressed, "the shared database is not as it was");
                    }
                }
            }
            if news.changes.len() >= BATCH {
                tell(&self.moderator, &self.metrics, std::mem::take(&mut news)).await?;
            }
        }
        // With the last of them: a crash in between sees all of them again.
        news.notes.position = position;
        if !news.is_nothing() {
            tell(&self.moderator, &self.metrics, news).await?;
        }
        for chunk in copies.chunks(BATCH) {
            mongo.remove_just(chunk).await?;
        }
        self.is_torn = false;
        Ok(())
    }

    /// Takes news to the moderator.
    pub(super) async fn hear(&mut self, news: News) -> Result<(), Ended> {
        // Until it was heard, what was followed is ahead of what is written down.
        self.is_torn = true;
        tell(&self.moderator, &self.metrics, news).await?;
        self.is_torn = false;
        Ok(())
    }
}

/// Takes news to the moderator, who may be busy.
pub(super) async fn tell(
    moderator: &Moderator,
    metrics: &Metrics,
    news: News,
) -> Result<(), Unavailable> {
    let mut tries = 0;
    let fates = loop {
        match moderator.hear(news.clone()).await {
            Err(Unavailable::QueueFull) if tries < ASK_AT_MOST => {
                tries += 1;
                tokio::time::sleep(ASK_AGAIN).await;
            }
            fates => break fates?,
        }
    };
    for fate in fates {
        match fate {
            Fate::Taken => drop(metrics.ledger_followed.inc()),
            Fate::Known => {}
            Fate::Refused(refusal) => metrics.ban_refused(refusal),
        }
    }
    Ok(())
}

/// Reading the store blocks.
pub(super) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Ended> {
    let read = tokio::task::spawn_blocking(read).await;
    Ok(read.map_err(|_| Ended::Moderator(Unavailable::Stopping))??)
}

async fn sleep_ms(ms: Option<u64>) {
    tokio::time::sleep(Duration::from_millis(ms.unwrap_or(0))).await;
}

/// Between sessions: longer each time, and not the same for all hosts.
#[derive(Debug, Default)]
pub(super) struct Pause {
    failures: u32,
}

impl Pause {
    const FIRST_MS: u64 = 100;
    const MOST_MS: u64 = 5_000;

    pub(super) fn next(&mut self) -> Duration {
        let whole = (Self::FIRST_MS << self.failures.min(16)).min(Self::MOST_MS);
        self.failures += 1;
        Duration::from_millis(whole / 2 + u64::from(random::jitter()) % (whole / 2 + 1))
    }
}
