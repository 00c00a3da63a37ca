//! Ctrl-C, SIGTERM and SIGHUP as a flag that every wait looks at, so that the
//! stack unwinds and each thing removes itself. Only the demo watches; a test
//! process dies of these signals, and what it leaves the next one sweeps.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// The user asked to stop.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("interrupted")
    }
}

impl Error for Interrupted {}

/// Whether the user asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Fails with [`Interrupted`] once the user asked to stop.
pub fn check() -> Result<()> {
    if requested() { Err(Interrupted.into()) } else { Ok(()) }
}

/// From now on the signals set the flag instead of ending the process. They
/// are caught, not blocked: a blocked signal would stay blocked in children.
pub fn watch() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build().context("signal runtime")?;
    let signals = catch(&runtime).context("cannot catch signals")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(raise_flag(signals)))
        .context("cannot start the signal thread")?;
    Ok(())
}

fn catch(runtime: &Runtime) -> std::io::Result<[Signal; 3]> {
    let _context = runtime.enter();
    Ok([
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ])
}

async fn raise_flag([mut interrupt, mut terminate, mut hangup]: [Signal; 3]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    REQUESTED.store(true, Ordering::Relaxed);
}
