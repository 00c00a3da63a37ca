//! The differences between LibreChat and us that are meant: each stands in
//! differences.toml with its reason, and each must turn up, or it is none.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// By the test in which they turn up.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    settings: BTreeMap<String, Difference>,
    replay: BTreeMap<String, Difference>,
    stories: BTreeMap<String, Difference>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    reason: String,
}

/// Where differences turn up.
#[derive(Clone, Copy)]
pub(crate) enum Room {
    Settings,
    Replay,
    Stories,
}

/// Those of one test, and how often each has turned up.
pub(crate) struct Differences(BTreeMap<String, usize>);

impl Differences {
    pub(crate) fn of(room: Room) -> Result<Self> {
        let file: File = toml::from_str(include_str!("differences.toml"))?;
        let meant = match room {
            Room::Settings => file.settings,
            Room::Replay => file.replay,
            Room::Stories => file.stories,
        };
        for (name, difference) in &meant {
            ensure!(!difference.reason.trim().is_empty(), "{name} has no reason");
        }
        Ok(Self(meant.into_keys().map(|name| (name, 0)).collect()))
    }

    /// One has turned up.
    pub(crate) fn note(&mut self, name: &str) -> Result<()> {
        let count = self.0.get_mut(name);
        *count.with_context(|| format!("{name} is not in differences.toml"))? += 1;
        Ok(())
    }

    /// Nothing else will turn up.
    pub(crate) fn finish(self) -> Result<()> {
        for (name, count) in &self.0 {
            println!("{count:6} x {name}");
        }
        let missing: Vec<_> = self.0.iter().filter(|(_, count)| **count == 0).collect();
        ensure!(missing.is_empty(), "listed in differences.toml, but there is none: {missing:?}");
        Ok(())
    }
}
