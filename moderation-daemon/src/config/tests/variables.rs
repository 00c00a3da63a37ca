//! Every variable of LibreChat in every spelling that matters: what is made of
//! it, and where that is said to come from.

use std::collections::BTreeSet;

use super::{LIBRECHAT, good, with};
use crate::{
    config::{
        Config, Profile,
        file::File,
        librechat::{Family, Sets, VARIABLES, Variable, keys, variable},
    },
    engine::{BanLength, Decay, Limiter, ViolationType},
};

/// What a variable comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Number(f64),
    Ms(u64),
    On,
    Off,
    Soft,
    /// As if it were not set.
    Unset,
    Refused,
}

use Is::{Ms, Number, Off, On, Refused, Soft, Unset};

const SPELLINGS: [&str; 12] =
    ["", " 7 ", "0", "-1", "2.5", "abc", "1e3", "0x10", "60 * 2", "2h", "true", " TRUE"];

/// What each of [`SPELLINGS`] comes to, by family and by what is set.
const MATRIX: &[(Family, &str, [Is; 12])] = {
    const M: u64 = 60_000;
    &[
        (
            Family::Raw,
            "max",
            [
                Number(0.0),
                Number(7.0),
                Number(0.0),
                Number(0.0),
                Number(2.0),
                Off,
                Number(1000.0),
                Number(16.0),
                Off,
                Off,
                Off,
                Off,
            ],
        ),
        (
            Family::Raw,
            "window",
            [
                Off,
                Ms(7 * M),
                Off,
                Off,
                Ms(150_000),
                Refused,
                Ms(1000 * M),
                Ms(16 * M),
                Refused,
                Refused,
                Refused,
                Refused,
            ],
        ),
        (
            Family::Raw,
            "score",
            [
                Number(0.0),
                Number(7.0),
                Number(0.0),
                Number(-1.0),
                Number(2.5),
                Refused,
                Number(1000.0),
                Number(16.0),
                Refused,
                Refused,
                Refused,
                Refused,
            ],
        ),
        (
            Family::Int,
            "max",
            [
                Unset,
                Number(7.0),
                Unset,
                Number(0.0),
                Number(2.0),
                Unset,
                Number(1.0),
                Number(16.0),
                Number(60.0),
                Number(2.0),
                Unset,
                Unset,
            ],
        ),
        (
            Family::Int,
            "window",
            [
                Unset,
                Ms(7 * M),
                Unset,
                Off,
                Ms(2 * M),
                Unset,
                Ms(M),
                Ms(16 * M),
                Ms(60 * M),
                Ms(2 * M),
                Unset,
                Unset,
            ],
        ),
        (
            Family::Math,
            "score",
            [
                Unset,
                Number(7.0),
                Number(0.0),
                Number(-1.0),
                Number(2.5),
                Unset,
                Unset,
                Unset,
                Number(120.0),
                Unset,
                Unset,
                Unset,
            ],
        ),
        (
            Family::Math,
            "interval",
            [
                Unset,
                Number(7.0),
                Number(0.0),
                Number(-1.0),
                Number(2.5),
                Unset,
                Unset,
                Unset,
                Number(120.0),
                Unset,
                Unset,
                Unset,
            ],
        ),
        (
            Family::Math,
            "duration",
            [Unset, Ms(7), Soft, Soft, Ms(3), Unset, Unset, Unset, Ms(120), Unset, Unset, Unset],
        ),
        (
            Family::Math,
            "ttl",
            [Unset, Ms(7), Off, Off, Ms(3), Unset, Unset, Unset, Ms(120), Unset, Unset, Unset],
        ),
        (
            Family::Math,
            "concurrency",
            [
                Unset,
                Number(7.0),
                Number(1.0),
                Number(1.0),
                Number(2.0),
                Unset,
                Unset,
                Unset,
                Number(120.0),
                Unset,
                Unset,
                Unset,
            ],
        ),
        (Family::Bool, "switch", [Off, Off, Off, Off, Off, Off, Off, Off, Off, Off, On, On]),
    ]
};

