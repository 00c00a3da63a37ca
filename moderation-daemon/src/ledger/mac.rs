//! The signature by which hosts know each other's documents: HMAC-SHA256 (RFC 2104) over
//! all that matters in one. Whoever can write to the database and has no key can forge
//! none. Where the key comes from is not known here.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::Uid;

/// The key that all hosts share. Clones share it.
#[derive(Clone)]
pub struct MacKey(Hmac<Sha256>);

impl MacKey {
    /// Of a secret; any length will do, but short ones can be guessed.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("a key can have any length"))
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> [u8; 32] {
        self.0.clone().chain_update(bytes).finalize().into_bytes().into()
    }

    /// Compares in constant time.
    pub(super) fn verifies(&self, bytes: &[u8], mac: &[u8]) -> bool {
        self.0.clone().chain_update(bytes).verify_slice(mac).is_ok()
    }

    /// The name that every host gives to what a foreign document says.
    pub(super) fn name_foreign(&self, key: &str, expires_at_unix_ms: Option<u64>) -> Uid {
        let mut bytes = Canonical::new("foreign");
        bytes.text(key);
        bytes.number(expires_at_unix_ms);
        let digest = self.sign(&bytes.finish());
        let (half, _) = digest.split_first_chunk().expect("it has 32 bytes");
        Uid::from_bytes(*half)
    }
}

/// Without the key.
impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(…)")
    }
}

/// Fields one after the other, each with its length, so that no two documents have the
/// same bytes.
pub(super) struct Canonical(Vec<u8>);

impl Canonical {
    /// Of a kind of document, so that none passes for another kind.
    pub(super) fn new(kind: &str) -> Self {
        let mut canonical = Self(Vec::with_capacity(512));
        canonical.text("moderation ledger 1");
        canonical.text(kind);
        canonical
    }

    pub(super) fn text(&mut self, text: &str) {
        self.0.extend_from_slice(&(text.len() as u64).to_be_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn optional(&mut self, text: Option<&str>) {
        self.0.push(u8::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    pub(super) fn number(&mut self, number: Option<u64>) {
        self.0.push(u8::from(number.is_some()));
        self.0.extend_from_slice(&number.unwrap_or(0).to_be_bytes());
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}
