//! Every limit of the preset trips at its number and not before, by address and by user,
//! at every route that counts towards it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moderation_tests::browser::{AGENT, Body, Browser, credentials};
use moderation_tests::lab::{ABUSER_V4, abuser_pool};
use moderation_tests::nginx::librechat;
use moderation_tests::wait;
use serde_json::{Value, json};

use super::{host, token_of};

/// With a line of nginx's log, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whose budget it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Address,
    User,
}

/// One limit.
struct Case {
    limiter: &'static str,
    by: By,
    max: usize,
    violation: &'static str,
    /// Asked in turn; what the app answers to each while it is let through.
    routes: &'static [(&'static str, &'static str, Sent, u16)],
}

/// The body of a request.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Nothing,
    Login,
    Message,
    File,
    Audio,
}

impl Sent {
    fn body(self) -> Body {
        match self {
            Self::Nothing => Body::None,
            Self::Login => Body::Json(credentials("alice")),
            Self::Message => Body::Json(json!({ "text": "hello", "ms": 0 })),
            Self::File => Body::File("file", vec![7; 100]),
            Self::Audio => Body::File("audio", vec![7; 100]),
        }
    }
}

const LOGIN: &[(&str, &str, Sent, u16)] = &[
    ("POST", "/api/auth/login", Sent::Login, 200),
    ("POST", "/api/admin/login/local", Sent::Login, 200),
    ("POST", "/api/admin/oauth/exchange", Sent::Nothing, 200),
    ("POST", "/api/admin/oauth/refresh", Sent::Nothing, 200),
    ("GET", "/oauth/google", Sent::Nothing, 200),
    ("GET", "/oauth/google/callback?code=x", Sent::Nothing, 200),
];
const MESSAGE: &[(&str, &str, Sent, u16)] = &[
    ("POST", "/api/agents/chat", Sent::Message, 200),
    ("POST", "/api/agents/chat/openAI", Sent::Message, 200),
];
const UPLOAD: &[(&str, &str, Sent, u16)] = &[
    ("POST", "/api/files", Sent::File, 200),
    ("POST", "/api/files/images", Sent::File, 200),
    ("POST", "/api/files/images/avatar", Sent::File, 200),
    ("POST", "/api/skills/import", Sent::File, 200),
    ("POST", "/api/skills/writer/files", Sent::File, 200),
];
const IMPORT: &[(&str, &str, Sent, u16)] = &[("POST", "/api/convos/import", Sent::File, 201)];
const FORK: &[(&str, &str, Sent, u16)] = &[
    ("POST", "/api/convos/fork", Sent::Nothing, 200),
    ("POST", "/api/convos/duplicate", Sent::Nothing, 200),
];
const TTS: &[(&str, &str, Sent, u16)] = &[
    ("POST", "/api/files/speech/tts/manual", Sent::Nothing, 200),
    ("GET", "/api/files/speech/tts/manual", Sent::Nothing, 200),
];
const STT: &[(&str, &str, Sent, u16)] = &[("POST", "/api/files/speech/stt/", Sent::Audio, 200)];
const SECOND: &[(&str, &str, Sent, u16)] =
    &[("POST", "/api/auth/2fa/verify-temp", Sent::Nothing, 401)];
const SHARED: &[(&str, &str, Sent, u16)] = &[("GET", "/api/share/x7", Sent::Nothing, 200)];

const fn case(
    limiter: &'static str,
    by: By,
    max: usize,
    violation: &'static str,
    routes: &'static [(&'static str, &'static str, Sent, u16)],
) -> Case {
    Case { limiter, by, max, violation, routes }
}

