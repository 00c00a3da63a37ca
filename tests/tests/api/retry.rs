//! Requests with an id count once, however often, at once or late they come.

use std::thread;

use anyhow::{Context, Result};
use moderation_tests::caller::Caller;
use moderation_tests::wire::{Wire, request};
use serde_json::{Value, json};

use crate::desk;

#[test]
fn the_same_id_twice_counts_once_and_is_answered_alike() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let login = json!({ "ip": "192.0.2.7", "id": "a" });
    let once = desk.app.event("login", &login)?;
    let again = desk.app.event("login", &login)?;
    assert_eq!((&once["limits"][0]["remaining"], &once["decision"]), (&json!(6), &json!("allow")));
    assert_eq!(again["limits"][0]["remaining"], 6, "{again}");
    let other = desk.app.event("login", &json!({ "ip": "192.0.2.7", "id": "b" }))?;
    assert_eq!(other["limits"][0]["remaining"], 5, "{other}");

    let violation = json!({ "user": "anna", "id": "c" });
    for _ in 0..3 {
        let answer = desk.app.violation("illegal_model_request", &violation)?;
        assert_eq!((&answer["score"], &answer["violation"]["score"]), (&json!(5), &json!(5)));
    }
    let lease = json!({ "user": "anna", "id": "d" });
    let first = desk.app.post("/v1/leases", &lease)?["lease"]["id"].clone();
    assert!(first.is_u64());
    assert_eq!(desk.app.post("/v1/leases", &lease)?["lease"]["id"], first);
    Ok(())
}

#[test]
fn an_id_names_one_request_of_one_kind_about_one_subject() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let subjects =
        [json!({ "user": "anna" }), json!({ "user": "bert" }), json!({ "ip": "192.0.2.7" })];
    for subject in subjects {
        let mut named = subject;
        named["id"] = json!("a");
        for kind in ["logins", "concurrent"] {
            assert_eq!(desk.app.violation(kind, &named)?["score"], 1, "{kind} {named}");
        }
        assert_eq!(desk.app.event("message", &named)?["decision"], "allow", "{named}");
        assert!(desk.app.post("/v1/leases", &named)?["lease"].is_object(), "{named}");
    }
    // No user and id can be made to look like another user and id.
    for (user, id) in [("carl", "b: c"), ("carl: b", "c")] {
        let answer = desk.app.violation("logins", &json!({ "user": user, "id": id }))?;
        assert_eq!(answer["score"], 1, "{user}, {id}: {answer}");
        assert_eq!(desk.app.violation("logins", &json!({ "user": user }))?["score"], 2);
    }
    Ok(())
}

#[test]
fn the_same_id_in_one_burst_counts_once() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let body = json!({ "type": "logins", "user": "anna", "id": "a" }).to_string();
    let burst = request("POST", "/v1/violations", body).repeat(10);
    let mut wire = Wire::open(&desk.daemon.api_socket())?;
    wire.send(burst)?;
    for _ in 0..10 {
        let answer = wire.answer()?.context("an answer to each")?;
        assert_eq!(answer.json()["score"], 1, "{answer:?}");
    }
    assert_eq!(desk.app.violation("logins", &json!({ "user": "anna" }))?["score"], 2);
    Ok(())
}

#[test]
fn the_same_id_over_many_connections_at_once_counts_once() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    // One point short of a ban.
    for round in 0..19 {
        let body = json!({ "user": "anna", "id": format!("round {round}") });
        let report = || Caller::app(&desk.daemon).violation("concurrent", &body);
        let answers = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(report)).collect();
            let joined = threads.into_iter().map(|thread| thread.join().expect("no panic"));
            joined.collect::<Result<Vec<_>>>()
        })?;
        for answer in answers {
            assert_eq!(answer["score"], round + 1, "{answer}");
        }
    }
    assert_eq!(desk.app.violation("concurrent", &json!({ "user": "anna" }))?["score"], 20);
    Ok(())
}

#[test]
fn a_violation_that_is_reported_again_after_a_crash_does_not_count_again() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let anna = json!({ "user": "anna", "id": "a" });
    assert_eq!(desk.app.violation("logins", &anna)?["score"], 1);
    desk.daemon.kill()?;
    desk.daemon.start()?;
    let mut app = Caller::app(&desk.daemon);
    let again = app.violation("logins", &anna)?;
    assert_eq!((&again["decision"], &again["reason"]), (&json!("deny"), &json!("logins")));
    assert_eq!(app.violation("logins", &json!({ "user": "anna" }))?["score"], 2);
    Ok(())
}
