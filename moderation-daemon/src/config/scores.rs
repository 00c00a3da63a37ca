//! What violations count for: the sections `scoring` and `scores`, and what
//! becomes of them. When a score becomes a ban is another room's business.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, Context, Profile,
    friendly::{self, milliseconds},
    limits::points,
};
use crate::engine::{Anonymous, ByViolation, Decay, Repeats, Scoring, ViolationType};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ScoringFile {
    /// How scores go down: half_life, ttl (all at once when there was no
    /// violation of that type for so long, as LibreChat does after v0.8.7), or
    /// never (as LibreChat v0.8.7).
    decay: DecayWord,
    /// In how long half of a score is forgotten.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    half_life: Duration,
    /// LibreChat: VIOLATION_SCORE_TTL.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    ttl: Duration,
    /// Who bears the points of those who are not logged in: their address, or
    /// nobody, as in LibreChat.
    #[schemars(with = "String")]
    anonymous: Anonymous,
    /// A browser's tab that repeats itself: within the window after a violation
    /// that counted, so many more of its type, found by the daemon itself, count
    /// for nothing. All beyond count. null: all do.
    repeats: Option<RepeatsFile>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum DecayWord {
    Never,
    Ttl,
    HalfLife,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RepeatsFile {
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    window: Duration,
    free: u32,
}

impl Default for RepeatsFile {
    fn default() -> Self {
        Self::of(Repeats::default())
    }
}

/// Scores go down in steps: a total that went down by a hair between two
/// violations would cross the same line twice.
const LONGEST_STEP_MS: u64 = 60 * 60 * 1_000;
const STEPS_PER_HALF_LIFE: u64 = 24;
/// Longer repeats would be a way to go on for ever.
const MAX_REPEATS_MS: u64 = 60_000;
const MIN_HALF_LIFE_MS: u64 = 60_000;

impl ScoringFile {
    pub(super) fn of(profile: Profile) -> Self {
        let scoring = profile.rules().scoring;
        Self {
            decay: match scoring.decay {
                Decay::Never => DecayWord::Never,
                Decay::Ttl { .. } => DecayWord::Ttl,
                Decay::HalfLife { .. } => DecayWord::HalfLife,
            },
            half_life: Duration::from_secs(24 * 60 * 60),
            ttl: Duration::from_secs(60 * 60),
            anonymous: scoring.anonymous,
            repeats: scoring.repeats.map(RepeatsFile::of),
        }
    }

    pub(super) fn check(
        &self,
        scores: &ScoresFile,
        profile: Profile,
        context: &Context<'_>,
    ) -> Result<Scoring, ConfigError> {
        Ok(Scoring {
            points: scores.check(profile, context)?,
            decay: self.decay()?,
            anonymous: self.anonymous,
            repeats: self.repeats.as_ref().map(RepeatsFile::check).transpose()?,
        })
    }

    fn decay(&self) -> Result<Decay, ConfigError> {
        let half_life_ms = milliseconds("scoring.half_life", self.half_life)?;
        let ttl_ms = milliseconds("scoring.ttl", self.ttl)?;
        if half_life_ms < MIN_HALF_LIFE_MS {
            return Err(ConfigError::value("scoring.half_life", "shorter than a minute"));
        }
        Ok(match self.decay {
            DecayWord::Never => Decay::Never,
            DecayWord::Ttl => Decay::Ttl { ms: ttl_ms },
            DecayWord::HalfLife => Decay::HalfLife {
                ms: half_life_ms,
                step_ms: (half_life_ms / STEPS_PER_HALF_LIFE).min(LONGEST_STEP_MS),
            },
        })
    }
}

impl Default for ScoringFile {
    fn default() -> Self {
        Self::of(Profile::default())
    }
}

impl RepeatsFile {
    fn of(repeats: Repeats) -> Self {
        Self { window: Duration::from_millis(repeats.window_ms), free: repeats.free }
    }

    fn check(&self) -> Result<Repeats, ConfigError> {
        let window_ms = milliseconds("scoring.repeats.window", self.window)?;
        if window_ms > MAX_REPEATS_MS {
            return Err(ConfigError::value("scoring.repeats.window", "longer than a minute"));
        }
        Ok(Repeats { window_ms, free: self.free })
    }
}

macro_rules! scores {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {
        #[derive(Debug, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct ScoresFile {
            $($(#[doc = $doc])+ $name: f64,)+
        }

        impl ScoresFile {
            pub(super) fn of(profile: Profile) -> Self {
                let points = profile.rules().scoring.points;
                Self { $($name: *points.of(named(stringify!($name))),)+ }
            }

            pub(super) fn each(&self) -> Vec<(&'static str, f64)> {
                vec![$((stringify!($name), self.$name)),+]
            }
        }
    };
}

scores! {
    /// LibreChat: LOGIN_VIOLATION_SCORE.
    logins;
    /// LibreChat: REGISTRATION_VIOLATION_SCORE.
    registrations;
    /// LibreChat: RESET_PASSWORD_VIOLATION_SCORE.
    reset_password_limit;
    /// LibreChat: VERIFY_EMAIL_VIOLATION_SCORE.
    verify_email_limit;
    /// LibreChat: MESSAGE_VIOLATION_SCORE.
    message_limit;
    /// LibreChat: CONCURRENT_VIOLATION_SCORE.
    concurrent;
    /// LibreChat: NON_BROWSER_VIOLATION_SCORE.
    non_browser;
    /// LibreChat: FILE_UPLOAD_VIOLATION_SCORE. Imports and forks are of this
    /// type, too, with points of their own.
    file_upload_limit;
    /// LibreChat: TTS_VIOLATION_SCORE.
    tts_limit;
    /// LibreChat: STT_VIOLATION_SCORE.
    stt_limit;
    /// LibreChat: TOOL_CALL_VIOLATION_SCORE.
    tool_call_limit;
    /// LibreChat: CONVO_ACCESS_VIOLATION_SCORE.
    convo_access;
    /// LibreChat: ILLEGAL_MODEL_REQ_SCORE.
    illegal_model_request;
    /// LibreChat has 0 in its code.
    token_balance;
    /// LibreChat: SHARE_VIOLATION_SCORE.
    share_limit;
    /// More connections than network.connections allows.
    connection_rate;
    /// More wrong passwords than limits.login_account allows; the address bears
    /// the points.
    login_failures;
    /// Content that a classifier flagged.
    flagged_content;
}

impl ScoresFile {
    fn check(
        &self,
        profile: Profile,
        context: &Context<'_>,
    ) -> Result<ByViolation<f64>, ConfigError> {
        let mut all = profile.rules().scoring.points;
        for (name, given) in self.each() {
            all.set(named(name), points(&format!("scores.{name}"), given, context)?);
        }
        Ok(all)
    }
}

impl Default for ScoresFile {
    fn default() -> Self {
        Self::of(Profile::default())
    }
}

fn named(field: &str) -> ViolationType {
    ViolationType::from_name(field).expect("every field is named for a violation type")
}
