//! Events in batches: they are what as many single ones are, in the same
//! order, and one that makes no sense hinders no other.

use std::time::Duration;

use anyhow::{Context, Result};
use moderation_tests::caller::Caller;
use moderation_tests::wait;
use moderation_tests::wire::{Answer, Wire, request};
use serde_json::{Value, json};

use crate::desk;

const BATCH: &str = "/v1/events/batch";
/// Shorter than the daemon waits for a body.
const PATIENCE: Duration = Duration::from_secs(3);

/// The answers to these lines, one each.
fn send(app: &mut Caller, lines: &[String]) -> Result<Vec<Value>> {
    let answers = app.post_text(BATCH, &lines.join("\n"))?;
    let text = answers.as_str().unwrap_or_default();
    assert!(lines.is_empty() || text.ends_with('\n'), "{text:?}");
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn login(ip: &str) -> String {
    json!({ "type": "login", "ip": ip }).to_string()
}

/// The head of a batch of so many bytes.
fn announcing(bytes: usize) -> String {
    format!("POST {BATCH} HTTP/1.1\r\nhost: moderation\r\ncontent-length: {bytes}\r\n\r\n")
}

/// Without what depends on the moment and on the subject.
fn timeless(mut answer: Value) -> Value {
    for limit in answer["limits"].as_array_mut().into_iter().flatten() {
        limit["reset_ms"].take();
    }
    for field in ["ban", "code", "retry_after_ms"] {
        if let Some(value) = answer.get_mut(field) {
            *value = json!(value.is_null());
        }
    }
    answer
}

#[test]
fn a_batch_is_answered_as_as_many_single_events_are() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    // Three subjects in turn: two go over a limit, one is banned half-way.
    let events = |net: &str| -> Vec<Value> {
        let one = |number: usize| match number % 3 {
            0 => json!({ "type": "login", "ip": format!("{net}.7") }),
            1 => json!({ "type": "file_usage", "user": format!("of {net}") }),
            _ if number == 32 => {
                json!({ "type": "message", "ip": format!("{net}.8"), "user_agent": "curl/8.0" })
            }
            _ => json!({ "type": "registration", "ip": format!("{net}.8") }),
        };
        (0..64).map(one).collect()
    };
    let mut singles = Vec::new();
    for event in events("192.0.2") {
        singles.push(timeless(desk.app.post("/v1/events", &event)?));
    }
    let lines: Vec<_> = events("198.51.100").iter().map(Value::to_string).collect();
    let batch: Vec<_> = send(&mut desk.app, &lines)?.into_iter().map(timeless).collect();
    assert_eq!(batch, singles);
    let reasons: Vec<_> = batch.iter().filter_map(|answer| answer["reason"].as_str()).collect();
    for reason in ["logins", "registrations", "non_browser", "banned"] {
        assert!(reasons.contains(&reason), "{reason} is in none of {reasons:?}");
    }
    Ok(())
}

#[test]
fn a_batch_and_single_events_share_their_limits() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let lines = [(); 4].map(|()| login("192.0.2.7"));
    for want in [[6, 5, 4, 3], [1, 0, 0, 0]] {
        let answers = send(&mut desk.app, &lines)?;
        let left: Vec<_> = answers.iter().map(|answer| &answer["limits"][0]["remaining"]).collect();
        assert_eq!(left, want, "{answers:?}");
        desk.app.event("login", &json!({ "ip": "192.0.2.7" }))?;
    }
    Ok(())
}

#[test]
fn a_line_that_makes_no_sense_is_answered_in_its_place() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let long = json!({ "type": "message", "ip": "192.0.2.7", "user_agent": "x".repeat(65_536) });
    let lines = [
        login("192.0.2.7"),
        String::new(),
        "{".to_owned(),
        login("nowhere"),
        login("192.0.2.7"),
        r#"["login"]"#.to_owned(),
        r#"{"type":"log in","ip":"192.0.2.7"}"#.to_owned(),
        r#"{"type":"login","colour":"red"}"#.to_owned(),
        r#"{"type":"login"}"#.to_owned(),
        long.to_string(),
        login("192.0.2.7"),
    ];
    let want = [
        "6",
        "malformed-json",
        "malformed-json",
        "invalid-address",
        "5",
        "invalid-field",
        "unknown-type",
        "unknown-field",
        "no-subject",
        "body-too-large",
        "4",
    ];
    let answers = send(&mut desk.app, &lines)?;
    let told: Vec<_> = answers
        .iter()
        .map(|answer| match answer["problem"]["type"].as_str() {
            Some(name) => name.trim_start_matches("urn:moderation:problem:").to_owned(),
            None => answer["limits"][0]["remaining"].to_string(),
        })
        .collect();
    assert_eq!(told, want);
    assert_eq!(answers[3]["problem"]["status"], 422, "{}", answers[3]);
    let metrics = desk.operator.get("/metrics")?.to_string();
    assert!(metrics.contains(r#"api_problems_total{reason=\"malformed-json\"} 2"#), "{metrics}");
    Ok(())
}

#[test]
fn a_batch_that_is_too_large_is_refused_and_nothing_of_it_counts() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let socket = desk.daemon.api_socket();
    let long = request("POST", BATCH, (login("192.0.2.7") + "\n").repeat(1_001));
    // It is refused by what it announces, before it has come.
    let large = announcing(1_024 * 1_024 + 1).into_bytes();
    for (bytes, name) in [(long, "too-many-lines"), (large, "body-too-large")] {
        let answer = Wire::ask(&socket, bytes)?;
        assert_eq!((answer.status, answer.problem().as_deref()), (413, Some(name)), "{answer:?}");
    }
    let full = vec!["x".to_owned(); 1_000];
    assert_eq!(send(&mut desk.app, &full)?.len(), 1_000);
    assert_eq!(send(&mut desk.app, &[])?, Vec::<Value>::new());
    let after = desk.app.event("login", &json!({ "ip": "192.0.2.7" }))?;
    assert_eq!(after["limits"][0]["remaining"], 6, "{after}");
    Ok(())
}

#[test]
fn so_many_bytes_of_batches_are_taken_at_once_and_then_others_are_told_to_wait() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let socket = desk.daemon.api_socket();
    let head = announcing(1_024 * 1_024);
    // Each announces a whole batch and sends nothing of it.
    let announce = || {
        let mut wire = Wire::open(&socket)?;
        wire.send(&head)?;
        anyhow::Ok(wire)
    };
    let mut idle = (0..8).map(|_| announce()).collect::<Result<Vec<_>>>()?;
    let refused = wait::until("the room to be used up", PATIENCE, || {
        let answer = Wire::ask(&socket, request("POST", BATCH, login("192.0.2.7")))?;
        if answer.status == 200 {
            // What is asked here takes room, too, which one of those may have missed.
            idle.push(announce()?);
            return Ok(None);
        }
        Ok(Some(answer))
    })?;
    let Answer { status, retry_after, .. } = &refused;
    assert_eq!((*status, refused.problem().as_deref()), (503, Some("too-many-batches")));
    assert_eq!(retry_after.as_deref(), Some("1"));
    assert_eq!(desk.app.event("registration", &json!({ "ip": "192.0.2.7" }))?["decision"], "allow");
    drop(idle);
    let answers = wait::until("the room to be free again", PATIENCE, || {
        Ok(send(&mut desk.app, &[login("192.0.2.8")]).ok())
    })?;
    let first = answers.first().context("an answer")?;
    assert_eq!(first["limits"][0]["remaining"], 6, "{first}");
    Ok(())
}
