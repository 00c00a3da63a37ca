//! The file as people write it. The comments here become the comments of the
//! default file; see [`super::document`].

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, network};
use crate::engine::NetworkBlock;

/// Reads a YAML text; an empty one is the defaults.
pub(super) fn parse(yaml: &str) -> Result<File, ConfigError> {
    let blank = yaml.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#'));
    if blank {
        return Ok(File::default());
    }
    serde_yaml::from_str(yaml).map_err(|source| ConfigError::Syntax { source })
}

/// A whole configuration file.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    /// The socket that the chat app reports to.
    pub(super) api: Api,
    /// The socket for operators: moderationctl, metrics.
    pub(super) admin: Admin,
    /// The embedded store: bans, violations, scores. An SQLite database.
    pub(super) store: Store,
    /// The kernel: where packets of banned addresses are dropped.
    pub(super) network: network::File,
    /// Prefixes that are never banned and never dropped, for example an
    /// office: [198.51.100.0/24, "2001:db8:7::/48"]. More can be added while
    /// running, with moderationctl allow.
    #[schemars(with = "Vec<String>")]
    pub(super) allowlist: Vec<IpNet>,
    /// How many events are allowed in a window. Exceeding a limit is a
    /// violation, and so is every further event in that window.
    pub(super) limits: Limits,
    /// Generations at once.
    pub(super) concurrency: Concurrency,
    /// Points by violation type. Scores of different types are never summed.
    pub(super) scores: Scores,
    /// When a score becomes a ban.
    pub(super) bans: Bans,
    /// Log lines go to standard error.
    pub(super) log: Log,
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
    /// How long violations, past bans and quiet scores are kept.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub(super) retention: Duration,
    /// How many violations, and how many past bans, are kept at most; the
    /// oldest go first.
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

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    /// Logins by address. LibreChat: LOGIN_MAX, LOGIN_WINDOW.
    pub(super) login: Login,
    /// Registrations by address. LibreChat: REGISTER_MAX, REGISTER_WINDOW.
    pub(super) registration: Registration,
    /// Messages by address. LibreChat: LIMIT_MESSAGE_IP, MESSAGE_IP_MAX,
    /// MESSAGE_IP_WINDOW.
    pub(super) message_ip: MessageIp,
    /// Messages by user. LibreChat: LIMIT_MESSAGE_USER, MESSAGE_USER_MAX,
    /// MESSAGE_USER_WINDOW.
    pub(super) message_user: MessageUser,
}

/// A limit has its own defaults, and a default belongs to a type.
macro_rules! limit {
    ($name:ident, $max:literal in $minutes:literal minutes $(, $switch:ident: $on:literal)?) => {
        #[derive(Debug, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $name {
            $(pub(super) $switch: bool,)?
            pub(super) max: u64,
            #[serde(with = "friendly")]
            #[schemars(with = "String")]
            pub(super) window: Duration,
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($switch: $on,)? max: $max, window: minutes($minutes) }
            }
        }
    };
}

limit!(Login, 7 in 5 minutes);
limit!(Registration, 5 in 60 minutes);
limit!(MessageIp, 40 in 1 minutes, enabled: true);
limit!(MessageUser, 40 in 1 minutes, enabled: false);

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Concurrency {
    /// LibreChat: LIMIT_CONCURRENT_MESSAGES.
    pub(super) enabled: bool,
    /// Generations that one user can run at once. LibreChat:
    /// CONCURRENT_MESSAGE_MAX.
    pub(super) max: usize,
    /// How long a generation's lease lives unless the app renews it.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub(super) lease: Duration,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { enabled: true, max: 2, lease: Duration::from_secs(60) }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Scores {
    /// LibreChat: LOGIN_VIOLATION_SCORE.
    pub(super) logins: f64,
    /// LibreChat: REGISTRATION_VIOLATION_SCORE.
    pub(super) registrations: f64,
    /// LibreChat: MESSAGE_VIOLATION_SCORE.
    pub(super) message_limit: f64,
    /// LibreChat: CONCURRENT_VIOLATION_SCORE.
    pub(super) concurrent: f64,
    /// LibreChat: NON_BROWSER_VIOLATION_SCORE.
    pub(super) non_browser: f64,
    /// LibreChat: ILLEGAL_MODEL_REQ_SCORE.
    pub(super) illegal_model_request: f64,
    /// More connections than network.connections allows.
    pub(super) connection_rate: f64,
}

impl Default for Scores {
    fn default() -> Self {
        Self {
            logins: 1.0,
            registrations: 1.0,
            message_limit: 1.0,
            concurrent: 1.0,
            non_browser: 20.0,
            illegal_model_request: 5.0,
            connection_rate: 1.0,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Bans {
    /// false: violations are scored, nobody is banned. LibreChat:
    /// BAN_VIOLATIONS.
    pub(super) enabled: bool,
    /// A ban falls whenever the score of one type reaches or jumps over a
    /// multiple of this. LibreChat: BAN_INTERVAL.
    pub(super) interval: f64,
    /// How long a ban lasts. LibreChat: BAN_DURATION.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub(super) duration: Duration,
    /// The width at which an IPv6 address is banned: 48 to 64, or 128. Blocks
    /// that are wider than a /64 count towards network.max_networks.
    pub(super) v6_prefix: u8,
    /// Whether the kernel drops a banned address's packets. always. repeat: only
    /// from the second ban for the same violation type on. never: the ban holds
    /// at the API only.
    #[schemars(with = "String")]
    pub(super) network_block: NetworkBlock,
    /// The same by violation type, for example {non_browser: repeat}.
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) network_block_by_type: BTreeMap<String, NetworkBlock>,
    /// When more bans than this are called for within a minute, a rule has run
    /// away: automatic bans stop until it is quiet again. Scores go on, and
    /// operators can ban.
    pub(super) max_per_minute: u32,
    /// So many banned IPv6 /64s in one wider block make the whole block banned.
    /// null: never. Only where v6_prefix is 64.
    pub(super) escalation: Escalation,
}

impl Default for Bans {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: 20.0,
            duration: minutes(120),
            v6_prefix: 64,
            network_block: NetworkBlock::Always,
            network_block_by_type: BTreeMap::new(),
            max_per_minute: 100,
            escalation: Escalation::default(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Escalation {
    /// Of the 256 in a /56.
    pub(super) v6_56: Option<u32>,
    /// Of the 65536 in a /48.
    pub(super) v6_48: Option<u32>,
}

impl Default for Escalation {
    fn default() -> Self {
        Self { v6_56: Some(16), v6_48: Some(64) }
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
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text }
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

/// Durations as people write them: `90s`, `5m`, `2h`, `1h 30m`, `30d`.
pub(super) mod friendly {
    use std::time::Duration;

    use jiff::{SignedDuration, fmt::friendly::SpanPrinter};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::config::check::duration;

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Duration,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let signed = SignedDuration::try_from(*value).map_err(serde::ser::Error::custom)?;
        to.serialize_str(&SpanPrinter::new().duration_to_string(&signed))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        duration(&text).map_err(D::Error::custom)
    }
}
