//! Lines of the kernel programs on their way into the daemon's log. The programs
//! write few of a kind; this writes few of all of them, and counts the rest.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use log::{Level, Metadata, Record};
use tokio::time::timeout;

use super::{LOOK_INTERVAL, opened};
use crate::{
    clock,
    metrics::Metrics,
    network::{Lines, Pins},
    telemetry::Throttle,
};

/// Writes down what the kernel programs have to say, for as long as the daemon
/// lives; first what they said while there was none.
pub async fn follow_lines(pins: Pins, metrics: Arc<Metrics>) {
    let log = Arc::new(KernelLog { throttle: Mutex::default(), metrics });
    loop {
        let identity = pins.identity();
        if let Some(mut lines) = opened(&pins, |pins| Lines::open(pins, Arc::clone(&log))) {
            while pins.identity() == identity {
                if let Ok(Err(error)) = timeout(LOOK_INTERVAL, lines.write()).await {
                    tracing::error!(error = &error as &dyn Error, "lost a ring");
                    break;
                }
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Where the lines go.
struct KernelLog {
    throttle: Mutex<Throttle>,
    metrics: Arc<Metrics>,
}

impl log::Log for KernelLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.metrics.kernel_lines.inc();
        // Whoever panicked left it whole.
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(suppressed) = throttle.permit(clock::now().boot_ms) else {
            self.metrics.kernel_lines_suppressed.inc();
            return;
        };
        let (program, line) = (record.target(), record.args());
        match record.level() {
            Level::Error => tracing::error!(target: "kernel", program, suppressed, "{line}"),
            Level::Warn => tracing::warn!(target: "kernel", program, suppressed, "{line}"),
            Level::Info => tracing::info!(target: "kernel", program, suppressed, "{line}"),
            Level::Debug | Level::Trace => {
                tracing::debug!(target: "kernel", program, suppressed, "{line}");
            }
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use log::Log as _;

    use super::*;

    #[test]
    fn of_too_many_lines_sixty_a_minute_are_written_and_all_are_counted() {
        let metrics = Arc::new(Metrics::new());
        let log = KernelLog { throttle: Mutex::default(), metrics: Arc::clone(&metrics) };
        for _ in 0..100 {
            log.log(&Record::builder().level(Level::Warn).build());
        }
        assert_eq!(metrics.kernel_lines.get(), 100);
        assert_eq!(metrics.kernel_lines_suppressed.get(), 40);
    }
}
