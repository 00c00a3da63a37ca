//! One configuration out of several: the profile's defaults, over them what
//! LibreChat was told (its .env, the environment, its librechat.yaml), over that
//! our own files. LibreChat's are opened here; what values mean is decided elsewhere.

use std::{collections::BTreeSet, fs::File as Handle, io::Read as _, path::Path};

use serde_yaml::{Mapping, Value};

use super::{
    ConfigError,
    check::absolute,
    counters::Given,
    file::{self, File},
    librechat::{self, Assignment, Defaults, Env, Process, Yaml},
    origin::{Origin, Origins, Warning},
    secret::Secret,
    text::Text,
};

/// The variables of a process, where they are asked for.
pub(super) type Environment<'a> = &'a dyn Fn() -> Vec<(String, String)>;

/// Which of LibreChat's files there must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// All that are named.
    All,
    /// Those that can be read.
    Readable,
}

/// What all layers come to.
#[derive(Debug)]
pub(super) struct Layered {
    pub(super) file: File,
    pub(super) origins: Origins,
    pub(super) warnings: Vec<Warning>,
    pub(super) told: Vec<(&'static str, String)>,
    /// `MONGO_URI` of LibreChat's environment, which is shown to nobody.
    pub(super) mongo_uri: Option<Secret>,
    /// `JWT_SECRET` of the same.
    pub(super) jwt_secret: Option<Secret>,
    pub(super) redis: Given,
}

/// Mappings whose keys are the operator's: they replace the defaults' instead of
/// being mixed with them.
const REPLACED: [&str; 1] = ["tiers.max"];
/// Where LibreChat has its connection string.
const MONGO_URI: &str = "MONGO_URI";
/// With what it signs its tokens.
const JWT_SECRET: &str = "JWT_SECRET";
/// A .env or librechat.yaml that is larger is none.
const MAX_BYTES: u64 = 1 << 20;

/// Puts the layers together for what our own files say, the last of which counts most.
pub(super) fn read(
    texts: &[Text],
    files: Files,
    environment: Environment<'_>,
) -> Result<Layered, ConfigError> {
    let trees = texts.iter().map(tree).collect::<Result<Vec<_>, _>>()?;
    let own = own(&trees)?;
    let mut tree = serde_yaml::to_value(File::of(own.profile)).expect("plain values");
    let written = texts.iter().zip(trees).map(|(text, own)| (text, Written::of(own, &tree)));
    let written: Vec<_> = written.collect();
    let is_own = |key: &str| {
        let keys = written.iter().flat_map(|(_, written)| &written.keys);
        keys.into_iter().any(|own| covers(own, key))
    };
    let (layer, process) = librechat_layer(&own, files, &is_own, environment)?;

    let mut origins = layer.origins;
    let mut warnings = Vec::new();
    for remark in layer.remarks {
        if !remark.keys.is_empty() && remark.keys.iter().all(|key| is_own(key)) {
            continue;
        }
        if remark.is_refused(own.profile) {
            return Err(refusal(remark, &is_own));
        }
        warnings.push(Warning { about: remark.about, text: remark.text });
    }
    if process.lacks_prefix() && !is_own("redis.prefix") {
        let text = "the variable that it names is not set here, and may be where LibreChat runs; \
                    set redis.prefix, the same on all hosts";
        let about = "REDIS_KEY_PREFIX_VAR".to_owned();
        warnings.push(Warning { about, text: text.to_owned() });
    }
    merge(&mut tree, Value::Mapping(layer.values), "");
    for (text, written) in written {
        merge(&mut tree, Value::Mapping(written.tree), "");
        for key in written.keys {
            origins.retain(|other, _| !covers(&key, other));
            origins.insert(key, Origin::own(text.path.clone()));
        }
    }
    let file = serde_yaml::from_value(tree).map_err(|source| ConfigError::Syntax { source })?;
    let (told, redis) = (layer.told, process.redis());
    let (mongo_uri, jwt_secret) = (process.secret(MONGO_URI), process.secret(JWT_SECRET));
    Ok(Layered { file, origins, warnings, told, redis, mongo_uri, jwt_secret })
}

/// What our own files say together.
fn own(trees: &[Mapping]) -> Result<File, ConfigError> {
    let mut together = Value::Mapping(Mapping::new());
    for tree in trees {
        merge(&mut together, Value::Mapping(tree.clone()), "");
    }
    serde_yaml::from_value(together).map_err(|source| ConfigError::Syntax { source })
}

fn refusal(remark: librechat::Remark, is_own: &dyn Fn(&str) -> bool) -> ConfigError {
    let problem = match remark.keys.iter().find(|key| !is_own(key)) {
        None => remark.text,
        Some(key) => format!("{}; change it, or set {key} yourself", remark.text),
    };
    ConfigError::value(remark.about, problem)
}

/// Whether one key is another, or the section that it is in.
pub(super) fn covers(section: &str, key: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn librechat_layer(
    own: &File,
    files: Files,
    is_own: &dyn Fn(&str) -> bool,
    environment: Environment<'_>,
) -> Result<(librechat::Layer, Process), ConfigError> {
    let settings = &own.librechat;
    let (mut env, mut process) = (Env::default(), Process::default());
    if settings.environment {
        for (name, text) in environment() {
            env.add_own(&name, &text);
            process.add_own(name, text);
        }
    }
    if let Some(path) = &settings.env_file {
        let path = absolute("librechat.env_file", path.clone())?;
        let text = contents(&path, files)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        env.add_file(&path, &text);
        process.add_file(&text);
    }
    let numbers = match &settings.yaml {
        None => None,
        Some(path) => {
            let path = absolute("librechat.yaml", path.clone())?;
            match contents(&path, files)? {
                None => None,
                Some(text) => {
                    let numbers = rate_limits(&text).map_err(|error| error.in_file(&path))?;
                    Some((path, numbers))
                }
            }
        }
    };
    let yaml = numbers.as_ref().map(|(path, assignments)| Yaml {
        path,
        assignments,
        applies_late: settings.apply_inert_yaml || own.profile == super::Profile::Hardened,
    });
    let is_given = settings.environment || settings.env_file.is_some();
    let defaults = if is_given { Defaults::OfCode } else { Defaults::OfExample };
    Ok((librechat::layer(env, yaml.as_ref(), defaults, own.profile, is_own), process))
}

fn rate_limits(text: &[u8]) -> Result<Vec<Assignment>, ConfigError> {
    let syntax = |source| ConfigError::Syntax { source };
    let mut value: Value = serde_yaml::from_slice(text).map_err(syntax)?;
    value.apply_merge().map_err(syntax)?;
    librechat::assignments(&value).map_err(|error| ConfigError::value(error.key, error.problem))
}

/// What is in a file of LibreChat's; `None` if it can and may be left out.
fn contents(path: &Path, files: Files) -> Result<Option<Vec<u8>>, ConfigError> {
    let mut text = Vec::new();
    let read =
        Handle::open(path).and_then(|handle| handle.take(MAX_BYTES + 1).read_to_end(&mut text));
    match read {
        Err(_) if files == Files::Readable => Ok(None),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        Ok(_) if text.len() as u64 > MAX_BYTES => {
            let problem = format!("{} has more than {MAX_BYTES} bytes", path.display());
            Err(ConfigError::value("librechat", problem))
        }
        Ok(_) => Ok(Some(text)),
    }
}

/// What one of our own files says: as a tree, and which keys.
struct Written {
    tree: Mapping,
    keys: BTreeSet<String>,
}

impl Written {
    fn of(tree: Mapping, defaults: &Value) -> Self {
        let mut keys = BTreeSet::new();
        collect(&tree, defaults, "", &mut keys);
        Self { tree, keys }
    }
}

/// One of our own files, which is read by itself first: only so errors tell file and line.
fn tree(text: &Text) -> Result<Mapping, ConfigError> {
    file::parse(&text.yaml).map_err(|error| text.blame(error))?;
    if file::is_blank(&text.yaml) {
        return Ok(Mapping::new());
    }
    let tree = serde_yaml::from_str(&text.yaml);
    let mut tree: Mapping = tree.map_err(|source| text.blame(ConfigError::Syntax { source }))?;
    // Sections of which all is commented out.
    tree.retain(|_, section| !section.is_null());
    Ok(tree)
}

/// The keys of a tree, as far down as the defaults have sections.
fn collect(tree: &Mapping, defaults: &Value, prefix: &str, keys: &mut BTreeSet<String>) {
    for (name, value) in tree {
        let name = name.as_str().unwrap_or_default();
        let key = joined(prefix, name);
        match (value, &defaults[name]) {
            (Value::Mapping(inner), Value::Mapping(section))
                if !section.is_empty() && !REPLACED.contains(&&*key) =>
            {
                collect(inner, &defaults[name], &key, keys);
            }
            _ => {
                keys.insert(key);
            }
        }
    }
}

/// Puts a tree over another one.
fn merge(base: &mut Value, over: Value, key: &str) {
    match (base, over) {
        (Value::Mapping(base), Value::Mapping(over)) if !REPLACED.contains(&key) => {
            for (name, value) in over {
                let key = joined(key, name.as_str().unwrap_or_default());
                match base.get_mut(&name) {
                    Some(inner) => merge(inner, value, &key),
                    None => {
                        base.insert(name, value);
                    }
                }
            }
        }
        (base, over) => *base = over,
    }
}

fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}
