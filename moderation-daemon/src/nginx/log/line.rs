//! One line of nginx's access log, as the snippet's format writes it and `access_log
//! syslog:` sends it. Pure. It believes nothing but the form: what a client could write
//! into a URL or a header is text in a field of its own, whatever bytes it is made of.

use std::borrow::Cow;

use serde::Deserialize;

/// Which format there is now; raised when fields change their meaning.
pub const FORMAT: u8 = 1;

/// Bytes of a datagram. What a request begins with has 8 KiB in nginx; escaped, each byte
/// may take six.
pub const MAX_BYTES: usize = 64 * 1_024;

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<'a> {
    /// nginx's name for it, by which it was asked about.
    pub id: Cow<'a, str>,
    /// What the client was answered; 499: it had gone by then.
    pub status: u16,
    /// What the last server behind nginx answered, if one did.
    pub upstream: Option<u16>,
    /// Whether the answer was sent to its end.
    pub is_complete: bool,
    /// From the first byte of the request to the last of the answer.
    pub took_ms: u64,
    /// As it came.
    pub method: Cow<'a, str>,
    /// As it came, so far as it is text; other bytes are replaced.
    pub target: Cow<'a, str>,
    /// Of the client, as nginx takes it.
    pub address: Cow<'a, str>,
}

/// Why something is no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// It may have been cut off.
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLong,
    /// There is no JSON behind the head that syslog puts in front.
    #[error("it is no line of syslog with an object in it")]
    NoObject,
    /// It is not what the format writes.
    #[error("it is not what the snippet's format writes")]
    Malformed,
    /// The snippet is of another version.
    #[error("its format is {0}, not {FORMAT}: the snippet is of another version")]
    Format(u8),
}

impl BadLine {
    /// The label in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::NoObject => "no_object",
            Self::Malformed => "malformed",
            Self::Format(_) => "other_format",
        }
    }
}

/// As it is written. nginx has no numbers, only texts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    v: u8,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    upstream: Cow<'a, str>,
    #[serde(borrow)]
    done: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    uri: Cow<'a, str>,
    #[serde(borrow)]
    address: Cow<'a, str>,
}

/// Only of a line that is not read otherwise.
#[derive(Deserialize)]
struct Version {
    v: u8,
}

/// Text, in which what is none is replaced: nginx escapes quotes, backslashes and control
/// characters, and leaves every other byte as it is.
pub fn text(datagram: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(datagram)
}

impl<'a> Line<'a> {
    /// From the text of a datagram.
    ///
    /// # Errors
    ///
    /// See [`BadLine`].
    pub fn parse(text: &'a str) -> Result<Self, BadLine> {
        // `<190>Nov 22 02:21:38 moderation: {…}`: a host's name has no braces.
        let begin = text.find('{').ok_or(BadLine::NoObject)?;
        if !text.starts_with('<') {
            return Err(BadLine::NoObject);
        }
        let json = text[begin..].trim_end_matches(['\n', '\0']);
        let Ok(written) = serde_json::from_str::<Written<'_>>(json) else {
            return Err(match serde_json::from_str::<Version>(json) {
                Ok(Version { v }) if v != FORMAT => BadLine::Format(v),
                _ => BadLine::Malformed,
            });
        };
        if written.v != FORMAT {
            return Err(BadLine::Format(written.v));
        }
        Ok(Self {
            status: written.status.parse().map_err(|_| BadLine::Malformed)?,
            upstream: last_status(&written.upstream).ok_or(BadLine::Malformed)?,
            is_complete: written.done == "OK",
            took_ms: milliseconds(&written.time).ok_or(BadLine::Malformed)?,
            id: written.id,
            method: written.method,
            target: written.uri,
            address: written.address,
        })
    }
}

/// `502, 200 : 304`: of servers that were asked one after the other, the last; `-` for one
/// that did not answer. Outside `None`: that is none.
fn last_status(text: &str) -> Option<Option<u16>> {
    let last = text.rsplit([',', ':']).next().unwrap_or_default().trim();
    match last {
        "" | "-" => Some(None),
        status => status.parse().ok().map(Some),
    }
}

