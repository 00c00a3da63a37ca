//! Established connections of a banned peer are closed on the host as well, so
//! that a server gets its places back: over real TCP, kept alive.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moderation_daemon::network::{Closing, Connection, Connections, Reaped, Reaper};
use moderation_tests::closer::Closer;
use moderation_tests::lab::{
    ABUSER_V4, ABUSER_V6, BYSTANDER_V4, BYSTANDER_V6, HOST_V4, HOST_V6, Lab, Pair,
};
use moderation_tests::namespace::Namespace;
use moderation_tests::{need, wait};

/// Connections that the server serves at once.
const PLACES: usize = 5;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing must come from a server that has no place free.
const A_WHILE: Duration = Duration::from_millis(300);

/// How a connection ended, as the server's process sees it.
type End = Option<ErrorKind>;

/// A server with few places, which keeps connections alive and gives back what
/// it is sent.
struct Server {
    address: SocketAddr,
    ends: Receiver<End>,
}

impl Server {
    fn open(host: &Namespace, bind: IpAddr) -> Result<Self> {
        let listener = host.run(|| Ok(TcpListener::bind((bind, 0))?))?;
        let address = listener.local_addr()?;
        let (tell, ends) = channel();
        for _ in 0..PLACES {
            let (listener, tell) = (listener.try_clone()?, tell.clone());
            thread::spawn(move || serve(&listener, &tell));
        }
        Ok(Self { address, ends })
    }

    /// An open connection that has a place, or waits for one.
    fn connect(&self, from: &Namespace, to: IpAddr) -> Result<TcpStream> {
        let server = SocketAddr::new(to, self.address.port());
        let stream = from.run(|| Ok(TcpStream::connect_timeout(&server, PATIENCE)?))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn next_end(&self) -> Result<End> {
        self.ends.recv_timeout(PATIENCE).context("no connection ends")
    }
}

/// One place. The thread ends with the test's process.
fn serve(listener: &TcpListener, tell: &Sender<End>) {
    while let Ok((mut stream, _)) = listener.accept() {
        let mut byte = [0];
        let end = loop {
            match stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break None,
                Err(error) => break Some(error.kind()),
            }
        };
        if tell.send(end).is_err() {
            return;
        }
    }
}

/// Whether the server answers on this connection.
fn is_served(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").and_then(|()| stream.read_exact(&mut byte)).is_ok()
}

/// A server whose places are taken: one by a bystander, the others by an abuser.
struct Scene {
    server: Server,
    abuser: Vec<TcpStream>,
    bystander: TcpStream,
}

impl Scene {
    fn new(lab: &Lab, bind: IpAddr, to: IpAddr) -> Result<Self> {
        let server = Server::open(&lab.host, bind)?;
        let mut bystander = server.connect(&lab.bystander, to)?;
        ensure!(is_served(&mut bystander), "the bystander has no place");
        let mut abuser = Vec::new();
        for _ in 1..PLACES {
            let mut stream = server.connect(&lab.abuser, to)?;
            ensure!(is_served(&mut stream), "the abuser has no place");
            abuser.push(stream);
        }
        Ok(Self { server, abuser, bystander })
    }

    /// That the abuser's connections are gone from the server, their places
    /// are free, and the bystander has noticed nothing.
    fn assert_places_came_back(&mut self, waiting: &mut TcpStream) -> Result<()> {
        for _ in 1..PLACES {
            assert_eq!(self.server.next_end()?, Some(ErrorKind::ConnectionAborted));
        }
        waiting.set_read_timeout(Some(PATIENCE))?;
        let mut byte = [0];
        waiting.read_exact(&mut byte).context("the one that waited is still not served")?;
        assert!(is_served(waiting));
        assert!(is_served(&mut self.bystander), "the bystander was cut off");
        assert!(self.abuser.iter_mut().all(|stream| !is_served(stream)));
        Ok(())
    }

    /// One more connection, which has asked and is not served for want of a
    /// place.
    fn wait_in_line(&self, from: &Namespace, to: IpAddr) -> Result<TcpStream> {
        let mut stream = self.server.connect(from, to)?;
        stream.write_all(b"x")?;
        stream.set_read_timeout(Some(A_WHILE))?;
        let error = stream.read_exact(&mut [0]).expect_err("all places are taken");
        ensure!(error.kind() == ErrorKind::WouldBlock, "{error}");
        Ok(stream)
    }
}

/// One round in which only the abuser is banned.
fn round(connections: &mut Connections, reaper: &mut Reaper) -> Result<(usize, usize)> {
    let is_abuser =
        |it: &Connection| [ABUSER_V4.into(), ABUSER_V6.into()].contains(&it.peer().ip());
    let Reaped { closed, waiting, result } = reaper.reap(connections, is_abuser);
    result?;
    Ok((closed, waiting))
}

fn assert_places_come_back(bind: IpAddr, to: IpAddr) -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, bind, to)?;
    let mut waiting = scene.wait_in_line(&lab.bystander, to)?;
    let mut reaper = Reaper::default();
    lab.host.run(|| {
        let mut connections = Connections::open()?;
        assert_eq!(round(&mut connections, &mut reaper)?, (0, PLACES - 1));
        let answered = scene.abuser.iter_mut().all(is_served);
        assert!(answered, "what the host has to say to the abuser still gets out");
        assert_eq!(round(&mut connections, &mut reaper)?, (PLACES - 1, 0));
        Ok(())
    })?;
    assert_eq!(reaper.closed(), 4);
    scene.assert_places_came_back(&mut waiting)
}

