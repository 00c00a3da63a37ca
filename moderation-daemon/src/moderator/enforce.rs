//! Keeping the kernel in step with the engine: the maps are a projection of
//! what is banned, address by address and, now and then, as a whole. If the
//! kernel refuses, bans stay stored and hold at the API, and this tries again.

use std::sync::Arc;

use ipnet::IpNet;
use moderation_common::BanEntry;

use super::{
    board::{Board, DriftSeen, KernelStatus},
    kernel::{Kernel, Opened, open},
};
use crate::{
    blocklist::PrefixMap,
    clock,
    engine::Prefix,
    metrics::Metrics,
    network::{
        Changes, Desired, DropMode, Guards, Network, NetworkError, PinIdentity, Pins, Reconciled,
        Sweep, Swept,
    },
    telemetry,
};

/// The moderator's hands on the kernel.
#[derive(Debug)]
pub(super) struct Enforcer {
    pins: Option<Pins>,
    mode: DropMode,
    network: Option<Network>,
    /// Maps that are looked through since before the moderator was there; then
    /// they are `network`.
    opened: Option<Opened>,
    /// A look through the maps that is under way.
    sweep: Option<Sweep>,
    /// One dropped packet in so many is shown to those who watch; 0: none.
    sample_every: u32,
    /// Who is guarded in the kernel, as read last.
    guards: Guards,
    /// Which pins were tried last; others at the same place are news.
    tried: Option<PinIdentity>,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    /// Something failed: compare as a whole soon.
    stale: bool,
    retry: Backoff,
}

/// Ticks between attempts that fail: 1, 2, 4, up to a minute's worth.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    ticks_left: u32,
}

impl Backoff {
    const MOST_TICKS: u32 = 60;

    const fn fail(&mut self) {
        let ticks = 1 << self.failures;
        if ticks < Self::MOST_TICKS {
            self.failures += 1;
            self.ticks_left = ticks;
        } else {
            self.ticks_left = Self::MOST_TICKS;
        }
    }

    /// Whether it is time; called once a tick.
    const fn tick(&mut self) -> bool {
        self.ticks_left = self.ticks_left.saturating_sub(1);
        self.ticks_left == 0
    }
}

impl Enforcer {
    pub(super) fn new(kernel: Kernel, board: Arc<Board>, metrics: Arc<Metrics>) -> Self {
        let (pins, mode, opened) = match kernel {
            Kernel::Off => {
                board.set_no_kernel();
                (None, DropMode::Drop, None)
            }
            Kernel::Pinned(pins, mode, opened) => (Some(pins), mode, opened),
        };
        let tried = opened.as_ref().and_then(Opened::identity);
        Self {
            pins,
            mode,
            network: None,
            opened,
            sweep: None,
            sample_every: 0,
            guards: Guards::default(),
            tried,
            board,
            metrics,
            stale: true,
            retry: Backoff::default(),
        }
    }

    /// Reads who is guarded in the kernel, which root's loader says; returns
    /// who was before, if that is another. Guards that cannot be read stay.
    pub(super) fn read_guards(&mut self) -> Option<Guards> {
        let read = Guards::read(self.pins.as_ref().filter(|pins| pins.exist())?).ok()?;
        if read == self.guards {
            return None;
        }
        Some(std::mem::replace(&mut self.guards, read))
    }

    /// Who is guarded in the kernel.
    pub(super) const fn guards(&self) -> &Guards {
        &self.guards
    }

    /// Shows one dropped packet in so many to those who watch; 0: none.
    pub(super) fn sample(&mut self, every: u32) {
        self.sample_every = every;
        if let Some(network) = &mut self.network
            && let Err(error) = network.sample(every)
        {
            self.failed(&error);
        }
    }

    /// Whether [`Enforcer::reconcile`] should not wait for its turn; called
    /// once a tick.
    pub(super) fn is_due(&mut self) -> bool {
        self.pins.is_some() && (self.pins_changed() || self.stale && self.retry.tick())
    }

    /// Whether the kernel holds all that it should, for all that is known.
    pub(super) const fn is_in_step(&self) -> bool {
        self.pins.is_none() || self.network.is_some() && !self.stale
    }

    /// Whether somebody removed the pins, or made them anew.
    fn pins_changed(&self) -> bool {
        self.pins.as_ref().and_then(Pins::identity) != self.tried
    }

    /// Makes the kernel agree about some prefixes.
    pub(super) fn project(&mut self, prefixes: impl IntoIterator<Item = Prefix>) {
        let mut prefixes = prefixes.into_iter().peekable();
        if prefixes.peek().is_some() {
            self.leave_changed_pins();
        }
        let mut new = Vec::new();
        for prefix in prefixes {
            match self.wanted(prefix) {
                Some(entry) if !self.board.is_blocked(prefix) => new.push((prefix, entry)),
                wanted => self.project_one(prefix, wanted),
            }
        }
        if !new.is_empty() {
            self.block_new(&new.into_iter().collect());
        }
    }

