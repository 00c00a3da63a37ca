//! docs/profiles.md, whose tables are made here, so that they stay true: the two
//! profiles side by side, and every variable of LibreChat.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::config::{
    Profile,
    file::File,
    librechat::{Family, Sets, VARIABLES, Variable, keys},
};

/// Each key in which the profiles differ, and why. `*` stands for every name.
const REASONS: [(&str, &str); 12] = [
    ("counting.windows", "around the end of a fixed window twice the limit passes"),
    ("counting.commit", "what one limit refuses should not use up another one"),
    ("counting.v6_bits", "whoever has one address of a /64 has all of them"),
    ("counting.mapped", "one IPv4 address, however it is written, has one budget"),
    ("limits.*.count_rejected", "a window that slides would never end for who keeps asking"),
    (
        "limits.login_account.enabled",
        "guessing one account's password from many addresses met no limit",
    ),
    ("scoring.decay", "a score is forgotten by and by, not never and not at one stroke"),
    ("scoring.anonymous", "whoever is not logged in was never scored and never banned"),
    ("scoring.repeats", "one browser tab that repeats itself is not many violations"),
    ("bans.growth", "who comes back is banned for longer"),
    ("bans.shared", "an office is not banned for hours for one of its people"),
    ("bans.v6_prefix", "a single address of a /64 is left behind in a moment"),
];

/// The difference that has no key, for it only mends what decay would break.
const CROSSING: &str = "| (none) what a ban is measured by | the total | points that led to no ban \
                        yet | a total that decays would cross the same line again and again |\n";

/// One value as people write it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "off".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name} {}", shown(value)));
            fields.collect::<Vec<_>>().join(", ")
        }
        Value::Number(number) => {
            let text = number.to_string();
            text.strip_suffix(".0").unwrap_or(&text).to_owned()
        }
        other => other.to_string(),
    }
}

/// Keys and both values, where they differ.
fn differences(key: &str, one: &Value, other: &Value, found: &mut Vec<[String; 3]>) {
    match (one, other) {
        (Value::Object(fields), Value::Object(others)) => {
            for (name, value) in fields {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                differences(&key, value, &others[name], found);
            }
        }
        (one, other) if one != other => found.push([key.to_owned(), shown(one), shown(other)]),
        _ => {}
    }
}

fn profiles_table() -> String {
    let file = |profile| serde_json::to_value(File::of(profile)).expect("plain values");
    let mut rows = Vec::new();
    differences("", &file(Profile::Librechat), &file(Profile::Hardened), &mut rows);
    let mut text = "| key | librechat | hardened | because |\n|---|---|---|---|\n".to_owned();
    let mut told = BTreeSet::new();
    for [key, librechat, hardened] in rows {
        let is_count = key.starts_with("limits.") && key.ends_with(".count_rejected");
        let key = if is_count { "limits.*.count_rejected".to_owned() } else { key };
        if key == "profile" || !told.insert(key.clone()) {
            continue;
        }
        let reason = REASONS.iter().find(|(other, _)| *other == key).map(|(_, reason)| *reason);
        let reason = reason.unwrap_or_else(|| panic!("{key} differs: write down why"));
        text.push_str(&format!("| `{key}` | {librechat} | {hardened} | {reason} |\n"));
    }
    assert!(REASONS.iter().all(|(key, _)| told.contains(*key)), "a reason for nothing: {told:?}");
    text + CROSSING
}

fn variables_table() -> String {
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    let mut text = "| variable | read as | not set | .env.example | sets |\n".to_owned();
    text.push_str("|---|---|---|---|---|\n");
    for variable in VARIABLES {
        let unset = variable.or_else.unwrap_or(variable.unset);
        let row =
            [code(variable.name), family(variable).to_owned(), code(unset), code(variable.example)];
        text.push_str(&format!("| {} | {} |\n", row.join(" | "), sets(variable)));
    }
    text
}

