//! Bad requests: each has a status and a name, in the form of RFC 9457.

use anyhow::{Result, ensure};
use moderation_tests::wire::{Wire, request};
use serde_json::{Value, json};

use crate::desk;

/// What is wrong with a request, and what it is called.
struct Case {
    request: (&'static str, &'static str, Vec<u8>),
    status: u16,
    name: &'static str,
}

fn case(
    (method, path, body): (&'static str, &'static str, impl Into<Vec<u8>>),
    status: u16,
    name: &'static str,
) -> Case {
    Case { request: (method, path, body.into()), status, name }
}

fn post(path: &'static str, body: &Value) -> (&'static str, &'static str, String) {
    ("POST", path, body.to_string())
}

const EVENTS: &str = "/v1/events";
const VIOLATIONS: &str = "/v1/violations";
const LEASES: &str = "/v1/leases";
const BANS: &str = "/v1/bans";
const ALLOWLIST: &str = "/v1/allowlist";

fn app_cases() -> Vec<Case> {
    let login = |field: &str, value: Value| {
        let mut body = json!({ "type": "login", "ip": "192.0.2.7" });
        body[field] = value;
        post(EVENTS, &body)
    };
    let huge = || "x".repeat(65 * 1_024);
    vec![
        case(("POST", EVENTS, ""), 400, "malformed-json"),
        case(("POST", EVENTS, "{"), 400, "malformed-json"),
        case(("POST", EVENTS, "{\"type\": login}"), 400, "malformed-json"),
        case(
            ("POST", EVENTS, "{\"type\":\"login\",\"ip\":\"192.0.2.7\"} x"),
            400,
            "malformed-json",
        ),
        case(("POST", EVENTS, vec![0xff, 0xfe, 0]), 400, "malformed-json"),
        case(("POST", LEASES, "[".repeat(1_000)), 422, "invalid-field"),
        case(login("colour", json!("red")), 422, "unknown-field"),
        case(post(LEASES, &json!({ "type": "login", "user": "anna" })), 422, "unknown-field"),
        case(("GET", "/v1/check?user=anna&colour=red", ""), 422, "unknown-field"),
        case(login("ip", json!(7)), 422, "invalid-field"),
        case(login("id", json!("")), 422, "invalid-field"),
        case(login("id", json!("x".repeat(129))), 422, "invalid-field"),
        case(post(EVENTS, &json!({ "ip": "192.0.2.7" })), 422, "invalid-field"),
        case(post(EVENTS, &json!("login")), 422, "invalid-field"),
        case(post(EVENTS, &json!(["login", "anna", null, null, null])), 422, "invalid-field"),
        case(post(EVENTS, &Value::Null), 422, "invalid-field"),
        case(("POST", EVENTS, "{\"type\":\"login\",\"type\":\"login\"}"), 422, "invalid-field"),
        case(violation(&json!(-1)), 422, "invalid-field"),
        case(violation(&json!(1e9)), 422, "invalid-field"),
        case(violation(&json!("five")), 422, "invalid-field"),
        case(("POST", VIOLATIONS, "{\"type\":\"logins\",\"score\":1e999}"), 400, "malformed-json"),
        case(login("type", json!("log in")), 422, "unknown-type"),
        case(login("type", json!("")), 422, "unknown-type"),
        case(post(VIOLATIONS, &json!({ "type": "login", "user": "anna" })), 422, "unknown-type"),
        case(login("ip", json!("192.0.2.256")), 422, "invalid-address"),
        case(login("ip", json!("192.0.2.0/24")), 422, "invalid-address"),
        case(login("ip", json!("")), 422, "invalid-address"),
        case(("GET", "/v1/check?ip=nowhere", ""), 422, "invalid-address"),
        case(login("user", json!("")), 422, "invalid-user"),
        case(login("user", json!("a\nb")), 422, "invalid-user"),
        case(login("user", json!("x".repeat(129))), 422, "invalid-user"),
        case(post(EVENTS, &json!({ "type": "login" })), 422, "no-subject"),
        case(post(VIOLATIONS, &json!({ "type": "logins" })), 422, "no-subject"),
        case(post(LEASES, &json!({})), 422, "no-subject"),
        case(("GET", "/v1/check", ""), 422, "no-subject"),
        case(login("user_agent", json!(huge())), 413, "body-too-large"),
        case(("GET", "/v2/events", ""), 404, "not-found"),
        case(("GET", "/", ""), 404, "not-found"),
        case(("POST", "/v1/events/", "{}"), 404, "not-found"),
        case(("GET", EVENTS, ""), 405, "method-not-allowed"),
        case(("PATCH", LEASES, ""), 405, "method-not-allowed"),
        case(("DELETE", "/healthz", ""), 405, "method-not-allowed"),
        case(("DELETE", "/v1/leases/7", ""), 404, "no-such-thing"),
    ]
}

fn violation(score: &Value) -> (&'static str, &'static str, String) {
    post(VIOLATIONS, &json!({ "type": "logins", "user": "anna", "score": score }))
}

