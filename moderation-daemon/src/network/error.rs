//! One error for each thing that can fail about the kernel.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};
use nix::errno::Errno;

/// What failed, and on what. The source says why.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No BPF filesystem, and none could be mounted.
    #[error(
        "no BPF filesystem at {}; as root: mount -t bpf bpf {}",
        mount.display(), mount.display()
    )]
    Bpffs {
        /// Where it should be.
        mount: PathBuf,
        /// Why it could not be mounted.
        source: io::Error,
    },
    /// The folder of pins is no such thing.
    #[error("{} is on no BPF filesystem: there are no pins to remove", path.display())]
    NoPins {
        /// The folder.
        path: PathBuf,
    },
    /// A folder or file of pins could not be made, changed or removed.
    #[error("cannot {operation} {}", path.display())]
    PinFolder {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody other than root could remove or replace pins.
    #[error(
        "{} belongs to uid {uid} (mode {mode:o}): pins must lie in folders that only root can write",
        path.display()
    )]
    ForeignFolder {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permissions.
        mode: u32,
    },
    /// The kernel refused the programs or their maps.
    #[error("cannot load the kernel programs (needs root)")]
    Load(#[source] Box<EbpfError>),
    /// The object in this binary lacks something: a defect of the build.
    #[error("the kernel object has no {0}")]
    ObjectIncomplete(&'static str),
    /// The kernel refused the program.
    #[error("cannot load the XDP program")]
    LoadProgram(#[source] Box<ProgramError>),
    /// The program could not be attached.
    #[error("cannot attach to {interface}")]
    Attach {
        /// The interface.
        interface: String,
        /// Why not.
        source: Box<ProgramError>,
    },
    /// The interface has an XDP program that is not ours.
    #[error(
        "{interface} already runs an XDP program ({program}, id {program_id}, {mode}) that is not \
         ours; remove it first, for example with: ip link set dev {interface} xdp off"
    )]
    Busy {
        /// The interface.
        interface: String,
        /// The other program's number.
        program_id: u32,
        /// What it is called.
        program: String,
        /// How it is attached.
        mode: super::XdpMode,
    },
    /// Attached already, but in another mode than asked for.
    #[error(
        "{interface} is attached in {attached} mode, not {wanted}; \
         detach it first: moderationctl xdp detach --interface {interface}"
    )]
    ModeDiffers {
        /// The interface.
        interface: String,
        /// The mode that it is in.
        attached: super::XdpMode,
        /// The mode that was asked for.
        wanted: super::XdpMode,
    },
    /// There is no such interface.
    #[error("there is no interface {0}")]
    UnknownInterface(String),
    /// The kernel did not tell about interfaces.
    #[error("cannot ask the kernel about its interfaces")]
    Interfaces(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A link's pin could not be opened.
    #[error("cannot open the link pinned at {}", path.display())]
    OpenLink {
        /// The pin.
        path: PathBuf,
        /// Why not.
        source: LinkError,
    },
    /// A link is of a kind that cannot be pinned: the kernel is older than 5.9.
    #[error("this kernel cannot keep XDP attached by a pinned link (5.9 can)")]
    NoLink(#[source] LinkError),
    /// An object could not be pinned.
    #[error("cannot pin {}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: Box<PinError>,
    },
    /// A map's pin is missing or closed to this user.
    #[error(
        "cannot open the map pinned at {}; moderationctl setup makes it, or moderationctl \
         xdp attach with --owner for the user that the daemon runs as",
        path.display()
    )]
    OpenMap {
        /// The pin.
        path: PathBuf,
        /// Why not.
        source: Box<MapError>,
    },
    /// A loader is at work, or was interrupted: there are no seeds yet.
    #[error(
        "{} is empty: the maps are not finished; moderationctl xdp attach does it",
        path.display()
    )]
    Unfinished {
        /// The pin of the seeds.
        path: PathBuf,
    },
    /// A ban map holds as many entries as it can.
    #[error(
        "the kernel's ban map is full ({capacity} entries): raise network.max_bans, and make the \
         maps anew with moderationctl xdp off and xdp attach"
    )]
    Full {
        /// Its size.
        capacity: u32,
    },
    /// A map of banned blocks holds as many entries as it can.
    #[error(
        "the kernel's map of banned blocks is full ({capacity} entries): raise \
         network.max_networks, and make the maps anew with moderationctl xdp off and xdp attach"
    )]
    NetsFull {
        /// Its size.
        capacity: u32,
    },
    /// The prefilter could not be mapped into memory.
    #[error("cannot map the prefilter into memory")]
    MapFilter {
        /// Why not.
        source: Errno,
    },
    /// No random number was to be had.
    #[error("the system gave no random number")]
    Random(#[source] io::Error),
    /// A map could not be read or written piece by piece.
    #[error("cannot {operation} the kernel's map {map}")]
    Batch {
        /// What was tried.
        operation: &'static str,
        /// Which map.
        map: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// There is no control group of version 2.
    #[error(
        "no control group of version 2 is mounted: handshakes are not counted; as root: \
         mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, or network.connections.enabled: false"
    )]
    NoCgroup,
    /// Handshakes cannot be counted.
    #[error("cannot count handshakes on the control group {}", cgroup.display())]
    Handshakes {
        /// Where.
        cgroup: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A pinned map is none of ours.
    #[error(
        "{} has keys or values of another size: remove it with moderationctl xdp off",
        path.display()
    )]
    ForeignMap {
        /// The pin.
        path: PathBuf,
    },
    /// A ring could not be opened.
    #[error("cannot read the kernel's ring {ring}")]
    Ring {
        /// Which.
        ring: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// More prefixes than the allowlist map holds.
    #[error("the allowlist has {prefixes} prefixes, the kernel's map holds {capacity}")]
    AllowlistTooLong {
        /// How many there are.
        prefixes: usize,
        /// How many there may be.
        capacity: usize,
    },
    /// More guards and proxies than their map holds.
    #[error(
        "there are {prefixes} guards and proxies of one address family, and the kernel's map \
         holds {capacity}: what was guarded before stays so, and nothing new is; put wider \
         prefixes into network.guards and network.proxies"
    )]
    TooManyGuards {
        /// How many there are.
        prefixes: usize,
        /// How many there may be.
        capacity: usize,
    },
    /// A map could not be read or written.
    #[error("cannot {operation} the kernel's map {map}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// Which map.
        map: &'static str,
        /// Why not.
        source: Box<MapError>,
    },
}

impl NetworkError {
    pub(super) fn map(
        operation: &'static str,
        map: &'static str,
    ) -> impl Fn(MapError) -> Self + Copy {
        move |source| Self::Map { operation, map, source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_which_one_is_new_enough() {
        let text = NetworkError::NoLink(LinkError::InvalidLink).to_string();
        assert!(text.contains("this kernel") && text.contains("5.9"), "{text}");
    }

    #[test]
    fn what_is_full_says_by_which_key_and_which_commands_there_is_more_room() {
        let errors = [
            (NetworkError::Full { capacity: 7 }, "network.max_bans"),
            (NetworkError::NetsFull { capacity: 7 }, "network.max_networks"),
        ];
        for (error, key) in errors {
            let text = error.to_string();
            for words in ["(7 entries)", key, "xdp off", "xdp attach"] {
                assert!(text.contains(words), "no {words:?} in {text}");
            }
        }
    }
}
