//! What limiters counted, in a file that outlives the process: which part is
//! written when, and the thread that does it, so that decisions wait for no
//! disk. How windows look as bytes is the engine's affair.
//!
//! The file holds everything once and then what has changed since, which is
//! appended. When that is longer than the whole, a new file is written beside it
//! and takes its place at once; whoever reads finds the one or the other. What
//! was torn off at the end is missing, and nothing else.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::engine::Moment;

/// Windows that are looked at between two batches of decisions: over in a fifth
/// of a millisecond.
const SLICE: usize = 2_048;
/// Parts that wait for the disk; each is a quarter of a megabyte at most.
const WAITING: usize = 4;
/// Until a disk that has enough to do is offered more.
const PATIENCE: Duration = Duration::from_millis(2);
/// A file shorter than this is not written anew for what was appended to it.
const SMALL_BYTES: u64 = 64 * 1_024;

/// What is written down.
pub(super) trait Source {
    /// How far writing has come.
    type Pass;

    /// What a file begins with.
    fn head(&mut self) -> Vec<u8>;
    /// Through everything, or through what has changed since it was last
    /// written.
    fn begin(&self, is_whole: bool) -> Self::Pass;
    /// Appends the next part, after looking at up to `most` windows; `true` when
    /// that was all.
    fn write(
        &mut self,
        pass: &mut Self::Pass,
        most: usize,
        now: Moment,
        into: &mut Vec<u8>,
    ) -> bool;
}

/// What the thread does, in this order: begin, any number of parts, commit.
enum Job {
    /// A new file with this head.
    Begin(Vec<u8>),
    /// Goes behind what is there.
    Part(Vec<u8>),
    /// All of a pass that began at a moment of the boot clock: to the disk.
    Commit(u64),
}

/// What the thread has to say.
#[derive(Debug, Default)]
struct Said {
    /// It could not write: everything has to be written again.
    has_failed: AtomicBool,
    /// Bytes of the last whole, and of what was appended to it.
    whole_bytes: AtomicU64,
    appended_bytes: AtomicU64,
    /// Since when nothing that was counted is safe, on the boot clock.
    safe_until_boot_ms: AtomicU64,
}

/// See the module. Belongs to the task that owns the engine.
#[derive(Debug)]
pub(super) struct Snapshots<P> {
    every_ms: u64,
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    said: Arc<Said>,
    pass: Option<Running<P>>,
    /// A job that found no room.
    waiting: Option<Job>,
    needs_whole: bool,
    due_at_boot_ms: u64,
}

#[derive(Debug)]
struct Running<P> {
    pass: P,
    began_at_boot_ms: u64,
    is_done: bool,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Begin(_) => "Begin",
            Self::Part(_) => "Part",
            Self::Commit(_) => "Commit",
        })
    }
}

/// `moderation.limits` for `moderation.db`.
pub(super) fn path(store: &Path) -> PathBuf {
    store.with_extension("limits")
}

