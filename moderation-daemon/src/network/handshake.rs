//! The program that counts completed handshakes, on a control group: the root
//! one of version 2 unless told otherwise, in which every socket of the host
//! is, those in containers too.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use aya::programs::{CgroupAttachMode, SockOps, links::FdLink};

use super::{
    NetworkError, Pins,
    attach::{remove_pin, rename},
};

/// Puts the program on the control group, beside whatever else is there, and
/// pins the link over that of an earlier one: for a moment both count.
pub(super) fn attach(
    pins: &Pins,
    program: &mut SockOps,
    cgroup: Option<&Path>,
) -> Result<(), NetworkError> {
    let path = cgroup.map_or_else(root, |cgroup| Ok(cgroup.to_owned()))?;
    let failed = |source: aya::programs::ProgramError| NetworkError::Handshakes {
        cgroup: path.clone(),
        source: source.into(),
    };
    let folder = File::open(&path).map_err(|source| NetworkError::Handshakes {
        cgroup: path.clone(),
        source: source.into(),
    })?;
    if program.fd().is_err() {
        program.load().map_err(failed)?;
    }
    // A link is always beside others, and takes no flag that says so (kernel:
    // `cgroup_bpf_link_attach`).
    let link = program
        .attach(folder, CgroupAttachMode::Single)
        .and_then(|id| program.take_link(id))
        .map_err(failed)?;
    let fresh = pins.map("handshakes_link_new");
    remove_pin(&fresh)?;
    FdLink::try_from(link)
        .map_err(NetworkError::NoLink)?
        .pin(&fresh)
        .map_err(|source| NetworkError::Pin { path: fresh.clone(), source: Box::new(source) })?;
    Pins::keep(&fresh)?;
    rename(&fresh, &pins.handshake_link())
}

/// Takes the program off its control group, if it is on one.
pub(super) fn detach(pins: &Pins) -> Result<(), NetworkError> {
    remove_pin(&pins.handshake_link())
}

/// Where the root control group of version 2 is mounted: `/sys/fs/cgroup`, or
/// `/sys/fs/cgroup/unified` beside version 1.
fn root() -> Result<PathBuf, NetworkError> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut fields = mounts.lines().map(|line| line.split(' '));
    let found = fields.find_map(|mut line| {
        let (_, folder, kind) = (line.next()?, line.next()?, line.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(folder))
    });
    found.ok_or(NetworkError::NoCgroup)
}
