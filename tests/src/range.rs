//! A firing range, which measures how long a ban takes: from the violating event's
//! way into the socket to the first dropped packet of its source. Nobody else who
//! is banned may send meanwhile, for the kernel counts drops, not whose.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use moderation_daemon::api::client::Client;
use serde_json::json;

use crate::counter::KernelCounters;
use crate::lab::{HOST_V4, Lab};
use crate::namespace::Namespace;
use crate::{interrupt, wait};

/// Discard, RFC 863.
const PORT: u16 = 9;
/// Far beyond any latency that would be reported.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two datagrams, beside what the kernel adds: some ten thousand a second, and
/// a ban is seen so much too late at most.
const PAUSE: Duration = Duration::from_micros(20);
/// Datagrams that must have passed before the event is sent.
const WARM_UP: usize = 16;

/// A target on the host, someone to shoot at it, and the kernel's counter.
pub(crate) struct Range<'a> {
    abuser: &'a Namespace,
    target: UdpSocket,
    counters: &'a KernelCounters,
}

impl<'a> Range<'a> {
    pub(crate) fn build(lab: &'a Lab, counters: &'a KernelCounters) -> Result<Self> {
        let bind = || UdpSocket::bind((HOST_V4, PORT)).context("cannot open the target");
        let target = lab.host.run(bind)?;
        target.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { abuser: &lab.abuser, target, counters })
    }

    /// Bans `source`, which was not banned before, and times that. The client is one of
    /// the application's socket.
    pub(crate) fn time(&self, client: &mut Client, source: IpAddr) -> Result<Duration> {
        self.time_with(source, || ban(client, source))
    }

    /// The same, whoever bans, and wherever.
    pub(crate) fn time_with(
        &self,
        source: IpAddr,
        ban: impl FnOnce() -> Result<()>,
    ) -> Result<Duration> {
        interrupt::check()?;
        let socket = self.abuser.run(|| connect(source))?;
        self.verify_passage(&socket, source)?;
        let shooter = Shooter { socket, counters: self.counters, before: self.counter_at_rest()? };
        let stop = &AtomicBool::new(false);
        let (warm, warmed_up) = channel();
        thread::scope(|scope| {
            let shooting = scope.spawn(move || shooter.shoot(&warm, stop));
            let banned = warmed_up.recv().context("no packet passed").and_then(|()| {
                let begin = Instant::now();
                ban().map(|()| begin)
            });
            // Without a ban there is nothing to wait for.
            stop.store(banned.is_err(), Ordering::Relaxed);
            let shot = shooting.join().map_err(|_| anyhow!("the shooter panicked"))?;
            let (begin, dropped) = match (banned, shot) {
                (Ok(begin), Ok(dropped)) => (begin, dropped),
                (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
                // Each may be the cause of the other.
                (Err(ban), Err(shot)) => bail!("{ban:#}; {shot:#}"),
            };
            dropped.checked_duration_since(begin).context("a packet was dropped before the ban")
        })
    }

    /// Sees one datagram of the source arrive.
    fn verify_passage(&self, socket: &UdpSocket, source: IpAddr) -> Result<()> {
        self.empty_target()?;
        socket.send(b"?").context("cannot send")?;
        let (_, from) = self.target.recv_from(&mut [0; 1]).context("no packet arrived")?;
        ensure!(from.ip() == source, "a packet of {from} arrived instead of {source}'s");
        Ok(())
    }

    /// Throws away what the shot before left in the target.
    fn empty_target(&self) -> Result<()> {
        self.target.set_nonblocking(true)?;
        let end = loop {
            if let Err(error) = self.target.recv(&mut [0; 1]) {
                break error;
            }
        };
        self.target.set_nonblocking(false)?;
        ensure!(end.kind() == ErrorKind::WouldBlock, "cannot empty the target: {end}");
        Ok(())
    }

    /// The drop counter, once it has stopped rising.
    fn counter_at_rest(&self) -> Result<u64> {
        let mut last = None;
        wait::until("the drop counter to rest", PATIENCE, || {
            let now = self.counters.banned()?;
            Ok((last.replace(now) == Some(now)).then_some(now))
        })
    }
}

/// Sends from one source until one of its packets is dropped.
struct Shooter<'a> {
    socket: UdpSocket,
    counters: &'a KernelCounters,
    before: u64,
}

impl Shooter<'_> {
    /// When the first packet was seen to be dropped.
    fn shoot(&self, warm: &Sender<()>, stop: &AtomicBool) -> Result<Instant> {
        for _ in 0..WARM_UP {
            ensure!(!self.is_hit()?, "packets are dropped before the ban");
        }
        warm.send(()).context("nobody waits for the warm-up")?;
        let deadline = Instant::now() + PATIENCE;
        while !self.is_hit()? {
            ensure!(!stop.load(Ordering::Relaxed), "no ban was made");
            if Instant::now() > deadline {
                bail!("no packet was dropped in {PATIENCE:?}");
            }
            // A real abuser does not compute on the host's processors: without a pause
            // his packets are the kernel's only work, and the daemon waits for its tick.
            thread::sleep(PAUSE); // paces: the abuser
        }
        Ok(Instant::now())
    }

    /// Sends one datagram and looks whether the drop counter has risen.
    fn is_hit(&self) -> Result<bool> {
        self.socket.send(b"!").context("cannot send")?;
        Ok(self.counters.banned()? > self.before)
    }
}

fn connect(source: IpAddr) -> Result<UdpSocket> {
    let socket =
        UdpSocket::bind((source, 0)).with_context(|| format!("cannot send from {source}"))?;
    socket.connect(SocketAddr::from((HOST_V4, PORT)))?;
    Ok(socket)
}

/// One violation that is enough for a ban by the default configuration.
fn ban(client: &mut Client, source: IpAddr) -> Result<()> {
    let violation = json!({ "type": "non_browser", "ip": source });
    let response = client.post("/v1/violations", &violation)?;
    let enforced = response.status == 200 && response.body["ban"]["enforced"] == true;
    ensure!(enforced, "the violation of {source} led to no enforced ban: {}", response.body);
    Ok(())
}
