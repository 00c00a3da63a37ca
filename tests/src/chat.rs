//! A small chat application, as the daemon's users write it: it asks the
//! daemon about each message and does what the daemon says. It stores nothing,
//! and when the daemon is not there it lets everyone in.

use std::io::{self, BufReader};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use moderation_daemon::api::client::Client;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::{Value, json};

use crate::http::{self, Message};
use crate::namespace::Namespace;

/// The port that the chat listens on.
pub const PORT: u16 = 8080;

/// More connections at once are closed unanswered.
const CONNECTIONS: usize = 128;
/// Patience with one read or write of a visitor.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon a dropped chat notices that it is to stop.
const ACCEPT_MS: i64 = 100;

/// What the chat has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that were asked about.
    pub messages: u64,
    /// Those that the daemon denied.
    pub denied: u64,
    /// Those that broke a rule, by the daemon's answer.
    pub violations: u64,
    /// Those that were let in because the daemon gave no decision.
    pub unjudged: u64,
}

/// The running application; it ends when dropped.
#[derive(Debug)]
pub struct Chat {
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    api_socket: PathBuf,
    stopping: AtomicBool,
    connections: AtomicUsize,
    messages: AtomicU64,
    denied: AtomicU64,
    violations: AtomicU64,
    unjudged: AtomicU64,
    /// Bytes of explanation in an answer that tells about a ban.
    words: usize,
}

impl Chat {
    /// Listens on [`PORT`] of every address of the namespace.
    pub fn open(namespace: &Namespace, api_socket: &Path) -> Result<Self> {
        Self::wordy(namespace, api_socket, 0)
    }

    /// One that explains a ban at such length, in bytes.
    pub fn wordy(namespace: &Namespace, api_socket: &Path, words: usize) -> Result<Self> {
        let listener = namespace.run(listen).context("cannot open the chat")?;
        let state =
            Arc::new(State { api_socket: api_socket.to_owned(), words, ..State::default() });
        let accepting = thread::Builder::new()
            .name("chat".to_owned())
            .spawn({
                let state = Arc::clone(&state);
                move || accept(&listener, &state)
            })
            .context("cannot start a thread")?;
        Ok(Self { state, accepting: Some(accepting) })
    }

    /// What it has seen so far.
    pub fn tally(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            messages: read(&self.state.messages),
            denied: read(&self.state.denied),
            violations: read(&self.state.violations),
            unjudged: read(&self.state.unjudged),
        }
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.accepting.take().map(JoinHandle::join) {
            eprintln!("the chat panicked");
        }
    }
}

fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    // Bounds `accept` too (socket(7)).
    setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::milliseconds(ACCEPT_MS))?;
    Ok(listener)
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    while !state.stopping.load(Ordering::Relaxed) {
        let Ok((stream, peer)) = listener.accept() else { continue };
        let place = Place::take(state);
        if state.connections.load(Ordering::Relaxed) > CONNECTIONS {
            continue;
        }
        let serve = move || serve(&stream, peer, &place);
        if let Err(error) = thread::Builder::new().name("visitor".to_owned()).spawn(serve) {
            eprintln!("chat: cannot start a thread: {error}");
        }
    }
}

/// One of the places for connections, given back when dropped.
struct Place(Arc<State>);

impl Place {
    fn take(state: &Arc<State>) -> Self {
        state.connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(state))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers one connection until it closes or misbehaves; how it ended is the
/// visitor's affair.
fn serve(stream: &TcpStream, peer: SocketAddr, Place(state): &Place) {
    drop(converse(stream, peer.ip().to_canonical(), state));
}

fn converse(mut stream: &TcpStream, peer: IpAddr, state: &State) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut daemon = Client::new(&state.api_socket);
    let mut requests = BufReader::new(stream);
    while let Some(request) = http::read(&mut requests)? {
        let (status, body) = answer(&request, peer, state, &mut daemon);
        http::write(&mut stream, &format!("HTTP/1.1 {status}"), &[], &body)?;
    }
    Ok(())
}

fn answer(
    request: &Message,
    peer: IpAddr,
    state: &State,
    daemon: &mut Client,
) -> (&'static str, Value) {
    match (request.start.as_str(), request.header("x-user")) {
        ("GET / HTTP/1.1", _) => ("200 OK", json!({ "chat": "say something" })),
        ("POST /api/messages HTTP/1.1", Some(user)) => message(user, peer, state, daemon),
        ("POST /api/messages HTTP/1.1", None) => {
            ("401 Unauthorized", json!({ "error": "who are you?" }))
        }
        _ => ("404 Not Found", json!({ "error": "there is no such thing" })),
    }
}

/// This is the whole of what an application does to be moderated.
fn message(user: &str, peer: IpAddr, state: &State, daemon: &mut Client) -> (&'static str, Value) {
    count(&state.messages);
    let event = json!({ "type": "message", "user": user, "ip": peer });
    let decision = match daemon.post("/v1/events", &event) {
        Ok(response) if response.status == 200 => response.body,
        // A moderation system that is down must not take the chat with it.
        _ => {
            count(&state.unjudged);
            return echo();
        }
    };
    if decision["violation"].is_object() {
        count(&state.violations);
    }
    if decision["decision"] != "deny" {
        return echo();
    }
    count(&state.denied);
    let (status, mut body) = denial(&decision);
    if state.words > 0 {
        body["words"] = json!("x".repeat(state.words));
    }
    (status, body)
}

fn echo() -> (&'static str, Value) {
    ("200 OK", json!({ "text": "and a good day to you" }))
}

/// The ban's end stays between the daemon and us; that there is one is told.
fn denial(decision: &Value) -> (&'static str, Value) {
    let banned = decision["ban"].is_object();
    let status = if banned { "403 Forbidden" } else { "429 Too Many Requests" };
    (status, json!({ "error": decision["reason"], "banned": banned }))
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_over_the_limit_is_told_to_slow_down_and_who_is_banned_is_told_so() {
        let limited = denial(&json!({ "decision": "deny", "reason": "message_limit" }));
        assert_eq!(limited.0, "429 Too Many Requests");
        let banned = denial(&json!({ "reason": "message_limit", "ban": { "id": 1 } }));
        assert_eq!(banned.1, json!({ "error": "message_limit", "banned": true }));
    }

    #[test]
    fn without_a_daemon_everyone_is_let_in() {
        let state = State { api_socket: "/nonexistent/api.sock".into(), ..State::default() };
        let mut daemon = Client::new(&state.api_socket);
        let peer = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let (status, _) = message("alice", peer, &state, &mut daemon);
        assert_eq!(status, "200 OK");
        assert_eq!(state.unjudged.load(Ordering::Relaxed), 1);
    }
}
