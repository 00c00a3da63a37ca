//! The ordinary client: asks for the chat's page steadily and says something
//! now and then, from the first chapter to the last. It breaks no rule.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::visitor::{Outcome, Visitor};

const PAUSE: Duration = Duration::from_millis(50);
/// Every so many requests are a message: at most 30 a minute, and 40 are allowed.
const MESSAGE_EVERY: u64 = 40;

/// The bystander at work.
pub(super) struct Bystander {
    /// Both `None` once the bystander was told to go.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Experience>>,
}

/// What the bystander went through.
#[derive(Debug, Default)]
pub(super) struct Experience {
    pub(super) requests: u64,
    pub(super) failures: u64,
    /// What the first failure looked like.
    pub(super) first_failure: Option<Outcome>,
}

impl Bystander {
    pub(super) fn start(visitor: Visitor) -> Result<Self> {
        let (stop, stopped) = channel();
        let thread = thread::Builder::new()
            .name("bystander".to_owned())
            .spawn(move || visit(&visitor, &stopped))
            .context("cannot start a thread")?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Lets the bystander finish the current request and go.
    pub(super) fn finish(&mut self) -> Result<Experience> {
        self.stop = None;
        let thread = self.thread.take().context("the bystander has gone before")?;
        thread.join().map_err(|_| anyhow!("the bystander panicked"))
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        if self.thread.is_some() {
            drop(self.finish());
        }
    }
}

/// Goes on until the other end of `stopped` is dropped.
fn visit(visitor: &Visitor, stopped: &Receiver<()>) -> Experience {
    let mut experience = Experience::default();
    while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        let says = experience.requests.is_multiple_of(MESSAGE_EVERY);
        let outcome = if says { visitor.say("lovely weather") } else { visitor.look() };
        experience.requests += 1;
        if !outcome.is_status(200) {
            experience.failures += 1;
            experience.first_failure.get_or_insert(outcome);
        }
    }
    experience
}