/// What an earlier life wrote; `None` if there was none.
///
/// # Errors
///
/// If the file is there and cannot be read.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl<P> Snapshots<P> {
    /// Writes to `path` from now on, every so often.
    ///
    /// # Errors
    ///
    /// If there can be no thread.
    pub(super) fn start(path: PathBuf, every_ms: u64, now: Moment) -> io::Result<Self> {
        let said = Arc::new(Said::default());
        said.safe_until_boot_ms.store(now.boot_ms, Ordering::Relaxed);
        let (jobs, received) = sync_channel(WAITING);
        let writer =
            Writer { path, said: Arc::clone(&said), file: None, fresh: None, has_told: false };
        let thread =
            std::thread::Builder::new().name("limits".to_owned()).spawn(|| writer.run(received))?;
        Ok(Self {
            every_ms,
            jobs: Some(jobs),
            thread: Some(thread),
            said,
            pass: None,
            waiting: None,
            // What an earlier life appended may be torn: nothing goes behind it.
            needs_whole: true,
            due_at_boot_ms: now.boot_ms,
        })
    }

    /// What was counted after this moment of the boot clock would be forgotten by a
    /// crash.
    pub(super) fn safe_until_boot_ms(&self) -> u64 {
        self.said.safe_until_boot_ms.load(Ordering::Relaxed)
    }

    /// Whether there is something to do at once.
    pub(super) const fn is_writing(&self) -> bool {
        self.pass.is_some() && self.waiting.is_none()
    }

    /// How long until there is something to do.
    pub(super) const fn pause(&self, now: Moment) -> Duration {
        if self.waiting.is_some() {
            return PATIENCE;
        }
        let left_ms = self.due_at_boot_ms.saturating_sub(now.boot_ms);
        Duration::from_millis(if self.pass.is_some() { 0 } else { left_ms })
    }

    /// Does the next little part of what is due; `false` if the disk failed
    /// since the last call: then everything is written anew when it is due.
    pub(super) fn step<S: Source<Pass = P>>(&mut self, source: &mut S, now: Moment) -> bool {
        if self.said.has_failed.swap(false, Ordering::AcqRel) {
            self.needs_whole = true;
            self.pass = None;
            self.waiting = None;
            return false;
        }
        if let Some(job) = self.waiting.take()
            && !self.send(job)
        {
            return true;
        }
        match self.pass.take() {
            Some(running) => self.go_on(running, source, now),
            None if now.boot_ms >= self.due_at_boot_ms => self.begin(source, now),
            None => {}
        }
        true
    }

    fn begin<S: Source<Pass = P>>(&mut self, source: &mut S, now: Moment) {
        let whole = self.said.whole_bytes.load(Ordering::Relaxed).max(SMALL_BYTES);
        let is_whole = self.needs_whole || self.said.appended_bytes.load(Ordering::Relaxed) > whole;
        self.needs_whole = false;
        self.due_at_boot_ms = now.boot_ms.saturating_add(self.every_ms);
        let pass = source.begin(is_whole);
        self.pass = Some(Running { pass, began_at_boot_ms: now.boot_ms, is_done: false });
        if is_whole {
            self.send(Job::Begin(source.head()));
        }
    }

    fn go_on<S: Source<Pass = P>>(&mut self, mut running: Running<P>, source: &mut S, now: Moment) {
        if running.is_done {
            self.send(Job::Commit(running.began_at_boot_ms));
            return;
        }
        let mut part = Vec::new();
        running.is_done = source.write(&mut running.pass, SLICE, now, &mut part);
        self.pass = Some(running);
        if !part.is_empty() {
            self.send(Job::Part(part));
        }
    }

    /// Never waits: what finds no room is sent first the next time.
    fn send(&mut self, job: Job) -> bool {
        let Some(jobs) = &self.jobs else { return false };
        match jobs.try_send(job) {
            Ok(()) => true,
            Err(TrySendError::Full(job)) => {
                self.waiting = Some(job);
                false
            }
            Err(TrySendError::Disconnected(_)) => {
                self.said.has_failed.store(true, Ordering::Release);
                false
            }
        }
    }

    /// Writes everything that is counted now, and ends the thread. Blocks.
    pub(super) fn finish<S: Source<Pass = P>>(mut self, source: &mut S, now: Moment) {
        self.due_at_boot_ms = now.boot_ms;
        // What is on its way first, and then what changed meanwhile.
        for _ in 0..2 {
            let mut is_fine = self.step(source, now);
            while is_fine && (self.pass.is_some() || self.waiting.is_some()) {
                if self.waiting.is_some() {
                    std::thread::yield_now();
                }
                is_fine = self.step(source, now);
            }
            self.due_at_boot_ms = now.boot_ms;
        }
    }
}

/// The thread ends when nothing more comes; what was sent is written first.
impl<P> Drop for Snapshots<P> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported already.
            drop(thread.join());
        }
    }
}

/// The thread's half.
struct Writer {
    path: PathBuf,
    said: Arc<Said>,
    /// The file that is appended to.
    file: Option<File>,
    /// The one that is to take its place, and its length.
    fresh: Option<(File, u64)>,
    /// It has been told that it cannot write.
    has_told: bool,
}

