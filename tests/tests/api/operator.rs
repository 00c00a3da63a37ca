//! What operators do: ban, lift, list, allow. Whom they cannot ban.

use anyhow::Result;
use moderation_tests::caller::Caller;
use serde_json::{Value, json};

use crate::{Desk, assert_just_begun, desk};

fn ids(bans: &[Value]) -> Vec<u64> {
    bans.iter().filter_map(|ban| ban["id"].as_u64()).collect()
}

#[test]
fn a_ban_lasts_as_long_as_it_says_and_holds_for_whom_it_says() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let cases = [
        (json!({ "user": "anna" }), 7_200_000, "banned by an operator"),
        (json!({ "ip": "192.0.2.7", "duration": "30m", "reason": "spam" }), 1_800_000, "spam"),
        (json!({ "user": "bert", "ip": "2001:db8::1", "duration": "7d" }), 604_800_000, ""),
    ];
    for (body, duration_ms, reason) in cases {
        let ban = desk.operator.ban(&body)?;
        assert_eq!(ban["user"], body["user"], "{ban}");
        assert_just_begun(&ban["remaining_ms"], duration_ms);
        assert!(reason.is_empty() || ban["reason"] == reason, "{ban}");
        assert_eq!(ban.get("violation"), None, "{ban}");
        // Where there is no address, the kernel has nothing to do; nor while it is
        // to drop nothing.
        let network = if body["ip"].is_null() { Value::Null } else { json!("off") };
        assert_eq!((&ban["network"], &ban["enforced"]), (&network, &json!(true)), "{ban}");
    }
    let ban = desk.operator.ban(&json!({ "user": "carl", "duration": "permanent" }))?;
    assert_eq!((&ban["expires_at"], &ban["remaining_ms"]), (&Value::Null, &Value::Null));
    let denied = desk.app.event("message", &json!({ "user": "carl" }))?;
    assert_eq!((&denied["reason"], denied.get("retry_after_ms")), (&json!("banned"), None));

    let of_64 = desk.operator.get("/v1/check?ip=2001:db8::ffff")?;
    assert_eq!(of_64["ban"]["address"], "2001:db8::/64");
    let mapped = desk.operator.ban(&json!({ "ip": "::ffff:192.0.2.8" }))?;
    assert_eq!(mapped["address"], "192.0.2.8");
    Ok(())
}

#[test]
fn bans_are_listed_in_pages_past_ones_only_if_asked_for() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    for number in 0..5 {
        desk.operator.ban(&json!({ "user": format!("user {number}") }))?;
    }
    let (mut pages, mut path) = (Vec::new(), "/v1/bans?limit=2".to_owned());
    loop {
        let page = desk.operator.get(&path)?;
        pages.push(ids(page["bans"].as_array().map(Vec::as_slice).unwrap_or_default()));
        let Some(next) = page["next"].as_u64() else { break };
        path = format!("/v1/bans?limit=2&after={next}");
    }
    assert_eq!(pages, [vec![1, 2], vec![3, 4], vec![5]]);

    desk.operator.delete("/v1/bans?id=2")?;
    assert_eq!(ids(&desk.operator.bans("all=false")?), [1, 3, 4, 5]);
    let all = desk.operator.bans("all=true")?;
    assert_eq!(ids(&all), [1, 2, 3, 4, 5]);
    assert!(all[1]["lifted_at"].is_string() && all[1]["lifted_by"] == "root", "{}", all[1]);
    assert!(all[0].get("lifted_at").is_none(), "{}", all[0]);
    Ok(())
}

