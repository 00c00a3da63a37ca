//! As much HTTP/1.1 over TCP as the chat and its visitors need: one message
//! with a length. No chunks, no trailers, no upgrade. (What speaks to the
//! daemon's sockets is the daemon's own client.)

use std::io::{self, BufRead, Error, ErrorKind, Read, Write};

use serde_json::Value;

/// Limit for the start line and the headers together, and for the body.
const LIMIT_BYTES: u64 = 64 * 1024;

/// A request or an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// `POST /api/messages HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub(crate) start: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// A header's value, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// An answer's status code.
    pub(crate) fn status(&self) -> Option<u16> {
        self.start.split(' ').nth(1)?.parse().ok()
    }

    /// The body, `null` if it is not JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Reads one message; `None` if the other side closed before it began.
pub(crate) fn read(stream: &mut impl BufRead) -> io::Result<Option<Message>> {
    let mut head = stream.by_ref().take(LIMIT_BYTES);
    let Some(start) = line(&mut head)? else { return Ok(None) };
    let mut message = Message { start, headers: Vec::new(), body: Vec::new() };
    loop {
        let line = line(&mut head)?.ok_or(ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("a header"))?;
        message.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    message.body = vec![0; body_length(&message)?];
    stream.read_exact(&mut message.body)?;
    Ok(Some(message))
}

/// Writes one message in a single segment.
pub(crate) fn write(
    stream: &mut impl Write,
    start: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> io::Result<()> {
    let body = body.to_string();
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head =
        format!("{start}\r\n{headers}content-type: application/json\r\ncontent-length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes())
}

/// A line without its end; `None` at the end of the stream.
fn line(head: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    match head.read_line(&mut line)? {
        0 => Ok(None),
        _ if line.ends_with('\n') => Ok(Some(line.trim_end().to_owned())),
        _ => Err(malformed("a line that does not end")),
    }
}

fn body_length(message: &Message) -> io::Result<usize> {
    let length = message.header("content-length").unwrap_or("0");
    let length = length.parse().map_err(|_| malformed("a content-length"))?;
    if u64::try_from(length).is_ok_and(|length| length > LIMIT_BYTES) {
        return Err(malformed("a long body"));
    }
    Ok(length)
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("malformed HTTP: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read() {
        let mut wire = Vec::new();
        let body = json!({"text": "hello"});
        write(&mut wire, "POST / HTTP/1.1", &[("X-User", "alice")], &body).expect("written");
        let mut wire = wire.as_slice();
        let message = read(&mut wire).expect("well-formed").expect("a message");
        assert_eq!(message.start, "POST / HTTP/1.1");
        assert_eq!(message.header("x-user"), Some("alice"));
        assert_eq!(message.json(), body);
        assert_eq!(read(&mut wire).expect("the end"), None);
    }

    #[test]
    fn endless_heads_and_huge_bodies_are_refused() {
        let endless = "x".repeat(1 << 20);
        let huge = "GET / HTTP/1.1\r\ncontent-length: 9999999999\r\n\r\n";
        for wire in [endless.as_str(), huge, "GET / HTTP/1.1\r\nno colon\r\n\r\n"] {
            let error = read(&mut wire.as_bytes()).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidData);
        }
    }
}