/// LibreChat's numbers.
const CASES: &[Case] = &[
    case("login", By::Address, 7, "logins", LOGIN),
    case("two_factor_ip", By::Address, 7, "logins", SECOND),
    case("two_factor_user", By::User, 7, "logins", SECOND),
    case(
        "registration",
        By::Address,
        5,
        "registrations",
        &[("POST", "/api/auth/register", Sent::Nothing, 404)],
    ),
    case(
        "password_reset",
        By::Address,
        2,
        "reset_password_limit",
        &[("POST", "/api/auth/requestPasswordReset", Sent::Nothing, 200)],
    ),
    case(
        "password_reset_submission",
        By::Address,
        2,
        "reset_password_limit",
        &[("POST", "/api/auth/resetPassword", Sent::Nothing, 400)],
    ),
    case(
        "email_verification",
        By::Address,
        2,
        "verify_email_limit",
        &[("POST", "/api/user/verify/resend", Sent::Nothing, 200)],
    ),
    case(
        "email_verification_submission",
        By::Address,
        2,
        "verify_email_limit",
        &[("POST", "/api/user/verify", Sent::Nothing, 200)],
    ),
    case("message_ip", By::Address, 40, "message_limit", MESSAGE),
    case("message_user", By::User, 40, "message_limit", MESSAGE),
    case("file_upload_ip", By::Address, 100, "file_upload_limit", UPLOAD),
    case("file_upload_user", By::User, 50, "file_upload_limit", UPLOAD),
    case("import_ip", By::Address, 100, "file_upload_limit", IMPORT),
    case("import_user", By::User, 50, "file_upload_limit", IMPORT),
    case("fork_ip", By::Address, 30, "file_upload_limit", FORK),
    case("fork_user", By::User, 7, "file_upload_limit", FORK),
    case("tts_ip", By::Address, 100, "tts_limit", TTS),
    case("tts_user", By::User, 50, "tts_limit", TTS),
    case("stt_ip", By::Address, 100, "stt_limit", STT),
    case("stt_user", By::User, 50, "stt_limit", STT),
    case(
        "tool_call",
        By::User,
        1,
        "tool_call_limit",
        &[("POST", "/api/agents/tools/search/call", Sent::Nothing, 200)],
    ),
    case(
        "prompt_usage",
        By::User,
        30,
        "",
        &[("POST", "/api/prompts/groups/g1/use", Sent::Nothing, 200)],
    ),
    case(
        "context_projection",
        By::User,
        20,
        "",
        &[("POST", "/api/endpoints/context-projection", Sent::Nothing, 200)],
    ),
    case(
        "file_usage",
        By::User,
        120,
        "file_upload_limit",
        &[("POST", "/api/files/usage", Sent::Nothing, 200)],
    ),
    case("share_ip", By::Address, 100, "share_limit", SHARED),
    case("share_user", By::User, 60, "share_limit", SHARED),
];

/// So long that no window ends while a slow machine counts.
fn long_windows() -> Value {
    let limits = CASES.iter().map(|it| (it.limiter.to_owned(), json!({ "window": "1h" })));
    let mut limits: Value = Value::Object(limits.collect());
    limits["message_user"]["enabled"] = json!(true);
    limits
}

#[test]
fn every_limit_of_the_preset_trips_at_its_number_and_not_before() -> Result<()> {
    let overrides = json!({
        "bans": { "enabled": false },
        "concurrency": { "enabled": false },
        "limits": long_windows(),
    });
    let Some(host) = host(overrides)? else { return Ok(()) };
    let mut fresh = abuser_pool();
    for (place, case) in CASES.iter().enumerate() {
        // The one whose budget it is; the other differs with each request.
        let address = v4(fresh.next().context("an address for each")?)?;
        let client = |number: usize| -> Result<Browser> {
            let (user, source) = match case.by {
                By::Address => (format!("{place}-{number}"), address),
                By::User => (format!("{place}"), others(number)?),
            };
            Ok(host.abuser().at(source).with_token(&token_of(&user, 900)?))
        };
        for number in 0..case.max {
            let (method, target, sent, status) = case.routes[number % case.routes.len()];
            let answer = client(number)?.ask(method, target, &sent.body())?;
            let what = || format!("{}, request {}: {answer:?}", case.limiter, number + 1);
            ensure!(answer.status == status && answer.json()["limiter"].is_null(), "{}", what());
        }
        for (number, (method, target, sent, _)) in (case.max..).zip(case.routes) {
            let answer = client(number)?.ask(method, target, &sent.body())?;
            let what = || format!("{} at {target}: {answer:?}", case.limiter);
            ensure!(answer.status == 429, "{}", what());
            let body = answer.json();
            if case.violation.is_empty() {
                ensure!(body["type"] == "rate_limited", "{}", what());
            } else {
                ensure!(body["type"] == case.violation && body["max"] == case.max, "{}", what());
            }
            ensure!(answer.header("retry-after").is_some(), "{}", what());
            let policy = answer.header("ratelimit-policy").unwrap_or_default();
            ensure!(
                policy.contains(&format!("\"{}\";q={};", case.limiter, case.max)),
                "{}",
                what()
            );
        }
    }
    ensure!(host.nginx.express()?.log().is_empty(), "{}", host.nginx.express()?.log());
    ensure!(host.nginx.log().is_empty(), "{}", host.nginx.log());
    Ok(())
}

/// Whether a request is of a route of the preset.
fn is_of(route: &Value, (method, target): (&str, &str)) -> bool {
    let path = target.split('?').next().unwrap_or_default().trim_end_matches('/');
    let pattern = route["path"].as_str().unwrap_or_default();
    let (mut segments, mut wanted) = (path.split('/'), pattern.split('/'));
    let fits = loop {
        match (segments.next(), wanted.next()) {
            (None, None) | (_, Some("*")) => break true,
            (Some(segment), Some(want)) if segment == want || want.starts_with(':') => {}
            _ => break false,
        }
    };
    fits && (route["method"] == method || route["method"] == "ANY")
}

