//! What is counted and how much of it is allowed: the sections `counting`,
//! `limits`, `concurrency` and `tiers`, and what becomes of them. Their defaults
//! are the engine's profiles.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, Context, Profile,
    friendly::{self, milliseconds},
    profile::Catalogue,
};
use crate::engine::{
    Commit, Concurrency, Counting, EventRule, Limit, Limiter, LimiterRule, Mapped, Tiers, Windowing,
};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CountingFile {
    /// sliding: every stretch of a window's length is one. fixed: a window
    /// begins with the first event and starts anew when it is over.
    #[schemars(with = "String")]
    windows: Windowing,
    /// all_or_none: what one of several limits rejects uses up none of them.
    /// in_order: it has used up those before.
    #[schemars(with = "String")]
    commit: Commit,
    /// The width at which IPv6 addresses are counted and scored: 64 or 128.
    v6_bits: u8,
    /// as_ipv4: ::ffff:192.0.2.1 is 192.0.2.1. apart: it is another address.
    #[schemars(with = "String")]
    mapped: Mapped,
    /// Keys that are counted at once, over all limits. Beyond, newcomers share
    /// one key for each limit.
    pub(super) max_keys: usize,
}

impl CountingFile {
    pub(super) fn of(profile: Profile) -> Self {
        let rules = profile.rules();
        let Counting { windows, commit, v6_bits, mapped } = rules.counting;
        Self { windows, commit, v6_bits, mapped, max_keys: rules.bounds.windows }
    }

    pub(super) fn check(&self) -> Result<Counting, ConfigError> {
        if !matches!(self.v6_bits, 64 | 128) {
            let problem = format!("{} is neither 64 nor 128", self.v6_bits);
            return Err(ConfigError::value("counting.v6_bits", problem));
        }
        if !MAX_KEYS.contains(&self.max_keys) {
            let (least, most) = (MAX_KEYS.start(), MAX_KEYS.end());
            let problem = format!("{} is not between {least} and {most}", self.max_keys);
            return Err(ConfigError::value("counting.max_keys", problem));
        }
        let Self { windows, commit, v6_bits, mapped, .. } = *self;
        Ok(Counting { windows, commit, v6_bits, mapped })
    }
}

impl Default for CountingFile {
    fn default() -> Self {
        Self::of(Profile::default())
    }
}

/// Fewer are shared by everybody; ten million take more than a gigabyte.
const MAX_KEYS: std::ops::RangeInclusive<usize> = 1_000..=10_000_000;
/// 2^31 - 1 ms: what LibreChat's own timers can wait for, and what fits into the
/// engine's stamps.
const MAX_WINDOW_MS: u64 = 2_147_483_647;

/// One limiter.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitFile {
    enabled: bool,
    max: u64,
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    window: Duration,
    score: Option<f64>,
    count_rejected: bool,
}

impl LimitFile {
    fn of(catalogue: &Catalogue, name: &str) -> Self {
        let (rule, enabled) = catalogue.limiter(named(name));
        Self {
            enabled,
            max: rule.limit.max,
            window: Duration::from_millis(rule.limit.window_ms),
            score: rule.points,
            count_rejected: rule.count_rejected,
        }
    }

    /// What becomes of `rule`, which is the profile's.
    fn check(&self, rule: &LimiterRule, context: &Context<'_>) -> Result<LimiterRule, ConfigError> {
        let key = format!("limits.{}", rule.limiter);
        let mut limit = limit(&key, self.max, self.window, context)?;
        limit.shown = context.shown(&key, &rule.limit.shown);
        let score = self.score.map(|score| points(&format!("{key}.score"), score, context));
        let (points, count_rejected) = (score.transpose()?, self.count_rejected);
        Ok(LimiterRule { limit, points, count_rejected, ..rule.clone() })
    }
}

