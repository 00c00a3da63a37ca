//! Sets of requests as operators write them: methods, and paths with places left open.
//! Two of them can be compared and intersected, by which overlapping routes are found.

use std::fmt;

/// Longer paths are in no table.
const MAX_PATTERN_BYTES: usize = 512;

/// Why a text is no pattern, or names no method.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// No method, or something that is none.
    #[error("{0:?} is no method: ANY, or names such as POST with | between them")]
    Method(String),
    /// It does not begin with a slash.
    #[error("{0:?} does not begin with a slash")]
    NoSlash(String),
    /// It is too long.
    #[error("a path has at most {MAX_PATTERN_BYTES} bytes")]
    TooLong,
    /// A segment that no path has once it is normalised.
    #[error("{0:?} has an empty segment, or one of dots")]
    NotNormal(String),
    /// A character that is none of a path's, or that paths have in another spelling.
    #[error("{path:?} has {character:?} in it; paths are written decoded, without a query")]
    Character {
        /// The path.
        path: String,
        /// The character.
        character: char,
    },
    /// A star anywhere but alone at the end.
    #[error("{0:?} has a * that is not its whole last segment")]
    Star(String),
    /// A colon without a name.
    #[error("{0:?} has a : without a name of letters, digits and _ behind it")]
    Name(String),
}

/// Methods; `None`: any. In capitals, sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Methods(Option<Vec<String>>);

/// What matches every method.
const ANY: &str = "ANY";

/// A server that takes `GET` takes `HEAD`, and does the same for it.
fn method(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    if name == "HEAD" { "GET".to_owned() } else { name }
}

impl Methods {
    pub(super) fn parse(text: &str) -> Result<Self, BadPattern> {
        if text == ANY {
            return Ok(Self(None));
        }
        let names = text.split('|').map(str::trim);
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|it| it.is_ascii_uppercase());
        let mut methods = Vec::new();
        for name in names {
            if !is_name(name) || name == ANY {
                return Err(BadPattern::Method(text.to_owned()));
            }
            methods.push(method(name));
        }
        methods.sort_unstable();
        methods.dedup();
        Ok(Self(Some(methods)))
    }

    pub(super) fn contain(&self, name: &str) -> bool {
        let is = |known: &String| {
            known.eq_ignore_ascii_case(name)
                || (known == "GET" && name.eq_ignore_ascii_case("HEAD"))
        };
        self.0.as_ref().is_none_or(|methods| methods.iter().any(is))
    }

    pub(super) fn are_within(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(these), Some(those)) => these.iter().all(|name| those.contains(name)),
        }
    }

    pub(super) fn overlap(&self, other: &Self) -> Option<Self> {
        let (Some(these), Some(those)) = (&self.0, &other.0) else {
            return Some(if self.0.is_none() { other.clone() } else { self.clone() });
        };
        let both: Vec<_> = these.iter().filter(|name| those.contains(name)).cloned().collect();
        (!both.is_empty()).then_some(Self(Some(both)))
    }
}

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.as_ref().map_or_else(|| ANY.to_owned(), |names| names.join("|")))
    }
}

/// A path with places left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    segments: Vec<Segment>,
    /// Whether more segments can follow.
    is_open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// This text, in lower case.
    Text(String),
    /// Any text but an empty one.
    Any,
}

impl Segment {
    fn matches(&self, segment: &[u8]) -> bool {
        match self {
            Self::Text(text) => text.as_bytes().eq_ignore_ascii_case(segment),
            Self::Any => !segment.is_empty(),
        }
    }

    fn is_within(&self, other: &Self) -> bool {
        *other == Self::Any || self == other
    }
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, BadPattern> {
        let path = || text.to_owned();
        if text.len() > MAX_PATTERN_BYTES {
            return Err(BadPattern::TooLong);
        }
        let rest = text.strip_prefix('/').ok_or_else(|| BadPattern::NoSlash(path()))?;
        let is_strange = |c: &char| !c.is_ascii_graphic() || "%?#\\|".contains(*c);
        if let Some(character) = text.chars().find(is_strange) {
            return Err(BadPattern::Character { path: path(), character });
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let mut pattern = Self { segments: Vec::new(), is_open: false };
        if rest.is_empty() {
            return Ok(pattern);
        }
        for segment in rest.split('/') {
            if pattern.is_open {
                return Err(BadPattern::Star(path()));
            }
            match segment {
                "" | "." | ".." => return Err(BadPattern::NotNormal(path())),
                "*" => pattern.is_open = true,
                starred if starred.contains('*') => return Err(BadPattern::Star(path())),
                named if named.contains(':') => pattern.segments.push(any(named, text)?),
                plain => pattern.segments.push(Segment::Text(plain.to_ascii_lowercase())),
            }
        }
        Ok(pattern)
    }

    /// Whether its last segment is left open, and just that.
    pub(super) fn ends_in_name(&self) -> bool {
        !self.is_open && self.segments.last() == Some(&Segment::Any)
    }

    /// Whether it matches a path, by its segments.
    pub(super) fn matches(&self, segments: &[&[u8]]) -> bool {
        let enough = if self.is_open {
            segments.len() >= self.segments.len()
        } else {
            segments.len() == self.segments.len()
        };
        enough && self.segments.iter().zip(segments).all(|(one, segment)| one.matches(segment))
    }

    pub(super) fn is_within(&self, other: &Self) -> bool {
        let as_long = if other.is_open {
            self.segments.len() >= other.segments.len()
        } else {
            !self.is_open && self.segments.len() == other.segments.len()
        };
        as_long && self.segments.iter().zip(&other.segments).all(|(one, its)| one.is_within(its))
    }

    pub(super) fn overlap(&self, other: &Self) -> Option<Self> {
        let (short, long) =
            if self.segments.len() <= other.segments.len() { (self, other) } else { (other, self) };
        if short.segments.len() < long.segments.len() && !short.is_open {
            return None;
        }
        let mut segments = long.segments.clone();
        for (segment, its) in segments.iter_mut().zip(&short.segments) {
            if segment.is_within(its) {
                continue;
            }
            if !its.is_within(segment) {
                return None;
            }
            *segment = its.clone();
        }
        // Of two that are as long, both must go on.
        let is_open = long.is_open && short.is_open;
        Some(Self { segments, is_open })
    }
}

/// A segment with a colon in it, which is a place with a name.
fn any(segment: &str, path: &str) -> Result<Segment, BadPattern> {
    let name = segment.strip_prefix(':').unwrap_or_default();
    let is_name =
        !name.is_empty() && name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
    if is_name { Ok(Segment::Any) } else { Err(BadPattern::Name(path.to_owned())) }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Text(text) => write!(f, "/{text}")?,
                Segment::Any => f.write_str("/:any")?,
            }
        }
        let is_root = self.segments.is_empty() && !self.is_open;
        f.write_str(if self.is_open {
            "/*"
        } else if is_root {
            "/"
        } else {
            ""
        })
    }
}
