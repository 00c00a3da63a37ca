//! The quick start's keepers: threads inside the daemon, stopped with it. What
//! goes wrong in them is logged and never ends the daemon.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Closer, Keeper, closer};
use crate::network::Pins;

/// The running threads; dropping it stops them and waits until they have.
#[derive(Debug, Default)]
pub struct Keeping {
    threads: Vec<(Sender<()>, JoinHandle<()>)>,
}

impl Keeping {
    /// Starts the thread for guards and interfaces.
    pub fn keep(&mut self, mut keeper: Keeper) {
        self.start("keeper", move |stopped| keeper.watch(|interval| pause(&stopped, interval)));
    }

    /// Starts the thread that closes connections.
    pub fn close_connections(&mut self, pins: Pins) {
        self.start("closer", move |stopped| {
            let closed = Closer::open(pins).map_err(anyhow::Error::from).and_then(|mut closer| {
                closer::watch(&mut closer, |interval| pause(&stopped, interval))
            });
            if let Err(error) = closed {
                let error: &dyn std::error::Error = error.as_ref();
                tracing::error!(error, "connections of banned peers stay open");
            }
        });
    }

    fn start(&mut self, name: &str, run: impl FnOnce(Receiver<()>) + Send + 'static) {
        let (stop, stopped) = channel();
        match thread::Builder::new().name(name.to_owned()).spawn(move || run(stopped)) {
            Ok(thread) => self.threads.push((stop, thread)),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, thread = name, "cannot start a thread");
            }
        }
    }
}

/// `false` if it is time to stop: nobody ever sends anything.
fn pause(stopped: &Receiver<()>, interval: Duration) -> bool {
    stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout)
}

impl Drop for Keeping {
    fn drop(&mut self) {
        // All are told before the first is waited for.
        let (stops, threads): (Vec<_>, Vec<_>) = self.threads.drain(..).unzip();
        drop(stops);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a keeper panicked; see the lines above");
            }
        }
    }
}
