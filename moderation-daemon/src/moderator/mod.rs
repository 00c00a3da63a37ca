//! The one task that owns an engine; the only place where deciding, storing
//! and enforcing meet. In that order: decide on an overlay, commit, apply,
//! block, answer. A commit that fails leaves the engine as it was.
//!
//! Everything waits in two bounded queues, one for the app's requests and one
//! for operators', so that a flood of the one does not keep out the other. Who
//! is banned already is answered from the [`Board`], which waits for nothing.

mod batch;
mod board;
mod denial;
mod enforce;
mod import;
mod kernel;
mod librechat;
mod news;
mod pending;
mod shared;
mod snapshot;
mod stopper;
mod task;
mod together;
mod view;
mod watch;
mod windows;

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock,
    engine::{
        Act, BanId, BanRefusal, Count, Dossier, Lease, LeaseId, LiftTarget, Moment, NewBan,
        Outcome, PrefixSet, Protected, Request, Rules, Standing, Subject, Traits, Trust, UserId,
        Verdict, ViolationType,
    },
    librechat::Record,
    metrics::{Metrics, What},
    network::Guards,
    store::{Allowed, Keep, TakenRecords},
};

pub use batch::Ask;
pub use board::{Board, DriftSeen, Fill, KernelStatus};
pub use denial::{Code, Denial, Denials, Denied, Grounds, NoCode};
pub use import::{Added, Batch, ImportRefusal, Refused, SLICE};
pub use kernel::Kernel;
pub use librechat::TakenScore;
pub use news::{Fate, News};
pub use shared::{Sharing, SharingStatus};
pub use stopper::{HeldLease, Started, Stopper};
pub use task::start;
pub use view::{BanView, Enforcement, LiftedView};
pub use windows::Saving;

/// Requests of the app that can wait.
const QUEUE_CAPACITY: usize = 1_024;
/// Requests of operators that can wait.
const OPERATOR_QUEUE_CAPACITY: usize = 64;
/// Slices of lists that can wait; each is a few thousand entries.
const LIST_QUEUE_CAPACITY: usize = 8;
/// How long a caller waits for a decision that is queued. A disk that takes
/// longer is no disk.
const DECISION_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Too many requests wait already.
    #[error("too many requests are waiting for a decision")]
    QueueFull,
    /// The store did not take the decision, so it does not count.
    #[error("the store cannot be written to, so nothing was decided")]
    Store,
    /// The decision took too long; it may still fall.
    #[error("no decision in time")]
    TimedOut,
    /// The daemon is going down.
    #[error("the daemon is stopping")]
    Stopping,
}

impl Unavailable {
    /// The label in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Store => "store",
            Self::TimedOut => "timed_out",
            Self::Stopping => "stopping",
        }
    }
}

/// What the caller of a request is told.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The engine's conclusion.
    pub outcome: Outcome,
    /// Its ban, with whether it is in force.
    pub ban: Option<BanView>,
    /// Of a denial: what to quote to operators. A peek denies nothing.
    pub code: Option<Code>,
}

/// What is known about a user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// What the app said.
    pub traits: Traits,
    /// How the user's limits stand now, if they follow anything.
    pub standing: Option<Standing>,
}

/// The kernel's map of allowed prefixes is as long as it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the allowlist is full")]
pub struct AllowlistFull;

type Reply<T> = oneshot::Sender<Result<T, Unavailable>>;

/// What can be asked of the task.
#[derive(Debug)]
enum Command {
    Judge(Ask, Reply<Answer>),
    JudgeAll(Vec<Ask>, Reply<Vec<Answer>>),
    Usage(Request, Reply<Vec<Count>>),
    Known(UserId, Reply<Option<Known>>),
    Describe(UserId, Traits, Reply<Known>),
    Renew(LeaseId, Reply<Option<Lease>>),
    Release(LeaseId, Reply<bool>),
    Ban(NewBan, Reply<Result<BanView, BanRefusal>>),
    Lift(LiftTarget, String, Reply<LiftedView>),
    Allow(Allowed, String, Reply<Result<bool, AllowlistFull>>),
    Disallow(IpNet, Reply<bool>),
    Sample(u32, Reply<()>),
    Dossier(Subject, Reply<Dossier>),
    Live(Reply<()>),
    TakeScores(Vec<TakenScore>, Reply<usize>),
    TakeRecords(Vec<Record>, Reply<TakenRecords>),
    Hear(News, Reply<Vec<Fate>>),
}

impl Command {
    /// What it asks to have judged.
    const fn asks(&self) -> &[Ask] {
        match self {
            Self::Judge(ask, _) => std::slice::from_ref(ask),
            Self::JudgeAll(asks, _) => asks.as_slice(),
            _ => &[],
        }
    }

