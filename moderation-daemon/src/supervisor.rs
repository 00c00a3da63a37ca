//! The service manager that started us, if one did: what it is told (sd_notify(3)). It
//! starts us again if we no longer decide.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::moderator::Moderator;

/// How things stand with us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// We serve.
    Ready,
    /// We begin anew with another configuration.
    Reloading,
    /// We end.
    Stopping,
}

/// Tells it; without a service manager nobody is told.
pub(crate) fn tell(state: State) {
    let told = match state {
        State::Ready => sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("deciding")]),
        State::Reloading => match NotifyState::monotonic_usec_now() {
            Ok(now) => sd_notify::notify(&[NotifyState::Reloading, now]),
            Err(error) => Err(error),
        },
        State::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    };
    if let Err(error) = told {
        tracing::warn!(%error, ?state, "the service manager cannot be told");
    }
}

/// Says that we live as long as the moderator answers, if the service manager asked for
/// that; then it never ends.
pub(crate) async fn prove_life(moderator: Moderator) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(interval(patience));
    loop {
        ticks.tick().await;
        match moderator.live().await {
            Ok(()) => {
                if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
                    tracing::warn!(%error, "the service manager cannot be told that we live");
                }
            }
            Err(error) => tracing::error!(%error, "the moderator does not answer"),
        }
    }
}

/// Often enough for one answer to come late.
fn interval(patience: Duration) -> Duration {
    patience / 4
}
