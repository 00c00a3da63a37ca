//! From the file to the checked configuration, with one named error for each
//! thing that can be wrong.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    Config, Librechat, Profile, Socket, Store, caution,
    effective::Effective,
    file::{File, SnapshotFile},
    friendly,
    layer::{Layered, covers},
    librechat::{Family, to_number, variable},
    network,
    origin::{Origins, Source},
};
use crate::engine::{Bounds, Rules, Shown};

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

pub(super) fn check(mut layered: Layered) -> Result<Config, ConfigError> {
    let Layered { file, origins, warnings, .. } = &mut layered;
    let rules = rules(file, &Context { profile: file.profile, origins })?;
    warnings.extend(caution::warnings(&rules));
    let mut effective = Effective::of(&layered);
    if let Some(growth) = rules.ban.growth {
        let cap = friendly::text(Duration::from_millis(growth.cap_ms));
        effective.follow("bans.growth.cap", &cap, "as long as bans.duration, the shortest ban");
    }
    let effective = Arc::new(effective);
    let Layered { file, origins, warnings, redis, mongo_uri, jwt_secret, .. } = layered;
    let uses_redis = redis.uses;
    let network = network::check(file.network)?;
    check_prefixes(&[
        ("network.guards", &network.guards),
        ("network.proxies", &network.proxies),
        ("allowlist", &file.allowlist),
    ])?;
    Ok(Config {
        profile: file.profile,
        librechat: Librechat { uses_redis },
        api: socket("api", file.api.socket, file.api.group, file.api.max_connections)?,
        admin: socket("admin", file.admin.socket, file.admin.group, file.admin.max_connections)?,
        metrics: file.metrics.check()?,
        nginx: file.nginx.check(&rules, jwt_secret)?,
        store: Store {
            path: absolute("store.path", file.store.path)?,
            retention: file.store.retention,
            max_records: max_records(file.store.max_records)?,
        },
        snapshot_every: snapshot_every(&file.snapshot)?,
        mongodb: file.mongodb.check(mongo_uri)?,
        redis: file.redis.check(redis)?,
        network,
        allowlist: file.allowlist,
        rules,
        log: file.log,
        origins,
        warnings,
        effective,
    })
}

/// Records are looked at: retries are told by them, ladders climbed.
fn max_records(most: u64) -> Result<u64, ConfigError> {
    if most == 0 {
        return Err(ConfigError::value("store.max_records", "at least 1: nothing would be kept"));
    }
    Ok(most)
}

pub(super) fn socket(
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
/// while the daemon runs: they may fill half of it. None of them is for everybody.
fn check_prefixes(lists: &[(&str, &[IpNet])]) -> Result<(), ConfigError> {
    let most = crate::network::MAX_ALLOWED / 2;
    if lists.iter().map(|(_, list)| list.len()).sum::<usize>() > most {
        let problem =
            format!("network.guards, network.proxies and allowlist have more than {most} prefixes");
        return Err(ConfigError::value("allowlist", problem));
    }
    for (key, list) in lists {
        if let Some(all) = list.iter().find(|prefix| prefix.prefix_len() == 0) {
            let problem = format!(
                "{all} is everybody: to drop nothing say network.enforce: false, to have rules \
                 ban nobody bans.enabled: false"
            );
            return Err(ConfigError::value(*key, problem));
        }
    }
    Ok(())
}

/// So that a crash forgets no more than five seconds, of which one is for writing;
/// and so that the disk is not written to all the time.
fn snapshot_every(file: &SnapshotFile) -> Result<Duration, ConfigError> {
    if (Duration::from_millis(100)..=Duration::from_secs(4)).contains(&file.every) {
        return Ok(file.every);
    }
    Err(ConfigError::value("snapshot.every", "not between 100ms and 4s"))
}

/// What sections must know of one another.
pub(super) struct Context<'a> {
    pub(super) profile: Profile,
    pub(super) origins: &'a Origins,
}

impl Context<'_> {
    /// Whether a value that makes no sense is taken, since LibreChat has it so.
    pub(super) fn is_librechats(&self, key: &str) -> bool {
        self.profile == Profile::Librechat
            && self.origins.get(key).is_some_and(|it| !matches!(it.source, Source::Own(_)))
    }

    /// Whether somebody set a key, or a whole section.
    pub(super) fn is_written(&self, key: &str) -> bool {
        self.origins.keys().any(|written| covers(written, key))
    }

    /// How LibreChat's records tell a limit: a maximum from a variable that it
    /// does not turn into a number is a text there.
    pub(super) fn shown(&self, key: &str, default: &Shown) -> Shown {
        let max = self.origins.get(&format!("{key}.max")).and_then(|origin| {
            let is_raw = variable(&origin.name).is_some_and(|it| it.family == Family::Raw);
            origin.raw().filter(|_| is_raw).map(Arc::from)
        });
        let window_minutes = match self.origins.get(&format!("{key}.window")) {
            None => default.window_minutes,
            Some(origin) => origin.raw().and_then(|text| {
                let minutes = to_number(text);
                // Multiplied and divided, as LibreChat does it.
                let is_raw = variable(&origin.name).is_some_and(|it| it.family == Family::Raw);
                is_raw.then_some(minutes * 60.0 * 1_000.0 / 60_000.0)
            }),
        };
        Shown { max, window_minutes }
    }
}

fn rules(file: &File, context: &Context<'_>) -> Result<Rules, ConfigError> {
    let base = file.profile.rules();
    let mut rules = Rules {
        counting: file.counting.check()?,
        events: file.limits.events(file.profile),
        limiters: file.limits.check(file.profile, context)?,
        concurrency: file.concurrency.check()?,
        scoring: file.scoring.check(&file.scores, file.profile, context)?,
        adaptive: file.adaptive.check()?,
        suspension_ms: file.penalties.suspension_ms()?,
        bounds: Bounds {
            windows: file.counting.max_keys,
            bans: usize::try_from(file.network.max_bans.get()).unwrap_or(usize::MAX),
            networks: usize::try_from(file.network.max_networks.get()).unwrap_or(usize::MAX),
            ..base.bounds
        },
        ..base
    };
    // These name kinds, which may be custom ones.
    file.custom.check(&mut rules, context)?;
    rules.tiers = file.tiers.check(&mut rules.limiters)?;
    rules.ladders = file.penalties.ladders()?;
    rules.ban = file.bans.check(rules.ban.crossing, &file.penalties, context)?;
    Ok(rules)
}
