//! The loader of `bench api`: one thread with so many connections, each of which asks
//! again as soon as it is answered. It is the same for both sides, and judges nothing but
//! that everything is allowed, as it should be.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::times::Times;

/// Sources in turn: enough that nobody comes near the limit.
const SOURCES: u32 = 1 << 18;
/// What a source may do in [`WINDOW`].
pub(in crate::bench) const MAX: u32 = 40;
/// A minute.
pub(in crate::bench) const WINDOW: Duration = Duration::from_secs(60);
/// The answer to an answer that does not come.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than the longest answer.
const BUFFER_BYTES: usize = 64 * 1024;

/// Something that allows and denies.
pub(in crate::bench) trait Service {
    /// Where it listens.
    fn socket(&self) -> &Path;

    /// Writes what asks about these sources, each for itself.
    fn ask(&self, sources: &[u32], request: &mut Vec<u8>);

    /// The decisions, in their order, once all have come: whether each is to allow.
    fn decisions(&self, sources: usize, answer: &[u8]) -> Result<Option<Vec<bool>>>;
}

/// Sees a service allow as much as it should, and no more: one at a time and together.
pub(in crate::bench) fn judge(service: &mut impl Service) -> Result<()> {
    // Sources that are in no load.
    for (source, batch) in [(SOURCES, 1), (SOURCES + 1, 30)] {
        let mut client = Client::connect(service.socket())?;
        let mut decisions = Vec::new();
        while decisions.len() < 2 * MAX as usize {
            client.send(service, &vec![source; batch])?;
            decisions.extend(client.wait(service, batch)?);
        }
        let allowed = decisions.iter().take_while(|is_allowed| **is_allowed).count();
        let all = decisions.iter().filter(|is_allowed| **is_allowed).count();
        ensure!((allowed, all) == (MAX as usize, MAX as usize), "{all} of {MAX} were allowed");
    }
    Ok(())
}

/// Asks once about each of so many sources.
pub(in crate::bench) fn once(service: &mut impl Service, sources: u32) -> Result<()> {
    let mut client = Client::connect(service.socket())?;
    let sources: Vec<_> = (0..sources).collect();
    for batch in sources.chunks(256) {
        client.send(service, batch)?;
        let decisions = client.wait(service, batch.len())?;
        ensure!(!decisions.contains(&false), "something was denied");
    }
    Ok(())
}

/// Who is asked about, in turn.
#[derive(Debug, Default)]
pub(in crate::bench) struct Sources(u32);

impl Sources {
    fn take(&mut self, count: usize) -> Vec<u32> {
        let take = |_| {
            self.0 = (self.0 + 1) % SOURCES;
            self.0
        };
        (0..count).map(take).collect()
    }
}

/// How it is asked.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Load {
    /// How many connections ask at a time.
    pub(in crate::bench) connections: usize,
    /// How many decisions each asks for at once.
    pub(in crate::bench) batch: usize,
}

/// What a round came to.
#[derive(Debug)]
pub(in crate::bench) struct Measured {
    decisions: usize,
    took: Duration,
    /// From just before asking to the whole answer.
    pub(in crate::bench) latencies: Times,
}

impl Measured {
    pub(in crate::bench) fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "millions")]
        let decisions = self.decisions as f64;
        decisions / self.took.as_secs_f64()
    }
}

impl Load {
    /// Asks for that long.
    pub(in crate::bench) fn run(
        self,
        service: &mut impl Service,
        sources: &mut Sources,
        duration: Duration,
    ) -> Result<Measured> {
        let mut clients = (0..self.connections)
            .map(|_| Client::connect(service.socket()))
            .collect::<Result<Vec<_>>>()?;
        let epoll = Epoll::new(EpollCreateFlags::empty()).context("no epoll")?;
        let begin = Instant::now();
        for (number, client) in clients.iter_mut().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
            epoll.add(client.stream.as_fd(), event).context("cannot wait for a connection")?;
            client.send(service, &sources.take(self.batch))?;
        }
        let (mut latencies, mut asking) = (Vec::new(), self.connections);
        let mut events = vec![EpollEvent::empty(); self.connections];
        while asking > 0 {
            let patience = EpollTimeout::try_from(PATIENCE).context("a timeout")?;
            let ready = epoll.wait(&mut events, patience).context("cannot wait")?;
            ensure!(ready > 0, "no answer within {PATIENCE:?}");
            for event in &events[..ready] {
                let client = &mut clients[usize::try_from(event.data())?];
                let Some(decisions) = client.read(service, self.batch)? else { continue };
                ensure!(!decisions.contains(&false), "something of the load was denied");
                latencies.push(client.asked_at.elapsed());
                if begin.elapsed() < duration {
                    client.send(service, &sources.take(self.batch))?;
                } else {
                    asking -= 1;
                }
            }
        }
        let took = begin.elapsed();
        let decisions = latencies.len() * self.batch;
        Ok(Measured { decisions, took, latencies: latencies.into_iter().collect() })
    }
}

struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    answer: Vec<u8>,
    filled: usize,
    asked_at: Instant,
}

impl Client {
    fn connect(socket: &Path) -> Result<Self> {
        let what = || format!("cannot connect to {}", socket.display());
        let stream = UnixStream::connect(socket).with_context(what)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let answer = vec![0; BUFFER_BYTES];
        Ok(Self { stream, request: Vec::new(), answer, filled: 0, asked_at: Instant::now() })
    }

    fn send(&mut self, service: &impl Service, sources: &[u32]) -> Result<()> {
        self.request.clear();
        service.ask(sources, &mut self.request);
        self.asked_at = Instant::now();
        self.stream.write_all(&self.request).context("cannot ask")
    }

    /// Reads what is there; the decisions once they are whole.
    fn read(&mut self, service: &impl Service, count: usize) -> Result<Option<Vec<bool>>> {
        let room = &mut self.answer[self.filled..];
        match self.stream.read(room).context("no answer")? {
            0 => bail!("the connection was closed, or the answer is too long"),
            bytes => self.filled += bytes,
        }
        let decisions = service.decisions(count, &self.answer[..self.filled])?;
        if decisions.is_some() {
            self.filled = 0;
        }
        Ok(decisions)
    }

    fn wait(&mut self, service: &impl Service, count: usize) -> Result<Vec<bool>> {
        loop {
            if let Some(decisions) = self.read(service, count)? {
                return Ok(decisions);
            }
        }
    }
}
