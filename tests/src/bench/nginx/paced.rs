//! Requests at a rate, whatever the answers take (wrk knows none): each connection has its
//! own moments for asking, and a latency counts from the moment at which a request was to
//! be sent, so that one that had to wait for the answer before it is late, not left out.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::prctl;

use crate::demo::percentile;
use crate::http;

/// Before the first request, for all connections to be ready.
const START: Duration = Duration::from_millis(20);

/// Latencies in order.
#[derive(Debug)]
pub(super) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(super) fn percentile_us(&self, percent: usize) -> f64 {
        percentile(&self.0, percent).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Asks over these connections together at a rate, in requests per second, for so long.
/// Every answer must have the mark.
pub(super) fn run(
    connections: Vec<TcpStream>,
    requests: &[Vec<u8>],
    mark: &str,
    (per_second, duration): (f64, Duration),
) -> Result<Latencies> {
    let count = connections.len();
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
        latencies.sort_unstable();
        Ok(Latencies(latencies))
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
    // Sleeping is to end when it should, not 50 µs later.
    prctl::set_timerslack(1).context("cannot set the timer's slack")?;
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
