//! What no profile takes, what only LibreChat's takes, and what is said about it,
//! word for word.

use super::{HARDENED, LIBRECHAT, good, sentence, with};
use crate::config::librechat::{VARIABLES, Variable, keys};

/// What is done about one variable.
enum Done {
    /// Both profiles refuse it.
    Refused,
    /// librechat takes it with a warning, hardened refuses it.
    Dangerous,
    /// Both take it with a warning.
    Warned,
    /// Nobody says anything.
    Silent,
}

use Done::{Dangerous, Refused, Silent, Warned};

/// Variable, text, what is done, what is said, the key to set instead.
type Row = (&'static str, &'static str, Done, &'static str, &'static str);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    // Maxima.
    ("LOGIN_MAX", "7", Silent, "", ""),
    ("LOGIN_MAX", "0", Dangerous, "it refuses every request", "limits.login.max"),
    ("LOGIN_MAX", "", Dangerous, "it refuses every request", "limits.login.max"),
    ("LOGIN_MAX", "-1", Dangerous, "it refuses every request", "limits.login.max"),
    ("LOGIN_MAX", "abc", Dangerous, "no number: it never limits", "limits.login.max"),
    ("LOGIN_MAX", "Infinity", Dangerous, "so much that it never limits", "limits.login.max"),
    ("LOGIN_MAX", "7.5", Warned, "it allows 7", ""),
    ("FORK_IP_MAX", "-5", Dangerous, "it refuses every request", "limits.fork_ip.max"),
    ("FORK_IP_MAX", "0", Warned, "it is 0, and LibreChat takes 30 instead", ""),
    ("FORK_IP_MAX", "abc", Warned, "it is no number, and LibreChat takes 30 instead", ""),
    ("FORK_IP_MAX", "12abc", Warned, "LibreChat reads 12 and leaves the rest", ""),
    ("FORK_IP_MAX", "1e3", Warned, "LibreChat reads 1 and leaves the rest", ""),
    ("FORK_IP_MAX", "", Silent, "", ""),
    ("FORK_IP_MAX", " 7 ", Silent, "", ""),
    // Windows.
    ("LOGIN_WINDOW", "five", Refused, "no number of minutes", "limits.login.window"),
    ("LOGIN_WINDOW", "0", Dangerous, "a window without length: it never limits", "limits.login.window"),
    ("LOGIN_WINDOW", "0.00001", Dangerous, "a window without length: it never limits", "limits.login.window"),
    ("LOGIN_WINDOW", "35792", Dangerous, "more than 24.8 days: LibreChat forgets every count at once, it hardly limits", "limits.login.window"),
    ("LOGIN_WINDOW", "35791", Silent, "", ""),
    ("TTS_IP_WINDOW", "-5", Dangerous, "a window without length: it never limits", "limits.tts_ip.window"),
    // Points.
    ("LOGIN_VIOLATION_SCORE", "1*2", Refused, "no number of points: in LibreChat every such violation would ban", "scores.logins"),
    ("LOGIN_VIOLATION_SCORE", "Infinity", Refused, "no finite number of points", "scores.logins"),
    ("LOGIN_VIOLATION_SCORE", "-5", Dangerous, "such violations take points away", "scores.logins"),
    ("LOGIN_VIOLATION_SCORE", "", Silent, "", ""),
    ("FORK_VIOLATION_SCORE", "x", Refused, "no number of points: in LibreChat every such violation would ban", "limits.fork_ip.score"),
    ("CONCURRENT_VIOLATION_SCORE", "0/0", Refused, "no number of points: in LibreChat every such violation would ban", "scores.concurrent"),
    ("CONCURRENT_VIOLATION_SCORE", "x", Warned, "it is no expression that LibreChat reads, and LibreChat takes 1 instead", ""),
    // Bans.
    ("BAN_DURATION", "2h", Warned, "it is no expression that LibreChat reads, and LibreChat takes 7200000 instead", ""),
    ("BAN_DURATION", "1/0", Dangerous, "bans never end", "bans.duration"),
    ("BAN_DURATION", "0/0", Dangerous, "bans never end", "bans.duration"),
    ("BAN_DURATION", "0", Warned, "users are logged out, but nobody is banned", ""),
    ("BAN_DURATION", "1000 * 60 * 60 * 2", Silent, "", ""),
    ("BAN_INTERVAL", "0/0", Refused, "no number of points: in LibreChat every violation would ban", "bans.interval"),
    ("BAN_INTERVAL", "0", Dangerous, "everybody's first violation bans, and no later one", "bans.interval"),
    ("BAN_INTERVAL", "-20", Dangerous, "nobody is ever banned", "bans.interval"),
    ("BAN_INTERVAL", "1/0", Dangerous, "nobody is ever banned", "bans.interval"),
    // Generations at once.
    ("CONCURRENT_MESSAGE_MAX", "0/0", Dangerous, "generations at once are not limited", "concurrency.max"),
    ("CONCURRENT_MESSAGE_MAX", "1/0", Dangerous, "generations at once are not limited", "concurrency.max"),
    ("CONCURRENT_MESSAGE_MAX", "0", Warned, "LibreChat takes 1 instead", ""),
    ("CONCURRENT_MESSAGE_MAX", "2.5", Warned, "it is 2 here; LibreChat admits 3, with Redis 2", ""),
    // Switches.
    ("LIMIT_MESSAGE_IP", "1", Dangerous, "it is off: LibreChat takes only the word true for on", "limits.message_ip.enabled"),
    ("LIMIT_MESSAGE_IP", "Yes", Dangerous, "it is off: LibreChat takes only the word true for on", "limits.message_ip.enabled"),
    ("LIMIT_MESSAGE_IP", "maybe", Warned, "it is off: LibreChat takes only the word true for on", ""),
    ("LIMIT_MESSAGE_IP", "off", Silent, "", ""),
    ("LIMIT_MESSAGE_IP", " TRUE ", Silent, "", ""),
    // What LibreChat does not read, or reads otherwise than people think.
    ("LIMIT_FORK_IP", "true", Warned, "it is in LibreChat's documentation, but LibreChat does not read it", ""),
    ("LOGIN_LIMITER_INCLUDE_USER_AGENT", "", Warned, "it is in LibreChat's documentation, but LibreChat does not read it", ""),
    ("TRUST_PROXY", "0", Warned, "LibreChat takes 1 for that: it always trusts the nearest proxy", ""),
    ("TRUST_PROXY", "loopback", Warned, "LibreChat takes 1 for that: it always trusts the nearest proxy", ""),
    ("TRUST_PROXY", "2", Silent, "", ""),
];