/// Seconds with three digits behind the point, as nginx writes them.
fn milliseconds(text: &str) -> Option<u64> {
    let (seconds, rest) = text.split_once('.')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    if !is_number(seconds) || !is_number(rest) || rest.len() != 3 {
        return None;
    }
    let seconds: u64 = seconds.parse().ok()?;
    seconds.checked_mul(1_000)?.checked_add(rest.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "<190>Nov 22 02:21:38 moderation: {\"v\":1,\"id\":\"00ff\",\"status\":\"401\",\
                        \"upstream\":\"401\",\"done\":\"OK\",\"time\":\"1.250\",\
                        \"method\":\"POST\",\"uri\":\"/api/auth/login\",\"address\":\"192.0.2.7\"}";

    #[test]
    fn a_line_is_read_whoever_puts_it_behind_whatever_head() {
        let want = Line {
            id: "00ff".into(),
            status: 401,
            upstream: Some(401),
            is_complete: true,
            took_ms: 1_250,
            method: "POST".into(),
            target: "/api/auth/login".into(),
            address: "192.0.2.7".into(),
        };
        let heads = ["<190>Nov 22 02:21:38 moderation: ", "<14>Nov  2 02:21:38 chat-1 nginx: "];
        for head in heads {
            let text = GOOD.replace("<190>Nov 22 02:21:38 moderation: ", head);
            assert_eq!(Line::parse(&text), Ok(want.clone()));
            assert_eq!(Line::parse(&format!("{text}\n")), Ok(want.clone()), "with a newline");
        }
    }

    #[test]
    fn of_several_servers_the_last_one_that_was_asked_counts() {
        let cases = [
            ("", Some(None)),
            ("-", Some(None)),
            ("200", Some(Some(200))),
            ("502, 200", Some(Some(200))),
            ("200, -", Some(None)),
            ("204 : 200", Some(Some(200))),
            ("502, 204 : 504, 200", Some(Some(200))),
            ("99999", None),
            ("ok", None),
        ];
        for (text, want) in cases {
            assert_eq!(last_status(text), want, "{text:?}");
        }
    }

    #[test]
    fn times_are_as_nginx_writes_them_or_none() {
        let cases = [
            ("0.000", Some(0)),
            ("0.007", Some(7)),
            ("12.345", Some(12_345)),
            ("1.5", None),
            ("-1.000", None),
            ("1e3.000", None),
            ("", None),
            ("99999999999999999999.000", None),
            ("18446744073709551.616", None),
        ];
        for (text, want) in cases {
            assert_eq!(milliseconds(text), want, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_line_is_refused_by_name() {
        let cases = [
            ("", BadLine::NoObject),
            ("<190>Nov 22 02:21:38 moderation: nothing", BadLine::NoObject),
            ("Nov 22 02:21:38 moderation: {\"v\":1}", BadLine::NoObject),
            ("<190>Nov 22 02:21:38 moderation: {\"v\":1}", BadLine::Malformed),
            ("<190>Nov 22 02:21:38 moderation: {\"v\":2,\"what\":7}", BadLine::Format(2)),
            (&GOOD.replace("\"v\":1", "\"v\":9"), BadLine::Format(9)),
            (&GOOD.replace("\"401\",\"upstream\"", "\"4O1\",\"upstream\""), BadLine::Malformed),
            (&GOOD.replace("\"id\"", "\"status\":\"200\",\"id\""), BadLine::Malformed),
            (&GOOD.replace('}', ",\"more\":\"\"}"), BadLine::Malformed),
            (&GOOD[..GOOD.len() - 2], BadLine::Malformed),
            (&format!("{GOOD} {GOOD}"), BadLine::Malformed),
        ];
        for (text, want) in cases {
            assert_eq!(Line::parse(text), Err(want), "{text:?}");
        }
    }

    /// As nginx's `escape=json` does it.
    fn escaped(bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        for byte in bytes {
            match byte {
                b'"' | b'\\' => text.extend([b'\\', *byte]),
                b'\n' => text.extend(b"\\n"),
                b'\r' => text.extend(b"\\r"),
                b'\t' => text.extend(b"\\t"),
                0x08 => text.extend(b"\\b"),
                0x0c => text.extend(b"\\f"),
                0..=0x1f => text.extend(format!("\\u{byte:04X}").bytes()),
                _ => text.push(*byte),
            }
        }
        text
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_client_forge_a_field(
            uri in prop::collection::vec(any::<u8>(), 0..300),
            forged in prop::sample::select(vec![
                &b"\",\"status\":\"200"[..], b"\\\",\"id\":\"x", b"\"}\n<190>Nov 22 02:21:38 m: {",
                b"\xff\"", b"\xc2", b"\\",
            ]),
            at in 0_usize..300,
        ) {
            let mut uri = uri;
            let at = at.min(uri.len());
            uri.splice(at..at, forged.iter().copied());
            let (head, tail) = GOOD.split_once("/api/auth/login").expect("it has a target");
            let mut datagram = head.as_bytes().to_vec();
            datagram.extend(escaped(&uri));
            datagram.extend(tail.bytes());
            let text = text(&datagram);
            let line = Line::parse(&text).expect("it is a line");
            prop_assert_eq!(&*line.target, &*String::from_utf8_lossy(&uri));
            let mut rest = line.clone();
            rest.target = "/api/auth/login".into();
            prop_assert_eq!(Line::parse(GOOD), Ok(rest));
        }

        #[test]
        fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            drop(Line::parse(&text(&bytes)));
        }
    }
}
