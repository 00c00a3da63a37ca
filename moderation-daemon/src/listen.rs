//! The sockets that we listen on: those that the service manager bound for us
//! (sd_listen_fds(3)), and those that we bind ourselves. They outlive a reload, so that
//! whoever connects meanwhile waits instead of being turned away.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use listenfd::ListenFd;
use nix::{
    sys::stat::{Mode, umask},
    unistd::{Gid, Group},
};

use crate::config;

/// Why a socket could not be had.
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
    /// What was handed over is not what was expected.
    #[error("cannot use descriptor {number} of those that the service manager passed")]
    Passed {
        /// Which one, from 0.
        number: usize,
        /// Why not.
        source: io::Error,
    },
    /// We may not bind it, and the service manager did not.
    #[error("cannot listen on {}, nor did the service manager pass it", path.display())]
    NotPassed {
        /// The socket.
        path: PathBuf,
        /// Why we cannot.
        source: io::Error,
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

/// All of them, by their paths.
#[derive(Debug, Default)]
pub struct Sockets {
    streams: BTreeMap<PathBuf, Held<UnixListener>>,
    datagrams: BTreeMap<PathBuf, Held<UnixDatagram>>,
    /// Whether the service manager passed any.
    is_activated: bool,
}

#[derive(Debug)]
struct Held<S> {
    socket: S,
    /// Whether it was passed, so that its owner and mode are not our affair.
    is_passed: bool,
    /// Whether this life uses it.
    is_used: bool,
}

/// A socket and the group whose members may use it.
type Granted<S> = (S, Option<Gid>);

impl Sockets {
    /// Those that were passed to this process. To be called once, while it has one
    /// thread.
    ///
    /// # Errors
    ///
    /// If one of them is no Unix socket with a path.
    pub fn of_process() -> Result<Self, ListenError> {
        let mut passed = ListenFd::from_env();
        let mut sockets = Self { is_activated: passed.len() > 0, ..Self::default() };
        for number in 0..passed.len() {
            let failed = |source| ListenError::Passed { number, source };
            if let Ok(Some(socket)) = passed.take_unix_listener(number) {
                let path = path_of(&socket.local_addr().map_err(failed)?).map_err(failed)?;
                sockets.streams.insert(path, Held::passed(socket));
            } else if let Some(socket) = passed.take_unix_datagram(number).map_err(failed)? {
                let path = path_of(&socket.local_addr().map_err(failed)?).map_err(failed)?;
                sockets.datagrams.insert(path, Held::passed(socket));
            }
        }
        Ok(sockets)
    }

    /// A socket for connections, which only the daemon's user and the configured group
    /// can open. One that a killed daemon left is replaced.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn stream(
        &mut self,
        config: &config::Socket,
    ) -> Result<Granted<UnixListener>, ListenError> {
        grant(&mut self.streams, config, self.is_activated, |path| UnixListener::bind(path))
    }

    /// A socket for datagrams, in the same way.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn datagram(
        &mut self,
        config: &config::Socket,
    ) -> Result<Granted<UnixDatagram>, ListenError> {
        grant(&mut self.datagrams, config, self.is_activated, |path| UnixDatagram::bind(path))
    }

    /// Begins another life, which may ask for others.
    pub fn begin(&mut self) {
        self.streams.values_mut().for_each(|held| held.is_used = false);
        self.datagrams.values_mut().for_each(|held| held.is_used = false);
    }

    /// Gives up what nobody asked for in this life, and returns those connections' sockets
    /// that were passed: somebody must tell whoever connects there.
    ///
    /// # Errors
    ///
    /// If one cannot be removed or shared.
    pub fn unused(&mut self) -> Result<Vec<(PathBuf, UnixListener)>, ListenError> {
        let mut deaf = Vec::new();
        for (path, held) in self.streams.iter().filter(|(_, held)| !held.is_used) {
            if held.is_passed {
                let socket = held.socket.try_clone();
                deaf.push((path.clone(), socket.map_err(failed("share", path))?));
            }
        }
        give_up(&mut self.streams)?;
        give_up(&mut self.datagrams)?;
        Ok(deaf)
    }
}

impl<S> Held<S> {
    const fn passed(socket: S) -> Self {
        Self { socket, is_passed: true, is_used: false }
    }
}

