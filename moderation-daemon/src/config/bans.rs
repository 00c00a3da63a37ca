//! When a score becomes a ban, and how long and how wide it is: the section
//! `bans`, and what becomes of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, Context, Profile,
    friendly::{self, milliseconds},
    limits::unknown,
    penalties::PenaltiesFile,
};
use crate::engine::{
    BanLength, BanRule, Crossing, Escalation, Growth, InvalidUserId, NetworkBlock, NetworkBlocks,
    Protected, SharedRule, ViolationType,
};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BansFile {
    /// false: violations are scored, and rules ban nobody: no ban or permanent
    /// step of a ladder falls, and nothing critical suspends. Warnings, removals
    /// and reductions do. LibreChat: BAN_VIOLATIONS.
    enabled: bool,
    /// A ban falls whenever the score of one type reaches or jumps over a
    /// multiple of this. LibreChat: BAN_INTERVAL.
    interval: f64,
    /// How long a first ban lasts. soft: not at all, the app is told to end the
    /// user's sessions. permanent: until somebody lifts it, where
    /// penalties.allow_permanent says so. LibreChat: BAN_DURATION.
    #[serde(with = "friendly::length")]
    #[schemars(with = "String")]
    duration: BanLength,
    /// Each further ban is factor times as long as the last, up to cap; in
    /// half_life half of what was done is forgotten. null: all are equally long,
    /// as in LibreChat.
    growth: Option<GrowthFile>,
    /// An address at which several users were seen is banned only when so many
    /// subjects broke rules there within that time, or anonymous ones, and only
    /// so long. null: it is banned with the user, as in LibreChat.
    shared: Option<SharedFile>,
    /// Users and roles that are never banned automatically, nor the address of
    /// their request; they are scored. What rules did to an address because of
    /// others does not keep them out at the API; in the kernel it does, unless
    /// the allowlist names it.
    protected: ProtectedFile,
    /// The width at which an IPv6 address is banned: 48 to 64, or 128. Blocks
    /// that are wider than a /64 count towards network.max_networks.
    v6_prefix: u8,
    /// Whether the kernel drops a banned address's packets. always. repeat: only
    /// from the second ban for the same violation type on. never: the ban holds
    /// at the API only.
    #[schemars(with = "String")]
    network_block: NetworkBlock,
    /// The same by violation type, for example {non_browser: repeat}.
    #[schemars(with = "BTreeMap<String, String>")]
    network_block_by_type: BTreeMap<String, NetworkBlock>,
    /// When more bans than this are called for within a minute, a rule has run
    /// away: automatic bans stop until it is quiet again. Scores go on, and
    /// operators can ban.
    max_per_minute: u32,
    /// So many banned IPv6 /64s in one wider block make the whole block banned.
    /// null: never. Only where v6_prefix is 64.
    escalation: EscalationFile,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct GrowthFile {
    factor: f64,
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    cap: Duration,
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    half_life: Duration,
}

impl Default for GrowthFile {
    fn default() -> Self {
        let month = Duration::from_secs(30 * 24 * 60 * 60);
        Self { factor: 2.0, cap: month, half_life: month }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct SharedFile {
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    duration: Duration,
    subjects: u32,
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    within: Duration,
}

impl Default for SharedFile {
    fn default() -> Self {
        let (duration, within) = (Duration::from_secs(15 * 60), Duration::from_secs(60 * 60));
        Self { duration, subjects: 2, within }
    }
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ProtectedFile {
    users: Vec<String>,
    roles: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct EscalationFile {
    /// Of the 256 in a /56.
    v6_56: Option<u32>,
    /// Of the 65536 in a /48.
    v6_48: Option<u32>,
}

impl Default for EscalationFile {
    fn default() -> Self {
        Self { v6_56: Some(16), v6_48: Some(64) }
    }
}

impl BansFile {
    pub(super) fn of(profile: Profile) -> Self {
        let ban = profile.rules().ban;
        Self {
            enabled: ban.enabled,
            interval: ban.interval,
            duration: ban.length,
            growth: ban.growth.map(GrowthFile::of),
            shared: ban.shared.map(SharedFile::of),
            protected: ProtectedFile::default(),
            v6_prefix: ban.v6_prefix,
            network_block: NetworkBlock::Always,
            network_block_by_type: BTreeMap::new(),
            max_per_minute: ban.max_per_minute,
            escalation: EscalationFile::default(),
        }
    }

    /// `crossing` is the profile's.
    pub(super) fn check(
        &self,
        crossing: Crossing,
        penalties: &PenaltiesFile,
        context: &Context<'_>,
    ) -> Result<BanRule, ConfigError> {
        self.check_numbers(penalties, context)?;
        let growth = self.growth.as_ref().map(|growth| growth.check(self.duration, context));
        Ok(BanRule {
            enabled: self.enabled,
            interval: self.interval,
            crossing,
            length: self.duration,
            growth: growth.transpose()?,
            shared: self.shared.as_ref().map(SharedFile::check).transpose()?,
            protected: self.protected.check()?,
            v6_prefix: self.v6_prefix,
            network_block: self.network_blocks()?,
            max_per_minute: self.max_per_minute,
            escalation: self.escalation.check()?,
        })
    }

    fn check_numbers(
        &self,
        penalties: &PenaltiesFile,
        context: &Context<'_>,
    ) -> Result<(), ConfigError> {
        let is_interval = self.interval > 0.0 || context.is_librechats("bans.interval");
        if !self.interval.is_finite() || !is_interval {
            let problem = format!("{} is not a number of points above 0", self.interval);
            return Err(ConfigError::value("bans.interval", problem));
        }
        if self.duration == BanLength::Forever
            && !penalties.allow_permanent
            && !context.is_librechats("bans.duration")
        {
            let problem = "permanent bans need penalties.allow_permanent: true";
            return Err(ConfigError::value("bans.duration", problem));
        }
        if !matches!(self.v6_prefix, 48..=64 | 128) {
            let problem = format!("{} is neither between 48 and 64 nor 128", self.v6_prefix);
            return Err(ConfigError::value("bans.v6_prefix", problem));
        }
        if self.max_per_minute == 0 {
            let problem = "0 would stop every automatic ban; that is bans.enabled: false";
            return Err(ConfigError::value("bans.max_per_minute", problem));
        }
        Ok(())
    }

    fn network_blocks(&self) -> Result<NetworkBlocks, ConfigError> {
        let mut blocks = NetworkBlocks::all(self.network_block);
        for (name, block) in &self.network_block_by_type {
            let kind = ViolationType::from_name(name).ok_or_else(|| {
                let key = "bans.network_block_by_type";
                ConfigError::value(key, unknown("violation type", name))
            })?;
            blocks.set(kind, *block);
        }
        Ok(blocks)
    }
}

impl Default for BansFile {
    fn default() -> Self {
        Self::of(Profile::default())
    }
}

impl GrowthFile {
    fn of(growth: Growth) -> Self {
        Self {
            factor: growth.factor,
            cap: Duration::from_millis(growth.cap_ms),
            half_life: Duration::from_millis(growth.half_life_ms),
        }
    }

    fn check(&self, length: BanLength, context: &Context<'_>) -> Result<Growth, ConfigError> {
        if !(1.0..=100.0).contains(&self.factor) {
            let problem = format!("{} is not between 1 and 100", self.factor);
            return Err(ConfigError::value("bans.growth.factor", problem));
        }
        let mut cap_ms = milliseconds("bans.growth.cap", self.cap)?;
        match length {
            // A cap that nobody asked for is no reason to refuse a duration.
            BanLength::For(ms) if !context.is_written("bans.growth.cap") => {
                cap_ms = cap_ms.max(ms);
            }
            BanLength::For(ms) if ms > cap_ms => {
                let problem = "shorter than bans.duration, the shortest ban";
                return Err(ConfigError::value("bans.growth.cap", problem));
            }
            _ => {}
        }
        let half_life_ms = milliseconds("bans.growth.half_life", self.half_life)?;
        Ok(Growth { factor: self.factor, cap_ms, half_life_ms })
    }
}

impl SharedFile {
    fn of(shared: SharedRule) -> Self {
        Self {
            duration: Duration::from_millis(shared.duration_ms),
            subjects: shared.subjects,
            within: Duration::from_millis(shared.within_ms),
        }
    }

    fn check(&self) -> Result<SharedRule, ConfigError> {
        if !(1..=MAX_SUBJECTS).contains(&self.subjects) {
            let problem = format!("{} is not between 1 and {MAX_SUBJECTS}", self.subjects);
            return Err(ConfigError::value("bans.shared.subjects", problem));
        }
        Ok(SharedRule {
            duration_ms: milliseconds("bans.shared.duration", self.duration)?,
            subjects: self.subjects,
            within_ms: milliseconds("bans.shared.within", self.within)?,
        })
    }
}

/// The engine tells that many subjects of an address apart.
const MAX_SUBJECTS: u32 = 3;

impl ProtectedFile {
    fn check(&self) -> Result<Protected, ConfigError> {
        let users = self.users.iter().map(|user| {
            user.parse().map_err(|error: InvalidUserId| {
                ConfigError::value("bans.protected.users", format!("{user:?}: {error}"))
            })
        });
        if self.roles.iter().any(|role| role.trim().is_empty()) {
            return Err(ConfigError::value("bans.protected.roles", "a role without a name"));
        }
        Ok(Protected {
            users: users.collect::<Result<_, _>>()?,
            roles: self.roles.iter().map(|role| Arc::from(&**role)).collect(),
        })
    }
}

impl EscalationFile {
    fn check(&self) -> Result<Escalation, ConfigError> {
        let threshold = |key: &str, count: Option<u32>, most: u32| match count {
            Some(count) if !(2..=most).contains(&count) => {
                let problem = format!("{count} is not between 2 and {most}");
                Err(ConfigError::value(format!("bans.escalation.{key}"), problem))
            }
            count => Ok(count),
        };
        Ok(Escalation {
            v6_56: threshold("v6_56", self.v6_56, 256)?,
            v6_48: threshold("v6_48", self.v6_48, 65_536)?,
        })
    }
}
