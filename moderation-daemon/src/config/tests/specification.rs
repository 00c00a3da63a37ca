//! LibreChat's violation types and limiters, once more, as its specification has
//! them: written down apart from the code that they are compared with.

use super::{LIBRECHAT, good};
use crate::{
    config::Profile,
    engine::{By, EventType, Limiter, Rules, ViolationType},
};

/// Type, points where nothing is set, points in the example file.
const TYPES: [(&str, f64, f64); 15] = [
    ("logins", 1.0, 1.0),
    ("registrations", 1.0, 1.0),
    ("reset_password_limit", 1.0, 1.0),
    ("verify_email_limit", 1.0, 1.0),
    ("message_limit", 1.0, 1.0),
    ("concurrent", 1.0, 1.0),
    ("non_browser", 20.0, 20.0),
    ("file_upload_limit", 1.0, 0.0),
    ("tts_limit", 1.0, 0.0),
    ("stt_limit", 1.0, 0.0),
    ("tool_call_limit", 1.0, 1.0),
    ("convo_access", 0.0, 0.0),
    ("illegal_model_request", 1.0, 5.0),
    ("token_balance", 0.0, 0.0),
    ("share_limit", 0.0, 0.0),
];

#[test]
fn every_violation_type_has_its_points() {
    let (unset, example) = (good(LIBRECHAT, &[]), good("profile: librechat", &[]));
    let hardened = good("", &[]);
    for (name, when_unset, in_example) in TYPES {
        let kind = ViolationType::from_name(name).expect(name);
        assert_eq!(*unset.rules.scoring.points.of(kind), when_unset, "{name}");
        assert_eq!(*example.rules.scoring.points.of(kind), in_example, "{name}");
        assert_eq!(*hardened.rules.scoring.points.of(kind), in_example, "{name}");
    }
}

const MINUTE: u64 = 60_000;

