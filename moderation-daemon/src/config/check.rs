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
    Config, Network, Socket, Store,
    file::{self, File},
};
use crate::engine::{BanRule, Bounds, Concurrency, Limit, Rules, Scores};

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

    fn value(key: impl Into<String>, problem: impl Into<String>) -> Self {
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
    let mut guards = file.network.guards;
    if file.network.protect_private {
        guards.extend(private());
    }
    check_prefixes(&guards, &file.allowlist)?;
    Ok(Config {
        api: socket("api", file.api.socket, file.api.group, file.api.max_connections)?,
        admin: socket("admin", file.admin.socket, file.admin.group, file.admin.max_connections)?,
        store: Store {
            path: file.store.path,
            retention: file.store.retention,
            max_records: file.store.max_records,
        },
        network: Network {
            interface: file.network.interface,
            mode: file.network.mode,
            pin_root: absolute("network.pin_root", file.network.pin_root)?,
            guards,
            max_bans: file.network.max_bans.get(),
            syn_window: file.network.syn_window,
            reconcile_interval: file.network.reconcile_interval,
        },
        allowlist: file.allowlist,
        rules,
        log: file.log,
    })
}

/// Addresses that no stranger on the Internet has: RFC 1122 (this host,
/// loopback), RFC 1918, RFC 6598 (carriers), RFC 3927 and RFC 4291 (link
/// local), RFC 4193. Behind them are bridges, containers and load balancers.
fn private() -> impl Iterator<Item = IpNet> {
    const PRIVATE: [&str; 11] = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::/128",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    ];
    PRIVATE.into_iter().map(|prefix| prefix.parse().expect("written correctly above"))
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

fn absolute(key: &str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(ConfigError::value(key, format!("{} is not an absolute path", path.display())))
}

/// More than this is more than the usual limit of file descriptors.
const MAX_CONNECTIONS: usize = 65_536;

/// Both lists go into one map of the kernel, together with what operators add
/// while the daemon runs: they may fill half of it.
fn check_prefixes(guards: &[IpNet], allowlist: &[IpNet]) -> Result<(), ConfigError> {
    let most = crate::network::MAX_ALLOWED / 2;
    if guards.len() + allowlist.len() > most {
        let problem = format!("network.guards and allowlist have more than {most} prefixes");
        return Err(ConfigError::value("allowlist", problem));
    }
    Ok(())
}

fn rules(file: &File) -> Result<Rules, ConfigError> {
    let limits = &file.limits;
    let (login, registration) = (&limits.login, &limits.registration);
    let (by_ip, by_user) = (&limits.message_ip, &limits.message_user);
    let message_ip = limit("limits.message_ip", by_ip.max, by_ip.window)?;
    let message_user = limit("limits.message_user", by_user.max, by_user.window)?;
    Ok(Rules {
        login: limit("limits.login", login.max, login.window)?,
        registration: limit("limits.registration", registration.max, registration.window)?,
        message_ip: by_ip.enabled.then_some(message_ip),
        message_user: by_user.enabled.then_some(message_user),
        concurrency: concurrency(&file.concurrency)?,
        scores: scores(&file.scores)?,
        ban: ban_rule(&file.bans)?,
        bounds: Bounds {
            bans: usize::try_from(file.network.max_bans.get()).unwrap_or(usize::MAX),
            ..Bounds::default()
        },
    })
}

fn limit(key: &str, max: u64, window: Duration) -> Result<Limit, ConfigError> {
    if max == 0 {
        return Err(ConfigError::value(
            format!("{key}.max"),
            "a limit of 0 would refuse every request",
        ));
    }
    Ok(Limit { max, window_ms: milliseconds(&format!("{key}.window"), window)? })
}

fn concurrency(file: &file::Concurrency) -> Result<Option<Concurrency>, ConfigError> {
    if file.max == 0 {
        return Err(ConfigError::value("concurrency.max", "0 would refuse every message"));
    }
    let lease_ms = milliseconds("concurrency.lease", file.lease)?;
    Ok(file.enabled.then_some(Concurrency { max: file.max, lease_ms }))
}

fn scores(file: &file::Scores) -> Result<Scores, ConfigError> {
    let points = |key: &str, points: f64| {
        if points.is_finite() && points >= 0.0 {
            return Ok(points);
        }
        let problem = format!("{points} is not a number of points: 0 or more");
        Err(ConfigError::value(format!("scores.{key}"), problem))
    };
    Ok(Scores {
        logins: points("logins", file.logins)?,
        registrations: points("registrations", file.registrations)?,
        message_limit: points("message_limit", file.message_limit)?,
        concurrent: points("concurrent", file.concurrent)?,
        non_browser: points("non_browser", file.non_browser)?,
        illegal_model_request: points("illegal_model_request", file.illegal_model_request)?,
    })
}

fn ban_rule(file: &file::Bans) -> Result<BanRule, ConfigError> {
    if !file.interval.is_finite() || file.interval <= 0.0 {
        let problem = format!("{} is not a number of points above 0", file.interval);
        return Err(ConfigError::value("bans.interval", problem));
    }
    let duration_ms = milliseconds("bans.duration", file.duration)?;
    Ok(BanRule { enabled: file.enabled, interval: file.interval, duration_ms })
}

fn milliseconds(key: &str, duration: Duration) -> Result<u64, ConfigError> {
    match u64::try_from(duration.as_millis()) {
        Ok(0) => Err(ConfigError::value(key, "shorter than a millisecond")),
        Ok(milliseconds) => Ok(milliseconds),
        Err(_) => Err(ConfigError::value(key, "longer than anyone will wait")),
    }
}
