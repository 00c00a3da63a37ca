//! Looking through the ban maps page by page while decisions go on: every entry
//! must be wanted, and there must be as many as were put in. What is missing
//! altogether of the exact ones shows in the number; then a whole reconcile mends
//! it. Blocks are so few that each is looked for.

use moderation_common::BanEntry;

use super::{
    Changes, NetworkError,
    block::{BanMaps, Blocker},
    desired::{of_host, of_v4, of_v6},
    exact::BATCH,
    nets::NetPages,
    plan::agree,
    sys::Pages,
};
use crate::engine::Prefix;

/// One look through the maps.
pub struct Sweep {
    stage: Stage,
    seen: usize,
    /// Entries in the kernel when it began.
    at_start: usize,
    changes: Changes,
    hidden: usize,
    has_losses: bool,
}

impl std::fmt::Debug for Sweep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweep").field("seen", &self.seen).finish_non_exhaustive()
    }
}

enum Stage {
    V4(Pages<u32, u64>),
    V6(Pages<u64, u64>),
    Hosts(Pages<[u64; 2], u64>),
    Nets(NetPages),
}

/// What a sweep has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// What it mended.
    pub changes: Changes,
    /// Wanted entries that the prefilter hid, a ban without effect each; mended,
    /// too.
    pub hidden: usize,
    /// Whether entries have come or vanished without our doing, so that only a
    /// whole reconcile mends it all.
    pub has_losses: bool,
}

impl Sweep {
    pub(super) fn new(blocker: &Blocker) -> Self {
        let stage = Stage::V4(Pages::new(BATCH));
        let at_start = blocker.exact();
        let changes = Changes::default();
        Self { stage, seen: 0, at_start, changes, hidden: 0, has_losses: false }
    }

    /// Looks at one page; `Some` after the last.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    pub(super) fn step(
        &mut self,
        blocker: &mut Blocker,
        wanted: impl Fn(Prefix) -> Option<BanEntry>,
    ) -> Result<Option<Swept>, NetworkError> {
        if let Stage::Nets(pages) = &mut self.stage {
            let Some(changes) = blocker.sweep_nets(pages, wanted)? else {
                let Self { changes, hidden, has_losses, .. } = *self;
                return Ok(Some(Swept { changes, hidden, has_losses }));
            };
            self.changes = self.changes + changes;
        } else if let Some(page) = self.page(blocker.maps())? {
            self.seen += page.len();
            for (prefix, old) in page {
                self.mend(blocker, prefix, old, wanted(prefix))?;
            }
        } else {
            self.next_stage(blocker);
        }
        Ok(None)
    }

    /// `None` after an exact map's last page.
    fn page(&mut self, maps: &BanMaps) -> Result<Option<Vec<(Prefix, BanEntry)>>, NetworkError> {
        Ok(match &mut self.stage {
            Stage::V4(pages) => maps.v4.page(pages)?.map(|page| entries(page, of_v4)),
            Stage::V6(pages) => maps.v6.page(pages)?.map(|page| entries(page, of_v6)),
            Stage::Hosts(pages) => maps.hosts.page(pages)?.map(|page| entries(page, of_host)),
            Stage::Nets(_) => None,
        })
    }

    fn next_stage(&mut self, blocker: &Blocker) {
        self.stage = match self.stage {
            Stage::V4(_) => Stage::V6(Pages::new(BATCH)),
            Stage::V6(_) => Stage::Hosts(Pages::new(BATCH)),
            Stage::Hosts(_) | Stage::Nets(_) => {
                self.has_losses = self.has_losses(blocker);
                Stage::Nets(blocker.net_pages())
            }
        };
    }

    fn mend(
        &mut self,
        blocker: &mut Blocker,
        prefix: Prefix,
        old: BanEntry,
        wanted: Option<BanEntry>,
    ) -> Result<(), NetworkError> {
        if wanted.is_some() {
            self.hidden += usize::from(blocker.reveal(prefix)?);
        }
        match wanted {
            Some(entry) if agree(old, entry) => Ok(()),
            Some(entry) => {
                self.changes.updated += 1;
                blocker.block(prefix, entry)
            }
            None => {
                self.changes.removed += 1;
                blocker.unblock(prefix)
            }
        }
    }

    /// Entries that came or went meanwhile may or may not have been seen: only
    /// fewer than the fewer of both moments are too few.
    fn has_losses(&self, blocker: &Blocker) -> bool {
        let least = self.at_start.min(blocker.exact() + self.changes.removed);
        self.seen < least || !blocker.is_counted()
    }
}

fn entries<K: Copy>(
    (keys, values): (&[K], &[u64]),
    prefix: impl Fn(K) -> Prefix,
) -> Vec<(Prefix, BanEntry)> {
    let entries = keys.iter().zip(values);
    entries.map(|(key, value)| (prefix(*key), BanEntry { expires_at_ns: *value })).collect()
}
