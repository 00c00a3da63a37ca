//! Places for generations that nginx sees begin and end: which are held, by whom, and when
//! each is given back. Pure; [`keeper`] carries it out.
//!
//! A chat that goes on by itself (LibreChat's since v0.8) is begun by one request, carried
//! by any number of others, whose end says little, and ended by a third. Nobody here sees
//! inside of them, so it is counted: whoever began a generation has a place until one has
//! certainly ended. That is so if
//!
//! * the server refused to begin it,
//! * a request that carried one was answered to its end, or
//! * what was carried before is not known to the server any more, or
//! * a request to end one was granted, while none was carried.
//!
//! No end counts twice, whoever watches it how often: of one stream only those count that
//! were asked for after the last end that counted. Which place is given back does not
//! matter, there are as many as generations that may run. Whatever else happens (somebody
//! who went away, a line that was lost, a worker that died) a place is held until nothing
//! was heard of it for so long that it is over by the operator's word.

pub mod keeper;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use smallvec::SmallVec;

use super::log::{line::Line, pending::RequestName};
use crate::engine::{Bearer, LeaseId};

/// Streams of one bearer that are watched, or were and may go on. More are not heeded.
const MAX_STREAMS: usize = 32;
/// Requests that carry one stream at once. More are not heeded.
const MAX_WATCHERS: usize = 16;

/// What a request has to do with a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It begins one, which goes on when it is answered.
    Start,
    /// It carries one, named by the last segment of its path.
    Stream,
    /// It ends one.
    Abort,
    /// It is one, from its beginning to its end.
    Whole,
}

/// The name of a stream, as it stands in a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(Box<str>);

impl StreamId {
    /// `None`: it has characters that can be spelled in another way, or too many.
    pub fn parse(segment: &[u8]) -> Option<Self> {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        let is_one = (1..=128).contains(&segment.len()) && segment.iter().all(is_plain);
        str::from_utf8(segment).ok().filter(|_| is_one).map(|text| Self(text.into()))
    }
}

/// When something was asked or heard, in the order of that: two things can happen within
/// a millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn(u64);

/// What is known of a request until its end is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// It began one and got this place.
    Start(LeaseId),
    /// It is one, in this place.
    Whole(LeaseId),
    /// It carries this stream.
    Stream(StreamId),
    /// It ends one, and was asked about then.
    Abort(Turn),
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// What the client got; 499: it had gone by then.
    pub status: u16,
    /// What the server said, if it was asked.
    pub upstream: Option<u16>,
    /// Whether the answer was sent to its end.
    pub is_complete: bool,
    /// Whether the answer's body was asked for: by GET, not by HEAD.
    pub is_get: bool,
}

const CLIENT_GONE: u16 = 499;
const GATEWAY_TIMEOUT: u16 = 504;

impl Answered {
    /// By a line of the access log.
    pub fn by(line: &Line<'_>) -> Self {
        let Line { status, upstream, is_complete, .. } = *line;
        Self { status, upstream, is_complete, is_get: line.method == "GET" }
    }

    /// Whether nothing was begun. Whoever went away, or waited too long, may have begun
    /// something all the same.
    fn is_refusal(self) -> bool {
        let last = self.upstream.unwrap_or(self.status);
        last >= 400 && last != GATEWAY_TIMEOUT && self.status != CLIENT_GONE
    }

    fn is_unknown(self) -> bool {
        matches!(self.upstream, Some(404 | 410))
    }

    fn is_granted(self) -> bool {
        self.upstream.is_some_and(|status| (200..300).contains(&status))
    }
}

/// Why a place is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The server refused to begin.
    Refused,
    /// It was carried to its end, or was gone when it was asked for again.
    Ended,
    /// It was ended by request.
    Aborted,
    /// Nothing was heard of it for too long.
    Silent,
}

impl End {
    /// The label in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Ended => "ended",
            Self::Aborted => "aborted",
            Self::Silent => "silent",
        }
    }
}

