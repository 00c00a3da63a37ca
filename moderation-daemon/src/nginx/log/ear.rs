//! The socket to which nginx sends its access log, drained by a thread of its own: the
//! kernel's queue for datagrams is short (`net.unix.max_dgram_qlen`), and what finds no
//! room in it nginx throws away. Who may send is checked of every datagram. What lines
//! mean is not known here.

use std::{
    collections::HashSet,
    io::{self, IoSliceMut},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{
        ControlMessageOwned, MsgFlags, MultiHeaders, UnixCredentials, recvmmsg, setsockopt, sockopt,
    },
    unistd::Gid,
};

use super::line::{self, BadLine, Line, MAX_BYTES};
use crate::{
    api::peer::Peer,
    clock, config,
    listen::{ListenError, Sockets},
    metrics::Metrics,
    telemetry::Throttle,
};

/// Datagrams that are fetched at once.
const AT_ONCE: usize = 32;
/// How long it sleeps while nothing comes; how long stopping takes at most.
const NAP: Duration = Duration::from_millis(250);
/// Senders that are remembered as admitted, which is looked up in /proc.
const MAX_KNOWN: usize = 256;
/// How often they are forgotten: groups change, and process ids come again.
const FORGET_AFTER_MS: u64 = 10_000;

/// Hears what lines say.
pub trait Hear: Send + 'static {
    /// A line.
    fn hear(&mut self, line: &Line<'_>);
    /// Some time has passed.
    fn look_around(&mut self);
}

/// A listening thread. Dropped, it ends, after what had come by then.
#[derive(Debug)]
pub struct Ear {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A bound socket.
#[derive(Debug)]
pub struct Bound {
    socket: UnixDatagram,
    group: Option<Gid>,
}

impl Bound {
    /// The socket to which only the daemon's user and the configured group can send.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn on(sockets: &mut Sockets, config: &config::Socket) -> Result<Self, ListenError> {
        let (socket, group) = sockets.datagram(config)?;
        let path = config.path.clone();
        let prepared = socket
            .set_nonblocking(false)
            .and_then(|()| socket.set_read_timeout(Some(NAP)))
            .and_then(|()| Ok(setsockopt(&socket, sockopt::PassCred, &true)?));
        let failed = |source| ListenError::Io { operation: "wait on", path, source };
        prepared.map_err(failed)?;
        Ok(Self { socket, group })
    }

    /// Starts to listen.
    ///
    /// # Errors
    ///
    /// If there can be no thread.
    pub fn listen(self, metrics: Arc<Metrics>, to: impl Hear) -> io::Result<Ear> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut listening = Listening {
            socket: self.socket.into(),
            group: self.group,
            metrics,
            known: HashSet::new(),
            forget_at_boot_ms: 0,
            complaints: Throttle::default(),
        };
        let listen = move || listening.listen(&stopped, to);
        let thread = thread::Builder::new().name("nginx-log".to_owned()).spawn(listen)?;
        Ok(Ear { stop, thread: Some(thread) })
    }
}

struct Listening {
    socket: OwnedFd,
    group: Option<Gid>,
    metrics: Arc<Metrics>,
    known: HashSet<Peer>,
    forget_at_boot_ms: u64,
    complaints: Throttle,
}

/// A datagram as it came: how long it is, whether there was more of it, and whose.
struct Arrived {
    bytes: usize,
    is_cut: bool,
    sender: Option<Peer>,
}

/// Why a datagram is not heeded.
#[derive(Debug, thiserror::Error)]
enum Unheeded {
    #[error("its sender may not")]
    Foreign,
    #[error(transparent)]
    Bad(#[from] BadLine),
}

impl Unheeded {
    const fn name(&self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Bad(bad) => bad.name(),
        }
    }
}

impl Listening {
    fn listen(&mut self, stop: &AtomicBool, mut to: impl Hear) {
        let mut memory = vec![0; AT_ONCE * MAX_BYTES];
        let space = nix::cmsg_space!(UnixCredentials);
        let mut heads = MultiHeaders::<()>::preallocate(AT_ONCE, Some(space));
        while !stop.load(Ordering::Relaxed) {
            let arrived = fetch(&self.socket, &mut heads, &mut memory).unwrap_or_else(|error| {
                self.complain(&error, "cannot read nginx's log");
                thread::sleep(NAP);
                Vec::new()
            });
            for (bytes, arrived) in memory.chunks(MAX_BYTES).zip(arrived) {
                if let Err(why) = self.take(bytes, &arrived, &mut to) {
                    self.metrics.log.refused(why.name());
                    self.complain(&why, "a line of nginx's log is not heeded");
                }
            }
            to.look_around();
        }
    }

    fn take(
        &mut self,
        bytes: &[u8],
        arrived: &Arrived,
        to: &mut impl Hear,
    ) -> Result<(), Unheeded> {
        if !arrived.sender.is_some_and(|sender| self.is_admitted(sender)) {
            return Err(Unheeded::Foreign);
        }
        if arrived.is_cut {
            return Err(BadLine::TooLong.into());
        }
        let text = line::text(&bytes[..arrived.bytes]);
        let line = Line::parse(&text)?;
        self.metrics.log.lines.inc();
        to.hear(&line);
        Ok(())
    }

    fn is_admitted(&mut self, sender: Peer) -> bool {
        let now = clock::now().boot_ms;
        if now >= self.forget_at_boot_ms || self.known.len() >= MAX_KNOWN {
            self.known.clear();
            self.forget_at_boot_ms = now + FORGET_AFTER_MS;
        }
        if self.known.contains(&sender) {
            return true;
        }
        let is_admitted = sender.is_admitted(self.group);
        if is_admitted {
            self.known.insert(sender);
        }
        is_admitted
    }

    /// Whoever may send can make as many of these lines as he likes.
    fn complain(&mut self, error: &(dyn std::error::Error + 'static), what: &str) {
        if let Some(suppressed) = self.complaints.permit(clock::now().boot_ms) {
            tracing::warn!(error, suppressed, "{what}");
        }
    }
}

/// What has come, or nothing after a nap.
fn fetch(
    socket: &OwnedFd,
    heads: &mut MultiHeaders<()>,
    memory: &mut [u8],
) -> Result<Vec<Arrived>, Errno> {
    let mut pieces: Vec<_> =
        memory.chunks_mut(MAX_BYTES).map(|piece| [IoSliceMut::new(piece)]).collect();
    let flags = MsgFlags::MSG_WAITFORONE;
    let messages = match recvmmsg(socket.as_raw_fd(), heads, pieces.iter_mut(), flags, None) {
        Ok(messages) => messages,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let arrived = messages.map(|message| {
        let heads = message.cmsgs().into_iter().flatten();
        let sender = heads.filter_map(|head| match head {
            ControlMessageOwned::ScmCredentials(it) => {
                Some(Peer { uid: it.uid(), gid: it.gid(), pid: Some(it.pid()) })
            }
            _ => None,
        });
        Arrived {
            bytes: message.bytes,
            is_cut: message.flags.contains(MsgFlags::MSG_TRUNC),
            sender: sender.last(),
        }
    });
    Ok(arrived.collect())
}
