//! The live view on a terminal that is real but for the person: what it shows, and how
//! it leaves the terminal, whatever ends it.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::daemon::{Daemon, binary};
use moderation_tests::lab::CLIENT_V4;
use moderation_tests::scene::Scene;
use moderation_tests::visitor::Outcome;
use moderation_tests::{need, process, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// For what happens sooner or later.
const LONG: Duration = Duration::from_secs(20);
const SIZE: (usize, usize) = (80, 24);

/// The view, and the terminal that it is on, which script(1) makes.
struct View {
    process: Child,
    keyboard: Option<ChildStdin>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl View {
    /// Behind the view comes how the terminal is then, and before it whose process it is.
    fn open(daemon: &Daemon) -> Result<Self> {
        let (columns, rows) = SIZE;
        let shell = format!(
            "stty cols {columns} rows {rows}; sh -c 'echo pid $$.; exec {} --config {} --socket {} \
             top'; echo code $?.; stty -a",
            binary("moderationctl")?.display(),
            daemon.config_path().display(),
            daemon.admin_socket().display()
        );
        let mut command = process::command("script");
        command.args(["--quiet", "--flush", "--command", &shell, "/dev/null"]);
        command.env("TERM", "xterm-256color").env("SHELL", "/bin/sh").env_remove("NO_COLOR");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let keyboard = process.stdin.take();
        let mut screen = process.stdout.take().context("it is a pipe")?;
        let written = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&written);
        thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                all.lock().unwrap_or_else(PoisonError::into_inner).extend(&bytes[..count]);
            }
        });
        Ok(Self { process, keyboard, written })
    }

    fn written(&self) -> String {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&written).into_owned()
    }

    /// Waits until that is on the screen.
    fn await_text(&self, wanted: &str) -> Result<()> {
        wait::until(wanted, LONG, || Ok(shown(&self.written()).contains(wanted).then_some(())))
            .with_context(|| shown(&self.written()))
    }

    fn press(&mut self, keys: &[u8]) -> Result<()> {
        let keyboard = self.keyboard.as_mut().context("there is a keyboard")?;
        keyboard.write_all(keys)?;
        Ok(keyboard.flush()?)
    }

    /// The process of the view itself.
    fn pid(&self) -> Result<Pid> {
        let written = self.written();
        let pid = written.split("pid ").nth(1).and_then(|rest| rest.split('.').next());
        Ok(Pid::from_raw(pid.context("it says its number")?.parse()?))
    }

    /// It is over, with the terminal as it was: on its first screen, taking lines, showing
    /// what is typed.
    fn assert_left(&mut self) -> Result<()> {
        wait::until("the view to end", LONG, || Ok(self.process.try_wait()?))?;
        let written = wait::until("what it wrote last", LONG, || {
            let written = self.written();
            Ok(written.contains("speed").then_some(written))
        })?;
        let (view, after) = written.split_once("code ").context(written.clone())?;
        assert!(after.starts_with("0."), "{after}");
        assert!(view.contains("\u{1b}[?1049h"), "it has a screen of its own");
        assert!(view.contains("\u{1b}[?1049l"), "which it left: {view:?}");
        let words: Vec<_> = after.split([' ', ';', '\r', '\n']).collect();
        assert!(words.contains(&"icanon") && words.contains(&"echo"), "{after}");
        Ok(())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // It is over already, unless the test failed.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The screen's text, by what was written to it: characters, and moves to a place.
fn shown(text: &str) -> String {
    let mut grid = vec![vec![' '; SIZE.0]; SIZE.1];
    let (mut row, mut column) = (0, 0);
    let mut chars = text.chars();
    while let Some(one) = chars.next() {
        if one != '\u{1b}' {
            if let Some(cell) = grid.get_mut(row).and_then(|line| line.get_mut(column)) {
                *cell = one;
            }
            column += 1;
            continue;
        }
        if chars.next() != Some('[') {
            continue;
        }
        let mut numbers = String::new();
        let end = chars.by_ref().find(|it| {
            let is_end = it.is_ascii_alphabetic();
            if !is_end {
                numbers.push(*it);
            }
            is_end
        });
        match end {
            Some('H') => {
                let mut places = numbers.split(';').map(|it| it.parse::<usize>().unwrap_or(1));
                row = places.next().unwrap_or(1) - 1;
                column = places.next().unwrap_or(1) - 1;
            }
            Some('J') => grid.iter_mut().for_each(|line| line.fill(' ')),
            _ => {}
        }
    }
    let lines = grid.iter().map(|line| line.iter().collect::<String>());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_drop_is_shown_and_q_gives_the_terminal_back() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let scene = Scene::new(json!({}))?;
    Caller::operator(&scene.daemon).ban(&json!({ "ip": CLIENT_V4 }))?;
    let mut view = View::open(&scene.daemon)?;
    view.await_text("kernel attached")?;
    view.await_text("bans: 1 active, 1 enforced")?;
    let visitor = scene.visitor(CLIENT_V4);
    wait::until("the source of a drop", LONG, || {
        assert_eq!(visitor.look(), Outcome::Timeout);
        let screen = shown(&view.written());
        let is_there = screen.contains(&CLIENT_V4.to_string()) && screen.contains("ban_v4");
        Ok(is_there.then_some(()))
    })
    .with_context(|| shown(&view.written()))?;
    view.press(b"q")?;
    view.assert_left()
}

#[test]
fn denials_are_shown_with_codes_that_can_be_explained() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = daemon_without_kernel(json!({ "limits": {
        "message_user": { "enabled": true, "max": 1, "window": "1h" } } }))?;
    let mut app = Caller::app(&daemon);
    let subject = json!({ "user": "anna", "ip": "192.0.2.9" });
    let answers = (0..2).map(|_| app.event("message", &subject)).collect::<Result<Vec<_>>>()?;
    assert_eq!(answers[0].get("code"), None, "{answers:?}");
    let code = answers[1]["code"].as_str().context("a denial has one")?;
    let mut view = View::open(&daemon)?;
    view.await_text(code)?;
    view.press(b"\x1b")?;
    view.assert_left()?;
    let told: Value = serde_json::from_str(&daemon.ctl(&["--json", "explain", code])?.success()?)?;
    assert_eq!((&told["denial"]["code"], &told["subject"]["user"]), (&json!(code), &json!("anna")));
    let text = daemon.ctl(&["explain", code])?.success()?;
    assert!(
        text.contains(&format!("{code}: message by user anna from 192.0.2.9 was denied")),
        "{text}"
    );

    let banned = Caller::operator(&daemon).ban(&json!({ "user": "bert" }))?;
    let answer = app.event("message", &json!({ "user": "bert" }))?;
    assert_eq!(answer["code"], format!("#{}", banned["id"]), "{answer}");
    for (code, words) in [("d1-1", "before the daemon's last start"), ("#99", "no such ban")] {
        let refused = daemon.ctl(&["explain", code])?;
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stderr.contains(words), "{refused:?}");
    }
    Ok(())
}

#[test]
fn a_daemon_that_goes_is_said_and_one_that_comes_is_shown() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = daemon_without_kernel(Value::Null)?;
    let mut view = View::open(&daemon)?;
    view.await_text("kernel off")?;
    daemon.stop()?;
    view.await_text("no daemon answers, asking again")?;
    daemon.start()?;
    view.await_text("bans: 0 active")?;
    kill(view.pid()?, Signal::SIGTERM)?;
    view.assert_left()
}

#[test]
fn without_a_terminal_it_is_shown_once() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = daemon_without_kernel(Value::Null)?;
    for arguments in [&["top"][..], &["top", "--once"], &["--json", "top"]] {
        let text = daemon.ctl(arguments)?.success()?;
        assert!(!text.contains('\u{1b}') && text.contains("attempts"), "{arguments:?}: {text}");
    }
    Ok(())
}