#[test]
fn bans_are_lifted_by_number_by_user_and_by_address() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let cases = [
        ("id=1", vec![json!({ "user": "anna", "ip": "192.0.2.1" })], "user=anna&ip=192.0.2.1"),
        ("user=bert%20b", vec![json!({ "user": "bert b" }); 2], "user=bert%20b"),
        ("ip=2001:db8::9", vec![json!({ "ip": "2001:db8::1" })], "ip=2001:db8::1"),
        ("ip=2001:db8:1::/64", vec![json!({ "ip": "2001:db8:1::1" })], "ip=2001:db8:1::1"),
    ];
    for (target, bans, query) in cases {
        let made = bans.iter().map(|body| desk.operator.ban(body)).collect::<Result<Vec<_>>>()?;
        assert!(desk.app.is_banned(query)?, "{query}");
        let path = format!("/v1/bans?{target}");
        let lifted = desk.operator.delete(&path)?;
        let lifted = lifted["lifted"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(ids(lifted), ids(&made), "{target}");
        assert!(lifted.iter().all(|ban| ban["enforced"] == false), "{lifted:?}");
        assert!(!desk.app.is_banned(query)?, "{query}");
        let again = desk.operator.refused("DELETE", &path, &Value::Null)?;
        assert_eq!(again, (404, "no-such-thing".to_owned()), "{target}");
    }
    let which = ["", "id=1&user=anna", "user=anna&ip=192.0.2.1"];
    for query in which {
        let refused =
            desk.operator.refused("DELETE", &format!("/v1/bans?{query}"), &Value::Null)?;
        assert_eq!(refused, (422, "invalid-field".to_owned()), "{query}");
    }
    Ok(())
}

#[test]
fn of_two_bans_the_longer_one_is_told_and_lifting_it_leaves_the_other() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let short = desk.operator.ban(&json!({ "user": "anna", "duration": "1h" }))?["id"].take();
    let long = desk.operator.ban(&json!({ "user": "anna", "duration": "2h" }))?["id"].take();
    assert_eq!(desk.app.get("/v1/check?user=anna")?["ban"]["id"], long);
    desk.operator.delete(&format!("/v1/bans?id={long}"))?;
    assert_eq!(desk.app.get("/v1/check?user=anna")?["ban"]["id"], short);
    desk.operator.delete(&format!("/v1/bans?id={short}"))?;
    assert!(!desk.app.is_banned("user=anna")?);
    Ok(())
}

fn protected() -> Value {
    json!({ "network": { "guards": ["203.0.113.0/24"] }, "allowlist": ["198.51.100.0/24"] })
}

#[test]
fn the_allowlist_says_what_is_protected_and_by_whom() -> Result<()> {
    let Some(mut desk) = desk(protected())? else { return Ok(()) };
    let added = desk.operator.post("/v1/allowlist", &json!({ "prefix": "192.0.2.7" }))?;
    assert_eq!(added["prefix"], "192.0.2.7/32");
    let noted = json!({ "prefix": "2001:db8:7::9/48", "note": "office" });
    assert_eq!(desk.operator.post("/v1/allowlist", &noted)?["prefix"], "2001:db8:7::/48");

    let list = desk.operator.get("/v1/allowlist")?;
    let entry = |prefix: &str| {
        let entries = list["allowlist"].as_array().map(Vec::as_slice).unwrap_or_default();
        entries.iter().find(|entry| entry["prefix"] == prefix).cloned().unwrap_or_default()
    };
    let sources = [
        ("203.0.113.0/24", "guard"),
        ("10.0.0.0/8", "guard"),
        ("198.51.100.0/24", "config"),
        ("192.0.2.7/32", "operator"),
    ];
    for (prefix, source) in sources {
        assert_eq!(entry(prefix), json!({ "prefix": prefix, "source": source }));
    }
    assert_eq!(entry("2001:db8:7::/48")["note"], "office");

    desk.operator.delete("/v1/allowlist?prefix=192.0.2.7")?;
    // Only what operators added can be taken away.
    for prefix in ["192.0.2.7", "203.0.113.0/24", "198.51.100.0/24", "10.0.0.0/8"] {
        let path = format!("/v1/allowlist?prefix={prefix}");
        let refused = desk.operator.refused("DELETE", &path, &Value::Null)?;
        assert_eq!(refused, (404, "no-such-thing".to_owned()), "{prefix}");
    }
    Ok(())
}

