//! Waiting for a condition, with a deadline. The only place that sleeps; it
//! ends early when the user interrupts.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

/// Time between two looks at a condition: short against anything that is
/// waited for here, long against the cost of a look.
const INTERVAL: Duration = Duration::from_millis(5);

/// Looks until `look` finds something and returns that. `what` completes the
/// sentence "waited 20s for …".
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        interrupt::check()?;
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {patience:?} for {what}");
        }
        thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_is_found() {
        let mut looks = 0;
        let found = until("the third look", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.expect("found"), 3);
    }

    #[test]
    fn what_never_comes_is_named_in_the_error() {
        let error = until("rain", Duration::ZERO, || Ok(None::<()>)).expect_err("never comes");
        assert_eq!(error.to_string(), "waited 0ns for rain");
    }
}
