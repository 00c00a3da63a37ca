//! Someone who uses the chat over real TCP from a given namespace and address.
//! Not getting an answer is one of its outcomes, not an error.

use std::io::{self, BufReader, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::{Value, json};

use crate::http;
use crate::namespace::Namespace;

/// What came of asking the chat for something.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The chat answered.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The body, `null` if it was not JSON.
        body: Value,
    },
    /// Nothing came back in time, neither a handshake nor an answer.
    Timeout,
    /// The host said that nobody listens.
    Refused,
    /// Anything else that went wrong.
    Failed(String),
}

impl Outcome {
    /// Whether the chat answered with this status.
    pub fn is_status(&self, expected: u16) -> bool {
        matches!(self, Self::Answer { status, .. } if *status == expected)
    }

    /// Whether anything at all came back from the chat.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Answer { .. })
    }
}

impl From<io::Error> for Outcome {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Timeout,
            // So shows a send timeout on connect (socket(7)).
            _ if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Self::Timeout,
            ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// A user at an address.
#[derive(Clone, Debug)]
pub struct Visitor {
    namespace: Namespace,
    source: IpAddr,
    server: SocketAddr,
    user: String,
    patience: Duration,
}

impl Visitor {
    /// A visitor who waits two seconds for a handshake and as long for an answer.
    pub fn new(namespace: &Namespace, source: IpAddr, server: SocketAddr, user: &str) -> Self {
        let patience = Duration::from_secs(2);
        Self { namespace: namespace.clone(), source, server, user: user.to_owned(), patience }
    }

    /// The same with another patience.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The address that the packets come from.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// Sends a message over a new connection.
    pub fn say(&self, text: &str) -> Outcome {
        self.connect().map_or_else(Outcome::from, |mut connection| connection.say(text))
    }

    /// Asks for the chat's page over a new connection; that is no event.
    pub fn look(&self) -> Outcome {
        self.connect().map_or_else(Outcome::from, |mut connection| connection.look())
    }

    /// Opens a connection to be used several times.
    pub fn connect(&self) -> io::Result<Connection> {
        Ok(Connection { stream: BufReader::new(self.open()?), user: self.user.clone() })
    }

    /// Opens a connection on which anything can be said.
    pub fn open(&self) -> io::Result<TcpStream> {
        let open = || Ok(open(self.source, self.server, self.patience)?);
        self.namespace.run(open).map_err(|error| {
            error
                .downcast::<io::Error>()
                .unwrap_or_else(|error| io::Error::other(format!("{error:#}")))
        })
    }

    /// Asks for so many connections, and awaits none of them.
    pub fn knock(&self, times: usize) -> Result<()> {
        self.namespace.run(|| {
            (0..times).try_for_each(|_| match begin(self.source, self.server) {
                Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
                Err(error) => Err(error.into()),
            })
        })
    }
}

/// An open connection to the chat.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    user: String,
}

impl Connection {
    /// Sends a message.
    pub fn say(&mut self, text: &str) -> Outcome {
        self.ask("POST /api/messages HTTP/1.1", &json!({ "text": text }))
    }

    /// Asks for the chat's page.
    pub fn look(&mut self) -> Outcome {
        self.ask("GET / HTTP/1.1", &Value::Null)
    }

    fn ask(&mut self, start: &str, body: &Value) -> Outcome {
        let headers = [("host", "chat.example"), ("x-user", self.user.as_str())];
        let answer = http::write(self.stream.get_mut(), start, &headers, body)
            .and_then(|()| http::read(&mut self.stream));
        match answer {
            Ok(Some(answer)) => {
                Outcome::Answer { status: answer.status().unwrap_or_default(), body: answer.json() }
            }
            Ok(None) => Outcome::Failed("the chat closed the connection".to_owned()),
            Err(error) => error.into(),
        }
    }
}

/// Connects from a given address, which `std` cannot.
fn open(source: IpAddr, server: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let milliseconds = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(milliseconds))?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    retry(|| connect(socket.as_raw_fd(), &SockaddrStorage::from(server)))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Goes away before anybody has answered.
fn begin(source: IpAddr, server: SocketAddr) -> nix::Result<()> {
    let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(server))
}

/// A signal interrupts `connect` with a timeout; asked again it goes on waiting.
fn retry(mut call: impl FnMut() -> nix::Result<()>) -> nix::Result<()> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
