//! wrk, which asks as fast as it is answered. What is asked is read from a file; an error,
//! or an answer that is none of success, fails the run.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::lab::HOST_V4;
use crate::namespace::Namespace;
use crate::process;
use crate::wait;

/// Connections at once, with one thread: the machine is there for nginx.
pub(super) const CONNECTIONS: usize = 32;
/// An answer that takes longer is lost.
const TIMEOUT: &str = "20s";
/// Beyond the run itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes the file of requests and the number of the first one.
const SCRIPT: &str = r#"
local requests, at = {}, 0
function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  while true do
    local length = file:read("*n")
    if not length then break end
    file:read(1)
    requests[#requests + 1] = file:read(length)
  end
  file:close()
  at = tonumber(arguments[2]) % #requests
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary)
  local errors = summary.errors
  io.write(string.format('\n{"requests":%d,"duration_us":%d,"failed":%d,"lost":%d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
"#;

/// What came of a run.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Answered {
    pub(super) requests: u32,
    duration_us: u32,
    /// Answered with 400 or more.
    failed: u32,
    /// Not answered.
    lost: u32,
}

impl Answered {
    pub(super) fn per_second(self) -> f64 {
        f64::from(self.requests) * 1e6 / f64::from(self.duration_us)
    }
}

/// Writes the script into a folder.
pub(super) fn write_script(folder: &Path) -> Result<()> {
    std::fs::write(folder.join("wrk.lua"), SCRIPT).context("cannot write wrk's script")
}

/// Has it ask a port for so long; `folder` holds the script, and the file of requests.
pub(super) fn run(
    from: &Namespace,
    folder: &Path,
    (port, requests, first): (u16, &str, usize),
    duration: Duration,
) -> Result<Answered> {
    let mut output = tempfile::tempfile()?;
    let mut command = process::command("wrk");
    let (connections, duration_s) = (format!("-c{CONNECTIONS}"), duration.as_secs());
    command.args(["-t1", &connections, &format!("-d{duration_s}s"), "--timeout", TIMEOUT]);
    command.arg("-s").arg(folder.join("wrk.lua")).arg(format!("http://{HOST_V4}:{port}/"));
    command.arg("--").arg(folder.join(requests)).arg(first.to_string());
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(Stdio::inherit());
    let mut process = from.spawn(command)?;
    let status = wait::until("wrk", duration + PATIENCE, || process.exited())?;
    let text = reread(&mut output)?;
    ensure!(status.success(), "wrk ended with {status}: {text}");
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    let answered: Answered = serde_json::from_str(line.with_context(|| text.clone())?)?;
    ensure!(answered.requests > 0, "nothing was answered: {text}");
    ensure!(answered.failed + answered.lost == 0, "not everything was answered well: {text}");
    Ok(answered)
}

fn reread(file: &mut File) -> Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text).context("cannot read what wrk said")?;
    Ok(text)
}
