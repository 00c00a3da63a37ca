//! From the file to the checked configuration, with one named error for each
//! thing that can be wrong.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use jiff::{SignedDuration, fmt::friendly::SpanParser};

use super::{
    Config, Socket, Store,
    file::{self, File},
    network,
};
use crate::engine::{
    Anonymous, BanLength, BanRule, Bounds, Concurrency, Counting, Decay, Escalation, Limit,
    Limiter, LimiterRule, Mapped, NetworkBlocks, Rules, Scoring, ViolationType,
};

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no YAML, or has a key or value that means nothing here. The
    /// source names the place.
    #[error("the configuration does not parse")]
    Syntax {
        /// What and where.
        source: serde_yaml::Error,
    },
    /// A value makes no sense.
    #[error("{key}: {problem}")]
    Value {
        /// Which, as a path of keys.
        key: String,
        /// Why not.
        problem: String,
    },
    /// One of the above, in a file.
    #[error("in {}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<Self>,
    },
}

impl ConfigError {
    pub(super) fn in_file(self, path: &Path) -> Self {
        Self::InFile { path: path.to_owned(), source: Box::new(self) }
    }

    pub(super) fn value(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value { key: key.into(), problem: problem.into() }
    }
}

/// Parses a duration as people write it: `90s`, `5m`, `2h`, `30d`.
///
/// # Errors
///
/// A sentence about what is wrong with it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("{text:?} is no duration such as 90s, 5m, 2h or 30d");
    // A day is 24 hours here: jiff leaves it open, for time zones' sake.
    let signed = SpanParser::new()
        .parse_span(text)
        .ok()
        .and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok())
        .ok_or_else(expected)?;
    if signed <= SignedDuration::ZERO {
        return Err(format!("{text:?} is not longer than nothing"));
    }
    Duration::try_from(signed).map_err(|_| expected())
}

pub(super) fn check(file: File) -> Result<Config, ConfigError> {
    let rules = rules(&file)?;
    let network = network::check(file.network)?;
    check_prefixes(&[&network.guards, &network.proxies, &file.allowlist])?;
    Ok(Config {
        api: socket("api", file.api.socket, file.api.group, file.api.max_connections)?,
        admin: socket("admin", file.admin.socket, file.admin.group, file.admin.max_connections)?,
        store: Store {
            path: file.store.path,
            retention: file.store.retention,
            max_records: file.store.max_records,
        },
        network,
        allowlist: file.allowlist,
        rules,
        log: file.log,
    })
}

fn socket(
    name: &str,
    path: PathBuf,
    group: Option<String>,
    max_connections: usize,
) -> Result<Socket, ConfigError> {
    if !(1..=MAX_CONNECTIONS).contains(&max_connections) {
        let key = format!("{name}.max_connections");
        return Err(ConfigError::value(key, format!("between 1 and {MAX_CONNECTIONS}")));
    }
    let path = absolute(&format!("{name}.socket"), path)?;
    // sockaddr_un.sun_path has 108 bytes with the final zero (unix(7)).
    if path.as_os_str().len() > 107 {
        let key = format!("{name}.socket");
        return Err(ConfigError::value(key, "a socket's path has at most 107 bytes"));
    }
    Ok(Socket { path, group, max_connections })
}

pub(super) fn absolute(key: &str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(ConfigError::value(key, format!("{} is not an absolute path", path.display())))
}

/// More than this is more than the usual limit of file descriptors.
const MAX_CONNECTIONS: usize = 65_536;

/// These lists go into one map of the kernel, together with what operators add
/// while the daemon runs: they may fill half of it.
fn check_prefixes(lists: &[&[IpNet]]) -> Result<(), ConfigError> {
    let most = crate::network::MAX_ALLOWED / 2;
    if lists.iter().map(|list| list.len()).sum::<usize>() > most {
        let problem =
            format!("network.guards, network.proxies and allowlist have more than {most} prefixes");
        return Err(ConfigError::value("allowlist", problem));
    }
    Ok(())
}

/// LibreChat's rules, with addresses counted and scored by whoever has them.
fn rules(file: &File) -> Result<Rules, ConfigError> {
    let mut rules = Rules::librechat();
    rules.counting = Counting { v6_bits: 64, mapped: Mapped::AsIpv4, ..rules.counting };
    rules.limiters.push(LimiterRule::message_user());
    let limits = &file.limits;
    let (by_ip, by_user) = (&limits.message_ip, &limits.message_user);
    let given = [
        (Limiter::LOGIN, true, limits.login.max, limits.login.window),
        (Limiter::REGISTRATION, true, limits.registration.max, limits.registration.window),
        (Limiter::MESSAGE_IP, by_ip.enabled, by_ip.max, by_ip.window),
        (Limiter::MESSAGE_USER, by_user.enabled, by_user.max, by_user.window),
    ];
    for (limiter, is_on, max, window) in given {
        let limit = limit(&format!("limits.{limiter}"), max, window)?;
        if !is_on {
            rules.limiters.retain(|rule| rule.limiter != limiter);
        } else if let Some(rule) = rules.limiter_mut(limiter) {
            rule.limit = limit;
        }
    }
    Ok(Rules {
        concurrency: concurrency(&file.concurrency)?,
        scoring: scoring(&file.scores, rules.scoring)?,
        ban: ban_rule(&file.bans, rules.ban)?,
        bounds: Bounds {
            bans: usize::try_from(file.network.max_bans.get()).unwrap_or(usize::MAX),
            networks: usize::try_from(file.network.max_networks.get()).unwrap_or(usize::MAX),
            ..Bounds::default()
        },
        ..rules
    })
}

