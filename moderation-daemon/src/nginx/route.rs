//! Which request means what: the operator's table of methods and path patterns. Pure.
//! What a request is about is asked by every reading that a server behind nginx may have
//! of its path (see [`reading`]), so that no spelling slips past a route. It counts
//! nothing and knows no headers.

mod pattern;
mod reading;
#[cfg(test)]
mod tests;

use smallvec::SmallVec;

use self::pattern::{Methods, Pattern};
use super::generation::{Phase, StreamId};
use crate::engine::EventType;

pub use self::pattern::BadPattern;

/// Routes that a table can have: LibreChat's has some forty.
pub const MAX_ROUTES: usize = 256;

/// What a request is. Who is banned does not get through in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    /// The event that it counts as, if any.
    pub event: Option<EventType>,
    /// What it has to do with a generation, if anything.
    pub phase: Option<Phase>,
}

/// What a request is by all readings of its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The events that it counts as, each once.
    pub events: Events,
    /// Whether it begins a generation, or is one.
    pub takes: Option<Takes>,
    /// What it has to do with one that runs. Only if its path can be read in one way:
    /// under two names one stream would end twice.
    pub follows: Option<Follows>,
}

/// What a place is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Takes {
    /// For as long as the request lasts.
    Whole,
    /// For what it begins.
    Start,
}

/// What is done with a generation that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follows {
    /// It is carried.
    Stream(StreamId),
    /// It is ended.
    Abort,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    methods: Methods,
    pattern: Pattern,
    meaning: Meaning,
}

/// The checked table: of two lines that match one request, one is the more specific, or
/// they mean the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable(Vec<Route>);

/// The different events that one request is, by all readings of its path. Nearly always
/// one or none.
pub type Events = SmallVec<[EventType; 2]>;

/// Why there is no table. Lines are counted from 0, as in the configuration's messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// A line is no route.
    #[error("{problem}")]
    Pattern {
        /// Which line.
        line: usize,
        /// Why not.
        problem: BadPattern,
    },
    /// Two lines match the same requests, mean something else, and none says which holds.
    #[error(
        "{one} and {other} (routes[{other_line}]) both match {both}, and mean something else: say \
         what that one is"
    )]
    Overlap {
        /// The later of the lines.
        line: usize,
        /// What it matches.
        one: String,
        /// The earlier one.
        other_line: usize,
        /// What that matches.
        other: String,
        /// What both match.
        both: String,
    },
    /// What carries a stream does not say which.
    #[error("generation: stream needs a path whose last segment is a name, as :id")]
    NoStream {
        /// Which line.
        line: usize,
    },
    /// Too many lines.
    #[error("a table has at most {MAX_ROUTES} routes")]
    TooMany,
}

impl RouteError {
    /// The line that it is about, if it is about one.
    pub const fn line(&self) -> Option<usize> {
        match self {
            Self::Pattern { line, .. } | Self::Overlap { line, .. } | Self::NoStream { line } => {
                Some(*line)
            }
            Self::TooMany => None,
        }
    }
}

