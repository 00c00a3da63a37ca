//! The section `mongodb`: whether bans are shared, and how. The connection string is a
//! secret and no part of the file; see `share` for where it comes from.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, friendly, secret::Secret};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MongodbFile {
    /// true: bans are written to MongoDB, where LibreChat honours them, and those of
    /// other hosts hold here. Needs the credential ledger-key, the same on all
    /// hosts, and the connection string: the credential mongo-uri, or MONGO_URI in
    /// the environment or in LibreChat's .env.
    pub(super) enabled: bool,
    /// What this host is called among the others; null: its hostname. No two hosts
    /// can have one name.
    pub(super) host: Option<String>,
    /// The database; null: the one that the connection string names, else test, as
    /// in LibreChat.
    pub(super) database: Option<String>,
    /// The collection in which LibreChat keeps bans.
    pub(super) collection: String,
    /// true: a ban ends its user's sessions in LibreChat, whose refresh of a session
    /// checks no ban.
    pub(super) end_sessions: bool,
    /// How often a server is asked for changes that tells of none: one that is no
    /// replica set.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub(super) poll: Duration,
    /// By how much the clocks of hosts and database may differ. A document that is
    /// deleted so shortly before its end has expired; others are a pardon.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub(super) clock_skew: Duration,
    /// How many bans can be lifted at once by deleting their documents. More are a
    /// loss of data, after which they are written again.
    pub(super) max_deleted: usize,
    /// How many changes can wait for the database. Beyond, all bans are compared
    /// when it is back.
    pub(super) max_waiting: u64,
    /// Documents that no host has signed: LibreChat's own bans, and whatever else
    /// somebody writes there. They hold at the API.
    pub(super) foreign: ForeignFile,
    /// Records of violations, for people who look for them in one place. Nothing
    /// reads them back.
    pub(super) violations: ViolationsFile,
}