/// Switched on, so that numbers matter.
const ON: [(&str, &str); 3] = [
    ("BAN_VIOLATIONS", "true"),
    ("LIMIT_CONCURRENT_MESSAGES", "true"),
    ("LIMIT_MESSAGE_IP", "true"),
];

fn environment<'a>(name: &'a str, text: &'a str) -> Vec<(&'a str, &'a str)> {
    let others = ON.into_iter().filter(|(other, _)| *other != name);
    others.chain([(name, text)]).collect()
}

#[test]
fn dangerous_values_are_refused_or_warned_about_with_the_reason() {
    for (name, text, done, said, key) in TABLE {
        let variables = environment(name, text);
        let warning = format!("{name}={text:?} in the environment: {said}");
        let refusal = format!("{warning}; change it, or set {key} yourself");
        let warnings = |yaml| -> Vec<_> {
            good(yaml, &variables).warnings.iter().map(ToString::to_string).collect()
        };
        let refused = |yaml| with(yaml, &variables).map(|_| ()).map_err(|it| sentence(&it));
        match done {
            Refused => {
                assert_eq!(refused(LIBRECHAT), Err(refusal.clone()));
                assert_eq!(refused(HARDENED), Err(refusal));
            }
            Dangerous => {
                assert_eq!(warnings(LIBRECHAT), [warning]);
                assert_eq!(refused(HARDENED), Err(refusal));
            }
            Warned => {
                assert_eq!(warnings(LIBRECHAT), [&*warning]);
                assert_eq!(warnings(HARDENED), [&*warning]);
            }
            Silent => {
                let none = Vec::<String>::new();
                assert_eq!((warnings(LIBRECHAT), warnings(HARDENED)), (none.clone(), none));
            }
        }
    }
}