    /// How many decisions it asks for.
    const fn decisions(&self) -> usize {
        match self {
            Self::JudgeAll(asks, _) => asks.len(),
            _ => 1,
        }
    }
}

/// What the task is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What the engine goes by.
    pub rules: Rules,
    /// Prefixes that are trusted whatever operators say while it runs: guards,
    /// proxies, the configured allowlist.
    pub trusted: Vec<(IpNet, Trust)>,
    /// With whom limits, scores and leases are counted; `None`: by this host alone.
    pub sharing: Option<Sharing>,
    /// Where what limits count is kept.
    pub windows: Saving,
    /// How often kernel and store are compared.
    pub reconcile_interval: Duration,
    /// How long, and how many, violations, scores, past bans and the like are kept.
    pub keep: Keep,
}

impl Setup {
    fn trust(&self, kernel: &Guards, operator: &[Allowed]) -> PrefixSet {
        let operator = operator.iter().map(|allowed| (allowed.prefix, Trust::Allowlist));
        let guards = kernel.guards.iter().map(|prefix| (*prefix, Trust::Guard));
        let proxies = kernel.proxies.iter().map(|prefix| (*prefix, Trust::Proxy));
        self.trusted.iter().copied().chain(guards).chain(proxies).chain(operator).collect()
    }
}

/// A handle to the task; clones share it.
#[derive(Clone, Debug)]
pub struct Moderator {
    queue: mpsc::Sender<Command>,
    operators: mpsc::Sender<Command>,
    lists: mpsc::Sender<import::Job>,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    protected: Arc<Protected>,
    line: Option<Arc<shared::Line>>,
}

