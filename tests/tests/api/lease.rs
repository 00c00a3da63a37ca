//! Leases: how many one user holds, how long they live, and what becomes of
//! those that are given back or forgotten.

use std::time::{Duration, Instant};

use anyhow::Result;
use moderation_tests::wait;
use serde_json::{Value, json};

use crate::{assert_just_begun, desk};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn two_generations_run_at_once_and_the_third_is_a_violation() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let anna = json!({ "user": "anna", "ip": "192.0.2.7" });
    let mut leases = Vec::new();
    for _ in 0..2 {
        let answer = desk.app.post("/v1/leases", &anna)?;
        assert_eq!((&answer["decision"], &answer["reason"]), (&json!("allow"), &Value::Null));
        assert_just_begun(&answer["lease"]["expires_in_ms"], 60_000);
        leases.push(answer["lease"]["id"].clone());
    }
    assert_ne!(leases[0], leases[1]);
    let third = desk.app.post("/v1/leases", &anna)?;
    assert_eq!((&third["decision"], &third["reason"]), (&json!("deny"), &json!("concurrent")));
    assert_eq!(third["violation"], json!({ "type": "concurrent", "score": 1 }));
    assert_eq!(third.get("lease"), None);
    // Others are not in each other's way, not even at one address.
    let bert = json!({ "user": "bert", "ip": "192.0.2.7" });
    assert_eq!(desk.app.post("/v1/leases", &bert)?["decision"], "allow");

    let path = format!("/v1/leases/{}", leases[0]);
    assert_eq!(desk.app.delete(&path)?, Value::Null);
    assert_eq!(desk.app.post("/v1/leases", &anna)?["decision"], "allow");
    let gone = (404, "no-such-thing".to_owned());
    for method in ["DELETE", "PUT"] {
        assert_eq!(desk.app.refused(method, &path, &Value::Null)?, gone);
        assert_eq!(desk.app.refused(method, "/v1/leases/abc", &Value::Null)?, gone);
        assert_eq!(desk.app.refused(method, "/v1/leases/99999", &Value::Null)?, gone);
    }
    Ok(())
}

#[test]
fn a_lease_lives_while_it_is_renewed_and_then_ends() -> Result<()> {
    // Without bans, because every vain attempt is a violation.
    let overrides =
        json!({ "concurrency": { "max": 1, "lease": "2s" }, "bans": { "enabled": false } });
    let Some(mut desk) = desk(overrides)? else { return Ok(()) };
    let anna = json!({ "user": "anna" });
    let lease = desk.app.post("/v1/leases", &anna)?["lease"]["id"].clone();
    let path = format!("/v1/leases/{lease}");
    let begun = Instant::now();
    wait::until("a renewed lease to outlive itself", PATIENCE, || {
        let renewed = desk.app.put(&path)?;
        assert_eq!(renewed["lease"]["id"], lease);
        assert_just_begun(&renewed["lease"]["expires_in_ms"], 2_000);
        Ok((begun.elapsed() > Duration::from_secs(3)).then_some(()))
    })?;
    assert_eq!(desk.app.post("/v1/leases", &anna)?["reason"], "concurrent");
    wait::until("the lease to end", PATIENCE, || {
        let answer = desk.app.post("/v1/leases", &anna)?;
        Ok((answer["decision"] == "allow").then_some(()))
    })?;
    for method in ["PUT", "DELETE"] {
        assert_eq!(desk.app.refused(method, &path, &Value::Null)?.0, 404);
    }
    Ok(())
}

#[test]
fn without_the_limit_everyone_may_and_nobody_holds_a_lease() -> Result<()> {
    let Some(mut desk) = desk(json!({ "concurrency": { "enabled": false } }))? else {
        return Ok(());
    };
    for _ in 0..5 {
        let answer = desk.app.post("/v1/leases", &json!({ "user": "anna" }))?;
        assert_eq!(answer, json!({ "decision": "allow", "reason": null, "limits": [] }));
    }
    Ok(())
}
