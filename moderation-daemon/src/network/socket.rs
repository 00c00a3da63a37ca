//! The TCP connections of this network namespace, over sock_diag(7): listed,
//! which needs no privilege, and closed one by one, which takes CAP_NET_ADMIN.
//! Whom to disconnect is the [`Reaper`](super::Reaper)'s affair.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    num::NonZeroI32,
    os::fd::{AsRawFd as _, OwnedFd},
};

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SockDiagDestroy, SockDiagMessage, TCP_FIN_WAIT2, TCP_TIME_WAIT,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt,
            socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

/// Its bit in a set of capabilities (`linux/capability.h`: number 12).
const CAP_NET_ADMIN: u64 = 1 << 12;

/// What failed, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// No sock_diag socket.
    #[error("cannot open a netlink socket of the family sock_diag")]
    Open(#[source] io::Error),
    /// The kernel has no such thing.
    #[error(
        "this kernel cannot list TCP connections: it needs CONFIG_INET_DIAG and \
         CONFIG_INET_TCP_DIAG (modules inet_diag and tcp_diag)"
    )]
    CannotList,
    /// The listing broke off.
    #[error("cannot list TCP connections")]
    List(#[source] io::Error),
    /// The process lacks the capability.
    #[error("closing connections takes CAP_NET_ADMIN, which this process lacks")]
    NotPermitted,
    /// The kernel can list, but not close.
    #[error(
        "this kernel cannot close connections: it was built without CONFIG_INET_DIAG_DESTROY \
         (Linux 4.5 and later have it)"
    )]
    CannotClose,
    /// No answer, or none that could be read.
    #[error("the kernel does not answer about TCP connections")]
    Silent(#[source] io::Error),
    /// One connection could not be closed.
    #[error("cannot close the connection of {peer}")]
    Close {
        /// Whose it is.
        peer: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The kernel said something else than it should.
    #[error("cannot understand what the kernel says about TCP connections")]
    Answer(#[source] DecodeError),
}

/// A TCP connection that this host is one end of.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    peer: SocketAddr,
    id: SocketId,
    family: u8,
}

impl Connection {
    fn of(response: &InetResponse) -> Self {
        let id = response.header.socket_id.clone();
        // An IPv4 client of an IPv6 listener is an IPv4 client.
        let peer = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
        Self { peer, id, family: response.header.family }
    }

    /// The other end; never an IPv4-mapped address.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// This end; never an IPv4-mapped address.
    pub const fn local(&self) -> SocketAddr {
        SocketAddr::new(self.id.source_address.to_canonical(), self.id.source_port)
    }

    /// The kernel's number for the socket, never given to another one (kernel:
    /// `__sock_gen_cookie`).
    pub(super) const fn cookie(&self) -> u64 {
        u64::from_ne_bytes(self.id.cookie)
    }

    #[cfg(test)]
    pub(super) fn invented(peer: std::net::IpAddr, cookie: u64) -> Self {
        let mut id = if peer.is_ipv4() { SocketId::new_v4() } else { SocketId::new_v6() };
        id.cookie = cookie.to_ne_bytes();
        let family = if peer.is_ipv4() { AF_INET } else { AF_INET6 };
        Self { peer: SocketAddr::new(peer, 50_000), id, family }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} to {}, cookie {})", self.peer, self.local(), self.cookie())
    }
}

/// What has become of a connection that was to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Closed: the peer was sent a reset, and whoever holds the socket here
    /// reads `ECONNABORTED`.
    Done,
    /// It had ended by itself.
    Gone,
}

/// The connections of the network namespace of the thread that opens this.
#[derive(Debug)]
pub struct Connections {
    channel: Channel,
}

impl Connections {
    /// Opens the socket over which connections are closed. That alone takes no
    /// capability.
    ///
    /// # Errors
    ///
    /// [`SocketError::Open`]
    pub fn open() -> Result<Self, SocketError> {
        Ok(Self { channel: Channel::open()? })
    }

