//! Which interfaces should have the program: those that are configured, and
//! those that have been seen with it. Putting it there is `network`'s affair.

use std::collections::BTreeSet;

use crate::{
    config::AttachMode,
    network::{Attachment, NetworkError, PinIdentity, Pins, reattach},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Interfaces {
    configured: Vec<String>,
    mode: AttachMode,
    /// Those that have had a pinned link while this runs.
    seen: BTreeSet<String>,
    /// The pins that they were seen with.
    identity: Option<PinIdentity>,
}

impl Interfaces {
    pub(super) const fn new(configured: Vec<String>, mode: AttachMode) -> Self {
        Self { configured, mode, seen: BTreeSet::new(), identity: None }
    }

    /// One round; says only what it did, or could not do.
    pub(super) fn put_back(&mut self, pins: &Pins) -> Vec<Result<Attachment, NetworkError>> {
        let identity = pins.identity();
        if identity != self.identity {
            // Whoever has switched off and loaded anew has chosen anew.
            self.seen.clear();
            self.identity = identity;
        }
        self.seen.extend(pins.interfaces());
        let wanted: BTreeSet<_> = self.configured.iter().chain(&self.seen).cloned().collect();
        reattach(pins, &wanted.into_iter().collect::<Vec<_>>(), self.mode)
    }
}