fn limit(key: &str, max: u64, window: Duration) -> Result<Limit, ConfigError> {
    if max == 0 {
        return Err(ConfigError::value(
            format!("{key}.max"),
            "a limit of 0 would refuse every request",
        ));
    }
    Ok(Limit::new(max, milliseconds(&format!("{key}.window"), window)?))
}

fn concurrency(file: &file::Concurrency) -> Result<Option<Concurrency>, ConfigError> {
    if file.max == 0 {
        return Err(ConfigError::value("concurrency.max", "0 would refuse every message"));
    }
    let lease_ms = milliseconds("concurrency.lease", file.lease)?;
    Ok(file.enabled.then_some(Concurrency { max: file.max, lease_ms }))
}

fn scoring(file: &file::Scores, base: Scoring) -> Result<Scoring, ConfigError> {
    let given = [
        (ViolationType::LOGINS, file.logins),
        (ViolationType::REGISTRATIONS, file.registrations),
        (ViolationType::MESSAGE_LIMIT, file.message_limit),
        (ViolationType::CONCURRENT, file.concurrent),
        (ViolationType::NON_BROWSER, file.non_browser),
        (ViolationType::ILLEGAL_MODEL_REQUEST, file.illegal_model_request),
        (ViolationType::CONNECTION_RATE, file.connection_rate),
    ];
    let mut points = base.points;
    for (kind, value) in given {
        if !value.is_finite() || value < 0.0 {
            let problem = format!("{value} is not a number of points: 0 or more");
            return Err(ConfigError::value(format!("scores.{kind}"), problem));
        }
        points.set(kind, value);
    }
    Ok(Scoring { points, decay: Decay::Never, anonymous: Anonymous::Address, ..base })
}

fn ban_rule(file: &file::Bans, base: BanRule) -> Result<BanRule, ConfigError> {
    if !file.interval.is_finite() || file.interval <= 0.0 {
        let problem = format!("{} is not a number of points above 0", file.interval);
        return Err(ConfigError::value("bans.interval", problem));
    }
    let duration_ms = milliseconds("bans.duration", file.duration)?;
    if !matches!(file.v6_prefix, 48..=64 | 128) {
        let problem = format!("{} is neither between 48 and 64 nor 128", file.v6_prefix);
        return Err(ConfigError::value("bans.v6_prefix", problem));
    }
    if file.max_per_minute == 0 {
        let problem = "0 would stop every automatic ban; that is bans.enabled: false";
        return Err(ConfigError::value("bans.max_per_minute", problem));
    }
    Ok(BanRule {
        enabled: file.enabled,
        interval: file.interval,
        length: BanLength::For(duration_ms),
        v6_prefix: file.v6_prefix,
        network_block: network_blocks(file)?,
        max_per_minute: file.max_per_minute,
        escalation: escalation(&file.escalation)?,
        ..base
    })
}

fn network_blocks(file: &file::Bans) -> Result<NetworkBlocks, ConfigError> {
    let mut blocks = NetworkBlocks::all(file.network_block);
    for (name, block) in &file.network_block_by_type {
        let kind = ViolationType::from_name(name).ok_or_else(|| {
            let problem = format!("{name:?} is no violation type");
            ConfigError::value("bans.network_block_by_type", problem)
        })?;
        blocks.set(kind, *block);
    }
    Ok(blocks)
}

fn escalation(file: &file::Escalation) -> Result<Escalation, ConfigError> {
    let threshold = |key: &str, count: Option<u32>, most: u32| match count {
        Some(count) if !(2..=most).contains(&count) => {
            let problem = format!("{count} is not between 2 and {most}");
            Err(ConfigError::value(format!("bans.escalation.{key}"), problem))
        }
        count => Ok(count),
    };
    Ok(Escalation {
        v6_56: threshold("v6_56", file.v6_56, 256)?,
        v6_48: threshold("v6_48", file.v6_48, 65_536)?,
    })
}

fn milliseconds(key: &str, duration: Duration) -> Result<u64, ConfigError> {
    match u64::try_from(duration.as_millis()) {
        Ok(0) => Err(ConfigError::value(key, "shorter than a millisecond")),
        Ok(milliseconds) => Ok(milliseconds),
        Err(_) => Err(ConfigError::value(key, "longer than anyone will wait")),
    }
}