impl Writer {
    fn run(mut self, jobs: Receiver<Job>) {
        let mut is_broken = false;
        for job in jobs {
            // After a failure nothing makes sense until a new file begins.
            if is_broken && !matches!(job, Job::Begin(_)) {
                continue;
            }
            let is_last = matches!(job, Job::Commit(_));
            let result = self.work(job);
            is_broken = result.is_err();
            match result {
                Err(error) => self.fail(&error),
                Ok(()) if is_last && self.has_told => {
                    self.has_told = false;
                    tracing::info!(path = %self.path.display(), "what limits counted is written down again");
                }
                Ok(()) => {}
            }
        }
    }

    /// Says so once: it is tried again every few seconds.
    fn fail(&mut self, error: &io::Error) {
        (self.file, self.fresh) = (None, None);
        if !std::mem::replace(&mut self.has_told, true) {
            tracing::error!(
                path = %self.path.display(),
                error = error as &dyn std::error::Error,
                "what limits counted cannot be written down; a restart would forget it"
            );
        }
        self.said.has_failed.store(true, Ordering::Release);
    }

    fn work(&mut self, job: Job) -> io::Result<()> {
        match job {
            Job::Begin(head) => {
                let mut file = create(&self.fresh_path())?;
                file.write_all(&head)?;
                self.fresh = Some((file, head.len() as u64));
                Ok(())
            }
            Job::Part(bytes) => {
                let length = bytes.len() as u64;
                if let Some((file, written)) = &mut self.fresh {
                    *written += length;
                    return file.write_all(&bytes);
                }
                self.said.appended_bytes.fetch_add(length, Ordering::Relaxed);
                self.file.as_mut().ok_or(io::ErrorKind::NotFound)?.write_all(&bytes)
            }
            Job::Commit(began_at_boot_ms) => {
                self.commit()?;
                self.said.safe_until_boot_ms.store(began_at_boot_ms, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn commit(&mut self) -> io::Result<()> {
        let Some((file, length)) = self.fresh.take() else {
            return self.file.as_ref().ok_or(io::ErrorKind::NotFound)?.sync_data();
        };
        file.sync_all()?;
        fs::rename(self.fresh_path(), &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.file = Some(file);
        self.said.whole_bytes.store(length, Ordering::Relaxed);
        self.said.appended_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn fresh_path(&self) -> PathBuf {
        self.path.with_extension("limits.new")
    }
}

/// A file that nobody else reads, whatever a killed daemon left in its place.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;
    use crate::clock;

    /// Counts as lines of text, one a window.
    #[derive(Default)]
    struct Lines {
        all: Vec<String>,
        changed: Vec<String>,
    }

    #[derive(Debug)]
    struct Todo(Vec<String>);

    impl Source for Lines {
        type Pass = Todo;

        fn head(&mut self) -> Vec<u8> {
            b"head\n".to_vec()
        }

        fn begin(&self, is_whole: bool) -> Todo {
            Todo(if is_whole { self.all.clone() } else { self.changed.clone() })
        }

        fn write(&mut self, pass: &mut Todo, most: usize, _: Moment, into: &mut Vec<u8>) -> bool {
            let rest = pass.0.split_off(most.min(pass.0.len()));
            for line in std::mem::replace(&mut pass.0, rest) {
                self.changed.retain(|changed| *changed != line);
                into.extend_from_slice(format!("{line}\n").as_bytes());
            }
            pass.0.is_empty()
        }
    }

    impl Lines {
        fn count(&mut self, line: &str) {
            self.all.push(line.to_owned());
            self.changed.push(line.to_owned());
        }
    }

    const EVERY_MS: u64 = 4_000;

    const fn at(boot_ms: u64) -> Moment {
        Moment { boot_ms, unix_ms: 0 }
    }

    fn start(folder: &TempDir) -> Snapshots<Todo> {
        let path = path(&folder.path().join("moderation.db"));
        Snapshots::start(path, EVERY_MS, at(0)).expect("a thread")
    }

    fn written(folder: &TempDir) -> String {
        let path = path(&folder.path().join("moderation.db"));
        let bytes = read(&path).expect("readable").unwrap_or_default();
        String::from_utf8(bytes).expect("text")
    }

    /// Steps until the disk has all of what was due.
    fn settle(snapshots: &mut Snapshots<Todo>, lines: &mut Lines, now: Moment) {
        assert!(snapshots.step(lines, now), "the disk is healthy");
        let began = clock::now();
        while snapshots.pause(now).is_zero()
            || snapshots.waiting.is_some()
            || now.boot_ms - snapshots.safe_until_boot_ms() >= EVERY_MS
        {
            assert!(snapshots.step(lines, now), "the disk is healthy");
            assert!(clock::now().boot_ms - began.boot_ms < 60_000, "{snapshots:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn everything_is_written_once_and_then_what_changed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let left = folder.path().join("moderation.limits.new");
        fs::write(&left, "by a daemon that was killed, readable for all").expect("writable");
        fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).expect("it is ours");
        let (mut lines, mut snapshots) = (Lines::default(), start(&folder));
        lines.count("one");
        lines.count("two");
        settle(&mut snapshots, &mut lines, at(EVERY_MS));
        assert_eq!(written(&folder), "head\none\ntwo\n");
        lines.count("three");
        settle(&mut snapshots, &mut lines, at(EVERY_MS * 2 - 1));
        assert_eq!(written(&folder), "head\none\ntwo\n", "nothing is due");
        settle(&mut snapshots, &mut lines, at(EVERY_MS * 2));
        assert_eq!(written(&folder), "head\none\ntwo\nthree\n");
        let mode = folder.path().join("moderation.limits").metadata().expect("it is there");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_was_appended_is_folded_in_when_it_is_longer_than_the_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (mut lines, mut snapshots) = (Lines::default(), start(&folder));
        settle(&mut snapshots, &mut lines, at(EVERY_MS));
        let long = "x".repeat(usize::try_from(SMALL_BYTES).expect("it is small"));
        lines.count(&long);
        settle(&mut snapshots, &mut lines, at(EVERY_MS * 2));
        lines.all.clear();
        lines.count("short");
        settle(&mut snapshots, &mut lines, at(EVERY_MS * 3));
        assert_eq!(written(&folder), "head\nshort\n");
    }

    #[test]
    fn stopping_writes_all_that_was_counted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (mut lines, mut snapshots) = (Lines::default(), start(&folder));
        let many: Vec<_> = (0..10 * SLICE).map(|i| i.to_string()).collect();
        many.iter().for_each(|line| lines.count(line));
        snapshots.step(&mut lines, at(0));
        lines.count("while it was written");
        snapshots.finish(&mut lines, at(1));
        let text = written(&folder);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), many.len() + 2);
        assert_eq!(lines.last(), Some(&"while it was written"));
    }

    #[test]
    fn an_earlier_file_stays_until_a_new_one_is_complete_and_a_failure_is_told_and_mended() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = path(&folder.path().join("moderation.db"));
        fs::write(&place, "earlier").expect("writable");
        let (mut lines, mut snapshots) = (Lines::default(), start(&folder));
        lines.count("one");
        // In the way of the new file.
        let in_the_way = place.with_extension("limits.new");
        fs::create_dir(&in_the_way).expect("a folder");
        let began = clock::now();
        while snapshots.step(&mut lines, at(0)) {
            assert!(clock::now().boot_ms - began.boot_ms < 60_000, "{snapshots:?}");
        }
        assert_eq!(written(&folder), "earlier");
        fs::remove_dir(&in_the_way).expect("it is empty");
        settle(&mut snapshots, &mut lines, at(EVERY_MS));
        assert_eq!(written(&folder), "head\none\n");
    }

    #[test]
    fn there_need_be_no_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(read(&folder.path().join("none")).expect("that is fine"), None);
        assert!(read(folder.path()).is_err(), "a folder is no file");
    }
}