/// Only for reading a file by itself: the profile's values are put under it
/// before anything of it counts.
impl Default for LimitFile {
    fn default() -> Self {
        let window = Duration::from_secs(60);
        Self { enabled: true, max: 1, window, score: None, count_rejected: false }
    }
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {
        #[derive(Debug, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct LimitsFile {
            $($(#[doc = $doc])+ pub(super) $name: LimitFile,)+
        }

        impl LimitsFile {
            pub(super) fn of(profile: Profile) -> Self {
                let catalogue = Catalogue::of(profile);
                Self { $($name: LimitFile::of(&catalogue, stringify!($name)),)+ }
            }

            pub(super) fn each(&self) -> Vec<(&'static str, &LimitFile)> {
                vec![$((stringify!($name), &self.$name)),+]
            }
        }
    };
}

limits! {
    /// Logins by address. LibreChat: LOGIN_MAX, LOGIN_WINDOW.
    login;
    /// Wrong passwords by account, wherever they come from. LibreChat has none.
    login_account;
    /// Registrations by address. LibreChat: REGISTER_MAX, REGISTER_WINDOW.
    registration;
    /// Wishes for a new password by address. LibreChat: RESET_PASSWORD_MAX,
    /// RESET_PASSWORD_WINDOW.
    password_reset;
    /// New passwords by address. LibreChat: RESET_PASSWORD_SUBMISSION_MAX,
    /// RESET_PASSWORD_SUBMISSION_WINDOW, else those above.
    password_reset_submission;
    /// Wishes for a verification e-mail by address. LibreChat: VERIFY_EMAIL_MAX,
    /// VERIFY_EMAIL_WINDOW.
    email_verification;
    /// Verifications by address. LibreChat: VERIFY_EMAIL_SUBMISSION_MAX,
    /// VERIFY_EMAIL_SUBMISSION_WINDOW, else those above.
    email_verification_submission;
    /// Second factors by address, and by user. LibreChat: TWO_FACTOR_TEMP_MAX,
    /// TWO_FACTOR_TEMP_WINDOW, else those of login;
    /// TWO_FACTOR_TEMP_VIOLATION_SCORE.
    two_factor_ip;
    /// See two_factor_ip.
    two_factor_user;
    /// Messages by address. LibreChat: LIMIT_MESSAGE_IP, MESSAGE_IP_MAX,
    /// MESSAGE_IP_WINDOW.
    message_ip;
    /// Messages by user. LibreChat: LIMIT_MESSAGE_USER, MESSAGE_USER_MAX,
    /// MESSAGE_USER_WINDOW.
    message_user;
    /// Uploads by address. LibreChat: FILE_UPLOAD_IP_MAX, FILE_UPLOAD_IP_WINDOW,
    /// or rateLimits.fileUploads.
    file_upload_ip;
    /// Uploads by user. LibreChat: FILE_UPLOAD_USER_MAX, FILE_UPLOAD_USER_WINDOW,
    /// or rateLimits.fileUploads.
    file_upload_user;
    /// Imports by address. LibreChat: IMPORT_IP_MAX, IMPORT_IP_WINDOW,
    /// IMPORT_VIOLATION_SCORE, or rateLimits.conversationsImport.
    import_ip;
    /// Imports by user. LibreChat: IMPORT_USER_MAX, IMPORT_USER_WINDOW,
    /// IMPORT_VIOLATION_SCORE, or rateLimits.conversationsImport.
    import_user;
    /// Forks and duplicates by address. LibreChat: FORK_IP_MAX, FORK_IP_WINDOW,
    /// FORK_VIOLATION_SCORE.
    fork_ip;
    /// Forks and duplicates by user. LibreChat: FORK_USER_MAX, FORK_USER_WINDOW,
    /// FORK_VIOLATION_SCORE.
    fork_user;
    /// Text to speech by address. LibreChat: TTS_IP_MAX, TTS_IP_WINDOW, or
    /// rateLimits.tts.
    tts_ip;
    /// Text to speech by user. LibreChat: TTS_USER_MAX, TTS_USER_WINDOW, or
    /// rateLimits.tts.
    tts_user;
    /// Speech to text by address. LibreChat: STT_IP_MAX, STT_IP_WINDOW, or
    /// rateLimits.stt.
    stt_ip;
    /// Speech to text by user. LibreChat: STT_USER_MAX, STT_USER_WINDOW, or
    /// rateLimits.stt.
    stt_user;
    /// Tool calls by user. LibreChat has these numbers in its code.
    tool_call;
    /// Prompts from the library by user. LibreChat has these numbers in its code.
    prompt_usage;
    /// Questions of how full a context would be, by user. LibreChat:
    /// CONTEXT_PROJECTION_MAX, CONTEXT_PROJECTION_WINDOW, up to v0.8.7.
    context_projection;
    /// Files whose life is prolonged, by user. LibreChat: FILE_USAGE_USER_MAX,
    /// FILE_USAGE_USER_WINDOW, after v0.8.7.
    file_usage;
    /// Shared links by address. LibreChat: SHARE_IP_MAX, SHARE_IP_WINDOW, after
    /// v0.8.7.
    share_ip;
    /// Shared links by user. LibreChat: SHARE_USER_MAX, SHARE_USER_WINDOW, after
    /// v0.8.7.
    share_user;
    /// Events sent to agents by API key or user. LibreChat: AGENT_EVENT_USER_MAX,
    /// AGENT_EVENT_USER_WINDOW, after v0.8.7.
    agent_event;
}

impl LimitsFile {
    /// The limiters that are on.
    pub(super) fn check(
        &self,
        profile: Profile,
        context: &Context<'_>,
    ) -> Result<Vec<LimiterRule>, ConfigError> {
        let catalogue = Catalogue::of(profile);
        let mut rules = Vec::new();
        for (name, file) in self.each() {
            let (rule, _) = catalogue.limiter(named(name));
            let rule = file.check(&rule, context)?;
            if file.enabled {
                rules.push(rule);
            }
        }
        Ok(rules)
    }

