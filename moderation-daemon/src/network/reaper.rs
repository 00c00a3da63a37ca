//! Which connections of banned peers to close, and when: not before a second
//! look. It does not know who is banned, and keeps no time.

use std::collections::HashSet;

use super::socket::{Closing, Connection, Connections, SocketError};

/// How many connections can be on their way to be closed. The ones beyond wait
/// for a later round, so that a flood of them takes up a few MB and no more.
pub const MAX_SUSPECTS: usize = 1 << 18;

/// How many connections one round closes: a third of a second's work at 5 µs
/// each, measured on Linux 6.18.
pub const MAX_CLOSINGS: usize = 1 << 16;

/// Remembers whose connection was found banned in the round before.
#[derive(Debug, Default)]
pub struct Reaper {
    /// By cookie.
    suspects: HashSet<u64>,
    closed: u64,
}

/// What one round has done.
#[derive(Debug)]
pub struct Reaped {
    /// How many connections were closed.
    pub closed: usize,
    /// How many connections of banned peers wait for the next round.
    pub waiting: usize,
    /// The first thing that went wrong; what was possible nevertheless is done.
    pub result: Result<(), SocketError>,
}

impl Reaper {
    /// Which of the `connections` that there are now to close: those whose peer
    /// `is_banned` now and was in the round before. Between the two rounds the
    /// answer goes out that tells a person about the ban. Connections from
    /// loopback are never among them.
    ///
    /// `is_banned` must say no for whom the allowlist or a guard protects, and
    /// for bans that have lapsed: a ban map alone does not know, a
    /// [`Judge`](super::Judge) does.
    pub fn round(
        &mut self,
        connections: impl IntoIterator<Item = Connection>,
        mut is_banned: impl FnMut(&Connection) -> bool,
    ) -> Vec<Connection> {
        let mut suspects = HashSet::new();
        let mut room = MAX_SUSPECTS.saturating_sub(self.suspects.len());
        let mut due = Vec::new();
        for connection in connections {
            if connection.peer().ip().is_loopback() || !is_banned(&connection) {
                continue;
            }
            let cookie = connection.cookie();
            let was_suspect = self.suspects.contains(&cookie);
            // A suspect keeps its place until it is gone: it may fail to close,
            // or be more than this round's share.
            if !was_suspect && room == 0 || !suspects.insert(cookie) {
                continue;
            }
            if !was_suspect {
                room -= 1;
            } else if due.len() < MAX_CLOSINGS {
                due.push(connection);
            }
        }
        self.suspects = suspects;
        due
    }

    /// One round with the kernel: lists, asks `is_banned` as in
    /// [`Reaper::round`], and closes.
    pub fn reap(
        &mut self,
        connections: &mut Connections,
        is_banned: impl FnMut(&Connection) -> bool,
    ) -> Reaped {
        let mut result = Ok(());
        let listed = connections.list().filter_map(|listed| match listed {
            Ok(connection) => Some(connection),
            Err(error) => {
                note(&mut result, error);
                None
            }
        });
        let due = self.round(listed, is_banned);
        let closed = close(connections, &due, &mut result);
        self.closed = self.closed.saturating_add(u64::try_from(closed).unwrap_or(u64::MAX));
        let waiting = self.suspects.len().saturating_sub(due.len());
        Reaped { closed, waiting, result }
    }

    /// How many connections have been closed since the beginning.
    pub const fn closed(&self) -> u64 {
        self.closed
    }
}

/// Says how many were closed. What is wrong with one is not wrong with the
/// next, but for what is wrong with this process or kernel.
fn close(
    connections: &mut Connections,
    due: &[Connection],
    result: &mut Result<(), SocketError>,
) -> usize {
    let mut closed = 0;
    for connection in due {
        match connections.close(connection) {
            Ok(Closing::Done) => closed += 1,
            Ok(Closing::Gone) => {}
            Err(error @ (SocketError::NotPermitted | SocketError::CannotClose)) => {
                // More to the point than whatever went wrong before.
                *result = Err(error);
                break;
            }
            Err(error) => note(result, error),
        }
    }
    closed
}

