//! LibreChat's two files: `violations.json`, the scores, and `logs.json`, the
//! record of each violation, as its key-value store writes them. Pure: from
//! values to text and back. What scores mean and where records are kept is not
//! known here.

mod json;
mod read;
mod write;

use serde::{Deserialize, Serialize};

pub use read::{BadFile, Found, read_records, read_scores};
pub use write::{LogKeys, records_file, scores_file};

/// The file of scores.
pub const SCORES_FILE: &str = "violations.json";
/// The file of records.
pub const RECORDS_FILE: &str = "logs.json";

/// What LibreChat calls the rules that can be broken.
const TYPES: [&str; 15] = [
    "logins",
    "registrations",
    "reset_password_limit",
    "verify_email_limit",
    "message_limit",
    "concurrent",
    "non_browser",
    "file_upload_limit",
    "tts_limit",
    "stt_limit",
    "tool_call_limit",
    "convo_access",
    "illegal_model_request",
    "token_balance",
    "share_limit",
];

/// Whether LibreChat knows a violation's type.
pub fn knows(kind: &str) -> bool {
    TYPES.contains(&kind)
}

/// One user's score for one type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The user.
    pub user: String,
    /// The violation's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Points.
    pub points: f64,
    /// When it is forgotten, in milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
}

/// One violation as LibreChat records it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Who.
    pub user: String,
    /// The violation's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// What was allowed, as JSON: a string where it came from the environment,
    /// else a number.
    pub max: Option<String>,
    /// What counted: `ip`, `user` or `submission`.
    pub limiter: Option<String>,
    /// In how long, in minutes.
    pub window_minutes: Option<f64>,
    /// Generations that were running.
    pub pending: Option<u64>,
    /// Points.
    pub points: f64,
    /// The score before.
    pub previous: f64,
    /// And after.
    pub total: f64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether it was a ban.
    pub is_ban: bool,
    /// And for how long, in milliseconds.
    pub ban_ms: Option<u64>,
}

#[cfg(test)]
mod tests;
