//! Events, violations and limits of the operator's own: the section `custom`, and
//! what becomes of it. They are as good as the built-in ones, but for what only
//! the daemon itself can find.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, Context, friendly,
    limits::{limit, points, unknown, value},
};
use crate::engine::{
    By, EventRule, EventType, Limiter, LimiterRule, Rules, TooManyKinds, Unit, ViolationType,
};

/// Kinds that the built-in ones lack.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CustomFile {
    /// Events that the app can report: {NAME: {limits: [NAME, ...], browser:
    /// false}}, where browser is whether only browsers may cause them.
    events: BTreeMap<String, CustomEvent>,
    /// Violations that the app can report: {NAME: {score: 1}}.
    violations: BTreeMap<String, CustomViolation>,
    /// Limits for these events: {NAME: {by: user, max: 10, window: 1m, cost:
    /// events, violation: NAME, score: null, count_rejected: false}}. by is
    /// user, address or account, cost is events, bytes or tokens; without a
    /// violation, exceeding it is none.
    limits: BTreeMap<String, CustomLimit>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CustomEvent {
    limits: Vec<String>,
    #[serde(default)]
    browser: bool,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CustomViolation {
    score: f64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CustomLimit {
    by: CustomBy,
    max: u64,
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    window: Duration,
    #[serde(default = "events")]
    #[schemars(with = "String")]
    cost: Unit,
    #[serde(default)]
    violation: Option<String>,
    #[serde(default)]
    score: Option<f64>,
    #[serde(default)]
    count_rejected: bool,
}

const fn events() -> Unit {
    Unit::Events
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum CustomBy {
    User,
    Address,
    Account,
}

impl CustomFile {
    /// Adds the custom kinds to the rules. Violations come first: limits name
    /// them, and events name limits.
    pub(super) fn check(
        &self,
        rules: &mut Rules,
        context: &Context<'_>,
    ) -> Result<(), ConfigError> {
        for (name, file) in &self.violations {
            let key = format!("custom.violations.{name}");
            let kind = kind(&key, name, ViolationType::BUILT_IN, ViolationType::custom)?;
            let points = points(&format!("{key}.score"), file.score, context)?;
            rules.scoring.points.set(kind, points);
        }
        for (name, file) in &self.limits {
            let key = format!("custom.limits.{name}");
            let limiter = kind(&key, name, Limiter::BUILT_IN, Limiter::custom)?;
            rules.limiters.push(file.check(&key, limiter, context)?);
        }
        for (name, file) in &self.events {
            let key = format!("custom.events.{name}");
            let kind = kind(&key, name, EventType::BUILT_IN, EventType::custom)?;
            rules.events.push(file.check(&key, kind, rules)?);
        }
        Ok(())
    }
}

/// One kind of the operator's own.
fn kind<T: Copy + std::fmt::Display>(
    key: &str,
    name: &str,
    built_in: &[T],
    custom: fn(&str) -> Result<T, TooManyKinds>,
) -> Result<T, ConfigError> {
    let is_name = (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !is_name {
        let problem = format!("a name has 1 to {MAX_NAME} of a-z, 0-9 and _, a letter first");
        return Err(value(key, problem));
    }
    if built_in.iter().any(|kind| kind.to_string() == name) {
        return Err(value(key, "it is there already, without being custom".to_owned()));
    }
    custom(name).map_err(|error| value(key, error.to_string()))
}

/// Names are labels of metrics and words of the API.
const MAX_NAME: usize = 32;

impl CustomLimit {
    fn check(
        &self,
        key: &str,
        limiter: Limiter,
        context: &Context<'_>,
    ) -> Result<LimiterRule, ConfigError> {
        let violation = self.violation.as_deref().map(|name| {
            let kind = ViolationType::from_name(name);
            kind.ok_or_else(|| value(&format!("{key}.violation"), unknown("violation", name)))
        });
        let score = self.score.map(|score| points(&format!("{key}.score"), score, context));
        Ok(LimiterRule {
            limiter,
            by: match self.by {
                CustomBy::User => By::User,
                CustomBy::Address => By::Address,
                CustomBy::Account => By::Account,
            },
            limit: limit(key, self.max, self.window, context)?,
            unit: self.cost,
            violation: violation.transpose()?,
            points: score.transpose()?,
            count_rejected: self.count_rejected,
            is_tiered: false,
            label: None,
            said: "Too many requests. Try again later",
        })
    }
}

impl CustomEvent {
    fn check(&self, key: &str, kind: EventType, rules: &Rules) -> Result<EventRule, ConfigError> {
        let limiters = self.limits.iter().map(|name| {
            let known = Limiter::from_name(name).filter(|it| rules.limiter(*it).is_some());
            known.ok_or_else(|| {
                value(&format!("{key}.limits"), format!("{name:?} is no limit that is on"))
            })
        });
        Ok(EventRule {
            kind,
            browser: self.browser,
            limiters: limiters.collect::<Result<_, _>>()?,
            peeks: Vec::new(),
            refunds: Vec::new(),
        })
    }
}
