//! What sharing needs to be told, secrets included. They come from credentials or from
//! the environment, never from the YAML, and are never shown.

use std::{env, time::Duration};

use crate::{
    config,
    credential::{CredentialError, Credentials, MIN_KEY_BYTES},
    ledger::{FollowSettings, MacKey},
    store::mongo::{MongoSettings, RecordSettings},
};

/// The credential that holds the connection string, and the variable that LibreChat has it
/// in.
const URI: (&str, &str) = ("mongo-uri", "MONGO_URI");
/// The credential that holds the key by which hosts know each other's documents.
const KEY: &str = "ledger-key";

/// All of it.
#[derive(Clone, Debug)]
pub struct ShareSettings {
    /// Where bans are shared.
    pub mongo: MongoSettings,
    /// How what others write is followed.
    pub follow: FollowSettings,
    /// By which hosts know each other.
    pub mac: MacKey,
    /// How often a server is asked that tells of no changes.
    pub poll: Duration,
    /// Documents that are listed at most.
    pub most_documents: usize,
}

/// Why bans cannot be shared though they should be.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is no connection string.
    #[error(
        "mongodb.enabled needs a connection string: the credential {}, or {} in the environment \
         or in LibreChat's .env (librechat.env_file)", URI.0, URI.1
    )]
    NoUri,
    /// There is no key.
    #[error(
        "mongodb.enabled needs the credential {KEY}, the same on all hosts (for example from \
         `openssl rand -hex 32`): set LoadCredential={KEY}:FILE in the unit"
    )]
    NoKey,
    /// Too short.
    #[error("the credential {KEY} holds {bytes} bytes; a key has at least {MIN_KEY_BYTES}")]
    ShortKey {
        /// How much there is, without white space around it.
        bytes: usize,
    },
    /// A credential cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

/// What is needed with the secrets of this process.
///
/// # Errors
///
/// See [`SecretError`].
pub fn secrets(
    settings: &config::Mongodb,
    bounds: (usize, usize),
) -> Result<ShareSettings, SecretError> {
    let credentials = Credentials::of_process();
    let of_process = || env::var(URI.1).ok().filter(|text| !text.is_empty());
    let of_librechat = || settings.uri.as_ref().map(|uri| uri.expose().to_owned());
    let uri = credentials.text(URI.0)?.or_else(of_process).or_else(of_librechat);
    // A text: a key that was cut off somewhere in the middle of a character is another one.
    let key = credentials.text(KEY)?.ok_or(SecretError::NoKey)?;
    if key.len() < MIN_KEY_BYTES {
        return Err(SecretError::ShortKey { bytes: key.len() });
    }
    let settle_ms = milliseconds(SETTLE);
    Ok(ShareSettings {
        mongo: MongoSettings {
            uri: uri.ok_or(SecretError::NoUri)?,
            database: settings.database.clone(),
            collection: settings.collection.clone(),
            end_sessions: settings.end_sessions,
            records: settings.violations.clone().map(|violations| RecordSettings {
                host: settings.host.clone(),
                collection: violations.collection,
                retention: violations.retention,
            }),
        },
        follow: FollowSettings {
            host: settings.host.clone(),
            skew_ms: milliseconds(settings.clock_skew),
            most_deleted: settings.max_deleted,
            settle_ms,
            most_foreign: settings.foreign.max,
            foreign_blocks: settings.foreign.network_block,
            foreign_per_minute: settings.foreign.max_per_minute,
        },
        mac: MacKey::new(key.as_bytes()),
        poll: settings.poll,
        // Two for each ban, as many lifts and copies.
        most_documents: 4 * (bounds.0 + bounds.1) + settings.foreign.max,
    })
}

/// Deletions are collected for so long, so that a loss is told from a pardon.
const SETTLE: Duration = Duration::from_millis(250);

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
