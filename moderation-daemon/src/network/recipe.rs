//! What pinned programs were made of, noted beside them, so that a start which
//! would make the same again leaves them where they are: verifying takes the
//! kernel a fifth of a second. In doubt they are made anew.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher as _},
    os::unix::fs::symlink,
};

use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use moderation_common::map::{DAEMON_MAPS, GUARD_MAPS, PROGRAM, ROOT_MAPS};

use super::{
    NetworkError, Pins,
    attach::remove_pin,
    object::{KERNEL_OBJECT, Parameters, globals},
};

/// Stands for an object, its globals and the maps that it works on: no two that
/// differ have the same one. It means nothing to another build of this program,
/// whose hash may be another, and which then makes its programs anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recipe(u64);

impl Recipe {
    /// By which programs would be made on these pins. `None` if a map is not there
    /// yet, or cannot be opened: whoever then loads meets the reason himself.
    pub(super) fn of(pins: &Pins, parameters: &Parameters) -> Option<Self> {
        let id = |name| Some(pins.open_to_read(name).ok()?.info().ok()?.id());
        let names = DAEMON_MAPS.into_iter().chain(GUARD_MAPS).chain(ROOT_MAPS);
        let maps: Vec<u32> = names.map(id).collect::<Option<_>>()?;
        let globals = globals(pins, parameters).ok()?;
        Some(Self::from((KERNEL_OBJECT, globals, maps)))
    }

    /// The same with something that one program depends on besides.
    pub(super) fn with(self, more: impl Hash) -> Self {
        Self::from((self.0, more))
    }

    fn from(parts: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        parts.hash(&mut hasher);
        Self(hasher.finish())
    }

    /// Whether the program with that id was made by it. The kernel gives an id
    /// again only after all others (kernel: `bpf_prog_alloc_id`).
    pub(super) fn has_made(self, pins: &Pins, name: &str, program_id: u32) -> bool {
        let noted = fs::read_link(pins.recipe(name)).ok();
        noted.is_some_and(|noted| noted.as_os_str() == self.note(program_id).as_str())
    }

    /// Notes that it has made that program. The target of a symbolic link is the
    /// only text that a BPF filesystem keeps; root alone can make one there.
    pub(super) fn keep(self, pins: &Pins, name: &str, program_id: u32) -> Result<(), NetworkError> {
        let path = pins.recipe(name);
        remove_pin(&path)?;
        symlink(self.note(program_id), &path).map_err(|source| NetworkError::PinFolder {
            operation: "create",
            path,
            source,
        })
    }

    fn note(self, program_id: u32) -> String {
        format!("{program_id}_{:016x}", self.0)
    }
}

/// The pinned program, if it was made by that recipe.
pub(super) fn pinned(pins: &Pins, recipe: Recipe) -> Option<Xdp> {
    let program = Xdp::from_pin(pins.program(), XdpAttachType::Interface).ok()?;
    recipe.has_made(pins, PROGRAM, program.info().ok()?.id()).then_some(program)
}