const fn family(variable: &Variable) -> &'static str {
    match variable.family {
        Family::Raw => "number",
        Family::Int => "whole number",
        Family::Math => "expression",
        Family::Bool => "switch",
        Family::Text => "text",
    }
}

fn sets(variable: &Variable) -> String {
    let unit = match variable.sets {
        Sets::Window(_) => " (minutes)",
        Sets::BanDuration | Sets::ScoreTtl => " (ms)",
        _ => "",
    };
    let told = match variable.sets {
        Sets::Inert => "nothing: LibreChat does not read it",
        Sets::Session | Sets::Proxies | Sets::Nothing => "nothing; shown",
        _ => {
            let keys = keys(variable).into_iter().map(|key| format!("`{key}`"));
            return format!("{}{unit}", keys.collect::<Vec<_>>().join(", "));
        }
    };
    told.to_owned()
}

/// What stands between two marks of the document.
fn between<'a>(document: &'a str, mark: &str) -> &'a str {
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- end of {mark} -->"));
    let rest = document.split_once(&begin).map(|(_, rest)| rest).unwrap_or_default();
    rest.split_once(&end).map(|(table, _)| table).unwrap_or_default()
}

#[test]
fn the_document_has_the_tables_that_the_code_has() {
    let document = include_str!("../../../../docs/profiles.md");
    for (mark, table) in [("profiles", profiles_table()), ("variables", variables_table())] {
        assert!(between(document, mark) == table, "put this between the marks of {mark}:\n{table}");
    }
}

#[test]
fn the_examples_are_valid_and_leave_nothing_to_be_said() {
    let example = include_str!("../../../../config/hanzo-chat.yaml");
    let config = super::good(example, &[]);
    assert_eq!(config.warnings, []);
    assert_eq!(config.rules.limiters.len(), super::good("", &[]).rules.limiters.len() + 3);
    for example in [LIBRECHAT, OPEN_WEBUI, OPENAI_API] {
        let config = super::good(example, &[]);
        assert_eq!(config.warnings, []);
        assert!(config.nginx.is_some_and(|nginx| nginx.hearing.is_some()));
    }
}

const LIBRECHAT: &str = include_str!("../../../../config/librechat.yaml");
const OPEN_WEBUI: &str = include_str!("../../../../config/open-webui.yaml");
const OPENAI_API: &str = include_str!("../../../../config/openai-api.yaml");

/// What requests are by the routes of an example.
fn verify_routes(example: &str, cases: &[(&str, &str, &str)]) {
    let routes = super::good(example, &[]).nginx.expect("it is on").routes;
    for (method, target, want) in cases {
        let events = routes.find(method, target.as_bytes()).events;
        let names: Vec<_> = events.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.join(" "), *want, "{method} {target}");
    }
}

/// Open WebUI 0.6, read off its code.
#[test]
fn the_routes_of_open_webui_are_what_costs_and_what_lets_in() {
    let cases = [
        ("POST", "/api/v1/auths/signin", "login"),
        ("POST", "/api/v1/auths/ldap", "login"),
        ("GET", "/oauth/oidc/callback", "login"),
        ("POST", "/api/v1/auths/signup", "registration"),
        ("POST", "/api/chat/completions", "chat"),
        ("POST", "/api/v1/chat/completions", "chat"),
        ("POST", "/openai/chat/completions", "chat"),
        ("POST", "/ollama/api/chat", "chat"),
        ("POST", "/ollama/api/chat/0", "chat"),
        ("POST", "/ollama/api/generate/1", "chat"),
        ("POST", "/ollama/v1/chat/completions", "chat"),
        ("POST", "/api/v1/images/generations", "picture"),
        ("POST", "/api/v1/audio/speech", "speech"),
        ("POST", "/api/v1/audio/transcriptions", "speech"),
        ("POST", "/api/v1/files/", "upload"),
        ("GET", "/api/v1/files/", ""),
        ("GET", "/api/v1/auths/", ""),
        ("GET", "/ollama/api/tags", ""),
        ("GET", "/", ""),
    ];
    verify_routes(OPEN_WEBUI, &cases);
}

