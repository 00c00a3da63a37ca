//! The chat host that is measured: nginx, the Express application, a daemon with LibreChat's
//! routes that leaves the kernel alone, and users in another namespace. It sees each way do
//! its job, and says what the daemon counted.

use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::case::{self, Behind, Case, SECRET, User, Way};
use super::server::{NARROW, Server};
use super::wrk;
use crate::caller::Caller;
use crate::daemon::{Daemon, Setup};
use crate::express::Express;
use crate::http;
use crate::lab::{CLIENT_V4, HOST_V4, Pair};
use crate::visitor::Visitor;

/// With one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What one of the many users comes nowhere near.
const MANY: u32 = 1_000;

/// See the module.
pub(super) struct Site {
    // In this order: nginx asks the app and the daemon, and all are in the namespaces.
    server: Server,
    express: Express,
    pub(super) daemon: Daemon,
    pub(super) pair: Pair,
    /// Where wrk's files are.
    pub(super) folder: TempDir,
    pub(super) users: Vec<User>,
}

impl Site {
    pub(super) fn start() -> Result<Self> {
        let pair = Pair::new()?;
        let setup = Setup::new().inside(&pair.host).credential("jwt-secret", SECRET);
        let setup = setup.with_priority_of_unit();
        let daemon = setup.overrides(configuration()?).start()?;
        let express = Express::start(&pair.host, SECRET)?;
        let server = Server::start(&pair.host, daemon.sockets())?;
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        wrk::write_script(folder.path())?;
        Ok(Self { server, express, daemon, pair, folder, users: User::all()? })
    }

    /// Every user's request, also as a file for wrk.
    pub(super) fn requests(&self, case: Case) -> Result<Vec<Vec<u8>>> {
        let requests: Vec<_> = self.users.iter().map(|user| user.request(case)).collect();
        case::write(&self.folder.path().join(case.name()), &requests)?;
        Ok(requests)
    }

    pub(super) fn connect(&self, port: u16) -> Result<TcpStream> {
        let server = SocketAddr::new(HOST_V4.into(), port);
        let client = Visitor::new(&self.pair.client, CLIENT_V4.into(), server, "nobody");
        let stream = client.patience(PATIENCE).open()?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn ask(&self, port: u16, request: &[u8]) -> Result<http::Message> {
        let mut stream = self.connect(port)?;
        stream.write_all(request)?;
        http::read(&mut BufReader::new(stream))?.context("nginx closed the connection")
    }

    /// Sees that each way lets through what is right, and stops what is not.
    pub(super) fn judge(&self) -> Result<()> {
        for case in [Case::Call, Case::Login, Case::Page, Case::File, Case::SignOn] {
            for way in Way::ALL {
                self.answers(case, way)?;
            }
        }
        for behind in Behind::ALL {
            self.limit_req_refuses(behind)?;
        }
        let user = &self.users[0];
        let mut operator = Caller::operator(&self.daemon);
        for subject in [json!({ "user": user.id }), json!({ "ip": user.address })] {
            let ban = operator.ban(&subject)?;
            for case in [Case::Call, Case::Page, Case::File] {
                let answer = self.ask(case.behind().port(Way::Ours), &user.request(case))?;
                ensure!(answer.status() == Some(403), "a banned {subject} got {answer:?}");
            }
            operator.delete(&format!("/v1/bans?id={}", ban["id"]))?;
            self.answers(Case::Call, Way::Ours)?;
        }
        Ok(())
    }

    /// Sees that nobody had anything to complain of but what was provoked.
    pub(super) fn is_content(&self) -> Result<()> {
        let log = self.server.log();
        let complaint = log.lines().find(|line| !line.contains("zone \"narrow\""));
        ensure!(complaint.is_none(), "nginx complains: {complaint:?}");
        let log = self.express.log();
        ensure!(log.is_empty(), "the app complains: {log}");
        Ok(())
    }

    fn answers(&self, case: Case, way: Way) -> Result<()> {
        let answer = self.ask(case.behind().port(way), &self.users[0].request(case))?;
        let is_right = answer.status() == Some(200)
            && String::from_utf8_lossy(&answer.body).contains(case.mark());
        ensure!(is_right, "{}, {}: {answer:?}", case.name(), way.name());
        let is_limited = answer.header("ratelimit").is_some();
        let is_expected = way == Way::Ours && case != Case::Page;
        ensure!(is_limited == is_expected, "{}, {}: {answer:?}", case.name(), way.name());
        Ok(())
    }

    fn limit_req_refuses(&self, behind: Behind) -> Result<()> {
        let request = format!("GET {NARROW} HTTP/1.1\r\nHost: chat.example\r\n\r\n");
        let port = behind.port(Way::LimitReq);
        let first = self.ask(port, request.as_bytes())?.status();
        let second = self.ask(port, request.as_bytes())?.status();
        // Both ports share the zone.
        let is_right = behind == Behind::File || first == Some(200);
        ensure!(is_right && second == Some(503), "limit_req answered {first:?}, {second:?}");
        Ok(())
    }

    /// What the daemon counted by now.
    pub(super) fn counted(&self) -> Result<Counted> {
        let text = Caller::operator(&self.daemon).get("/metrics")?;
        let text = text.as_str().context("metrics are a text")?;
        Ok(Counted {
            passed: sum(text, "moderation_nginx_passed_total"),
            denied: sum(text, "moderation_nginx_denied_total"),
            undecided: sum(text, "moderation_nginx_undecided_total"),
            refused: sum(text, "moderation_nginx_tokens_refused_total"),
            lines: sum(text, "moderation_nginx_log_lines_total"),
        })
    }
}

/// Since the daemon was started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) passed: u64,
    denied: u64,
    undecided: u64,
    refused: u64,
    pub(super) lines: u64,
}