/// How long a place is held of which nothing is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// While a request carries it: that one's end is to be told.
    pub watched_ms: u64,
    /// Else.
    pub unwatched_ms: u64,
    /// Between two looks at all places.
    pub sweep_ms: u64,
}

/// Whose place.
pub type Held = (Bearer, LeaseId);

/// All places, and what is known of the streams of those who hold them.
#[derive(Debug)]
pub struct Generations {
    books: HashMap<Bearer, Book>,
    /// To be given back.
    over: Vec<(Held, End)>,
    patience: Patience,
    turn: Turn,
    next_sweep_boot_ms: u64,
}

/// One bearer's. Without places there is none.
#[derive(Debug)]
struct Book {
    /// The oldest first.
    places: SmallVec<[Place; 2]>,
    streams: SmallVec<[(StreamId, Stream); 2]>,
    /// When an end was counted last, of whatever stream.
    ended: Turn,
    /// What was asked for before does not count: it may be what was ended by request.
    floor: Turn,
}

#[derive(Debug)]
struct Place {
    lease: LeaseId,
    /// The stream that is thought to be it, while it is carried. It may be another one's:
    /// that moves no more than the time until which it is held.
    watched: Option<StreamId>,
    until_boot_ms: u64,
    is_over: bool,
}

/// Kept while it is watched or has been seen running.
#[derive(Debug, Default)]
struct Stream {
    watchers: SmallVec<[Watcher; 2]>,
    /// When an end was counted last.
    ended: Option<Turn>,
    /// The last who went away while it ran, and when that was heard.
    seen: Option<(Watcher, Turn)>,
}

/// A request that carries a stream.
#[derive(Clone, Copy, Debug)]
struct Watcher {
    name: RequestName,
    asked: Turn,
    asked_boot_ms: u64,
}

impl Generations {
    /// None yet.
    pub fn new(patience: Patience) -> Self {
        Self {
            books: HashMap::new(),
            over: Vec::new(),
            patience,
            turn: Turn(0),
            next_sweep_boot_ms: 0,
        }
    }

    /// How many places are held.
    pub fn len(&self) -> usize {
        self.books.values().map(|book| book.places.len()).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.books.is_empty()
    }

    /// How many places somebody has, those among them that are about to be given back.
    pub fn held_by(&self, bearer: &Bearer) -> usize {
        self.books.get(bearer).map_or(0, |book| book.places.len())
    }

    /// A place was taken, by a request that begins a generation, or in an earlier life.
    pub fn start(&mut self, bearer: &Bearer, lease: LeaseId, now_boot_ms: u64) {
        self.take(bearer, lease, now_boot_ms.saturating_add(self.patience.unwatched_ms));
    }

    /// A place was taken, by a request that is the generation.
    pub fn start_whole(&mut self, bearer: &Bearer, lease: LeaseId, now_boot_ms: u64) {
        self.take(bearer, lease, now_boot_ms.saturating_add(self.patience.watched_ms));
    }

    fn take(&mut self, bearer: &Bearer, lease: LeaseId, until_boot_ms: u64) {
        let now = self.next();
        let book = self.books.entry(bearer.clone()).or_insert_with(|| Book::new(now));
        // nginx asks twice about a request that it redirects within itself.
        if book.places.iter().all(|place| place.lease != lease) {
            book.places.push(Place { lease, watched: None, until_boot_ms, is_over: false });
        }
    }

    fn next(&mut self) -> Turn {
        self.turn.0 += 1;
        self.turn
    }

    /// A request is about to end a generation.
    pub fn abort(&mut self) -> Part {
        Part::Abort(self.next())
    }

