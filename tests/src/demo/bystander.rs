//! The ordinary client: does something ordinary steadily, from the first chapter
//! to the last. It breaks no rule; what it does is said by whoever starts it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

const PAUSE: Duration = Duration::from_millis(50);
/// Every so many requests are a message: at most 30 a minute, and 40 are allowed.
pub(super) const MESSAGE_EVERY: u64 = 40;

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
    pub(super) first_failure: Option<String>,
}

impl Bystander {
    /// One that does this again and again, which is told how often it was done before.
    pub(super) fn start(visit: impl FnMut(u64) -> Result<()> + Send + 'static) -> Result<Self> {
        let (stop, stopped) = channel();
        let thread = thread::Builder::new()
            .name("bystander".to_owned())
            .spawn(move || go_on(visit, &stopped))
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
fn go_on(mut visit: impl FnMut(u64) -> Result<()>, stopped: &Receiver<()>) -> Experience {
    let mut experience = Experience::default();
    while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        let visited = visit(experience.requests);
        experience.requests += 1;
        if let Err(error) = visited {
            experience.failures += 1;
            experience.first_failure.get_or_insert(format!("{error:#}"));
        }
    }
    experience
}
