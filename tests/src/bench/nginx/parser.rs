//! How many lines of nginx's access log are read in a second, on one processor: failed
//! logins that become events, all of the daemon's way from the bytes of a datagram to the
//! event that waits for the moderator. Beside fail2ban-regex, which finds the same failed
//! logins, as a file in nginx's own format; it counts its time itself, without its start.

use std::fs;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use moderation_daemon::config::Config;
use moderation_daemon::engine::{EventType, Request, Subject};
use moderation_daemon::metrics::Metrics;
use moderation_daemon::nginx::log::Hearer;
use moderation_daemon::nginx::log::ear::Hear as _;
use moderation_daemon::nginx::log::line::{self, Line};
use tokio::sync::mpsc::Receiver;

use super::super::report::{Goal, Row};
use super::super::sample::{ROUNDS, Samples};
use super::site;
use crate::interrupt;

/// Failed logins of a round.
const LINES: u32 = 30_000;
/// As often events are fetched, of which the daemon's queue holds 1,024.
const AT_ONCE: usize = 512;
/// For benchmarks, RFC 2544.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

const PEER: &str = "fail2ban-regex";
/// The date is cut out before.
const FAILED_LOGIN: &str = r#"^<HOST> - \S+ \[\] "POST /api/auth/login HTTP/[^"]*" 404 "#;
const DATE: &str = r"%%d/%%b/%%Y:%%H:%%M:%%S %%z";

/// Adds its row and its goal.
pub(super) fn run(rows: &mut Vec<Row>, goals: &mut Vec<Goal>) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let log = folder.path().join("access.log");
    fs::write(&log, (0..LINES).map(combined).collect::<String>())?;
    let filter = folder.path().join("bench.conf");
    fs::write(
        &filter,
        format!("[Definition]\nfailregex = {FAILED_LOGIN}\ndatepattern = {DATE}\n"),
    )?;
    let datagrams: Vec<_> = (0..LINES).map(datagram).collect();
    let mut reader = Reader::new()?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..ROUNDS {
        interrupt::check()?;
        eprintln!("nginx: reading lines, round {} of {ROUNDS}", round + 1);
        ours.push(reader.read(&datagrams)?);
        theirs.push(fail2ban(&log, &filter)?);
    }
    rows.push(Row::paired("lines_read", "1/s", &ours, (PEER, &theirs)));
    goals.push(Goal::at_least("lines_read_per_second", 150_000.0, ours.median()));
    Ok(())
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST.to_bits() + number)
}

/// nginx's `$request_id`.
fn name(number: u32) -> String {
    // Spread as random ones are: the golden ratio's digits, an odd number.
    let spread = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    format!("{spread:032x}")
}

/// As the snippet's format writes it.
pub(super) fn datagram(number: u32) -> Vec<u8> {
    let (id, address) = (name(number), address(number));
    format!(
        "<190>Nov 22 02:21:38 moderation: {{\"v\":1,\"id\":\"{id}\",\"status\":\"404\",\
         \"upstream\":\"404\",\"done\":\"OK\",\"time\":\"0.012\",\"method\":\"POST\",\
         \"uri\":\"/api/auth/login\",\"address\":\"{address}\"}}"
    )
    .into()
}

/// As nginx's own format `combined` does.
fn combined(number: u32) -> String {
    format!(
        "{} - - [22/Nov/2026:02:21:38 +0000] \"POST /api/auth/login HTTP/1.1\" 404 41 \"-\" \
         \"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\"\n",
        address(number)
    )
}

/// The daemon's way of a line, without a socket in front and a moderator behind.
struct Reader {
    hearer: Hearer,
    events: Receiver<Request>,
}

impl Reader {
    fn new() -> Result<Self> {
        let config = Config::parse(&site::configuration()?.to_string())?;
        let nginx = config.nginx.clone().context("nginx does not ask")?;
        let hearing = nginx.hearing.context("nothing is heard")?;
        let (hearer, events) = Hearer::new(&hearing, Arc::new(config), &Arc::new(Metrics::new()));
        Ok(Self { hearer, events })
    }

    /// Lines per second. Before, all requests were asked about, as is told to be so.
    fn read(&mut self, datagrams: &[Vec<u8>]) -> Result<f64> {
        for number in 0..LINES {
            let subject = Subject::new(None, Some(address(number).into()))?;
            let awaited = self.hearer.awaited();
            let is_awaited = awaited.note(&name(number), &subject, &[EventType::LOGIN], None);
            ensure!(is_awaited, "what becomes of logins does not matter");
        }
        let begin = Instant::now();
        let mut events = 0;
        for some in datagrams.chunks(AT_ONCE) {
            for datagram in some {
                let text = line::text(black_box(datagram));
                self.hearer.hear(&Line::parse(&text)?);
            }
            while let Ok(event) = self.events.try_recv() {
                black_box(event);
                events += 1;
            }
        }
        let took = begin.elapsed();
        ensure!(events == LINES, "{LINES} lines became {events} events");
        Ok(f64::from(LINES) / took.as_secs_f64())
    }
}

/// Lines per second, by its own account; it must have found all.
fn fail2ban(log: &Path, filter: &Path) -> Result<f64> {
    let mut command = Command::new("fail2ban-regex");
    command.args(["--usedns", "no", "--print-no-missed"]).arg(log).arg(filter);
    let output = command.output().context("cannot start fail2ban-regex")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let took = seconds(&text).with_context(|| format!("fail2ban-regex found otherwise: {text}"))?;
    Ok(f64::from(LINES) / took)
}

/// Of its last lines: `Lines: 9 lines, 0 ignored, 9 matched, 0 missed`, and behind or below
/// it `[processed in 0.01 sec]`. None if it matched others.
fn seconds(text: &str) -> Option<f64> {
    let all = format!("Lines: {LINES} lines, 0 ignored, {LINES} matched, 0 missed");
    let (_, rest) = text.split_once(&all)?;
    rest.split_once("[processed in ")?.1.split_once(" sec]")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_time_counts_if_it_found_all() {
        let found = |matched: u32| {
            format!(
                "Lines: {LINES} lines, 0 ignored, {matched} matched, 0 missed\n\
                 [processed in 2.50 sec]\n"
            )
        };
        assert_eq!(seconds(&found(LINES)), Some(2.5));
        assert_eq!(seconds(&found(LINES - 1)), None);
    }

    #[test]
    fn every_line_becomes_one_event() -> Result<()> {
        let datagrams: Vec<_> = (0..LINES).map(datagram).collect();
        Reader::new()?.read(&datagrams).map(drop)
    }
}