fn what(variable: &Variable) -> Option<&'static str> {
    match variable.sets {
        Sets::Max(_) => Some("max"),
        Sets::Window(_) => Some("window"),
        Sets::LimitScore(_) | Sets::Score(_) => Some("score"),
        Sets::LimitSwitch(_) | Sets::Switch(_) => Some("switch"),
        Sets::BanDuration => Some("duration"),
        Sets::BanInterval => Some("interval"),
        Sets::ScoreTtl => Some("ttl"),
        Sets::Concurrency => Some("concurrency"),
        Sets::Session | Sets::Proxies | Sets::Inert | Sets::Nothing => None,
    }
}

/// What the rules have for one key that a variable sets.
fn seen(config: &Config, key: &str) -> Is {
    let rules = &config.rules;
    let on = |is_on: bool| if is_on { On } else { Off };
    let parts: Vec<_> = key.split('.').collect();
    match parts[..] {
        ["limits", name, what] => {
            let limiter = Limiter::from_name(name).expect("it is a limiter");
            let Some(rule) = rules.limiter(limiter) else { return Off };
            match what {
                "max" => Number(rule.limit.max as f64),
                "window" => Ms(rule.limit.window_ms),
                "score" => rule.points.map_or(Unset, Number),
                _ => On,
            }
        }
        ["scores", name] => {
            let kind = ViolationType::from_name(name).expect("it is a violation type");
            Number(*rules.scoring.points.of(kind))
        }
        ["bans", "enabled"] => on(rules.ban.enabled),
        ["bans", "interval"] => Number(rules.ban.interval),
        ["bans", "duration"] => match rules.ban.length {
            BanLength::Soft => Soft,
            BanLength::For(ms) => Ms(ms),
            BanLength::Forever => On,
        },
        ["scoring", "ttl"] => match rules.scoring.decay {
            Decay::Ttl { ms } => Ms(ms),
            Decay::Never => Off,
            Decay::HalfLife { .. } => unreachable!("not in this profile"),
        },
        ["concurrency", "enabled"] => on(rules.concurrency.is_some()),
        ["concurrency", "max"] => rules.concurrency.map_or(Off, |it| Number(it.max as f64)),
        _ => unreachable!("{key} is no key that a variable sets"),
    }
}

/// The switches that must be on for a value to be seen, but for the variable
/// itself.
fn switches(variable: &Variable) -> Vec<(&'static str, &'static str)> {
    ["LIMIT_MESSAGE_IP", "LIMIT_MESSAGE_USER", "LIMIT_CONCURRENT_MESSAGES", "BAN_VIOLATIONS"]
        .into_iter()
        .filter(|name| *name != variable.name)
        .map(|name| (name, "true"))
        .collect()
}

#[test]
fn every_variable_is_read_in_every_spelling_as_librechat_reads_it() {
    let mut seen_cells = 0;
    for variable in VARIABLES {
        let Some(what) = what(variable) else { continue };
        let row = MATRIX.iter().find(|row| (row.0, row.1) == (variable.family, what));
        let (_, _, row) = row.unwrap_or_else(|| panic!("no row for {}", variable.name));
        let unset = good(LIBRECHAT, &switches(variable));
        for (text, want) in SPELLINGS.iter().zip(row) {
            let mut variables = switches(variable);
            variables.push((variable.name, text));
            let config = with(LIBRECHAT, &variables);
            for key in keys(variable) {
                let want = if *want == Unset { seen(&unset, &key) } else { *want };
                let got = config.as_ref().map_or(Refused, |config| seen(config, &key));
                assert_eq!(got, want, "{}={text:?} for {key}", variable.name);
                seen_cells += 1;
            }
        }
    }
    assert_eq!(seen_cells, SPELLINGS.len() * 80, "all variables with all of their keys");
}

#[test]
fn every_value_says_which_variable_it_came_from() {
    for variable in VARIABLES {
        let mut variables = switches(variable);
        let text = if variable.family == Family::Bool { "true" } else { "3" };
        variables.push((variable.name, text));
        let config = good(LIBRECHAT, &variables);
        for key in keys(variable) {
            let want = format!("{}=\"{text}\" in the environment", variable.name);
            assert_eq!(config.origins[&key].to_string(), want, "{key}");
        }
    }
}

