//! LibreChat's configuration as a layer of ours: its environment and its
//! librechat.yaml in, values for keys of our own file out, each with where it
//! came from and what there is to say about it. Opens no file and refuses
//! nothing itself; see `layer` for both.

pub mod dotenv;
mod expression;
mod number;
mod process;
mod reading;
mod table;
mod yaml;

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_yaml::{Mapping, Value};

pub use expression::{evaluate, math};
pub use number::{is_enabled, parse_int, to_number, to_text};
pub(super) use process::Process;
pub use table::{Family, Sets, VARIABLES, Variable, variable};
pub use yaml::{Assignment, BadYaml, assignments};

use super::{
    Profile, friendly,
    origin::{Origin, Origins, Source},
};
use reading::{Grade, Taken};

/// The variables of [`VARIABLES`] that are set. Others are not kept, and of those
/// that are only told of, no more than that they are set.
#[derive(Clone, Debug, Default)]
pub(super) struct Env {
    set: BTreeMap<&'static str, Origin>,
    texts: BTreeMap<&'static str, String>,
    /// Lines of a file that a later one overrules.
    overruled: BTreeMap<&'static str, usize>,
}

impl Env {
    /// A `.env`, which overrules nothing that is there already.
    pub(super) fn add_file(&mut self, path: &Path, text: &str) {
        let mut file = Self::default();
        for entry in dotenv::parse(text) {
            let Some(variable) = variable(&entry.name) else { continue };
            if let Some(Source::EnvFile { line, .. }) =
                file.set.get(variable.name).map(|origin| &origin.source)
            {
                file.overruled.insert(variable.name, *line);
            }
            let source = Source::EnvFile { path: path.to_owned(), line: entry.line };
            file.add(variable, variable.name, &entry.value, source);
        }
        for (name, origin) in file.set {
            if !self.set.contains_key(name) {
                self.set.insert(name, origin);
                self.texts.insert(name, file.texts.remove(name).unwrap_or_default());
                self.overruled.extend(file.overruled.remove_entry(name));
            }
        }
    }

    /// One variable of the daemon's own environment.
    pub(super) fn add_own(&mut self, name: &str, text: &str) {
        if let Some(variable) = variable(name) {
            self.add(variable, variable.name, text, Source::Environment);
        }
    }

    /// A number of a librechat.yaml, which overrules what is there.
    fn add_yaml(&mut self, variable: &'static Variable, number: &Assignment, path: &Path) {
        self.overruled.remove(variable.name);
        let source = Source::LibrechatYaml(path.to_owned());
        self.add(variable, &number.key, &number.text, source);
    }

    fn add(&mut self, variable: &'static Variable, name: &str, text: &str, source: Source) {
        let kept = match variable.family {
            Family::Text if text.is_empty() => "",
            Family::Text => "set",
            _ => text,
        };
        self.set.insert(variable.name, Origin::new(name, kept, source));
        self.texts.insert(variable.name, kept.to_owned());
    }

    fn is_set(&self, name: &str) -> bool {
        self.texts.get(name).is_some_and(|text| !text.is_empty())
    }

    /// What counts for a variable, and where it comes from: its own text, that of
    /// the one that stands in for it, at last LibreChat's default.
    fn resolve(&self, variable: &'static Variable, defaults: Defaults) -> Option<(Found, Origin)> {
        let mut row = variable;
        loop {
            if let (Some(origin), Some(text)) = (self.set.get(row.name), self.texts.get(row.name)) {
                return Some((Found { row, text: text.clone(), is_set: true }, origin.clone()));
            }
            match row.or_else.and_then(table::variable) {
                Some(other) => row = other,
                None => break,
            }
        }
        if defaults == Defaults::OfExample || row.unset.is_empty() {
            return None;
        }
        let text = row.unset.to_owned();
        let origin = Origin::new(variable.name, &text, Source::Unset);
        Some((Found { row, text, is_set: false }, origin))
    }
}

