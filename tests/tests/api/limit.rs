//! Events and their limiters: how many pass, what is left, when it resets, and
//! who is counted together.

use std::time::Duration;

use anyhow::Result;
use moderation_tests::wait;
use serde_json::{Value, json};

use crate::{assert_just_begun, desk};

/// Event type, limiter, how many pass in how long, violation.
const LIMITS: [(&str, &str, u64, u64, &str); 3] = [
    ("login", "login", 7, 5 * 60_000, "logins"),
    ("registration", "registration", 5, 60 * 60_000, "registrations"),
    ("message", "message_ip", 40, 60_000, "message_limit"),
];

#[test]
fn so_many_events_pass_and_the_next_is_a_violation() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    for (kind, limiter, max, window_ms, violation) in LIMITS {
        let subject = json!({ "ip": "192.0.2.7" });
        for used in 1..=max {
            let answer = desk.app.event(kind, &subject)?;
            let limits = &answer["limits"];
            assert_just_begun(&limits[0]["reset_ms"], window_ms);
            let reset_ms = &limits[0]["reset_ms"];
            let limit = json!({
                "name": limiter, "limit": max, "window_ms": window_ms, "remaining": max - used,
                "reset_ms": reset_ms,
            });
            let want = json!({ "decision": "allow", "reason": null, "limits": [limit] });
            assert_eq!(answer, want, "{kind} {used}");
        }
        let answer = desk.app.event(kind, &subject)?;
        assert_eq!(answer["decision"], "deny", "{answer}");
        assert_eq!(answer["reason"], violation, "{answer}");
        assert_eq!(answer["violation"], json!({ "type": violation, "score": 1 }));
        assert_eq!(answer["score"], 1);
        assert_eq!(answer["limits"][0]["remaining"], 0);
        assert_eq!(answer["retry_after_ms"], answer["limits"][0]["reset_ms"]);
        assert_eq!(answer.get("ban"), None);

        let neighbour = desk.app.event(kind, &json!({ "ip": "192.0.2.8" }))?;
        assert_eq!(neighbour["decision"], "allow", "{kind}");
    }
    Ok(())
}

#[test]
fn a_window_that_is_over_frees_the_limit() -> Result<()> {
    // Without bans, because every vain attempt is a violation.
    let limits = json!({ "login": { "max": 2, "window": "1s" } });
    // A fixed window ends as a whole; one that slides lets go of one event after
    // the other, and when it is asked the second may count still.
    for (profile, left) in [("librechat", 1..=1), ("hardened", 0..=1)] {
        let bans = json!({ "enabled": false });
        let overrides = json!({ "profile": profile, "limits": limits, "bans": bans });
        let Some(mut desk) = desk(overrides)? else { return Ok(()) };
        let subject = json!({ "ip": "192.0.2.7" });
        let decisions = (0..3).map(|_| desk.app.event("login", &subject));
        let decisions = decisions.map(|answer| Ok(answer?["decision"].clone()));
        assert_eq!(decisions.collect::<Result<Vec<_>>>()?, ["allow", "allow", "deny"]);
        let fresh = wait::until("the window to end", Duration::from_secs(10), || {
            let answer = desk.app.event("login", &subject)?;
            Ok((answer["decision"] == "allow").then_some(answer))
        })?;
        let remaining = fresh["limits"][0]["remaining"].as_u64();
        assert!(remaining.is_some_and(|remaining| left.contains(&remaining)), "{fresh}");
    }
    Ok(())
}

#[test]
fn users_are_counted_wherever_they_are_once_their_limiter_is_enabled() -> Result<()> {
    let limits =
        json!({ "message_ip": { "max": 5 }, "message_user": { "enabled": true, "max": 3 } });
    let Some(mut desk) = desk(json!({ "limits": limits }))? else { return Ok(()) };
    for number in 1..=3 {
        let ip = format!("192.0.2.{number}");
        let answer = desk.app.event("message", &json!({ "user": "anna", "ip": ip }))?;
        let limits = answer["limits"].as_array().map(Vec::as_slice).unwrap_or_default();
        let left: Vec<_> =
            limits.iter().map(|limit| [&limit["name"], &limit["remaining"]]).collect();
        let want =
            [[&json!("message_ip"), &json!(4)], [&json!("message_user"), &json!(3 - number)]];
        assert_eq!(left, want, "{answer}");
    }
    let fourth = desk.app.event("message", &json!({ "user": "anna", "ip": "192.0.2.4" }))?;
    assert_eq!(fourth["reason"], "message_limit", "{fourth}");
    let other = desk.app.event("message", &json!({ "user": "bert", "ip": "192.0.2.4" }))?;
    assert_eq!(other["decision"], "allow", "{other}");
    // Nobody knows whose message this is, so only the address is counted.
    let anonymous = desk.app.event("message", &json!({ "ip": "192.0.2.4" }))?;
    assert_eq!(anonymous["limits"].as_array().map(Vec::len), Some(1), "{anonymous}");
    Ok(())
}

#[test]
fn what_has_no_limiter_passes_uncounted() -> Result<()> {
    let overrides = json!({ "limits": { "message_ip": { "enabled": false } } });
    let Some(mut desk) = desk(overrides)? else { return Ok(()) };
    let want = json!({ "decision": "allow", "reason": null, "limits": [] });
    for _ in 0..50 {
        let message = desk.app.event("message", &json!({ "user": "anna", "ip": "192.0.2.7" }))?;
        assert_eq!(message, want);
        // The login limiter counts addresses, and this login has none.
        assert_eq!(desk.app.event("login", &json!({ "user": "anna" }))?, want);
    }
    Ok(())
}

#[test]
fn addresses_are_counted_by_ipv4_address_and_by_ipv6_64() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let together = [
        (["2001:db8:0:1::1", "2001:db8:0:1::2"], "2001:db8:0:2::1"),
        (["192.0.2.7", "::ffff:192.0.2.7"], "192.0.2.8"),
    ];
    for (same, other) in together {
        for used in 0..7 {
            let answer = desk.app.event("login", &json!({ "ip": same[used % 2] }))?;
            assert_eq!(answer["decision"], "allow", "{used}: {same:?}");
        }
        for ip in same {
            let answer = desk.app.event("login", &json!({ "ip": ip }))?;
            assert_eq!(answer["reason"], "logins", "{ip}");
        }
        let answer = desk.app.event("login", &json!({ "ip": other }))?;
        assert_eq!(answer["limits"][0]["remaining"], 6, "{other}");
    }
    Ok(())
}