#[test]
fn a_variable_that_is_not_set_is_what_librechat_s_code_makes_of_it() {
    let config = good(LIBRECHAT, &[]);
    for variable in VARIABLES.iter().filter(|variable| !variable.unset.is_empty()) {
        // Set to what it would be, nothing changes, and what was off stays off.
        let same = good(LIBRECHAT, &[(variable.name, variable.unset)]);
        for key in keys(variable) {
            assert_eq!(seen(&config, &key), seen(&same, &key), "{key}");
            let want = format!("{} is not set", variable.name);
            assert_eq!(config.origins[&key].to_string(), want, "{key}");
        }
    }
}

#[test]
fn without_an_environment_values_are_those_of_the_example_file() {
    let config = good("profile: librechat", &[]);
    assert_eq!(config.origins.len(), 1, "{:?}", config.origins);
    for variable in VARIABLES {
        let text = if variable.example.is_empty() { variable.unset } else { variable.example };
        let mut variables = switches(variable);
        variables.push((variable.name, text));
        let same = good(LIBRECHAT, &variables);
        let is_off = |key: &str| seen(&config, key) == Off;
        for key in keys(variable).into_iter().filter(|_| !text.is_empty()) {
            let is_number_of_what_is_off = is_off(&key) && !key.ends_with("enabled");
            if !is_number_of_what_is_off {
                assert_eq!(seen(&config, &key), seen(&same, &key), "{key}");
            }
        }
    }
}

#[test]
fn a_variable_that_is_not_set_may_have_another_one_stand_in_for_it() {
    let table = [
        ("TWO_FACTOR_TEMP_MAX", "LOGIN_MAX"),
        ("TWO_FACTOR_TEMP_WINDOW", "LOGIN_WINDOW"),
        ("RESET_PASSWORD_SUBMISSION_MAX", "RESET_PASSWORD_MAX"),
        ("RESET_PASSWORD_SUBMISSION_WINDOW", "RESET_PASSWORD_WINDOW"),
        ("VERIFY_EMAIL_SUBMISSION_MAX", "VERIFY_EMAIL_MAX"),
        ("VERIFY_EMAIL_SUBMISSION_WINDOW", "VERIFY_EMAIL_WINDOW"),
    ];
    for (name, other) in table {
        let keys = keys(variable(name).expect("it is one"));
        let config = good(LIBRECHAT, &[(other, "3")]);
        let want = if name.ends_with("MAX") { Number(3.0) } else { Ms(180_000) };
        for key in &keys {
            assert_eq!(seen(&config, key), want, "{key}");
            assert_eq!(
                config.origins[key].to_string(),
                format!("{other}=\"3\" in the environment")
            );
        }
        let config = good(LIBRECHAT, &[(other, "3"), (name, "4")]);
        let want = if name.ends_with("MAX") { Number(4.0) } else { Ms(240_000) };
        assert!(keys.iter().all(|key| seen(&config, key) == want), "{name}");
        // Set to nothing it is set: `??` and destructuring take that.
        let config = good(LIBRECHAT, &[(other, "3"), (name, "")]);
        let want = if name.ends_with("MAX") { Number(0.0) } else { Off };
        assert!(keys.iter().all(|key| seen(&config, key) == want), "{name}");
    }
    // The score of second factors is that of their type, which is logins.
    let config = good(LIBRECHAT, &[("LOGIN_VIOLATION_SCORE", "3")]);
    assert_eq!(seen(&config, "limits.two_factor_ip.score"), Unset);
    assert_eq!(seen(&config, "scores.logins"), Number(3.0));
    let config = good(LIBRECHAT, &[("TWO_FACTOR_TEMP_VIOLATION_SCORE", "")]);
    assert_eq!(seen(&config, "limits.two_factor_user.score"), Number(0.0));
}

