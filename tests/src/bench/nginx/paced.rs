//! Requests at a rate, whatever the answers take (wrk knows none): each connection has its
//! own moments for asking, and a latency counts from the moment at which a request was to
//! be sent, so that one that had to wait for the answer before it is late, not left out.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::unistd::gettid;

use crate::times::Times;
use crate::{http, process};

/// Before the first request, for all connections to be ready.
const START: Duration = Duration::from_millis(20);

/// While it lives, this thread and those that it starts run before all others that are
/// ready (SCHED_FIFO): people's browsers have processors of their own, and a request that
/// is sent late because nginx was busy would count as nginx's.
struct Ahead;

impl Ahead {
    fn of_all_others() -> Result<Self> {
        policy(["--fifo", "1"])?;
        Ok(Self)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Err(error) = policy(["--other", "0"]) {
            eprintln!("{error:#}");
        }
    }
}

/// Sets this thread's.
fn policy(wanted: [&str; 2]) -> Result<()> {
    let mut chrt = process::command("chrt");
    chrt.arg(wanted[0]).args(["--pid", wanted[1]]).arg(gettid().to_string());
    let output = chrt.output().context("cannot start chrt")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "chrt {}: {}", wanted[0], complaint.trim());
    Ok(())
}

/// Asks over these connections together at a rate, in requests per second, for so long.
/// Every answer must have the mark.
pub(super) fn run(
    connections: Vec<TcpStream>,
    requests: &[Vec<u8>],
    mark: &str,
    (per_second, duration): (f64, Duration),
) -> Result<Times> {
    let count = connections.len();
    let _ahead = Ahead::of_all_others()?;
    let begin = Instant::now() + START;
    let each = |(number, stream): (usize, TcpStream)| {
        let schedule = Schedule { begin, number, count, per_second, duration };
        move || ask(stream, requests, mark, &schedule)
    };
    thread::scope(|scope| {
        let asking: Vec<_> =
            connections.into_iter().enumerate().map(|it| scope.spawn(each(it))).collect();
        let mut latencies = Vec::new();
        for one in asking {
            latencies.extend(one.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(latencies.into_iter().collect())
    })
}

/// When one connection asks.
struct Schedule {
    begin: Instant,
    number: usize,
    count: usize,
    per_second: f64,
    duration: Duration,
}

impl Schedule {
    /// The number of each request among those of all connections, and its moment.
    fn moments(&self) -> impl Iterator<Item = (usize, Instant)> {
        let at = |number: usize| {
            #[expect(clippy::cast_precision_loss, reason = "thousands")]
            let number = number as f64;
            Duration::from_secs_f64(number / self.per_second)
        };
        (self.number..)
            .step_by(self.count)
            .map(move |number| (number, at(number)))
            .take_while(|(_, after)| *after < self.duration)
            .map(|(number, after)| (number, self.begin + after))
    }
}

fn ask(
    stream: TcpStream,
    requests: &[Vec<u8>],
    mark: &str,
    schedule: &Schedule,
) -> Result<Vec<Duration>> {
    let mut stream = BufReader::new(stream);
    let mut latencies = Vec::new();
    for (number, moment) in schedule.moments() {
        let early = moment.saturating_duration_since(Instant::now());
        thread::sleep(early); // paces: the load has a rate
        stream.get_mut().write_all(&requests[number % requests.len()]).context("cannot ask")?;
        let answer = http::read(&mut stream)?.context("nginx closed the connection")?;
        latencies.push(moment.elapsed());
        let body = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status() == Some(200) && body.contains(mark), "{}: {body}", answer.start);
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_turns_at_the_rate() {
        let begin = Instant::now();
        let moments = |number| {
            let duration = Duration::from_millis(50);
            Schedule { begin, number, count: 2, per_second: 100.0, duration }
                .moments()
                .map(|(number, moment)| (number, moment.duration_since(begin).as_millis()))
                .collect::<Vec<_>>()
        };
        assert_eq!(moments(0), [(0, 0), (2, 20), (4, 40)]);
        assert_eq!(moments(1), [(1, 10), (3, 30)]);
    }
}
