//! Bans and entries of lists as they are shown: with what the kernel does about
//! them. They look alike, because they feel alike to whoever is banned.

use std::sync::Arc;

use ipnet::IpNet;

use super::Board;
use crate::{
    blocklist::{Imported, Source},
    engine::{Author, Ban, Bearer, Lifted, Limiter, Penalty, ScoreKey},
};

/// All that a lift did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiftedView {
    /// The bans that are no more.
    pub bans: Vec<BanView>,
    /// The penalties that were taken back.
    pub penalties: Vec<Arc<Penalty>>,
    /// Whose scores and windows were forgotten.
    pub bearers: Vec<Bearer>,
    /// Those of their scores of which something was left, and how much.
    pub scores: Vec<(ScoreKey, f64)>,
    /// Those of their limits that something was used up of.
    pub limits: Vec<(Bearer, Limiter)>,
}

impl LiftedView {
    pub(super) fn new(lifted: Lifted, board: &Board) -> Self {
        let Lifted { bans, penalties, bearers, scores, limits } = lifted;
        let bans = bans.iter().map(|ban| board.view(ban)).collect();
        Self { bans, penalties, bearers, scores, limits }
    }

    /// Whether there was nothing to lift, nor to forgive.
    pub const fn is_nothing(&self) -> bool {
        self.lets_nobody_in() && self.bearers.is_empty()
    }

    /// Whether no ban was lifted and no penalty taken back.
    pub const fn lets_nobody_in(&self) -> bool {
        self.bans.is_empty() && self.penalties.is_empty()
    }
}

/// A ban, and whether it is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct BanView {
    /// The ban.
    pub ban: Arc<Ban>,
    /// Whether all of it is in force: what it asks of the kernel, if anything,
    /// is done.
    pub enforced: bool,
    /// What the kernel does about its prefix, if it has one.
    pub network: Option<Enforcement>,
    /// Whose list it is on, if it is the entry of one: then it has no number.
    pub source: Option<Source>,
}

/// What the kernel does about a banned prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// It drops the packets.
    Blocked,
    /// It should, and does not yet.
    Pending,
    /// Nothing: by `network.mode` there is no kernel that drops packets.
    Off,
    /// By the rules it need not: the ban holds at the API only.
    Never,
    /// It may not: the prefix belongs to that proxy or CDN.
    Proxy(IpNet),
}

impl BanView {
    /// Of a ban that is over: nothing of it is in force.
    pub const fn over(ban: Arc<Ban>) -> Self {
        Self { ban, enforced: false, network: None, source: None }
    }

    /// Of an entry of a list.
    pub(super) fn imported(entry: &Imported, network: Enforcement) -> Self {
        let ban = Ban {
            id: 0,
            user: None,
            prefix: Some(entry.prefix),
            blocks: true,
            reason: format!("on the imported list {}", entry.source),
            violation: None,
            score: None,
            created_at_unix_ms: entry.updated_at_unix_ms,
            expires_at_unix_ms: entry.expiry.unix_ms(),
            by: Author::Operator(entry.source.to_string().into()),
            with: None,
            severity: None,
            review: false,
        };
        Self {
            ban: Arc::new(ban),
            enforced: network != Enforcement::Pending,
            network: Some(network),
            source: Some(entry.source.clone()),
        }
    }
}
