//! The socket API over real sockets: every route and every answer, with the
//! daemon as a process. Most of it needs no kernel; what real packets do is
//! proved elsewhere.

mod batch;
mod import;
mod lease;
mod limit;
mod lockout;
mod observe;
mod operator;
mod outage;
mod peek;
mod place;
mod problem;
mod retry;
mod shape;
mod violation;

use anyhow::Result;
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::daemon::Daemon;
use moderation_tests::need;
use serde_json::Value;

/// A running daemon and who calls it.
struct Desk {
    app: Caller,
    operator: Caller,
    daemon: Daemon,
}

impl Desk {
    fn of(daemon: Daemon) -> Self {
        let (app, operator) = (Caller::app(&daemon), Caller::operator(&daemon));
        Self { app, operator, daemon }
    }
}

/// `None` if the machine lacks what it takes.
fn desk(overrides: Value) -> Result<Option<Desk>> {
    if !need::root() {
        return Ok(None);
    }
    Ok(Some(Desk::of(daemon_without_kernel(overrides)?)))
}

/// A number that is at most `most` and not much less: how long something still
/// takes, a moment after it began.
#[track_caller]
fn assert_just_begun(left_ms: &Value, most: u64) {
    let left = left_ms.as_u64().unwrap_or_else(|| panic!("{left_ms} is no number"));
    let is_just_begun = left <= most && left + 30_000 > most && left > most / 2;
    assert!(is_just_begun, "{left} ms are left of {most} ms");
}
