//! The two sets of rules to start from: LibreChat's own, and the hardened one
//! with the same limits and its defects mended. Values are those of LibreChat
//! v0.8.7's `.env.example`, and where that has none, those of its code.

use super::rule::{
    Anonymous, BanLength, BanRule, Bounds, By, ByViolation, Commit, Concurrency, Counting,
    Crossing, Decay, Escalation, EventRule, Growth, Limit, LimiterRule, Mapped, NetworkBlock,
    NetworkBlocks, Protected, Repeats, Rules, Scoring, SharedRule, Shown, Tiers, Unit, Windowing,
};
use super::{EventType, Limiter, ViolationType};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

impl Rules {
    /// What LibreChat does, for better or worse.
    pub fn librechat() -> Self {
        Self {
            counting: Counting {
                windows: Windowing::Fixed,
                commit: Commit::InOrder,
                v6_bits: 128,
                mapped: Mapped::Apart,
            },
            events: events(),
            limiters: limiters(),
            concurrency: Some(Concurrency { max: 2, lease_ms: MINUTE }),
            scoring: Scoring {
                points: points(),
                decay: Decay::Ttl { ms: HOUR },
                anonymous: Anonymous::Nobody,
                repeats: None,
            },
            ban: BanRule {
                enabled: true,
                interval: 20.0,
                crossing: Crossing::Total,
                length: BanLength::For(2 * HOUR),
                growth: None,
                shared: None,
                protected: Protected::default(),
                v6_prefix: 128,
                network_block: NetworkBlocks::all(NetworkBlock::Always),
                max_per_minute: 100,
                escalation: Escalation { v6_56: Some(16), v6_48: Some(64) },
            },
            ladders: ByViolation::all(None),
            suspension_ms: 72 * HOUR,
            tiers: Tiers::default(),
            adaptive: None,
            bounds: Bounds::default(),
        }
    }

    /// The same limits and points, with LibreChat's defects mended.
    pub fn hardened() -> Self {
        let mut rules = Self::librechat();
        rules.counting = Counting {
            windows: Windowing::Sliding,
            commit: Commit::AllOrNone,
            v6_bits: 64,
            mapped: Mapped::AsIpv4,
        };
        for rule in &mut rules.limiters {
            rule.count_rejected = false;
        }
        rules.guard_accounts();
        rules.scoring.decay = Decay::HalfLife { ms: DAY, step_ms: HOUR };
        rules.scoring.anonymous = Anonymous::Address;
        rules.scoring.repeats = Some(Repeats::default());
        rules.ban.crossing = Crossing::Consumed;
        rules.ban.growth = Some(Growth { factor: 2.0, cap_ms: 30 * DAY, half_life_ms: 30 * DAY });
        rules.ban.shared =
            Some(SharedRule { duration_ms: 15 * MINUTE, subjects: 2, within_ms: HOUR });
        rules.ban.v6_prefix = 64;
        rules
    }

    /// Limits wrong passwords by account, wherever they come from.
    fn guard_accounts(&mut self) {
        let account = Limiter::LOGIN_ACCOUNT;
        let rule = limiter(account, By::Account, 10, 15 * MINUTE, LOGINS)
            .breaks(ViolationType::LOGIN_FAILURES);
        self.limiters.push(LimiterRule { count_rejected: false, ..rule });
        for rule in &mut self.events {
            if rule.kind == EventType::LOGIN {
                rule.peeks.push(account);
            }
        }
        self.events.push(event(EventType::LOGIN_FAILURE, &[account]));
        let refunds = vec![account];
        self.events.push(EventRule { refunds, ..event(EventType::LOGIN_SUCCESS, &[]) });
    }
}

fn event(kind: EventType, limiters: &[Limiter]) -> EventRule {
    let limiters = limiters.to_vec();
    EventRule { kind, browser: false, limiters, peeks: Vec::new(), refunds: Vec::new() }
}

