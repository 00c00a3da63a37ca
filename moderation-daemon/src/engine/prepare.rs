//! Requests on their way to a decision: whose windows they are counted in. To find those
//! is mostly to wait for memory, and a processor waits for several places in no more time
//! than for one; so it is done for all that wait, before the first is judged. What the
//! windows say is asked later, and nothing is decided here.

use std::ops::Range;

use smallvec::SmallVec;

use super::{Act, Count, Engine, Key, Moment, Outcome, Overlay, Request};

/// So few windows are in the processor's own cache: there is nothing to wait for.
const FEW: usize = 256;

/// Where requests that are judged one after the other will be counted, and what was found
/// there. Its memory serves one batch after the other.
#[derive(Debug, Default)]
pub struct Queue {
    pub(super) keys: Vec<Counted>,
    /// Where each one's keys end.
    ends: Vec<usize>,
    /// How many have been judged, and where the next one's keys begin.
    next: usize,
    begin: usize,
    /// What limiters said of those that were counted at once: as many as there are keys.
    pub(super) counts: Vec<Count>,
}

/// A limiter by its place in the rules, and whom it counts.
pub(super) type Counted = (usize, Key);

/// A request, and where it will be counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepared<'q> {
    pub(super) request: &'q Request,
    /// For each limiter of such an event that counts somebody, in their order.
    pub(super) keys: &'q [Counted],
}

impl Queue {
    /// What limiters said of a request that was counted at once, by its place in the queue.
    ///
    /// # Panics
    ///
    /// If there is no such request, or it was not counted at once.
    pub fn counts(&self, place: usize) -> &[Count] {
        let begin = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.counts[begin..self.ends[place]]
    }

    /// Which keys are the next one's.
    #[inline]
    pub(super) fn peek(&self) -> Option<Range<usize>> {
        Some(self.begin..*self.ends.get(self.next)?)
    }

    /// The next one has been judged.
    #[inline]
    pub(super) fn step(&mut self) {
        (self.next, self.begin) = (self.next + 1, self.ends[self.next]);
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.ends.clear();
        self.counts.clear();
        (self.next, self.begin) = (0, 0);
    }
}

impl Engine {
    /// The keys of one request.
    #[inline]
    pub(super) fn keys_for(&self, request: &Request) -> SmallVec<[Counted; 2]> {
        let mut keys = SmallVec::new();
        self.each_key(request, |key| keys.push(key));
        keys
    }

    #[inline]
    fn each_key(&self, request: &Request, mut take: impl FnMut(Counted)) {
        let Act::Event { kind, .. } = request.act else { return };
        let (rules, keys) = (&self.rules, &self.keys);
        for place in self.directory.asked(kind) {
            if let Some(key) = keys.counted(&rules.limiters[*place], rules, request) {
                take((*place, key));
            }
        }
    }

    /// Looks for the windows of requests that are to be judged one after the other, by
    /// [`Engine::pass_all`] or [`Overlay::judge_next`]. Whatever else happens in between
    /// makes no difference.
    #[inline]
    pub fn prepare<'r>(&self, queue: &mut Queue, requests: impl IntoIterator<Item = &'r Request>) {
        queue.clear();
        let is_far = self.windows.len() >= FEW;
        let mut requests = requests.into_iter().peekable();
        while let Some(request) = requests.next() {
            self.each_key(request, |(place, key)| {
                if is_far {
                    self.windows.fetch_index(key);
                }
                queue.keys.push((place, key));
            });
            queue.ends.push(queue.keys.len());
            // One alone waits for nobody else.
            if is_far && (queue.ends.len() > 1 || requests.peek().is_some()) {
                self.rules.await_crowd(self.memory.view(None), &request.subject);
            }
        }
        if is_far && queue.ends.len() > 1 {
            queue.keys.iter_mut().for_each(|(_, key)| *key = self.windows.locate(*key));
        }
    }
}

impl Overlay<'_> {
    /// Judges the next of those requests, as [`Overlay::judge`] does.
    pub fn judge_next(&mut self, queue: &mut Queue, request: &Request, now: Moment) -> Outcome {
        let Some(keys) = queue.peek() else { return self.judge(request, now) };
        let keys = &queue.keys[keys];
        debug_assert_eq!(keys, &*self.engine.keys_for(request), "they are judged in their order");
        let outcome = self.judge_prepared(Prepared { request, keys }, now);
        queue.step();
        outcome
    }
}