struct Found {
    row: &'static Variable,
    text: String,
    is_set: bool,
}

/// What counts for variables that are not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defaults {
    /// What `.env.example` has, which is in our own defaults.
    OfExample,
    /// What LibreChat's code has: somebody gave us an environment, and what is
    /// not in it was left out.
    OfCode,
}

/// What comes of LibreChat's configuration.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// Values by key, as a tree.
    pub(super) values: Mapping,
    /// Where each came from.
    pub(super) origins: Origins,
    /// What there is to say.
    pub(super) remarks: Vec<Remark>,
    /// Variables that set nothing here, and whether they are set.
    pub(super) told: Vec<(&'static str, String)>,
}

/// Something to say about a variable.
#[derive(Debug)]
pub(super) struct Remark {
    pub(super) about: String,
    pub(super) text: String,
    pub(super) grade: Grade,
    /// The keys that it sets, which our own file could set instead.
    pub(super) keys: Vec<String>,
}

impl Remark {
    /// Whether `profile` does not start with it.
    pub(super) fn is_refused(&self, profile: Profile) -> bool {
        match self.grade {
            Grade::Refused => true,
            Grade::Dangerous => profile == Profile::Hardened,
            Grade::Odd => false,
        }
    }
}

/// A librechat.yaml, and what it is allowed to do.
pub(super) struct Yaml<'a> {
    pub(super) path: &'a Path,
    pub(super) assignments: &'a [Assignment],
    /// Whether what LibreChat v0.8.7 reads too late counts all the same.
    pub(super) applies_late: bool,
}

/// Builds the layer. `is_own` says whether our own file has a key, which then
/// needs nothing from here.
pub(super) fn layer(
    mut env: Env,
    yaml: Option<&Yaml<'_>>,
    defaults: Defaults,
    profile: Profile,
    is_own: &dyn Fn(&str) -> bool,
) -> Layer {
    let mut builder = Builder { layer: Layer::default(), profile, is_own };
    if let Some(yaml) = yaml {
        builder.take_yaml(&mut env, yaml);
    }
    for variable in VARIABLES {
        builder.take(&env, variable, defaults);
    }
    builder.remark_on_contradictions(&env, defaults);
    if defaults == Defaults::OfCode {
        builder.tell(&env);
    }
    for (key, names) in CONNECTION {
        let origin = names.iter().filter(|name| env.is_set(name)).find_map(|it| env.set.get(it));
        if let Some(origin) = origin {
            builder.layer.origins.insert(key.to_owned(), origin.clone());
        }
    }
    builder.layer
}

/// Keys of our own file that LibreChat's connection stands in for, where they say nothing.
/// What is in the variables is in no tree: it may be a secret.
const CONNECTION: [(&str, &[&str]); 4] = [
    ("redis.enabled", &["USE_REDIS"]),
    ("redis.uri", &["REDIS_URI"]),
    ("redis.cluster", &["USE_REDIS_CLUSTER"]),
    ("redis.prefix", &["REDIS_KEY_PREFIX", "REDIS_KEY_PREFIX_VAR"]),
];

struct Builder<'a> {
    layer: Layer,
    profile: Profile,
    is_own: &'a dyn Fn(&str) -> bool,
}