    /// A request is about to carry a stream.
    pub fn watch(&mut self, bearer: &Bearer, id: &StreamId, name: RequestName, now_boot_ms: u64) {
        let until = now_boot_ms.saturating_add(self.patience.watched_ms);
        let asked = self.next();
        let Some(book) = self.books.get_mut(bearer) else { return };
        let Some(stream) = book.stream(id) else { return };
        stream.watchers.retain(|watcher| watcher.name != name);
        if stream.watchers.len() < MAX_WATCHERS {
            stream.watchers.push(Watcher { name, asked, asked_boot_ms: now_boot_ms });
        }
        if let Some(place) = book.place_of(id) {
            place.watched = Some(id.clone());
            place.until_boot_ms = place.until_boot_ms.max(until);
        }
    }

    /// What became of a request.
    pub fn hear(
        &mut self,
        bearer: &Bearer,
        name: RequestName,
        part: &Part,
        answered: Answered,
        now_boot_ms: u64,
    ) {
        let unwatched = now_boot_ms.saturating_add(self.patience.unwatched_ms);
        let turn = self.next();
        let Some(book) = self.books.get_mut(bearer) else { return };
        let end = match part {
            Part::Start(lease) => answered.is_refusal().then(|| (book.end(*lease), End::Refused)),
            Part::Whole(lease) => Some((book.end(*lease), End::Ended)),
            Part::Stream(id) => book
                .is_ended((id, name), answered, turn, unwatched)
                .then(|| (book.end_any(Some(id)), End::Ended)),
            Part::Abort(asked) => {
                book.is_aborted(*asked, answered, turn).then(|| (book.end_any(None), End::Aborted))
            }
        };
        if let Some((Some(lease), why)) = end {
            self.over.push(((bearer.clone(), lease), why));
        }
    }

    /// Gives up what nothing was heard of, and says how many places are held; `None`: it
    /// is too early to look again at all of them.
    pub fn sweep(&mut self, now_boot_ms: u64) -> Option<usize> {
        if now_boot_ms < self.next_sweep_boot_ms {
            return None;
        }
        self.next_sweep_boot_ms = now_boot_ms.saturating_add(self.patience.sweep_ms);
        let watched_ms = self.patience.watched_ms;
        for (bearer, book) in &mut self.books {
            for place in &mut book.places {
                if place.until_boot_ms <= now_boot_ms && !place.is_over {
                    place.is_over = true;
                    self.over.push(((bearer.clone(), place.lease), End::Silent));
                }
            }
            for (_, stream) in &mut book.streams {
                let is_awaited =
                    |it: &Watcher| now_boot_ms.saturating_sub(it.asked_boot_ms) < watched_ms;
                stream.watchers.retain(|it| is_awaited(it));
                stream.seen = stream.seen.filter(|(seen, _)| is_awaited(seen));
            }
            book.tidy();
        }
        Some(self.len())
    }

    /// The places that are to be given back: once, unless they are put back.
    pub fn take_over(&mut self) -> Vec<(Held, End)> {
        std::mem::take(&mut self.over)
    }

    /// A place that could not be given back yet.
    pub fn put_back(&mut self, held: Held, why: End) {
        self.over.push((held, why));
    }

    /// A place is nobody's any more.
    pub fn forget(&mut self, (bearer, lease): &Held) {
        let Some(book) = self.books.get_mut(bearer) else { return };
        book.places.retain(|place| place.lease != *lease);
        if book.places.is_empty() {
            self.books.remove(bearer);
        }
    }

    /// The places that go on.
    pub fn running(&self) -> Vec<Held> {
        let running = |(bearer, book): (&Bearer, &Book)| {
            let places = book.places.iter().filter(|place| !place.is_over);
            places.map(|place| (bearer.clone(), place.lease)).collect::<SmallVec<[Held; 2]>>()
        };
        self.books.iter().flat_map(running).collect()
    }
}

impl Book {
    /// All that was counted before is forgotten, and nothing from then counts.
    fn new(now: Turn) -> Self {
        Self { places: SmallVec::new(), streams: SmallVec::new(), ended: now, floor: now }
    }

