//! The demo's result as one object, and what in it falls short of the claim.

use std::time::Duration;

use serde::Serialize;

use crate::times::Times;

/// Fewer samples say nothing about a 99th percentile.
const ENOUGH_SAMPLES: usize = 50;

/// Everything that the demo measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// As in every story.
    #[serde(flatten)]
    pub course: Course,
    /// The abuser's messages that broke the limit.
    pub violations: u64,
    /// From the violating event's way into the socket to the first dropped
    /// packet of its source.
    pub ban_latency_us: Microseconds,
}

/// What every story of an abuser comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Course {
    /// How the program is attached: `native` or `generic`.
    pub xdp_mode: String,
    /// Whether the daemon says that the abuser is banned, and enforced.
    pub banned: bool,
    /// The kernel's count of dropped packets between the ban and the lift.
    pub packets_dropped: u64,
    /// What the abuser was answered between the ban and the lift.
    pub abuser_answers_after_ban: u64,
    /// What the bystander asked for during the whole story.
    pub bystander_requests: u64,
    /// What of that was not answered as it should be.
    pub bystander_failures: u64,
    /// Of `packets_dropped`, those while the daemon was dead.
    pub dropped_while_daemon_dead: u64,
    /// Of `abuser_answers_after_ban`, those while the daemon was dead.
    pub answers_while_daemon_dead: u64,
    /// Whether the abuser was answered again after the ban was lifted.
    pub flows_after_lift: bool,
}

impl Course {
    /// What is claimed of it, each with what to say if it does not hold.
    pub(super) fn claims(&self) -> Vec<(bool, String)> {
        vec![
            (self.banned, "the abuser was not banned, or the ban not enforced".to_owned()),
            (
                self.abuser_answers_after_ban == 0,
                format!("the banned abuser got {} answers", self.abuser_answers_after_ban),
            ),
            (self.packets_dropped > 0, "no packet was dropped".to_owned()),
            (
                self.dropped_while_daemon_dead > 0,
                "no packet was dropped while the daemon was dead".to_owned(),
            ),
            (
                self.answers_while_daemon_dead == 0,
                format!("{} answers while the daemon was dead", self.answers_while_daemon_dead),
            ),
            (self.flows_after_lift, "the abuser got no answer after the lift".to_owned()),
            (self.bystander_requests > 0, "the bystander asked for nothing".to_owned()),
            (
                self.bystander_failures == 0,
                format!("{} of the bystander's requests failed", self.bystander_failures),
            ),
        ]
    }
}

/// Those that do not hold.
pub(super) fn broken(claims: impl IntoIterator<Item = (bool, String)>) -> Vec<String> {
    claims.into_iter().filter(|(holds, _)| !holds).map(|(_, claim)| claim).collect()
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Microseconds {
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The number of samples.
    pub n: usize,
}

impl Microseconds {
    /// Of samples; 0 if there are none.
    pub(crate) fn of(samples: &Times) -> Self {
        let at = |percent| samples.percentile(percent).map_or(0, microseconds);
        Self { p50: at(50), p99: at(99), n: samples.count() }
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Report {
    /// What did not come out as claimed; empty if everything did.
    pub fn shortcomings(&self) -> Vec<String> {
        let own = [
            (self.violations > 0, "the abuser broke no rule".to_owned()),
            (
                self.ban_latency_us.n >= ENOUGH_SAMPLES,
                format!("only {} bans were timed", self.ban_latency_us.n),
            ),
        ];
        broken(self.course.claims().into_iter().chain(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn success() -> Report {
        let course = Course {
            xdp_mode: "native".to_owned(),
            banned: true,
            packets_dropped: 9,
            abuser_answers_after_ban: 0,
            bystander_requests: 300,
            bystander_failures: 0,
            dropped_while_daemon_dead: 4,
            answers_while_daemon_dead: 0,
            flows_after_lift: true,
        };
        let ban_latency_us = Microseconds { p50: 400, p99: 900, n: 50 };
        Report { course, violations: 20, ban_latency_us }
    }

    #[test]
    fn times_are_told_in_microseconds() {
        let samples = (1..=100).map(Duration::from_micros).collect();
        assert_eq!(Microseconds::of(&samples), Microseconds { p50: 50, p99: 99, n: 100 });
        assert_eq!(Microseconds::of(&Times::default()), Microseconds::default());
    }

    #[test]
    fn a_story_that_came_out_has_no_shortcomings() {
        assert_eq!(success().shortcomings(), Vec::<String>::new());
    }

    #[test]
    fn each_broken_promise_is_named() {
        let course = Course {
            banned: false,
            packets_dropped: 0,
            abuser_answers_after_ban: 1,
            bystander_requests: 0,
            bystander_failures: 1,
            dropped_while_daemon_dead: 0,
            answers_while_daemon_dead: 1,
            flows_after_lift: false,
            ..success().course
        };
        let nothing = Report { course, violations: 0, ban_latency_us: Microseconds::default() };
        assert_eq!(nothing.shortcomings().len(), 10);
        let course = Course { answers_while_daemon_dead: 2, ..success().course };
        let leak = Report { course, ..success() };
        assert_eq!(leak.shortcomings(), ["2 answers while the daemon was dead"]);
    }

    #[test]
    fn the_object_has_exactly_the_fields_that_were_promised() {
        let object = serde_json::to_value(success()).expect("serializable");
        let expected = json!({
            "xdp_mode": "native", "violations": 20, "banned": true,
            "ban_latency_us": { "p50": 400, "p99": 900, "n": 50 },
            "packets_dropped": 9, "abuser_answers_after_ban": 0,
            "bystander_requests": 300, "bystander_failures": 0,
            "dropped_while_daemon_dead": 4, "answers_while_daemon_dead": 0,
            "flows_after_lift": true,
        });
        assert_eq!(object, expected);
    }
}
