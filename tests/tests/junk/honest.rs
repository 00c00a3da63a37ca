//! A client that asks properly while others do not, and checks every answer.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::Daemon;
use serde_json::{Value, json};

/// An answer takes about a millisecond here; a second is beyond what a busy
/// machine adds, and far below the daemon's patience with bad clients (5 s),
/// for which nobody else may have to wait.
const PROMPT: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Honest {
    app: Caller,
    operator: Caller,
    visits: u64,
    answers: u64,
    slowest: Duration,
}

impl Honest {
    pub(crate) fn new(daemon: &Daemon) -> Self {
        let (app, operator) = (Caller::app(daemon), Caller::operator(daemon));
        Self { app, operator, visits: 0, answers: 0, slowest: Duration::ZERO }
    }

    /// How many answers there were, all of them right.
    pub(crate) fn answers(&self) -> u64 {
        self.answers
    }

    /// The time that the slowest one took.
    pub(crate) fn slowest(&self) -> Duration {
        self.slowest
    }

    fn timed(
        &mut self,
        ask: impl FnOnce(&mut Caller, &mut Caller) -> Result<Value>,
    ) -> Result<Value> {
        let begin = Instant::now();
        let answer = ask(&mut self.app, &mut self.operator)?;
        let took = begin.elapsed();
        self.slowest = self.slowest.max(took);
        self.answers += 1;
        ensure!(took < PROMPT, "an honest client waited {took:?}");
        Ok(answer)
    }

    /// What one user does, from the first login to the ban; nobody else uses
    /// that name and address.
    pub(crate) fn visit(&mut self) -> Result<()> {
        self.visits += 1;
        let [_, a, b, c] = u32::try_from(self.visits)?.to_be_bytes();
        let subject = json!({
            "user": format!("honest {}", self.visits), "ip": format!("2001:db8:{a:x}:{b:x}{c:02x}::1"),
        });
        for left in (0..7).rev() {
            let answer = self.timed(|app, _| app.event("login", &subject))?;
            ensure!(answer["limits"][0]["remaining"] == left, "not {left}: {answer}");
        }
        let answer = self.timed(|app, _| app.event("login", &subject))?;
        ensure!(answer["reason"] == "logins" && answer["score"] == 1, "{answer}");
        let lease = self.timed(|app, _| app.post("/v1/leases", &subject))?;
        let path = format!("/v1/leases/{}", lease["lease"]["id"]);
        self.timed(|app, _| app.put(&path))?;
        self.timed(|app, _| app.delete(&path))?;

        let mut worst = subject.clone();
        worst["score"] = json!(20);
        let ban = self.timed(|app, _| app.violation("non_browser", &worst))?["ban"].take();
        ensure!(ban["user"] == subject["user"], "{ban}");
        let answer = self.timed(|app, _| app.event("message", &subject))?;
        ensure!(answer["reason"] == "banned" && answer["ban"]["id"] == ban["id"], "{answer}");
        // Junk may have banned its like before.
        let before = ban["id"].as_u64().unwrap_or_default() - 1;
        let path = format!("/v1/bans?limit=1&after={before}");
        let listed = self.timed(|_, operator| operator.get(&path))?;
        ensure!(listed["bans"][0]["id"] == ban["id"], "{listed}");
        let path = format!("/v1/bans?id={}", ban["id"]);
        let lifted = self.timed(|_, operator| operator.delete(&path))?;
        ensure!(lifted["lifted"][0]["id"] == ban["id"], "{lifted}");
        let answer = self.timed(|app, _| app.event("message", &subject))?;
        ensure!(answer["decision"] == "allow", "{answer}");
        Ok(())
    }
}
