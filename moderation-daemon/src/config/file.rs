//! The file as people write it. The comments here become the comments of the
//! default file; see [`super::document`]. Sections with rules of their own are in
//! rooms of their own.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    ConfigError, Profile,
    bans::BansFile,
    counters::RedisFile,
    custom::CustomFile,
    friendly,
    limits::{ConcurrencyFile, CountingFile, LimitsFile, TiersFile},
    mongodb::MongodbFile,
    network,
    nginx::NginxFile,
    penalties::{AdaptiveFile, PenaltiesFile},
    scores::{ScoresFile, ScoringFile},
};

/// Whether a text says nothing at all, which is no YAML document.
pub(super) fn is_blank(yaml: &str) -> bool {
    yaml.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#'))
}

/// Reads a YAML text by itself; an empty one is the defaults.
pub(super) fn parse(yaml: &str) -> Result<File, ConfigError> {
    if is_blank(yaml) {
        return Ok(File::default());
    }
    serde_yaml::from_str(yaml).map_err(|source| ConfigError::Syntax { source })
}

/// A section of which all is commented out, which YAML reads as null.
fn section<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// A whole configuration file.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    /// hardened: LibreChat's limits and points, with its defects mended.
    /// librechat: exactly what LibreChat does. docs/profiles.md has them side by
    /// side. The values in this file are those of hardened.
    pub(super) profile: Profile,
    /// What LibreChat was told. Its settings count where this file says nothing.
    pub(super) librechat: LibrechatFile,
    /// The socket that the chat app reports to.
    pub(super) api: Api,
    /// The socket for operators: moderationctl, metrics.
    pub(super) admin: Admin,
    /// Metrics for Prometheus, which are always on the operators' socket.
    pub(super) metrics: MetricsFile,
    /// nginx, which can ask before it passes requests on. Then a host is protected
    /// whose app reports nothing.
    pub(super) nginx: NginxFile,
    /// The embedded store: bans, violations, scores. An SQLite database.
    pub(super) store: Store,
    /// What limits have counted is kept in a file beside the store, so that a
    /// restart forgets nothing, and a crash five seconds at most.
    pub(super) snapshot: SnapshotFile,
    /// Bans shared by every host that uses the same MongoDB, LibreChat's own.
    pub(super) mongodb: MongodbFile,
    /// Counters that several hosts share, in Redis. Each host counts by itself
    /// as well, and goes on by that while Redis is slow, wrong or gone.
    pub(super) redis: RedisFile,
    /// The kernel: where packets of banned addresses are dropped.
    pub(super) network: network::File,
    /// Prefixes that are never banned and never dropped, for example an
    /// office: [198.51.100.0/24, 192.0.2.7, "2001:db8:7::/48"]. More can be added while
    /// running, with moderationctl allow.
    #[serde(deserialize_with = "friendly::prefixes")]
    #[schemars(with = "Vec<String>")]
    pub(super) allowlist: Vec<IpNet>,
    /// How events are counted.
    #[serde(deserialize_with = "section")]
    pub(super) counting: CountingFile,
    /// How many events are allowed in a window. Exceeding a limit is a
    /// violation. score: points for that; null: those of its type, in scores.
    /// count_rejected: whether refused events use up the limit, too.
    #[serde(deserialize_with = "section")]
    pub(super) limits: LimitsFile,
    /// Generations at once.
    #[serde(deserialize_with = "section")]
    pub(super) concurrency: ConcurrencyFile,
    /// Maxima that differ by tier, which the app states with an event.
    pub(super) tiers: TiersFile,
    /// Limits that follow what is known about a user: factors that are
    /// multiplied.
    pub(super) adaptive: AdaptiveFile,
    /// How violations are scored.
    #[serde(deserialize_with = "section")]
    pub(super) scoring: ScoringFile,
    /// Points by violation type. Scores of different types are never summed.
    #[serde(deserialize_with = "section")]
    pub(super) scores: ScoresFile,
    /// When a score becomes a ban.
    #[serde(deserialize_with = "section")]
    pub(super) bans: BansFile,
    /// What violations bring instead of points alone.
    pub(super) penalties: PenaltiesFile,
    /// Events, violations and limits of your own.
    pub(super) custom: CustomFile,
    /// Log lines go to standard error.
    pub(super) log: Log,
}

