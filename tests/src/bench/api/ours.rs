//! Our side of `bench api`: a daemon with its default rules that drops nothing in the
//! kernel, and HTTP by hand.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::list;
use super::load::Service;
use crate::caller::{Caller, daemon_without_kernel};
use crate::daemon::Daemon;

/// The daemon and its socket.
pub(in crate::bench) struct Ours {
    socket: PathBuf,
    /// Runs as long as this lives.
    daemon: Daemon,
}

impl Ours {
    /// Violations of a source that is denied would have it banned while it is judged.
    pub(in crate::bench) fn start() -> Result<Self> {
        Self::with(json!({}))
    }

    /// The same with more of the configuration different.
    pub(in crate::bench) fn with(mut overrides: Value) -> Result<Self> {
        overrides["bans"] = json!({ "enabled": false });
        let daemon = daemon_without_kernel(overrides)?;
        Ok(Self { socket: daemon.api_socket(), daemon })
    }

    /// What the daemon says of itself.
    pub(in crate::bench) fn status(&self) -> Result<Value> {
        self.daemon.status()
    }

    /// What it counted.
    pub(in crate::bench) fn metrics(&self) -> Result<String> {
        let text = Caller::operator(&self.daemon).get("/metrics")?;
        Ok(text.as_str().context("metrics are a text")?.to_owned())
    }

    /// The daemon's process.
    pub(in crate::bench) fn pid(&self) -> Result<u32> {
        self.daemon.pid().context("the daemon is gone")
    }
}

impl Service for Ours {
    fn socket(&self) -> &Path {
        &self.socket
    }

    fn ask(&self, sources: &[u32], request: &mut Vec<u8>) {
        let event = |source: &u32| {
            let ip = list::address(*source);
            format!(r#"{{"type":"message","user":"user-{source:08x}","ip":"{ip}"}}"#)
        };
        let (path, body) = match sources {
            [one] => ("/v1/events", event(one)),
            many => ("/v1/events/batch", many.iter().map(|one| event(one) + "\n").collect()),
        };
        write!(
            request,
            "POST {path} HTTP/1.1\r\nhost: moderation\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("writing to memory cannot fail");
    }

    fn decisions(&self, sources: usize, answer: &[u8]) -> Result<Option<Vec<bool>>> {
        let Some(body) = body(answer)? else { return Ok(None) };
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let decisions: Vec<_> =
            lines.map(|line| line.starts_with(br#"{"decision":"allow""#)).collect();
        ensure!(decisions.len() == sources, "{} decisions", decisions.len());
        Ok(Some(decisions))
    }
}

/// The body of an answer once it is whole.
fn body(answer: &[u8]) -> Result<Option<&[u8]>> {
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&answer[..end]).context("a head that is no text")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "the daemon answered {head}");
    let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("no length")?.parse().context("a length")?;
    Ok(answer.get(end + 4..end + 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_once_it_is_whole() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(body(whole).expect("well-formed"), Some(&b"abc"[..]));
        for length in 0..whole.len() {
            assert_eq!(body(&whole[..length]).expect("well-formed"), None, "{length}");
        }
        assert!(body(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
