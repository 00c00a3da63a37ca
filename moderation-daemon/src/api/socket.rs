//! Serving connections on a Unix socket: how many at once, how long each may take,
//! who may connect.

use std::{
    collections::HashSet,
    future::{Future as _, poll_fn},
    io,
    os::unix::net,
    path::PathBuf,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::Gid;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;

use super::{HEAD_TIMEOUT, Problem, Routes, WRITE_TIMEOUT, hot::Desk, peer::Peer};
use crate::{
    clock, config,
    listen::{ListenError, Sockets},
    metrics::Metrics,
    telemetry::Throttle,
};

/// Tells those who serve that the daemon stops.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// What is told, and whom it is told by.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (tell, told) = watch::channel(false);
        (tell, Self(told))
    }

    /// Whether it was told.
    pub(super) fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when it was told, or when nobody is left to tell it.
    pub(super) async fn asked(&mut self) {
        // Nobody to tell it is the same as being told.
        drop(self.0.wait_for(|stop| *stop).await);
    }
}

/// A socket that is served.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    group: Option<Gid>,
    connections: Arc<Semaphore>,
    /// How many of them there can be.
    most: usize,
    refusals: Arc<Semaphore>,
    /// Peers, by uid and gid, that have been logged.
    known: HashSet<(u32, u32)>,
    /// For lines that peers can cause.
    lines: Throttle,
}

/// More than this many headers, or bytes of them, is no API client.
const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 32 * 1_024;
/// Peers that are remembered as logged; a host has a handful.
const MAX_KNOWN: usize = 1_024;
/// How long nobody is accepted after somebody could not be.
const RECOVERY: Duration = Duration::from_millis(50);
/// Connections that wait to be told that they are not served.
const MAX_REFUSALS: usize = 64;
/// How long connections go on when the daemon stops: what was sent by then is on its way,
/// and is answered.
const GRACE: Duration = Duration::from_millis(200);
/// How long they may take to finish after that.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long they wait for the client to ask something.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

impl Listener {
    /// What serves on a socket of [`Sockets`].
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn on(sockets: &mut Sockets, config: &config::Socket) -> Result<Self, ListenError> {
        let path = config.path.clone();
        let (socket, group) = sockets.stream(config)?;
        let failed = |source| ListenError::Io { operation: "wait on", path: path.clone(), source };
        let socket = waiting(socket).map_err(failed)?;
        let connections = Arc::new(Semaphore::new(config.max_connections));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let (known, lines) = (HashSet::new(), Throttle::default());
        let most = config.max_connections;
        Ok(Self { socket, path, group, connections, most, refusals, known, lines })
    }

    /// Serves until told to stop, and then gives those who are being served some
    /// seconds to finish. Whoever connects meanwhile waits on the socket.
    pub async fn serve(mut self, routes: Routes, metrics: Arc<Metrics>, mut stop: Stop) {
        loop {
            let accepted = tokio::select! {
                () = stop.asked() => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.admit(stream, &routes, &metrics, &stop),
                Err(error) => {
                    if let Some(suppressed) = self.lines.permit(clock::now().boot_ms) {
                        let socket = self.path.display();
                        tracing::warn!(%error, %socket, suppressed, "cannot accept");
                    }
                    recover().await;
                }
            }
        }
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        if timeout(FINISH_TIMEOUT, self.connections.acquire_many(all)).await.is_err() {
            let left = self.most - self.connections.available_permits();
            tracing::warn!(left, socket = %self.path.display(), "connections are cut off");
        }
    }