impl File {
    /// What counts where nothing else is said.
    pub(super) fn of(profile: Profile) -> Self {
        Self {
            profile,
            librechat: LibrechatFile::default(),
            api: Api::default(),
            admin: Admin::default(),
            metrics: MetricsFile::default(),
            nginx: NginxFile::default(),
            store: Store::default(),
            snapshot: SnapshotFile::default(),
            mongodb: MongodbFile::default(),
            redis: RedisFile::default(),
            network: network::File::default(),
            allowlist: Vec::new(),
            counting: CountingFile::of(profile),
            limits: LimitsFile::of(profile),
            concurrency: ConcurrencyFile::default(),
            tiers: TiersFile::default(),
            adaptive: AdaptiveFile::default(),
            scoring: ScoringFile::of(profile),
            scores: ScoresFile::of(profile),
            bans: BansFile::of(profile),
            penalties: PenaltiesFile::default(),
            custom: CustomFile::default(),
            log: Log::default(),
        }
    }
}

impl Default for File {
    fn default() -> Self {
        Self::of(Profile::default())
    }
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LibrechatFile {
    /// Its .env, for example /opt/librechat/.env. Variables that are not in it
    /// are what LibreChat's code makes of them, not what its example file has.
    pub(super) env_file: Option<PathBuf>,
    /// Its librechat.yaml, of which rateLimits counts.
    pub(super) yaml: Option<PathBuf>,
    /// Whether the daemon's own environment counts as LibreChat's. It overrules
    /// the .env, as in LibreChat.
    pub(super) environment: bool,
    /// Whether the profile librechat takes those rateLimits, too, that LibreChat
    /// v0.8.7 reads too late. hardened always does.
    pub(super) apply_inert_yaml: bool,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SnapshotFile {
    /// How often what changed is written down; at most 4s, for writing takes a
    /// moment, too.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub(super) every: Duration,
}

impl Default for SnapshotFile {
    fn default() -> Self {
        Self { every: Duration::from_secs(4) }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    /// Where the socket is.
    pub(super) socket: PathBuf,
    /// The group whose members can open it; null: the daemon's user alone.
    pub(super) group: Option<String>,
    /// Connections at once; one more is refused.
    pub(super) max_connections: usize,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            socket: "/run/moderation/api.sock".into(),
            group: Some("moderation-app".to_owned()),
            max_connections: 256,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    /// Where the socket is.
    pub(super) socket: PathBuf,
    /// The group whose members can open it; null: the daemon's user alone.
    pub(super) group: Option<String>,
    /// Connections at once; one more is refused.
    pub(super) max_connections: usize,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            socket: "/run/moderation/admin.sock".into(),
            group: Some("moderation-admin".to_owned()),
            max_connections: 32,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Store {
    /// The database file. Its folder must be the daemon's.
    pub(super) path: PathBuf,
    /// How long violations, past bans and quiet scores are kept. What makes a
    /// ban longer or a ladder higher is kept for as long as it does, and a
    /// user's role and tier for ever: they protect, or allow more.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub(super) retention: Duration,
    /// How many violations, and how many past bans, are kept at most, and of
    /// other tables how many rows; the oldest go first. At least 1.
    pub(super) max_records: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            path: "/var/lib/moderation/moderation.db".into(),
            retention: days(30),
            max_records: 1_000_000,
        }
    }
}

/// How to attach to an interface.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// Native, else generic with a warning.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the generic path.
    Generic,
    /// Nowhere.
    Off,
}

/// Where metrics are besides.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MetricsFile {
    /// An address of the loopback and a port for GET /metrics, without any login:
    /// 127.0.0.1:9464, the port that the unit of systemd allows. null: none.
    #[schemars(with = "Option<String>")]
    listen: Option<SocketAddr>,
}

impl MetricsFile {
    pub(super) fn check(&self) -> Result<Option<SocketAddr>, ConfigError> {
        match self.listen {
            Some(address) if !address.ip().is_loopback() => Err(ConfigError::value(
                "metrics.listen",
                format!("{address} is not on the loopback; have a proxy with a login in front"),
            )),
            listen => Ok(listen),
        }
    }
}

/// How the daemon logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// error, warn, info, debug or trace.
    pub level: LogLevel,
    /// text or json.
    pub format: LogFormat,
    /// true: records of violations and exported logs hold keyed pseudonyms
    /// instead of user ids, from then on. The key is the credential
    /// pseudonym-key, never a part of this file. Bans, penalties, scores and
    /// exported scores keep ids, to match a user again.
    pub pseudonyms: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text, pseudonyms: false }
    }
}

/// How much the daemon says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Act now.
    Error,
    /// Look soon.
    Warn,
    /// What you asked for happened.
    Info,
    /// For those who look for a fault.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As `tracing` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

pub(super) const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

const fn days(days: u64) -> Duration {
    minutes(24 * 60 * days)
}
