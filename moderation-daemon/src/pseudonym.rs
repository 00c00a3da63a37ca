//! What users are called in records that people read and keep: by their ids, or
//! by keyed pseudonyms. The same key gives the same pseudonym, so that records
//! of one user stay together; without it nobody can tell whose they are.
//!
//! What has to match a user again (bans, scores, leases) is not renamed.

use std::{fmt, io, path::PathBuf, sync::Arc};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::credential::{CredentialError, Credentials};

/// The credential that holds the key, in the folder that systemd names.
const CREDENTIAL: &str = "pseudonym-key";

/// How users are called. Clones share the key.
#[derive(Clone, Default)]
pub struct Names(Option<Arc<Hmac<Sha256>>>);

/// Why there are no pseudonyms though they are asked for.
#[derive(Debug, thiserror::Error)]
pub enum PseudonymError {
    /// Not started with credentials.
    #[error(
        "log.pseudonyms needs the credential {CREDENTIAL}, and there are no credentials: set \
         LoadCredential={CREDENTIAL}:FILE in the unit"
    )]
    NoCredentials,
    /// This one cannot be read.
    #[error("log.pseudonyms needs {}, which cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// This one cannot be used.
    #[error(transparent)]
    Credential(CredentialError),
}

impl Names {
    /// Pseudonyms by the credential of this process.
    ///
    /// # Errors
    ///
    /// See [`PseudonymError`].
    pub fn from_credential() -> Result<Self, PseudonymError> {
        Self::keyed_by(&Credentials::of_process())
    }

    fn keyed_by(credentials: &Credentials) -> Result<Self, PseudonymError> {
        let path = credentials.path(CREDENTIAL).ok_or(PseudonymError::NoCredentials)?;
        match credentials.key(CREDENTIAL) {
            Ok(Some(key)) => Ok(Self::keyed(&key)),
            Ok(None) => Err(PseudonymError::Read { path, source: io::ErrorKind::NotFound.into() }),
            Err(CredentialError::Read { path, source }) => {
                Err(PseudonymError::Read { path, source })
            }
            Err(error) => Err(PseudonymError::Credential(error)),
        }
    }

    fn keyed(key: &[u8]) -> Self {
        Self(Some(Arc::new(Hmac::new_from_slice(key).expect("a key can have any length"))))
    }

    /// Whether users are called by pseudonyms.
    pub const fn are_pseudonyms(&self) -> bool {
        self.0.is_some()
    }

    /// What a user is called: the id itself, or `p_` and 16 hexadecimal digits.
    pub fn of(&self, user: &str) -> String {
        let Some(key) = &self.0 else { return user.to_owned() };
        let mut mac = Hmac::clone(key);
        mac.update(user.as_bytes());
        let digest = mac.finalize().into_bytes();
        let (first, _) = digest.split_first_chunk().expect("it has 32 bytes");
        format!("p_{:016x}", u64::from_be_bytes(*first))
    }

    /// The same for a name from a record, where it may be a pseudonym already.
    pub fn recorded(&self, name: &str) -> String {
        let digits = name.strip_prefix("p_").filter(|digits| digits.len() == 16);
        let is_one = digits.is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if is_one { name.to_owned() } else { self.of(name) }
    }
}

/// Without the key.
impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.are_pseudonyms() { "Names(keyed)" } else { "Names(plain)" })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;

    pub(crate) fn keyed() -> Names {
        Names::keyed(b"0123456789abcdef")
    }

    #[test]
    fn a_pseudonym_depends_on_the_key_and_on_the_user_and_on_nothing_else() {
        // printf anna | openssl dgst -sha256 -mac HMAC -macopt key:0123456789abcdef
        assert_eq!(keyed().of("anna"), "p_b7a04172e11eaea2");
        assert_eq!(keyed().of("anna"), keyed().of("anna"));
        assert_ne!(keyed().of("anna"), keyed().of("bert"));
        assert_ne!(keyed().of("anna"), Names::keyed(b"fedcba9876543210").of("anna"));
        assert_eq!(Names::default().of("anna"), "anna");
        assert_eq!(keyed().recorded(&keyed().of("anna")), keyed().of("anna"));
        assert_eq!(keyed().recorded("p_anna"), keyed().of("p_anna"));
    }

    #[test]
    fn a_key_that_is_missing_or_short_is_refused_and_never_shown() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let credentials = Credentials::within(folder.path());
        let path = folder.path().join(CREDENTIAL);
        let error = Names::keyed_by(&credentials).expect_err("there is none").to_string();
        assert!(error.starts_with("log.pseudonyms needs ") && error.contains(CREDENTIAL));
        fs::write(&path, "  secret-123456 \n").expect("writable");
        let error = Names::keyed_by(&credentials).expect_err("too short").to_string();
        assert!(error.ends_with("holds 13 bytes; a key has at least 16"), "{error}");
        assert!(!error.contains("secret"), "{error}");
        fs::write(&path, "0123456789abcdef\n").expect("writable");
        let names = Names::keyed_by(&credentials).expect("long enough");
        assert_eq!(names.of("anna"), keyed().of("anna"));
        assert_eq!(format!("{names:?}"), "Names(keyed)");
    }
}