impl Moderator {
    /// Judges a request. If its subject is banned, that is the answer at once.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn judge(&self, ask: impl Into<Ask>) -> Result<Answer, Unavailable> {
        let ask = ask.into();
        if let Some(answer) = self.answer_banned(&ask, clock::now()) {
            return Ok(answer);
        }
        self.ask(&self.queue, |reply| Command::Judge(ask, reply), DECISION_TIMEOUT).await
    }

    /// Judges all in their order, as one entry of the queue: all are decided, or
    /// none.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn judge_all(&self, asks: Vec<Ask>) -> Result<Vec<Answer>, Unavailable> {
        let now = clock::now();
        let (known, waiting) = batch::split(asks, |ask| self.answer_banned(ask, now));
        if waiting.is_empty() {
            return Ok(batch::join(known, Vec::new()));
        }
        let command = |reply| Command::JudgeAll(waiting, reply);
        let waited = self.ask(&self.queue, command, DECISION_TIMEOUT).await?;
        Ok(batch::join(known, waited))
    }

    /// How the limits of an event stand, as if it were not to happen.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn usage(&self, request: Request) -> Result<Vec<Count>, Unavailable> {
        self.ask(&self.queue, |reply| Command::Usage(request, reply), DECISION_TIMEOUT).await
    }

    /// What is known about a user; `None` if nothing has been said.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn known(&self, user: UserId) -> Result<Option<Known>, Unavailable> {
        self.ask(&self.queue, |reply| Command::Known(user, reply), DECISION_TIMEOUT).await
    }

    /// Writes down what the app says about a user; what it leaves out stays as
    /// it was. Returns all that is known.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn describe(&self, user: UserId, traits: Traits) -> Result<Known, Unavailable> {
        let command = |reply| Command::Describe(user, traits, reply);
        self.ask(&self.queue, command, DECISION_TIMEOUT).await
    }

    /// The answer to somebody who is banned already.
    fn answer_banned(&self, ask: &Ask, now: Moment) -> Option<Answer> {
        if !ask.request.act.is_answered_by_a_ban() {
            return None;
        }
        let subject = &ask.request.subject;
        let mut ban = self.board.check(subject, now)?;
        if self.may_be_spared(&ban, subject) {
            // Whether it is, the engine knows.
            ban = self.board.check_protected(subject, now)?;
        }
        let code = (!ask.is_peek).then(|| {
            let act = &ask.request.act;
            self.metrics.judged(What::of(act), Verdict::Deny);
            let grounds = Grounds::banned(&ban);
            self.board.denials().note(Denied::of(act), subject, grounds, now.unix_ms)
        });
        Some(Answer { outcome: Outcome::banned(Arc::clone(&ban.ban)), ban: Some(ban), code })
    }

    /// Judges a source that opened more connections than it may; the daemon
    /// counts them itself. Nothing comes of it if the source is trusted.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn too_many_connections(&self, ip: IpAddr) -> Result<Answer, Unavailable> {
        let act = Act::violation(ViolationType::CONNECTION_RATE);
        let subject = Subject::new(None, Some(ip)).expect("it has an address");
        self.judge(Request::new(act, subject)).await
    }

    /// Shows one dropped packet in so many on the kernel's ring; 0: none.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn sample(&self, every: u32) -> Result<(), Unavailable> {
        self.ask(&self.operators, |reply| Command::Sample(every, reply), DECISION_TIMEOUT).await
    }

    /// Whether a ban holds for a user only if that one is not protected.
    fn may_be_spared(&self, view: &BanView, subject: &Subject) -> bool {
        let Protected { users, roles } = &*self.protected;
        let Some(user) = subject.user() else { return false };
        let is_for_others = view.source.is_none() && view.ban.is_for_others(subject);
        is_for_others && (users.contains(user) || !roles.is_empty())
    }

    /// Whether a user is known to have a role that protects.
    async fn has_role(&self, user: &UserId) -> bool {
        let known = self.known(user.clone()).await.ok().flatten();
        let role = known.and_then(|known| known.traits.role);
        role.is_some_and(|role| self.protected.roles.contains(&role))
    }

    /// The ban that holds for whoever is at an address now. Waits for nothing.
    pub fn check_address(&self, ip: IpAddr) -> Option<BanView> {
        let subject = Subject::new(None, Some(ip)).expect("it has an address");
        self.board.check(&subject, clock::now())
    }

    /// The ban that holds for a subject now. Waits only where that is a matter of
    /// the user's role; if there is no answer, the ban holds.
    pub async fn check(&self, subject: &Subject) -> Option<BanView> {
        let now = clock::now();
        let view = self.board.check(subject, now)?;
        let Some(user) = subject.user().filter(|_| self.may_be_spared(&view, subject)) else {
            return Some(view);
        };
        let is_protected = self.protected.users.contains(user) || self.has_role(user).await;
        if is_protected { self.board.check_protected(subject, now) } else { Some(view) }
    }

    /// Prolongs a lease; `None` if it has ended.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn renew(&self, id: LeaseId) -> Result<Option<Lease>, Unavailable> {
        self.ask(&self.queue, |reply| Command::Renew(id, reply), DECISION_TIMEOUT).await
    }

    /// Gives a lease back; `false` if it had ended.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn release(&self, id: LeaseId) -> Result<bool, Unavailable> {
        self.ask(&self.queue, |reply| Command::Release(id, reply), DECISION_TIMEOUT).await
    }

    /// Bans on an operator's word.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn ban(&self, ban: NewBan) -> Result<Result<BanView, BanRefusal>, Unavailable> {
        self.order(|reply| Command::Ban(ban, reply)).await
    }

    /// Lifts bans and penalties on an operator's word; returns all that was done.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn lift(&self, what: LiftTarget, by: String) -> Result<LiftedView, Unavailable> {
        self.order(|reply| Command::Lift(what, by, reply)).await
    }

    /// Puts a prefix on the operator's allowlist; says whether the kernel
    /// follows already.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn allow(
        &self,
        allowed: Allowed,
        by: String,
    ) -> Result<Result<bool, AllowlistFull>, Unavailable> {
        self.order(|reply| Command::Allow(allowed, by, reply)).await
    }

    /// Takes a prefix off the operator's allowlist; `false` if it was not on it.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn disallow(&self, prefix: IpNet) -> Result<bool, Unavailable> {
        self.order(|reply| Command::Disallow(prefix, reply)).await
    }

    /// All that is known about a subject.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn dossier(&self, subject: Subject) -> Result<Dossier, Unavailable> {
        self.order(|reply| Command::Dossier(subject, reply)).await
    }

    /// Whether the task still takes what it is asked.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn live(&self) -> Result<(), Unavailable> {
        self.order(Command::Live).await
    }

    /// What can be read without asking the task.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// How counting together with other hosts stands; `None`: this one counts alone.
    pub fn sharing(&self) -> Option<SharingStatus> {
        self.line.as_ref().map(|line| line.status())
    }

    /// How many of the app's requests wait, and how many can.
    pub fn queue(&self) -> (usize, usize) {
        let capacity = self.queue.max_capacity();
        (capacity - self.queue.capacity(), capacity)
    }

    async fn order<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Unavailable> {
        self.ask(&self.operators, command, DECISION_TIMEOUT).await
    }

    async fn ask<T, C>(
        &self,
        queue: &mpsc::Sender<C>,
        command: impl FnOnce(Reply<T>) -> C,
        patience: Duration,
    ) -> Result<T, Unavailable> {
        let (reply, answer) = oneshot::channel();
        queue.try_send(command(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.metrics.queue_rejected.inc();
                Unavailable::QueueFull
            }
            mpsc::error::TrySendError::Closed(_) => Unavailable::Stopping,
        })?;
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Unavailable::Stopping),
            Err(_) => Err(Unavailable::TimedOut),
        }
    }
}

/// A ban's number, for logs.
fn number(id: BanId) -> String {
    format!("#{id}")
}