impl Builder<'_> {
    fn take_yaml(&mut self, env: &mut Env, yaml: &Yaml<'_>) {
        for number in yaml.assignments {
            let row = number.variable.as_deref().and_then(variable);
            let source = Source::LibrechatYaml(yaml.path.to_owned());
            let about = Origin::new(&number.key, &number.text, source).to_string();
            match row {
                None => self.remark(about, "LibreChat does not read it", Grade::Odd, Vec::new()),
                Some(row) if number.is_in_time || yaml.applies_late => {
                    env.add_yaml(row, number, yaml.path);
                }
                Some(row) => {
                    let text = "LibreChat v0.8.7 reads it too late for it to count; with \
                                librechat.apply_inert_yaml it does";
                    self.remark(about, text, Grade::Odd, keys(row));
                }
            }
        }
    }

    fn take(&mut self, env: &Env, variable: &'static Variable, defaults: Defaults) {
        let Some((found, origin)) = env.resolve(variable, defaults) else { return };
        let reading = reading::read(&Variable { sets: variable.sets, ..*found.row }, &found.text);
        if reading.remark.is_some() && self.is_off(env, variable, defaults) {
            return;
        }
        match reading.taken {
            Taken::Value(value) => {
                for key in keys(variable) {
                    self.set(&key, value.clone(), &origin);
                }
            }
            Taken::Off if self.refuses_all(env, variable, defaults) => {
                // A window without length, but nothing is allowed in it either.
                for key in keys(variable) {
                    self.set(&key, SHORTEST_WINDOW.into(), &origin);
                }
                return;
            }
            Taken::Off => self.switch_off(variable, &origin),
            Taken::Nothing => {}
        }
        if let Some(remark) = reading.remark
            && found.is_set
        {
            self.remark(origin.to_string(), &remark.text, remark.grade, keys(variable));
        }
        if variable.name == found.row.name
            && variable.family != Family::Text
            && let Some(line) = env.overruled.get(variable.name)
        {
            let text = format!("it stands in line {line} too; the last one counts");
            self.remark(origin.to_string(), &text, Grade::Odd, keys(variable));
        }
    }

    fn set(&mut self, key: &str, value: Value, origin: &Origin) {
        insert(&mut self.layer.values, key, value);
        self.layer.origins.insert(key.to_owned(), origin.clone());
    }

    /// What a limit that limits nothing comes to, unless our own file has the
    /// number.
    fn switch_off(&mut self, variable: &Variable, origin: &Origin) {
        for key in keys(variable).into_iter().filter(|key| !(self.is_own)(key)) {
            match variable.sets {
                Sets::ScoreTtl if self.profile == Profile::Hardened => {}
                Sets::ScoreTtl => self.set("scoring.decay", "never".into(), origin),
                _ => {
                    let section = key.rsplit_once('.').map_or(&*key, |(section, _)| section);
                    self.set(&format!("{section}.enabled"), false.into(), origin);
                }
            }
        }
    }

    /// Whether a window belongs to a limit that refuses every request, however
    /// often it starts anew.
    fn refuses_all(&self, env: &Env, window: &Variable, defaults: Defaults) -> bool {
        let Sets::Window(names) = window.sets else { return false };
        let max = VARIABLES.iter().find(|row| row.sets == Sets::Max(names));
        let Some((found, _)) = max.and_then(|row| env.resolve(row, defaults)) else { return false };
        let is_own = |name: &&str| (self.is_own)(&format!("limits.{name}.max"));
        reading::number(found.row, &found.text).0 < 1.0 && !names.iter().any(is_own)
    }

    /// Whether there is a switch, which is off: then numbers do not matter.
    fn is_off(&self, env: &Env, variable: &Variable, defaults: Defaults) -> bool {
        let is_switch = |row: &&&'static Variable| match (variable.sets, row.sets) {
            (Sets::Max([name]) | Sets::Window([name]), Sets::LimitSwitch(limit)) => *name == limit,
            (Sets::Concurrency, Sets::Switch(key)) => key == "concurrency.enabled",
            (Sets::BanInterval | Sets::BanDuration, Sets::Switch(key)) => key == "bans.enabled",
            _ => false,
        };
        let Some(switch) = VARIABLES.iter().find(|row| is_switch(&row)) else { return false };
        !keys(switch).iter().any(|key| (self.is_own)(key))
            && env.resolve(switch, defaults).is_some_and(|(found, _)| !is_enabled(&found.text))
    }

    /// Of several remarks on one assignment one is made, on all of its keys.
    fn remark(&mut self, about: String, text: &str, grade: Grade, keys: Vec<String>) {
        let is_same = |other: &&mut Remark| other.about == about && other.text == text;
        match self.layer.remarks.iter_mut().find(is_same) {
            Some(other) => other.keys.extend(keys),
            None => self.layer.remarks.push(Remark { about, text: text.to_owned(), grade, keys }),
        }
    }

    fn remark_on_contradictions(&mut self, env: &Env, defaults: Defaults) {
        if env.is_set("REDIS_KEY_PREFIX") && env.is_set("REDIS_KEY_PREFIX_VAR") {
            let text = "both are set, and LibreChat does not start with both";
            let about = "REDIS_KEY_PREFIX and REDIS_KEY_PREFIX_VAR".to_owned();
            self.remark(about, text, Grade::Refused, Vec::new());
        }
        if defaults == Defaults::OfCode && !env.set.contains_key("BAN_VIOLATIONS") {
            let about = "BAN_VIOLATIONS is not set".to_owned();
            let keys = vec!["bans.enabled".to_owned()];
            self.remark(about, "nobody is banned, as in LibreChat", Grade::Odd, keys);
        }
        if self.profile == Profile::Hardened && env.set.contains_key("VIOLATION_SCORE_TTL") {
            let about = env.set["VIOLATION_SCORE_TTL"].to_string();
            let text = "it counts only with scoring.decay: ttl";
            self.remark(about, text, Grade::Odd, vec!["scoring.decay".to_owned()]);
        }
    }

    /// Whether variables are set that set nothing here.
    fn tell(&mut self, env: &Env) {
        let told =
            |row: &&Variable| matches!(row.sets, Sets::Session | Sets::Proxies | Sets::Nothing);
        for row in VARIABLES.iter().filter(told) {
            let text = match (row.family, env.set.get(row.name)) {
                (_, None) => "not set".to_owned(),
                (Family::Text, Some(_)) if env.is_set(row.name) => "set".to_owned(),
                (Family::Text, Some(_)) => "empty".to_owned(),
                (_, Some(origin)) => origin.value(),
            };
            let text = match session_length(env, row) {
                Some(length) => format!("{length}, {text}"),
                None => text,
            };
            self.layer.told.push((row.name, text));
        }
    }
}

