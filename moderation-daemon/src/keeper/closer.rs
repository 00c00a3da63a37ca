//! Closing the open connections of peers that the kernel's maps say are banned:
//! it asks nobody else, and nobody can ask it for anything.

use std::time::Duration;

use anyhow::anyhow;

use super::{said::Said, waiting_for};
use crate::{
    clock,
    network::{Connections, Judge, PinIdentity, Pins, Reaper, SocketError},
    telemetry::Throttle,
};

/// Time between two looks. A connection is closed at the second one that finds
/// its peer banned: one to two of these after the ban, time enough for the
/// answer that tells of it.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Closer {
    pins: Pins,
    judge: Option<(PinIdentity, Judge)>,
    connections: Connections,
    reaper: Reaper,
}

impl Closer {
    /// Looks at nothing yet.
    ///
    /// # Errors
    ///
    /// If there is no socket to close connections over, or if this process
    /// lacks the capability.
    pub fn open(pins: Pins) -> Result<Self, SocketError> {
        Connections::require_permission()?;
        let connections = Connections::open()?;
        Ok(Self { pins, judge: None, connections, reaper: Reaper::default() })
    }

    /// One look. Closes what it finds for the second time, and says how many
    /// connections that were.
    ///
    /// # Errors
    ///
    /// The first thing that went wrong; what was possible nevertheless is done.
    pub fn round(&mut self) -> anyhow::Result<usize> {
        let judged = self.open_judge();
        let Some((_, judge)) = judged.as_ref().ok().and(self.judge.as_ref()) else {
            // Whoever was suspect was so by other maps.
            self.reaper = Reaper::default();
            return judged.map(|()| 0);
        };
        if !judge.enforces()? {
            self.reaper = Reaper::default();
            return Ok(0);
        }
        let now_ns = clock::boot_ns();
        let mut failure = None;
        let reaped = self.reaper.reap(&mut self.connections, |connection| {
            let (peer, local) = (connection.peer().ip(), connection.local());
            judge.condemns(peer, local, now_ns).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                false
            })
        });
        reaped.result?;
        failure.map_or(Ok(reaped.closed), |error| Err(error.into()))
    }

    /// Opens the maps, anew if they are others than before.
    fn open_judge(&mut self) -> anyhow::Result<()> {
        let identity = self.pins.identity();
        if identity.is_some() && identity == self.judge.as_ref().map(|(of, _)| *of) {
            return Ok(());
        }
        self.judge = None;
        let identity = identity.ok_or_else(|| anyhow!(waiting_for(&self.pins)))?;
        self.judge = Some((identity, Judge::open(&self.pins)?));
        self.reaper = Reaper::default();
        Ok(())
    }
}

/// Looks again and again until `pause` says no. What goes wrong is logged, once,
/// and ends nothing but one thing:
///
/// # Errors
///
/// [`SocketError::NotPermitted`] will not become better.
pub fn watch(closer: &mut Closer, mut pause: impl FnMut(Duration) -> bool) -> anyhow::Result<()> {
    let (mut said, mut throttle) = (Said::default(), Throttle::default());
    loop {
        match closer.round() {
            Ok(closed) => {
                said.say(None);
                tell(closed, &mut throttle);
            }
            Err(error) if matches!(error.downcast_ref(), Some(SocketError::NotPermitted)) => {
                return Err(error);
            }
            Err(error) => said.say([format!("{error:#}")]),
        }
        if !pause(INTERVAL) {
            return Ok(());
        }
    }
}

fn tell(closed: usize, throttle: &mut Throttle) {
    if closed == 0 {
        return;
    }
    if let Some(suppressed) = throttle.permit(clock::now().boot_ms) {
        tracing::info!(closed, suppressed, "closed connections of banned peers");
    }
}