impl Counted {
    /// Checks that so many requests at least were asked about since then, and that all were
    /// decided, and passed as whose they were.
    pub(super) fn check(self, before: Self, least: u64) -> Result<()> {
        let passed = self.passed - before.passed;
        ensure!(passed >= least, "the daemon was asked about {passed} of {least} requests");
        let same = (before.denied, before.undecided, before.refused);
        let is_same = (self.denied, self.undecided, self.refused) == same;
        ensure!(is_same, "not every request passed by a decision: {before:?}, then {self:?}");
        Ok(())
    }
}

/// Of one counter, whatever its labels.
fn sum(text: &str, name: &str) -> u64 {
    let of = |line: &str| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{')).then(|| value.parse::<u64>().ok())?
    };
    text.lines().filter_map(of).sum()
}

/// LibreChat's, with the limits that count here made wide, and no kernel.
pub(super) fn configuration() -> Result<Value> {
    let mut preset: Value =
        serde_yaml::from_str(include_str!("../../../../config/librechat.yaml"))?;
    preset["network"] = json!({ "mode": "off" });
    let wide = json!({ "max": MANY });
    preset["limits"] = ["login", "tool_call", "tts_ip", "tts_user"]
        .map(|name| (name.to_owned(), wide.clone()))
        .into_iter()
        .collect();
    Ok(preset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_over_its_labels_and_no_other_is() {
        let text = "# TYPE a counter\na_total 3\na_total{reason=\"x\"} 4\na_total_more 5\nb 6\n";
        assert_eq!(sum(text, "a_total"), 7);
        assert_eq!(sum(text, "c_total"), 0);
    }

    #[test]
    fn the_configuration_is_one() -> Result<()> {
        let text = configuration()?.to_string();
        let config = moderation_daemon::config::Config::parse(&text)?;
        ensure!(config.nginx.is_some_and(|nginx| nginx.hearing.is_some()), "nothing is heard");
        Ok(())
    }
}
