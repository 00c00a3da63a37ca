//! Requests on their way to a decision: whose windows they are counted in. To find those
//! is mostly to wait for memory, and a processor waits for several places in no more time
//! than for one; so it is done for all that wait, before the first is judged. What the
//! windows say is asked later, and nothing is decided here.

use smallvec::SmallVec;

use super::{Act, Engine, Key, Moment, Outcome, Overlay, Request};

/// So few windows are in the processor's own cache: there is nothing to wait for.
const FEW: usize = 256;

/// Where requests that are judged one after the other will be counted.
#[derive(Debug)]
pub struct Queue {
    keys: SmallVec<[Counted; 2]>,
    /// Where each one's keys end.
    ends: SmallVec<[usize; 2]>,
    /// How many have been judged, and where the next one's keys begin.
    next: usize,
    begin: usize,
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
    /// Where the next one will be counted.
    #[inline]
    pub(super) fn peek(&self) -> Option<&[Counted]> {
        Some(&self.keys[self.begin..*self.ends.get(self.next)?])
    }

    /// The next one has been judged.
    #[inline]
    pub(super) fn step(&mut self) {
        (self.next, self.begin) = (self.next + 1, self.ends[self.next]);
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
    pub fn prepare<'r>(&self, requests: impl IntoIterator<Item = &'r Request>) -> Queue {
        let windows = &self.windows;
        let requests = requests.into_iter();
        let room = requests.size_hint().0;
        // One alone waits for nobody else.
        let is_far = room > 1 && windows.len() >= FEW;
        let (keys, ends) = (SmallVec::with_capacity(room), SmallVec::with_capacity(room));
        let mut queue = Queue { keys, ends, next: 0, begin: 0 };
        for request in requests {
            self.each_key(request, |key| queue.keys.push(key));
            queue.ends.push(queue.keys.len());
            if is_far {
                self.rules.await_crowd(self.memory.view(None), &request.subject);
            }
        }
        if is_far {
            // Each round waits for what the one before has found.
            queue.keys.iter().for_each(|(_, key)| windows.await_index(*key));
            queue.keys.iter_mut().for_each(|(_, key)| *key = windows.locate(*key));
        }
        queue
    }
}

impl Overlay<'_> {
    /// Judges the next of those requests, as [`Overlay::judge`] does.
    pub fn judge_next(&mut self, queue: &mut Queue, request: &Request, now: Moment) -> Outcome {
        let Some(keys) = queue.peek() else { return self.judge(request, now) };
        debug_assert_eq!(keys, &*self.engine.keys_for(request), "they are judged in their order");
        let outcome = self.judge_prepared(Prepared { request, keys }, now);
        queue.step();
        outcome
    }
}
