//! Penalties beside the ban: what they are, and the ladders on which they are
//! arranged. Which step is whose is decided elsewhere.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BanId, Prefix, UserId, ViolationType};

/// How bad a violation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Hardly.
    Low,
    /// As most are.
    #[default]
    Medium,
    /// One step further up the ladder.
    High,
    /// Suspended at once, until a person has looked at it.
    Critical,
}

impl Severity {
    /// Its name in the API, in the store and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Low, Self::Medium, Self::High, Self::Critical]
            .into_iter()
            .find(|it| it.name() == name)
    }
}

/// What the violations of one type bring, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    /// From the mildest on; at least one. The last one stays.
    pub steps: Vec<Step>,
    /// After how long a penalty no longer counts.
    pub forget_after_ms: u64,
    /// Of violations whose reporter does not say.
    pub severity: Severity,
}

/// One step of a ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A word.
    Warning {
        /// For the user.
        message: Arc<str>,
    },
    /// The app is to remove what broke the rule.
    RemoveContent,
    /// Limits shrink for a while.
    Reduce {
        /// To so many thousandths.
        factor_permille: u16,
        /// For how long.
        for_ms: u64,
    },
    /// A ban that ends.
    Ban {
        /// For how long.
        for_ms: u64,
    },
    /// A ban that does not. Only where the operator allows it.
    Permanent,
}

/// A penalty's number on this host; never used twice.
pub type PenaltyId = u64;

/// What a penalty is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PenaltyKind {
    /// A word.
    Warning {
        /// For the user.
        message: Arc<str>,
    },
    /// The app was told to remove what broke the rule.
    RemoveContent,
    /// Limits shrank.
    Reduce {
        /// To so many thousandths.
        factor_permille: u16,
    },
    /// A ban.
    Ban(BanId),
    /// A ban until a person has looked at it.
    Suspension(BanId),
}

impl PenaltyKind {
    /// Its name in the API and in the store.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Warning { .. } => "warning",
            Self::RemoveContent => "remove_content",
            Self::Reduce { .. } => "reduce",
            Self::Ban(_) => "ban",
            Self::Suspension(_) => "suspension",
        }
    }
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Author {
    /// The rules.
    Rule,
    /// A person, by name.
    Operator(Arc<str>),
}

impl Author {
    /// As the store has it.
    pub fn name(&self) -> &str {
        match self {
            Self::Rule => "rule",
            Self::Operator(name) => name,
        }
    }
}

/// A penalty as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Penalty {
    /// Its number.
    pub id: PenaltyId,
    /// What it is.
    pub kind: PenaltyKind,
    /// On whom.
    pub user: Option<UserId>,
    /// On which addresses.
    pub prefix: Option<Prefix>,
    /// What for; `None`: an operator's wish.
    pub violation: Option<ViolationType>,
    /// How bad that was.
    pub severity: Option<Severity>,
    /// Why, for people.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub starts_at_unix_ms: u64,
    /// Until when, in milliseconds since 1970; `None`: for ever.
    pub ends_at_unix_ms: Option<u64>,
    /// Who did it.
    pub by: Author,
    /// When it was taken back, in milliseconds since 1970, and by whom.
    pub ended: Option<(u64, String)>,
}
