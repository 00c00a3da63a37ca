//! LibreChat's environment as its process finds it: its own variables, and those of its
//! `.env` that are not there yet. Of all of them some are secrets, and any can be named by
//! another one; so they are shown nowhere, and forgotten as soon as they were asked.

use std::{collections::HashMap, fmt};

use super::{dotenv, is_enabled};
use crate::config::{
    counters::{Given, Login},
    secret::Secret,
};

/// See the module.
#[derive(Default)]
pub(in crate::config) struct Process(HashMap<String, String>);

/// How many there are.
impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({})", self.0.len())
    }
}

impl Process {
    /// A variable that is there from the start.
    pub(in crate::config) fn add_own(&mut self, name: String, text: String) {
        self.0.insert(name, text);
    }

    /// Those of a `.env`, of several lines the last one.
    pub(in crate::config) fn add_file(&mut self, text: &str) {
        let file: HashMap<_, _> =
            dotenv::parse(text).into_iter().map(|line| (line.name, line.value)).collect();
        for (name, text) in file {
            self.0.entry(name).or_insert(text);
        }
    }

    /// What is in a variable; an empty one is none.
    pub(in crate::config) fn secret(&self, name: &str) -> Option<Secret> {
        self.filled(name).map(Secret::new)
    }

    fn filled(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// Its Redis.
    pub(in crate::config) fn redis(&self) -> Given {
        let is_on = |name: &str| self.0.get(name).is_some_and(|text| is_enabled(text));
        let named = self.filled("REDIS_KEY_PREFIX_VAR").and_then(|name| self.secret(name));
        Given {
            uses: is_on("USE_REDIS"),
            uri: self.secret("REDIS_URI"),
            prefix: named.or_else(|| self.secret("REDIS_KEY_PREFIX")),
            login: Login {
                username: self.secret("REDIS_USERNAME"),
                password: self.secret("REDIS_PASSWORD"),
            },
            ca: self.secret("REDIS_CA"),
            is_cluster: is_on("USE_REDIS_CLUSTER"),
        }
    }

    /// Whether a prefix of keys is said to be in a variable that is not set here.
    pub(in crate::config) fn lacks_prefix(&self) -> bool {
        let name = self.filled("REDIS_KEY_PREFIX_VAR");
        name.is_some_and(|name| self.filled(name).is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(own: &[(&str, &str)], file: &str) -> Process {
        let mut process = Process::default();
        own.iter().for_each(|(name, text)| {
            process.add_own((*name).to_owned(), (*text).to_owned());
        });
        process.add_file(file);
        process
    }

    fn exposed(secret: &Option<Secret>) -> &str {
        secret.as_ref().map_or("", Secret::expose)
    }

    #[test]
    fn a_connection_is_read_as_librechat_reads_it() {
        let file = "USE_REDIS=true\nREDIS_URI=redis://192.0.2.1\nREDIS_URI=redis://192.0.2.2\n\
                    REDIS_USERNAME=app\nREDIS_PASSWORD='hunter2 #'\nREDIS_CA=/etc/ca.pem\n\
                    USE_REDIS_CLUSTER=True\nREDIS_KEY_PREFIX=chat\n";
        let given = process(&[("REDIS_USERNAME", "own"), ("REDIS_CA", "")], file).redis();
        assert!(given.uses && given.is_cluster);
        assert_eq!(exposed(&given.uri), "redis://192.0.2.2");
        assert_eq!(exposed(&given.login.username), "own");
        assert_eq!(exposed(&given.login.password), "hunter2 #");
        assert_eq!(given.ca, None, "an empty variable is there, and not overruled");
        assert_eq!(exposed(&given.prefix), "chat");
        assert_eq!(process(&[], "").redis(), Given::default());
    }

    #[test]
    fn a_prefix_can_be_in_a_variable_of_any_name() {
        let named = [("REDIS_KEY_PREFIX_VAR", "DEPLOYMENT_ID")];
        let process_of = |file: &str| process(&named, file);
        let there = process_of("DEPLOYMENT_ID=blue\n");
        assert_eq!((exposed(&there.redis().prefix), there.lacks_prefix()), ("blue", false));
        for file in ["", "DEPLOYMENT_ID=\n"] {
            let there = process_of(file);
            assert_eq!((there.redis().prefix, there.lacks_prefix()), (None, true));
        }
        assert!(!process(&[], "").lacks_prefix());
    }

    #[test]
    fn nothing_of_it_is_shown() {
        let process = process(&[("REDIS_PASSWORD", "hunter2")], "DEPLOYMENT_ID=hunter2");
        assert_eq!(format!("{process:?}"), "Process(2)");
        assert!(!format!("{:?}", process.redis()).contains("hunter2"));
    }
}
