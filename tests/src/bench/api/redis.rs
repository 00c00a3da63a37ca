//! The peer of `bench api`: redis-server with a rate limiter as people write it, a sorted
//! set for each source and a script, over a Unix socket, and without writing to disk. Its
//! protocol (RESP2) is written by hand, as far as it is needed.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::load::{MAX, Service, WINDOW};
use crate::process::{self, Process, Spawner};
use crate::wait;

/// A sliding window. Returns how much is left, or -1.
const SCRIPT: &str = "\
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1] - ARGV[2])
local used = redis.call('ZCARD', KEYS[1])
if used >= tonumber(ARGV[3]) then return -1 end
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return ARGV[3] - used - 1";

/// Patience with its start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running redis-server.
pub(super) struct Redis {
    socket: PathBuf,
    /// The script's digest, as the server names it.
    digest: String,
    members: std::cell::Cell<u64>,
    // In this order: it is killed before its folder goes.
    _server: Process,
    _folder: TempDir,
}

impl Redis {
    /// Starts one and loads the script.
    pub(super) fn start() -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let socket = folder.path().join("redis.sock");
        let mut command = process::command("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(&socket).arg("--dir").arg(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut server = Spawner::here()?.spawn(command)?;
        let mut stream = wait::until("redis-server to listen", PATIENCE, || {
            if let Some(status) = server.exited()? {
                bail!("redis-server ended with {status}");
            }
            Ok(UnixStream::connect(&socket).ok())
        })?;
        let digest = load(&mut stream).context("redis-server does not take the script")?;
        let members = std::cell::Cell::new(0);
        Ok(Self { socket, digest, members, _server: server, _folder: folder })
    }
}

/// Has the server keep the script, and returns its digest.
fn load(stream: &mut UnixStream) -> Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    command(&mut request, &["SCRIPT", "LOAD", SCRIPT]);
    stream.write_all(&request)?;
    // `$40`, the digest, and the ends of two lines.
    let mut answer = [0; 47];
    stream.read_exact(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let digest = text.strip_prefix("$40\r\n").context(text.clone())?;
    Ok(digest.trim_end().to_owned())
}

/// A command as an array of strings.
pub(in crate::bench) fn command(request: &mut Vec<u8>, parts: &[&str]) {
    let mut write = |text: String| request.extend_from_slice(text.as_bytes());
    write(format!("*{}\r\n", parts.len()));
    for part in parts {
        write(format!("${}\r\n{part}\r\n", part.len()));
    }
}

impl Service for Redis {
    fn socket(&self) -> &Path {
        &self.socket
    }

    fn ask(&self, sources: &[u32], request: &mut Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let (now, window) = (now.to_string(), WINDOW.as_millis().to_string());
        let max = MAX.to_string();
        for source in sources {
            // Two members of the same name would be one.
            let member = self.members.replace(self.members.get() + 1).to_string();
            let key = format!("message:user-{source:08x}");
            let arguments = [&key, &now, &window, &max, &member].map(String::as_str);
            command(request, &[&["EVALSHA", &self.digest, "1"], &arguments[..]].concat());
        }
    }

    fn decisions(&self, sources: usize, answer: &[u8]) -> Result<Option<Vec<bool>>> {
        decisions(sources, answer)
    }
}

/// A number each: one below 0 is a refusal. The decisions once all have come.
pub(in crate::bench) fn decisions(sources: usize, answer: &[u8]) -> Result<Option<Vec<bool>>> {
    if !answer.ends_with(b"\n") {
        return Ok(None);
    }
    let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut decisions = Vec::with_capacity(sources);
    for line in lines {
        let is_number = line.starts_with(b":");
        ensure!(is_number, "redis-server answered {}", String::from_utf8_lossy(line));
        decisions.push(!line.starts_with(b":-"));
    }
    Ok((decisions.len() >= sources).then_some(decisions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_strings_that_say_how_long_they_are() {
        let mut request = Vec::new();
        command(&mut request, &["GET", "key"]);
        assert_eq!(request, b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");
    }
}
