//! What the kernel tells as it happens, on its way to who wants it: handshakes
//! beyond the limit to the moderator, samples of dropped packets to operators
//! who watch; and making room for what it has to count. It judges nothing. What
//! it cannot keep up with is counted.

mod lines;
mod watch;

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::{
    clock,
    metrics::Metrics,
    moderator::Moderator,
    network::{Epoch, NetworkError, Overruns, Pins, Rates, Table},
};

pub use lines::follow_lines;
pub use watch::{Sampled, Seen, Watch};

/// How often to look whether the pins are others, or there at all.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Records that are taken from a ring at once.
const BATCH: usize = 64;

/// Hands handshakes beyond the limit to the moderator, one violation each, for
/// as long as the daemon lives.
pub async fn follow_overruns(pins: Pins, moderator: Moderator, metrics: Arc<Metrics>) {
    loop {
        let identity = pins.identity();
        if let Some(mut ring) = opened(&pins, Overruns::open) {
            while pins.identity() == identity {
                match timeout(LOOK_INTERVAL, ring.next(BATCH)).await {
                    Ok(Ok(overruns)) => {
                        metrics.overruns.inc_by(overruns.len() as u64);
                        let reports = overruns.iter().map(|overrun| report(&moderator, overrun.ip));
                        join_all(reports).await;
                    }
                    Ok(Err(error)) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "lost a ring");
                        break;
                    }
                    Err(_) => {} // a quiet second
                }
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Takes sources that have been quiet for a window out of the kernel's exact
/// table, once a window, for as long as the daemon lives: a table that only fills
/// would one day shed nobody more.
pub async fn forget_quiet_sources(pins: Pins, window: Duration) {
    loop {
        tokio::time::sleep(window.max(LOOK_INTERVAL)).await;
        let pins = pins.clone();
        // Asking the kernel blocks. A panic has been reported by the runtime already.
        drop(tokio::task::spawn_blocking(move || forget_quiet(&pins, window)).await);
    }
}

fn forget_quiet(pins: &Pins, window: Duration) {
    let Some(mut rates) = opened(pins, |pins| Rates::open(pins, Table::Heavy)) else { return };
    if let Err(error) = rates.forget_quiet(Epoch::at(clock::monotonic_ns(), window)) {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot forget quiet sources");
    }
}

/// Connections of a banned source that were under way tell nothing new.
async fn report(moderator: &Moderator, ip: std::net::IpAddr) {
    if moderator.check_address(ip).is_none() {
        // Refused for want of room or of a disk: counted there.
        drop(moderator.too_many_connections(ip).await);
    }
}

/// A ring, if there is one that may be opened; why not is in the status, by way
/// of the maps beside it.
fn opened<T>(pins: &Pins, open: impl FnOnce(&Pins) -> Result<T, NetworkError>) -> Option<T> {
    if !pins.exist() {
        return None;
    }
    let ring = open(pins);
    if let Err(error) = &ring {
        tracing::debug!(error = error as &dyn std::error::Error, "cannot open a ring");
    }
    ring.ok()
}