impl RouteTable {
    /// A table of methods (`POST`, several with `|` between them, or `ANY`), path patterns
    /// and what they mean.
    ///
    /// A pattern's segments are texts, `:name` for any one segment, and as the last one
    /// `*` for any number of them, none included. `GET` is `HEAD`, too. Case, and slashes
    /// at the end, do not matter.
    ///
    /// # Errors
    ///
    /// See [`RouteError`].
    pub fn new<'a>(
        lines: impl IntoIterator<Item = (&'a str, &'a str, Meaning)>,
    ) -> Result<Self, RouteError> {
        let mut routes = Vec::new();
        for (line, (methods, pattern, meaning)) in lines.into_iter().enumerate() {
            if line >= MAX_ROUTES {
                return Err(RouteError::TooMany);
            }
            let bad = |problem| RouteError::Pattern { line, problem };
            let methods = Methods::parse(methods).map_err(bad)?;
            let pattern = Pattern::parse(pattern).map_err(bad)?;
            if meaning.phase == Some(Phase::Stream) && !pattern.ends_in_name() {
                return Err(RouteError::NoStream { line });
            }
            routes.push(Route { methods, pattern, meaning });
        }
        let table = Self(routes);
        table.check()?;
        Ok(table)
    }

    /// How many routes there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a request is, by its method and its target as it came (nginx's
    /// `$request_uri`).
    pub fn find(&self, method: &str, target: &[u8]) -> Found {
        let (mut found, mut readings) = (Found::default(), 0);
        reading::each(target, |segments| {
            readings += 1;
            let Some(route) = self.most_specific(method, segments) else { return };
            if let Some(kind) = route.meaning.event
                && !found.events.contains(&kind)
            {
                found.events.push(kind);
            }
            match route.meaning.phase {
                Some(Phase::Start) => found.takes = found.takes.max(Some(Takes::Start)),
                Some(Phase::Whole) => found.takes = found.takes.max(Some(Takes::Whole)),
                Some(Phase::Stream) => {
                    let id = segments.last().and_then(|segment| StreamId::parse(segment));
                    found.follows = id.map(Follows::Stream);
                }
                Some(Phase::Abort) => found.follows = Some(Follows::Abort),
                None => {}
            }
        });
        if readings > 1 {
            found.follows = None;
        }
        found
    }

    /// Whether any route has to do with generations.
    pub fn knows_generations(&self) -> bool {
        self.0.iter().any(|route| route.meaning.phase.is_some())
    }

    /// Whether places are taken for what goes on, and nothing says when it ends.
    pub fn only_begins(&self) -> bool {
        let any = |phase| self.0.iter().any(|route| route.meaning.phase == Some(phase));
        any(Phase::Start) && !any(Phase::Stream)
    }

    /// The route for one reading. There can be several that none is within; they mean the
    /// same then.
    fn most_specific(&self, method: &str, segments: &[&[u8]]) -> Option<&Route> {
        let matches =
            |route: &&Route| route.methods.contain(method) && route.pattern.matches(segments);
        let better = |best: &Route, route: &Route| route.is_within(best);
        self.0.iter().filter(matches).reduce(
            |best, route| {
                if better(best, route) { route } else { best }
            },
        )
    }

    fn check(&self) -> Result<(), RouteError> {
        for (line, one) in self.0.iter().enumerate() {
            for (other_line, other) in self.0[..line].iter().enumerate() {
                let Some(both) = one.overlap(other) else { continue };
                if self.settles(one, other, &both) {
                    continue;
                }
                return Err(RouteError::Overlap {
                    line,
                    one: one.shown(),
                    other_line,
                    other: other.shown(),
                    both: both.shown(),
                });
            }
        }
        Ok(())
    }

    /// Whether it is clear what is meant by requests that two routes match.
    fn settles(&self, one: &Route, other: &Route, both: &Route) -> bool {
        if one.meaning == other.meaning {
            return true;
        }
        let is_between = |route: &Route| {
            both.is_within(route)
                && (route.is_within(one) && route.is_within(other))
                && !(one.is_within(route) && other.is_within(route))
        };
        let is_clear = one.is_within(other) != other.is_within(one);
        is_clear || self.0.iter().any(is_between)
    }
}

impl Route {
    /// Whether another route matches all that this one does.
    fn is_within(&self, other: &Self) -> bool {
        self.methods.are_within(&other.methods) && self.pattern.is_within(&other.pattern)
    }

    /// What both match; its meaning means nothing.
    fn overlap(&self, other: &Self) -> Option<Self> {
        let methods = self.methods.overlap(&other.methods)?;
        let pattern = self.pattern.overlap(&other.pattern)?;
        Some(Self { methods, pattern, meaning: Meaning::default() })
    }

    fn shown(&self) -> String {
        format!("{} {}", self.methods, self.pattern)
    }
}
