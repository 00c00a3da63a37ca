//! Where maps, program and links are pinned, and who may do what with them.
//! The folders are root's; the daemon's user gets the maps it works on.

use std::{
    fs::{self, DirBuilder, Metadata, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use aya::{
    maps::{MapData, MapError},
    sys::SyscallError,
};
use moderation_common::map::{BANS_V4, DAEMON_MAPS, GUARD_MAPS, PROGRAM};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::{Gid, Uid},
};

use super::{Attachment, NetworkError, attachments, sys};

/// Stands for the dot of `eth0.7` in a link's pin: bpffs refuses dots in names
/// (kernel: `bpf_lookup`), and interfaces have no percent sign in theirs
/// (kernel: `dev_get_valid_name`).
const DOT: &str = "%";

/// See [`Pins::identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinIdentity(u64, i64, i64);

/// The pins of one instance.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    schema: String,
}

impl Pins {
    /// Layout of maps and values, and aya-log's form of a line. Another layout gets
    /// another folder, so that a new loader never mistakes old maps for its own; see
    /// [`super::migrate`].
    pub const SCHEMA: &str = "v3";

    /// The pins under `root`, a folder on a BPF filesystem.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::of_schema(root, Self::SCHEMA)
    }

    /// The pins of another layout, `v` and a number: what a loader of another
    /// version left there, or would make.
    pub fn of_schema(root: impl Into<PathBuf>, schema: &str) -> Self {
        Self { root: root.into(), schema: schema.to_owned() }
    }

    /// The pins of other layouts under the same folder, oldest first.
    pub(super) fn others(&self) -> Vec<Self> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let number = |name: &str| name.strip_prefix('v')?.parse::<u32>().ok();
        let mut found: Vec<_> = names
            .filter(|name| *name != self.schema)
            .filter_map(|name| Some((number(&name)?, Self::of_schema(&self.root, &name))))
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, pins)| pins).collect()
    }

    /// The folder as configured.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn folder(&self) -> PathBuf {
        self.root.join(&self.schema)
    }

    fn links(&self) -> PathBuf {
        self.folder().join("links")
    }

    /// Pin of a map, by its name in [`moderation_common::map`].
    pub fn map(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Pin of the XDP program.
    pub fn program(&self) -> PathBuf {
        self.folder().join(PROGRAM)
    }

    /// What a pinned program was made of; see [`super::recipe`].
    pub(super) fn recipe(&self, program: &str) -> PathBuf {
        self.folder().join(format!("recipe_{program}"))
    }

    /// Pin of the link that keeps the handshakes' program on its control group.
    pub(super) fn handshake_link(&self) -> PathBuf {
        self.folder().join("handshakes_link")
    }

    /// A mark that the operator is still there; see [`super::attach::Fresh`].
    pub(super) fn confirmation(&self, interface: &str) -> PathBuf {
        self.folder().join(format!("confirmed_{}", interface.replace('.', DOT)))
    }

    /// A mark that `interface` shall be without the program although the
    /// configuration names it; see [`Pins::refuse`].
    fn refusal(&self, interface: &str) -> PathBuf {
        self.folder().join(format!("detached_{}", interface.replace('.', DOT)))
    }

    /// Leaves a mark that somebody took the program off `interface` on purpose,
    /// or has not decided yet: [`super::reattach()`] leaves it alone then.
    pub(super) fn refuse(&self, interface: &str) -> Result<(), NetworkError> {
        let path = self.refusal(interface);
        match fs::create_dir(&path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(NetworkError::PinFolder { operation: "create", path, source })
            }
            _ => Ok(()),
        }
    }

    /// Takes the mark away.
    pub(super) fn want(&self, interface: &str) {
        // There mostly is none.
        drop(fs::remove_dir(self.refusal(interface)));
    }

    /// Whether there is that mark.
    pub(super) fn is_refused(&self, interface: &str) -> bool {
        self.refusal(interface).exists()
    }

    /// Pin of the link that keeps the program on `interface`.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.links().join(interface.replace('.', DOT))
    }

    /// The interfaces that have a pinned link, sorted.
    pub fn interfaces(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.links()) else {
            return Vec::new(); // nothing was ever attached
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names.map(|name| name.replace(DOT, ".")).collect();
        names.sort();
        names
    }

    /// Makes the folders, writable by root alone, mounting the BPF filesystem
    /// if there is none.
    pub(super) fn create(&self) -> Result<(), NetworkError> {
        ensure_bpffs(&self.root)?;
        let mut above: Vec<_> = self.root.ancestors().skip(1).collect();
        above.reverse();
        // From the top down, each looked at before anything is done inside: a
        // symbolic link planted in a stranger's folder could lead anywhere.
        for folder in above {
            make(folder)?;
            if is_bpffs(folder) {
                require_kept(folder)?;
            }
        }
        for folder in [self.root.clone(), self.folder(), self.links()] {
            make(&folder)?;
            require_own(&folder)?;
        }
        // Whatever the umask: the daemon's user must see which links there are.
        for path in [self.folder(), self.links()] {
            fs::set_permissions(&path, Permissions::from_mode(0o755))
                .map_err(|source| NetworkError::PinFolder { operation: "open", path, source })?;
        }
        Ok(())
    }

    /// Gives the daemon's maps to `owner` and lets it reach them.
    pub(super) fn give_to(&self, owner: Uid) -> Result<(), NetworkError> {
        for name in DAEMON_MAPS {
            let path = self.map(name);
            // Untouched if it is so already: a running daemon takes a change of
            // the pins for new ones.
            let is_theirs = |metadata: Metadata| {
                metadata.uid() == owner.as_raw() && metadata.mode() & 0o7777 == 0o600
            };
            if fs::metadata(&path).is_ok_and(is_theirs) {
                continue;
            }
            // The mode first: what is given away is no longer ours to change.
            fs::set_permissions(&path, Permissions::from_mode(0o600))
                .and_then(|()| chown(&path, Some(owner.as_raw()), None))
                .map_err(|source| NetworkError::PinFolder {
                    operation: "give away",
                    path,
                    source,
                })?;
        }
        self.show_guards()?;
        if owner.is_root() { Ok(()) } else { self.open_way() }
    }

    /// Who is guarded may be read: the daemon has to know whom it cannot ban,
    /// and it is no more than who(1) and ip(8) tell.
    fn show_guards(&self) -> Result<(), NetworkError> {
        for name in GUARD_MAPS {
            let path = self.map(name);
            Self::keep(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o644))
                .map_err(|source| NetworkError::PinFolder { operation: "show", path, source })?;
        }
        Ok(())
    }

    /// systemd mounts bpffs with mode 0700. The daemon's user must at least be
    /// able to walk through to its maps; it still cannot list or write.
    fn open_way(&self) -> Result<(), NetworkError> {
        for folder in self.root.ancestors().take_while(|folder| is_bpffs(folder)) {
            let failed = |source| NetworkError::PinFolder {
                operation: "let the daemon's user through",
                path: folder.to_owned(),
                source,
            };
            let mode = fs::metadata(folder).map_err(failed)?.mode();
            if mode & 0o001 == 0 {
                fs::set_permissions(folder, Permissions::from_mode(mode & 0o7777 | 0o001))
                    .map_err(failed)?;
                tracing::info!(folder = %folder.display(), "made the folder passable");
            }
        }
        Ok(())
    }

    /// Removes every pin of ours and the folders that are empty then. Whatever
    /// else lies there, or anywhere else than on bpffs, stays.
    pub(super) fn remove(&self) -> Result<(), NetworkError> {
        if !self.root.exists() {
            return Ok(());
        }
        for pins in self.others().iter().chain([self]) {
            pins.remove_folder()?;
        }
        // Not empty, or a mount: somebody else's business.
        drop(fs::remove_dir(&self.root));
        Ok(())
    }

    /// Removes the pins of this layout alone.
    pub(super) fn remove_folder(&self) -> Result<(), NetworkError> {
        if !is_bpffs(&self.root) {
            return Err(NetworkError::NoPins { path: self.root.clone() });
        }
        match fs::remove_dir_all(self.folder()) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                let path = self.folder();
                Err(NetworkError::PinFolder { operation: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// Who works with the maps: the owner of their pins, if there are any.
    pub fn owner(&self) -> Option<Uid> {
        fs::metadata(self.map(BANS_V4)).ok().map(|metadata| Uid::from_raw(metadata.uid()))
    }

    /// The interfaces that run our program.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked.
    pub fn attachments(&self) -> Result<Vec<Attachment>, NetworkError> {
        let ours = self.interfaces();
        let mut attached = attachments()?;
        attached.retain(|attachment| ours.contains(&attachment.interface));
        Ok(attached)
    }

    pub(super) fn open_map(&self, name: &str) -> Result<MapData, NetworkError> {
        let path = self.map(name);
        MapData::from_pin(&path)
            .map_err(|source| NetworkError::OpenMap { path, source: Box::new(source) })
    }

    /// Opens a map for reading only: one that this user may not write, or has
    /// no business to.
    pub(super) fn open_to_read(&self, name: &str) -> Result<MapData, NetworkError> {
        let path = self.map(name);
        let open = |path: &Path| -> Result<MapData, MapError> {
            let fd = sys::open_read_only(path).map_err(|io_error| {
                MapError::SyscallError(SyscallError { call: "BPF_OBJ_GET", io_error })
            })?;
            MapData::from_fd(fd)
        };
        open(&path).map_err(|source| NetworkError::OpenMap { path, source: Box::new(source) })
    }

    /// Whether a loader has been here.
    pub fn exist(&self) -> bool {
        self.program().exists()
    }

    /// Tells these pins from others made later at the same place, and from the
    /// same before they were given to somebody; `None` if there are none.
    pub fn identity(&self) -> Option<PinIdentity> {
        let metadata = fs::metadata(self.map(BANS_V4)).ok()?;
        Some(PinIdentity(metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
    }

    /// Makes `path`, a new pin, root's alone.
    pub(super) fn keep(path: &Path) -> Result<(), NetworkError> {
        chown(path, Some(Uid::effective().as_raw()), Some(Gid::effective().as_raw()))
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o600)))
            .map_err(|source| NetworkError::PinFolder {
                operation: "close",
                path: path.to_owned(),
                source,
            })
    }
}

/// Makes one folder, unless something of that name is there.
fn make(folder: &Path) -> Result<(), NetworkError> {
    match DirBuilder::new().mode(0o755).create(folder) {
        Err(source) if !folder.exists() => {
            Err(NetworkError::PinFolder { operation: "create", path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Whoever can write the folder can unpin the link, and with it detach the
/// program, without any capability.
fn require_own(folder: &Path) -> Result<(), NetworkError> {
    require(folder, |mode| mode & WRITABLE_BY_OTHERS == 0)
}

/// Whoever can rename what is in the folder can put another in the place of
/// ours. In a sticky one, as bpffs itself is by default, only the owner can.
fn require_kept(folder: &Path) -> Result<(), NetworkError> {
    require(folder, |mode| mode & WRITABLE_BY_OTHERS == 0 || mode & STICKY != 0)
}

const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// A symbolic link is not followed: all may write one, by its mode (symlink(7)).
fn require(folder: &Path, is_safe: impl Fn(u32) -> bool) -> Result<(), NetworkError> {
    let metadata = fs::symlink_metadata(folder).map_err(|source| NetworkError::PinFolder {
        operation: "look at",
        path: folder.to_owned(),
        source,
    })?;
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if uid == Uid::effective().as_raw() && is_safe(mode) {
        return Ok(());
    }
    Err(NetworkError::ForeignFolder { path: folder.to_owned(), uid, mode })
}

/// Whether a path is on a BPF filesystem.
///
/// # Errors
///
/// If it cannot be looked at.
pub fn is_on_bpffs(path: &Path) -> nix::Result<bool> {
    statfs(path).map(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// What cannot be looked at is none.
fn is_bpffs(path: &Path) -> bool {
    is_on_bpffs(path).unwrap_or(false)
}

/// Where the kernel's documentation and every tool expect it.
const BPFFS: &str = "/sys/fs/bpf";

fn ensure_bpffs(root: &Path) -> Result<(), NetworkError> {
    let existing = root.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    if is_bpffs(existing) {
        return Ok(());
    }
    // Elsewhere than at its usual place the operator has to mount it: we
    // cannot guess where its top should be.
    let mountable = root.starts_with(BPFFS);
    let target = if mountable { Path::new(BPFFS) } else { root };
    let mounted = if mountable {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        // Root's alone: by default everybody could make folders in it.
        mount(Some("bpf"), target, Some("bpf"), flags, Some("mode=0755")).map_err(io::Error::from)
    } else {
        Err(io::Error::other(
            "it is on another filesystem, and only /sys/fs/bpf is mounted by itself",
        ))
    };
    mounted.map_err(|source| NetworkError::Bpffs { mount: target.to_owned(), source })?;
    tracing::info!(mount = BPFFS, "mounted the BPF filesystem");
    if is_private_mount() {
        tracing::warn!(
            mount = BPFFS,
            "this process has mounts of its own, as under ip netns exec: its pins, and with them \
             the bans, end with it"
        );
    }
    Ok(())
}

/// Whether what is mounted here is not mounted for the rest of the system.
fn is_private_mount() -> bool {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    namespace("self") != namespace("1")
}
