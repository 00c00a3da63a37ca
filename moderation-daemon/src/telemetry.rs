//! Where log lines go and how they look.
//!
//! What strangers can trigger goes through a [`Throttle`], so that nobody can
//! fill a disk with lines.
//!
//! ERROR: act now. WARN: look soon. INFO: what you asked for happened. Never a
//! user id or a message's text.

mod journal;

use std::{env, error::Error, io, iter, sync::OnceLock};

use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat};
use journal::Journal;

/// Which lines are written; it can change while we run.
static FILTER: OnceLock<(reload::Handle<EnvFilter, Registry>, LogFormat)> = OnceLock::new();

/// Sends log lines to standard error from now on; to journald itself, with their
/// fields, if that is where standard error goes and text is wanted. `RUST_LOG`
/// overrides the configured level.
///
/// # Errors
///
/// If the level is no filter, or logging has been started before.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let (filter, handle) = reload::Layer::new(filter(log)?);
    let lines = fmt::layer().with_writer(io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text if is_journal() => match Journal::open() {
            Ok(journal) => registry.with(journal).try_init()?,
            Err(error) => {
                registry.with(lines.with_ansi(false)).try_init()?;
                tracing::warn!(%error, "journald cannot be told itself: lines have no fields");
            }
        },
        LogFormat::Text => registry.with(lines.with_ansi(false)).try_init()?,
        LogFormat::Json => registry.with(lines.json()).try_init()?,
    }
    FILTER.set((handle, log.format)).map_err(|_| anyhow::anyhow!("it has been started before"))
}

/// A line that has no other way to go.
#[expect(clippy::print_stderr, reason = "there is nowhere else to say it")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// Whether standard error goes to journald (systemd.exec(5), `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let named = stream.split_once(':').and_then(|(device, inode)| {
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    });
    let own = nix::sys::stat::fstat(io::stderr()).ok().map(|it| (it.st_dev, it.st_ino));
    named.is_some() && named == own
}

/// Goes by another configuration from now on, as far as that can be done.
pub fn follow(log: &Log) {
    let Some((handle, format)) = FILTER.get() else { return };
    match filter(log) {
        Ok(filter) => {
            if let Err(error) = handle.reload(filter) {
                tracing::error!(%error, "log.level stays as it was");
            }
        }
        Err(error) => tracing::error!("log.level stays as it was: {error:#}"),
    }
    if log.format != *format {
        tracing::warn!("log.format changes with the next restart");
    }
}

fn filter(log: &Log) -> anyhow::Result<EnvFilter> {
    let given = EnvFilter::try_from_default_env();
    Ok(given.or_else(|_| EnvFilter::try_new(log.level.name()))?)
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn Error) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Lets a few lines of one kind through per minute and counts the rest.
#[derive(Debug, Default)]
pub struct Throttle {
    window_start_boot_ms: u64,
    lines: u64,
    suppressed: u64,
}

const LINES_PER_MINUTE: u64 = 60;
const MINUTE_MS: u64 = 60_000;

impl Throttle {
    /// `Some` if a line may be written now, with how many were not since the
    /// last one.
    pub const fn permit(&mut self, now_boot_ms: u64) -> Option<u64> {
        if now_boot_ms.saturating_sub(self.window_start_boot_ms) >= MINUTE_MS {
            self.window_start_boot_ms = now_boot_ms;
            self.lines = 0;
        }
        if self.lines >= LINES_PER_MINUTE {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        let suppressed = self.suppressed;
        self.suppressed = 0;
        Some(suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_lets_sixty_lines_a_minute_through_and_counts_the_rest() {
        let mut throttle = Throttle::default();
        let through = (0..100).filter(|_| throttle.permit(70_000).is_some()).count();
        assert_eq!(through, 60);
        assert_eq!(throttle.permit(129_999), None);
        assert_eq!(throttle.permit(130_000), Some(41));
        assert_eq!(throttle.permit(130_000), Some(0));
    }
}
