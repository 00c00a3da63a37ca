//! What brings shared counters into line with what was decided, and how that is put to the
//! script `settle.lua`, whose head has the form. Each can be sent again and is done once.

use crate::engine::{Decay, Limiter, Score, ViolationType};

use super::{
    claim::{LeaseName, Ticket, Window, six},
    tag::{Names, Tag},
};

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    /// Whose counters.
    pub tag: Tag,
    /// Its own number, or that of the reservation that it is about.
    pub ticket: Ticket,
    /// What is to be done.
    pub deed: Deed,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// An event counts that was not reserved, or of which that is not known; of its time in
    /// milliseconds of the server's clock.
    Add(Limiter, Window, u64, u64),
    /// What was reserved at about that time does not count.
    Take(Limiter, Window, u64, u64),
    /// Nothing counts any more of that window.
    Forget(Limiter, Window),
    /// A lease is held, for so many milliseconds from when the script runs.
    Hold(LeaseName, u64),
    /// A lease is over.
    End(LeaseName),
    /// Points were added, and some of the score spent on a ban. If nothing is known of the
    /// score there, it begins with the host's own.
    Points {
        /// For what.
        kind: ViolationType,
        /// How many.
        points: f64,
        /// How many are spent.
        spent: f64,
        /// How it goes down.
        decay: Decay,
        /// The host's own score before.
        own: Score,
    },
    /// All points are forgiven.
    Pardon,
}

impl Act {
    /// The key that it is about.
    pub fn key(&self, names: &Names) -> String {
        match &self.deed {
            Deed::Add(limiter, window, ..)
            | Deed::Take(limiter, window, ..)
            | Deed::Forget(limiter, window) => names.window(self.tag, *limiter, *window),
            Deed::Hold(..) | Deed::End(_) => names.leases(self.tag),
            Deed::Points { .. } | Deed::Pardon => names.scores(self.tag),
        }
    }

    /// The mark that it was done, where nothing else shows it.
    pub fn mark(&self, names: &Names) -> Option<String> {
        let number = match &self.deed {
            Deed::Add(_, Window::Buckets { .. } | Window::Fixed { .. }, ..)
            | Deed::Points { .. } => self.ticket.number() * 2,
            Deed::Take(_, Window::Buckets { .. } | Window::Fixed { .. }, ..) => {
                self.ticket.number() * 2 + 1
            }
            _ => return None,
        };
        Some(names.mark(self.tag, number))
    }

    /// As the script reads it.
    pub fn packed(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24);
        let mut write = |what: u8, parts: &[&[u8]]| {
            bytes.push(what);
            parts.iter().for_each(|part| bytes.extend_from_slice(part));
        };
        let ticket = self.ticket.bytes();
        match &self.deed {
            Deed::Add(_, Window::Log { ms }, _, at) => write(1, &[&ticket, &six(*at), &six(*ms)]),
            Deed::Take(_, Window::Log { .. }, ..) => write(2, &[&ticket]),
            Deed::Add(_, Window::Buckets { ms }, cost, at) => {
                write(3, &[&six(*at), &six(*ms), &six(*cost)]);
            }
            Deed::Take(_, Window::Buckets { ms }, cost, at) => {
                write(4, &[&six(*at), &six(*ms), &six(*cost)]);
            }
            Deed::Add(_, Window::Fixed { ms }, cost, at) => {
                write(5, &[&six(*at), &six(*ms), &six(*cost)]);
            }
            Deed::Take(_, Window::Fixed { ms }, cost, at) => {
                write(6, &[&six(*at), &six(*ms), &six(*cost)]);
            }
            Deed::Forget(..) => write(7, &[]),
            Deed::Hold(lease, ms) => write(8, &[&lease.bytes(), &six(*ms)]),
            Deed::End(lease) => write(9, &[&lease.bytes()]),
            Deed::Points { kind, points, spent, decay, own } => {
                let (how, ms, step) = match decay {
                    Decay::Never => ('n', 0, 0),
                    Decay::Ttl { ms } => ('t', *ms, 0),
                    Decay::HalfLife { ms, step_ms } => ('h', *ms, *step_ms),
                };
                let Score { points: had, spent: gone, decayed_at_unix_ms, updated_at_unix_ms } =
                    own;
                let name = kind.name();
                let text = format!(
                    "{name} {points} {spent} {how} {ms} {step} {had} {gone} {decayed_at_unix_ms} \
                     {updated_at_unix_ms}"
                );
                write(10, &[text.as_bytes()]);
            }
            Deed::Pardon => write(11, &[]),
        }
        bytes
    }

    /// Whether it is worth nothing any more at that moment of the server's clock.
    pub const fn is_over(&self, now_ms: u64) -> bool {
        match &self.deed {
            Deed::Add(_, window, _, at) | Deed::Take(_, window, _, at) => {
                at.saturating_add(2 * window.ms()) < now_ms
            }
            _ => false,
        }
    }
}
