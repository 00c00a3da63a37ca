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
    random,
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
        known.map_or_else(|| Ok([random::number()?, random::number()?]), Ok)
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
        Ok(random::name()?)
    })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{Act, EventType, PrefixSet, Request, Restored, Rules, Subject};

    const BOOT: &str = "this boot";
    const NOW: Moment = Moment { boot_ms: 9_000_000, unix_ms: 1_800_000_000_000 };
    /// Whose windows are kept in different ways, in both tables.
    const KINDS: [EventType; 3] = [EventType::LOGIN, EventType::MESSAGE, EventType::TOOL_CALL];

    fn later(ms: u64) -> Moment {
        Moment { boot_ms: NOW.boot_ms + ms, unix_ms: NOW.unix_ms + ms }
    }

    fn engine(seed: [u64; 2], now: Moment) -> Engine {
        Engine::new(Rules::hardened(), PrefixSet::default(), Restored::default(), seed, now)
    }

    /// What happens to four people.
    fn requests() -> Vec<Request> {
        let of = |kind: &EventType| {
            let act = Act::event(*kind);
            (1..5).map(move |number| {
                let ip = format!("192.0.2.{number}");
                let user = format!("user {number}");
                let subject = Subject::new(user.parse().ok(), ip.parse().ok()).expect("somebody");
                Request::new(act.clone(), subject)
            })
        };
        KINDS.iter().flat_map(of).collect()
    }

    fn judge(engine: &mut Engine, requests: &[Request], now: Moment) {
        let mut overlay = engine.overlay();
        requests.iter().for_each(|request| drop(overlay.judge(request, now)));
        let changes = overlay.into_changes();
        engine.apply(changes);
    }

    fn used(engine: &Engine, now: Moment) -> Vec<u64> {
        let overlay = engine.overlay();
        let counts = |request: &Request| {
            overlay.counts(request, now).iter().map(|count| count.usage.used).collect::<Vec<_>>()
        };
        requests().iter().flat_map(counts).collect()
    }

    /// A file with everything, and twice what changed; and what is used up.
    fn file() -> (Vec<u8>, Vec<u64>) {
        let mut engine = engine([1, 2], NOW);
        let mut bytes = Vec::new();
        for (is_whole, many) in [(true, 12), (false, 5), (false, 12)] {
            judge(&mut engine, &requests()[..many], NOW);
            let mut windows = Windows { engine: &mut engine, boot: BOOT };
            if is_whole {
                bytes = windows.head();
            }
            let mut pass = windows.begin(is_whole);
            while !windows.write(&mut pass, 3, NOW, &mut bytes) {}
        }
        (bytes, used(&engine, NOW))
    }

    /// An engine as a start makes it of such a file, and whether that was told.
    fn start(bytes: Vec<u8>, boot: &str, now: Moment) -> (Engine, bool) {
        let saving = Saving::beside(Path::new("moderation.db"), Duration::from_secs(4));
        let left = Left { saving, bytes: Some(bytes), boot: boot.to_owned() };
        let metrics = Metrics::new();
        let mut engine = engine(left.seed().expect("random numbers"), now);
        left.restore(&mut engine, &metrics, now);
        (engine, metrics.snapshot_damaged.get() == 1)
    }

    #[test]
    fn a_file_that_breaks_off_anywhere_counts_as_far_as_it_goes() {
        let (bytes, counted) = file();
        assert!(counted.iter().all(|used| *used > 0), "{counted:?}");
        let (mut before, mut told) = (vec![0; counted.len()], 0);
        for length in 0..=bytes.len() {
            let (engine, is_told) = start(bytes[..length].to_vec(), BOOT, NOW);
            let now = used(&engine, NOW);
            let is_more = now.iter().zip(&before).all(|(now, before)| now >= before);
            assert!(is_more, "{length}: {now:?} after {before:?}");
            assert!(is_told || length > 12, "{length} bytes are not even a head");
            (before, told) = (now, told + usize::from(is_told));
        }
        assert_eq!(before, counted, "all of it");
        let pieces = bytes.len() + 1 - told;
        assert!(pieces < 20, "only a tear between two of them is not seen, and there are {pieces}");
    }

    #[test]
    fn another_boot_goes_by_the_wall_clock() {
        let (bytes, counted) = file();
        let boot_ms = 1_000;
        for (passed_ms, counts) in [(0, true), (900, true), (3_600_000, false)] {
            let now = Moment { boot_ms, unix_ms: NOW.unix_ms + passed_ms };
            let (rebooted, is_told) = start(bytes.clone(), "another boot", now);
            assert_eq!(used(&rebooted, now) == counted, counts, "after {passed_ms} ms");
            assert!(!is_told);
            let (restarted, _) = start(bytes.clone(), BOOT, later(passed_ms));
            let [rebooted, restarted] = [used(&rebooted, now), used(&restarted, later(passed_ms))];
            assert_eq!(rebooted, restarted, "after {passed_ms} ms");
        }
        // Taken for the same boot's, these would be times to come.
        let now = Moment { boot_ms, unix_ms: NOW.unix_ms + 3_600_000 };
        assert_ne!(used(&start(bytes, BOOT, now).0, now), vec![0; counted.len()]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_file_with_flipped_bits_makes_nothing_up_and_is_told(
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 1..4),
        ) {
            let (sound, counted) = file();
            let mut bytes = sound.clone();
            for (place, bit) in flips {
                bytes[place.index(sound.len())] ^= 1 << bit;
            }
            let is_changed = bytes != sound;
            let (engine, is_told) = start(bytes, BOOT, NOW);
            prop_assert_eq!(is_told, is_changed);
            let used = used(&engine, NOW);
            let is_less = used.iter().zip(&counted).all(|(used, counted)| used <= counted);
            prop_assert!(is_less, "{:?} of {:?}", used, counted);
        }
    }
}