/// The keys of a variable, and of those for which it stands in.
fn dependent(name: &str) -> Vec<String> {
    let depends = |row: &&Variable| row.name == name || row.or_else == Some(name);
    VARIABLES.iter().filter(depends).flat_map(keys).collect()
}

/// A file of our own that sets each of these keys.
fn own(keys: &[String]) -> String {
    let mut file = serde_json::json!({"librechat": {"environment": true}});
    for key in keys {
        let mut place = &mut file;
        for part in key.split('.') {
            place = &mut place[part];
        }
        *place = match key.rsplit_once('.').map(|(_, last)| last) {
            Some("window") => "5m".into(),
            Some("duration") => "2h".into(),
            Some("enabled") => true.into(),
            _ => 3.into(),
        };
    }
    file.to_string()
}

#[test]
fn a_value_of_our_own_needs_nothing_from_librechat() {
    for (name, text, done, _, key) in TABLE {
        let keys = dependent(name);
        if !matches!(done, Refused | Dangerous) {
            continue;
        }
        assert!(keys.iter().any(|it| it == key), "{name}");
        let yaml = own(&keys);
        let config = good(&yaml, &environment(name, text));
        assert!(config.warnings.is_empty(), "{yaml}: {:?}", config.warnings);
    }
}

#[test]
fn an_assignment_on_which_several_limits_depend_is_told_once() {
    let warnings = good(LIBRECHAT, &environment("LOGIN_MAX", "0")).warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    // Until nothing depends on it any more.
    let yaml = "{librechat: {environment: true}, limits: {login: {max: 7}}}";
    let error = with(yaml, &environment("LOGIN_MAX", "0")).map(|_| ()).expect_err("2FA is left");
    assert!(sentence(&error).contains("set limits.two_factor_ip.max yourself"), "{error}");
}

#[test]
fn numbers_of_what_is_off_are_nobody_s_concern() {
    let off = [("BAN_VIOLATIONS", "true"), ("LIMIT_MESSAGE_IP", "false")];
    for (name, text) in [("MESSAGE_IP_MAX", "0"), ("CONCURRENT_MESSAGE_MAX", "0/0")] {
        let variables: Vec<_> = off.into_iter().chain([(name, text)]).collect();
        assert!(good(HARDENED, &variables).warnings.is_empty(), "{name}");
    }
}

#[test]
fn contradictions_between_variables_are_told() {
    let both = [("REDIS_KEY_PREFIX", "a"), ("REDIS_KEY_PREFIX_VAR", "B")];
    for yaml in [LIBRECHAT, HARDENED] {
        let error = with(yaml, &both).map(|_| ()).expect_err("LibreChat refuses it");
        let want = "REDIS_KEY_PREFIX and REDIS_KEY_PREFIX_VAR: both are set, and LibreChat does \
                    not start with both";
        assert_eq!(sentence(&error), want);
        let one = good(
            yaml,
            &[("BAN_VIOLATIONS", "true"), ("REDIS_KEY_PREFIX", "a"), ("REDIS_KEY_PREFIX_VAR", "")],
        );
        assert!(one.warnings.is_empty(), "{:?}", one.warnings);
        let said = |variables: &[(&str, &str)]| good(yaml, variables).warnings[0].to_string();
        assert_eq!(said(&[]), "BAN_VIOLATIONS is not set: nobody is banned, as in LibreChat");
    }
    let ttl = [("BAN_VIOLATIONS", "true"), ("VIOLATION_SCORE_TTL", "60000")];
    let said = good(HARDENED, &ttl).warnings;
    let want = "VIOLATION_SCORE_TTL=\"60000\" in the environment: it counts only with \
                scoring.decay: ttl";
    assert_eq!(said.iter().map(ToString::to_string).collect::<Vec<_>>(), [want]);
    assert!(good(LIBRECHAT, &ttl).warnings.is_empty());
}

