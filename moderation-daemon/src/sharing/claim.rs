//! What a decision asks of shared counters, and how that is put to the script
//! `reserve.lua`, whose head has the form.

use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::engine::{LeaseId, Limiter, LimiterRule, Rules, Unit, ViolationType, Windowing};

use super::tag::{Names, Tag};

/// The largest limit of which every event is known there; as in the scripts.
const MOST_LOGGED: u64 = 128;
/// Numbers have six bytes. Sums are exact far below.
const GREATEST: u64 = (1 << 47) - 1;

/// How a limiter's windows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Every stretch of this length is one, and each event in it is known.
    Log {
        /// In milliseconds.
        ms: u64,
    },
    /// Every stretch of this length is one, and sums of its 64th parts are known; they count
    /// until the last of their events is too old.
    Buckets {
        /// In milliseconds.
        ms: u64,
    },
    /// One begins with a key's first event and ends as a whole.
    Fixed {
        /// In milliseconds.
        ms: u64,
    },
}

impl Window {
    /// Those of a limiter.
    pub fn of(rule: &LimiterRule, rules: &Rules) -> Self {
        let ms = rule.limit.window_ms.clamp(1, GREATEST / 4);
        let is_logged = rule.unit == Unit::Events && rules.largest_max(rule) <= MOST_LOGGED;
        match rules.counting.windows {
            Windowing::Fixed => Self::Fixed { ms },
            Windowing::Sliding if is_logged => Self::Log { ms },
            Windowing::Sliding => Self::Buckets { ms },
        }
    }

    /// Its length in milliseconds.
    pub const fn ms(self) -> u64 {
        match self {
            Self::Log { ms } | Self::Buckets { ms } | Self::Fixed { ms } => ms,
        }
    }

    const fn kind(self) -> u8 {
        match self {
            Self::Log { .. } => 1,
            Self::Buckets { .. } => 2,
            Self::Fixed { .. } => 3,
        }
    }
}

/// The name of a reservation, by which it is found again. Two of a window have the same
/// with a chance of one in 10¹⁰.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

impl Ticket {
    pub(super) fn bytes(self) -> [u8; 6] {
        six(self.0)
    }

    /// As a number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Makes tickets, none twice.
#[derive(Debug)]
pub struct Tickets(AtomicU64);

impl Tickets {
    /// From a random number.
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next one.
    pub fn next(&self) -> Ticket {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        // An odd factor and a shift can be undone: within 2⁴⁸ none comes twice.
        let low = number & 0xffff_ffff_ffff;
        let mixed = low.wrapping_mul(0x9e37_79b9_7f4b) & 0xffff_ffff_ffff;
        Ticket(mixed ^ (mixed >> 25))
    }
}

/// A lease of some host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseName {
    /// The host, of which six bytes count.
    pub host: u64,
    /// Its number there.
    pub id: LeaseId,
}

impl LeaseName {
    pub(super) fn bytes(self) -> [u8; 14] {
        let mut bytes = [0; 14];
        bytes[..6].copy_from_slice(&six(self.host & 0xffff_ffff_ffff));
        bytes[6..].copy_from_slice(&self.id.to_be_bytes());
        bytes
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// By a limiter.
    Limiter(Limiter, Window),
    /// Leases, of which this one is wanted for so many milliseconds.
    Leases(LeaseName, u64),
}

/// What a decision asks of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose.
    pub tag: Tag,
    /// Which.
    pub counted: Counted,
    /// What is allowed.
    pub max: u64,
    /// What this takes.
    pub cost: u64,
    /// It must not be used up, and nothing is taken.
    pub looks: bool,
    /// What it rejects counts, too.
    pub counts_rejected: bool,
    /// The violation that exceeding it is.
    pub violation: Option<ViolationType>,
}

impl Claim {
    /// The key of what it counts in.
    pub fn key(&self, names: &Names) -> String {
        match self.counted {
            Counted::Limiter(limiter, window) => names.window(self.tag, limiter, window),
            Counted::Leases(..) => names.leases(self.tag),
        }
    }

    fn write(&self, into: &mut Vec<u8>) {
        let (kind, window, lease) = match self.counted {
            Counted::Limiter(_, window) => (window.kind(), window.ms(), None),
            Counted::Leases(lease, ms) => (4, ms.clamp(1, GREATEST / 4), Some(lease.bytes())),
        };
        let flags = u8::from(self.looks) + 2 * u8::from(self.counts_rejected);
        let lease = lease.as_ref().map_or(&[][..], |bytes| &bytes[..]);
        let name = self.violation.map_or("", ViolationType::name);
        into.extend_from_slice(&[kind, flags]);
        for number in [window, self.max, self.cost] {
            into.extend_from_slice(&six(number.min(GREATEST)));
        }
        let length = u8::try_from(lease.len() + name.len()).unwrap_or(u8::MAX);
        into.push(length);
        into.extend_from_slice(lease);
        into.extend_from_slice(&name.as_bytes()[..usize::from(length) - lease.len()]);
    }
}

/// What one decision asks; taken as a whole or, where limits are asked in order, up to
/// the one that rejects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The name of what is taken.
    pub ticket: Ticket,
    /// Whether what comes before the limit that rejects is used up.
    pub in_order: bool,
    /// In their order.
    pub claims: SmallVec<[Claim; 2]>,
    /// Whose score is wanted if it is rejected.
    pub scored: Option<Tag>,
    /// The type of that score where nothing is asked besides.
    pub alone: Option<ViolationType>,
}

impl Group {
    /// The keys that the script is told of for it.
    pub fn keys(&self, names: &Names) -> impl Iterator<Item = String> {
        let scores = self.scored.map(|tag| names.scores(tag));
        self.claims.iter().map(|claim| claim.key(names)).chain(scores)
    }

    /// As the script reads it.
    pub fn packed(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(10 + 40 * self.claims.len());
        bytes.extend_from_slice(&self.ticket.bytes());
        let count = u8::try_from(self.claims.len()).expect("an event has few limiters");
        bytes.extend_from_slice(&[u8::from(self.in_order), u8::from(self.scored.is_some()), count]);
        for claim in &self.claims {
            claim.write(&mut bytes);
        }
        if let Some(kind) = self.alone {
            bytes.extend_from_slice(kind.name().as_bytes());
        }
        bytes
    }

    /// The groups that ask of one bearer each: what a cluster can do at once.
    pub fn split(&self) -> SmallVec<[(Self, SmallVec<[usize; 2]>); 2]> {
        let mut parts: SmallVec<[(Self, SmallVec<[usize; 2]>); 2]> = SmallVec::new();
        let empty = |scored| Self {
            ticket: self.ticket,
            in_order: self.in_order,
            claims: SmallVec::new(),
            scored,
            alone: None,
        };
        for (place, claim) in self.claims.iter().enumerate() {
            let known = parts.iter_mut().find(|(part, _)| part.claims[0].tag == claim.tag);
            match known {
                Some((part, places)) => {
                    part.claims.push(*claim);
                    places.push(place);
                }
                None => {
                    let scored = self.scored.filter(|tag| *tag == claim.tag);
                    let mut part = empty(scored);
                    part.claims.push(*claim);
                    parts.push((part, SmallVec::from_slice(&[place])));
                }
            }
        }
        if self.alone.is_some() {
            parts.push((Self { alone: self.alone, ..empty(self.scored) }, SmallVec::new()));
        }
        parts
    }
}

/// The last six bytes of a number, the greatest first.
pub(super) fn six(number: u64) -> [u8; 6] {
    let bytes = number.to_be_bytes();
    [bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
}
