//! Binding a Unix socket and serving connections on it: how many at once, how
//! long each may take, who may connect.

use std::{
    collections::HashSet,
    fs::DirBuilder,
    future::poll_fn,
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _, chown},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::{
    sys::stat::{Mode, umask},
    unistd::{Gid, Group},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;

use super::{HEAD_TIMEOUT, Problem, Routes, WRITE_TIMEOUT, hot::Desk, peer::Peer};
use crate::{clock, config, metrics::Metrics, telemetry::Throttle};

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there already.
    #[error("another daemon listens on {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is a file that is no socket.
    #[error("{} exists and is no socket", path.display())]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    group: Option<Gid>,
    connections: Arc<Semaphore>,
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
/// Connections that wait to be told that they are not served.
const MAX_REFUSALS: usize = 64;
/// How long they wait for the client to ask something.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

impl Listener {
    /// Binds a socket that only the daemon's user and the configured group can
    /// open. A socket that a killed daemon left is replaced.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn bind(config: &config::Socket) -> Result<Self, ListenError> {
        let (socket, group) = place(config, |path| UnixListener::bind(path))?;
        let path = &config.path;
        let connections = Arc::new(Semaphore::new(config.max_connections));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let (known, lines) = (HashSet::new(), Throttle::default());
        Ok(Self { socket, path: path.clone(), group, connections, refusals, known, lines })
    }

    /// Serves until the future is dropped.
    pub async fn serve(mut self, routes: Routes, metrics: Arc<Metrics>) {
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => self.admit(stream, &routes, &metrics),
                Err(error) => {
                    // Out of file descriptors, most likely: let some close.
                    if let Some(suppressed) = self.lines.permit(clock::now().boot_ms) {
                        let socket = self.path.display();
                        tracing::warn!(%error, %socket, suppressed, "cannot accept");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Starts serving a connection, or refuses it; never waits.
    fn admit(&mut self, stream: UnixStream, routes: &Routes, metrics: &Arc<Metrics>) {
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
        let desk = Desk::new(routes.events.clone(), others);
        tokio::spawn(connection(stream, desk, Arc::clone(metrics), place));
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

/// Binds something where only the daemon's user and the configured group can reach it;
/// that group.
pub(crate) fn place<S>(
    config: &config::Socket,
    bind: impl FnOnce(&Path) -> io::Result<S>,
) -> Result<(S, Option<Gid>), ListenError> {
    let path = &config.path;
    let failed =
        |operation| move |source| ListenError::Io { operation, path: path.clone(), source };
    if let Some(folder) = path.parent() {
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o755).create(folder).map_err(failed("make a folder for"))?;
    }
    remove_stale(path)?;
    // Closed from the first moment on, and opened to the group afterwards.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = bind(path);
    umask(before);
    let socket = bound.map_err(failed("listen on"))?;
    let group = config.group.as_deref().and_then(|name| find_group(name, path));
    if let Some(group) = group {
        chown(path, None, Some(group.as_raw()))
            .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)))
            .map_err(failed("give its group access to"))?;
    }
    Ok((socket, group))
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
    let served = poll_fn(|context| {
        let connection = connection.as_mut().get_mut().as_mut().expect("taken after this only");
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

fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let io = |operation| move |source| ListenError::Io { operation, path: path.to_owned(), source };
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(io("look at"))?,
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NoSocket { path: path.to_owned() });
    }
    let is_heard = UnixDatagram::unbound().and_then(|it| it.connect(path)).is_ok();
    if is_heard || std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ListenError::InUse { path: path.to_owned() });
    }
    std::fs::remove_file(path).map_err(io("remove the stale"))
}

/// A group that does not exist leaves the socket to the daemon's user, which
/// is safe, and said aloud.
fn find_group(name: &str, socket: &Path) -> Option<Gid> {
    let group = Group::from_name(name).ok().flatten();
    if group.is_none() {
        tracing::warn!(
            group = name,
            socket = %socket.display(),
            "there is no such group: only the daemon's user and root can use the socket; \
             make it with: groupadd --system {name}"
        );
    }
    group.map(|group| group.gid)
}
