//! How soon a daemon with a million bans is back: with its pins in place, and with none.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::list::MILLION;
use crate::bench::ours;
use crate::bench::report::{Goal, Row};
use crate::bench::sample::{ROUNDS, Samples};
use crate::daemon::{Daemon, Setup};
use crate::lab::{INTERFACE, Pair};
use crate::{interrupt, wait};

/// What a restart with its pins in place may take.
const BOUND_S: f64 = 1.0;
const READY: &str = "restart_with_pins_s";
const READDED: &str = "restart_with_pins_readded";
/// Patience with a million entries on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Restarts a daemon that has imported the list.
pub(super) fn measure(list: &Path) -> Result<(Vec<Row>, Vec<Goal>)> {
    let pair = Pair::new()?;
    let setup = Setup::new().inside(&pair.host).interface(INTERFACE);
    let mut daemon = setup.overrides(ours::configuration(MILLION)).start()?;
    eprintln!("bulk: importing a million bans into a daemon");
    ours::import(&daemon, list)?;
    ensure!(ours::enforced(&daemon)? == u64::from(MILLION), "not all that was imported holds");
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        interrupt::check()?;
        eprintln!("bulk: restart {} of {ROUNDS}", round + 1);
        rounds.with_pins(&mut daemon).context("with pins")?;
        rounds.without_pins(&mut daemon).context("without pins")?;
    }
    Ok(rounds.conclude())
}

#[derive(Default)]
struct Rounds {
    ready: Samples,
    readded: Samples,
    ready_anew: Samples,
    all_anew: Samples,
}

impl Rounds {
    fn with_pins(&mut self, daemon: &mut Daemon) -> Result<()> {
        daemon.stop()?;
        let begin = Instant::now();
        daemon.start()?;
        self.ready.push(begin.elapsed().as_secs_f64());
        all_enforced(daemon)?;
        #[expect(clippy::cast_precision_loss, reason = "at most a million")]
        self.readded.push(ours::readded(daemon)? as f64);
        Ok(())
    }

    fn without_pins(&mut self, daemon: &mut Daemon) -> Result<()> {
        daemon.stop()?;
        ours::remove_pins(daemon)?;
        let begin = Instant::now();
        daemon.start()?;
        self.ready_anew.push(begin.elapsed().as_secs_f64());
        all_enforced(daemon)?;
        self.all_anew.push(begin.elapsed().as_secs_f64());
        let added = ours::readded(daemon)?;
        // The allowlist's entries count, too.
        ensure!(added >= u64::from(MILLION), "only {added} entries were added to empty maps");
        Ok(())
    }

    fn conclude(self) -> (Vec<Row>, Vec<Goal>) {
        let goals = vec![
            Goal::below(READY, BOUND_S, self.ready.median()),
            // The worst round counts: one entry too many is one too many.
            Goal::below(READDED, 1.0, self.readded.max()),
        ];
        let rows = vec![
            Row::alone("restart_with_pins_ready", "s", &self.ready),
            Row::alone("restart_with_pins_readded", "entries", &self.readded),
            Row::alone("restart_without_pins_ready", "s", &self.ready_anew),
            Row::alone("restart_without_pins_all_in_kernel", "s", &self.all_anew),
        ];
        (rows, goals)
    }
}

/// Waits until the kernel holds all of them.
fn all_enforced(daemon: &Daemon) -> Result<()> {
    wait::until("a million bans to be in the kernel", PATIENCE, || {
        Ok((ours::enforced(daemon)? == u64::from(MILLION)).then_some(()))
    })
}
