//! Secrets that the service manager hands over as files, in the folder that it names. What
//! is in them is never told, nor are they read for longer than it takes; which there are,
//! and what each is for, is the affair of those who ask.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Shorter keys can be guessed.
pub const MIN_KEY_BYTES: usize = 16;

/// Where they are.
#[derive(Clone, Debug)]
pub struct Credentials(Option<PathBuf>);

/// Why one cannot be used. What is in it is not told.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// It cannot be read.
    #[error("cannot read the credential {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no text.
    #[error("the credential {} is no text", path.display())]
    NoText {
        /// The file.
        path: PathBuf,
    },
    /// Too short.
    #[error("{} holds {bytes} bytes; a key has at least {MIN_KEY_BYTES}", path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// How much there is, without white space around it.
        bytes: usize,
    },
}

impl Credentials {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self(env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from))
    }

    /// Those in a folder.
    pub fn within(folder: &Path) -> Self {
        Self(Some(folder.to_owned()))
    }

    /// Where one would be; `None`: this process was given none at all.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.as_ref().map(|folder| folder.join(name))
    }

    /// One as a text, without the white space around it; `None`: there is none of that name.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no text.
    pub fn text(&self, name: &str) -> Result<Option<String>, CredentialError> {
        let Some((path, bytes)) = self.read(name)? else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(|_| CredentialError::NoText { path })
    }

    /// One as a key, without the white space around it; `None`: there is none of that name.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is shorter than [`MIN_KEY_BYTES`].
    pub fn key(&self, name: &str) -> Result<Option<Vec<u8>>, CredentialError> {
        match self.read(name)? {
            Some((path, key)) if key.len() < MIN_KEY_BYTES => {
                Err(CredentialError::TooShort { path, bytes: key.len() })
            }
            found => Ok(found.map(|(_, key)| key)),
        }
    }

    fn read(&self, name: &str) -> Result<Option<(PathBuf, Vec<u8>)>, CredentialError> {
        let Some(path) = self.path(name) else { return Ok(None) };
        match fs::read(&path) {
            Ok(bytes) => Ok(Some((path, bytes.trim_ascii().to_vec()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CredentialError::Read { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_what_is_in_its_file_and_is_never_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let credentials = Credentials::within(folder.path());
        let write = |bytes: &[u8]| fs::write(folder.path().join("it"), bytes).expect("writable");
        assert_eq!(credentials.text("it").expect("no error"), None);
        assert_eq!(credentials.key("it").expect("no error"), None);
        write(b"  secret-123456 \n");
        assert_eq!(credentials.text("it").expect("a text").as_deref(), Some("secret-123456"));
        let error = credentials.key("it").expect_err("too short").to_string();
        assert!(error.ends_with("it holds 13 bytes; a key has at least 16"), "{error}");
        assert!(!error.contains("secret"), "{error}");
        write(&[0xff; 20]);
        assert_eq!(credentials.key("it").expect("a key"), Some(vec![0xff; 20]));
        let error = credentials.text("it").expect_err("no text").to_string();
        assert!(error.starts_with("the credential ") && error.ends_with("it is no text"));
        fs::create_dir(folder.path().join("that")).expect("writable");
        let error = credentials.key("that").expect_err("a folder").to_string();
        assert!(error.starts_with("cannot read the credential "), "{error}");
        assert_eq!(Credentials(None).key("it").expect("no error"), None);
    }
}