#[test]
fn what_cannot_do_what_it_is_for_is_warned_about() {
    const LADDER: &str = "[{warning: {message: slowly}}, {ban: {duration: 2h}}]";
    let of = |severity, ladder: &str, bans| {
        format!(
            "{{bans: {{enabled: {bans}}}, penalties: {{allow_permanent: true, by_type: \
             {{logins: {{severity: {severity}, ladder: {ladder}}}}}}}}}"
        )
    };
    let no_bans = "penalties.by_type.logins.ladder: its bans do not fall: bans.enabled is false";
    let no_suspension =
        "penalties.by_type.logins.severity: nobody is suspended: bans.enabled is false";
    let limit = "{by: user, max: 1, window: 1m}";
    let custom =
        |events: &str| format!("custom: {{limits: {{one: {limit}}}, events: {{{events}}}}}");
    let idle = "custom.limits.one: no event names it, so that it limits nothing";
    let uncounted = "custom.events.call.limits: there are none, so that nothing is counted";
    let cases: [(String, &[&str]); 10] = [
        (of("medium", LADDER, true), &[]),
        (of("critical", LADDER, true), &[]),
        (of("medium", LADDER, false), &[no_bans]),
        (of("medium", "[permanent]", false), &[no_bans]),
        (of("critical", LADDER, false), &[no_bans, no_suspension]),
        (of("critical", "[remove_content]", false), &[no_suspension]),
        (of("high", "[remove_content]", false), &[]),
        (custom("call: {limits: [one]}"), &[]),
        (custom(""), &[idle]),
        (custom("call: {limits: []}"), &[idle, uncounted]),
    ];
    for (yaml, want) in cases {
        let config = good(&yaml, &[]);
        let said: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(said, want, "{yaml}");
        assert_eq!(config.effective.warnings, want, "{yaml}");
    }
}