fn operator_cases() -> Vec<Case> {
    let ban = |field: &str, value: Value| {
        let mut body = json!({ "user": "anna" });
        body[field] = value;
        post(BANS, &body)
    };
    vec![
        case(("POST", BANS, "nonsense"), 400, "malformed-json"),
        case(ban("until", json!("tomorrow")), 422, "unknown-field"),
        case(("GET", "/v1/bans?page=2", ""), 422, "unknown-field"),
        case(ban("duration", json!("a while")), 422, "invalid-field"),
        case(ban("duration", json!("0s")), 422, "invalid-field"),
        case(ban("duration", json!("-2h")), 422, "invalid-field"),
        case(ban("duration", json!(7)), 422, "invalid-field"),
        case(ban("reason", json!("a\u{1b}[2J")), 422, "invalid-field"),
        case(ban("reason", json!("x".repeat(513))), 422, "invalid-field"),
        case(("GET", "/v1/bans?limit=many", ""), 422, "invalid-field"),
        case(("GET", "/v1/bans?limit=-1", ""), 422, "invalid-field"),
        case(("DELETE", "/v1/bans?id=first", ""), 422, "invalid-field"),
        case(("DELETE", BANS, ""), 422, "invalid-field"),
        case(("DELETE", ALLOWLIST, ""), 422, "invalid-field"),
        case(post(ALLOWLIST, &json!({ "note": "x" })), 422, "invalid-field"),
        case(ban("ip", json!("192.0.0.0/4")), 422, "invalid-address"),
        case(ban("network_block", json!("sometimes")), 422, "invalid-field"),
        case(("POST", "/v1/imports/a%20b/begin", ""), 422, "invalid-field"),
        case(("POST", "/v1/imports/list/entries", "nonsense"), 422, "invalid-address"),
        case(("POST", "/v1/imports/list/entries?run=7", "192.0.2.7"), 409, "superseded"),
        case(("POST", "/v1/imports/list/finish", ""), 404, "no-such-thing"),
        case(("DELETE", "/v1/imports/list", ""), 404, "no-such-thing"),
        case(ban("ip", json!("localhost")), 422, "invalid-address"),
        case(("DELETE", "/v1/bans?ip=x", ""), 422, "invalid-address"),
        case(post(ALLOWLIST, &json!({ "prefix": "192.0.2.0/33" })), 422, "invalid-address"),
        case(ban("user", json!("")), 422, "invalid-user"),
        case(post(BANS, &json!({})), 422, "no-subject"),
        case(post(BANS, &json!({ "duration": "2h" })), 422, "no-subject"),
        case(post(BANS, &json!({ "ip": "10.0.0.1" })), 409, "protected-address"),
        case(("DELETE", "/v1/bans?id=7", ""), 404, "no-such-thing"),
        case(("DELETE", "/v1/allowlist?prefix=192.0.2.0/24", ""), 404, "no-such-thing"),
        case(("PUT", BANS, ""), 405, "method-not-allowed"),
        case(("POST", "/metrics", ""), 405, "method-not-allowed"),
        case(("POST", EVENTS, "{}"), 404, "not-found"),
    ]
}

#[test]
fn each_mistake_has_a_status_and_a_name() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let sockets =
        [(desk.daemon.api_socket(), app_cases()), (desk.daemon.admin_socket(), operator_cases())];
    let mut wrong = Vec::new();
    for (socket, cases) in &sockets {
        for Case { request: (method, path, body), status, name } in cases {
            let answer = Wire::ask(socket, request(method, path, body))?;
            if (answer.status, answer.problem().as_deref()) != (*status, Some(*name)) {
                let body = String::from_utf8_lossy(body);
                let body: String = body.chars().take(80).collect();
                wrong.push(format!("{method} {path} {body}\n  not {status} {name}: {answer:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // None of them counted.
    let answer = desk.app.event("login", &json!({ "ip": "192.0.2.7" }))?;
    assert_eq!(answer["limits"][0]["remaining"], 6, "{answer}");
    assert_eq!(desk.app.violation("logins", &json!({ "user": "anna" }))?["score"], 1);
    assert_eq!(desk.operator.bans("all=true")?, Vec::<Value>::new());
    Ok(())
}

#[test]
fn a_mistake_is_no_reason_to_hang_up() -> Result<()> {
    let Some(desk) = desk(Value::Null)? else { return Ok(()) };
    let mut wire = Wire::open(&desk.daemon.api_socket())?;
    for (body, status) in [("{", 400), ("{\"type\":\"login\",\"ip\":\"192.0.2.7\"}", 200)] {
        wire.send(request("POST", EVENTS, body))?;
        assert_eq!(wire.answer()?.map(|answer| answer.status), Some(status));
    }
    Ok(())
}

#[test]
fn a_problem_names_what_is_wrong() -> Result<()> {
    let Some(desk) = desk(Value::Null)? else { return Ok(()) };
    let cases = [
        (json!({ "type": "login", "colour": 1 }), "colour"),
        (json!({ "type": "login", "ip": 7 }), "ip"),
        (json!({ "type": "log in" }), "registration"),
        (json!({ "type": "login", "ip": "192.0.2.256" }), "192.0.2.256"),
        (json!({ "ip": "192.0.2.7" }), "type"),
    ];
    for (body, word) in cases {
        let request = request("POST", EVENTS, body.to_string());
        let answer = Wire::ask(&desk.daemon.api_socket(), request)?.json();
        let detail = answer["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(word), "{body}: {answer}");
    }
    Ok(())
}
