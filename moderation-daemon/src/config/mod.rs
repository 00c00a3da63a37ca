//! The configuration: YAML in, one checked [`Config`] out. Behind this room
//! nothing is checked again.

mod check;
mod document;
mod file;
mod network;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;

use crate::engine::Rules;

pub use check::{ConfigError, duration as parse_duration};
pub use document::default_file;
pub use file::{AttachMode, Log, LogFormat, LogLevel};
pub use network::{Connections, Network, Ports, Syn};

/// Where the configuration is unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/moderation/moderation.yaml";

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The app's socket.
    pub api: Socket,
    /// The operators' socket.
    pub admin: Socket,
    /// The embedded store.
    pub store: Store,
    /// The kernel.
    pub network: Network,
    /// The operator's prefixes from the file.
    pub allowlist: Vec<IpNet>,
    /// What the engine goes by.
    pub rules: Rules,
    /// Logging.
    pub log: Log,
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
    /// Reads and checks a file. Without one named, the usual file counts, and
    /// if that does not exist, the defaults.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, named) = path.map_or((Path::new(DEFAULT_PATH), false), |path| (path, true));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|error| error.in_file(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !named => Self::parse(""),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// Checks a YAML text.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn parse(yaml: &str) -> Result<Self, ConfigError> {
        check::check(file::parse(yaml)?)
    }
}
