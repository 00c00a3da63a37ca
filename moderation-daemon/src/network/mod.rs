//! Everything about the kernel: pins, loading, attaching, blocking, allowing,
//! reconciling, counting. The only folder that names aya. It decides nothing:
//! what is to be blocked comes from the store by way of the moderator.

mod attach;
mod device;
mod handshake;
mod interface;
mod migrate;
mod object;
mod pin;
mod port;
mod reattach;
mod recipe;

mod allow;
mod block;
mod control;
mod desired;
mod exact;
mod filter;
mod nets;
mod plan;
mod sweep;

mod count;
mod lines;
mod ring;

mod judge;
mod reaper;
mod socket;

mod ask;
mod error;
mod route;
mod sys;
mod verify;

use ipnet::IpNet;
use moderation_common::BanEntry;

use crate::engine::Prefix;
use block::Blocker;

pub use allow::{AllowMaps, Guards, MAX_ALLOWED};
pub use attach::{
    AttachOptions, Attached, Fresh, Loaded, attach, confirm, detach, forget_confirmation, off,
};
pub use block::{BanMaps, Changes, Fill, Reconciled};
pub use count::{Counters, Epoch, Rate, Rates, Table, alarms};
pub use desired::Desired;
pub use device::{Queues, driver, features, is_clock_synchronized, queues};
pub use error::NetworkError;
pub use handshake::cgroup_mount;
pub use interface::{Attachment, XdpMode, attachments, interfaces};
pub use judge::Judge;
pub use lines::{LINES_OBJECT, Lines};
pub use object::{KERNEL_OBJECT, TestProgram};
pub use pin::{PinIdentity, Pins, is_on_bpffs};
pub use reaper::{MAX_CLOSINGS, MAX_SUSPECTS, Reaped, Reaper};
pub use reattach::reattach;
pub use ring::{Dropped, Overrun, Overruns, Samples};
pub use route::{gateways, own_addresses, ways_out};
pub use socket::{Closing, Connection, Connections, Listing, SocketError};
pub use sweep::{Sweep, Swept};
pub use verify::{Verified, filter_bits, verify};

/// The daemon's hands on the pinned maps. It needs no capability, only the
/// permission of the pins, and drops nothing when it goes away.
#[derive(Debug)]
pub struct Network {
    bans: Blocker,
    allow: AllowMaps,
}

impl Network {
    /// Opens the maps that a loader has pinned, and makes the prefilter agree
    /// with what is in them.
    ///
    /// # Errors
    ///
    /// If a pin is missing or may not be opened by this user.
    pub fn open(pins: &Pins) -> Result<Self, NetworkError> {
        Ok(Self { bans: Blocker::open(pins)?, allow: AllowMaps::open_operator(pins)? })
    }

    /// The same, but looks at no entry: for one who looks himself, or reconciles,
    /// before anything else. Until then no bit of the prefilter is cleared.
    ///
    /// # Errors
    ///
    /// If a pin is missing or may not be opened by this user.
    pub fn open_to_look(pins: &Pins) -> Result<Self, NetworkError> {
        Ok(Self { bans: Blocker::open_uncounted(pins)?, allow: AllowMaps::open_operator(pins)? })
    }

    /// Reads all exact entries, and makes the prefilter agree with them: the part
    /// of a reconcile that need not know what is wanted. The next one goes by what
    /// this saw, unless something was blocked or unblocked in between.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn look(&mut self) -> Result<(), NetworkError> {
        self.bans.look()
    }

    /// Entries that the prefilter hid when the maps were last looked through as a
    /// whole, each of them a ban without effect until then. Anything but 0 is a
    /// defect of ours, or somebody wrote into the maps by hand.
    pub const fn hidden_at_open(&self) -> usize {
        self.bans.hidden_at_open()
    }

    /// Drops a prefix's packets from now on, until `entry` lapses.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Full`] or [`NetworkError::NetsFull`] if there are as many
    /// bans as there may be.
    pub fn block(&mut self, prefix: Prefix, entry: BanEntry) -> Result<(), NetworkError> {
        self.bans.block(prefix, entry)
    }

    /// Lets a prefix's packets pass again; it need not be blocked.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn unblock(&mut self, prefix: Prefix) -> Result<(), NetworkError> {
        self.bans.unblock(prefix)
    }

    /// Drops the packets of many prefixes that are not blocked yet. What one
    /// failure leaves possible is done nevertheless.
    pub fn block_new(&mut self, new: &Desired) -> Reconciled {
        self.bans.block_new(new)
    }

    /// Makes the kernel agree with what is wanted, by difference: nothing that
    /// is blocked and stays blocked is touched. What one failure leaves possible
    /// is done nevertheless.
    pub fn reconcile(&mut self, bans: Desired, allowlist: &[IpNet]) -> Reconciled {
        // First who may not be dropped, then whom to drop. Neither must wait for
        // the other's trouble to end.
        let allowed = self.allow.reconcile(allowlist);
        let Reconciled { failed, result } = self.bans.reconcile(bans);
        let result = result.and_then(|banned| Ok(banned + allowed?));
        Reconciled { failed, result }
    }

    /// The allowlist's half of [`Network::reconcile`].
    ///
    /// # Errors
    ///
    /// The first failure; all that could be changed nevertheless has been.
    pub fn reconcile_allowlist(&mut self, allowlist: &[IpNet]) -> Result<Changes, NetworkError> {
        self.allow.reconcile(allowlist)
    }

    /// Begins a look through the ban maps.
    pub fn sweep(&self) -> Sweep {
        Sweep::new(&self.bans)
    }

    /// Goes on with it by one page, mending what is there and not `wanted`;
    /// `Some` after the last page. The whole of it costs a lookup per entry, a
    /// page well under a millisecond.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    pub fn sweep_on(
        &mut self,
        sweep: &mut Sweep,
        wanted: impl Fn(Prefix) -> Option<BanEntry>,
    ) -> Result<Option<Swept>, NetworkError> {
        sweep.step(&mut self.bans, wanted)
    }

    /// Counts what would be dropped and drops nothing, or drops again.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn enforce(&mut self, mode: DropMode) -> Result<(), NetworkError> {
        let observe = u32::from(mode == DropMode::Observe);
        self.bans.control().change(|control| control.observe = observe)
    }

    /// Puts one dropped packet in `every` on the ring of samples; 0: none.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn sample(&mut self, every: u32) -> Result<(), NetworkError> {
        self.bans.control().change(|control| control.sample_every = every)
    }

    /// How full the ban maps are.
    pub fn fill(&self) -> Fill {
        self.bans.fill()
    }

    /// What the kernel blocks now.
    pub const fn bans(&self) -> &BanMaps {
        self.bans.maps()
    }
}

/// Whether packets are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropMode {
    /// They are.
    Drop,
    /// They are only counted.
    Observe,
}
