//! Points per bearer and violation type. They are never summed over types.

use std::collections::{BTreeSet, HashMap};

use super::{Bearer, ViolationType};

/// Whose points, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScoreKey {
    /// Who bears them.
    pub bearer: Bearer,
    /// What for.
    pub kind: ViolationType,
}

/// Points so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Those that have led to no ban yet; where nothing is consumed, all.
    pub points: f64,
    /// Those that have.
    pub spent: f64,
    /// Up to when they have decayed, in milliseconds since 1970.
    pub decayed_at_unix_ms: u64,
    /// When the last ones were added, in milliseconds since 1970.
    pub updated_at_unix_ms: u64,
}

impl Score {
    /// What callers and records are told.
    pub fn shown(&self) -> f64 {
        self.points + self.spent
    }
}

/// All scores, by key and by age.
#[derive(Debug, Default)]
pub(super) struct ScoreBook {
    scores: HashMap<ScoreKey, Score>,
    by_age: BTreeSet<(u64, ScoreKey)>,
}

impl ScoreBook {
    pub(super) fn get(&self, key: &ScoreKey) -> Option<Score> {
        self.scores.get(key).copied()
    }

    pub(super) fn put(&mut self, key: ScoreKey, score: Score) {
        self.by_age.insert((score.updated_at_unix_ms, key.clone()));
        if let Some(old) = self.scores.insert(key.clone(), score)
            && old.updated_at_unix_ms != score.updated_at_unix_ms
        {
            self.by_age.remove(&(old.updated_at_unix_ms, key));
        }
    }

    pub(super) fn remove(&mut self, key: &ScoreKey) {
        if let Some(old) = self.scores.remove(key) {
            self.by_age.remove(&(old.updated_at_unix_ms, key.clone()));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.scores.len()
    }

    pub(super) fn expire(&mut self, before_unix_ms: u64) {
        while let Some((updated, key)) = self.by_age.first()
            && *updated < before_unix_ms
        {
            self.scores.remove(key);
            self.by_age.pop_first();
        }
    }

    /// Those that have been quiet longest, first.
    pub(super) fn oldest(&self) -> impl Iterator<Item = &(u64, ScoreKey)> {
        self.by_age.iter()
    }
}