    /// Whether this process may close any, by what the kernel says about its
    /// capabilities (proc(5), `CapEff`). It would be found out only at the first
    /// connection that is to be closed.
    ///
    /// # Errors
    ///
    /// [`SocketError::NotPermitted`]
    pub fn require_permission() -> Result<(), SocketError> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        match effective {
            Some(set) if set & CAP_NET_ADMIN == 0 => Err(SocketError::NotPermitted),
            // Without /proc it is found out later.
            _ => Ok(()),
        }
    }

    /// Lists the connections, IPv4 and IPv6, of the calling thread's network
    /// namespace, a few at a time and in no order. Listening sockets,
    /// connections that are only asked for, and what is left of ended ones
    /// (`TIME_WAIT`) are left out; none of them holds a place in a program.
    ///
    /// What comes or goes meanwhile may be missing or come twice, which the
    /// kernel marks by `NLM_F_DUMP_INTR`; the next listing has it right.
    pub const fn list(&self) -> Listing {
        Listing { families: [AF_INET6, AF_INET], families_left: 2, dump: None }
    }

    /// Closes one connection, whatever state it is in.
    ///
    /// # Errors
    ///
    /// [`SocketError::NotPermitted`] and [`SocketError::CannotClose`] will be
    /// so for every connection; anything else concerns this one.
    pub fn close(&mut self, connection: &Connection) -> Result<Closing, SocketError> {
        let failed = |source: Errno| SocketError::Close {
            peer: connection.peer,
            source: io::Error::from(source),
        };
        let request = request(connection.family, connection.id.clone());
        self.channel.send(SockDiagDestroy::new(request), NLM_F_ACK).map_err(failed)?;
        match self.acknowledgement()?.map(errno) {
            None => Ok(Closing::Done),
            // By now its addresses lead nowhere, to its listener or to another
            // connection, whose cookie differs (ESTALE).
            Some(Errno::ENOENT | Errno::ESTALE) => Ok(Closing::Gone),
            Some(Errno::EPERM | Errno::EACCES) => Err(SocketError::NotPermitted),
            Some(Errno::EOPNOTSUPP) if self.is_remnant(connection)? => Ok(Closing::Gone),
            Some(Errno::EOPNOTSUPP) => Err(SocketError::CannotClose),
            Some(other) => Err(failed(other)),
        }
    }

    /// Whether nothing but a remnant is left of a connection that was listed,
    /// which some kernels say they cannot close (kernel: `tcp_abort`).
    fn is_remnant(&mut self, connection: &Connection) -> Result<bool, SocketError> {
        let request = request(connection.family, connection.id.clone());
        self.channel.send(request, 0).map_err(|source| SocketError::List(source.into()))?;
        loop {
            match self.channel.next()? {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    return Ok(is_remnant(&response));
                }
                NetlinkPayload::Error(_) => return Ok(true), // gone by now
                _ => {}
            }
        }
    }

    fn acknowledgement(&mut self) -> Result<Option<NonZeroI32>, SocketError> {
        loop {
            if let NetlinkPayload::Error(error) = self.channel.next::<SockDiagMessage>()? {
                return Ok(error.code);
            }
        }
    }
}

/// The connections that there are; see [`Connections::list`]. An error ends
/// the address family that it came in, not the listing.
#[derive(Debug)]
pub struct Listing {
    /// Those still to be listed are the first ones.
    families: [u8; 2],
    families_left: usize,
    dump: Option<Channel>,
}

impl Iterator for Listing {
    type Item = Result<Connection, SocketError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(dump) = &mut self.dump else {
                self.families_left = self.families_left.checked_sub(1)?;
                match begin(self.families[self.families_left]) {
                    Ok(dump) => self.dump = Some(dump),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            };
            match next_listed(dump) {
                Ok(Some(connection)) => return Some(Ok(connection)),
                Ok(None) => self.dump = None,
                Err(error) => {
                    self.dump = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Asks for all connections of one address family. A socket of its own for
/// each: a listing may be given up halfway, and a socket has one dump at a
/// time (kernel: `__netlink_dump_start`, `-EBUSY`).
fn begin(family: u8) -> Result<Channel, SocketError> {
    let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let mut channel = Channel::open()?;
    channel
        .send(request(family, any), NLM_F_DUMP)
        .map_err(|source| SocketError::List(source.into()))?;
    Ok(channel)
}

fn next_listed(dump: &mut Channel) -> Result<Option<Connection>, SocketError> {
    loop {
        match dump.next::<SockDiagMessage>()? {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response))
                if !is_remnant(&response) =>
            {
                return Ok(Some(Connection::of(&response)));
            }
            NetlinkPayload::Done(done) => {
                return NonZeroI32::new(done.code).map_or(Ok(None), |code| Err(broken_off(code)));
            }
            NetlinkPayload::Error(error) => {
                return error.code.map_or(Ok(None), |code| Err(broken_off(code)));
            }
            _ => {}
        }
    }
}

/// Whether all that is left is the kernel's memory of an ended connection. In
/// `FIN_WAIT2` there may be a process behind it or not, and only with one is
/// there an inode.
fn is_remnant(response: &InetResponse) -> bool {
    let is_ending = matches!(response.header.state, TCP_TIME_WAIT | TCP_FIN_WAIT2);
    is_ending && response.header.inode == 0
}

fn broken_off(code: NonZeroI32) -> SocketError {
    match errno(code) {
        // Nobody there who could answer (kernel: `__sock_diag_cmd`,
        // `inet_diag_lock_handler`).
        Errno::ENOENT => SocketError::CannotList,
        other => SocketError::List(other.into()),
    }
}

fn errno(code: NonZeroI32) -> Errno {
    Errno::from_raw(code.get().saturating_abs())
}

/// About the socket `id`, or about all of a family if its addresses are
/// unspecified.
const fn request(family: u8, id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: CONNECTED,
        socket_id: id,
    })
}