    /// Starts serving a connection, or refuses it; never waits.
    fn admit(&mut self, stream: UnixStream, routes: &Routes, metrics: &Arc<Metrics>, stop: &Stop) {
        let Ok(peer) = Peer::of(&stream) else {
            return self.refuse(stream, &Problem::ForeignPeer, metrics);
        };
        let is_admitted = peer.is_admitted(self.group);
        self.log(peer, is_admitted);
        if !is_admitted {
            return self.refuse(stream, &Problem::ForeignPeer, metrics);
        }
        let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
            return self.refuse(stream, &Problem::TooManyConnections, metrics);
        };
        let others = routes.others.clone().layer(Extension(peer));
        let desk = Desk::new(routes.shortcut.clone(), others, stop.clone());
        tokio::spawn(connection(stream, desk, Arc::clone(metrics), stop.clone(), place));
    }

    fn refuse(&self, stream: UnixStream, problem: &'static Problem, metrics: &Metrics) {
        metrics.problem(problem.name());
        // Beyond, they see the connection close.
        if let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() {
            tokio::spawn(refuse(stream, problem, place));
        }
    }

    /// Says once who uses the socket, and again and again who may not.
    fn log(&mut self, Peer { uid, gid, pid }: Peer, is_admitted: bool) {
        let socket = self.path.display();
        if !is_admitted {
            if let Some(suppressed) = self.lines.permit(clock::now().boot_ms) {
                tracing::warn!(uid, gid, pid, %socket, suppressed, "refused a foreign peer");
            }
        } else if self.known.len() < MAX_KNOWN && self.known.insert((uid, gid)) {
            tracing::info!(uid, gid, pid, %socket, "first connection of this peer");
        } else {
            tracing::debug!(uid, gid, pid, %socket, "connection");
        }
    }
}

/// The same socket, for this runtime to wait on.
fn waiting(socket: net::UnixListener) -> io::Result<UnixListener> {
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket)
}

/// Waits after a connection could not be accepted: file descriptors are out, most likely,
/// and some close.
pub(super) async fn recover() {
    tokio::time::sleep(RECOVERY).await;
}

/// Closes whatever connects to a socket that the service manager keeps open although the
/// configuration has no use for it: nobody must wait there for an answer.
pub(crate) async fn turn_away(path: PathBuf, socket: net::UnixListener) {
    let socket = match waiting(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, socket = %path.display(), "cannot wait on an unused socket");
            return;
        }
    };
    let mut lines = Throttle::default();
    loop {
        let accepted = socket.accept().await;
        if let Some(suppressed) = lines.permit(clock::now().boot_ms) {
            let socket = path.display();
            tracing::warn!(%socket, suppressed, "the configuration has no use for this socket");
        }
        if accepted.is_err() {
            recover().await;
        }
    }
}

/// Answers once the client has asked: clients take an answer to nothing for a
/// broken connection.
async fn refuse(mut stream: UnixStream, problem: &Problem, _place: OwnedSemaphorePermit) {
    let answer = async {
        let mut request = vec![0; MAX_HEAD_BYTES];
        if stream.read(&mut request).await? == 0 {
            return Ok(());
        }
        stream.write_all(problem.raw_response().as_bytes()).await
    };
    // Whoever asks nothing in that time gets no answer.
    drop(timeout(REFUSAL_TIMEOUT, answer).await);
}

/// The name under which heads are counted that are no HTTP, or too long.
const MALFORMED_HTTP: &str = "malformed-http";

/// Serves one connection to its end.
async fn connection(
    stream: UnixStream,
    desk: Desk,
    metrics: Arc<Metrics>,
    mut stop: Stop,
    _place: OwnedSemaphorePermit,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .half_close(true) // a script may close its side and wait for the answer
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    // A client that does not read its answers must not keep its place.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let io = TokioIo::new(Box::pin(stream));
    let mut connection = pin!(Some(builder.serve_connection(io, desk)));
    let mut leave = pin!(async move {
        stop.asked().await;
        tokio::time::sleep(GRACE).await;
    });
    let mut is_stopping = false;
    let served = poll_fn(|context| {
        let connection = connection.as_mut().get_mut().as_mut().expect("taken after this only");
        if !is_stopping && leave.as_mut().poll(context).is_ready() {
            is_stopping = true;
            // What is being asked is answered; where nothing is, it ends at once.
            Pin::new(&mut *connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(context)
    });
    let result = served.await;
    let Some(parts) = connection.get_mut().take().map(http1::Connection::into_parts) else {
        return;
    };
    let mut stream = parts.io.into_inner();
    let stream = stream.as_mut().get_pin_mut().get_mut();
    // hyper closes without a word on a head that does not come to its end. A
    // connection that was merely idle gets none either.
    let slow = result.as_ref().is_err_and(hyper::Error::is_timeout) && !parts.read_buf.is_empty();
    if result.is_err_and(|error| error.is_parse()) {
        metrics.problem(MALFORMED_HTTP); // hyper has answered, without a body
    }
    if slow {
        metrics.problem(Problem::SlowClient.name());
        drop(stream.try_write(Problem::SlowClient.raw_response().as_bytes()));
    }
    drop(stream.shutdown().await);
}
