//! Chromium without a screen, in a namespace, spoken to over a pipe in its DevTools
//! protocol: what a person would see of a page, and how it is laid out. It has a profile
//! of its own and no way out of the namespace. What a page should look like is not known
//! here.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::process::{self, Process};
use crate::{name, need, sweep};

/// Debian's package has the same name.
const PROGRAM: &str = "chromium-headless-shell";
/// Patience with a start, and with one answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the machine has a browser.
#[must_use]
pub fn is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    need::is_met(PROGRAM, std::env::split_paths(&path).any(|it| it.join(PROGRAM).is_file()))
}

/// What a page is looked at with.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// In CSS pixels.
    pub width: u32,
    /// In CSS pixels.
    pub height: u32,
    /// Whether pages are laid out as on phones: without a viewport of their own they
    /// are as wide as a desk, and small.
    pub is_phone: bool,
}

/// A running browser; it and all its processes end when it is dropped.
#[derive(Debug)]
pub struct Browser {
    process: Process,
    orders: File,
    /// Ends when the browser does.
    messages: Receiver<Value>,
    /// What happened while an answer was awaited.
    events: VecDeque<Value>,
    next: u64,
    folder: TempDir,
}

impl Browser {
    /// Starts it inside a namespace.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        sweep::sweep()?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", name::fresh()?))
            .tempdir_in(sweep::TEMPORARY)
            .context("cannot make a temporary folder")?;
        let path = folder.path();
        let pipes = [path.join("orders"), path.join("answers")];
        for pipe in &pipes {
            mkfifo(pipe, Mode::S_IRUSR | Mode::S_IWUSR).context("cannot make a pipe")?;
        }
        // For reading, too, so that opening waits for nobody (fifo(7)).
        let orders = File::options().read(true).write(true).open(&pipes[0])?;

        // It takes orders at 3 and answers at 4, where only a shell can put them.
        let script = r#"exec "$0" "$@" 3<"$HOME/orders" 4>"$HOME/answers""#;
        let mut command = process::command("sh");
        command.args(["-c", script, PROGRAM]);
        command.args(["--remote-debugging-pipe", "--no-first-run", "--disable-gpu"]);
        // Its sandbox takes a user that is not root; the namespace has no way out.
        command.args(["--no-sandbox", "--disable-background-networking"]);
        command.arg(format!("--user-data-dir={}", path.join("profile").display()));
        command.arg("about:blank").env("HOME", path).env_remove("DBUS_SESSION_BUS_ADDRESS");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(path.join("log"))?);
        let process = namespace.spawn(command)?;

        let messages = listen(&pipes[1]);
        let (events, next) = (VecDeque::new(), 0);
        Ok(Self { process, orders, messages, events, next, folder })
    }

    /// Opens a page in a tab of its own, with scripts turned off, and waits until all of
    /// it is there.
    pub fn open(&mut self, url: &str, screen: Screen) -> Result<Tab<'_>> {
        let target = self.call(None, "Target.createTarget", &json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", &attach)?;
        let session = attached["sessionId"].as_str().context("a session")?.to_owned();
        let mut tab = Tab { browser: self, session };
        let Screen { width, height, is_phone } = screen;
        let metrics = json!({
            "width": width, "height": height, "mobile": is_phone, "deviceScaleFactor": 1,
        });
        tab.call("Page.enable", &json!({}))?;
        tab.call("Emulation.setDeviceMetricsOverride", &metrics)?;
        tab.call("Emulation.setScriptExecutionDisabled", &json!({ "value": true }))?;
        let gone_to = tab.call("Page.navigate", &json!({ "url": url }))?;
        ensure!(gone_to["errorText"].is_null(), "{url}: {}", gone_to["errorText"]);
        tab.await_event("Page.loadEventFired")?;
        Ok(tab)
    }

    fn call(&mut self, session: Option<&str>, method: &str, params: &Value) -> Result<Value> {
        self.next += 1;
        let id = self.next;
        let mut order = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            order["sessionId"] = json!(session);
        }
        let mut bytes = order.to_string().into_bytes();
        bytes.push(0);
        self.orders.write_all(&bytes).context("cannot write to the browser")?;
        loop {
            let mut message = self.next_message().with_context(|| method.to_owned())?;
            if message["id"] == id {
                ensure!(message["error"].is_null(), "{method}: {}", message["error"]);
                return Ok(message["result"].take());
            }
            self.events.push_back(message);
        }
    }

    fn next_message(&self) -> Result<Value> {
        self.messages.recv_timeout(PATIENCE).with_context(|| {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            format!("the browser does not answer: {}", log.trim())
        })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It was started as the first of a group, and its helpers stay in that.
        let group = i32::try_from(self.process.id()).map(Pid::from_raw);
        if let Err(error) = group.map(|group| killpg(group, Signal::SIGKILL)) {
            eprintln!("cannot end the browser: {error}");
        }
    }
}

/// A page that is open.
#[derive(Debug)]
pub struct Tab<'a> {
    browser: &'a mut Browser,
    session: String,
}

impl Tab<'_> {
    /// What an expression of JavaScript comes to. It is not the page's: that has none.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let params = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", &params)?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        Ok(answer["result"]["value"].take())
    }

    /// What is on the screen, as PNG in base64.
    pub fn screenshot(&mut self) -> Result<String> {
        let answer = self.call("Page.captureScreenshot", &json!({ "format": "png" }))?;
        Ok(answer["data"].as_str().context("a picture")?.to_owned())
    }

    fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.browser.call(Some(&self.session), method, params)
    }

    fn await_event(&mut self, method: &str) -> Result<()> {
        let is_it = |it: &Value| it["method"] == method && it["sessionId"] == self.session.as_str();
        while let Some(event) = self.browser.events.pop_front() {
            if is_it(&event) {
                return Ok(());
            }
        }
        while !is_it(&self.browser.next_message().with_context(|| method.to_owned())?) {}
        Ok(())
    }
}

/// Reads messages, each of which ends in a zero byte, until the browser ends.
fn listen(pipe: &Path) -> Receiver<Value> {
    let (sender, messages) = channel();
    let pipe = pipe.to_owned();
    thread::spawn(move || {
        let Ok(pipe) = File::open(pipe) else { return };
        for message in BufReader::new(pipe).split(0).map_while(Result::ok) {
            let Ok(message) = serde_json::from_slice(&message) else { return };
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    messages
}
