//! What is known about a user, and how limits follow it: in thousandths, so
//! that nothing depends on how fractions are rounded.

use std::sync::Arc;

/// What the app says about a user. What it does not say stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// The tier.
    pub tier: Option<Arc<str>>,
    /// The role.
    pub role: Option<Arc<str>>,
    /// When the account was made, in milliseconds since 1970.
    pub created_at_unix_ms: Option<u64>,
    /// Whether the e-mail address is verified.
    pub email_verified: Option<bool>,
    /// Whether the user pays.
    pub paying: Option<bool>,
}

/// How a user's limits stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// In thousandths, as of `at_unix_ms`.
    pub permille: u32,
    /// As of when, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Content of this user that was flagged, as of the same moment.
    pub flagged: u32,
}

/// How limits follow what is known. All factors are in thousandths and are
/// multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// For accounts older than so many milliseconds.
    pub account_age: Since,
    /// For a verified e-mail address.
    pub verified_email_permille: u32,
    /// For those who pay.
    pub paying_permille: u32,
    /// For no violation in so many milliseconds.
    pub clean_history: Since,
    /// For a violation within so many milliseconds.
    pub recent_violations: Since,
    /// For more than so much flagged content within `flagged_within_ms`.
    pub flagged_over: u32,
    /// In how long it counts.
    pub flagged_within_ms: u64,
    /// The factor for that.
    pub flagged_permille: u32,
    /// The product is at least this.
    pub min_permille: u32,
    /// And at most this.
    pub max_permille: u32,
    /// How much it rises in an hour; it drops at once.
    pub rise_permille_per_hour: u32,
}

/// A factor, and the stretch of time that it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// The stretch, in milliseconds.
    pub ms: u64,
    /// The factor, in thousandths.
    pub permille: u32,
}