fn note(result: &mut Result<(), SocketError>, error: SocketError) {
    if result.is_ok() {
        *result = Err(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    const BANNED: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 8));

    const NONE: [u64; 0] = [];

    fn of(peer: IpAddr, cookies: impl IntoIterator<Item = u64>) -> Vec<Connection> {
        cookies.into_iter().map(|cookie| Connection::invented(peer, cookie)).collect()
    }

    fn cookies(due: &[Connection]) -> Vec<u64> {
        due.iter().map(Connection::cookie).collect()
    }

    /// A round in which one peer is banned.
    fn round(reaper: &mut Reaper, connections: Vec<Connection>) -> Vec<u64> {
        cookies(&reaper.round(connections, |it| it.peer().ip() == BANNED))
    }

    #[test]
    fn a_connection_is_closed_when_it_is_found_banned_a_second_time() {
        let mut reaper = Reaper::default();
        let there = || [of(BANNED, [1, 2]), of(OTHER, [3])].concat();
        assert_eq!(round(&mut reaper, there()), NONE);
        assert_eq!(round(&mut reaper, there()), [1, 2]);
    }

    #[test]
    fn a_ban_that_ends_between_two_rounds_saves_the_connection() {
        let mut reaper = Reaper::default();
        assert_eq!(round(&mut reaper, of(BANNED, [1])), NONE);
        assert!(reaper.round(of(BANNED, [1]), |_| false).is_empty());
        assert_eq!(round(&mut reaper, of(BANNED, [1])), NONE, "the rounds were not consecutive");
    }

    #[test]
    fn a_new_connection_from_the_same_peer_has_a_round_of_its_own() {
        let mut reaper = Reaper::default();
        assert_eq!(round(&mut reaper, of(BANNED, [1])), NONE);
        assert_eq!(round(&mut reaper, of(BANNED, [1, 2])), [1]);
        assert_eq!(round(&mut reaper, of(BANNED, [2])), [2]);
        assert_eq!(round(&mut reaper, Vec::new()), NONE);
    }

    #[test]
    fn what_is_listed_twice_in_one_round_counts_once() {
        let mut reaper = Reaper::default();
        assert_eq!(round(&mut reaper, of(BANNED, [1, 1])), NONE);
        assert_eq!(round(&mut reaper, of(BANNED, [1, 1])), [1]);
    }

    #[test]
    fn what_did_not_close_is_closed_in_the_next_round() {
        let mut reaper = Reaper::default();
        for expected in [vec![], vec![1], vec![1]] {
            assert_eq!(round(&mut reaper, of(BANNED, [1])), expected);
        }
    }

    #[test]
    fn loopback_is_never_closed() {
        let mut reaper = Reaper::default();
        for peer in ["127.0.0.1", "127.8.9.10", "::1"] {
            let peer = peer.parse().expect("an address");
            for _ in 0..3 {
                assert!(reaper.round(of(peer, [1]), |_| true).is_empty(), "{peer}");
            }
        }
    }

    #[test]
    fn a_flood_of_connections_takes_bounded_memory_and_is_closed_bit_by_bit() {
        let mut reaper = Reaper::default();
        let most = u64::try_from(MAX_SUSPECTS).expect("small");
        let flood = || of(BANNED, 0..most + 10);
        assert_eq!(round(&mut reaper, flood()), NONE);
        assert_eq!(reaper.suspects.len(), MAX_SUSPECTS);
        assert_eq!(round(&mut reaper, flood()).len(), MAX_CLOSINGS);
        assert_eq!(reaper.suspects.len(), MAX_SUSPECTS);
        // Newcomers that are listed first do not swell it either.
        let next = [of(BANNED, most..2 * most), of(BANNED, 0..most)].concat();
        assert_eq!(round(&mut reaper, next).len(), MAX_CLOSINGS);
        assert_eq!(reaper.suspects.len(), MAX_SUSPECTS);
    }
}
