//! What whoever is denied can be told, in LibreChat's words where it has any.
//! It says nothing of scores and counts, which would tell an attacker how far to
//! go.

use std::borrow::Cow;

use crate::engine::{
    Cause, Count, LimiterRule, Outcome, PenaltyKind, Rules, Verdict, ViolationType,
};

const BANNED: &str = "Your account has been temporarily banned due to violations of our service.";
/// Of a ban without an end, for which LibreChat has no words.
const BANNED_FOR_GOOD: &str = "Your account has been banned due to violations of our service.";
const ILLEGAL_REQUEST: &str = "Illegal request";
const ILLEGAL_MODEL: &str = "Illegal model request";
const CROWDED: &str = "Too many requests. Try again later";

const MS_PER_MINUTE: u64 = 60_000;

/// The message to somebody who is denied; `None` if it may go ahead, or if only
/// whoever reported a violation knows what to say about it.
pub(crate) fn message(outcome: &Outcome, rules: &Rules) -> Option<Cow<'static, str>> {
    if outcome.verdict == Verdict::Allow {
        return None;
    }
    // What the ladder says is for the one who is denied.
    if let Some(PenaltyKind::Warning { message }) = outcome.penalty.as_ref().map(|it| &it.kind) {
        return Some(message.to_string().into());
    }
    let exceeded = outcome.counts.last().filter(|count| count.exceeds());
    let of_limit = |count: &Count| rules.limiter(count.limiter).map(said);
    match outcome.cause? {
        Cause::Banned => {
            let ban = outcome.ban.as_ref();
            Some(of_ban(ban.is_none_or(|ban| ban.expires_at_unix_ms.is_some())).into())
        }
        Cause::Violation(kind) => of_violation(kind, rules).or_else(|| exceeded.and_then(of_limit)),
        Cause::Limited => exceeded.and_then(of_limit),
        Cause::LeasesFull | Cause::WindowsFull => Some(CROWDED.into()),
        Cause::NothingToRefund => None,
    }
}

/// The words of a ban, by whether it ends.
pub(crate) const fn of_ban(ends: bool) -> &'static str {
    if ends { BANNED } else { BANNED_FOR_GOOD }
}

/// The words of those that are of no limiter.
fn of_violation(kind: ViolationType, rules: &Rules) -> Option<Cow<'static, str>> {
    if kind == ViolationType::NON_BROWSER {
        return Some(ILLEGAL_REQUEST.into());
    }
    if kind == ViolationType::ILLEGAL_MODEL_REQUEST {
        return Some(ILLEGAL_MODEL.into());
    }
    let rule = rules.concurrency.filter(|_| kind == ViolationType::CONCURRENT)?;
    Some(format!("Only {} messages at a time", rule.max).into())
}

/// A limiter's words, with the length of its window in them.
fn said(rule: &LimiterRule) -> Cow<'static, str> {
    if !rule.said.contains("{w}") {
        return rule.said.into();
    }
    let minutes = rule.limit.shown.window_minutes.map_or_else(
        || rule.limit.window_ms.div_ceil(MS_PER_MINUTE).to_string(),
        |minutes| minutes.to_string(),
    );
    rule.said.replace("{w}", &minutes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Limit, Limiter, Shown};

    #[test]
    fn a_limiter_says_its_window_in_minutes() {
        let rules = Rules::librechat();
        let login = rules.limiter(Limiter::LOGIN).expect("it is on");
        assert_eq!(said(login), "Too many login attempts, please try again after 5 minutes.");
        let cases = [
            (Limit::new(7, 90_000), "2"),
            (
                Limit { shown: Shown { window_minutes: Some(1.5), max: None }, ..Limit::new(7, 1) },
                "1.5",
            ),
        ];
        for (limit, minutes) in cases {
            let rule = LimiterRule { limit, ..login.clone() };
            let want =
                format!("Too many login attempts, please try again after {minutes} minutes.");
            assert_eq!(said(&rule), want);
        }
    }

    #[test]
    fn who_may_go_ahead_is_told_nothing_and_who_may_not_is_told_why() {
        let rules = Rules::hardened();
        let told = |cause| message(&Outcome::deny(cause), &rules);
        let cases = [
            (Cause::Banned, Some(BANNED)),
            (Cause::Violation(ViolationType::NON_BROWSER), Some(ILLEGAL_REQUEST)),
            (Cause::Violation(ViolationType::ILLEGAL_MODEL_REQUEST), Some(ILLEGAL_MODEL)),
            (Cause::Violation(ViolationType::CONCURRENT), Some("Only 2 messages at a time")),
            (Cause::Violation(ViolationType::CONVO_ACCESS), None),
            (Cause::WindowsFull, Some(CROWDED)),
        ];
        for (cause, want) in cases {
            assert_eq!(told(cause).as_deref(), want, "{cause:?}");
            let allowed = Outcome { verdict: Verdict::Allow, ..Outcome::deny(cause) };
            assert_eq!(message(&allowed, &rules), None);
        }
    }
}
