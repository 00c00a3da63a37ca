//! How many lines of nginx's access log find no room in the kernel's queue for datagrams,
//! at full speed, with a queue as long as it is by default and with one of 512: through
//! nginx itself, and by a sender that does nothing else. What was heard the daemon says.
//! No goal: what a host loses depends on how busy it is.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::super::report::Row;
use super::super::sample::{ROUNDS, Samples};
use super::case::{Case, Way};
use super::site::{Counted, Site};
use super::wrk;
use crate::interrupt;
use crate::wait;

/// Of this many datagrams one after the other.
const LENGTHS: [u32; 2] = [10, 512];
const LENGTH_KEY: &str = "net/unix/max_dgram_qlen";
/// Datagrams of a round of the sender that does nothing else.
const DATAGRAMS: u32 = 200_000;
const ROUND: Duration = Duration::from_secs(2);
/// With lines that are on their way.
const PATIENCE: Duration = Duration::from_secs(10);
/// Looks in a row that find no other number: a tenth of a second at least.
const AT_REST: u32 = 20;
/// Requests after which each worker has found the daemon's new socket.
const WARM_UP: Duration = Duration::from_secs(1);

/// Adds its rows.
pub(super) fn run(mut site: Site, rows: &mut Vec<Row>) -> Result<()> {
    drop(site.requests(Case::SignOn)?);
    for length in LENGTHS {
        // A socket's queue is as long as was set when it was made.
        site.pair.host.sysctl(LENGTH_KEY, &length.to_string())?;
        site.daemon.restart()?;
        through_nginx(&site, WARM_UP)?;
        let (mut of_nginx, mut of_sender) = (Samples::default(), Samples::default());
        let mut per_second = Samples::default();
        for round in 0..ROUNDS {
            interrupt::check()?;
            eprintln!("nginx: a queue of {length} lines, round {} of {ROUNDS}", round + 1);
            let Heard { sent, heard, per_second: rate } = through_nginx(&site, ROUND)?;
            of_nginx.push(percent_lost(sent, heard));
            per_second.push(rate);
            of_sender.push(by_a_sender(&site)?);
        }
        rows.push(Row::alone(format!("lines_lost_nginx_{length}"), "%", &of_nginx));
        rows.push(Row::alone(format!("lines_sent_nginx_{length}"), "1/s", &per_second));
        rows.push(Row::alone(format!("lines_lost_sender_{length}"), "%", &of_sender));
    }
    Ok(())
}

struct Heard {
    sent: u64,
    heard: u64,
    /// Sent.
    per_second: f64,
}

fn percent_lost(sent: u64, heard: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let (sent, heard) = (sent as f64, heard as f64);
    100.0 * (1.0 - heard / sent)
}

/// Each of its requests has a line: nginx sends it when it has answered, or when the client
/// has gone.
fn through_nginx(site: &Site, duration: Duration) -> Result<Heard> {
    let before = site.counted()?;
    let load = (Case::SignOn.behind().port(Way::Ours), Case::SignOn.name(), 0);
    let answered = wrk::run(&site.pair.client, site.folder.path(), load, duration)?;
    let after = at_rest(site)?;
    after.check(before, answered.requests.into())?;
    let (sent, heard) = (after.passed - before.passed, after.lines - before.lines);
    ensure!(heard <= sent, "{heard} lines of {sent} requests");
    Ok(Heard { sent, heard, per_second: answered.per_second() })
}

/// Counted when nothing comes any more.
fn at_rest(site: &Site) -> Result<Counted> {
    let (mut last, mut same) = (site.counted()?, 0);
    wait::until("the last line", PATIENCE, || {
        let now = site.counted()?;
        let is_same = (now.passed, now.lines) == (last.passed, last.lines);
        same = if is_same { same + 1 } else { 0 };
        last = now;
        Ok((same == AT_REST).then_some(now))
    })
}

/// As nginx sends: what finds no room is thrown away.
fn by_a_sender(site: &Site) -> Result<f64> {
    let before = site.counted()?;
    let socket = UnixDatagram::unbound()?;
    socket.connect(site.daemon.nginx_log_socket()).context("nobody hears")?;
    socket.set_nonblocking(true)?;
    for number in 0..DATAGRAMS {
        match socket.send(&super::parser::datagram(number)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            sent => drop(sent.context("cannot send a line")?),
        }
    }
    let heard = at_rest(site)?.lines - before.lines;
    Ok(percent_lost(DATAGRAMS.into(), heard))
}