    /// Blocks what is not blocked yet: a single ban, or a slice of a list.
    fn block_new(&mut self, new: &Desired) {
        let Some(network) = &mut self.network else { return };
        let prefixes: Vec<_> = new.iter().map(|(prefix, _)| prefix).collect();
        let Reconciled { failed, result } = network.block_new(new);
        self.board.set_blocked(prefixes.into_iter().filter(|prefix| !failed.contains(prefix)));
        if let Err(error) = result {
            self.failed(&error);
        }
    }

    /// Maps whose pins are gone are nobody's any more: writing to them would
    /// look like success.
    fn leave_changed_pins(&mut self) {
        if self.pins_changed() {
            self.network = None;
            self.sweep = None;
            self.stale = true;
            self.board.replace_blocked(PrefixMap::default());
        }
    }

    fn project_one(&mut self, prefix: Prefix, wanted: Option<BanEntry>) {
        let Some(network) = &mut self.network else { return };
        let result = match wanted {
            Some(entry) => network.block(prefix, entry),
            None => network.unblock(prefix),
        };
        match (result, wanted) {
            (Ok(()), Some(_)) => self.board.set_blocked([prefix]),
            (Ok(()), None) => self.board.set_unblocked([prefix]),
            (Err(error), Some(_)) => {
                self.board.set_unblocked([prefix]);
                self.failed(&error);
            }
            // It is blocked still.
            (Err(error), None) => self.failed(&error),
        }
    }

    /// Begins to look through the maps, page by page, unless that is under way;
    /// go on with [`Enforcer::sweep_on`].
    pub(super) fn begin_sweep(&mut self) {
        self.leave_changed_pins();
        if self.sweep.is_none() {
            self.sweep = self.network.as_ref().map(Network::sweep);
        }
    }

    /// Whether there are pages left to look at.
    pub(super) const fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Looks at one page, and mends it.
    pub(super) fn sweep_on(&mut self) {
        let (Some(mut sweep), Some(network)) = (self.sweep.take(), &mut self.network) else {
            return;
        };
        let (board, boot_ns, unix_ms) = (&self.board, clock::boot_ns(), clock::now().unix_ms);
        let wanted =
            |prefix| board.wanted(prefix).map(|until| clock::ban_entry(until, boot_ns, unix_ms));
        match network.sweep_on(&mut sweep, wanted) {
            Ok(None) => self.sweep = Some(sweep),
            Ok(Some(swept)) => self.swept(swept),
            Err(error) => self.failed(&error),
        }
    }

    fn swept(&mut self, swept: Swept) {
        let Swept { changes, hidden, has_losses } = swept;
        if hidden > 0 {
            self.metrics.hidden_bans.inc_by(hidden as u64);
            tracing::error!(hidden, "the prefilter hid bans from the program; it no longer does");
        }
        if has_losses {
            // A whole comparison finds out which, and tells.
            tracing::warn!("bans have vanished from the kernel's maps: comparing all of them");
            self.stale = true;
        }
        if let Some(pins) = self.pins.clone() {
            self.report(changes, &pins);
        }
    }

    /// Makes the kernel agree about everything.
    pub(super) fn reconcile(&mut self, allowlist: &[IpNet]) {
        let Some(pins) = self.pins.clone() else { return };
        let compared = self.open(&pins).and_then(|()| self.compare(allowlist));
        let (blocked, result) = compared.unwrap_or_else(|error| (PrefixMap::default(), Err(error)));
        self.board.replace_blocked(blocked);
        match result {
            Ok(changes) => {
                self.stale = false;
                self.retry = Backoff::default();
                self.report(changes, &pins);
            }
            Err(error) => {
                self.failed(&error);
                self.retry.fail();
            }
        }
    }

    /// Compares as a whole, and mends; returns what is blocked then. While the maps
    /// are looked through the board is asked what should be in them, and that twice
    /// at the same time: a million answers are a list to sort, and a map to fill.
    fn compare(
        &mut self,
        allowlist: &[IpNet],
    ) -> Result<(PrefixMap<()>, Result<Changes, NetworkError>), NetworkError> {
        let board = Arc::clone(&self.board);
        let (mut blocked, reconciled) = std::thread::scope(|scope| {
            let wanted = scope.spawn(|| all_wanted(&board));
            let blocked = scope.spawn(|| all_blocked(&board));
            let network = self.look()?;
            let wanted = wanted.join().expect("asking the board does not panic");
            let reconciled = network.reconcile(wanted, allowlist);
            Ok((blocked.join().expect("filling a map does not panic"), reconciled))
        })?;
        let Reconciled { failed, result } = reconciled;
        for prefix in failed {
            blocked.remove(prefix);
        }
        Ok((blocked, result))
    }

