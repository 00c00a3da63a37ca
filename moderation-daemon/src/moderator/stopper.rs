//! What whoever started the task has of it: how to reach it, and how to end it.
//! What it does is not known here.

use tokio::{sync::watch, task::JoinHandle};

use super::Moderator;
use crate::engine::{Bearer, LeaseId, RequestId};

/// A lease of an earlier life, and the request that it was given to.
pub type HeldLease = (LeaseId, Bearer, RequestId);

/// A started moderator.
#[derive(Debug)]
pub struct Started {
    /// How to reach it.
    pub moderator: Moderator,
    /// How to end it.
    pub stopper: Stopper,
    /// What was left of an earlier life.
    pub leases: Vec<HeldLease>,
}

/// Ends the task.
#[derive(Debug)]
pub struct Stopper {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Stopper {
    pub(super) const fn new(stop: watch::Sender<bool>, task: JoinHandle<()>) -> Self {
        Self { stop, task }
    }

    /// Lets the task finish what waits, and waits for that.
    ///
    /// # Errors
    ///
    /// If the task panicked.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }

    /// Returns when the task ends by itself: it cannot go on.
    pub async fn ended(&mut self) {
        // A panic has been reported by the runtime already.
        drop((&mut self.task).await);
    }
}