/// What our own file has, is a decision: it is taken or refused, never bent.
#[test]
fn values_of_our_own_that_make_no_sense_are_named() {
    let cases = [
        ("counting: {v6_bits: 56}", "counting.v6_bits: 56 is neither 64 nor 128"),
        ("counting: {max_keys: 1}", "counting.max_keys: 1 is not between 1000 and 10000000"),
        ("limits: {login: {max: 0}}", "limits.login.max: a limit of 0 would refuse every request"),
        ("limits: {login: {window: 25d}}", "limits.login.window: longer than 24.8 days"),
        (
            "limits: {login: {score: -1}}",
            "limits.login.score: -1 is not a number of points: 0 or more",
        ),
        (
            "limits: {login: {score: .nan}}",
            "limits.login.score: NaN is not a number of points: 0 or more",
        ),
        ("concurrency: {max: 0}", "concurrency.max: 0 would refuse every message"),
        ("tiers: {limiter: messages}", "tiers.limiter: \"messages\" is no limit"),
        ("tiers: {max: {free: 0}}", "tiers.max.free: a limit of 0 would refuse every request"),
        (
            "tiers: {enabled: true}",
            "tiers.limiter: limits.message_user is off, so that tiers would limit nothing",
        ),
        ("adaptive: {paying: 0}", "adaptive.paying: 0 is not between 0.001 and 100"),
        (
            "adaptive: {max: 0.9}",
            "adaptive.min: 1, which is what everybody begins with, is not between min and max",
        ),
        ("scoring: {half_life: 30s}", "scoring.half_life: shorter than a minute"),
        ("scoring: {repeats: {window: 2m}}", "scoring.repeats.window: longer than a minute"),
        ("scores: {logins: -1}", "scores.logins: -1 is not a number of points: 0 or more"),
        ("bans: {interval: 0}", "bans.interval: 0 is not a number of points above 0"),
        ("bans: {interval: .inf}", "bans.interval: inf is not a number of points above 0"),
        (
            "bans: {duration: permanent}",
            "bans.duration: permanent bans need penalties.allow_permanent: true",
        ),
        ("bans: {growth: {factor: 0.5}}", "bans.growth.factor: 0.5 is not between 1 and 100"),
        (
            "bans: {growth: {cap: 1h}}",
            "bans.growth.cap: shorter than bans.duration, the shortest ban",
        ),
        ("bans: {shared: {subjects: 4}}", "bans.shared.subjects: 4 is not between 1 and 3"),
        (
            "bans: {protected: {users: ['']}}",
            "bans.protected.users: \"\": a user id cannot be empty",
        ),
        ("bans: {protected: {roles: [' ']}}", "bans.protected.roles: a role without a name"),
        ("bans: {v6_prefix: 65}", "bans.v6_prefix: 65 is neither between 48 and 64 nor 128"),
        (
            "bans: {max_per_minute: 0}",
            "bans.max_per_minute: 0 would stop every automatic ban; that is bans.enabled: false",
        ),
        (
            "bans: {network_block_by_type: {spam: never}}",
            "bans.network_block_by_type: \"spam\" is no violation type",
        ),
        ("bans: {escalation: {v6_56: 1}}", "bans.escalation.v6_56: 1 is not between 2 and 256"),
        (
            "penalties: {by_type: {spam: {ladder: [permanent]}}}",
            "penalties.by_type: \"spam\" is no violation type",
        ),
        (
            "penalties: {by_type: {logins: {ladder: []}}}",
            "penalties.by_type.logins.ladder: has 1 to 16 steps",
        ),
        (
            "penalties: {by_type: {logins: {ladder: [permanent]}}}",
            "penalties.by_type.logins.ladder: a permanent step needs penalties.allow_permanent: true",
        ),
        (
            "penalties: {by_type: {logins: {ladder: [{ban: {duration: 31d}}]}}}",
            "penalties.by_type.logins.ladder: a step bans for 30d at most",
        ),
        (
            "penalties: {by_type: {logins: {ladder: [{reduce: {factor: 1, duration: 7d}}]}}}",
            "penalties.by_type.logins.ladder: 1 does not reduce: between 0 and 1",
        ),
        (
            "penalties: {by_type: {logins: {ladder: [{warning: {message: ''}}]}}}",
            "penalties.by_type.logins.ladder: a warning's message has 1 to 500 bytes",
        ),
        (
            "custom: {events: {Spam: {limits: []}}}",
            "custom.events.Spam: a name has 1 to 32 of a-z, 0-9 and _, a letter first",
        ),
        (
            "custom: {events: {login: {limits: []}}}",
            "custom.events.login: it is there already, without being custom",
        ),
        (
            "custom: {events: {upload_a: {limits: [spam]}}}",
            "custom.events.upload_a.limits: \"spam\" is no limit that is on",
        ),
        (
            "custom: {violations: {a_bad_one: {score: -1}}}",
            "custom.violations.a_bad_one.score: -1 is not a number of points: 0 or more",
        ),
        (
            "custom: {limits: {a_limit: {by: user, max: 0, window: 1m}}}",
            "custom.limits.a_limit.max: a limit of 0 would refuse every request",
        ),
        (
            "custom: {limits: {a_limit: {by: user, max: 1, window: 1m, violation: spam}}}",
            "custom.limits.a_limit.violation: \"spam\" is no violation",
        ),
        (
            "nginx: {routes: [{method: GET, path: a, counts: login}]}",
            "nginx.routes[0]: \"a\" does not begin with a slash",
        ),
        (
            "nginx: {routes: [{method: GET, path: /a, counts: login}, {method: ANY, path: '/:b', \
             counts: fork}, {method: POST, path: '/:c', counts: fork}, {method: GET, path: /A/, \
             counts: nothing}]}",
            "nginx.routes[3]: GET /a and GET /a (routes[0]) both match GET /a, and mean something \
             else: say what that one is",
        ),
        (
            "nginx: {enabled: true}",
            "nginx.routes: no request is any event; config/librechat.yaml has LibreChat's routes",
        ),
        (
            "nginx: {routes: [{method: POST, path: /a, counts: message, generation: start}]}",
            "nginx.routes: generations begin and none is carried: a route with generation: stream is \
             missing, without which their places are given back late",
        ),
        (
            "nginx: {routes: [{method: GET, path: /a, counts: message, generation: stream}]}",
            "nginx.routes[0]: generation: stream needs a path whose last segment is a name, as :id",
        ),
        ("nginx: {generation_patience: 500ms}", "nginx.generation_patience: between 1s and 1d"),
        ("nginx: {user: {claim: ''}}", "nginx.user.claim: it cannot be empty"),
        ("nginx: {page: page.html}", "nginx.page: page.html is not an absolute path"),
        ("nginx: {max_connections: 0}", "nginx.max_connections: between 1 and 65536"),
        ("nginx: {socket: n.sock}", "nginx.socket: n.sock is not an absolute path"),
        ("store: {max_records: 0}", "store.max_records: at least 1: nothing would be kept"),
        (
            "mongodb: {violations: {collection: logs}}",
            "mongodb.violations.collection: that is the collection of bans",
        ),
        (
            "mongodb: {violations: {collection: $x}}",
            "mongodb.violations.collection: no name of a collection",
        ),
        (
            "mongodb: {violations: {retention: 999ms}}",
            "mongodb.violations.retention: not between 1s and 68 years",
        ),
        ("snapshot: {every: 5s}", "snapshot.every: not between 100ms and 4s"),
        ("snapshot: {every: 99ms}", "snapshot.every: not between 100ms and 4s"),
        ("librechat: {env_file: .env}", "librechat.env_file: .env is not an absolute path"),
        (
            "librechat: {yaml: librechat.yaml}",
            "librechat.yaml: librechat.yaml is not an absolute path",
        ),
    ];
    for (yaml, want) in cases {
        for profile in ["hardened", "librechat"] {
            let yaml = format!("{{profile: {profile}, {yaml}}}");
            // The librechat profile has no growth, so no cap to be shorter.
            let error = with(&yaml, &[]).map(|_| ()).expect_err(&yaml);
            assert_eq!(sentence(&error), want, "{yaml}");
        }
    }
}

