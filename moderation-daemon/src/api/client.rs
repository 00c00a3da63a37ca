//! A small blocking client for the daemon's sockets: what moderationctl and
//! the tests speak through. One request at a time, over one connection that is
//! kept.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::UnixStream,
    runtime::Runtime,
    time::{Instant, timeout},
};

use super::HEAD_TIMEOUT;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot connect to {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the daemon at {} broke the connection off", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: hyper::Error,
    },
    /// It took too long.
    #[error("the daemon at {} did not answer within {} s", socket.display(), patience.as_secs())]
    TimedOut {
        /// The socket.
        socket: PathBuf,
        /// How long.
        patience: Duration,
    },
    /// The answer is no JSON.
    #[error("the daemon at {} answered {status} with something that is no JSON", socket.display())]
    NoJson {
        /// The socket.
        socket: PathBuf,
        /// The answer's status.
        status: u16,
        /// Why not.
        source: serde_json::Error,
    },
    /// No runtime to wait in.
    #[error("cannot start waiting for sockets")]
    Runtime(#[source] io::Error),
    /// The path is no path of a URI.
    #[error("{0:?} is no path")]
    Path(String),
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body: JSON, text as a JSON string, `null` if empty.
    pub body: Value,
}

impl Response {
    /// Whether the status is 2xx.
    pub const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Option<Runtime>,
    connection: Option<(SendRequest<Full<Bytes>>, Instant)>,
    patience: Duration,
    kept: Duration,
}

const JSON: &str = "application/json";
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection is kept that nothing is asked over: the daemon closes an idle one
/// later than that, and then perhaps just while it is written to.
const KEPT: Duration = HEAD_TIMEOUT.checked_div(2).expect("two is not zero");

impl Client {
    /// A client of the socket at `socket`; connects when it is used.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        let socket = socket.as_ref().to_owned();
        Self { socket, runtime: None, connection: None, patience: PATIENCE, kept: KEPT }
    }

    /// Waits so long for each answer from now on.
    pub const fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// `GET`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn get(&mut self, path: &str) -> Result<Response, ClientError> {
        self.request(Method::GET, path, JSON, String::new())
    }

    /// `POST` with a JSON body.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn post(&mut self, path: &str, body: &Value) -> Result<Response, ClientError> {
        self.request(Method::POST, path, JSON, body.to_string())
    }

    /// `POST` with a text for a body.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn post_text(&mut self, path: &str, body: String) -> Result<Response, ClientError> {
        self.request(Method::POST, path, "text/plain; charset=utf-8", body)
    }

    /// `PUT` without a body.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn put(&mut self, path: &str) -> Result<Response, ClientError> {
        self.request(Method::PUT, path, JSON, String::new())
    }

    /// `DELETE`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn delete(&mut self, path: &str) -> Result<Response, ClientError> {
        self.request(Method::DELETE, path, JSON, String::new())
    }

    fn request(
        &mut self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: String,
    ) -> Result<Response, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "moderation")
            .header(header::CONTENT_TYPE, content_type)
            .body(Full::from(body))
            .map_err(|_| ClientError::Path(path.to_owned()))?;
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(ClientError::Runtime)?,
        };
        let patience = self.patience;
        let result = runtime.block_on(async { timeout(patience, self.exchange(request)).await });
        self.runtime = Some(runtime);
        let result = result.unwrap_or_else(|_| {
            Err(ClientError::TimedOut { socket: self.socket.clone(), patience })
        });
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response, ClientError> {
        let is_usable = |(open, used): &(SendRequest<_>, Instant)| {
            !open.is_closed() && used.elapsed() < self.kept
        };
        let mut connection = match self.connection.take().filter(is_usable) {
            Some((open, _)) => open,
            None => self.connect().await?,
        };
        let broken = |source| ClientError::Broken { socket: self.socket.clone(), source };
        connection.ready().await.map_err(broken)?;
        let response = connection.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let is_json = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.ends_with("/json") || kind.ends_with("+json"));
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        self.connection = Some((connection, Instant::now()));
        let body = if is_json {
            serde_json::from_slice(&bytes).map_err(|source| ClientError::NoJson {
                socket: self.socket.clone(),
                status,
                source,
            })?
        } else if bytes.is_empty() {
            Value::Null
        } else {
            Value::String(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Response { status, body })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { socket: self.socket.clone(), source })?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ClientError::Broken { socket: self.socket.clone(), source })?;
        // Its errors come out of the requests.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixListener,
        thread,
    };

    use super::*;

    /// How many connections so many requests take with a daemon that closes none.
    fn connections(requests: usize, kept: Duration) -> usize {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let mut client = Client { kept, ..Client::new(&socket) };
        thread::scope(|scope| {
            let accepted = scope.spawn(move || {
                let (mut answered, mut accepted) = (0, 0);
                while answered < requests {
                    let (mut stream, _) = listener.accept().expect("a client");
                    accepted += 1;
                    while answered < requests && stream.read(&mut [0; 1_024]).is_ok_and(|n| n > 0) {
                        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("a reader");
                        answered += 1;
                    }
                }
                accepted
            });
            for _ in 0..requests {
                assert_eq!(client.get("/").expect("an answer").status, 204);
            }
            accepted.join().expect("no panic")
        })
    }

    #[test]
    fn a_connection_is_used_again_unless_the_daemon_may_be_closing_it() {
        assert_eq!(connections(3, KEPT), 1);
        assert_eq!(connections(3, Duration::ZERO), 3);
    }
}
