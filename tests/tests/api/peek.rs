//! What changes nothing and what takes back: peeking, what is left of limits,
//! refunds. And costs, accounts and what is said to whom is denied.

use anyhow::Result;
use moderation_tests::wire::{Answer, Wire, request};
use serde_json::{Value, json};

use crate::desk;

fn merged(mut to: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().into_iter().flatten() {
        to[name] = value.clone();
    }
    to
}

#[test]
fn a_peek_is_answered_as_the_event_would_be_and_changes_nothing() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let subject = json!({ "user": "anna", "ip": "192.0.2.7" });
    let peek = merged(subject.clone(), &json!({ "peek": true, "id": "a" }));
    for left in (0..7).rev() {
        for _ in 0..3 {
            let answer = desk.app.event("login", &peek)?;
            assert_eq!(answer["limits"][0]["remaining"], left, "{answer}");
        }
        let answer = desk.app.event("login", &subject)?;
        assert_eq!(answer["limits"][0]["remaining"], left, "{answer}");
    }
    for _ in 0..30 {
        let answer = desk.app.event("login", &peek)?;
        assert_eq!((&answer["decision"], &answer["reason"]), (&json!("deny"), &json!("logins")));
        assert_eq!((answer.get("score"), answer.get("ban")), (None, None), "{answer}");
    }
    let script = json!({ "user": "anna", "user_agent": "curl/8.0", "peek": true });
    let answer = desk.app.event("message", &script)?;
    assert_eq!((&answer["reason"], answer.get("ban")), (&json!("non_browser"), None), "{answer}");
    assert!(!desk.app.is_banned("user=anna")?);
    assert_eq!(desk.app.event("login", &subject)?["score"], 1);
    let metrics = desk.operator.get("/metrics")?.to_string();
    assert!(metrics.contains(r#"events_total{type=\"login\",decision=\"allow\"} 7"#), "{metrics}");
    assert!(!metrics.contains(r#"events_total{type=\"message\""#), "{metrics}");
    Ok(())
}

#[test]
fn a_peek_in_a_batch_sees_the_lines_before_it() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let line = |peek| json!({ "type": "login", "ip": "192.0.2.7", "peek": peek }).to_string();
    let lines = [line(true), line(false), line(true), line(true), line(false)].join("\n");
    let answers = desk.app.post_text("/v1/events/batch", &lines)?;
    let left: Vec<u64> = answers
        .as_str()
        .unwrap_or_default()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|answer| answer["limits"][0]["remaining"].as_u64())
        .collect();
    assert_eq!(left, [6, 6, 5, 5, 5]);
    Ok(())
}

#[test]
fn what_is_left_can_be_asked_without_an_event() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let subject = json!({ "ip": "192.0.2.7" });
    for left in [7, 6, 5] {
        for _ in 0..2 {
            let answer = desk.app.get("/v1/limits?type=login&ip=192.0.2.7&user=")?;
            let limit = &answer["limits"][0];
            assert_eq!((&limit["name"], &limit["limit"]), (&json!("login"), &json!(7)));
            assert_eq!(limit["remaining"], left, "{answer}");
        }
        desk.app.event("login", &subject)?;
    }
    let refused = [
        ("/v1/limits?ip=192.0.2.7", "invalid-field"),
        ("/v1/limits?type=log&ip=192.0.2.7", "unknown-type"),
        ("/v1/limits?type=login", "no-subject"),
        ("/v1/limits?type=login&ip=x", "invalid-address"),
        ("/v1/limits?type=login&ip=192.0.2.7&colour=red", "unknown-field"),
    ];
    for (path, name) in refused {
        let want = (422, name.to_owned());
        assert_eq!(desk.app.refused("GET", path, &Value::Null)?, want, "{path}");
    }
    Ok(())
}

