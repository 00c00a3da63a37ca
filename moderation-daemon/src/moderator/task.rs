//! The task itself: takes what waits as one batch, and does with it what the
//! room's head says, in that order.

use std::{
    collections::BTreeSet,
    mem,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};

use super::{
    AllowlistFull, Board, Command, Kernel, LIST_QUEUE_CAPACITY, Moderator, OPERATOR_QUEUE_CAPACITY,
    QUEUE_CAPACITY, Reply, Setup, Unavailable,
    enforce::Enforcer,
    import::{Importer, Job},
    number,
    pending::{begin, decide, respond},
    shared::{Answers, Flights, Shared},
    stopper::{Started, Stopper},
    windows::{Left, Saver},
};
use crate::{
    blocklist::Imports,
    clock,
    engine::{Author, Change, EndPenalty, Engine, Prefix, Queue, Trust},
    ledger::{Memory, Uid},
    metrics::{Metrics, Table},
    network::{Guards, MAX_ALLOWED},
    store::{self, Allowed, ImportStore, Store, StoreError},
    telemetry::Throttle,
};

/// Decisions that share a transaction, from which on nobody else joins them. A
/// caller's batch is not torn apart, so there can be more by one of those.
const MAX_BATCH: usize = 256;
/// How often what is over is forgotten and the kernel looked after.
const TICK: Duration = Duration::from_secs(1);
/// How often the store is rid of what is old.
const PRUNE_EVERY_TICKS: u64 = 600;
/// And at the latest after so many new violations: strangers cause them.
const PRUNE_EVERY_VIOLATIONS: u64 = 50_000;

/// Lifts that are remembered of bans that are not known here.
const MOST_LIFTS: usize = 65_536;

/// How often imported entries that have lapsed are looked for.
const LOOK_FOR_LAPSED_EVERY_TICKS: u64 = 30;

/// Restores the engine from the store, makes the kernel agree, and starts the
/// task. Blocks for as long as that takes.
///
/// # Errors
///
/// If the store cannot be read, or the kernel gives no random numbers.
pub fn start(
    setup: Setup,
    mut store: Store,
    (lists, imported): (ImportStore, Imports),
    kernel: Kernel,
    metrics: Arc<Metrics>,
) -> anyhow::Result<Started> {
    let now = clock::now();
    store.prune(now.unix_ms, setup.keep)?;
    let allowlist = store.allowlist()?;
    let (restored, skipped) = store.restore(now.unix_ms, setup.rules.bounds.request_id_ms)?;
    if skipped.rows > 0 {
        metrics.rows_skipped.inc_by(skipped.rows);
        tracing::warn!(
            rows = skipped.rows,
            types = skipped.types.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
            "the store has rows of violation types that the configuration does not know; \
             they are kept and not read"
        );
    }
    let board = Arc::new(Board::default());
    for ban in &restored.bans {
        board.insert(&Arc::new(ban.clone()));
    }
    board.set_imports(imported);
    let leases = restored.leases.iter();
    let leases = leases.filter_map(|(id, of, request)| Some((*id, of.clone(), request.clone()?)));
    let leases = leases.collect();
    let protected = Arc::new(setup.rules.ban.protected.clone());
    let left = Left::read(&setup.windows, &metrics)?;
    let mut engine = Engine::new(
        setup.rules.clone(),
        setup.trust(&Guards::default(), &allowlist),
        restored,
        left.seed()?,
        now,
    );
    left.restore(&mut engine, &metrics, now);
    engine.set_taken(board.taken());
    let (queue, requests) = mpsc::channel(QUEUE_CAPACITY);
    let (operators, wishes) = mpsc::channel(OPERATOR_QUEUE_CAPACITY);
    let (lists_queue, jobs) = mpsc::channel(LIST_QUEUE_CAPACITY);
    let (stop, stopped) = watch::channel(false);
    let sharing = setup.sharing.clone();
    let shared = sharing.map(|sharing| Shared::start(sharing, &engine, &metrics)).transpose()?;
    let line = shared.as_ref().map(|shared| Arc::clone(shared.line()));
    let mut task = Task {
        shared,
        flights: Flights::default(),
        enforcer: Enforcer::new(kernel, Arc::clone(&board), Arc::clone(&metrics)),
        engine,
        queue: Queue::default(),
        store,
        importer: Importer::new(lists),
        saver: left.follow(&board, now)?,
        allowlist: Vec::new(),
        setup,
        board: Arc::clone(&board),
        metrics: Arc::clone(&metrics),
        requests,
        wishes,
        jobs,
        stopped,
        ticks: 0,
        violations_since_prune: 0,
        lines: Throttle::default(),
        is_nearly_full: false,
        lifted: Memory::new(MOST_LIFTS),
    };
    task.enforcer.read_guards();
    task.set_allowlist(allowlist);
    task.reconcile();
    task.watch_fill();
    let task = tokio::spawn(task.run());
    let lists = lists_queue;
    let moderator = Moderator { queue, operators, lists, board, metrics, protected, line };
    Ok(Started { moderator, stopper: Stopper::new(stop, task), leases })
}

