//! Random numbers of the kernel. Where it gives none, nothing is made up: a program that
//! needs one to start does not start, and what can do without says so in the log.

use std::sync::atomic::{AtomicBool, Ordering};

/// The kernel gives none.
#[derive(Debug, thiserror::Error)]
#[error("the kernel gives no random numbers (getrandom)")]
pub(crate) struct NoRandomness(#[source] getrandom::Error);

/// One of them.
///
/// # Errors
///
/// [`NoRandomness`].
pub(crate) fn number() -> Result<u64, NoRandomness> {
    getrandom::u64().map_err(NoRandomness)
}

/// A name that nobody else has: 16 hexadecimal digits.
///
/// # Errors
///
/// [`NoRandomness`].
pub(crate) fn name() -> Result<String, NoRandomness> {
    Ok(format!("{:016x}", number()?))
}

/// One that spreads out in time what several hosts do, so that not all come back at once;
/// nothing else may depend on it. Without randomness it is 0, which is told once.
pub(crate) fn jitter() -> u32 {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    match getrandom::u32() {
        Ok(number) => number,
        Err(error) => {
            if !IS_TOLD.swap(true, Ordering::Relaxed) {
                let error = &NoRandomness(error) as &dyn std::error::Error;
                tracing::error!(error, "hosts that failed together try again together");
            }
            0
        }
    }
}