    /// A stream, new if need be; `None`: there are too many.
    fn stream(&mut self, id: &StreamId) -> Option<&mut Stream> {
        let at = self.streams.iter().position(|(known, _)| known == id);
        let at = at.or_else(|| {
            let is_full = self.streams.len() >= MAX_STREAMS;
            (!is_full).then(|| {
                self.streams.push((id.clone(), Stream::default()));
                self.streams.len() - 1
            })
        })?;
        self.streams.get_mut(at).map(|(_, stream)| stream)
    }

    /// The place that is thought to be a stream's: what is taken for it already, or else
    /// the newest that is taken for none.
    fn place_of(&mut self, id: &StreamId) -> Option<&mut Place> {
        let mut running = self.places.iter().enumerate().rev().filter(|(_, place)| !place.is_over);
        let known = running.clone().find(|(_, place)| place.watched.as_ref() == Some(id));
        let at = known.or_else(|| running.find(|(_, place)| place.watched.is_none()))?.0;
        self.places.get_mut(at)
    }

    /// Whether the end of a request that carried a stream is the end of a generation that
    /// has not been counted.
    fn is_ended(
        &mut self,
        (id, name): (&StreamId, RequestName),
        answered: Answered,
        now: Turn,
        unwatched_until_boot_ms: u64,
    ) -> bool {
        let floor = self.floor;
        let Some((_, stream)) = self.streams.iter_mut().find(|(known, _)| known == id) else {
            return false;
        };
        let Some(at) = stream.watchers.iter().position(|watcher| watcher.name == name) else {
            return false;
        };
        let watcher = stream.watchers.remove(at);
        let ended = stream.ended;
        let is_new = |it: Watcher| it.asked > floor && ended.is_none_or(|ended| it.asked > ended);
        let ran = answered.status == 200 && answered.is_get;
        let has_ended = if ran && answered.is_complete {
            is_new(watcher)
        } else if answered.is_unknown() {
            // Asked for when it was known to have run.
            stream.seen.is_some_and(|(seen, heard)| is_new(seen) && watcher.asked > heard)
        } else {
            if ran && stream.seen.is_none_or(|(seen, _)| watcher.asked > seen.asked) {
                stream.seen = Some((watcher, now));
            }
            false
        };
        if has_ended {
            (stream.ended, stream.seen, self.ended) = (Some(now), None, now);
        } else if stream.watchers.is_empty() {
            // It goes on, unseen.
            let is_its = |place: &&mut Place| place.watched.as_ref() == Some(id);
            for place in self.places.iter_mut().filter(is_its) {
                place.watched = None;
                place.until_boot_ms = unwatched_until_boot_ms;
            }
        }
        self.tidy();
        has_ended
    }

    /// Whether a granted request to end a generation is the end of one that has not been
    /// counted and will not be.
    fn is_aborted(&mut self, asked: Turn, answered: Answered, now: Turn) -> bool {
        let is_watched = self.streams.iter().any(|(_, stream)| !stream.watchers.is_empty());
        if !answered.is_granted() || is_watched || self.ended > asked {
            return false;
        }
        // Which one it was is in a body: of none it can be said now that it runs.
        (self.floor, self.ended) = (now, now);
        self.streams.clear();
        true
    }

    /// Ends this place.
    fn end(&mut self, lease: LeaseId) -> Option<LeaseId> {
        let place = self.places.iter_mut().find(|place| place.lease == lease && !place.is_over)?;
        place.is_over = true;
        Some(lease)
    }

    /// Ends a place: the one that was taken for this stream, or else the oldest that is
    /// taken for none, or the oldest.
    fn end_any(&mut self, stream: Option<&StreamId>) -> Option<LeaseId> {
        let running = || self.places.iter().filter(|place| !place.is_over);
        let its = stream
            .and_then(|id| running().find(|place| place.watched.as_ref() == Some(id)))
            .or_else(|| running().find(|place| place.watched.is_none()))
            .or_else(|| running().next())
            .map(|place| place.lease)?;
        self.end(its)
    }

    fn tidy(&mut self) {
        self.streams.retain(|(_, it)| !it.watchers.is_empty() || it.seen.is_some());
    }
}
