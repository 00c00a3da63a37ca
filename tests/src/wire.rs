//! Bytes as they are over the daemon's Unix sockets, for requests that no
//! well-behaved client sends, and answers with their headers.

use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::http::{self, Message};

/// Longer than the daemon's own patience with a client (10 s), so that the
/// daemon is the one who gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub struct Wire(BufReader<UnixStream>);

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`, empty if there was none.
    pub content_type: String,
    /// The `Retry-After`, if there was one.
    pub retry_after: Option<String>,
    /// The body.
    pub body: String,
}

impl Wire {
    /// Connects.
    pub fn open(socket: &Path) -> Result<Self> {
        let what = || format!("cannot connect to {}", socket.display());
        let stream = UnixStream::connect(socket).with_context(what)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The same with another patience for reading and writing.
    pub fn patience(self, patience: Duration) -> Result<Self> {
        self.0.get_ref().set_read_timeout(Some(patience))?;
        self.0.get_ref().set_write_timeout(Some(patience))?;
        Ok(self)
    }

    /// Writes bytes. The daemon may have closed the connection already, which
    /// is an error here and often what the test is about.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.get_mut().write_all(bytes.as_ref())
    }

    /// Says that nothing more will be written.
    pub fn finish(&mut self) -> io::Result<()> {
        self.0.get_ref().shutdown(Shutdown::Write)
    }

    /// Reads one answer; `None` if the connection ends before one begins.
    pub fn answer(&mut self) -> Result<Option<Answer>> {
        let message = http::read(&mut self.0).context("no whole answer")?;
        message.map(|message| Answer::of(&message)).transpose()
    }

    /// Reads until the daemon closes and throws it away; how it closed does
    /// not matter. `false` if it does not close within the patience.
    pub fn drain(&mut self) -> bool {
        let mut waste = [0; 4096];
        loop {
            match self.0.read(&mut waste) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => return true,
            }
        }
    }

    /// Sends a whole request over a connection of its own and reads the
    /// answer.
    pub fn ask(socket: &Path, request: impl AsRef<[u8]>) -> Result<Answer> {
        let mut wire = Self::open(socket)?;
        wire.send(request).context("cannot send the request")?;
        wire.answer()?.context("the daemon closed the connection without an answer")
    }
}

impl Answer {
    fn of(message: &Message) -> Result<Self> {
        let header = |name| message.header(name).map(str::to_owned);
        let status = message.status().with_context(|| format!("no status: {}", message.start))?;
        Ok(Self {
            status,
            content_type: header("content-type").unwrap_or_default(),
            retry_after: header("retry-after"),
            body: String::from_utf8_lossy(&message.body).into_owned(),
        })
    }

    /// The body, `null` if it is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The name of the problem that it is, if it is one in due form (RFC 9457).
    pub fn problem(&self) -> Option<String> {
        let body = self.json();
        let is_due = self.content_type == "application/problem+json"
            && body["status"] == self.status
            && body["title"].is_string()
            && body["detail"].as_str().is_some_and(|detail| !detail.is_empty());
        let name = body["type"].as_str()?.strip_prefix("urn:moderation:problem:")?;
        is_due.then(|| name.to_owned())
    }
}

/// A request with a body of JSON, or of whatever it is.
pub fn request(method: &str, path: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: moderation\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(content_type: &str, body: &Value) -> Answer {
        let (content_type, body) = (content_type.to_owned(), body.to_string());
        Answer { status: 404, content_type, retry_after: None, body }
    }

    #[test]
    fn a_problem_in_due_form_is_known_by_its_name() {
        let body = json!({
            "type": "urn:moderation:problem:not-found", "title": "Not Found",
            "status": 404, "detail": "there is no such route",
        });
        let due = answer("application/problem+json", &body);
        assert_eq!(due.problem().as_deref(), Some("not-found"));
        assert_eq!(answer("application/json", &body).problem(), None);
        let mut other = body;
        other["status"] = json!(400);
        assert_eq!(answer("application/problem+json", &other).problem(), None);
    }

    #[test]
    fn a_request_says_how_long_its_body_is() {
        let request = request("POST", "/v1/events", "{}");
        let text = String::from_utf8(request).expect("plain text");
        assert!(text.starts_with("POST /v1/events HTTP/1.1\r\n"), "{text}");
        assert!(text.ends_with("content-length: 2\r\n\r\n{}"), "{text}");
    }
}
