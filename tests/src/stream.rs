//! Datagrams that flow from one namespace to another without end, numbered by
//! how many there were: what was sent, what arrived, what the wire itself lost.
//! What should arrive is the experiment's affair.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::{INTERFACE, Pair};
use crate::wait;

/// Enough for what a reader misses that is not scheduled for seconds.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// How often a reader looks whether it should stop.
const LOOK: Duration = Duration::from_millis(50);
/// For the last datagrams to be read.
const PATIENCE: Duration = Duration::from_secs(5);

/// How fast.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    burst: u32,
    pause: Duration,
}

impl Pace {
    /// Several a millisecond; two such streams still leave a slow machine time
    /// for what is tested.
    pub const FLOOD: Self = Self { burst: 4, pause: Duration::from_micros(400) };
    /// Slow enough that nothing is lost for want of room.
    pub const CALM: Self = Self { burst: 1, pause: Duration::from_millis(1) };
}

/// A stream from the client of a [`Pair`] to its host; see the module.
#[derive(Debug)]
pub struct Stream {
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    stop_sending: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What came of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams that the sender's kernel took.
    pub sent: u64,
    /// Those that the receiver's socket gave out.
    pub received: u64,
}

impl Stream {
    /// Has the ends get to know each other, while nobody is banned yet.
    pub fn prepare(pair: &Pair, from: IpAddr, to: IpAddr) -> Result<()> {
        let (sender, receiver) = sockets(pair, from, to)?;
        receiver.set_read_timeout(Some(LOOK))?;
        wait::until("a first datagram", PATIENCE, || {
            sender.send(b"hello").context("cannot send")?;
            Ok(receiver.recv(&mut [0; 16]).is_ok().then_some(()))
        })
    }

    /// Begins to send and to count.
    pub fn start(pair: &Pair, from: IpAddr, to: IpAddr, pace: Pace) -> Result<Self> {
        let (sender, receiver) = sockets(pair, from, to)?;
        receiver.set_read_timeout(Some(LOOK))?;
        setsockopt(&receiver, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
        let [sent, received] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let [stop_sending, stop] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let send = {
            let (sent, stop) = (Arc::clone(&sent), Arc::clone(&stop_sending));
            move || send(&sender, pace, &sent, &stop)
        };
        let receive = {
            let (received, stop) = (Arc::clone(&received), Arc::clone(&stop));
            move || receive(&receiver, &received, &stop)
        };
        let threads = vec![thread::spawn(send), thread::spawn(receive)];
        Ok(Self { sent, received, stop_sending, stop, threads })
    }

    /// How many were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many arrived so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Stops sending, lets the last ones arrive, and counts.
    pub fn finish(mut self) -> Result<Tally> {
        self.stop_sending.store(true, Ordering::Relaxed);
        let sender = self.threads.remove(0);
        ensure!(sender.join().is_ok(), "the sending thread panicked");
        let sent = self.sent();
        // Those that are lost or dropped never arrive; the others are here at once.
        let mut before = u64::MAX;
        wait::until("the last datagrams", PATIENCE, || {
            let received = self.received();
            let is_over = received == sent || received == before;
            before = received;
            Ok(is_over.then_some(()))
        })?;
        Ok(Tally { sent, received: self.received() })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop_sending.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || thread::panicking(), "a thread panicked");
        }
    }
}

fn sockets(pair: &Pair, from: IpAddr, to: IpAddr) -> Result<(UdpSocket, UdpSocket)> {
    let receiver = pair.host.run(|| Ok(UdpSocket::bind((to, 0))?))?;
    let sender = pair.client.run(|| Ok(UdpSocket::bind((from, 0))?))?;
    sender.connect(receiver.local_addr()?)?;
    Ok((sender, receiver))
}

fn send(sender: &UdpSocket, pace: Pace, sent: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..pace.burst {
            if sender.send(b"x").is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        thread::sleep(pace.pause); // paces: the stream
    }
}

fn receive(receiver: &UdpSocket, received: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if receiver.recv(&mut [0; 16]).is_ok() {
            received.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Packets that the client's end of the wire had no room for: the queue of a
/// veth whose other end runs XDP has 256 places (kernel: `veth_xdp_rx`).
pub fn lost_on_the_wire(pair: &Pair) -> Result<u64> {
    let devices = pair.client.run(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
    let line = devices.lines().find_map(|line| {
        line.trim_start().strip_prefix(INTERFACE)?.strip_prefix(':').map(str::to_owned)
    });
    // Eight columns of what was received, then bytes, packets, errors, drops.
    let column = line.as_deref().and_then(|line| line.split_whitespace().nth(8 + 3));
    column.context("no such column in /proc/net/dev")?.parse().context("no number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{CLIENT_V4, HOST_V4};
    use crate::need;

    #[test]
    fn what_nobody_drops_arrives() -> Result<()> {
        if !need::root() {
            return Ok(());
        }
        let pair = Pair::new()?;
        Stream::prepare(&pair, CLIENT_V4.into(), HOST_V4.into())?;
        let stream = Stream::start(&pair, CLIENT_V4.into(), HOST_V4.into(), Pace::CALM)?;
        wait::until("datagrams", PATIENCE, || Ok((stream.received() > 50).then_some(())))?;
        let Tally { sent, received } = stream.finish()?;
        assert_eq!((sent, lost_on_the_wire(&pair)?), (received, 0));
        Ok(())
    }
}
