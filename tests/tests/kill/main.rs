//! `kill -9` at random moments under load, again and again on one store: what
//! was acknowledged is there afterwards, whole, and store, engine and kernel
//! agree.

mod audit;
mod load;

use std::io::Write;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::need;
use moderation_tests::random::Random;
use serde_json::json;

use audit::Audit;
use load::{Ledger, Load};

/// Rounds: few in every run, two hundred in a long one.
const ROUNDS: u64 = 10;
const LONG_ROUNDS: u64 = 200;
/// A round has one byte of the addresses.
const MOST_ROUNDS: u64 = 256;
/// Threads that report and lift; the machine may have two cores.
const CALLERS: u64 = 4;
/// The kill comes within this time of the first report.
const LONGEST_LIFE_MS: u64 = 300;

fn rounds() -> Result<u64> {
    if let Ok(text) = std::env::var("MODERATION_TEST_KILLS") {
        let rounds: u64 = text.parse().context("MODERATION_TEST_KILLS is no number")?;
        return Ok(rounds.min(MOST_ROUNDS));
    }
    let is_long = need::is_long();
    Ok(if is_long { LONG_ROUNDS } else { ROUNDS })
}

#[test]
fn what_was_acknowledged_survives_kill_9_whole() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (rounds, seed) = (rounds()?, Random::seed("MODERATION_TEST_SEED"));
    println!("again with MODERATION_TEST_SEED={seed} MODERATION_TEST_KILLS={rounds}");
    let mut random = Random::new(seed);
    // Compared only at the start: what the kernel holds then was projected ban
    // by ban.
    let overrides = json!({
        "network": { "reconcile_interval": "1h" },
        // Hundreds of violations a second are no rule that has run away here.
        "bans": { "max_per_minute": 1_000_000 },
    });
    let mut daemon = Setup::new().overrides(overrides).prepare()?;
    // Pins are all it takes; no interface, no packets.
    daemon.ctl(&["xdp", "attach", "--mode", "off", "--interface", "lo"])?.success()?;
    daemon.start()?;

    let mut audit = Audit::new(&daemon);
    for round in 0..rounds {
        let ledgers = live(&mut daemon, round, &mut random)?;
        audit.take(ledgers);
        audit.check_kernel_before_restart()?;
        daemon.start()?;
        audit.check(&daemon).with_context(|| format!("round {round}"))?;
    }
    let bans = audit.acknowledged_bans();
    assert!(bans > rounds, "there was hardly any load: {bans} bans");
    let line = format!(
        "kill test: {rounds} rounds, {bans} acknowledged bans, 0 lost ({} lifts, {} violations of users, {} leases)\n",
        audit.acknowledged_lifts(),
        audit.acknowledged_violations(),
        audit.acknowledged_leases(),
    );
    std::io::stdout().write_all(line.as_bytes())?;
    Ok(())
}

/// One life of the daemon: load from all sides until it is killed.
fn live(daemon: &mut Daemon, round: u64, random: &mut Random) -> Result<Vec<Ledger>> {
    let life = Duration::from_millis(random.below(LONGEST_LIFE_MS));
    let callers: Vec<Load> = (0..CALLERS)
        .map(|caller| Load::new(daemon, round, caller, Random::new(random.bits())))
        .collect::<Result<_>>()?;
    thread::scope(|scope| {
        let callers: Vec<_> = callers.into_iter().map(|load| scope.spawn(|| load.run())).collect();
        thread::sleep(life); // paces: the kill comes at a random moment
        daemon.kill()?;
        callers.into_iter().map(|caller| caller.join().expect("no panic")).collect()
    })
}
