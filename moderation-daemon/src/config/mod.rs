//! The configuration: YAML in, one checked [`Config`] out. Behind this room
//! nothing is checked again.

mod bans;
mod caution;
mod check;
mod counters;
mod custom;
mod document;
mod effective;
mod file;
mod friendly;
mod layer;
pub mod librechat;
mod limits;
mod mongodb;
mod network;
mod nginx;
mod origin;
mod penalties;
mod profile;
mod scores;
mod secret;
#[cfg(test)]
mod tests;
mod text;

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use crate::engine::Rules;
use check::Context;
use layer::{Files, covers};
use text::Text;

pub use self::mongodb::{Foreign, Mongodb, Violations};
pub use check::ConfigError;
pub use counters::{Login, Redis, RedisError};
pub use document::{default_file, render};
pub use effective::Effective;
pub use file::{AttachMode, Log, LogFormat, LogLevel};
pub use friendly::{parse as parse_duration, prefix as parse_prefix};
pub(crate) use network::is_private;
pub use network::{Connections, Network, Ports, Syn};
pub use nginx::{Hearing, JwtSecretError, Nginx, Overload, UserSource};
pub use origin::{Origin, Origins, Source, Warning};
pub use profile::Profile;
pub use secret::Secret;

/// Where the configuration is unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/moderation/moderation.yaml";

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whose defaults count.
    pub profile: Profile,
    /// What is known of LibreChat itself.
    pub librechat: Librechat,
    /// The app's socket.
    pub api: Socket,
    /// The operators' socket.
    pub admin: Socket,
    /// Where metrics can be had over TCP; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// How nginx is answered; `None`: it does not ask.
    pub nginx: Option<Nginx>,
    /// The embedded store.
    pub store: Store,
    /// How often what limits counted is written down.
    pub snapshot_every: Duration,
    /// Whether bans are shared with other hosts, and how.
    pub mongodb: Option<Mongodb>,
    /// Counters that hosts share.
    pub redis: Redis,
    /// The kernel.
    pub network: Network,
    /// The operator's prefixes from the file.
    pub allowlist: Vec<IpNet>,
    /// What the engine goes by.
    pub rules: Rules,
    /// Logging.
    pub log: Log,
    /// Where values came from.
    pub origins: Origins,
    /// What is probably not as it was meant, to be said at start.
    pub warnings: Vec<Warning>,
    /// All of it as operators are shown it.
    pub effective: Arc<Effective>,
}

/// What is known of LibreChat itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Librechat {
    /// Whether it keeps its counts in Redis, which its files depend on.
    pub uses_redis: bool,
}

/// A Unix socket.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Where it is.
    pub path: PathBuf,
    /// The group that can open it; `None`: the daemon's user alone.
    pub group: Option<String>,
    /// How many connections it has at once.
    pub max_connections: usize,
}

/// The embedded store.
#[derive(Clone, Debug)]
pub struct Store {
    /// The database file.
    pub path: PathBuf,
    /// How long violations, scores and past bans are kept.
    pub retention: Duration,
    /// How many violations, and how many past bans, are kept at most.
    pub max_records: u64,
}

impl Config {
    /// Reads and checks a file, those in the folder beside it that is called the same
    /// (`moderation.d`), which are laid over it in the order of their names, and the
    /// files of LibreChat that they name. Without one named, the usual file counts, and
    /// if that does not exist, the defaults.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_with(path, Files::All)
    }

    /// The same for those who need no limits and scores: files of LibreChat that
    /// they may not read are left out.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn load_readable(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_with(path, Files::Readable)
    }

    fn load_with(path: Option<&Path>, files: Files) -> Result<Self, ConfigError> {
        Self::build(&Text::of(path)?, files)
    }

    /// Checks a YAML text, and reads the files of LibreChat that it names.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn parse(yaml: &str) -> Result<Self, ConfigError> {
        Self::build(&[Text::given(yaml)], Files::All)
    }

    fn build(texts: &[Text], files: Files) -> Result<Self, ConfigError> {
        // What no file of ours says is the affair of the first one, which says the rest.
        let blame = |error: ConfigError| match texts.first() {
            Some(text) if !matches!(error, ConfigError::InFile { .. }) => text.blame(error),
            _ => error,
        };
        let layered = layer::read(texts, files, &process_environment).map_err(blame)?;
        let origins = layered.origins.clone();
        check::check(layered).map_err(|error| match file_of(&error, &origins) {
            Some(file) => error.in_file(file),
            None => blame(error),
        })
    }

    /// Takes interfaces from the command line instead.
    pub fn attach_to(&mut self, interfaces: Vec<String>) {
        let effective = Arc::make_mut(&mut self.effective);
        effective.overrule("network.interfaces", interfaces.clone().into(), "--interface");
        self.network.interfaces = interfaces;
    }
}

/// The file of ours in which a value was written that makes no sense.
fn file_of<'a>(error: &ConfigError, origins: &'a Origins) -> Option<&'a Path> {
    let ConfigError::Value { key, .. } = error else { return None };
    let is_about = |written: &str| covers(written, key) || covers(key, written);
    origins.iter().find_map(|(written, origin)| match &origin.source {
        Source::Own(Some(path)) if is_about(written) => Some(path.as_path()),
        _ => None,
    })
}

/// This process's variables; those that are no text are nobody's settings.
fn process_environment() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    env::vars_os().filter_map(text).collect()
}
