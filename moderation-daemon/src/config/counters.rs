//! The section `redis`: counters that hosts share. Where Redis is may be a secret, since a
//! password can stand in a URI: then it comes from a credential or from LibreChat's own
//! environment, is shown nowhere and is in no tree that is.

use std::{fmt, fs, io, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{ConfigError, friendly, secret::Secret};
use crate::credential::{CredentialError, Credentials};

/// The credentials, in the folder that systemd names.
const URI: &str = "redis-uri";
const PASSWORD: &str = "redis-password";
const DIGEST_KEY: &str = "redis-digest-key";
/// Every key has the prefix in it.
const MAX_PREFIX_BYTES: usize = 64;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RedisFile {
    /// true: limits, scores and leases are counted together with every host that
    /// uses the same Redis and prefix. null: if LibreChat's USE_REDIS says so.
    pub(super) enabled: Option<bool>,
    /// Where it is: redis://HOST:PORT/DATABASE, rediss:// with TLS, or
    /// redis+unix:///PATH; null: as LibreChat's REDIS_URI says. One with a user
    /// or password belongs into the credential redis-uri; a password alone, into
    /// the credential redis-password.
    pub(super) uri: Option<String>,
    /// Whether it is a Redis Cluster. Several nodes can be named with commas
    /// between them, and are one.
    pub(super) cluster: bool,
    /// What all keys and channels begin with; null: moderation, behind
    /// LibreChat's REDIS_KEY_PREFIX if there is one. The same on all hosts. Who
    /// somebody is is no part of a key but as a digest, keyed by the credential
    /// redis-digest-key; without it, by this prefix, which keeps ids out of
    /// sight and from nobody who can guess them.
    pub(super) prefix: Option<String>,
    /// How long a decision waits for Redis at most, and only until it is left
    /// alone: then every host counts by itself until Redis is well again.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub(super) bound: Duration,
    /// The longest pause between two looks at a Redis that is not well.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub(super) longest_pause: Duration,
}

impl Default for RedisFile {
    fn default() -> Self {
        Self {
            enabled: None,
            uri: None,
            cluster: false,
            prefix: None,
            bound: Duration::from_millis(20),
            longest_pause: Duration::from_secs(5),
        }
    }
}

/// What LibreChat was told of its Redis. Nothing of it is shown but whether it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// `USE_REDIS`.
    pub(super) uses: bool,
    /// `REDIS_URI`.
    pub(super) uri: Option<Secret>,
    /// `REDIS_KEY_PREFIX`, or what is in the variable that `REDIS_KEY_PREFIX_VAR` names.
    pub(super) prefix: Option<Secret>,
    /// `REDIS_USERNAME` and `REDIS_PASSWORD`, where the URI has none.
    pub(super) login: Login,
    /// `REDIS_CA`: the file of the only authority that is trusted. With it there is TLS,
    /// whatever the URI says.
    pub(super) ca: Option<Secret>,
    /// `USE_REDIS_CLUSTER`.
    pub(super) is_cluster: bool,
}

/// A user and a password, for servers whose URI has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub username: Option<Secret>,
    /// The password.
    pub password: Option<Secret>,
}

/// Counters that hosts share.
#[derive(Clone, PartialEq, Eq)]
pub struct Redis {
    /// Whether they are used.
    pub enabled: bool,
    /// Where they are; secrets may be in it.
    pub uris: Vec<String>,
    /// Whether that is a cluster.
    pub is_cluster: bool,
    /// Instead of the password in a URI; a secret.
    pub password: Option<String>,
    /// Where a URI has no user or password: LibreChat's.
    pub login: Login,
    /// The file of the only authority that is trusted, LibreChat's; a path, shown nowhere.
    pub ca: Option<Secret>,
    /// What all names begin with.
    pub prefix: String,
    /// What makes digests of who somebody is; a secret if it is from a credential.
    pub digest_key: [u8; 16],
    /// How long a decision waits at most.
    pub bound: Duration,
    /// The longest pause between two attempts.
    pub longest_pause: Duration,
}

/// Without what is or may be secret.
impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { enabled, is_cluster, bound, longest_pause, .. } = self;
        f.debug_struct("Redis")
            .field("enabled", enabled)
            .field("is_cluster", is_cluster)
            .field("bound", bound)
            .field("longest_pause", longest_pause)
            .finish_non_exhaustive()
    }
}

/// Why Redis cannot be used. What is in a credential or a variable is not told.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// A credential.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// LibreChat would go on without it, and without TLS.
    #[error("cannot read the file that LibreChat's REDIS_CA names")]
    Authority(#[source] io::Error),
    /// Nobody says where it is.
    #[error(
        "redis.enabled is true, and nobody says where it is: set redis.uri, the credential \
         {URI}, or REDIS_URI in LibreChat's environment"
    )]
    NoUri,
}

