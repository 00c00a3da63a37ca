//! Hearing after: what became of requests that nginx asked about, told by its access log.
//! A line is believed for what it says about a request that was asked about, and for
//! nothing else; nothing waits for one. Whose the request was is known from the question,
//! so that no line can say it of somebody else.

pub mod ear;
pub mod line;
pub mod outcome;
pub mod pending;

use std::sync::{Arc, Mutex, PoisonError};

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
use crate::{
    api::input::request_id,
    clock,
    config::{Config, Hearing},
    engine::{Act, EventType, Request, Subject},
    metrics::Metrics,
    moderator::{Moderator, Unavailable},
};

/// Requests whose line is awaited. A host that serves more within the patience has a
/// smaller one.
const MAX_PENDING: usize = 262_144;
/// Events that wait for the moderator.
const MAX_QUEUED: usize = 1_024;

/// What a request is known to be until its end is told.
#[derive(Debug)]
struct Asked {
    subject: Subject,
    events: SmallVec<[EventType; 2]>,
}

/// Requests whose line is awaited, and what it will mean.
#[derive(Debug)]
pub struct Awaited {
    requests: Mutex<Pending<Asked>>,
    outcomes: Outcomes,
    metrics: Arc<Metrics>,
}

impl Awaited {
    /// Notes a request that passes, if what becomes of it matters; whether it does.
    pub fn note(&self, name: &str, subject: &Subject, events: &[EventType]) -> bool {
        let matter = |event: &&EventType| self.outcomes.matter_after(**event);
        let events: SmallVec<[EventType; 2]> = events.iter().filter(matter).copied().collect();
        let Some(name) = RequestName::parse(name).filter(|_| !events.is_empty()) else {
            return false;
        };
        let asked = Asked { subject: subject.clone(), events };
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.ask(name, asked, clock::now().boot_ms) {
            self.metrics.log.lost.inc();
        }
        true
    }

    fn tell(&self, name: &str) -> Option<Asked> {
        let name = RequestName::parse(name)?;
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).tell(name)
    }

    fn sweep(&self) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = requests.sweep(clock::now().boot_ms);
        self.metrics.log.lost.inc_by(u64::try_from(lost).unwrap_or(u64::MAX));
        self.metrics.log.pending.set(i64::try_from(requests.len()).unwrap_or(i64::MAX));
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
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.report.abort();
    }
}

/// Starts to hear.
///
/// # Errors
///
/// If there can be no thread.
pub fn start(
    bound: Bound,
    settings: &Hearing,
    moderator: Moderator,
    config: Arc<Config>,
    metrics: &Arc<Metrics>,
) -> std::io::Result<Listening> {
    let (hearer, events) = Hearer::new(settings, config, metrics);
    let awaited = Arc::clone(hearer.awaited());
    let ear = bound.listen(Arc::clone(metrics), hearer)?;
    let report = tokio::spawn(report(events, moderator, Arc::clone(metrics)));
    Ok(Listening { awaited, _ear: ear, report })
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
        let patience_ms = u64::try_from(settings.patience.as_millis()).unwrap_or(u64::MAX);
        let awaited = Arc::new(Awaited {
            requests: Mutex::new(Pending::new(MAX_PENDING, patience_ms)),
            outcomes: settings.outcomes.clone(),
            metrics: Arc::clone(metrics),
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
        let Some(Asked { subject, events }) = self.awaited.tell(&line.id) else {
            metrics.unknown.inc();
            return;
        };
        for event in events {
            for counts in self.awaited.outcomes.find(event, line.status) {
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
