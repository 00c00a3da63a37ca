//! Asks the daemon once a second for what the live view shows.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::SyncSender,
    thread,
    time::Duration,
};

use serde_json::Value;

use super::picture::{Look, News, drops};
use crate::{
    api::client::{Client, ClientError},
    clock,
};

/// How often the daemon is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// A daemon that takes longer is as good as gone, which is to be said.
const PATIENCE: Duration = Duration::from_secs(3);
/// Samples of dropped packets that are wanted a second; the daemon keeps no more than some
/// hundreds, and the kernel is not to be busy with telling.
const SAMPLES_PER_SECOND: u64 = 200;

pub(super) struct Asker {
    socket: PathBuf,
    limit: usize,
    /// Drops and when, in milliseconds of the boot clock, as told last.
    last: Option<(u64, u64)>,
    /// Of dropped packets, one in so many is looked at.
    every: u64,
}

impl Asker {
    pub(super) fn new(socket: &Path, limit: usize) -> Self {
        Self { socket: socket.to_owned(), limit, last: None, every: 1 }
    }

    /// Tells what it learns until nobody listens any more.
    pub(super) fn run(mut self, tell: &SyncSender<News>) {
        let mut client = Client::new(&self.socket);
        client.set_patience(PATIENCE);
        loop {
            let began_ns = clock::monotonic_ns();
            let news = match self.look(&mut client) {
                Ok(look) => News::Seen(Box::new(look)),
                Err(reason) => {
                    // A new daemon is another connection.
                    client = Client::new(&self.socket);
                    client.set_patience(PATIENCE);
                    News::Gone(reason)
                }
            };
            if tell.send(news).is_err() {
                return;
            }
            let took = Duration::from_nanos(clock::monotonic_ns().saturating_sub(began_ns));
            // paces: once a second is as often as it is drawn differently
            thread::sleep(INTERVAL.saturating_sub(took));
        }
    }

    fn look(&mut self, client: &mut Client) -> Result<Look, String> {
        let status = ask(client, "/v1/status")??;
        let denials = ask(client, "/v1/denials?limit=100")??;
        let bans = ask(client, "/v1/bans?latest=true&limit=100")??;
        let (limit, every) = (self.limit, self.every);
        // Without the kernel's maps the daemon works, and what it is banned shows.
        let top = ask(client, &format!("/v1/top?limit={limit}&every={every}"))?;
        let (top, kernel_problem) = match top {
            Ok(top) => (top, None),
            Err(detail) => (Value::Null, Some(detail)),
        };
        self.pace(&top);
        Ok(Look { top, status, bans, denials, kernel_problem })
    }

    /// The more is dropped, the smaller the part that is looked at.
    fn pace(&mut self, top: &Value) {
        let (dropped, at_ms) = (drops(top), top["at_ms"].as_u64().unwrap_or(0));
        if let Some((before, before_ms)) = self.last
            && at_ms > before_ms
        {
            let rate = dropped.saturating_sub(before) * 1_000 / (at_ms - before_ms);
            self.every = (rate / SAMPLES_PER_SECOND).max(1);
        }
        self.last = Some((dropped, at_ms));
    }
}

/// What the daemon answers: in the inner result what it says instead.
fn ask(client: &mut Client, path: &str) -> Result<Result<Value, String>, String> {
    let response = client.get(path).map_err(|error| reason(&error))?;
    if response.is_success() {
        return Ok(Ok(response.body));
    }
    let detail = response.body["detail"].as_str().map(str::to_owned);
    Ok(Err(detail.unwrap_or_else(|| format!("the daemon answered {}", response.status))))
}

fn reason(error: &ClientError) -> String {
    match error {
        ClientError::Connect { source, .. } => format!("{error}: {source}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_many_drops_a_smaller_part_is_looked_at() {
        let mut asker = Asker::new(Path::new("/nonexistent"), 20);
        let top = |dropped: u64, at_ms: u64| json!({ "packets": { "ban_v4": { "packets": dropped } }, "at_ms": at_ms });
        for (dropped, at_ms, every) in [
            (5_000_000, 1_000, 1),
            (5_000_100, 2_000, 1),
            (7_000_100, 3_000, 10_000),
            (0, 4_000, 1),
        ] {
            asker.pace(&top(dropped, at_ms));
            assert_eq!(asker.every, every, "{dropped} at {at_ms}");
        }
    }

    #[test]
    fn a_daemon_that_is_not_there_is_said_with_the_reason() {
        let mut asker = Asker::new(Path::new("/nonexistent/admin.sock"), 20);
        let Err(reason) = asker.look(&mut Client::new("/nonexistent/admin.sock")) else {
            panic!("nobody listens there");
        };
        assert!(
            reason.contains("/nonexistent/admin.sock") && reason.contains("No such"),
            "{reason}"
        );
    }
}
