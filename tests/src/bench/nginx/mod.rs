//! `bench nginx`: what it costs that nginx asks the daemon, beside nginx alone and with
//! `limit_req`: requests per second as fast as wrk is answered, and latencies at a rate of
//! half of what nginx with `limit_req` can do. Then how fast lines of its log are read,
//! beside fail2ban, and how many of them find no room in the socket. The latencies are of
//! what is proxied.

mod case;
mod lost;
mod paced;
mod parser;
mod server;
mod site;
mod wrk;

use std::time::Duration;

use anyhow::{Context, Result};

use self::case::{Case, Way};
use self::site::Site;
use super::report::{Goal, Report, Row};
use super::sample::{ROUNDS, Samples};
use crate::interrupt;

/// What one round of one way of one case takes, as fast as can be.
const ROUND: Duration = Duration::from_secs(2);
/// And at a rate: some thousand requests, of which one in a hundred says something.
const PACED_ROUND: Duration = Duration::from_secs(5);

/// Of [`Way::ALL`], in its order.
const PLAIN: usize = 0;
const LIMIT_REQ: usize = 1;
const OURS: usize = 2;

pub(super) fn run() -> Result<Report> {
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    // First, while nothing else runs.
    parser::run(&mut rows, &mut goals)?;
    let site = Site::start()?;
    site.judge()?;
    let mut compared = Case::COMPARED.map(Compared::new);
    for one in &mut compared {
        one.requests = site.requests(one.case)?;
    }
    through(&site, &mut compared)?;
    site.is_content()?;
    for one in &compared {
        one.conclude(&mut rows, &mut goals);
    }
    lost::run(site, &mut rows)?;
    Report::new("nginx", rows, goals)
}

/// All rounds: first those as fast as can be, then those at the rate that these came to.
fn through(site: &Site, compared: &mut [Compared]) -> Result<()> {
    // One more than counts: the app and the connections to it get warm.
    for round in 0..=ROUNDS {
        eprintln!("nginx: as fast as can be, round {round} of {ROUNDS}");
        each(round, compared, |one, way| {
            let per_second = one.run(site, way)?;
            if round > 0 {
                one.per_second[way as usize].push(per_second);
            }
            Ok(())
        })?;
    }
    for round in 0..ROUNDS {
        eprintln!("nginx: at a rate, round {} of {ROUNDS}", round + 1);
        each(round, compared, |one, way| {
            // The rate of a file would be more than what asks can do: a queue that grows.
            if one.is_proxied() { one.pace(site, way) } else { Ok(()) }
        })?;
    }
    Ok(())
}

/// Every case in every way, of which another one is the first in each round.
fn each(
    round: usize,
    compared: &mut [Compared],
    mut measure: impl FnMut(&mut Compared, Way) -> Result<()>,
) -> Result<()> {
    for one in compared {
        for turn in 0..Way::ALL.len() {
            interrupt::check()?;
            let way = Way::ALL[(round + turn) % Way::ALL.len()];
            let what = format!("{}, {}", one.case.name(), way.name());
            measure(one, way).context(what)?;
        }
    }
    Ok(())
}

/// One case, and what each way's rounds of it came to.
struct Compared {
    case: Case,
    requests: Vec<Vec<u8>>,
    /// How many were sent by now: every run goes on where the last one ended.
    sent: usize,
    per_second: [Samples; 3],
    p50: [Samples; 3],
    p99: [Samples; 3],
}

impl Compared {
    fn new(case: Case) -> Self {
        let (per_second, p50, p99) = Default::default();
        Self { case, requests: Vec::new(), sent: 0, per_second, p50, p99 }
    }

    /// As fast as can be, in requests per second.
    fn run(&mut self, site: &Site, way: Way) -> Result<f64> {
        let load = (self.case.behind().port(way), self.case.name(), self.sent);
        let before = site.counted()?;
        let answered = wrk::run(&site.pair.client, site.folder.path(), load, ROUND)?;
        self.sent += usize::try_from(answered.requests)?;
        let asked_about = if way == Way::Ours { answered.requests } else { 0 };
        site.counted()?.check(before, asked_about.into())?;
        Ok(answered.per_second())
    }

    fn is_proxied(&self) -> bool {
        self.case.behind() == case::Behind::App
    }

    /// Half of what nginx with `limit_req` does, in requests per second.
    fn rate(&self) -> f64 {
        self.per_second[LIMIT_REQ].median() / 2.0
    }

    fn pace(&mut self, site: &Site, way: Way) -> Result<()> {
        let port = self.case.behind().port(way);
        let connections: Result<_> = (0..wrk::CONNECTIONS).map(|_| site.connect(port)).collect();
        let before = site.counted()?;
        let load = (self.rate(), PACED_ROUND);
        let first = self.sent % self.requests.len();
        self.requests.rotate_left(first);
        let latencies = paced::run(connections?, &self.requests, self.case.mark(), load)?;
        self.sent = latencies.count();
        let asked_about = if way == Way::Ours { latencies.count() } else { 0 };
        site.counted()?.check(before, u64::try_from(asked_about)?)?;
        self.p50[way as usize].push(latencies.percentile_us(50));
        self.p99[way as usize].push(latencies.percentile_us(99));
        Ok(())
    }

    fn conclude(&self, rows: &mut Vec<Row>, goals: &mut Vec<Goal>) {
        let name = self.case.name();
        let mut beside = |what: &str, unit, samples: &[Samples; 3]| {
            for (peer, way) in [(LIMIT_REQ, Way::LimitReq), (PLAIN, Way::Plain)] {
                let peer = (way.name(), &samples[peer]);
                rows.push(Row::paired(format!("{what}_{name}"), unit, &samples[OURS], peer));
            }
        };
        beside("requests", "1/s", &self.per_second);
        if self.is_proxied() {
            beside("p50", "us", &self.p50);
            beside("p99", "us", &self.p99);
            let [_, limit_req, ours] = &self.per_second;
            let kept = ours.paired(limit_req, |ours, theirs| ours / theirs).median();
            goals.push(Goal::at_least(&format!("{name}_vs_limit_req"), 0.8, kept));
            let [_, limit_req, ours] = &self.p99;
            let added = ours.paired(limit_req, |ours, theirs| (ours - theirs) / 1e3).median();
            goals.push(Goal::at_most(&format!("{name}_p99_added_ms"), 1.0, added));
        }
    }
}
