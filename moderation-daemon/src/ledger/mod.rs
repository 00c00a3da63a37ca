//! Bans as hosts share them, pure: what their documents look like, which of them can be
//! trusted, and what follows when they come, change and go. Nothing here does I/O or
//! reads a clock. How documents are kept is `store/mongo`'s affair, who asks and who is
//! told `share`'s.

mod document;
mod follow;
mod judge;
mod life;
mod mac;
mod memory;
mod message;
mod seen;

#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

pub use document::{BanDocument, LiftDocument, address_of, copy_keys, keys, subject};
pub use follow::{Alarm, Change, Follow, FollowSettings, Step};
pub use judge::{Field, Fields, ForeignBan, Judged, Unusable, judge};
pub use life::{Sign, Standing, Taken};
pub use mac::MacKey;
pub use memory::Memory;
pub use message::{Ear, Said, Unheeded};
pub use seen::{Entry, Holder};

use crate::engine::Ban;

/// A ban's name on every host: 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(String);

/// A text is no [`Uid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no 32 hexadecimal digits")]
pub struct InvalidUid;

impl Uid {
    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one that these bytes are.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(bytes)))
    }
}

impl FromStr for Uid {
    type Err = InvalidUid;

    fn from_str(text: &str) -> Result<Self, InvalidUid> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_one = text.len() == 32 && text.bytes().all(is_digit);
        is_one.then(|| Self(text.to_owned())).ok_or(InvalidUid)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who made a ban.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// This host.
    Here,
    /// The host of that name.
    Host(String),
    /// Nobody who has our key: `LibreChat` itself, a person, an intruder.
    Foreign,
}

/// A ban with what other hosts must know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedBan {
    /// Its name everywhere.
    pub uid: Uid,
    /// Who made it.
    pub origin: Origin,
    /// The ban, with its number on this host.
    pub ban: Ban,
    /// When it was lifted, in milliseconds since 1970, and by whom.
    pub lifted: Option<(u64, String)>,
}
