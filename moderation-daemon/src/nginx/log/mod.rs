//! Hearing after: what became of requests that nginx asked about, told by its access log.
//! A line is believed for what it says about a request that was asked about, and for
//! nothing else; nothing waits for one. Whose the request was is known from the question,
//! so that no line can say it of somebody else.

pub mod ear;
pub mod line;
pub mod outcome;
pub mod pending;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
};

use self::{
    ear::{Bound, Ear, Hear},
    line::Line,
    outcome::Outcomes,
    pending::{Pending, RequestName},
};
use super::generation::{
    Answered, Part, Patience,
    keeper::{self, Places},
};
use crate::{
    api::input::{is_request_id, request_id},
    clock,
    config::{Config, Hearing},
    engine::{Act, EventType, Request, Subject},
    metrics::Metrics,
    moderator::{HeldLease, Moderator, Unavailable},
};

/// Requests whose line is awaited. A host that serves more within the patience has a
/// smaller one.
const MAX_PENDING: usize = 262_144;
/// Events that wait for the moderator.
const MAX_QUEUED: usize = 1_024;

/// Between two looks at all places of generations; lines can come by the thousand.
const SWEEP_MS: u64 = 250;

/// What a request is known to be until its end is told.
#[derive(Debug)]
struct Asked {
    subject: Subject,
    events: SmallVec<[EventType; 2]>,
    part: Option<Part>,
}

/// Requests whose line is awaited, and what it will mean.
#[derive(Debug)]
pub struct Awaited {
    requests: Mutex<Pending<Asked>>,
    outcomes: Outcomes,
    metrics: Arc<Metrics>,
    /// The places of generations, which lines give back.
    pub places: Places,
}

impl Awaited {
    /// Notes a request that passes, if what becomes of it matters; whether it does.
    pub fn note(
        &self,
        name: &str,
        subject: &Subject,
        events: &[EventType],
        part: Option<Part>,
    ) -> bool {
        let matter = |event: &&EventType| self.outcomes.matter_after(**event);
        let events: SmallVec<[EventType; 2]> = events.iter().filter(matter).copied().collect();
        let matters = !events.is_empty() || part.is_some();
        let Some(name) = RequestName::parse(name).filter(|_| matters) else {
            return false;
        };
        let asked = Asked { subject: subject.clone(), events, part };
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.ask(name, asked, clock::now().boot_ms) {
            self.metrics.log.lost.inc();
        }
        true
    }

    fn tell(&self, name: RequestName) -> Option<Asked> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).tell(name)
    }

    fn sweep(&self) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = requests.sweep(clock::now().boot_ms);
        self.metrics.log.lost.inc_by(u64::try_from(lost).unwrap_or(u64::MAX));
        self.metrics.log.pending.set(i64::try_from(requests.len()).unwrap_or(i64::MAX));
        drop(requests);
        self.places.sweep(&self.metrics.nginx);
    }
}

/// A running ear, and what it hears on its way to the moderator.
#[derive(Debug)]
pub struct Listening {
    /// What those who ask note.
    pub awaited: Arc<Awaited>,
    // Before the task, which ends with what it sends.
    _ear: Ear,
    report: JoinHandle<()>,
    keep: Option<JoinHandle<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.report.abort();
        self.keep.iter().for_each(JoinHandle::abort);
    }
}

/// What the ids of requests begin with by which places for generations are taken.
pub const GENERATION: &str = "generation";

/// Starts to hear, and takes over the places that an earlier life held.
///
/// # Errors
///
/// If there can be no thread.
pub fn start(
    bound: Bound,
    settings: &Hearing,
    held: &[HeldLease],
    moderator: Moderator,
    config: Arc<Config>,
    metrics: &Arc<Metrics>,
) -> std::io::Result<Listening> {
    let concurrency = config.rules.concurrency;
    let (hearer, events) = Hearer::new(settings, config, metrics);
    let awaited = Arc::clone(hearer.awaited());
    for (lease, bearer, _) in held.iter().filter(|(_, _, id)| is_request_id(id, GENERATION)) {
        awaited.places.start(bearer, *lease);
    }
    let ear = bound.listen(Arc::clone(metrics), hearer)?;
    let keep = concurrency.map(|rule| {
        let (awaited, moderator) = (Arc::clone(&awaited), moderator.clone());
        tokio::spawn(async move {
            let metrics = Arc::clone(&awaited.metrics);
            keeper::keep(&awaited.places, &moderator, rule.lease_ms, &metrics.nginx).await;
        })
    });
    let report = tokio::spawn(report(events, moderator, Arc::clone(metrics)));
    Ok(Listening { awaited, _ear: ear, report, keep })
}

/// What lines become.
#[derive(Debug)]
pub struct Hearer {
    awaited: Arc<Awaited>,
    to: mpsc::Sender<Request>,
    config: Arc<Config>,
}

impl Hearer {
    /// One that waits for nothing yet, and where the events go that it hears of. [`start`]
    /// gives it an ear; a benchmark reads to it.
    pub fn new(
        settings: &Hearing,
        config: Arc<Config>,
        metrics: &Arc<Metrics>,
    ) -> (Self, mpsc::Receiver<Request>) {
        let milliseconds = |it: Duration| u64::try_from(it.as_millis()).unwrap_or(u64::MAX);
        let watched_ms = milliseconds(settings.patience);
        let unwatched_ms = milliseconds(settings.generation_patience);
        let awaited = Arc::new(Awaited {
            requests: Mutex::new(Pending::new(MAX_PENDING, watched_ms)),
            outcomes: settings.outcomes.clone(),
            metrics: Arc::clone(metrics),
            places: Places::new(Patience { watched_ms, unwatched_ms, sweep_ms: SWEEP_MS }),
        });
        let (to, events) = mpsc::channel(MAX_QUEUED);
        (Self { awaited, to, config }, events)
    }

    /// What those who ask note.
    pub fn awaited(&self) -> &Arc<Awaited> {
        &self.awaited
    }
}

impl Hear for Hearer {
    fn hear(&mut self, line: &Line<'_>) {
        let metrics = &self.awaited.metrics.log;
        let known =
            RequestName::parse(&line.id).and_then(|name| Some((name, self.awaited.tell(name)?)));
        let Some((name, Asked { subject, events, part })) = known else {
            metrics.unknown.inc();
            return;
        };
        if let Some(part) = part {
            let bearer = self.config.rules.bearer(&subject);
            self.awaited.places.hear(&bearer, name, &part, Answered::by(line));
        }
        for event in events {
            for counts in self.awaited.outcomes.find(event, line.status, line.is_complete) {
                let bearer = self.config.rules.bearer(&subject);
                // One line, one event, whatever else bears the name of the request.
                let id = request_id(counts.name(), &bearer, &line.id).ok();
                let request = Request { id, ..Request::new(Act::event(counts), subject.clone()) };
                match self.to.try_send(request) {
                    Ok(()) => {
                        metrics.events.inc();
                    }
                    Err(TrySendError::Full(_)) => metrics.refused(Unavailable::QueueFull.name()),
                    Err(TrySendError::Closed(_)) => metrics.refused(Unavailable::Stopping.name()),
                }
            }
        }
    }

    fn look_around(&mut self) {
        self.awaited.sweep();
    }
}

/// One after the other: nobody waits for the answers.
async fn report(mut events: mpsc::Receiver<Request>, moderator: Moderator, metrics: Arc<Metrics>) {
    while let Some(request) = events.recv().await {
        if let Err(reason) = moderator.judge(request).await {
            metrics.log.refused(reason.name());
        }
    }
}