    /// Looks through the open maps, or waits for whoever does.
    fn look(&mut self) -> Result<&mut Network, NetworkError> {
        match (self.opened.take(), &mut self.network) {
            (Some(opened), network) => *network = Some(opened.looked_through()?),
            (None, Some(network)) => network.look()?,
            (None, None) => {}
        }
        let network = self.network.as_mut().expect("opened just before");
        let hidden = network.hidden_at_open();
        if hidden > 0 {
            self.metrics.hidden_bans.inc_by(hidden as u64);
            tracing::error!(hidden, "the prefilter hid bans from the program; it no longer does");
        }
        Ok(network)
    }

    /// Makes the kernel agree about who is protected, and about those who are
    /// banned around a prefix that is newly so or no longer.
    pub(super) fn reconcile_allowlist(&mut self, allowlist: &[IpNet], changed: IpNet) {
        self.leave_changed_pins();
        self.reconcile_prefixes(allowlist);
        self.project_touching(changed);
    }

    /// Makes the kernel's allowlist agree, and looks at nobody's ban.
    pub(super) fn reconcile_prefixes(&mut self, allowlist: &[IpNet]) {
        let Some(network) = &mut self.network else { return };
        if let Err(error) = network.reconcile_allowlist(allowlist) {
            self.failed(&error);
        }
    }

    /// Makes the kernel agree about those who are banned within a block, or in
    /// one around it.
    pub(super) fn project_touching(&mut self, changed: IpNet) {
        let mut moved = self.board.touching(changed);
        moved.retain(|prefix| self.wanted(*prefix).is_some() != self.board.is_blocked(*prefix));
        self.project(moved);
    }

    /// What the kernel should hold about a prefix.
    fn wanted(&self, prefix: Prefix) -> Option<BanEntry> {
        let until = self.board.wanted(prefix)?;
        Some(clock::ban_entry(until, clock::boot_ns(), clock::now().unix_ms))
    }

    fn open(&mut self, pins: &Pins) -> Result<(), NetworkError> {
        let is_open = self.network.is_some() || self.opened.is_some();
        if is_open && !self.pins_changed() {
            return Ok(());
        }
        (self.network, self.opened, self.sweep) = (None, None, None);
        let found = pins.identity();
        if found != self.tried {
            self.retry = Backoff::default();
        }
        self.tried = found;
        self.network = Some(open(pins, self.mode, self.sample_every)?);
        Ok(())
    }

    fn report(&self, changes: Changes, pins: &Pins) {
        if changes.drift() > 0 {
            let Changes { added, updated, removed } = changes;
            tracing::info!(added, updated, removed, "made the kernel agree with the store");
        }
        self.metrics.drift(changes);
        let before = self.board.kernel();
        let attached = pins.attachments().is_ok_and(|attached| !attached.is_empty());
        if !attached && (before.attached || !before.open) {
            tracing::warn!("no interface runs the program: nobody's packets are dropped");
        }
        let seen = DriftSeen { at_unix_ms: clock::now().unix_ms, changes };
        self.board.set_kernel(KernelStatus {
            open: true,
            attached,
            problem: None,
            last_drift: changes,
            drift_seen: if changes.drift() > 0 { Some(seen) } else { before.drift_seen },
        });
    }

    /// Counts every failure, but logs one only when it is news.
    fn failed(&mut self, error: &NetworkError) {
        self.stale = true;
        self.metrics.enforcement_failures.inc();
        let problem = telemetry::chain(error);
        let known = self.board.kernel();
        if known.problem.as_ref() != Some(&problem) {
            match (error, self.mode) {
                // A host that was never set up to drop anything.
                (NetworkError::OpenMap { path, .. }, DropMode::Observe) if !path.exists() => {
                    tracing::warn!(problem, "nothing is counted in the kernel");
                }
                _ => tracing::error!(problem, "the kernel does not enforce what is decided"),
            }
        }
        let open = self.network.is_some();
        let attached = open && known.attached;
        self.board.set_kernel(KernelStatus { open, attached, problem: Some(problem), ..known });
    }
}

fn all_wanted(board: &Board) -> Desired {
    let (boot_ns, unix_ms) = (clock::boot_ns(), clock::now().unix_ms);
    Desired::told_by(|take| {
        board.for_each_wanted(|prefix, until| {
            take(prefix, clock::ban_entry(until, boot_ns, unix_ms));
        });
    })
}

fn all_blocked(board: &Board) -> PrefixMap<()> {
    let mut blocked = board.room();
    board.for_each_wanted(|prefix, _| {
        blocked.insert(prefix, ());
    });
    blocked
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks until the next attempt.
    fn wait(backoff: &mut Backoff) -> usize {
        1 + (0..1_000).take_while(|_| !backoff.tick()).count()
    }

    #[test]
    fn attempts_that_fail_come_ever_more_rarely_but_at_least_once_a_minute() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..9)
            .map(|_| {
                backoff.fail();
                wait(&mut backoff)
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }
}