pub(super) struct Task {
    pub(super) setup: Setup,
    pub(super) engine: Engine,
    /// Where a batch is counted; kept for its memory.
    queue: Queue,
    /// `None`: this host counts alone.
    pub(super) shared: Option<Shared>,
    /// Batches that wait for shared counters.
    pub(super) flights: Flights,
    store: Store,
    pub(super) importer: Importer,
    pub(super) saver: Saver,
    pub(super) enforcer: Enforcer,
    /// The operator's allowlist, as stored.
    allowlist: Vec<Allowed>,
    pub(super) board: Arc<Board>,
    pub(super) metrics: Arc<Metrics>,
    requests: mpsc::Receiver<Command>,
    wishes: mpsc::Receiver<Command>,
    jobs: mpsc::Receiver<Job>,
    stopped: watch::Receiver<bool>,
    ticks: u64,
    pub(super) violations_since_prune: u64,
    /// For lines that strangers can cause.
    lines: Throttle,
    /// Whether that has been said.
    pub(super) is_nearly_full: bool,
    /// Bans that were lifted elsewhere before they were heard of.
    pub(super) lifted: Memory<Uid>,
}

/// The store is gone: work with it panicked.
pub(super) struct StoreLost;

impl Task {
    async fn run(mut self) {
        let mut tick = clock::ticker(TICK);
        let mut alarm = clock::ticker(self.setup.windows.every);
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            if !self.importer.is_busy() {
                self.remove_lapsed();
            }
            // However many wait: a slice between two batches.
            if self.saver.is_busy() {
                self.save(&mut alarm);
            }
            let result = tokio::select! {
                biased;
                _ = self.stopped.changed() => break,
                _ = tick.tick() => self.tick().await,
                _ = alarm.tick(), if !self.saver.is_busy() => {
                    self.save(&mut alarm);
                    Ok(())
                }
                landed = self.flights.landed(), if !self.flights.is_empty() => {
                    let (commands, answers) = landed;
                    self.serve(commands, answers).await
                }
                Some(wish) = self.wishes.recv(), if self.flights.have_room() => {
                    batch.push(wish);
                    self.fill(&mut batch);
                    self.take(mem::take(&mut batch)).await
                }
                done = self.importer.finished(), if self.importer.is_busy() => {
                    self.finish_import(done)
                }
                Some(job) = self.jobs.recv(), if !self.importer.is_busy() => {
                    self.start_import(job);
                    Ok(())
                }
                request = self.requests.recv(), if self.flights.have_room() => {
                    let Some(request) = request else {
                        break; // nobody is left to ask anything
                    };
                    batch.push(request);
                    // Whoever is about to ask gets in, too: what a batch costs,
                    // however few are in it, is most of what one request costs.
                    tokio::task::yield_now().await;
                    self.fill_with_requests(&mut batch);
                    self.take(mem::take(&mut batch)).await
                }
                // Only while nobody waits; a page is over before anybody notices.
                () = tokio::task::yield_now(), if self.saver.is_busy() => Ok(()),
                () = tokio::task::yield_now(), if self.enforcer.is_sweeping() => {
                    self.enforcer.sweep_on();
                    Ok(())
                }
            };
            if let Err(StoreLost) = result {
                tracing::error!("work with the store panicked; the daemon cannot go on");
                return;
            }
        }
        self.finish().await;
    }

    /// Whoever else waits shares the transaction: operators first, but however
    /// many of them there are, the app has its part of every batch.
    fn fill(&mut self, batch: &mut Vec<Command>) {
        while batch.len() < MAX_BATCH / 2
            && let Ok(wish) = self.wishes.try_recv()
        {
            batch.push(wish);
        }
        self.fill_with_requests(batch);
    }

    fn fill_with_requests(&mut self, batch: &mut Vec<Command>) {
        let mut decisions = batch.iter().map(Command::decisions).sum::<usize>();
        while decisions < MAX_BATCH
            && let Ok(request) = self.requests.try_recv()
        {
            decisions += request.decisions();
            batch.push(request);
        }
    }

    /// Serves what waits, and takes nothing more.
    async fn finish(mut self) {
        self.requests.close();
        self.wishes.close();
        let mut rest = Vec::new();
        while let Ok(command) = self.wishes.try_recv() {
            rest.push(command);
        }
        while let Ok(command) = self.requests.try_recv() {
            rest.push(command);
        }
        self.jobs.close();
        if self.finish_imports().await.is_err() || self.finish_batches(rest).await.is_err() {
            tracing::error!("work with the store panicked while the daemon stopped");
        }
        let Self { saver, mut engine, .. } = self;
        tokio::task::block_in_place(|| saver.finish(&mut engine));
    }

    pub(super) async fn serve(
        &mut self,
        commands: Vec<Command>,
        answers: Answers,
    ) -> Result<(), StoreLost> {
        let mut batch = Vec::new();
        for command in commands {
            match command {
                Command::Allow(allowed, by, reply) => self.allow(&allowed, &by, reply)?,
                Command::Disallow(prefix, reply) => self.disallow(prefix, reply)?,
                Command::Sample(every, reply) => {
                    self.enforcer.sample(every);
                    respond(reply, Ok(()));
                }
                Command::Live(reply) => respond(reply, Ok(())),
                Command::Dossier(subject, reply) => {
                    respond(reply, Ok(self.engine.dossier(&subject, clock::now())));
                }
                Command::TakeScores(scores, reply) => self.take_scores(scores, reply)?,
                Command::TakeRecords(records, reply) => self.take_records(&records, reply)?,
                Command::Hear(news, reply) => self.hear(news, reply)?,
                command => batch.push(command),
            }
        }
        if batch.is_empty() { Ok(()) } else { self.moderate(batch, answers).await }
    }

    /// One batch's way: decide, commit, apply, enforce, answer.
    async fn moderate(
        &mut self,
        batch: Vec<Command>,
        mut answers: Answers,
    ) -> Result<(), StoreLost> {
        let now = clock::now();
        let begun = begin(&mut self.engine, &mut self.queue, &batch, &mut answers, now);
        let mut overlay = self.engine.overlay();
        let pending = decide(&mut overlay, batch, begun, now);
        let changes = overlay.into_changes();
        if let Err(error) = self.commit(&changes)? {
            self.store_failed(&error, "nothing was decided");
            self.settle(&answers, None, now).await;
            for pending in pending {
                pending.counted().for_each(|counts| self.engine.take_back(counts, now));
                pending.refuse();
            }
            return Ok(());
        }
        let touched = self.publish(&changes);
        self.settle(&answers, Some(&changes), now).await;
        self.engine.apply(changes);
        self.enforcer.project(touched);
        self.board.set_size(self.engine.size());
        self.watch_circuit(now);
        self.watch_fill();
        for pending in pending {
            pending.answer(&self.board, &self.metrics);
        }
        Ok(())
    }

    /// Most batches break no rule: they do not wait for a disk.
    pub(super) fn commit(
        &mut self,
        changes: &[Change],
    ) -> Result<Result<(), StoreError>, StoreLost> {
        if !changes.iter().any(store::is_durable) {
            return Ok(Ok(()));
        }
        let began_ns = clock::boot_ns();
        let committed = self.with_store(|store| store.commit(changes));
        let took_ns = clock::boot_ns().saturating_sub(began_ns);
        self.metrics.store.committed(Duration::from_nanos(took_ns));
        committed
    }

    /// Shows new bans and lifts on the board; returns the prefixes whose
    /// place in the kernel they change.
    pub(super) fn publish(&mut self, changes: &[Change]) -> BTreeSet<Prefix> {
        let mut touched = BTreeSet::new();
        for change in changes {
            match change {
                Change::Ban(ban) => {
                    self.metrics.bans.inc();
                    if let Some(suppressed) = self.lines.permit(clock::now().boot_ms) {
                        let cause = ban.violation.map_or("operator", |kind| kind.name());
                        tracing::info!(ban = number(ban.id), cause, suppressed, "a ban fell");
                    }
                    self.board.insert(ban);
                    touched.extend(ban.prefix);
                }
                Change::Lift(lift) => {
                    tracing::info!(ban = number(lift.ban.id), by = lift.by, "a ban was lifted");
                    self.board.remove(&lift.ban);
                    touched.extend(lift.ban.prefix);
                }
                Change::EndPenalty(EndPenalty { penalty, by: Author::Operator(by), .. }) => {
                    let penalty = format!("p{penalty}");
                    tracing::info!(penalty, by = by.as_ref(), "a penalty was taken back");
                }
                Change::Repeat(key) => self.metrics.repeated(key.kind),
                Change::Penalty(penalty) => self.metrics.punished(&penalty.kind),
                Change::Refunded(_) => drop(self.metrics.refunds.inc()),
                Change::ForgetScore(_) => self.metrics.overflow(Table::Scores),
                Change::Violation(violation) => {
                    self.violations_since_prune += 1;
                    self.metrics.violated(violation.kind);
                }
                _ => {}
            }
        }
        touched
    }

    fn allow(
        &mut self,
        allowed: &Allowed,
        by: &str,
        reply: Reply<Result<bool, AllowlistFull>>,
    ) -> Result<(), StoreLost> {
        let known = self.allowlist.iter().any(|old| old.prefix == allowed.prefix);
        if !known && self.allowlist.len() + self.setup.trusted.len() >= MAX_ALLOWED {
            respond(reply, Ok(Err(AllowlistFull)));
            return Ok(());
        }
        let (now, prefix) = (clock::now().unix_ms, allowed.prefix);
        let written = self
            .with_store(|store| store.allow(allowed, by, now).and_then(|()| store.allowlist()))?;
        let answer = self.take_allowlist(written, prefix);
        respond(reply, answer.map(Ok));
        Ok(())
    }

    fn disallow(&mut self, prefix: IpNet, reply: Reply<bool>) -> Result<(), StoreLost> {
        let written = self.with_store(|store| {
            let removed = store.disallow(prefix)?;
            Ok((removed, store.allowlist()?))
        })?;
        let answer = match written {
            Ok((removed, allowlist)) => self.take_allowlist(Ok(allowlist), prefix).map(|_| removed),
            Err(error) => self.take_allowlist(Err(error), prefix),
        };
        respond(reply, answer);
        Ok(())
    }

    /// Goes by the stored allowlist from now on, in which `changed` is new or
    /// gone, in the kernel too; says whether the kernel follows.
    fn take_allowlist(
        &mut self,
        stored: Result<Vec<Allowed>, StoreError>,
        changed: IpNet,
    ) -> Result<bool, Unavailable> {
        match stored {
            Ok(allowlist) => {
                self.set_allowlist(allowlist);
                let allowlist = self.kernel_allowlist();
                self.enforcer.reconcile_allowlist(&allowlist, changed);
                Ok(self.enforcer.is_in_step())
            }
            Err(error) => {
                self.store_failed(&error, "the allowlist was not changed");
                Err(Unavailable::Store)
            }
        }
    }

    fn set_allowlist(&mut self, allowlist: Vec<Allowed>) {
        let trust = self.setup.trust(self.enforcer.guards(), &allowlist);
        self.engine.set_trust(trust.clone());
        self.board.set_trust(trust, allowlist.clone());
        self.allowlist = allowlist;
    }

    async fn tick(&mut self) -> Result<(), StoreLost> {
        self.ticks += 1;
        let mut touched = BTreeSet::new();
        for ban in self.engine.expire(clock::now()) {
            tracing::debug!(ban = number(ban.id), "a ban ran out");
            self.board.remove(&ban);
            touched.extend(ban.prefix);
        }
        self.enforcer.project(touched);
        self.end_leases()?;
        if let Some(shared) = &mut self.shared {
            shared.look_after(&self.engine, clock::now()).await;
        }
        self.board.set_size(self.engine.size());
        self.board.set_safe_until(self.saver.safe_until_boot_ms());
        self.watch_circuit(clock::now());
        if self.ticks.is_multiple_of(LOOK_FOR_LAPSED_EVERY_TICKS) {
            self.look_for_lapsed(clock::now());
        }
        self.follow_guards();
        let every = self.setup.reconcile_interval.as_secs().max(1);
        if self.enforcer.is_due() {
            self.reconcile();
        } else if self.ticks.is_multiple_of(every) {
            self.reconcile_allowlist();
            self.enforcer.begin_sweep();
        }
        let many = self.violations_since_prune >= PRUNE_EVERY_VIOLATIONS;
        if many || self.ticks.is_multiple_of(PRUNE_EVERY_TICKS) {
            self.prune()?;
        }
        Ok(())
    }

    fn prune(&mut self) -> Result<(), StoreLost> {
        let keep = self.setup.keep;
        let now = clock::now().unix_ms;
        let retention_ms = u64::try_from(keep.records.as_millis()).unwrap_or(u64::MAX);
        self.engine.forget_scores(now.saturating_sub(retention_ms));
        let pruned = self.with_store(|store| store.prune(now, keep))?;
        self.violations_since_prune = 0;
        if let Err(error) = pruned {
            self.store_failed(&error, "old records were not removed");
        }
        Ok(())
    }

    /// Rids the store of leases that nobody gave back.
    fn end_leases(&mut self) -> Result<(), StoreLost> {
        let lapsed = self.engine.take_lapsed_leases();
        if lapsed.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.with_store(|store| store.end_leases(&lapsed))? {
            self.engine.put_lapsed_leases(lapsed);
            self.store_failed(&error, "leases that are over were not removed");
        }
        Ok(())
    }

    pub(super) fn store_failed(&mut self, error: &StoreError, consequence: &str) {
        self.metrics.store_failures.inc();
        if let Some(suppressed) = self.lines.permit(clock::now().boot_ms) {
            let error = error as &dyn std::error::Error;
            tracing::error!(error, suppressed, "{consequence}");
        }
    }

    /// The kernel's operator allowlist holds the configured prefixes too: a
    /// daemon may be told more than its loader was. Proxies are the loader's
    /// alone: nothing of theirs is blocked by this one anyway.
    fn kernel_allowlist(&self) -> Vec<IpNet> {
        let operator = self.allowlist.iter().map(|allowed| allowed.prefix);
        let configured = self.setup.trusted.iter().filter(|(_, trust)| *trust > Trust::Proxy);
        configured.map(|(prefix, _)| *prefix).chain(operator).collect()
    }

    /// Goes by who is guarded in the kernel: an operator who has logged in, or
    /// out. Whoever is banned and no longer guarded is blocked from now on; who
    /// is guarded now is not, nor counted as if he were.
    fn follow_guards(&mut self) {
        let Some(before) = self.enforcer.read_guards() else { return };
        let allowlist = mem::take(&mut self.allowlist);
        self.set_allowlist(allowlist);
        let now = self.enforcer.guards().clone();
        let guards = before.guards.symmetric_difference(&now.guards);
        for changed in guards.chain(before.proxies.symmetric_difference(&now.proxies)) {
            self.enforcer.project_touching(*changed);
        }
    }

    fn reconcile_allowlist(&mut self) {
        let allowlist = self.kernel_allowlist();
        self.enforcer.reconcile_prefixes(&allowlist);
    }

    fn reconcile(&mut self) {
        let allowlist = self.kernel_allowlist();
        // It asks the kernel about every ban: the other tasks of this thread go on
        // elsewhere meanwhile.
        tokio::task::block_in_place(|| self.enforcer.reconcile(&allowlist));
    }

    /// Runs `work` with the store, here, where it may block: the other tasks of this thread
    /// go on elsewhere meanwhile. Nobody has to be woken up to do it, nor to hear of it.
    pub(super) fn with_store<T>(
        &mut self,
        work: impl FnOnce(&mut Store) -> T,
    ) -> Result<T, StoreLost> {
        let store = &mut self.store;
        let done =
            tokio::task::block_in_place(|| panic::catch_unwind(AssertUnwindSafe(|| work(store))));
        done.map_err(|_| StoreLost)
    }
}