#[test]
fn connections_of_a_banned_ipv4_peer_give_their_places_back() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    assert_places_come_back(HOST_V4.into(), HOST_V4.into())
}

#[test]
fn connections_of_a_banned_ipv6_peer_give_their_places_back() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    assert_places_come_back(HOST_V6.into(), HOST_V6.into())
}

#[test]
fn an_ipv4_client_of_a_listener_for_both_families_is_an_ipv4_peer() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    assert_places_come_back(Ipv6Addr::UNSPECIFIED.into(), HOST_V4.into())
}

#[test]
fn it_takes_no_capability_but_that_of_network_administration() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (lab, closer) = (Lab::new()?, Closer::new()?);
    let mut scene = Scene::new(&lab, HOST_V4.into(), HOST_V4.into())?;
    let mut waiting = scene.wait_in_line(&lab.bystander, HOST_V4.into())?;

    let refused = closer.close_without_capability(&lab.host, ABUSER_V4.into());
    let complaint = refused.expect_err("it has no capability").to_string();
    assert!(complaint.contains("closing connections takes CAP_NET_ADMIN"), "{complaint}");
    assert!(scene.abuser.iter_mut().all(is_served), "nothing was closed");

    assert_eq!(closer.close(&lab.host, ABUSER_V4.into())?, 4);
    scene.assert_places_came_back(&mut waiting)
}

#[test]
fn every_connection_is_listed_once_with_its_peer_and_closing_twice_is_no_error() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let both = Ipv6Addr::UNSPECIFIED.into();
    let (over_v4, over_v6) =
        (Scene::new(&lab, both, HOST_V4.into())?, Scene::new(&lab, both, HOST_V6.into())?);
    lab.host.run(|| {
        let mut connections = Connections::open()?;
        let listed = connections.list().collect::<Result<Vec<_>, _>>()?;
        for (peer, local, port) in [
            (IpAddr::V4(BYSTANDER_V4), IpAddr::V4(HOST_V4), over_v4.server.address.port()),
            (IpAddr::V6(BYSTANDER_V6), IpAddr::V6(HOST_V6), over_v6.server.address.port()),
        ] {
            let theirs: Vec<_> = listed.iter().filter(|c| c.peer().ip() == peer).collect();
            assert_eq!(theirs.len(), 1, "{listed:?}");
            assert_eq!(theirs[0].local(), SocketAddr::new(local, port));
            assert_eq!(connections.close(theirs[0])?, Closing::Done);
            assert_eq!(connections.close(theirs[0])?, Closing::Gone);
        }
        assert_eq!(listed.len(), 2 * PLACES);
        assert_eq!(connections.list().count(), 2 * PLACES - 2);
        // Given up halfway, a listing does not stand in the next one's way.
        assert!(connections.list().next().is_some());
        assert_eq!(connections.list().count(), 2 * PLACES - 2);
        Ok(())
    })
}

#[test]
fn a_listing_that_takes_several_answers_is_whole() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    // Some 250 fit into one answer of the kernel; and with both ends they stay
    // below the usual limit of 1024 open files.
    const MANY: usize = 400;
    let pair = Pair::new()?;
    let listener = pair.host.run(|| Ok(TcpListener::bind((HOST_V4, 0))?))?;
    let server = listener.local_addr()?;
    let ends = pair.client.run(|| {
        let connect = |_| Ok((TcpStream::connect_timeout(&server, PATIENCE)?, listener.accept()?));
        (0..MANY).map(connect).collect::<Result<Vec<_>>>()
    })?;
    let banned: BTreeSet<u16> = ends.iter().step_by(2).map(|(_, (_, peer))| peer.port()).collect();
    let listed = pair.host.run(|| {
        let mut connections = Connections::open()?;
        let listed = connections.list().collect::<Result<Vec<_>, _>>()?;
        for connection in listed.iter().filter(|c| banned.contains(&c.peer().port())) {
            assert_eq!(connections.close(connection)?, Closing::Done);
        }
        assert_eq!(connections.list().count(), MANY - banned.len());
        Ok(listed)
    })?;
    let peers: BTreeSet<_> = listed.iter().map(Connection::peer).collect();
    assert_eq!(peers, ends.iter().map(|(_, (_, peer))| *peer).collect());
    assert_eq!(peers.len(), MANY);
    Ok(())
}

#[test]
fn what_is_left_of_an_ended_connection_is_not_listed() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let listener = pair.host.run(|| Ok(TcpListener::bind((HOST_V4, 0))?))?;
    let server = listener.local_addr()?;
    let client = pair.client.run(|| Ok(TcpStream::connect_timeout(&server, PATIENCE)?))?;
    let accepted = listener.accept()?.0;
    let listed = || {
        let list = || Ok(Connections::open()?.list().collect::<Result<Vec<_>, _>>()?);
        pair.host.run(list).map(|listed: Vec<_>| listed.len())
    };
    // Half closed, the process may still read: it is a connection.
    accepted.shutdown(Shutdown::Write)?;
    assert_eq!(listed()?, 1);
    // Closed on one side only, the kernel waits for the other (FIN_WAIT2).
    drop(accepted);
    wait::until("the connection to be given up", PATIENCE, || Ok((listed()? == 0).then_some(())))?;
    drop(client);
    Ok(())
}