#[test]
fn records_tell_a_limit_as_librechat_does() {
    let shown = |variables: &[(&str, &str)], limiter| {
        let config = good(LIBRECHAT, variables);
        config.rules.limiter(limiter).expect("it is on").limit.shown.clone()
    };
    let raw = shown(&[("LOGIN_MAX", " 7 "), ("LOGIN_WINDOW", "0.1")], Limiter::LOGIN);
    assert_eq!((raw.max.as_deref(), raw.window_minutes), (Some(" 7 "), Some(0.1)));
    let unset = shown(&[], Limiter::LOGIN);
    assert_eq!((unset.max, unset.window_minutes), (None, None));
    let chained = shown(&[("LOGIN_MAX", "9")], Limiter::TWO_FACTOR_USER);
    assert_eq!(chained.max.as_deref(), Some("9"));
    let whole = shown(&[("FORK_IP_MAX", "9x"), ("FORK_IP_WINDOW", "2")], Limiter::FORK_IP);
    assert_eq!((whole.max, whole.window_minutes), (None, None));
    let fixed = shown(&[], Limiter::TOOL_CALL);
    assert_eq!(fixed.window_minutes, Some(1.0), "LibreChat calls its second a minute");
}

/// Keys that LibreChat has no variable for.
const OURS: [&str; 9] = [
    "limits.login_account.max",
    "limits.login_account.window",
    "limits.tool_call.max",
    "limits.tool_call.window",
    "limits.prompt_usage.max",
    "limits.prompt_usage.window",
    "scores.connection_rate",
    "scores.login_failures",
    "scores.flagged_content",
];

#[test]
fn every_key_of_the_table_exists_and_every_limit_and_score_is_in_it() {
    let file = serde_json::to_value(File::of(Profile::Librechat)).expect("plain values");
    let exists = |key: &str| file.pointer(&format!("/{}", key.replace('.', "/"))).is_some();
    let named: BTreeSet<_> = VARIABLES.iter().flat_map(keys).collect();
    for key in &named {
        assert!(exists(key), "{key}");
    }
    let section = |name: &str| file[name].as_object().expect("a section").keys().cloned().collect();
    let limits: Vec<String> = section("limits");
    let scores: Vec<String> = section("scores");
    let limits =
        limits.iter().flat_map(|it| [format!("limits.{it}.max"), format!("limits.{it}.window")]);
    let scores = scores.iter().map(|it| format!("scores.{it}"));
    let unnamed: BTreeSet<_> = limits.chain(scores).filter(|key| !named.contains(key)).collect();
    let ours: BTreeSet<_> =
        OURS.iter().copied().chain(["scores.token_balance"]).map(str::to_owned).collect();
    assert_eq!(unnamed, ours);
}

#[test]
fn no_variable_is_there_twice_and_none_is_chained_to_one_that_is_not() {
    let names: BTreeSet<_> = VARIABLES.iter().map(|variable| variable.name).collect();
    assert_eq!(names.len(), VARIABLES.len());
    for variable in VARIABLES {
        assert!(variable.or_else.is_none_or(|other| names.contains(other)), "{}", variable.name);
    }
}

proptest::proptest! {
    /// Numbers that are no numbers come from here, so they must end here.
    #[test]
    fn whatever_a_variable_holds_the_rules_can_be_worked_with(
        index in 0..VARIABLES.len(),
        text in "[-+*/%().0-9eExXa-fInfity \n]{0,12}|\\PC{0,12}",
    ) {
        let variable = &VARIABLES[index];
        let mut variables = switches(variable);
        variables.push((variable.name, &text));
        for (yaml, is_strict) in [(LIBRECHAT, false), (super::HARDENED, true)] {
            let Ok(config) = with(yaml, &variables) else { continue };
            let rules = &config.rules;
            for rule in &rules.limiters {
                assert!((1..=2_147_483_647).contains(&rule.limit.window_ms));
                assert!(rule.limit.max >= u64::from(is_strict));
                assert!(rule.points.is_none_or(|it| it.is_finite() && (!is_strict || it >= 0.0)));
            }
            for kind in ViolationType::all() {
                let points = *rules.scoring.points.of(kind);
                assert!(points.is_finite() && (!is_strict || points >= 0.0));
            }
            assert!(rules.ban.interval.is_finite() && (!is_strict || rules.ban.interval > 0.0));
            assert!(!is_strict || rules.ban.length != BanLength::Forever);
            assert!(rules.concurrency.is_none_or(|it| it.max >= 1));
        }
    }
}
