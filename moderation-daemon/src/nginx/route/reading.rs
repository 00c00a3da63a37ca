//! The readings of a path. nginx hands on what the client wrote (`proxy_pass` without a
//! path) or what it made of it (with one, or after a rewrite): decoded, dots resolved,
//! slashes merged. Express looks at the bytes as they are, but sometimes takes `\` for
//! `/` and leaves out white space at the end (Node's `url.parse`); other servers decode.
//! Nobody here knows who is behind nginx, so every combination is a reading, and a
//! request is whatever it is in any of them. Ordinary paths have one.

use smallvec::SmallVec;

/// How a path can be taken.
#[derive(Clone, Copy)]
struct Reading {
    /// How often `%41` is taken for `A`. Twice where a server decodes what nginx has
    /// decoded (`proxy_pass http://app$uri`).
    decoded: usize,
    /// Whether a query that shows after decoding is none of the path.
    is_cut: bool,
    backslash_is_slash: bool,
    resolves_dots: bool,
    merges_slashes: bool,
}

/// Calls `look` with the segments of every reading of a request's target.
pub(super) fn each(target: &[u8], mut look: impl FnMut(&[&[u8]])) {
    let path = without_query(without_host(target));
    let trimmed = trimmed(path);
    if is_plain(path) {
        return look(&segments(path));
    }
    for path in [path, trimmed] {
        for reading in readings() {
            let taken = reading.take(path);
            look(&reading.segments(&taken));
        }
        if path == trimmed {
            break;
        }
    }
}

fn readings() -> impl Iterator<Item = Reading> {
    (0..48).map(|number: usize| Reading {
        decoded: number / 16,
        is_cut: number & 1 != 0,
        backslash_is_slash: number & 2 != 0,
        resolves_dots: number & 4 != 0,
        merges_slashes: number & 8 != 0,
    })
}

impl Reading {
    fn take(self, path: &[u8]) -> Vec<u8> {
        let mut path = path.to_vec();
        for _ in 0..self.decoded {
            path = decode(&path);
        }
        if self.is_cut {
            path.truncate(without_query(&path).len());
        }
        if self.backslash_is_slash {
            path.iter_mut().filter(|it| **it == b'\\').for_each(|it| *it = b'/');
        }
        path
    }

    fn segments(self, path: &[u8]) -> Vec<&[u8]> {
        let mut taken: Vec<&[u8]> = Vec::new();
        for segment in path.strip_prefix(b"/").unwrap_or(path).split(|it| *it == b'/') {
            let dots = if self.resolves_dots { dots(segment) } else { None };
            match dots {
                Some(1) => {}
                Some(_) => drop(taken.pop()),
                None if self.merges_slashes && segment.is_empty() => {}
                None => taken.push(segment),
            }
        }
        while taken.last().is_some_and(|segment| segment.is_empty()) {
            taken.pop();
        }
        taken
    }
}

/// One or two dots, in whatever spelling (WHATWG URL, "single-dot URL path segment").
fn dots(segment: &[u8]) -> Option<usize> {
    let (mut rest, mut count) = (segment, 0);
    while !rest.is_empty() && count < 3 {
        let encoded = rest.get(..3).is_some_and(|it| it.eq_ignore_ascii_case(b"%2e"));
        rest = if encoded { &rest[3..] } else { rest.strip_prefix(b".")? };
        count += 1;
    }
    (1..=2).contains(&count).then_some(count)
}

/// Whether all servers read a path alike.
fn is_plain(path: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"%\\".contains(byte);
    let is_odd = |pair: &[u8]| pair == b"//" || pair == b"/.";
    path.starts_with(b"/") && path.iter().all(is_plain) && !path.windows(2).any(is_odd)
}

fn segments(path: &[u8]) -> SmallVec<[&[u8]; 12]> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path.is_empty() { SmallVec::new() } else { path.split(|it| *it == b'/').collect() }
}

/// `http://host/path` as a client of a proxy writes it.
fn without_host(target: &[u8]) -> &[u8] {
    if target.starts_with(b"/") {
        return target;
    }
    let Some(scheme) = target.windows(3).position(|it| it == b"://") else { return target };
    let rest = &target[scheme + 3..];
    rest.iter().position(|it| *it == b'/').map_or(b"/", |slash| &rest[slash..])
}

fn without_query(path: &[u8]) -> &[u8] {
    let end = path.iter().position(|byte| b"?#".contains(byte)).unwrap_or(path.len());
    &path[..end]
}

/// Without what JavaScript takes for white space, of which Node knows bytes only.
fn trimmed(path: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0);
    &path[..path.iter().rposition(is_text).map_or(0, |last| last + 1)]
}

/// What is no escape stays as it is.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, behind @ ..] = rest {
        let escaped = (*first == b'%').then(|| hex(behind)).flatten();
        decoded.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    decoded
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| (*digits.get(at)? as char).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}
