//! The chapters, in order: each does one thing on the stage, measures it and has it
//! told.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::browser::{Answer, Browser, credentials};
use crate::counter::KernelCounters;
use crate::demo::report::Course;
use crate::demo::stage::xdp_mode;
use crate::demo::story::Story;
use crate::lab::{ABUSER_V4, abuser_pool};
use crate::{interrupt, wait};

use super::report::Report;
use super::stage::Stage;

/// Passwords that are tried: more than the preset lets through in five minutes.
const GUESSES: u64 = 12;
/// Messages by which the ban must have fallen: the preset's limit and interval
/// (40 + 20), twice, should a window end meanwhile.
const ENOUGH_MESSAGES: u64 = 120;
/// New connections that the banned abuser tries in a chapter.
const ATTEMPTS: usize = 3;
/// For an answer that does not come: past the first retransmission of a SYN (1 s,
/// RFC 6298).
const SHORT: Duration = Duration::from_millis(1500);
/// With what takes milliseconds; nginx leaves a dead daemon alone for five seconds.
const PATIENCE: Duration = Duration::from_secs(15);

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

    let mallory = play.peace()?;
    play.guesses()?;
    let before = play.counters.banned()?;
    play.messages(&mallory)?;
    play.ban()?;
    play.silence(&mallory)?;
    play.page(&mallory)?;
    play.death(&mallory)?;
    play.resurrection(&mallory)?;
    play.report.course.packets_dropped = play.counters.banned()? - before;
    play.lift(&mallory)?;
    play.farewell()?;
    play.counts()?;
    Ok(play.report)
}

