//! The kernel as the moderator finds it at its start: maps that may be open
//! already, and are looked through while the start goes on with other things.

use std::thread::{self, JoinHandle};

use crate::network::{DropMode, Network, NetworkError, PinIdentity, Pins};

/// The kernel as the moderator knows it.
#[derive(Debug)]
pub enum Kernel {
    /// By configuration nothing is dropped in the kernel.
    Off,
    /// There should be pinned maps; they are opened when they are there, and
    /// packets are dropped or only counted.
    Pinned(Pins, DropMode, Option<Opened>),
}

impl Kernel {
    /// Opens the maps if they are there, and begins to look through them.
    pub fn pinned(pins: Pins, mode: DropMode) -> Self {
        let identity = pins.identity();
        // What fails now is tried again when the kernel is reconciled, and told then.
        let opened = open(&pins, mode, 0).ok().map(|network| Opened::new(network, identity));
        Self::Pinned(pins, mode, opened)
    }
}

/// Maps that a thread of its own looks through.
#[derive(Debug)]
pub struct Opened {
    identity: Option<PinIdentity>,
    looking: JoinHandle<Result<Network, NetworkError>>,
}

impl Opened {
    fn new(mut network: Network, identity: Option<PinIdentity>) -> Self {
        let looking = thread::spawn(move || network.look().map(|()| network));
        Self { identity, looking }
    }

    /// Which pins they were opened by.
    pub(super) const fn identity(&self) -> Option<PinIdentity> {
        self.identity
    }

    /// Waits until all of them has been looked at.
    pub(super) fn looked_through(self) -> Result<Network, NetworkError> {
        self.looking.join().expect("looking does not panic")
    }
}

/// Opens the maps, without a look at what is in them.
pub(super) fn open(
    pins: &Pins,
    mode: DropMode,
    sample_every: u32,
) -> Result<Network, NetworkError> {
    let mut network = Network::open_to_look(pins)?;
    network.enforce(mode)?;
    network.sample(sample_every)?;
    tracing::info!(pins = %pins.root().display(), "opened the kernel's maps");
    Ok(network)
}
