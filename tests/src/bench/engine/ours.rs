//! Our side of `bench engine`: an engine with the default rules, asked as the daemon asks
//! it. A decision is one that counts: it is applied.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use moderation_daemon::engine::{
    Act, Engine, EventType, Moment, PrefixSet, Queue, Request, Restored, Rules, Verdict,
};

use super::keys::{By, Keys};
use super::{CHUNK, Limiter, TIMES};

/// A window of the limits that are asked, in milliseconds.
const WINDOW_MS: usize = 60_000;
/// Some moment.
pub(super) const BEGIN: Moment = Moment { boot_ms: 1_000_000, unix_ms: 1_800_000_000_000 };

/// What is limited by a minute: 40 by address, 30 by user. Neither is a shorthand of the
/// other's.
const fn event(by: By) -> EventType {
    match by {
        By::Address | By::Both => EventType::MESSAGE,
        By::User => EventType::PROMPT_USAGE,
    }
}

/// The engine, and where its time stands.
pub(super) struct Ours {
    engine: Engine,
    queue: Queue,
    kind: EventType,
    batch: usize,
    decided: usize,
    keys: usize,
}

impl Ours {
    pub(super) fn new(by: By, keys: usize) -> Self {
        Self {
            engine: engine(),
            queue: Queue::default(),
            kind: event(by),
            batch: CHUNK,
            decided: 0,
            keys,
        }
    }

    /// Decisions that are applied together.
    pub(super) const fn set_batch(&mut self, batch: usize) {
        self.batch = batch;
    }

    /// Goes on so that each key is asked about so many times in a window.
    fn now(&self) -> Moment {
        after(self.decided * WINDOW_MS / TIMES / self.keys)
    }
}

fn after(ms: usize) -> Moment {
    Moment { boot_ms: BEGIN.boot_ms + ms as u64, unix_ms: BEGIN.unix_ms + ms as u64 }
}

/// With the rules that a daemon has by default, of which each window is as it will be.
pub(super) fn engine() -> Engine {
    let rules = Rules::hardened();
    Engine::new(rules, PrefixSet::default(), Restored::default(), [1, 2], BEGIN)
}

/// Decides as the daemon does with what waits; says how many were denied.
pub(super) fn decide(
    (engine, queue): (&mut Engine, &mut Queue),
    batch: &[Request],
    now: Moment,
) -> usize {
    engine.prepare(queue, batch);
    let passed = engine.pass_all(queue, batch, now);
    black_box(&*queue);
    if passed == batch.len() {
        return 0;
    }
    let mut overlay = engine.overlay();
    let mut denied = 0;
    for request in &batch[passed..] {
        let outcome = overlay.judge_next(queue, request, now);
        denied += usize::from(black_box(&outcome).verdict == Verdict::Deny);
    }
    let changes = overlay.into_changes();
    engine.apply(changes);
    denied
}

impl Limiter for Ours {
    fn decide(&mut self, keys: &Keys, chunk: &[u32]) -> (Duration, usize) {
        let request =
            |number: &u32| Request::new(Act::event(self.kind), keys.subject(*number).clone());
        let requests: Vec<_> = chunk.iter().map(request).collect();
        let now = self.now();
        let begin = Instant::now();
        let mut denied = 0;
        for batch in requests.chunks(self.batch) {
            denied += decide((&mut self.engine, &mut self.queue), batch, now);
        }
        let took = begin.elapsed();
        self.decided += chunk.len();
        (took, denied)
    }
}

/// Sees it allow as much as it should, and no more, in any window.
pub(super) fn judge(by: By) -> Result<()> {
    let (mut engine, mut queue, kind) = (engine(), Queue::default(), event(by));
    let max = Rules::hardened().limiters(kind).map(|rule| rule.limit.max).min();
    let max = usize::try_from(max.unwrap_or_default())?;
    let request = Request::new(Act::event(kind), by.subject(0));
    // One too many each time: more of them would be a reason to ban.
    for (ms, asked, want) in [(0, max + 1, max), (WINDOW_MS - 1, 1, 0), (WINDOW_MS, max + 1, max)] {
        let one = std::slice::from_ref(&request);
        let denied: usize =
            (0..asked).map(|_| decide((&mut engine, &mut queue), one, after(ms))).sum();
        let allowed = asked - denied;
        ensure!(allowed == want, "{allowed} instead of {want} were allowed after {ms} ms");
    }
    Ok(())
}
