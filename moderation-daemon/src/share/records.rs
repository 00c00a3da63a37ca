//! Sending records of violations to the shared database, if that is wanted: a task of its
//! own, so that bans never wait for them. What was sent is known by the place of the last
//! one; what was sent and not noted is sent again, which is no harm. What is too old to be
//! kept here before it was sent is counted as lost.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    ShareStatus,
    task::{Ended, Pause, blocking, tell},
};
use crate::{
    clock,
    metrics::Metrics,
    moderator::{Moderator, News},
    store::{Backlog, Reader, mongo::Mongo},
    telemetry::Throttle,
};

/// How often there is a look for new ones.
const EVERY: Duration = Duration::from_secs(1);
/// How often indexes are made that are missing: somebody may drop the collection.
const INDEXES_EVERY: Duration = Duration::from_secs(60);
/// Records that are sent in one go.
const PAGE: u32 = 500;

pub(super) struct Records {
    pub(super) moderator: Moderator,
    pub(super) reader: Reader,
    pub(super) status: Arc<ShareStatus>,
    pub(super) metrics: Arc<Metrics>,
}

impl Records {
    pub(super) async fn run(self) {
        let mut pause = Pause::default();
        let mut lines = Throttle::default();
        let mut indexes_due = Instant::now();
        let mut before = Backlog::default();
        loop {
            let ended = self.round(&mut indexes_due, &mut before).await;
            let problem = ended.as_ref().err().map(ToString::to_string);
            let was_well = self.status.records().problem.is_none();
            self.status.change_records(|view| view.problem = problem);
            let wait = match ended {
                Ok(()) => {
                    pause = Pause::default();
                    EVERY
                }
                Err(ended) => {
                    if was_well && let Some(suppressed) = lines.permit(clock::now().boot_ms) {
                        let error = &ended as &dyn std::error::Error;
                        tracing::warn!(error, suppressed, "violations are not sent; they wait");
                    }
                    indexes_due = Instant::now();
                    EVERY + pause.next()
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends all that waits.
    async fn round(&self, indexes_due: &mut Instant, before: &mut Backlog) -> Result<(), Ended> {
        loop {
            let backlog = self.measure(before).await?;
            let Some(mongo) = self.status.mongo() else { return Ok(()) };
            if *indexes_due <= Instant::now() {
                mongo.ensure_record_indexes().await?;
                *indexes_due = Instant::now() + INDEXES_EVERY;
            }
            if backlog.waiting() == 0 {
                return Ok(());
            }
            let until = self.send(&mongo, backlog.told).await?;
            *before = Backlog { told: until, ..backlog };
        }
    }

    async fn measure(&self, before: &Backlog) -> Result<Backlog, Ended> {
        let reader = self.reader.clone();
        let backlog = blocking(move || reader.backlog()).await?;
        if backlog.told < before.told {
            // All records were forgotten; numbers began anew.
            self.lost(before.waiting());
        }
        self.status.change_records(|view| view.backlog = backlog);
        Ok(backlog)
    }

    fn lost(&self, count: u64) {
        self.metrics.records.lost.inc_by(count);
    }

    /// Sends some; says up to which.
    async fn send(&self, mongo: &Mongo, after: u64) -> Result<u64, Ended> {
        let reader = self.reader.clone();
        let page = blocking(move || reader.violations_after(after, PAGE)).await?;
        let (Some(first), Some(last)) = (page.first(), page.last()) else { return Ok(after) };
        let until = last.id;
        if after > 0 {
            self.lost(first.id - after - 1);
        }
        // What LibreChat once wrote is in its database already.
        let own: Vec<_> = page.into_iter().filter(|one| !one.is_imported).collect();
        if !own.is_empty() {
            mongo.add_records(&own).await?;
        }
        let mut news = News::default();
        news.notes.records_until = Some(until);
        tell(&self.moderator, &self.metrics, news).await?;
        self.metrics.records.sent.inc_by(own.len() as u64);
        Ok(until)
    }
}