#[test]
fn the_routes_of_openai_s_interface_are_what_costs() {
    let cases = [
        ("POST", "/v1/chat/completions", "completion"),
        ("POST", "/v1/completions", "completion"),
        ("POST", "/v1/responses", "completion"),
        ("POST", "/v1/embeddings", "embedding"),
        ("POST", "/v1/images/generations", "media"),
        ("POST", "/v1/audio/transcriptions", "media"),
        ("POST", "/v1/files", "upload"),
        ("GET", "/v1/models", ""),
        ("GET", "/v1/files", ""),
    ];
    verify_routes(OPENAI_API, &cases);
}

/// LibreChat v0.8.7, read off its code; docs/profiles.md has the numbers.
#[test]
fn the_routes_of_librechat_are_what_librechat_limits() {
    let cases = [
        ("POST", "/api/auth/login", "login"),
        ("GET", "/oauth/google", "login"),
        ("GET", "/oauth/google/callback", "login"),
        ("POST", "/api/admin/login/local", "login"),
        ("POST", "/api/auth/register", "registration"),
        ("POST", "/api/auth/requestPasswordReset", "password_reset"),
        ("POST", "/api/auth/resetPassword", "password_reset_submission"),
        ("POST", "/api/user/verify", "email_verification_submission"),
        ("POST", "/api/user/verify/resend", "email_verification"),
        ("POST", "/api/auth/2fa/verify-temp", "two_factor"),
        ("POST", "/api/agents/chat", "message"),
        ("POST", "/api/agents/chat/openAI", "message"),
        ("POST", "/api/agents/chat/abort", "app_request"),
        ("GET", "/api/agents/chat/stream/x", "app_request"),
        ("GET", "/api/agents/chat/active", "app_request"),
        ("POST", "/api/agents/v1/chat/completions", ""),
        ("POST", "/api/agents/tools/web_search/call", "tool_call"),
        ("POST", "/api/assistants/v2/chat", "app_request"),
        ("POST", "/api/files", "file_upload"),
        ("POST", "/api/files/images/avatar", "file_upload"),
        ("POST", "/api/files/usage", "file_usage"),
        ("DELETE", "/api/files", "app_request"),
        ("POST", "/api/files/speech/stt", "stt"),
        ("POST", "/api/files/speech/tts/manual", "tts"),
        ("GET", "/api/files/speech/tts/voices", "tts"),
        ("GET", "/api/files/speech/config/get", "app_request"),
        ("POST", "/api/skills/import", "file_upload"),
        ("POST", "/api/skills/1/files", "file_upload"),
        ("POST", "/api/skills", ""),
        ("POST", "/api/convos/import", "import"),
        ("POST", "/api/convos/fork", "fork"),
        ("POST", "/api/convos/duplicate", "fork"),
        ("GET", "/api/convos", ""),
        ("POST", "/api/prompts/groups/1/use", "prompt_usage"),
        ("POST", "/api/endpoints/context-projection", "context_projection"),
        ("GET", "/api/share/abc", "shared_link"),
        ("GET", "/api/share/link/abc", ""),
        ("GET", "/api/permissions/agent/1", "app_request"),
        ("POST", "/api/auth/refresh", ""),
        ("GET", "/", ""),
    ];
    verify_routes(LIBRECHAT, &cases);
}

#[test]
fn what_is_not_said_of_repeats_is_as_the_documents_say() {
    let free = |yaml: &str| super::good(yaml, &[]).rules.scoring.repeats.expect("it is on");
    let hardened = free("profile: hardened");
    assert_eq!((hardened.window_ms, hardened.free), (2_000, 6));
    for profile in ["hardened", "librechat"] {
        let said = |repeats: &str| {
            free(&format!("{{profile: {profile}, scoring: {{repeats: {repeats}}}}}"))
        };
        assert_eq!(
            (said("{}"), said("{window: 2s}"), said("{free: 6}")),
            (hardened, hardened, hardened)
        );
    }
}