#[test]
fn no_route_of_the_preset_that_has_a_limit_is_left_out_above() -> Result<()> {
    let preset = librechat()?;
    let routes = preset["nginx"]["routes"].as_array().context("routes")?;
    for route in routes {
        // What has no limit: programs are not let in, or nothing at all is looked at.
        if ["app_request", "nothing"].contains(&route["counts"].as_str().unwrap_or("nothing")) {
            continue;
        }
        let mut asked = CASES.iter().flat_map(|it| it.routes);
        ensure!(asked.any(|(method, target, ..)| is_of(route, (method, target))), "{route}");
    }
    Ok(())
}

#[test]
fn programs_that_say_so_are_kept_out_where_only_browsers_may_be() -> Result<()> {
    let Some(host) = host(json!({ "bans": { "enabled": false } }))? else { return Ok(()) };
    let mallory = host.abuser().log_in("mallory")?.with_agent("curl/8.5.0");
    let routes = [
        ("POST", "/api/agents/chat/abort"),
        ("GET", "/api/agents/chat/active"),
        ("POST", "/api/agents/chat"),
        ("POST", "/api/assistants/v2/chat"),
        ("GET", "/api/files"),
        ("POST", "/api/files/speech/stt"),
        ("GET", "/api/permissions/x"),
    ];
    for (method, target) in routes {
        let answer = mallory.ask(method, target, &Body::None)?;
        let kind = answer.json()["type"].clone();
        ensure!((answer.status, &kind) == (403, &json!("non_browser")), "{target}: {answer:?}");
        let answer = mallory.with_agent(AGENT).ask(method, target, &Body::None)?;
        ensure!(answer.json()["type"].is_null(), "{target}: {answer:?}");
    }
    let program = host.abuser().with_agent("curl/8.5.0").with_token("sk-1");
    ensure!(program.post("/api/agents/v1/chat/completions", &json!({}))?.is_apps());
    ensure!(program.get("/api/config")?.is_apps());
    Ok(())
}

/// An address that no other case has for its own: the last ones of the pool.
fn others(number: usize) -> Result<Ipv4Addr> {
    let spare: Vec<_> = abuser_pool().skip(CASES.len()).collect();
    v4(spare[number % spare.len()])
}

fn v4(address: IpAddr) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(anyhow::anyhow!("{address}")),
    }
}

#[test]
fn the_thirty_first_wrong_password_of_an_hour_is_a_violation() -> Result<()> {
    let overrides = json!({ "limits": { "login": { "max": 1_000 } } });
    let Some(mut host) = host(overrides)? else { return Ok(()) };
    let (guesser, wrong) =
        (host.abuser(), json!({ "email": "alice@chat.example", "password": "x" }));
    let heard = "moderation_nginx_log_events_total";
    let mut guess = |count: u64| -> Result<Vec<Value>> {
        let before = host.metric(heard)?;
        for _ in 0..count {
            let answer = guesser.post("/api/auth/login", &wrong)?;
            ensure!(answer.status == 404, "{answer:?}");
        }
        wait::until("nginx to tell of them", PATIENCE, || {
            Ok((host.metric(heard)? == before + count).then_some(()))
        })?;
        let found = host.operator.get(&format!("/v1/explain?ip={ABUSER_V4}"))?;
        Ok(found["violations"].as_array().cloned().unwrap_or_default())
    };
    let found = guess(30)?;
    ensure!(found.is_empty(), "{found:?}");
    let found = guess(1)?;
    ensure!(found.len() == 1 && found[0]["type"] == "login_failures", "{found:?}");
    // Right ones are none of them.
    ensure!(host.abuser().log_in("alice").is_ok());
    Ok(())
}

#[test]
fn with_bans_on_so_many_logins_too_many_end_in_a_ban() -> Result<()> {
    // Each counts, however fast they come.
    let Some(mut host) = host(json!({ "scoring": { "repeats": null } }))? else { return Ok(()) };
    let guesser = host.abuser();
    for number in 1..=7 {
        ensure!(guesser.log_in("mallory").is_ok(), "login {number}");
    }
    for number in 1..=19 {
        let answer = guesser.post("/api/auth/login", &credentials("mallory"))?;
        let status = (answer.status, answer.json()["type"].clone());
        ensure!(status == (429, json!("logins")), "violation {number}: {answer:?}");
    }
    ensure!(host.operator.bans("all=true")?.is_empty());
    guesser.post("/api/auth/login", &credentials("mallory"))?;
    let bans = host.operator.bans("all=true")?;
    ensure!(bans.len() == 1 && bans[0]["address"] == ABUSER_V4.to_string(), "{bans:?}");
    let answer = guesser.get("/")?;
    ensure!((answer.status, &answer.json()["type"]) == (403, &json!("ban")), "{answer:?}");
    let answer = host.bystander().log_in("alice")?.get("/api/convos")?;
    ensure!(answer.is_apps(), "{answer:?}");
    Ok(())
}
