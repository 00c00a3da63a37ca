//! Where log lines go and how they look.
//!
//! What strangers can trigger goes through a [`Throttle`], so that nobody can
//! fill a disk with lines.
//!
//! ERROR: act now. WARN: look soon. INFO: what you asked for happened. Never a
//! user id or a message's text.

use std::io;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{Log, LogFormat};

/// Sends log lines to standard error from now on, which journald picks up.
/// `RUST_LOG` overrides the configured level.
///
/// # Errors
///
/// If the level is no filter, or logging has been started before.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(log.level.name()))?;
    let lines = fmt::layer().with_writer(io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => registry.with(lines.with_ansi(false)).try_init()?,
        LogFormat::Json => registry.with(lines.json()).try_init()?,
    }
    Ok(())
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
