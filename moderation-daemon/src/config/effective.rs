//! The configuration as it counts, with where each value came from: what
//! operators are shown. Values that the daemon itself never has cannot be in it;
//! of LibreChat's secrets it knows whether they are set.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layer::Layered;

/// All values, and what there is to say about them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Effective {
    /// The whole file, as it would have to be written.
    pub values: serde_json::Value,
    /// Where values came from that are no defaults of the profile, by key.
    pub origins: BTreeMap<String, String>,
    /// Variables of LibreChat that set nothing here: whether they are set.
    pub told: BTreeMap<String, String>,
    /// What is probably not as it was meant.
    pub warnings: Vec<String>,
}

impl Effective {
    pub(super) fn of(layered: &Layered) -> Self {
        let origins = layered.origins.iter();
        let told = layered.told.iter();
        Self {
            values: serde_json::to_value(&layered.file).expect("plain values"),
            origins: origins.map(|(key, origin)| (key.clone(), origin.to_string())).collect(),
            told: told.map(|(name, text)| ((*name).to_owned(), text.clone())).collect(),
            warnings: layered.warnings.iter().map(ToString::to_string).collect(),
        }
    }

    /// Puts in what a value comes to because of another one, if that is not it.
    pub(super) fn follow(&mut self, key: &str, value: &str, why: &str) {
        let shown = self.values.pointer(&place(key)).and_then(|shown| shown.as_str());
        if shown != Some(value) {
            self.put(key, value.into(), why.to_owned());
        }
    }

    /// Puts a value of the command line in.
    pub(super) fn overrule(&mut self, key: &str, value: serde_json::Value, by: &str) {
        self.put(key, value, format!("{by} on the command line"));
    }

    fn put(&mut self, key: &str, value: serde_json::Value, origin: String) {
        if let Some(place) = self.values.pointer_mut(&place(key)) {
            *place = value;
            self.origins.insert(key.to_owned(), origin);
        }
    }
}

/// Where a key's value is in JSON.
fn place(key: &str) -> String {
    format!("/{}", key.replace('.', "/"))
}