#[test]
fn whoever_is_protected_cannot_be_banned() -> Result<()> {
    let Some(mut desk) = desk(protected())? else { return Ok(()) };
    desk.operator.post("/v1/allowlist", &json!({ "prefix": "192.0.2.0/28" }))?;
    desk.operator.post("/v1/allowlist", &json!({ "prefix": "2001:db8:7::/48" }))?;
    let addresses = [
        "10.1.2.3",
        "127.0.0.1",
        "169.254.1.1",
        "192.168.1.1",
        "::1",
        "fd00::1",
        "fe80::1",
        "::ffff:10.1.2.3",
        "203.0.113.5",
        "198.51.100.5",
        "192.0.2.15",
        "2001:db8:7:ffff::1",
    ];
    let conflict = (409, "protected-address".to_owned());
    for ip in addresses {
        for body in [json!({ "ip": ip }), json!({ "ip": ip, "user": "anna" })] {
            assert_eq!(desk.operator.refused("POST", "/v1/bans", &body)?, conflict, "{body}");
        }
    }
    assert!(!desk.app.is_banned("user=anna")?, "a refused ban does nothing by halves");
    assert!(desk.operator.ban(&json!({ "ip": "192.0.2.16" })).is_ok());
    Ok(())
}

#[test]
fn who_is_banned_and_then_allowed_is_no_longer_banned() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    desk.operator.ban(&json!({ "ip": "192.0.2.7" }))?;
    let message = json!({ "user": "anna", "ip": "192.0.2.7" });
    assert_eq!(desk.app.event("message", &message)?["reason"], "banned");

    desk.operator.post("/v1/allowlist", &json!({ "prefix": "192.0.2.0/24" }))?;
    assert!(!desk.app.is_banned("ip=192.0.2.7")?);
    assert_eq!(desk.app.event("message", &message)?["decision"], "allow");

    desk.operator.delete("/v1/allowlist?prefix=192.0.2.0/24")?;
    assert!(desk.app.is_banned("ip=192.0.2.7")?);
    assert_eq!(desk.app.event("message", &message)?["reason"], "banned");
    Ok(())
}

#[test]
fn each_socket_has_its_own_routes() -> Result<()> {
    let Some(desk) = desk(Value::Null)? else { return Ok(()) };
    let Desk { mut app, mut operator, daemon } = desk;
    let operators = [
        ("GET", "/v1/bans"),
        ("POST", "/v1/bans"),
        ("DELETE", "/v1/bans?id=1"),
        ("GET", "/v1/allowlist"),
        ("POST", "/v1/allowlist"),
        ("DELETE", "/v1/allowlist?prefix=192.0.2.7"),
        ("GET", "/v1/status"),
        ("GET", "/metrics"),
        ("GET", "/v1/imports"),
        ("POST", "/v1/imports/list/begin"),
        ("POST", "/v1/imports/list/entries"),
        ("POST", "/v1/imports/list/finish"),
        ("DELETE", "/v1/imports/list"),
    ];
    let apps = [
        ("POST", "/v1/events"),
        ("POST", "/v1/violations"),
        ("POST", "/v1/leases"),
        ("PUT", "/v1/leases/1"),
        ("DELETE", "/v1/leases/1"),
    ];
    let absent = (404, "not-found".to_owned());
    let strangers = [(&mut app, operators.as_slice()), (&mut operator, apps.as_slice())];
    for (caller, routes) in strangers {
        for (method, path) in routes {
            assert_eq!(caller.refused(method, path, &json!({}))?, absent, "{method} {path}");
        }
    }
    for socket in [daemon.api_socket(), daemon.admin_socket()] {
        let mut caller = Caller::new(socket);
        assert_eq!(caller.get("/healthz")?, "ok\n");
        assert_eq!(caller.get("/readyz")?, "ready\n");
        assert!(!caller.is_banned("user=anna")?);
    }
    Ok(())
}