impl Play<'_> {
    /// Returns the abuser, who has an account like everybody.
    fn peace(&mut self) -> Result<Browser> {
        let mallory = self.stage.abuser.log_in("mallory")?;
        let asked = wait::until("nginx to ask of both", PATIENCE, || {
            let asked = self.stage.daemon.metric("moderation_nginx_passed_total")?;
            Ok((asked >= 2).then_some(asked))
        })?;
        let what = "alice and mallory log in at the app; nginx asks before each request";
        self.story.tell(what, asked, "requests asked about")?;
        Ok(mallory)
    }

    fn guesses(&mut self) -> Result<()> {
        let wrong = json!({ "email": credentials("alice")["email"], "password": "12345678" });
        let (mut reached, mut refused) = (0, 0);
        for _ in 0..GUESSES {
            interrupt::check()?;
            let answer = self.stage.abuser.post("/api/auth/login", &wrong)?;
            reached += u64::from(answer.status == 404);
            refused += u64::from(answer.status == 429 && answer.json()["type"] == "logins");
        }
        self.report.guesses_at_the_app = reached;
        self.report.guesses_refused = refused;
        let what =
            format!("mallory guesses alice's password: {reached} guesses reach the app, then 429");
        self.story.tell(&what, refused, "answered by nginx")
    }

    fn messages(&mut self, mallory: &Browser) -> Result<()> {
        let message = json!({ "text": "buy my coins", "ms": 0 });
        let (mut answered, mut refused) = (0, 0);
        for _ in 0..ENOUGH_MESSAGES {
            interrupt::check()?;
            let answer = mallory.with_patience(SHORT).post("/api/agents/chat/openAI", &message);
            let status = answer.as_ref().map_or(0, |answer| answer.status);
            answered += u64::from(status == 200);
            refused += u64::from(status == 429);
            if ![200, 429].contains(&status) {
                break;
            }
        }
        self.report.messages_refused = refused;
        let what =
            format!("mallory hammers messages: {answered} reach the app, then 429, then a ban");
        self.story.tell(&what, refused, "answered by nginx")
    }

    fn ban(&mut self) -> Result<()> {
        let mut admin = self.stage.daemon.admin();
        let check = wait::until("the ban to be in force", PATIENCE, || {
            let check = admin.get(&format!("/v1/check?ip={ABUSER_V4}"))?.body;
            Ok((check["ban"]["enforced"] == true).then_some(check))
        })?;
        let ban = &check["ban"];
        self.report.course.banned = check["banned"] == true;
        let until = ban["expires_at"].as_str().unwrap_or("(no ban)");
        let until = until.split(['.', 'Z']).next().unwrap_or(until);
        let hours = ban["remaining_ms"].as_f64().unwrap_or_default() / 3_600_000.0;
        let what = format!("{ABUSER_V4} and mallory are banned until {until} UTC");
        self.story.tell(&what, format!("{hours:.1}"), "hours")
    }

    fn silence(&mut self, mallory: &Browser) -> Result<()> {
        let before = self.counters.banned()?;
        self.report.course.abuser_answers_after_ban += answers(mallory)?;
        let dropped = self.counters.banned()? - before;
        self.story.tell("From there nothing reaches nginx any more", dropped, "packets dropped")
    }

    /// What a person sees whose account is banned, where the kernel drops nothing.
    fn page(&mut self, mallory: &Browser) -> Result<()> {
        let elsewhere = mallory.at(elsewhere()?);
        let (page, object) = (elsewhere.for_pages().get("/c/new")?, elsewhere.get("/api/convos")?);
        let code = object.json()["code"].as_str().unwrap_or("(no code)").to_owned();
        self.report.page_shown = is_page(&page) && page.body.contains(&code);
        self.report.json_shown = object.status == 403 && object.json()["type"] == "ban";
        let what =
            format!("Her account elsewhere: nginx shows a page, or JSON, with the code {code}");
        self.story.tell(&what, page.status, "is its status")
    }

    fn death(&mut self, mallory: &Browser) -> Result<()> {
        self.stage.daemon.kill()?;
        let before = self.counters.banned()?;
        let answers = answers(mallory)?;
        let dropped = self.counters.banned()? - before;
        self.report.course.answers_while_daemon_dead = answers;
        self.report.course.abuser_answers_after_ban += answers;
        self.report.course.dropped_while_daemon_dead = dropped;
        let what = "kill -9 moderationd: nginx lets requests pass, the kernel still drops hers";
        self.story.tell(what, dropped, "packets dropped")
    }

    fn resurrection(&mut self, mallory: &Browser) -> Result<()> {
        let begin = Instant::now();
        self.stage.daemon.start()?;
        let took = begin.elapsed().as_millis();
        self.report.course.abuser_answers_after_ban += answers(mallory)?;
        let elsewhere = mallory.at(elsewhere()?);
        wait::until("nginx to ask again", PATIENCE, || {
            Ok((elsewhere.get("/api/convos")?.status == 403).then_some(()))
        })?;
        let what = format!("moderationd is back in {took} ms; nginx asks again, the ban is known");
        self.story.tell(&what, begin.elapsed().as_millis(), "ms until then")
    }

    fn lift(&mut self, mallory: &Browser) -> Result<()> {
        self.stage.daemon.ctl(&["lift", &ABUSER_V4.to_string()])?.success()?;
        let elsewhere = mallory.at(elsewhere()?);
        let is_back = [mallory, &elsewhere].map(|it| it.get("/api/convos"));
        let answers = is_back.into_iter().flatten().filter(Answer::is_apps).count();
        self.report.course.flows_after_lift = answers == 2;
        let what = format!("A moderator: moderationctl lift {ABUSER_V4}; she is back");
        self.story.tell(&what, answers, "answers of the app")
    }

    fn farewell(&mut self) -> Result<()> {
        let experience = self.stage.bystander.finish()?;
        self.report.course.bystander_requests = experience.requests;
        self.report.course.bystander_failures = experience.failures;
        let what = match experience.first_failure {
            None => "alice was here all along, read, chatted, and noticed nothing".to_owned(),
            Some(failure) => format!("alice noticed: {failure}"),
        };
        let unit = format!("requests, {} failed", experience.failures);
        self.story.tell(&what, experience.requests, &unit)
    }

    fn counts(&mut self) -> Result<()> {
        let express = self.stage.nginx.express()?;
        self.report.app_complaints = express.log().lines().count();
        let running = express.running()?;
        let users = running.as_object().context("by user")?.values();
        let running: u64 = users.filter_map(|it| it["running"].as_u64()).sum();
        ensure!(running == 0, "{running} generations still run");
        self.report.nginx_requests = self.stage.nginx.access_log().lines().count();
        let refused = self.report.guesses_refused + self.report.messages_refused;
        let what = format!(
            "In all: nginx answered {} requests, {refused} of hers in the app's place; dropped",
            self.report.nginx_requests
        );
        self.story.tell(&what, self.report.course.packets_dropped, "packets")
    }
}

/// Whether nginx answers with the page for people in place of the app's.
fn is_page(answer: &Answer) -> bool {
    let kind = answer.header("content-type").unwrap_or_default();
    answer.status == 403 && kind.starts_with("text/html")
}

/// Another address of the abuser's.
fn elsewhere() -> Result<Ipv4Addr> {
    match abuser_pool().next() {
        Some(IpAddr::V4(address)) => Ok(address),
        other => bail!("the abuser has no other address: {other:?}"),
    }
}

/// How many of the abuser's attempts over new connections are answered.
fn answers(mallory: &Browser) -> Result<u64> {
    let mallory = mallory.with_patience(SHORT);
    let mut answers = 0;
    for _ in 0..ATTEMPTS {
        interrupt::check()?;
        answers += u64::from(mallory.get("/api/convos").is_ok());
    }
    Ok(answers)
}
