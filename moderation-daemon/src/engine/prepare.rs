//! Requests on their way to a decision: whose windows they are counted in. To find those
//! is mostly to wait for memory, and a processor waits for several places in no more time
//! than for one; so it is done for all that wait, before the first is judged. What the
//! windows say is asked later, and nothing is decided here.

use smallvec::SmallVec;

use super::{Act, Key, Overlay, Request};

/// So few windows are in the processor's own cache: there is nothing to wait for.
const FEW: usize = 4_096;

/// Requests that are to be judged one after the other, and where each will be counted.
#[derive(Debug)]
pub struct Queue<'r> {
    /// Each with the end of its keys.
    requests: Vec<(&'r Request, usize)>,
    keys: Vec<Counted>,
}

/// A limiter by its place in the rules, and whom it counts.
pub(super) type Counted = (usize, Key);

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Prepared<'q> {
    pub(super) request: &'q Request,
    /// For each limiter of such an event that counts somebody, in their order.
    pub(super) keys: &'q [Counted],
}

impl Queue<'_> {
    /// In their order.
    pub fn iter(&self) -> impl Iterator<Item = Prepared<'_>> {
        let mut begin = 0;
        self.requests.iter().map(move |(request, end)| {
            let keys = &self.keys[begin..*end];
            begin = *end;
            Prepared { request, keys }
        })
    }
}

impl Overlay<'_> {
    /// The keys of one request.
    #[inline]
    pub(super) fn keys(&self, request: &Request) -> SmallVec<[Counted; 2]> {
        let mut keys = SmallVec::new();
        self.each_key(request, |key| keys.push(key));
        keys
    }

    #[inline]
    fn each_key(&self, request: &Request, mut take: impl FnMut(Counted)) {
        let Act::Event { kind, .. } = request.act else { return };
        let (rules, keys) = (&self.engine.rules, &self.engine.keys);
        for place in self.engine.directory.asked(kind) {
            if let Some(key) = keys.counted(&rules.limiters[*place], rules, request) {
                take((*place, key));
            }
        }
    }

    /// Looks for the windows of requests, for [`Overlay::judge_prepared`].
    pub fn prepare<'r>(&self, requests: impl IntoIterator<Item = &'r Request>) -> Queue<'r> {
        let windows = &self.engine.windows;
        let requests = requests.into_iter();
        let room = requests.size_hint().0;
        let mut queue =
            Queue { requests: Vec::with_capacity(room), keys: Vec::with_capacity(room) };
        // In three rounds, each of which waits for what the one before has found.
        for request in requests {
            self.each_key(request, |key| queue.keys.push(key));
            queue.requests.push((request, queue.keys.len()));
        }
        if windows.len() < FEW {
            return queue;
        }
        for (_, key) in &queue.keys {
            windows.await_index(*key);
        }
        for (request, _) in &queue.requests {
            self.await_crowd(&request.subject);
        }
        for (_, key) in &mut queue.keys {
            *key = windows.locate(*key);
        }
        queue
    }
}
