//! What a configuration asks for that works, but cannot do what it is for: seen once
//! all sections are known. What makes no sense is refused elsewhere, and what
//! LibreChat's variables leave to say is said where they are read.

use super::origin::Warning;
use crate::engine::{EventRule, EventType, Ladder, Limiter, Rules, Severity, Step, ViolationType};

/// All there is to warn about.
pub(super) fn warnings(rules: &Rules) -> Vec<Warning> {
    let ladders = ViolationType::all()
        .filter_map(|kind| Some((kind, rules.ladders.of(kind).as_ref()?)))
        .filter(|_| !rules.ban.enabled)
        .flat_map(|(kind, ladder)| without_bans(kind, ladder));
    let limits = rules.limiters.iter().map(|rule| rule.limiter).filter(|limiter| {
        let is_named = |event: &EventRule| event.limiters.contains(limiter);
        !Limiter::BUILT_IN.contains(limiter) && !rules.events.iter().any(is_named)
    });
    let limits = limits.map(|limiter| Warning {
        about: format!("custom.limits.{limiter}"),
        text: "no event names it, so that it limits nothing".to_owned(),
    });
    let events = rules.events.iter().filter(|event| {
        // One that only browsers may cause is looked at all the same.
        let is_idle = event.limiters.is_empty() && !event.browser;
        !EventType::BUILT_IN.contains(&event.kind) && is_idle
    });
    let events = events.map(|event| Warning {
        about: format!("custom.events.{}.limits", event.kind),
        text: "there are none, so that nothing is counted".to_owned(),
    });
    ladders.chain(limits).chain(events).collect()
}

/// What of a ladder is left out where rules do not ban.
fn without_bans(kind: ViolationType, ladder: &Ladder) -> Vec<Warning> {
    let bans = |step: &Step| matches!(step, Step::Ban { .. } | Step::Permanent);
    let key = format!("penalties.by_type.{kind}");
    let steps = ladder.steps.iter().any(bans).then(|| Warning {
        about: format!("{key}.ladder"),
        text: "its bans do not fall: bans.enabled is false".to_owned(),
    });
    let suspends = (ladder.severity == Severity::Critical).then(|| Warning {
        about: format!("{key}.severity"),
        text: "nobody is suspended: bans.enabled is false".to_owned(),
    });
    steps.into_iter().chain(suspends).collect()
}