/// What is held and can be shared.
trait Shared: Sized {
    fn share(&self) -> io::Result<Self>;
}

impl Shared for UnixListener {
    fn share(&self) -> io::Result<Self> {
        self.try_clone()
    }
}

impl Shared for UnixDatagram {
    fn share(&self) -> io::Result<Self> {
        self.try_clone()
    }
}

fn grant<S: Shared>(
    held: &mut BTreeMap<PathBuf, Held<S>>,
    config: &config::Socket,
    is_activated: bool,
    bind: impl FnOnce(&Path) -> io::Result<S>,
) -> Result<Granted<S>, ListenError> {
    let path = &config.path;
    let group = config.group.as_deref().and_then(|name| find_group(name, path));
    if !held.contains_key(path) {
        let socket = place(path, is_activated, bind)?;
        held.insert(path.clone(), Held { socket, is_passed: false, is_used: true });
    }
    let held = held.get_mut(path).expect("it was put there if it was not");
    held.is_used = true;
    if held.is_passed {
        compare(path, group)?;
    } else {
        open_to(path, group)?;
    }
    Ok((held.socket.share().map_err(failed("share", path))?, group))
}

/// Binds something that nobody else can reach yet.
fn place<S>(
    path: &Path,
    is_activated: bool,
    bind: impl FnOnce(&Path) -> io::Result<S>,
) -> Result<S, ListenError> {
    if let Some(folder) = path.parent() {
        let mut make = DirBuilder::new();
        make.recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(failed("make a folder for", path))?;
    }
    remove_stale(path).map_err(|error| explained(error, is_activated))?;
    // Closed from the first moment on, and opened to the group afterwards.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = bind(path);
    umask(before);
    bound.map_err(failed("listen on", path)).map_err(|error| explained(error, is_activated))
}

/// A daemon that is given its sockets is mostly allowed to make none.
fn explained(error: ListenError, is_activated: bool) -> ListenError {
    match error {
        ListenError::Io { path, source, .. } if is_activated => {
            ListenError::NotPassed { path, source }
        }
        error => error,
    }
}

fn open_to(path: &Path, group: Option<Gid>) -> Result<(), ListenError> {
    let Some(group) = group else {
        let closed = fs::Permissions::from_mode(0o600);
        return fs::set_permissions(path, closed).map_err(failed("close", path));
    };
    chown(path, None, Some(group.as_raw()))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o660)))
        .map_err(failed("give its group access to", path))
}

/// Says so if a unit gives a socket to another group than the configuration: what counts
/// is the stricter of both.
fn compare(path: &Path, group: Option<Gid>) -> Result<(), ListenError> {
    let owner = fs::symlink_metadata(path).map_err(failed("look at", path))?.gid();
    if group.is_some_and(|group| group.as_raw() != owner) {
        tracing::warn!(
            socket = %path.display(),
            group = owner,
            "the socket unit gives the socket to another group than the configuration; \
             nobody but the daemon's user can use it until they agree (SocketGroup=)"
        );
    }
    Ok(())
}

/// Closes what is not used, but for what was passed: the service manager keeps that.
fn give_up<S>(held: &mut BTreeMap<PathBuf, Held<S>>) -> Result<(), ListenError> {
    let is_left = |held: &Held<S>| !held.is_used && !held.is_passed;
    for path in held.iter().filter(|(_, held)| is_left(held)).map(|(path, _)| path) {
        fs::remove_file(path).map_err(failed("remove the unused", path))?;
    }
    held.retain(|_, held| !is_left(held));
    Ok(())
}

fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(failed("look at", path))?,
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NoSocket { path: path.to_owned() });
    }
    let is_heard = UnixDatagram::unbound().and_then(|it| it.connect(path)).is_ok();
    if is_heard || UnixStream::connect(path).is_ok() {
        return Err(ListenError::InUse { path: path.to_owned() });
    }
    fs::remove_file(path).map_err(failed("remove the stale", path))
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

fn path_of(address: &std::os::unix::net::SocketAddr) -> io::Result<PathBuf> {
    let unnamed = || io::Error::new(io::ErrorKind::InvalidInput, "it has no path");
    address.as_pathname().map(Path::to_owned).ok_or_else(unnamed)
}

fn failed<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> ListenError + use<'a> {
    move |source| ListenError::Io { operation, path: path.to_owned(), source }
}