#[test]
fn what_an_event_counted_is_taken_back_once() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let event = json!({ "type": "file_upload", "user": "anna", "ip": "192.0.2.7" });
    let named = merged(event.clone(), &json!({ "id": "a" }));
    desk.app.post("/v1/events", &named)?;
    desk.app.post("/v1/events", &event)?;
    let left = |desk: &mut crate::Desk| -> Result<Vec<Value>> {
        let mut answer = desk.app.get("/v1/limits?type=file_upload&user=anna&ip=192.0.2.7")?;
        let limits = answer["limits"].as_array_mut().into_iter().flatten();
        Ok(limits.map(|limit| limit["remaining"].take()).collect())
    };
    assert_eq!(left(&mut desk)?, [98, 48]);
    let others = [
        json!({ "type": "file_upload", "user": "anna", "id": "b" }),
        json!({ "type": "file_upload", "user": "bert", "id": "a" }),
        json!({ "type": "import", "user": "anna", "id": "a" }),
    ];
    for other in others {
        let answer = desk.app.post("/v1/refunds", &other)?;
        assert_eq!(answer, json!({ "refunded": false }), "{other}");
    }
    for (refunded, want) in [(true, [99, 49]), (false, [99, 49])] {
        assert_eq!(desk.app.post("/v1/refunds", &named)?, json!({ "refunded": refunded }));
        assert_eq!(left(&mut desk)?, want);
    }
    let metrics = desk.operator.get("/metrics")?.to_string();
    assert!(metrics.contains("moderation_refunds_total 1"), "{metrics}");
    let nameless = desk.app.refused("POST", "/v1/refunds", &event)?;
    assert_eq!(nameless, (422, "invalid-field".to_owned()));
    Ok(())
}

#[test]
fn an_account_is_limited_wherever_it_is_tried_from() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    for number in 0..7 {
        let attempt = json!({ "ip": format!("192.0.2.{number}"), "account": "Anna@example.org" });
        let answer = desk.app.event("two_factor", &attempt)?;
        let limit = &answer["limits"][1];
        assert_eq!(limit["name"], "two_factor_user", "{answer}");
        assert_eq!(limit["remaining"], 6 - number, "{answer}");
    }
    let eighth = json!({ "ip": "192.0.2.99", "account": "anna@example.org" });
    let answer = desk.app.event("two_factor", &eighth)?;
    assert_eq!(answer["reason"], "logins", "{answer}");
    let left = "/v1/limits?type=two_factor&ip=192.0.2.99&account=";
    for (account, remaining) in [("anna@example.org", 0), ("bert@example.org", 7)] {
        let answer = desk.app.get(&format!("{left}{account}"))?;
        assert_eq!(answer["limits"][1]["remaining"], remaining, "{answer}");
    }
    let other = json!({ "ip": "192.0.2.98", "account": "bert@example.org" });
    assert_eq!(desk.app.event("two_factor", &other)?["decision"], "allow");
    assert!(!desk.app.is_banned("user=anna@example.org")?);
    Ok(())
}

#[test]
fn whoever_is_denied_is_told_so_in_librechat_s_words() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let login = json!({ "ip": "192.0.2.7" });
    for _ in 0..7 {
        assert_eq!(desk.app.event("login", &login)?.get("message"), None);
    }
    let denied = desk.app.event("login", &login)?;
    let want = "Too many login attempts, please try again after 5 minutes.";
    assert_eq!((&denied["message"], denied.get("logout")), (&json!(want), None), "{denied}");
    let script = json!({ "user": "anna", "ip": "192.0.2.8", "user_agent": "curl/8.0" });
    let banned = desk.app.event("message", &script)?;
    assert_eq!(banned["message"], "Illegal request", "{banned}");
    assert_eq!((&banned["logout"], banned["ban"].is_object()), (&json!(true), true), "{banned}");
    let again = desk.app.event("message", &json!({ "user": "anna" }))?;
    let want = "Your account has been temporarily banned due to violations of our service.";
    assert_eq!((&again["message"], &again["logout"]), (&json!(want), &json!(true)), "{again}");
    let leases: Vec<_> = (0..3)
        .map(|_| desk.app.post("/v1/leases", &json!({ "user": "bert" })))
        .collect::<Result<_>>()?;
    assert_eq!(leases[2]["message"], "Only 2 messages at a time", "{}", leases[2]);
    Ok(())
}

