//! The chapters, in order: each does one thing on the stage, measures it and
//! has it told.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::counter::KernelCounters;
use crate::interrupt;
use crate::lab::{ABUSER_V4, abuser_pool};
use crate::range::Range;
use crate::times::Times;
use crate::visitor::Connection;
use crate::wait;

use super::report::{Course, Microseconds, Report};
use super::stage::{Stage, xdp_mode};
use super::story::Story;

/// Messages by which the ban must have fallen: the default configuration's
/// limit and interval (40 + 20), twice, should a window end meanwhile.
const ENOUGH_MESSAGES: u64 = 120;
/// New connections that the banned abuser tries in a chapter.
const ATTEMPTS: usize = 3;
/// Patience with what takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The performance: what is measured goes into the report.
struct Play<'a> {
    stage: &'a mut Stage,
    story: &'a mut Story,
    counters: KernelCounters,
    report: Report,
}

/// Plays everything on a stage that is set.
pub(super) fn play(stage: &mut Stage, story: &mut Story) -> Result<Report> {
    let counters = KernelCounters::open(stage.daemon.pin_root())?;
    let course = Course { xdp_mode: xdp_mode(&stage.daemon)?, ..Course::default() };
    let report = Report { course, ..Report::default() };
    let mut play = Play { stage, story, counters, report };

    play.peace()?;
    let mut connection = play.stage.abuser.connect().context("the abuser cannot connect")?;
    let dropped_before = play.counters.banned()?;
    play.abuse()?;
    play.ban()?;
    play.silence(&mut connection)?;
    play.death()?;
    play.resurrection()?;
    play.report.course.packets_dropped = play.counters.banned()? - dropped_before;
    play.lift()?;
    play.speed()?;
    play.farewell()?;
    Ok(play.report)
}

impl Play<'_> {
    fn peace(&mut self) -> Result<()> {
        let greeting = self.stage.abuser.say("hello");
        ensure!(greeting.is_status(200), "the abuser's first message came to {greeting:?}");
        let chat = &self.stage.chat;
        let judged = wait::until("messages of both clients to be judged", PATIENCE, || {
            let tally = chat.tally();
            let judged = tally.messages - tally.unjudged;
            Ok((judged >= 2).then_some(judged))
        })?;
        let what = "Both clients chat over TCP; the chat asks moderationd each time";
        self.story.tell(what, judged, "messages judged")
    }

    fn abuse(&mut self) -> Result<()> {
        let before = self.stage.chat.tally();
        let mut answered = 0;
        for _ in 0..ENOUGH_MESSAGES {
            interrupt::check()?;
            let outcome = self.stage.abuser.say("buy my coins");
            answered += u64::from(outcome.is_status(200));
            if outcome.is_status(403) || !outcome.is_answer() {
                break;
            }
        }
        let violations = self.stage.chat.tally().violations - before.violations;
        self.report.violations = violations;
        let what =
            format!("mallory hammers messages: {answered} more are answered, then the limit");
        self.story.tell(&what, violations, "violations")
    }

    fn ban(&mut self) -> Result<()> {
        let check = self.stage.daemon.admin().get(&format!("/v1/check?ip={ABUSER_V4}"))?.body;
        let ban = &check["ban"];
        self.report.course.banned = check["banned"] == true && ban["enforced"] == true;
        let until = ban["expires_at"].as_str().unwrap_or("(no ban)");
        let until = until.split(['.', 'Z']).next().unwrap_or(until);
        let hours = ban["remaining_ms"].as_f64().unwrap_or_default() / 3_600_000.0;
        let what = format!("{ABUSER_V4} and mallory are banned until {until} UTC");
        self.story.tell(&what, format!("{hours:.1}"), "hours")
    }

    fn silence(&mut self, connection: &mut Connection) -> Result<()> {
        let before = dropped(&self.stage.daemon.status()?)?;
        let on_the_old = u64::from(connection.say("still there?").is_answer());
        self.report.course.abuser_answers_after_ban += on_the_old + self.answers()?;
        let dropped = dropped(&self.stage.daemon.status()?)? - before;
        let what = "Neither the connection that mallory kept open nor new ones get an answer";
        self.story.tell(what, dropped, "packets dropped")
    }

    fn death(&mut self) -> Result<()> {
        self.stage.daemon.kill()?;
        let before = self.counters.banned()?;
        let answers = self.answers()?;
        let dropped = self.counters.banned()? - before;
        self.report.course.answers_while_daemon_dead = answers;
        self.report.course.abuser_answers_after_ban += answers;
        self.report.course.dropped_while_daemon_dead = dropped;
        self.story.tell("kill -9 moderationd: the kernel still drops", dropped, "packets dropped")
    }

    fn resurrection(&mut self) -> Result<()> {
        let begin = Instant::now();
        self.stage.daemon.start()?;
        let took = begin.elapsed().as_millis();
        let status = self.stage.daemon.status()?;
        let before = dropped(&status)?;
        self.report.course.abuser_answers_after_ban += self.answers()?;
        let dropped = dropped(&self.stage.daemon.status()?)? - before;
        let state = status["network"]["state"].as_str().unwrap_or("?");
        let what = format!("moderationd is back in {took} ms, maps {state}, ban in force");
        self.story.tell(&what, dropped, "packets dropped")
    }

    fn lift(&mut self) -> Result<()> {
        self.stage.daemon.ctl(&["lift", &ABUSER_V4.to_string()])?.success()?;
        let answers = self.answers()?;
        self.report.course.flows_after_lift = answers > 0;
        let what = format!("moderationctl lift {ABUSER_V4}: packets flow again");
        self.story.tell(&what, answers, "answers")
    }

    fn speed(&mut self) -> Result<()> {
        let range = Range::build(&self.stage.lab, &self.counters)?;
        let mut client = self.stage.daemon.api();
        let samples: Result<Times> =
            abuser_pool().map(|source| range.time(&mut client, source)).collect();
        self.report.ban_latency_us = Microseconds::of(&samples?);
        let latency = self.report.ban_latency_us;
        let what =
            format!("{} bans timed, from violation to first dropped packet: median", latency.n);
        self.story.tell(&what, latency.p50, &format!("µs, p99 {} µs", latency.p99))
    }

    fn farewell(&mut self) -> Result<()> {
        let experience = self.stage.bystander.finish()?;
        self.report.course.bystander_requests = experience.requests;
        self.report.course.bystander_failures = experience.failures;
        let what = match experience.first_failure {
            None => "The bystander was here all along and noticed nothing".to_owned(),
            Some(failure) => format!("The bystander noticed: {failure}"),
        };
        let unit = format!("requests, {} failed", experience.failures);
        self.story.tell(&what, experience.requests, &unit)
    }

    /// How many of the abuser's attempts over new connections are answered.
    fn answers(&self) -> Result<u64> {
        let mut answers = 0;
        for _ in 0..ATTEMPTS {
            interrupt::check()?;
            answers += u64::from(self.stage.abuser.say("let me in").is_answer());
        }
        Ok(answers)
    }
}

/// Packets dropped for a ban, by the daemon's status.
fn dropped(status: &Value) -> Result<u64> {
    let counters = &status["network"]["counters"];
    let packets = |reason: &str| counters[reason]["packets"].as_u64();
    let sum = packets("ban_v4").zip(packets("ban_v6")).map(|(v4, v6)| v4 + v6);
    sum.with_context(|| format!("no counters in the status: {status}"))
}
