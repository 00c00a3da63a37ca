//! What else than points a violation can bring, and limits that follow what is
//! known about a user: the sections `penalties` and `adaptive`, and what becomes
//! of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError,
    friendly::{self, milliseconds},
    limits::unknown,
};
use crate::engine::{Adaptive, ByViolation, Ladder, Severity, Since, Step, ViolationType};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PenaltiesFile {
    /// Whether rules may ban for ever. People may in any case.
    pub(super) allow_permanent: bool,
    /// How long a critical violation suspends, until a person has looked at it.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    suspension: Duration,
    /// A ladder instead of points, by violation type. A step for each penalty of
    /// that type within forget_after, the last one stays; high severity goes one
    /// step further, critical severity suspends. For example {message_limit:
    /// {forget_after: 30d, severity: medium, ladder: [{warning: {message: Slow
    /// down}}, remove_content, {reduce: {factor: 0.5, duration: 7d}}, {ban:
    /// {duration: 2h}}, {ban: {duration: 30d}}]}}. A last step can be permanent.
    by_type: BTreeMap<String, LadderFile>,
}

impl Default for PenaltiesFile {
    fn default() -> Self {
        Self { allow_permanent: false, suspension: 3 * DAY, by_type: BTreeMap::new() }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LadderFile {
    #[serde(with = "friendly", default = "month")]
    #[schemars(with = "String")]
    forget_after: Duration,
    #[serde(default)]
    #[schemars(with = "String")]
    severity: Severity,
    #[serde(with = "serde_yaml::with::singleton_map_recursive")]
    #[schemars(with = "Vec<StepFile>")]
    ladder: Vec<StepFile>,
}

const fn month() -> Duration {
    Duration::from_secs(30 * 24 * 60 * 60)
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum StepFile {
    Warning {
        message: String,
    },
    RemoveContent,
    Reduce {
        factor: f64,
        #[serde(with = "friendly")]
        #[schemars(with = "String")]
        duration: Duration,
    },
    Ban {
        #[serde(with = "friendly")]
        #[schemars(with = "String")]
        duration: Duration,
    },
    Permanent,
}

/// A ban that is to last longer is for a person to call.
const MAX_BAN: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A message is an answer's part, not a document.
const MAX_MESSAGE_BYTES: usize = 500;
const MAX_STEPS: usize = 16;

impl PenaltiesFile {
    pub(super) fn suspension_ms(&self) -> Result<u64, ConfigError> {
        milliseconds("penalties.suspension", self.suspension)
    }

    pub(super) fn ladders(&self) -> Result<ByViolation<Option<Ladder>>, ConfigError> {
        let mut ladders = ByViolation::all(None);
        for (name, file) in &self.by_type {
            let kind = ViolationType::from_name(name).ok_or_else(|| {
                ConfigError::value("penalties.by_type", unknown("violation type", name))
            })?;
            let key = format!("penalties.by_type.{name}");
            ladders.set(kind, Some(file.check(&key, self)?));
        }
        Ok(ladders)
    }
}

impl LadderFile {
    fn check(&self, key: &str, penalties: &PenaltiesFile) -> Result<Ladder, ConfigError> {
        let steps_key = format!("{key}.ladder");
        if !(1..=MAX_STEPS).contains(&self.ladder.len()) {
            return Err(ConfigError::value(steps_key, format!("has 1 to {MAX_STEPS} steps")));
        }
        let steps = self.ladder.iter().map(|step| step.check(&steps_key, penalties));
        Ok(Ladder {
            steps: steps.collect::<Result<_, _>>()?,
            forget_after_ms: milliseconds(&format!("{key}.forget_after"), self.forget_after)?,
            severity: self.severity,
        })
    }
}

impl StepFile {
    fn check(&self, key: &str, penalties: &PenaltiesFile) -> Result<Step, ConfigError> {
        let refused = |problem: &str| Err(ConfigError::value(key, problem));
        Ok(match self {
            Self::Warning { message } if !(1..=MAX_MESSAGE_BYTES).contains(&message.len()) => {
                let problem = format!("a warning's message has 1 to {MAX_MESSAGE_BYTES} bytes");
                return refused(&problem);
            }
            Self::Warning { message } => Step::Warning { message: Arc::from(&**message) },
            Self::RemoveContent => Step::RemoveContent,
            Self::Reduce { factor, duration } => Step::Reduce {
                factor_permille: reduction(key, *factor)?,
                for_ms: milliseconds(key, *duration)?,
            },
            Self::Ban { duration } if *duration > MAX_BAN => {
                return refused("a step bans for 30d at most");
            }
            Self::Ban { duration } => Step::Ban { for_ms: milliseconds(key, *duration)? },
            Self::Permanent if !penalties.allow_permanent => {
                return refused("a permanent step needs penalties.allow_permanent: true");
            }
            Self::Permanent => Step::Permanent,
        })
    }
}

fn reduction(key: &str, factor: f64) -> Result<u16, ConfigError> {
    let permille = permille(key, factor)?;
    match u16::try_from(permille) {
        Ok(permille @ 1..1_000) => Ok(permille),
        _ => Err(ConfigError::value(key, format!("{factor} does not reduce: between 0 and 1"))),
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AdaptiveFile {
    enabled: bool,
    /// For accounts older than this.
    account_age: OverFile,
    /// For a verified e-mail address.
    verified_email: f64,
    /// For those who pay.
    paying: f64,
    /// For no violation in that time.
    clean_history: ForFile,
    /// For a violation in that time.
    recent_violations: WithinFile,
    /// For more than so much flagged content in that time.
    flagged: FlaggedFile,
    /// The product of all factors is at least this.
    min: f64,
    /// And at most this.
    max: f64,
    /// A factor drops at once, and rises by this in an hour.
    rise_per_hour: f64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OverFile {
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    over: Duration,
    factor: f64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ForFile {
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    r#for: Duration,
    factor: f64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WithinFile {
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    within: Duration,
    factor: f64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FlaggedFile {
    over: u32,
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    within: Duration,
    factor: f64,
}

impl Default for AdaptiveFile {
    fn default() -> Self {
        Self {
            enabled: false,
            account_age: OverFile { over: 30 * DAY, factor: 1.2 },
            verified_email: 1.1,
            paying: 1.5,
            clean_history: ForFile { r#for: 30 * DAY, factor: 1.2 },
            recent_violations: WithinFile { within: DAY, factor: 0.5 },
            flagged: FlaggedFile { over: 5, within: 30 * DAY, factor: 0.7 },
            min: 0.25,
            max: 3.0,
            rise_per_hour: 0.05,
        }
    }
}

impl AdaptiveFile {
    pub(super) fn check(&self) -> Result<Option<Adaptive>, ConfigError> {
        let factor = |key: &str, factor| permille(&format!("adaptive.{key}"), factor);
        let ms = |key: &str, time| milliseconds(&format!("adaptive.{key}"), time);
        let adaptive = Adaptive {
            account_age: Since {
                ms: ms("account_age.over", self.account_age.over)?,
                permille: factor("account_age.factor", self.account_age.factor)?,
            },
            verified_email_permille: factor("verified_email", self.verified_email)?,
            paying_permille: factor("paying", self.paying)?,
            clean_history: Since {
                ms: ms("clean_history.for", self.clean_history.r#for)?,
                permille: factor("clean_history.factor", self.clean_history.factor)?,
            },
            recent_violations: Since {
                ms: ms("recent_violations.within", self.recent_violations.within)?,
                permille: factor("recent_violations.factor", self.recent_violations.factor)?,
            },
            flagged_over: self.flagged.over,
            flagged_within_ms: ms("flagged.within", self.flagged.within)?,
            flagged_permille: factor("flagged.factor", self.flagged.factor)?,
            min_permille: factor("min", self.min)?,
            max_permille: factor("max", self.max)?,
            rise_permille_per_hour: factor("rise_per_hour", self.rise_per_hour)?,
        };
        if self.min > 1.0 || self.max < 1.0 {
            let problem = "1, which is what everybody begins with, is not between min and max";
            return Err(ConfigError::value("adaptive.min", problem));
        }
        Ok(self.enabled.then_some(adaptive))
    }
}

/// A factor in thousandths, at least one of them.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is between 1 and 100000"
)]
fn permille(key: &str, factor: f64) -> Result<u32, ConfigError> {
    let permille = (factor * 1_000.0).round();
    if (1.0..=100_000.0).contains(&permille) {
        return Ok(permille as u32);
    }
    Err(ConfigError::value(key, format!("{factor} is not between 0.001 and 100")))
}