/// Addresses are asked about before users.
fn events() -> Vec<EventRule> {
    use Limiter as L;
    let everyone = event;
    let browsers = |kind, limiters: &[L]| EventRule { browser: true, ..event(kind, limiters) };
    vec![
        everyone(EventType::LOGIN, &[L::LOGIN]),
        everyone(EventType::REGISTRATION, &[L::REGISTRATION]),
        browsers(EventType::MESSAGE, &[L::MESSAGE_IP, L::MESSAGE_USER]),
        everyone(EventType::PASSWORD_RESET, &[L::PASSWORD_RESET]),
        everyone(EventType::PASSWORD_RESET_SUBMISSION, &[L::PASSWORD_RESET_SUBMISSION]),
        everyone(EventType::EMAIL_VERIFICATION, &[L::EMAIL_VERIFICATION]),
        everyone(EventType::EMAIL_VERIFICATION_SUBMISSION, &[L::EMAIL_VERIFICATION_SUBMISSION]),
        everyone(EventType::TWO_FACTOR, &[L::TWO_FACTOR_IP, L::TWO_FACTOR_USER]),
        browsers(EventType::FILE_UPLOAD, &[L::FILE_UPLOAD_IP, L::FILE_UPLOAD_USER]),
        everyone(EventType::IMPORT, &[L::IMPORT_IP, L::IMPORT_USER]),
        everyone(EventType::FORK, &[L::FORK_IP, L::FORK_USER]),
        browsers(EventType::TTS, &[L::TTS_IP, L::TTS_USER]),
        browsers(EventType::STT, &[L::STT_IP, L::STT_USER]),
        browsers(EventType::TOOL_CALL, &[L::TOOL_CALL]),
        everyone(EventType::PROMPT_USAGE, &[L::PROMPT_USAGE]),
        everyone(EventType::CONTEXT_PROJECTION, &[L::CONTEXT_PROJECTION]),
        everyone(EventType::FILE_USAGE, &[L::FILE_USAGE]),
        everyone(EventType::SHARED_LINK, &[L::SHARE_IP, L::SHARE_USER]),
        everyone(EventType::AGENT_EVENT, &[L::AGENT_EVENT]),
    ]
}

fn limiter(limiter: Limiter, by: By, max: u64, window_ms: u64, said: &'static str) -> LimiterRule {
    LimiterRule {
        limiter,
        by,
        limit: Limit::new(max, window_ms),
        unit: Unit::Events,
        violation: None,
        points: None,
        count_rejected: true,
        is_tiered: false,
        label: None,
        said,
    }
}

impl LimiterRule {
    fn breaks(self, violation: ViolationType) -> Self {
        Self { violation: Some(violation), ..self }
    }

    fn labelled(self, label: &'static str) -> Self {
        Self { label: Some(label), ..self }
    }

    fn worth(self, points: f64) -> Self {
        Self { points: Some(points), ..self }
    }
}

const LOGINS: &str = "Too many login attempts, please try again after {w} minutes.";
const REGISTRATIONS: &str = "Too many accounts created, please try again after {w} minutes";
const ATTEMPTS: &str = "Too many attempts, please try again after {w} minute(s)";
const FACTORS: &str = "Too many verification attempts, please try again after {w} minutes.";
const MESSAGES: &str = "Too many messages. Try again later";
const UPLOADS: &str = "Too many file upload requests. Try again later";
const USAGE: &str = "Too many file usage requests. Try again later";
const IMPORTS: &str = "Too many conversation import requests. Try again later";
const REQUESTS: &str = "Too many requests. Try again later";
const SPEECH: &str = "Too many TTS requests. Try again later";
const DICTATION: &str = "Too many STT requests. Try again later";
const TOOLS: &str = "Too many tool call requests. Try again later";
const PROMPTS: &str = "Too many prompt usage requests. Try again later";
const LINKS: &str = "Too many shared link requests. Try again later";

