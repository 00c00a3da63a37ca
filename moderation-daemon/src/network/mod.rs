//! Everything about the kernel: pins, loading, attaching, blocking, allowing,
//! reconciling, counting. The only folder that names aya. It decides nothing:
//! what is to be blocked comes from the store by way of the moderator.

mod allow;
mod ask;
mod attach;
mod block;
mod count;
mod error;
mod interface;
mod object;
mod pin;
mod reaper;
mod route;
mod socket;

use std::collections::HashMap;

use ipnet::IpNet;
use moderation_common::BanEntry;

use crate::engine::Address;

pub use allow::{AllowMaps, MAX_ALLOWED};
pub use attach::{AttachOptions, attach, detach, off};
pub use block::{BanMaps, Changes, Reconciled};
pub use count::{Counters, Syns};
pub use error::NetworkError;
pub use interface::{Attachment, XdpMode, attachments};
pub use object::{KERNEL_OBJECT, TestProgram};
pub use pin::{PinIdentity, Pins};
pub use reaper::{MAX_CLOSINGS, MAX_SUSPECTS, Reaped, Reaper};
pub use route::{gateways, own_addresses};
pub use socket::{Closing, Connection, Connections, Listing, SocketError};

/// The daemon's hands on the pinned maps. It needs no capability, only the
/// permission of the pins, and drops nothing when it goes away.
#[derive(Debug)]
pub struct Network {
    bans: BanMaps,
    allow: AllowMaps,
    counters: Counters,
    syns: Syns,
}

impl Network {
    /// Opens the maps that a loader has pinned.
    ///
    /// # Errors
    ///
    /// If a pin is missing or may not be opened by this user.
    pub fn open(pins: &Pins) -> Result<Self, NetworkError> {
        Ok(Self {
            bans: BanMaps::open(pins)?,
            allow: AllowMaps::open_operator(pins)?,
            counters: Counters::open(pins)?,
            syns: Syns::open(pins)?,
        })
    }

    /// Drops `address`'s packets from now on, until `entry` lapses.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Full`] if the map holds as many bans as it can.
    pub fn block(&mut self, address: Address, entry: BanEntry) -> Result<(), NetworkError> {
        self.bans.block(address, entry)
    }

    /// Lets `address`'s packets pass again; it need not be blocked.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn unblock(&mut self, address: Address) -> Result<(), NetworkError> {
        self.bans.unblock(address)
    }

    /// Makes the kernel agree with what is wanted, by difference: nothing that
    /// is blocked and stays blocked is touched. What one failure leaves possible
    /// is done nevertheless.
    pub fn reconcile(
        &mut self,
        bans: &HashMap<Address, BanEntry>,
        allowlist: &[IpNet],
    ) -> Reconciled {
        // First who may not be dropped, then whom to drop. Neither must wait for
        // the other's trouble to end.
        let allowed = self.allow.reconcile(allowlist);
        let Reconciled { blocked, result } = self.bans.reconcile(bans);
        let result = result.and_then(|banned| Ok(banned + allowed?));
        Reconciled { blocked, result }
    }

    /// The allowlist's half of [`Network::reconcile`].
    ///
    /// # Errors
    ///
    /// The first failure; all that could be changed nevertheless has been.
    pub fn reconcile_allowlist(&mut self, allowlist: &[IpNet]) -> Result<Changes, NetworkError> {
        self.allow.reconcile(allowlist)
    }

    /// The kernel's packet counters.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The kernel's counts of connection attempts.
    pub const fn syns(&self) -> &Syns {
        &self.syns
    }

    /// What the kernel blocks now.
    pub const fn bans(&self) -> &BanMaps {
        &self.bans
    }
}
