//! Junk of every shape, from clients that are broken or hostile: the daemon
//! goes on serving others without delay, and keeps nothing of it.

mod honest;
mod shape;
mod stall;

use std::fs;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use moderation_tests::caller::daemon_without_kernel;
use moderation_tests::daemon::Daemon;
use moderation_tests::need;
use moderation_tests::random::Random;
use moderation_tests::wait;
use moderation_tests::wire::Wire;
use serde_json::json;

use honest::Honest;
use shape::{SHAPES, Shape};

const REQUESTS: usize = 10_000;
/// Threads that send junk; the machine may have two cores.
const SENDERS: usize = 4;
/// Connections that do nothing at all, all the time.
const SLOW_WRITERS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(30);
/// What the daemon may grow by: memory of connections, tables and the
/// allocator's reserves, but not 10,000 bodies of up to 64 KiB.
const MAX_GROWTH_KIB: u64 = 50 * 1_024;

#[test]
fn ten_thousand_junk_requests_leave_the_daemon_serving_others() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let seed = Random::seed("MODERATION_TEST_SEED");
    println!("again with MODERATION_TEST_SEED={seed}");
    // Junk that happens to be a violation must not use up the honest one's ban.
    let overrides = json!({ "bans": { "max_per_minute": 1_000_000 } });
    let daemon = daemon_without_kernel(overrides)?;
    let pid = daemon.pid().context("running")?;
    let mut honest = Honest::new(&daemon);
    honest.visit()?;
    let (memory_before, sockets_before) = (resident_kib(pid)?, sockets(pid)?);

    let sent = AtomicUsize::new(0);
    let tallies: Mutex<[usize; SHAPES.len()]> = Mutex::default();
    let slowest = thread::scope(|scope| {
        let slow = scope.spawn(|| slow_writers(&daemon, &sent));
        let senders: Vec<_> = (0..SENDERS)
            .map(|number| {
                let random = Random::new(seed.wrapping_add(number as u64));
                scope.spawn(|| send_junk(&daemon, random, &sent, &tallies))
            })
            .collect();
        while sent.load(Ordering::Relaxed) < REQUESTS
            && !senders.iter().any(thread::ScopedJoinHandle::is_finished)
        {
            honest.visit()?;
        }
        for sender in senders {
            sender.join().expect("no panic")?;
        }
        slow.join().expect("no panic")?;
        anyhow::Ok(honest.slowest())
    })?;

    assert_eq!(daemon.pid(), Some(pid));
    assert!(fs::exists(format!("/proc/{pid}"))?, "it is the same process");
    wait::until("every connection to be given back", PATIENCE, || {
        honest.visit()?;
        Ok((sockets(pid)? <= sockets_before).then_some(()))
    })?;
    let growth = resident_kib(pid)?.saturating_sub(memory_before);
    assert!(growth < MAX_GROWTH_KIB, "it grew by {growth} KiB");
    let tally = tallies.into_inner().expect("no panic");
    let shapes: Vec<_> = SHAPES.iter().map(|(name, _)| *name).zip(tally).collect();
    assert!(shapes.iter().all(|(_, count)| *count > REQUESTS / 100), "{shapes:?}");
    let line = format!(
        "junk test: {REQUESTS} requests of {} shapes, {} honest answers, slowest {slowest:?}, \
         grew by {growth} KiB\n",
        SHAPES.len(),
        honest.answers(),
    );
    std::io::stdout().write_all(line.as_bytes())?;
    Ok(())
}

fn send_junk(
    daemon: &Daemon,
    mut random: Random,
    sent: &AtomicUsize,
    tallies: &Mutex<[usize; SHAPES.len()]>,
) -> Result<()> {
    let sockets = [daemon.api_socket(), daemon.admin_socket()];
    while sent.fetch_add(1, Ordering::Relaxed) < REQUESTS {
        let index = random.index(SHAPES.len());
        let Shape { bytes, hangs_up } = (SHAPES[index].1)(&mut random);
        let mut wire = Wire::open(&random.pick(&sockets))?.patience(PATIENCE)?;
        // Who is hung up on in the middle of it has had an answer.
        let is_sent = wire.send(bytes).and_then(|()| wire.finish()).is_ok();
        if !hangs_up || !is_sent {
            assert!(wire.drain(), "{} was neither answered nor closed", SHAPES[index].0);
        }
        tallies.lock().expect("no panic")[index] += 1;
    }
    Ok(())
}

/// Keeps so many connections that say a byte now and then and never finish.
fn slow_writers(daemon: &Daemon, sent: &AtomicUsize) -> Result<()> {
    let socket = daemon.api_socket();
    let mut wires = Vec::new();
    while sent.load(Ordering::Relaxed) < REQUESTS {
        wires.retain_mut(|wire: &mut Wire| wire.send("x").is_ok());
        while wires.len() < SLOW_WRITERS {
            let mut wire = Wire::open(&socket)?;
            wire.send("POST /v1/events HTTP/1.1\r\nhost: moderation\r\nx-slow: ")?;
            wires.push(wire);
        }
        thread::sleep(Duration::from_millis(200)); // paces: slow writers are slow
    }
    Ok(())
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// How many sockets a process has open. (The store opens files of its own whenever it
/// first needs them.)
fn sockets(pid: u32) -> Result<usize> {
    let mut count = 0;
    for file in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was closed meanwhile is no socket.
        let target = fs::read_link(file?.path()).unwrap_or_default();
        count += usize::from(target.to_string_lossy().starts_with("socket:"));
    }
    Ok(count)
}