impl RedisFile {
    pub(super) fn check(self, given: Given) -> Result<Redis, ConfigError> {
        let Self { enabled, uri, cluster, prefix, bound, longest_pause } = self;
        if uri.as_ref().is_some_and(|uri| uri.contains('@')) {
            let problem = "a URI with a user or password belongs into the credential redis-uri, \
                           not into this file";
            return Err(ConfigError::value("redis.uri", problem));
        }
        let between = |key: &str, value: Duration, least: u64, most: u64| {
            let range = Duration::from_millis(least)..=Duration::from_millis(most);
            let problem = format!("not between {least}ms and {most}ms");
            if range.contains(&value) { Ok(value) } else { Err(ConfigError::value(key, problem)) }
        };
        // LibreChat's own is a place for its own keys: ours begin with theirs, and two colons.
        let of_librechat = || given.prefix.map(|it| format!("{}::moderation", it.expose()));
        let is_own = prefix.is_some();
        let prefix = prefix.or_else(of_librechat).unwrap_or_else(|| "moderation".to_owned());
        let is_good = |c: char| c.is_ascii_graphic() && c != '{' && c != '}';
        if prefix.is_empty() || prefix.len() > MAX_PREFIX_BYTES || !prefix.chars().all(is_good) {
            let problem = format!(
                "1 to {MAX_PREFIX_BYTES} printable characters of ASCII, no braces and no spaces"
            );
            let key = if is_own { "redis.prefix" } else { "LibreChat's prefix of keys" };
            return Err(ConfigError::value(key, problem));
        }
        // A login and an authority belong to the server that they were given for.
        let (uri, login, ca, is_cluster) = match (uri, given.uri) {
            (None, Some(uri)) => {
                (Some(uri.expose().to_owned()), given.login, given.ca, given.is_cluster)
            }
            (own, _) => (own, Login::default(), None, false),
        };
        // Where LibreChat uses one that it does not name, it does not start either.
        let is_used = enabled.unwrap_or(given.uses && uri.is_some());
        if is_used && !cfg!(feature = "redis") {
            let problem = "this was built without Redis (the feature redis)";
            return Err(ConfigError::value("redis.enabled", problem));
        }
        let uris = uri.map(|uri| split(&uri)).unwrap_or_default();
        Ok(Redis {
            enabled: is_used,
            is_cluster: cluster || is_cluster || uris.len() > 1,
            uris,
            password: None,
            login,
            ca,
            digest_key: digest(b"prefix", prefix.as_bytes()),
            prefix,
            bound: between("redis.bound", bound, 1, 1_000)?,
            longest_pause: between("redis.longest_pause", longest_pause, 100, 60_000)?,
        })
    }
}

impl Redis {
    /// With what credentials of this process say.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub fn with_credentials(&self) -> Result<Self, RedisError> {
        self.with(&Credentials::of_process())
    }

    fn with(&self, credentials: &Credentials) -> Result<Self, RedisError> {
        let mut all = self.clone();
        if let Some(uri) = credentials.text(URI)? {
            all.uris = split(&uri);
            all.is_cluster |= all.uris.len() > 1;
            (all.login, all.ca) = (Login::default(), None);
        }
        if let Some(password) = credentials.text(PASSWORD)? {
            all.password = Some(password);
        }
        if let Some(key) = credentials.key(DIGEST_KEY)? {
            all.digest_key = digest(b"key", &key);
        }
        if all.uris.is_empty() { Err(RedisError::NoUri) } else { Ok(all) }
    }

    /// What is in the file of the authority, if there is one.
    ///
    /// # Errors
    ///
    /// [`RedisError::Authority`].
    pub fn authority(&self) -> Result<Option<Vec<u8>>, RedisError> {
        let path = self.ca.as_ref().map(|path| PathBuf::from(path.expose()));
        path.map(|path| fs::read(path).map_err(RedisError::Authority)).transpose()
    }
}

fn split(uris: &str) -> Vec<String> {
    uris.split(',').map(str::trim).filter(|uri| !uri.is_empty()).map(str::to_owned).collect()
}

