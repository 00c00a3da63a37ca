//! The disk by itself: how long it takes to keep one page that has its place in a file
//! already, which is the least that a durable commit can ask of it. It is asked as rarely as
//! bans are timed: a disk that was just busy, and a processor that does not sleep, answer in
//! half of the time.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::daemon::Daemon;

const PAGE: [u8; 4_096] = [0x5a; 4_096];
/// About as long as there is between two bans that are timed.
const PAUSE: Duration = Duration::from_millis(7);

/// A file where the daemon has its store.
pub(super) struct Disk(File);

impl Disk {
    pub(super) fn beside(daemon: &Daemon) -> Result<Self> {
        let path = daemon.store_path().with_file_name("a-page");
        let file =
            File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let disk = Self(file);
        disk.keep_a_page()?;
        Ok(disk)
    }

    /// Writes it and waits until it is kept.
    pub(super) fn keep_a_page(&self) -> Result<Duration> {
        thread::sleep(PAUSE); // paces: bans are as rare
        let begin = Instant::now();
        self.0.write_all_at(&PAGE, 0).context("cannot write a page")?;
        self.0.sync_data().context("cannot have a page kept")?;
        Ok(begin.elapsed())
    }
}
