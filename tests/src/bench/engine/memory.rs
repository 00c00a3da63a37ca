//! What a key takes up in `bench engine`: by the memory that a process of its own has
//! gained when there are a million of them; and the whole daemon with as many.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use moderation_daemon::engine::{Act, EventType, Queue, Request};

use super::super::api;
use super::super::list::MILLION;
use super::super::report::{Goal, Row};
use super::super::sample::Samples;
use super::keys::By;
use super::{CHUNK, ours};

/// What the keys of a probe have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    /// Logged in once each: the smallest windows
    Login,
    /// Sent one message each
    Message,
    /// Sent as many messages as they may
    FullMessage,
    /// Uploaded one file each
    Upload,
}

impl Probe {
    fn name(self) -> String {
        self.to_possible_value().expect("none is hidden").get_name().to_owned()
    }

    const fn event(self) -> EventType {
        match self {
            Self::Login => EventType::LOGIN,
            Self::Message | Self::FullMessage => EventType::MESSAGE,
            Self::Upload => EventType::FILE_UPLOAD,
        }
    }

    const fn times(self) -> usize {
        match self {
            Self::Login | Self::Message | Self::Upload => 1,
            Self::FullMessage => 40,
        }
    }
}

/// A million keys, for bytes by the key.
const KEYS: u32 = MILLION;

/// In this process, which has done nothing before: how many bytes a key takes up.
///
/// # Errors
///
/// If the system does not say how much memory there is, or a key was denied.
pub fn probe(probe: Probe) -> Result<f64> {
    let (mut engine, mut queue) = (ours::engine(), Queue::default());
    let now = ours::BEGIN;
    let keys: Vec<u32> = (0..KEYS).collect();
    let before = resident(std::process::id())?;
    for chunk in keys.chunks(CHUNK) {
        let request =
            |key: &u32| Request::new(Act::event(probe.event()), By::Address.subject(*key));
        let batch: Vec<_> = chunk.iter().map(request).collect();
        for _ in 0..probe.times() {
            let denied = ours::decide((&mut engine, &mut queue), &batch, now);
            ensure!(denied == 0, "{denied} were denied that are within their limits");
        }
    }
    let after = resident(std::process::id())?;
    ensure!(engine.size().windows == KEYS as usize, "{:?}", engine.size());
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let bytes = (after - before) as f64;
    Ok(bytes / f64::from(KEYS))
}

/// Each in a process of its own, since what one frees would be taken by the next.
fn bytes(probe: Probe) -> Result<f64> {
    let program = std::env::current_exe().context("where this program is")?;
    let output = Command::new(program)
        .args(["engine", "--probe", &probe.name()])
        .output()
        .context("cannot start a probe")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the probe failed: {}", complaint.trim());
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().with_context(|| format!("a number of bytes: {said}"))
}

/// Megabytes of a daemon that a million users have sent a message to, each from an address
/// of its own.
fn daemon() -> Result<f64> {
    let bytes = api::with_sources(KEYS, resident)?;
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let megabytes = bytes as f64 / 1e6;
    Ok(megabytes)
}

/// Bytes of a process that are in memory.
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("no such process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
    Ok(kib * 1024)
}

/// Rounds of what hardly differs from one to the next.
const ROUNDS: usize = 3;

pub(super) fn measure() -> Result<(Vec<Row>, Vec<Goal>)> {
    let (mut rows, mut most) = (Vec::new(), f64::NEG_INFINITY);
    for probe in Probe::value_variants() {
        eprintln!("engine: memory of a million keys, {}", probe.name());
        let rounds = (0..ROUNDS).map(|_| bytes(*probe)).collect::<Result<Samples>>()?;
        most = most.max(rounds.median());
        let name = probe.name().replace('-', "_");
        rows.push(Row::alone(format!("bytes_per_key_{name}"), "B", &rounds));
    }
    eprintln!("engine: memory of a daemon with a million keys");
    let daemon = (0..ROUNDS).map(|_| daemon()).collect::<Result<Samples>>()?;
    let goals = vec![
        Goal::at_most("bytes_per_key", 170.0, most),
        Goal::below("daemon_mb_1m_keys", 250.0, daemon.median()),
    ];
    rows.push(Row::alone("daemon_1m_keys", "MB", &daemon));
    Ok((rows, goals))
}