impl Default for MongodbFile {
    fn default() -> Self {
        Self {
            enabled: false,
            host: None,
            database: None,
            collection: "logs".to_owned(),
            end_sessions: false,
            poll: Duration::from_millis(250),
            clock_skew: Duration::from_secs(5),
            max_deleted: 10,
            max_waiting: 100_000,
            foreign: ForeignFile::default(),
            violations: ViolationsFile::default(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ForeignFile {
    /// true: the kernel drops what they name, single addresses only. LibreChat's
    /// default deployment lets clients choose the address that it sees.
    pub(super) network_block: bool,
    /// How many of these in a minute; those beyond hold at the API only.
    pub(super) max_per_minute: usize,
    /// How many of them are heeded at once.
    pub(super) max: usize,
}

impl Default for ForeignFile {
    fn default() -> Self {
        Self { network_block: false, max_per_minute: 100, max: 10_000 }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ViolationsFile {
    /// true: they are written to MongoDB, too.
    pub(super) enabled: bool,
    /// The collection, which is not that of the bans.
    pub(super) collection: String,
    /// How long they are kept there. Here, store.retention says so.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub(super) retention: Duration,
}

impl Default for ViolationsFile {
    fn default() -> Self {
        let retention = Duration::from_secs(30 * 24 * 3_600);
        Self { enabled: false, collection: "moderation_violations".to_owned(), retention }
    }
}

/// The checked section.
#[derive(Clone, Debug)]
pub struct Mongodb {
    /// What this host is called among the others.
    pub host: String,
    /// The database; `None`: the one that the connection string names.
    pub database: Option<String>,
    /// The collection.
    pub collection: String,
    /// Whether a ban ends its user's sessions in LibreChat.
    pub end_sessions: bool,
    /// How often a server is asked that tells of no changes.
    pub poll: Duration,
    /// By how much clocks may differ.
    pub clock_skew: Duration,
    /// How many bans can be lifted at once by deleting their documents.
    pub max_deleted: usize,
    /// How many changes can wait.
    pub max_waiting: u64,
    /// Documents that no host has signed.
    pub foreign: Foreign,
    /// Where records of violations go; `None`: nowhere.
    pub violations: Option<Violations>,
    /// `MONGO_URI` of LibreChat's `.env`.
    pub uri: Option<Secret>,
}

/// Where records of violations go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations {
    /// The collection.
    pub collection: String,
    /// How long they are kept there.
    pub retention: Duration,
}

/// What foreign documents can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Whether the kernel drops what they name.
    pub network_block: bool,
    /// How many of these in a minute.
    pub max_per_minute: usize,
    /// How many of them are heeded at once.
    pub max: usize,
}

/// A poll that is slower would miss that a deletion is felt within a second.
const SLOWEST_POLL: Duration = Duration::from_millis(500);
const FASTEST_POLL: Duration = Duration::from_millis(10);
const MOST_FOREIGN: usize = 100_000;
const MOST_WAITING: u64 = 10_000_000;
/// MongoDB counts seconds in 31 bits (`expireAfterSeconds`).
const LONGEST_RETENTION: Duration = Duration::from_secs(2_147_483_647);

impl MongodbFile {
    /// `None`: bans are not shared.
    pub(super) fn check(self, uri: Option<Secret>) -> Result<Option<Mongodb>, ConfigError> {
        let wrong =
            |key: &str, problem: String| Err(ConfigError::value(format!("mongodb.{key}"), problem));
        if !(FASTEST_POLL..=SLOWEST_POLL).contains(&self.poll) {
            return wrong("poll", "not between 10ms and 500ms".to_owned());
        }
        if self.clock_skew > Duration::from_secs(60) {
            return wrong("clock_skew", "more than a minute: set the clocks instead".to_owned());
        }
        for (key, name) in [
            ("collection", &self.collection),
            ("violations.collection", &self.violations.collection),
        ] {
            if name.is_empty() || name.contains(['$', '\0']) {
                return wrong(key, "no name of a collection".to_owned());
            }
        }
        if self.violations.collection == self.collection {
            return wrong("violations.collection", "that is the collection of bans".to_owned());
        }
        if !(Duration::from_secs(1)..=LONGEST_RETENTION).contains(&self.violations.retention) {
            return wrong("violations.retention", "not between 1s and 68 years".to_owned());
        }
        if self.max_deleted == 0 {
            return wrong("max_deleted", "at least 1: nothing could be lifted".to_owned());
        }
        if !(1..=MOST_WAITING).contains(&self.max_waiting) {
            return wrong("max_waiting", format!("between 1 and {MOST_WAITING}"));
        }
        if self.foreign.max > MOST_FOREIGN {
            return wrong("foreign.max", format!("at most {MOST_FOREIGN}"));
        }
        if !self.enabled {
            return Ok(None);
        }
        if cfg!(not(feature = "mongodb")) {
            return wrong("enabled", "this program was built without MongoDB".to_owned());
        }
        let ForeignFile { network_block, max_per_minute, max } = self.foreign;
        let ViolationsFile { enabled, collection, retention } = self.violations;
        Ok(Some(Mongodb {
            host: host(self.host)?,
            database: self.database,
            collection: self.collection,
            end_sessions: self.end_sessions,
            poll: self.poll,
            clock_skew: self.clock_skew,
            max_deleted: self.max_deleted,
            max_waiting: self.max_waiting,
            foreign: Foreign { network_block, max_per_minute, max },
            violations: enabled.then_some(Violations { collection, retention }),
            uri,
        }))
    }
}

/// A name that people can read in documents and in `host:NAME`.
fn host(name: Option<String>) -> Result<String, ConfigError> {
    let name = match name {
        Some(name) => name,
        None => match nix::unistd::gethostname() {
            Ok(name) => name.to_string_lossy().into_owned(),
            Err(_) => {
                return Err(ConfigError::value("mongodb.host", "the hostname cannot be read"));
            }
        },
    };
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_fine) {
        let problem = "1 to 64 letters, digits, dots, hyphens and underscores";
        return Err(ConfigError::value("mongodb.host", problem));
    }
    Ok(name)
}