/// Messages by user are off in the example, so they are not here.
#[rustfmt::skip]
fn limiters() -> Vec<LimiterRule> {
    use {By::{Address as Ip, User}, Limiter as L, ViolationType as V};
    let submission = |name, violation| {
        limiter(name, Ip, 2, 2 * MINUTE, ATTEMPTS).breaks(violation).labelled("submission").worth(1.0)
    };
    let mut tool_call = limiter(L::TOOL_CALL, User, 1, SECOND, TOOLS).breaks(V::TOOL_CALL_LIMIT).labelled("user");
    // LibreChat's records say a minute for what is a second.
    tool_call.limit.shown = Shown { window_minutes: Some(1.0), ..Shown::default() };
    vec![
        limiter(L::LOGIN, Ip, 7, 5 * MINUTE, LOGINS).breaks(V::LOGINS),
        limiter(L::REGISTRATION, Ip, 5, HOUR, REGISTRATIONS).breaks(V::REGISTRATIONS),
        limiter(L::MESSAGE_IP, Ip, 40, MINUTE, MESSAGES).breaks(V::MESSAGE_LIMIT).labelled("ip"),
        limiter(L::PASSWORD_RESET, Ip, 2, 2 * MINUTE, ATTEMPTS).breaks(V::RESET_PASSWORD_LIMIT),
        submission(L::PASSWORD_RESET_SUBMISSION, V::RESET_PASSWORD_LIMIT),
        limiter(L::EMAIL_VERIFICATION, Ip, 2, 2 * MINUTE, ATTEMPTS).breaks(V::VERIFY_EMAIL_LIMIT),
        submission(L::EMAIL_VERIFICATION_SUBMISSION, V::VERIFY_EMAIL_LIMIT),
        limiter(L::TWO_FACTOR_IP, Ip, 7, 5 * MINUTE, FACTORS).breaks(V::LOGINS).labelled("ip"),
        limiter(L::TWO_FACTOR_USER, By::UserElseAccountElseAddress, 7, 5 * MINUTE, FACTORS).breaks(V::LOGINS).labelled("user"),
        limiter(L::FILE_UPLOAD_IP, Ip, 100, 15 * MINUTE, UPLOADS).breaks(V::FILE_UPLOAD_LIMIT).labelled("ip"),
        limiter(L::FILE_UPLOAD_USER, User, 50, 15 * MINUTE, UPLOADS).breaks(V::FILE_UPLOAD_LIMIT).labelled("user"),
        limiter(L::IMPORT_IP, Ip, 100, 15 * MINUTE, IMPORTS).breaks(V::FILE_UPLOAD_LIMIT).labelled("ip").worth(0.0),
        limiter(L::IMPORT_USER, User, 50, 15 * MINUTE, IMPORTS).breaks(V::FILE_UPLOAD_LIMIT).labelled("user").worth(0.0),
        limiter(L::FORK_IP, Ip, 30, MINUTE, REQUESTS).breaks(V::FILE_UPLOAD_LIMIT).labelled("ip").worth(0.0),
        limiter(L::FORK_USER, User, 7, MINUTE, REQUESTS).breaks(V::FILE_UPLOAD_LIMIT).labelled("user").worth(0.0),
        limiter(L::TTS_IP, Ip, 100, MINUTE, SPEECH).breaks(V::TTS_LIMIT).labelled("ip"),
        limiter(L::TTS_USER, User, 50, MINUTE, SPEECH).breaks(V::TTS_LIMIT).labelled("user"),
        limiter(L::STT_IP, Ip, 100, MINUTE, DICTATION).breaks(V::STT_LIMIT).labelled("ip"),
        limiter(L::STT_USER, User, 50, MINUTE, DICTATION).breaks(V::STT_LIMIT).labelled("user"),
        tool_call,
        limiter(L::PROMPT_USAGE, User, 30, MINUTE, PROMPTS),
        limiter(L::CONTEXT_PROJECTION, User, 20, MINUTE, REQUESTS),
        limiter(L::FILE_USAGE, User, 120, 15 * MINUTE, USAGE).breaks(V::FILE_UPLOAD_LIMIT).labelled("user"),
        limiter(L::SHARE_IP, Ip, 100, MINUTE, LINKS).breaks(V::SHARE_LIMIT).labelled("ip"),
        limiter(L::SHARE_USER, User, 60, MINUTE, LINKS).breaks(V::SHARE_LIMIT).labelled("user"),
        limiter(L::AGENT_EVENT, By::AccountElseUser, 40, MINUTE, REQUESTS),
    ]
}

impl LimiterRule {
    /// Messages by user, as they are when they are on.
    pub fn message_user() -> Self {
        limiter(Limiter::MESSAGE_USER, By::User, 40, MINUTE, MESSAGES)
            .breaks(ViolationType::MESSAGE_LIMIT)
            .labelled("user")
    }
}

