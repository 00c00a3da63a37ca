//! A request: what happened, to whom, and what the caller says about it.

use std::sync::Arc;

use super::{Account, EventType, Severity, Subject, Traits, Unit, ViolationType};

/// The caller's name for a request: the same one twice counts once.
pub type RequestId = Arc<str>;

/// What the engine is asked to judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What happened.
    pub act: Act,
    /// Whom it concerns.
    pub subject: Subject,
    /// The account that somebody who is not logged in names.
    pub account: Option<Account>,
    /// What the caller says about the user.
    pub traits: Option<Traits>,
    /// The caller's name for it, if a retry must not count again.
    pub id: Option<RequestId>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// An event, to be counted.
    Event {
        /// Which.
        kind: EventType,
        /// The client's `User-Agent`, if the caller knows it. `Some("")` is a
        /// client that sent none.
        user_agent: Option<String>,
        /// What it costs besides being one event.
        cost: Cost,
    },
    /// The app found a violation by itself.
    Violation {
        /// Which.
        kind: ViolationType,
        /// Points, instead of the configured ones.
        points: Option<f64>,
        /// How bad it is; `None`: as its type is.
        severity: Option<Severity>,
        /// What people should know, for the record.
        details: Option<Arc<str>>,
    },
    /// A generation wants to start.
    Acquire,
    /// What an earlier request counted was in vain: it is to be taken back.
    Refund(RequestId),
}

/// What an event costs besides being one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes.
    pub bytes: u64,
    /// Tokens.
    pub tokens: u64,
}

impl Cost {
    /// What it costs in some unit.
    pub const fn of(self, unit: Unit) -> u64 {
        match unit {
            Unit::Events => 1,
            Unit::Bytes => self.bytes,
            Unit::Tokens => self.tokens,
        }
    }
}

impl Act {
    /// An event of which nothing else is known.
    pub const fn event(kind: EventType) -> Self {
        Self::Event { kind, user_agent: None, cost: Cost { bytes: 0, tokens: 0 } }
    }

    /// What it costs in some unit; nothing but an event costs anything.
    #[inline]
    pub(super) const fn cost(&self, unit: Unit) -> u64 {
        match self {
            Self::Event { cost, .. } => cost.of(unit),
            Self::Violation { .. } | Self::Acquire | Self::Refund(_) => 0,
        }
    }

    /// Whether a ban of the subject is the answer. What the app found by itself
    /// happened, whether or not the subject is banned.
    pub const fn is_answered_by_a_ban(&self) -> bool {
        match self {
            Self::Event { .. } | Self::Acquire => true,
            Self::Violation { .. } | Self::Refund(_) => false,
        }
    }

    /// A violation of which nothing else is known.
    pub const fn violation(kind: ViolationType) -> Self {
        Self::Violation { kind, points: None, severity: None, details: None }
    }
}

impl Request {
    /// A request of which nothing else is known.
    pub const fn new(act: Act, subject: Subject) -> Self {
        Self { act, subject, account: None, traits: None, id: None }
    }
}
