//! How often somebody has been banned, which is forgotten by and by.

/// What is remembered of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Offence {
    /// Bans, less what has been forgotten up to `at_unix_ms`.
    pub level: f64,
    /// As of when, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Whether the next violation is spared: the last ban was lifted.
    pub has_grace: bool,
}
