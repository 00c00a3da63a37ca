//! Texts that are never shown: connection strings hold passwords.

use std::fmt;

/// A text that prints as dots.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Of a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for whom it is meant.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new("mongodb://app:hunter2@db/");
        assert_eq!(format!("{secret:?}"), "(not shown)");
        assert_eq!(secret.expose(), "mongodb://app:hunter2@db/");
    }
}