    /// What is asked about each event. Accounts are asked about where they are
    /// counted.
    pub(super) fn events(&self, profile: Profile) -> Vec<EventRule> {
        let profile = if self.login_account.enabled { Profile::Hardened } else { profile };
        profile.rules().events
    }
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self::of(Profile::default())
    }
}

fn named(field: &str) -> Limiter {
    Limiter::from_name(field).expect("every field is named for a limiter")
}

/// A limit that limits something.
pub(super) fn limit(
    key: &str,
    max: u64,
    window: Duration,
    context: &Context<'_>,
) -> Result<Limit, ConfigError> {
    let max_key = format!("{key}.max");
    if max == 0 && !context.is_librechats(&max_key) {
        return Err(ConfigError::value(max_key, "a limit of 0 would refuse every request"));
    }
    let key = format!("{key}.window");
    let window_ms = milliseconds(&key, window)?;
    if window_ms > MAX_WINDOW_MS {
        return Err(ConfigError::value(key, "longer than 24.8 days"));
    }
    Ok(Limit::new(max, window_ms))
}

/// Points for a violation.
pub(super) fn points(key: &str, points: f64, context: &Context<'_>) -> Result<f64, ConfigError> {
    let is_taken = points >= 0.0 || context.is_librechats(key);
    if points.is_finite() && is_taken {
        return Ok(points);
    }
    Err(ConfigError::value(key, format!("{points} is not a number of points: 0 or more")))
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ConcurrencyFile {
    /// LibreChat: LIMIT_CONCURRENT_MESSAGES.
    enabled: bool,
    /// Generations that one user can run at once. LibreChat:
    /// CONCURRENT_MESSAGE_MAX.
    max: usize,
    /// How long a generation's lease lives unless the app renews it.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    lease: Duration,
}

impl ConcurrencyFile {
    pub(super) fn check(&self) -> Result<Option<Concurrency>, ConfigError> {
        if self.max == 0 {
            return Err(ConfigError::value("concurrency.max", "0 would refuse every message"));
        }
        let lease_ms = milliseconds("concurrency.lease", self.lease)?;
        Ok(self.enabled.then_some(Concurrency { max: self.max, lease_ms }))
    }
}

impl Default for ConcurrencyFile {
    fn default() -> Self {
        Self { enabled: true, max: 2, lease: Duration::from_secs(60) }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TiersFile {
    enabled: bool,
    /// The limit whose maximum the tier says; its window stays.
    limiter: String,
    /// The maxima. Who has no tier, or another one, has the limit's own.
    max: BTreeMap<String, u64>,
}

impl Default for TiersFile {
    fn default() -> Self {
        let max = [("free", 10), ("pro", 100), ("enterprise", 1_000)];
        let max = max.map(|(tier, max)| (tier.to_owned(), max)).into();
        Self { enabled: false, limiter: Limiter::MESSAGE_USER.name().to_owned(), max }
    }
}

impl TiersFile {
    /// Marks the limiter and gives the maxima.
    pub(super) fn check(&self, limiters: &mut [LimiterRule]) -> Result<Tiers, ConfigError> {
        let find = |name| Limiter::from_name(name).ok_or_else(|| unknown("limit", name));
        let limiter = find(&self.limiter).map_err(|text| value("tiers.limiter", text))?;
        if let Some(tier) = self.max.iter().find(|(_, max)| **max == 0).map(|(tier, _)| tier) {
            let problem = "a limit of 0 would refuse every request";
            return Err(value(&format!("tiers.max.{tier}"), problem.to_owned()));
        }
        if !self.enabled {
            return Ok(Tiers::default());
        }
        let Some(rule) = limiters.iter_mut().find(|rule| rule.limiter == limiter) else {
            let problem = format!("limits.{limiter} is off, so that tiers would limit nothing");
            return Err(value("tiers.limiter", problem));
        };
        rule.is_tiered = true;
        Ok(Tiers(self.max.iter().map(|(tier, max)| (Arc::from(&**tier), *max)).collect()))
    }
}

pub(super) fn value(key: &str, problem: String) -> ConfigError {
    ConfigError::value(key, problem)
}

pub(super) fn unknown(what: &str, name: &str) -> String {
    format!("{name:?} is no {what}")
}