#[test]
fn what_is_said_about_a_user_is_kept_and_what_is_left_out_stays() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let socket = desk.daemon.api_socket();
    let put = |body: &Value| -> Result<Answer> {
        Wire::ask(&socket, request("PUT", "/v1/subjects/anna%20b", body.to_string()))
    };
    let missing = desk.app.refused("GET", "/v1/subjects/anna%20b", &Value::Null)?;
    assert_eq!(missing, (404, "no-such-thing".to_owned()));
    let first = json!({ "tier": "free", "created_at": "2026-01-31T12:00:00Z", "paying": false });
    assert_eq!(put(&first)?.status, 200);
    let second = put(&json!({ "tier": "pro", "role": "ADMIN" }))?;
    let want = json!({
        "user": "anna b", "tier": "pro", "role": "ADMIN", "created_at": "2026-01-31T12:00:00Z",
        "email_verified": null, "paying": false,
    });
    assert_eq!(second.json(), want);
    assert_eq!(desk.app.get("/v1/subjects/anna%20b")?, want);
    let refused = [
        (json!({ "tier": "" }), "invalid-field"),
        (json!({ "tier": "x".repeat(65) }), "invalid-field"),
        (json!({ "created_at": "yesterday" }), "invalid-field"),
        (json!({ "paying": "yes" }), "invalid-field"),
        (json!({ "colour": "red" }), "unknown-field"),
    ];
    for (body, name) in refused {
        let answer = put(&body)?;
        assert_eq!((answer.status, answer.problem().as_deref()), (422, Some(name)), "{body}");
    }
    Ok(())
}

#[test]
fn what_a_user_s_limits_follow_is_shown_by_name() -> Result<()> {
    let Some(mut desk) = desk(json!({ "adaptive": { "enabled": true } }))? else { return Ok(()) };
    desk.app.violation("logins", &json!({ "user": "anna", "score": 1 }))?;
    let event = json!({ "user": "anna", "traits": { "paying": true } });
    desk.app.event("message", &event)?;
    let shown = desk.app.get("/v1/subjects/anna")?;
    assert_eq!(shown["factors"], json!({ "paying": 1.5, "recent_violations": 0.5 }), "{shown}");
    assert_eq!((&shown["factor"], &shown["factor_target"]), (&json!(0.5), &json!(0.75)));
    let why = desk.operator.get("/v1/explain?user=anna")?;
    assert_eq!(why["factors"]["now"]["factors"], shown["factors"], "{why}");
    Ok(())
}

#[test]
fn an_event_says_what_it_costs_and_of_whom_it_is() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let subject = json!({ "user": "anna", "ip": "192.0.2.7" });
    let good = [
        json!({ "bytes": 70_000, "tokens": u64::MAX }),
        json!({ "tier": "pro" }),
        json!({ "traits": { "tier": "pro", "email_verified": true } }),
        json!({ "account": "anna@example.org" }),
    ];
    for more in good {
        let answer = desk.app.event("duplicate", &merged(subject.clone(), &more))?;
        assert_eq!(answer["limits"][0]["name"], "fork_ip", "{more}: {answer}");
    }
    let bad = [
        json!({ "bytes": -1 }),
        json!({ "tokens": 1.5 }),
        json!({ "tier": "" }),
        json!({ "traits": { "role": "a\nb" } }),
        json!({ "account": "" }),
        json!({ "account": "x".repeat(513) }),
        json!({ "user": null, "tier": "pro" }),
    ];
    for more in bad {
        let body = merged(merged(subject.clone(), &json!({ "type": "fork" })), &more);
        let refused = desk.app.refused("POST", "/v1/events", &body)?;
        assert_eq!(refused, (422, "invalid-field".to_owned()), "{body}");
    }
    Ok(())
}