#[test]
fn keys_that_mean_nothing_are_refused_with_their_line() {
    let cases = [
        ("profile: strict", "unknown variant `strict`"),
        ("api: {}\nlimits:\n  logins: {max: 3}", "at line 3"),
        ("limits: {login: {maximum: 3}}", "unknown field `maximum`"),
        ("bans: {duration: never}", "\"never\" is no duration such as 90s, 5m, 2h or 30d"),
        ("penalties: {by_type: {logins: {ladder: [{exile: {}}]}}}", "unknown variant `exile`"),
        ("custom: {limits: {a: {by: role, max: 1, window: 1m}}}", "unknown variant `role`"),
    ];
    for (yaml, want) in cases {
        let error = sentence(&with(yaml, &[]).map(|_| ()).expect_err(yaml));
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn a_route_that_counts_no_event_is_refused_with_all_that_there_are() {
    let custom = "custom: {events: {a_call: {limits: [login]}, nothing: {limits: [login]}}}";
    for profile in ["hardened", "librechat"] {
        let counts = |event: &str| {
            let route = format!("{{method: GET, path: /a, counts: {event}}}");
            let yaml = format!("{{profile: {profile}, {custom}, nginx: {{routes: [{route}]}}}}");
            with(&yaml, &[]).map(drop).map_err(|error| sentence(&error))
        };
        assert_eq!((counts("a_call"), counts("login")), (Ok(()), Ok(())));
        let error = counts("logins").expect_err("there is none");
        let begin = "nginx.routes[0].counts: \"logins\" is no event: nothing, or one of login, ";
        assert!(error.starts_with(begin) && error.contains("agent_event, "), "{error}");
        assert!(error.contains(", a_call"), "{error}");
        let error = counts("nothing").expect_err("it would mean two things");
        assert_eq!(error, "nginx.routes[0].counts: a custom event cannot be named nothing here");
    }
}