/// Event, limiter, whom it counts, maximum, window, violation, own points where
/// nothing is set and in the example file; in the order in which they are asked.
type Row = (&'static str, &'static str, By, u64, u64, Option<&'static str>, Option<(f64, f64)>);

const USER: By = By::User;
const IP: By = By::Address;

#[rustfmt::skip]
const LIMITERS: [Row; 25] = [
    ("login", "login", IP, 7, 5 * MINUTE, Some("logins"), None),
    ("registration", "registration", IP, 5, 60 * MINUTE, Some("registrations"), None),
    ("password_reset", "password_reset", IP, 2, 2 * MINUTE, Some("reset_password_limit"), None),
    ("password_reset_submission", "password_reset_submission", IP, 2, 2 * MINUTE, Some("reset_password_limit"), Some((1.0, 1.0))),
    ("email_verification", "email_verification", IP, 2, 2 * MINUTE, Some("verify_email_limit"), None),
    ("email_verification_submission", "email_verification_submission", IP, 2, 2 * MINUTE, Some("verify_email_limit"), Some((1.0, 1.0))),
    ("two_factor", "two_factor_ip", IP, 7, 5 * MINUTE, Some("logins"), None),
    ("two_factor", "two_factor_user", By::UserElseAccountElseAddress, 7, 5 * MINUTE, Some("logins"), None),
    ("message", "message_ip", IP, 40, MINUTE, Some("message_limit"), None),
    ("message", "message_user", USER, 40, MINUTE, Some("message_limit"), None),
    ("file_upload", "file_upload_ip", IP, 100, 15 * MINUTE, Some("file_upload_limit"), None),
    ("file_upload", "file_upload_user", USER, 50, 15 * MINUTE, Some("file_upload_limit"), None),
    ("import", "import_ip", IP, 100, 15 * MINUTE, Some("file_upload_limit"), Some((1.0, 0.0))),
    ("import", "import_user", USER, 50, 15 * MINUTE, Some("file_upload_limit"), Some((1.0, 0.0))),
    ("fork", "fork_ip", IP, 30, MINUTE, Some("file_upload_limit"), Some((1.0, 0.0))),
    ("fork", "fork_user", USER, 7, MINUTE, Some("file_upload_limit"), Some((1.0, 0.0))),
    ("tts", "tts_ip", IP, 100, MINUTE, Some("tts_limit"), None),
    ("tts", "tts_user", USER, 50, MINUTE, Some("tts_limit"), None),
    ("stt", "stt_ip", IP, 100, MINUTE, Some("stt_limit"), None),
    ("stt", "stt_user", USER, 50, MINUTE, Some("stt_limit"), None),
    ("tool_call", "tool_call", USER, 1, 1_000, Some("tool_call_limit"), None),
    ("prompt_usage", "prompt_usage", USER, 30, MINUTE, None, None),
    ("context_projection", "context_projection", USER, 20, MINUTE, None, None),
    ("shared_link", "share_ip", IP, 100, MINUTE, Some("share_limit"), None),
    ("shared_link", "share_user", USER, 60, MINUTE, Some("share_limit"), None),
];

#[test]
fn every_limiter_has_its_key_its_numbers_and_its_violation() {
    let messages = [("LIMIT_MESSAGE_IP", "true"), ("LIMIT_MESSAGE_USER", "true")];
    let unset = good(LIBRECHAT, &messages).rules;
    let example = good("{profile: librechat, limits: {message_user: {enabled: true}}}", &[]).rules;
    let hardened = good("limits: {message_user: {enabled: true}}", &[]).rules;
    for (event, name, by, max, window_ms, violation, points) in LIMITERS {
        let limiter = Limiter::from_name(name).expect(name);
        let event = EventType::from_name(event).expect(event);
        for (rules, is_unset) in [(&unset, true), (&example, false), (&hardened, false)] {
            let rule = rules.limiter(limiter).expect(name);
            assert!(rules.limiters(event).any(|it| it == rule), "{name}");
            assert_eq!(
                (rule.by, rule.limit.max, rule.limit.window_ms),
                (by, max, window_ms),
                "{name}"
            );
            assert_eq!(rule.violation.map(ViolationType::name), violation, "{name}");
            let points = points.map(|(unset, example)| if is_unset { unset } else { example });
            assert_eq!(rule.points, points, "{name}");
        }
    }
    // In the order of the rows, within an event.
    for event in EventType::BUILT_IN {
        let want = LIMITERS.iter().filter(|row| row.0 == event.name()).map(|row| row.1);
        let got: Vec<_> = example.limiters(*event).map(|rule| rule.limiter.name()).collect();
        let want: Vec<_> = want.collect();
        assert!(want.is_empty() || got == want, "{event}: {got:?}");
    }
}

/// Newer than the rest, and not told apart by what they break: limiter, whom it
/// counts, maximum, window.
#[test]
fn the_limiters_that_came_after_v0_8_7_have_their_key_and_their_numbers() {
    let table = [
        ("file_usage", "file_usage", USER, 120, 15 * MINUTE),
        ("agent_event", "agent_event", By::AccountElseUser, 40, MINUTE),
    ];
    for yaml in [LIBRECHAT, "profile: librechat", ""] {
        let rules = good(yaml, &[]).rules;
        for (event, name, by, max, window_ms) in table {
            let limiter = Limiter::from_name(name).expect(name);
            let rule = rules.limiter(limiter).expect(name);
            assert_eq!((rule.by, rule.limit.max, rule.limit.window_ms), (by, max, window_ms));
            let event = EventType::from_name(event).expect(event);
            assert!(rules.limiters(event).any(|it| it == rule), "{name}");
        }
    }
}

#[test]
fn switches_and_bans_are_off_where_nothing_is_set_and_on_in_the_example_file() {
    let (unset, example) = (good(LIBRECHAT, &[]).rules, good("profile: librechat", &[]).rules);
    assert_eq!(unset.limiter(Limiter::MESSAGE_IP), None);
    assert_eq!(unset.limiter(Limiter::MESSAGE_USER), None);
    assert_eq!(unset.concurrency, None);
    assert!(!unset.ban.enabled);
    assert_ne!(example.limiter(Limiter::MESSAGE_IP), None);
    assert_eq!(example.limiter(Limiter::MESSAGE_USER), None);
    assert_eq!(example.concurrency.map(|it| it.max), Some(2));
    assert!(example.ban.enabled);
}

#[test]
fn a_profile_by_itself_is_the_engine_s() {
    let sorted = |mut rules: Rules| {
        rules.limiters.sort_by_key(|rule| rule.limiter);
        rules
    };
    for profile in Profile::ALL {
        let yaml = format!("profile: {}", profile.name());
        assert_eq!(sorted(good(&yaml, &[]).rules), sorted(profile.rules()), "{yaml}");
    }
    assert_eq!(sorted(good("", &[]).rules), sorted(Rules::hardened()), "it is the default");
}

#[test]
fn accounts_can_be_guarded_in_the_librechat_profile_too() {
    let yaml = "{profile: librechat, limits: {login_account: {enabled: true}}}";
    let rules = good(yaml, &[]).rules;
    let login = rules.event(EventType::LOGIN).expect("it is known");
    assert_eq!(login.peeks, [Limiter::LOGIN_ACCOUNT]);
    assert!(rules.limiter(Limiter::LOGIN_ACCOUNT).is_some_and(|rule| rule.count_rejected));
    assert_ne!(rules.event(EventType::LOGIN_FAILURE), None);
}
