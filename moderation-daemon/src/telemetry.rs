//! Where log lines go and how they look.
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
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(&log.level))?;
    let lines = fmt::layer().with_writer(io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => registry.with(lines.with_ansi(false)).try_init()?,
        LogFormat::Json => registry.with(lines.json()).try_init()?,
    }
    Ok(())
}
