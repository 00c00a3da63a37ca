//! Counting together with other hosts, beside the task that decides: what a batch asks of
//! shared counters is asked before it is decided, while the one before it is; what was
//! decided is then settled there. How it is asked and when it is not is the line's affair,
//! what it means the plan's. Nothing here decides anything.

mod line;
mod plan;

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::task::{AbortHandle, JoinHandle};

use super::Command;
use crate::{
    clock,
    engine::{Change, Engine, LeaseId, Moment, RequestId},
    metrics::{Metrics, Table},
    random::{self, NoRandomness},
    sharing::{Act, Deed, Failure, LeaseName, Reserved, Tags, Tickets},
    store::Counters,
};
pub(super) use line::Line;
pub use line::SharingStatus;
pub(super) use plan::Answers;
use plan::{Fate, Plan, Planner};

/// Batches that are on their way: one is being asked about while the next one is. With
/// four, batches were torn into pieces of five decisions, and each call costs the same
/// whatever is in it.
const FLIGHTS: usize = 2;
/// Requests whose reservations are remembered, so that they can be taken back.
const REFUNDABLE: usize = 65_536;

/// With whom is counted, and how.
#[derive(Clone, Debug)]
pub struct Sharing {
    /// Who keeps the counters.
    pub counters: Arc<Counters>,
    /// Makes what bearers are called there.
    pub tags: Tags,
    /// How long a decision waits for them at most.
    pub bound: Duration,
    /// The longest wait between two attempts to reach them.
    pub longest_pause: Duration,
}

/// What is taken for a request, by which it can be given back.
type Taken = Vec<Act>;

/// The task's half.
pub(super) struct Shared {
    line: Arc<Line>,
    planner: Planner,
    next_lease: LeaseId,
    /// By their names, and these in their order.
    refundable: (HashMap<RequestId, Taken>, VecDeque<RequestId>),
    metrics: Arc<Metrics>,
    keeper: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// A batch whose answers are on their way.
struct Flight {
    commands: Vec<Command>,
    plan: Plan,
    asked: Option<JoinHandle<Result<Reserved, Failure>>>,
    fate: Fate,
}

/// Batches whose answers are on their way, in their order.
#[derive(Default)]
pub(super) struct Flights(VecDeque<Flight>);

impl Flights {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn have_room(&self) -> bool {
        self.0.len() < FLIGHTS
    }

    /// The first one, once it is answered or not. If nobody waits any more, nothing is lost.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub(super) async fn landed(&mut self) -> (Vec<Command>, Answers) {
        let flight = self.0.front_mut().expect("somebody looked");
        if let Some(asked) = &mut flight.asked {
            let answer = asked.await;
            flight.asked = None;
            flight.fate = match answer {
                Ok(Ok(reserved)) => Fate::Known(reserved),
                Ok(Err(_)) | Err(_) => Fate::Unknown,
            };
        }
        let Flight { commands, plan, fate, .. } = self.0.pop_front().expect("it is there still");
        (commands, plan.answered(fate, clock::now()))
    }
}

impl Shared {
    /// Fails if the kernel gives no random numbers.
    pub(super) fn start(
        sharing: Sharing,
        engine: &Engine,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, NoRandomness> {
        let Sharing { counters, tags, bound, longest_pause } = sharing;
        let line = Arc::new(Line::new(counters, bound, longest_pause, Arc::clone(metrics))?);
        let tickets = Tickets::new(random::number()?);
        let keeper = tokio::spawn(Arc::clone(&line).keep()).abort_handle();
        let planner = Planner::new(tags, tickets, engine, bound);
        Ok(Self {
            line,
            planner,
            next_lease: engine.next_lease(),
            refundable: (HashMap::new(), VecDeque::new()),
            metrics: Arc::clone(metrics),
            keeper,
        })
    }

    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// Asks what a batch needs to know, if anybody is to be asked.
    pub(super) async fn begin(
        &mut self,
        engine: &Engine,
        commands: Vec<Command>,
        flights: &mut Flights,
    ) {
        let now = clock::now();
        self.next_lease = self.next_lease.max(engine.next_lease());
        let mut plan = self.planner.plan(engine, &commands, &mut self.next_lease, now);
        let (mut asked, mut fate) = (None, Fate::NotAsked);
        if !plan.groups.is_empty() {
            match self.line.ask(Arc::clone(&plan.groups), now) {
                None => {
                    self.metrics.sharing.alone.inc_by(plan.groups.len() as u64);
                }
                Some(work) => {
                    // What is asked first is to be there first: it is sent here, and waited
                    // for elsewhere.
                    let mut work = Box::pin(work);
                    match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
                        Poll::Ready(Ok(reserved)) => fate = Fate::Known(reserved),
                        Poll::Ready(Err(_)) => fate = Fate::Unknown,
                        Poll::Pending => asked = Some(tokio::spawn(work)),
                    }
                }
            }
        }
        plan.ahead_ms = self.line.ahead_ms();
        flights.0.push_back(Flight { commands, plan, asked, fate });
    }

    /// What has to be done there now that a batch was written down, or not (`None`). The
    /// engine is as it was before.
    pub(super) fn acts(
        &mut self,
        answers: &Answers,
        changes: Option<&[Change]>,
        engine: &Engine,
        now: Moment,
    ) -> Vec<Act> {
        let (mut acts, taken) = self.planner.acts(answers, changes, engine, now);
        for (request, taken) in taken {
            self.remember(request, taken);
        }
        for change in changes.unwrap_or_default() {
            if let Change::Refunded(id) = change {
                acts.extend(self.refundable.0.remove(id).unwrap_or_default());
            }
        }
        acts
    }

    fn remember(&mut self, request: RequestId, taken: Taken) {
        let (by_name, order) = &mut self.refundable;
        if order.len() >= REFUNDABLE
            && let Some(oldest) = order.pop_front()
        {
            by_name.remove(&oldest);
            self.metrics.overflow(Table::Refundable);
        }
        order.push_back(Arc::clone(&request));
        by_name.insert(request, taken);
    }

    /// Does that, or owes it. Sent before anybody hears of the decisions: whoever gave back a
    /// lease can take another.
    pub(super) async fn settle(&self, acts: Vec<Act>) {
        let Some(work) = self.line.settle(acts) else { return };
        let mut work = Box::pin(work);
        let is_done = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
        if is_done.is_pending() {
            tokio::spawn(work);
        }
    }

    /// The daemon stops: what is on its way arrives.
    pub(super) async fn finish(&self) {
        self.line.finish().await;
    }

    /// All was forgotten there: whoever runs still keeps the place.
    pub(super) async fn look_after(&mut self, engine: &Engine, now: Moment) {
        if !self.line.take_lost() {
            return;
        }
        let hold = |lease: &crate::engine::Lease| {
            let left = lease.ends_at_boot_ms.checked_sub(now.boot_ms).filter(|left| *left > 0)?;
            let name = LeaseName { host: self.planner.host, id: lease.id };
            Some((self.planner.tags.of(&lease.bearer), Deed::Hold(name, left)))
        };
        let held: Vec<_> = engine.leases().filter_map(hold).collect();
        let acts =
            held.into_iter().map(|(tag, deed)| Act { tag, ticket: self.planner.ticket(), deed });
        let acts = acts.collect();
        self.settle(acts).await;
    }
}
