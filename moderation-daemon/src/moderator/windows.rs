//! What limits counted, over restarts: at a start it counts on where an earlier
//! life left off, and while the task runs it is written down, a little between
//! two batches of decisions. How windows look as bytes is the engine's affair, and
//! which part goes to the disk when is `snapshot`'s.
//!
//! No file stops a start: what can be read of it counts, and the rest is told.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::Interval;

use super::{
    Board,
    snapshot::{self, Snapshots, Source},
    task::Task,
};
use crate::{
    clock,
    engine::{Engine, Moment, Pass, snapshot_seed},
    metrics::Metrics,
};

/// Where and how often it is written down.
#[derive(Clone, Debug)]
pub struct Saving {
    /// The file.
    pub path: PathBuf,
    /// A crash makes the daemon forget as much, and what it takes to write it.
    pub every: Duration,
}

impl Saving {
    /// Beside a database.
    pub fn beside(store: &Path, every: Duration) -> Self {
        Self { path: snapshot::path(store), every }
    }
}

/// What an earlier life wrote down.
#[derive(Debug)]
pub(super) struct Left {
    saving: Saving,
    bytes: Option<Vec<u8>>,
    /// Which boot this one is.
    boot: String,
}

impl Left {
    pub(super) fn read(saving: &Saving, metrics: &Metrics) -> anyhow::Result<Self> {
        let bytes = snapshot::read(&saving.path).unwrap_or_else(|error| {
            metrics.snapshot_damaged.set(1);
            tracing::warn!(
                path = %saving.path.display(),
                error = &error as &dyn std::error::Error,
                "what limits counted cannot be read; they begin anew"
            );
            None
        });
        Ok(Self { saving: saving.clone(), bytes, boot: boot()? })
    }

    /// What keys are made with: as in the earlier life, so that they are the same,
    /// else so that nobody can foresee them.
    pub(super) fn seed(&self) -> anyhow::Result<[u64; 2]> {
        let known = self.bytes.as_deref().and_then(|bytes| snapshot_seed(bytes).ok());
        known.map_or_else(|| Ok([draw()?, draw()?]), Ok)
    }

    /// Lets it count in an engine that was made with its seed.
    pub(super) fn restore(&self, engine: &mut Engine, metrics: &Metrics, now: Moment) {
        let Some(bytes) = &self.bytes else { return };
        let path = self.saving.path.display();
        let read = match engine.restore_windows(bytes, &self.boot, now) {
            Ok(read) => read,
            Err(reason) => {
                metrics.snapshot_damaged.set(1);
                return tracing::warn!(%path, %reason, "limits begin anew");
            }
        };
        let windows = engine.size().windows;
        metrics.restored(windows, &read);
        if let Some(reason) = read.bad {
            metrics.snapshot_damaged.set(1);
            tracing::warn!(%path, %reason, windows, "what limits counted is read in part");
        }
        if read.surplus > 0 {
            tracing::warn!(
                %path,
                left_out = read.surplus,
                "what limits counted is more than counting.max_keys has room for"
            );
        }
        tracing::info!(windows, over = read.over, changed = read.changed, "limits count on");
    }

    /// Writes to the same file from now on.
    pub(super) fn follow(self, board: &Board, now: Moment) -> anyhow::Result<Saver> {
        board.set_safe_until(now.boot_ms);
        let Saving { path, every } = self.saving;
        let every_ms = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        let snapshots = Snapshots::start(path, every_ms, now)
            .context("cannot start the thread that writes down what limits counted")?;
        Ok(Saver { snapshots, boot: self.boot })
    }
}

/// Tells this boot from others. If that is not known it is none that ever was, and
/// times go by the wall clock.
fn boot() -> anyhow::Result<String> {
    clock::boot_id().or_else(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "cannot tell this boot from others; limits go by the wall clock over restarts"
        );
        Ok(format!("{:016x}", draw()?))
    })
}

/// For digests that nobody can foresee.
fn draw() -> anyhow::Result<u64> {
    getrandom::u64().context("the kernel gives no random numbers")
}

/// Writes windows down.
#[derive(Debug)]
pub(super) struct Saver {
    snapshots: Snapshots<Pass>,
    boot: String,
}

impl Saver {
    /// Whether there is more to be written, and the disk takes it.
    pub(super) const fn is_busy(&self) -> bool {
        self.snapshots.is_writing()
    }

    /// What was counted after this moment of the boot clock, a crash would forget.
    pub(super) fn safe_until_boot_ms(&self) -> u64 {
        self.snapshots.safe_until_boot_ms()
    }

    /// All that is counted now; blocks until it is on the disk.
    pub(super) fn finish(self, engine: &mut Engine) {
        let Self { snapshots, boot } = self;
        snapshots.finish(&mut Windows { engine, boot: &boot }, clock::now());
    }
}

impl Task {
    /// The next slice of what is due; `alarm` rings when there is more.
    pub(super) fn save(&mut self, alarm: &mut Interval) {
        let now = clock::now();
        let Saver { snapshots, boot } = &mut self.saver;
        if !snapshots.step(&mut Windows { engine: &mut self.engine, boot }, now) {
            self.metrics.snapshot_failures.inc();
        }
        alarm.reset_after(snapshots.pause(now));
    }
}

/// An engine's windows, for a file.
struct Windows<'a> {
    engine: &'a mut Engine,
    boot: &'a str,
}

impl Source for Windows<'_> {
    type Pass = Pass;

    fn head(&mut self) -> Vec<u8> {
        self.engine.windows_head(self.boot)
    }

    fn begin(&self, is_whole: bool) -> Pass {
        if is_whole { Pass::whole() } else { Pass::changes() }
    }

    fn write(&mut self, pass: &mut Pass, most: usize, now: Moment, into: &mut Vec<u8>) -> bool {
        self.engine.write_windows(pass, most, now, into);
        pass.is_done()
    }
}
