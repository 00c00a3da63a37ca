//! What somebody's counters are called: a digest that all hosts with one key make alike,
//! and that says nothing about anybody to those without it. All of one bearer's counters
//! have it between braces, so that a cluster keeps them in one slot.

use std::fmt;

use siphasher::sip128::SipHasher13;

use crate::engine::{Bearer, Limiter};

use super::claim::Window;

/// A bearer as the counters know one. Of a thousand million, two have the same with a
/// chance of one in 10²⁰.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub u128);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Makes tags.
#[derive(Clone)]
pub struct Tags([u64; 2]);

/// Without the key.
impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tags(keyed)")
    }
}

impl Tags {
    /// With the first 128 bits of a digest of what the hosts share.
    pub fn new(key: [u8; 16]) -> Self {
        let (first, second) = key.split_at(8);
        let number = |half: &[u8]| u64::from_le_bytes(half.try_into().expect("half of 16 bytes"));
        Self([number(first), number(second)])
    }

    /// That of a bearer.
    pub fn of(&self, bearer: &Bearer) -> Tag {
        match bearer {
            Bearer::User(user) => self.digest(b'u', user.as_str().as_bytes()),
            Bearer::Account(account) => self.digest(b'a', account.as_bytes()),
            Bearer::Address(address) => self.digest(b'i', address.prefix().to_string().as_bytes()),
        }
    }

    fn digest(&self, kind: u8, bytes: &[u8]) -> Tag {
        let hasher = SipHasher13::new_with_keys(self.0[0], self.0[1]);
        let mut text = Vec::with_capacity(bytes.len() + 1);
        text.push(kind);
        text.extend_from_slice(bytes);
        Tag(hasher.hash(&text).as_u128())
    }
}

/// What counters are called.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// All of them begin so, and then comes a colon.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// A window. What it is belongs to its name: one of another length means something
    /// else.
    pub fn window(&self, tag: Tag, limiter: Limiter, window: Window) -> String {
        let (kind, ms) = match window {
            Window::Log { ms } => ('l', ms),
            Window::Buckets { ms } => ('b', ms),
            Window::Fixed { ms } => ('f', ms),
        };
        format!("{}:{{{tag}}}:{}:{kind}{ms}", self.prefix, limiter.name())
    }

    /// The leases of a bearer.
    pub fn leases(&self, tag: Tag) -> String {
        format!("{}:{{{tag}}}:leases", self.prefix)
    }

    /// The scores of a bearer, by type.
    pub fn scores(&self, tag: Tag) -> String {
        format!("{}:{{{tag}}}:scores", self.prefix)
    }

    /// The mark that something of that number was done.
    pub fn mark(&self, tag: Tag, number: u64) -> String {
        format!("{}:{{{tag}}}:done:{number:x}", self.prefix)
    }

    /// By which a host sees that all was forgotten.
    pub fn epoch(&self) -> String {
        format!("{}:epoch", self.prefix)
    }

    /// The same for those slots of a cluster that a tag stands for.
    pub fn epoch_in(&self, tag: &str) -> String {
        format!("{}:epoch:{{{tag}}}", self.prefix)
    }

    /// The channel of that name.
    pub fn channel(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }
}