/// One point each, but for these.
fn points() -> ByViolation<f64> {
    let mut points = ByViolation::all(1.0);
    let others = [
        (ViolationType::NON_BROWSER, 20.0),
        (ViolationType::ILLEGAL_MODEL_REQUEST, 5.0),
        (ViolationType::FILE_UPLOAD_LIMIT, 0.0),
        (ViolationType::TTS_LIMIT, 0.0),
        (ViolationType::STT_LIMIT, 0.0),
        (ViolationType::CONVO_ACCESS, 0.0),
        (ViolationType::TOKEN_BALANCE, 0.0),
        (ViolationType::SHARE_LIMIT, 0.0),
        (ViolationType::FLAGGED_CONTENT, 0.0),
    ];
    for (kind, value) in others {
        points.set(kind, value);
    }
    points
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{ViolationType as V, *};

    /// A limiter that no event asks, or asks twice, limits nothing or too much.
    #[test]
    fn every_limiter_belongs_to_one_event_and_every_event_asks_limiters_that_exist() {
        for rules in [Rules::librechat(), Rules::hardened()] {
            let asked: Vec<_> = rules.events.iter().flat_map(|rule| &rule.limiters).collect();
            let unique: BTreeSet<_> = asked.iter().copied().collect();
            assert_eq!(unique.len(), asked.len());
            let there: BTreeSet<_> = rules.limiters.iter().map(|rule| &rule.limiter).collect();
            assert_eq!(there.len(), rules.limiters.len());
            let off = unique.difference(&there).copied().collect::<Vec<_>>();
            assert_eq!(off, [&Limiter::MESSAGE_USER]);
            assert_eq!(there.difference(&unique).count(), 0);
        }
    }

    #[test]
    fn the_hardened_rules_limit_wrong_passwords_by_account_and_librechat_s_do_not() {
        let (librechat, hardened) = (Rules::librechat(), Rules::hardened());
        assert_eq!(librechat.limiter(Limiter::LOGIN_ACCOUNT), None);
        assert_eq!(librechat.event(EventType::LOGIN_FAILURE), None);
        let rule = hardened.limiter(Limiter::LOGIN_ACCOUNT).expect("it is on");
        assert_eq!((rule.by, rule.limit.max), (By::Account, 10));
        let login = hardened.event(EventType::LOGIN).expect("it is known");
        assert_eq!(login.peeks, [Limiter::LOGIN_ACCOUNT]);
        assert_eq!((rule.violation, rule.limit.window_ms), (Some(V::LOGIN_FAILURES), 900_000));
        let success = hardened.event(EventType::LOGIN_SUCCESS).expect("it is known");
        assert_eq!((&success.limiters[..], &success.refunds[..]), (&[][..], &[rule.limiter][..]));
        assert!(hardened.limiters.iter().all(|rule| !rule.count_rejected));
    }

    /// What LibreChat counts is in the configuration's tests, row by row.
    #[test]
    fn what_librechat_says_of_a_limit_in_its_records_comes_with_it() {
        let rules = Rules::librechat();
        let rule = |limiter| rules.limiter(limiter).expect("it is on");
        let of = |limiter| {
            let LimiterRule { limit, violation, points, label, .. } = rule(limiter);
            (limit.max, limit.window_ms, *violation, *points, *label)
        };
        let cases = [
            (Limiter::LOGIN, (7, 300_000, Some(V::LOGINS), None, None)),
            (Limiter::REGISTRATION, (5, 3_600_000, Some(V::REGISTRATIONS), None, None)),
            (
                Limiter::PASSWORD_RESET_SUBMISSION,
                (2, 120_000, Some(V::RESET_PASSWORD_LIMIT), Some(1.0), Some("submission")),
            ),
            (Limiter::FORK_USER, (7, 60_000, Some(V::FILE_UPLOAD_LIMIT), Some(0.0), Some("user"))),
            (Limiter::TOOL_CALL, (1, 1_000, Some(V::TOOL_CALL_LIMIT), None, Some("user"))),
            (Limiter::PROMPT_USAGE, (30, 60_000, None, None, None)),
        ];
        for (limiter, want) in cases {
            assert_eq!(of(limiter), want, "{limiter}");
        }
        let shown = |limiter| rule(limiter).limit.shown.window_minutes;
        assert_eq!(shown(Limiter::TOOL_CALL), Some(1.0), "for what is a second");
        assert_eq!(shown(Limiter::LOGIN), None);
    }

    #[test]
    fn bans_and_scores_last_as_long_as_the_profile_s_documents_say() {
        const DAY_MS: u64 = 86_400_000;
        let (librechat, hardened) = (Rules::librechat(), Rules::hardened());
        for rules in [&librechat, &hardened] {
            assert_eq!(rules.ban.length, BanLength::For(7_200_000));
            assert_eq!(rules.suspension_ms, 3 * DAY_MS);
        }
        assert_eq!(librechat.scoring.decay, Decay::Ttl { ms: 3_600_000 });
        assert_eq!((librechat.ban.growth, librechat.ban.shared), (None, None));
        let halved = Decay::HalfLife { ms: DAY_MS, step_ms: 3_600_000 };
        assert_eq!(hardened.scoring.decay, halved);
        let growth = Growth { factor: 2.0, cap_ms: 30 * DAY_MS, half_life_ms: 30 * DAY_MS };
        assert_eq!(hardened.ban.growth, Some(growth));
        let shared = SharedRule { duration_ms: 900_000, subjects: 2, within_ms: 3_600_000 };
        assert_eq!(hardened.ban.shared, Some(shared));
    }
}
