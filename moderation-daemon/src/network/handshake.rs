//! The program that counts completed handshakes, on a control group: the root
//! one of version 2 unless told otherwise, in which every socket of the host
//! is, those in containers too.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, ProgramError,
        links::{FdLink, PinnedLink},
    },
};
use moderation_common::map::HANDSHAKE_PROGRAM;

use super::{
    NetworkError, Pins,
    attach::{remove_pin, rename},
    object,
    recipe::Recipe,
};

/// A control group.
pub(super) struct Group {
    path: PathBuf,
    folder: File,
    /// Its filesystem, and its number there.
    identity: (u64, u64),
}

impl Group {
    /// The one at that path, or else the root one.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, NetworkError> {
        let path = path.map_or_else(root, |path| Ok(path.to_owned()))?;
        let open = || -> io::Result<(File, (u64, u64))> {
            let folder = File::open(&path)?;
            let metadata = folder.metadata()?;
            Ok((folder, (metadata.dev(), metadata.ino())))
        };
        match open() {
            Ok((folder, identity)) => Ok(Self { path, folder, identity }),
            Err(source) => Err(NetworkError::Handshakes { cgroup: path, source: source.into() }),
        }
    }

    /// Tells it from others, also from one made later at the same path.
    pub(super) const fn identity(&self) -> (u64, u64) {
        self.identity
    }
}

/// Whether the program that is on a control group was made by that recipe, of
/// which the group is part.
pub(super) fn is_attached(pins: &Pins, recipe: Recipe) -> bool {
    let link = PinnedLink::from_pin(pins.handshake_link()).map(FdLink::from);
    let info = link.and_then(|link| link.info());
    info.is_ok_and(|info| recipe.has_made(pins, HANDSHAKE_PROGRAM, info.program_id()))
}

/// Puts the program on the control group, beside whatever else is there, and
/// pins the link over that of an earlier one: for a moment both count.
pub(super) fn attach(
    pins: &Pins,
    object: &mut Ebpf,
    group: &Group,
    recipe: Option<Recipe>,
) -> Result<(), NetworkError> {
    let failed = |source: ProgramError| NetworkError::Handshakes {
        cgroup: group.path.clone(),
        source: source.into(),
    };
    let program = object::handshake_program(object)?;
    if program.fd().is_err() {
        program.load().map_err(failed)?;
    }
    let id = program.info().map_err(failed)?.id();
    // A link is always beside others, and takes no flag that says so (kernel:
    // `cgroup_bpf_link_attach`).
    let link = program
        .attach(&group.folder, CgroupAttachMode::Single)
        .and_then(|id| program.take_link(id))
        .map_err(failed)?;
    let fresh = pins.map("handshakes_link_new");
    remove_pin(&fresh)?;
    FdLink::try_from(link)
        .map_err(NetworkError::NoLink)?
        .pin(&fresh)
        .map_err(|source| NetworkError::Pin { path: fresh.clone(), source: Box::new(source) })?;
    Pins::keep(&fresh)?;
    rename(&fresh, &pins.handshake_link())?;
    recipe.map_or(Ok(()), |recipe| recipe.keep(pins, HANDSHAKE_PROGRAM, id))
}

/// Takes the program off its control group, if it is on one.
pub(super) fn detach(pins: &Pins) -> Result<(), NetworkError> {
    remove_pin(&pins.handshake_link())
}

/// The root control group of version 2.
fn root() -> Result<PathBuf, NetworkError> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    cgroup_mount(&mounts).map(PathBuf::from).ok_or(NetworkError::NoCgroup)
}

/// Where the root control group of version 2 is mounted, by what `/proc/self/mounts` says:
/// `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside version 1.
pub fn cgroup_mount(mounts: &str) -> Option<&str> {
    let mut fields = mounts.lines().map(|line| line.split(' '));
    fields.find_map(|mut line| {
        let (_, folder, kind) = (line.next()?, line.next()?, line.next()?);
        (kind == "cgroup2").then_some(folder)
    })
}