fn digest(what: &[u8], bytes: &[u8]) -> [u8; 16] {
    let digest = Sha256::new().chain_update(what).chain_update([0]).chain_update(bytes).finalize();
    let (half, _) = digest.split_first_chunk().expect("it has 32 bytes");
    *half
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "tr0ub4dor";

    fn given(uses: bool, uri: Option<&str>, prefix: Option<&str>) -> Given {
        let (uri, prefix) = (uri.map(Secret::new), prefix.map(Secret::new));
        Given { uses, uri, prefix, ..Given::default() }
    }

    #[test]
    fn it_is_used_if_our_file_says_so_or_if_librechat_uses_one_that_it_names() {
        let uri = Some("redis://127.0.0.1:6379");
        for (enabled, given, want) in [
            (None, given(false, uri, None), false),
            (None, given(true, uri, None), true),
            (None, given(true, None, None), false),
            (Some(false), given(true, uri, None), false),
            (Some(true), given(false, None, None), true),
        ] {
            let file = RedisFile { enabled, ..RedisFile::default() };
            let redis = file.check(given).expect("it makes sense");
            assert_eq!(redis.enabled, want && cfg!(feature = "redis"), "{enabled:?}");
        }
    }

    #[test]
    fn the_prefix_is_behind_librechat_s_and_several_nodes_are_a_cluster() {
        let two = "redis://192.0.2.1:7001, redis://192.0.2.2:7001";
        let redis =
            RedisFile::default().check(given(false, Some(two), Some("chat"))).expect("well");
        assert_eq!((redis.prefix.as_str(), redis.is_cluster), ("chat::moderation", true));
        assert_eq!(redis.uris, ["redis://192.0.2.1:7001", "redis://192.0.2.2:7001"]);
        let own = RedisFile { prefix: Some("ours".to_owned()), ..RedisFile::default() };
        let own = own.check(given(false, None, Some("chat"))).expect("well");
        assert_eq!((own.prefix.as_str(), own.is_cluster), ("ours", false));
        assert_ne!(own.digest_key, redis.digest_key);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_a_secret_is_never_told() {
        type Change = fn(&mut RedisFile);
        let uri = format!("redis://:{SECRET}@127.0.0.1");
        let file = |change: Change| {
            let mut file = RedisFile { uri: Some(uri.clone()), ..RedisFile::default() };
            change(&mut file);
            file.check(Given::default()).expect_err("refused").to_string()
        };
        let cases: [(Change, &str); 4] = [
            (|_| {}, "redis.uri: "),
            (|it| (it.uri, it.bound) = (None, Duration::from_secs(2)), "redis.bound: "),
            (|it| (it.uri, it.longest_pause) = (None, Duration::ZERO), "redis.longest_pause: "),
            (|it| (it.uri, it.prefix) = (None, Some("a{b}".to_owned())), "redis.prefix: "),
        ];
        for (change, want) in cases {
            let error = file(change);
            assert!(error.starts_with(want) && !error.contains(SECRET), "{error}");
        }
    }

    #[test]
    fn a_login_and_an_authority_go_with_the_server_that_they_were_given_for() {
        let secret = || Some(Secret::new(SECRET));
        let given = || Given {
            login: Login { username: secret(), password: secret() },
            ca: Some(Secret::new("/nowhere/ca.pem")),
            is_cluster: true,
            ..given(true, Some("redis://192.0.2.1"), None)
        };
        let theirs = RedisFile::default().check(given()).expect("well");
        assert_eq!((&theirs.login.username, theirs.is_cluster), (&secret(), true));
        assert!(matches!(theirs.authority(), Err(RedisError::Authority(_))));
        assert!(!format!("{theirs:?}{:?}", given()).contains(SECRET));
        let own = RedisFile { uri: Some("redis://192.0.2.2".to_owned()), ..RedisFile::default() };
        let own = own.check(given()).expect("well");
        assert_eq!((own.login, own.ca, own.is_cluster), (Login::default(), None, false));
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(URI), "redis://192.0.2.3").expect("writable");
        let all = theirs.with(&Credentials::within(folder.path())).expect("complete");
        assert_eq!((all.login, all.ca), (Login::default(), None));
    }

    #[test]
    fn credentials_overrule_and_show_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let plain = RedisFile::default().check(Given::default()).expect("it makes sense");
        let read = || plain.with(&Credentials::within(folder.path()));
        assert!(matches!(read(), Err(RedisError::NoUri)));
        fs::write(folder.path().join(URI), format!("rediss://u:{SECRET}@192.0.2.1\n")).expect("w");
        fs::write(folder.path().join(PASSWORD), SECRET).expect("writable");
        fs::write(folder.path().join(DIGEST_KEY), "short").expect("writable");
        let error = read().expect_err("too short").to_string();
        assert!(error.ends_with("holds 5 bytes; a key has at least 16"), "{error}");
        fs::write(folder.path().join(DIGEST_KEY), "0123456789abcdef").expect("writable");
        let all = read().expect("complete");
        assert_eq!(all.password.as_deref(), Some(SECRET));
        assert_ne!(all.digest_key, plain.digest_key);
        assert!(!format!("{all:?}").contains(SECRET));
    }
}
