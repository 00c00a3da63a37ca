//! LibreChat's libraries as a child process that answers questions, one line of
//! JSON each (harness.mjs). What is asked is the tests' affair.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};
use moderation_tests::{need, process};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The running child; it ends when its input does.
pub(crate) struct Harness {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Harness {
    /// Starts it, or says why the test is skipped.
    pub(crate) fn start() -> Result<Option<Self>> {
        let packages = packages()?;
        let is_there = packages.join("node_modules").is_dir();
        if !need::is_met("LibreChat's npm packages (cargo xtask setup)", is_there) {
            return Ok(None);
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/librechat/harness.mjs");
        let mut child = process::command("node")
            .arg(script)
            .arg(packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start node")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("piped")?);
        Ok(Some(Self { child, input, output }))
    }

    /// One question, whose field `ask` names it, and its answer.
    pub(crate) fn ask<A: DeserializeOwned>(&mut self, question: &impl Serialize) -> Result<A> {
        let mut line = serde_json::to_string(question)?;
        line.push('\n');
        let input = self.input.as_mut().context("the harness was closed")?;
        input.write_all(line.as_bytes()).context("the harness takes no question")?;
        line.clear();
        let read = self.output.read_line(&mut line).context("the harness does not answer")?;
        ensure!(read > 0, "the harness ended; see above for what it said");
        serde_json::from_str(&line).with_context(|| format!("not an answer: {line}"))
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Err(error) = self.child.wait() {
            eprintln!("node did not end: {error}");
        }
    }
}

/// `target/librechat`, which `cargo xtask setup` fills, for `target/debug/deps/…`.
fn packages() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("MODERATION_LIBRECHAT_DIR") {
        return Ok(PathBuf::from(folder));
    }
    let this = env::current_exe().context("cannot tell where we are")?;
    let deps = this.ancestors().find(|folder| folder.file_name() == Some(OsStr::new("deps")));
    let target = deps.and_then(|deps| deps.ancestors().nth(2)).context("not in a target folder")?;
    Ok(target.join("librechat"))
}
