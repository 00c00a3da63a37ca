//! The two profiles, as far as the configuration knows them: what each starts
//! from. The rules themselves are the engine's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{Limiter, LimiterRule, Rules};

/// Which defaults count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Windows, counts, scores and bans exactly as LibreChat has them.
    Librechat,
    /// The same limits and points with LibreChat's defects mended.
    #[default]
    Hardened,
}

impl Profile {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Librechat, Self::Hardened];

    /// Its name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Librechat => "librechat",
            Self::Hardened => "hardened",
        }
    }

    /// What the engine goes by if nothing else is said.
    pub fn rules(self) -> Rules {
        match self {
            Self::Librechat => Rules::librechat(),
            Self::Hardened => Rules::hardened(),
        }
    }
}

/// Every built-in limiter of a profile, those that are off included.
pub(super) struct Catalogue {
    profile: Profile,
    rules: Rules,
    hardened: Rules,
}

impl Catalogue {
    pub(super) fn of(profile: Profile) -> Self {
        Self { profile, rules: profile.rules(), hardened: Rules::hardened() }
    }

    /// A limiter as it is when it is on, and whether it is on.
    pub(super) fn limiter(&self, limiter: Limiter) -> (LimiterRule, bool) {
        if let Some(rule) = self.rules.limiter(limiter) {
            return (rule.clone(), true);
        }
        let off = match self.hardened.limiter(limiter) {
            Some(rule) => rule.clone(),
            None => LimiterRule::message_user(),
        };
        (LimiterRule { count_rejected: self.profile == Profile::Librechat, ..off }, false)
    }
}