/// How long a session lives that the variable is about.
fn session_length(env: &Env, row: &'static Variable) -> Option<String> {
    let (found, _) = env.resolve(row, Defaults::OfCode)?;
    let ms = math(Some(&found.text), to_number(row.unset));
    let length = Duration::try_from_secs_f64(ms / 1_000.0).ok()?;
    (row.sets == Sets::Session).then(|| friendly::text(length))
}

/// The shortest that our own file can say.
const SHORTEST_WINDOW: &str = "1ms";

/// The keys of our own file that a variable sets.
pub(super) fn keys(variable: &Variable) -> Vec<String> {
    let of_limits = |names: &[&str], what: &str| {
        names.iter().map(|name| format!("limits.{name}.{what}")).collect()
    };
    match variable.sets {
        Sets::Max(names) => of_limits(names, "max"),
        Sets::Window(names) => of_limits(names, "window"),
        Sets::LimitScore(names) => of_limits(names, "score"),
        Sets::LimitSwitch(name) => of_limits(&[name], "enabled"),
        Sets::Score(name) => vec![format!("scores.{name}")],
        Sets::Switch(key) => vec![key.to_owned()],
        Sets::BanDuration => vec!["bans.duration".to_owned()],
        Sets::BanInterval => vec!["bans.interval".to_owned()],
        Sets::ScoreTtl => vec!["scoring.ttl".to_owned()],
        Sets::Concurrency => vec!["concurrency.max".to_owned()],
        Sets::Session | Sets::Proxies | Sets::Inert | Sets::Nothing => Vec::new(),
    }
}

/// Puts a value under a dotted key.
fn insert(tree: &mut Mapping, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            tree.insert(key.into(), value);
        }
        Some((section, rest)) => {
            let inner = tree.entry(section.into()).or_insert_with(|| Mapping::new().into());
            if let Value::Mapping(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