/// The states in which a connection takes up a place here: from the first SYN
/// of a peer to the end of what is still to be said to it.
const CONNECTED: StateFlags = StateFlags::SYN_RECV
    .union(StateFlags::ESTABLISHED)
    .union(StateFlags::FIN_WAIT1)
    .union(StateFlags::FIN_WAIT2)
    .union(StateFlags::CLOSE_WAIT)
    .union(StateFlags::CLOSING)
    .union(StateFlags::LAST_ACK);

/// A netlink socket with the messages that were read from it and not yet
/// looked at.
#[derive(Debug)]
struct Channel {
    socket: OwnedFd,
    sequence_number: u32,
    read: Vec<u8>,
    at: usize,
}

/// As much as the kernel puts into one answer (kernel: `netlink_recvmsg`,
/// `max_recvmsg_len`).
const ANSWER_BYTES: usize = 32 * 1024;

/// How long the kernel may take for an answer, which it has at once.
const PATIENCE_S: i64 = 5;

/// Messages start at multiples of this (netlink(7), `NLMSG_ALIGN`).
const ALIGNMENT: usize = 4;

impl Channel {
    fn open() -> Result<Self, SocketError> {
        let failed = |source: Errno| SocketError::Open(source.into());
        let protocol = SockProtocol::NetlinkSockDiag;
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket =
            socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol).map_err(failed)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))
            .map_err(failed)?;
        Ok(Self { socket, sequence_number: 0, read: vec![0; ANSWER_BYTES], at: ANSWER_BYTES })
    }

    fn send<M>(&mut self, body: M, flags: u16) -> Result<(), Errno>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        self.sequence_number = self.sequence_number.wrapping_add(1);
        let mut message = NetlinkMessage::from(body);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence_number;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        retry(|| send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())).map(drop)
    }

    /// The next message that answers what was sent last.
    fn next<M: NetlinkDeserializable>(&mut self) -> Result<NetlinkPayload<M>, SocketError> {
        loop {
            if self.at >= self.read.len() {
                self.receive().map_err(|source| SocketError::Silent(source.into()))?;
            }
            let message = NetlinkMessage::<M>::deserialize(&self.read[self.at..])
                .map_err(SocketError::Answer)?;
            let (header, payload) = message.into_parts();
            let length = usize::try_from(header.length).unwrap_or(usize::MAX);
            self.at = self.at.saturating_add(length).next_multiple_of(ALIGNMENT);
            // The answer to a question whose asker has lost patience.
            if header.sequence_number == self.sequence_number {
                return Ok(payload);
            }
        }
    }

    fn receive(&mut self) -> Result<(), Errno> {
        self.read.resize(ANSWER_BYTES, 0);
        let received = retry(|| {
            match recv(self.socket.as_raw_fd(), &mut self.read, MsgFlags::MSG_TRUNC) {
                // Some messages are lost, the others still come (netlink(7)).
                Err(Errno::ENOBUFS) => Err(Errno::EINTR),
                other => other,
            }
        })?;
        if received > ANSWER_BYTES {
            return Err(Errno::EMSGSIZE);
        }
        self.read.truncate(received);
        self.at = 0;
        Ok(())
    }
}

/// A signal interrupts a call; it is made again.
fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
