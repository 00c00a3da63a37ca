//! Bans of every shape by the API: blocks, widths, proxies, bans that the
//! kernel is not to enforce, and rules that have run away.

use anyhow::Result;
use serde_json::{Value, json};

use crate::desk;

#[test]
fn a_block_is_banned_listed_and_lifted_as_it_was_written() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let cases = [
        ("198.51.100.7/24", "198.51.100.0/24", "198.51.100.255"),
        ("2001:db8:7::/48", "2001:db8:7::/48", "2001:db8:7:ffff::1"),
        ("2001:db8:8::1", "2001:db8:8::/64", "2001:db8:8::ffff"),
        ("2001:db8:9::1/128", "2001:db8:9::1/128", "2001:db8:9::1"),
    ];
    for (written, listed, within) in cases {
        let ban = desk.operator.ban(&json!({ "ip": written }))?;
        assert_eq!(ban["address"], listed, "{ban}");
        let check = desk.operator.get(&format!("/v1/check?ip={within}"))?;
        assert_eq!(check["ban"]["id"], ban["id"], "{check}");
        let lifted = desk.operator.delete(&format!("/v1/bans?ip={listed}"))?;
        assert_eq!(lifted["lifted"][0]["id"], ban["id"], "{lifted}");
        assert!(!desk.app.is_banned(&format!("ip={within}"))?, "{written}");
    }
    Ok(())
}

#[test]
fn lifting_an_address_within_a_banned_block_names_the_block() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    desk.operator.ban(&json!({ "ip": "198.51.100.0/24", "reason": "a whole office" }))?;
    let response = desk.daemon.admin().delete("/v1/bans?ip=198.51.100.7")?;
    assert_eq!(response.status, 404);
    let detail = response.body["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("within 198.51.100.0/24"), "{detail}");
    assert!(desk.app.is_banned("ip=198.51.100.7")?);
    Ok(())
}

#[test]
fn a_ban_on_a_proxy_holds_and_says_who_enforces_it() -> Result<()> {
    let overrides = json!({ "network": { "proxies": ["198.51.100.0/24"] } });
    let Some(mut desk) = desk(overrides)? else { return Ok(()) };
    let ban = desk.operator.ban(&json!({ "ip": "198.51.100.7" }))?;
    assert_eq!((&ban["network"], &ban["enforced"]), (&json!("never"), &json!(true)), "{ban}");
    let note = ban["note"].as_str().unwrap_or_default();
    assert!(note.contains("198.51.100.0/24, a proxy or CDN") && note.contains("nginx"), "{ban}");
    let answer = desk.app.event("message", &json!({ "ip": "198.51.100.7" }))?;
    assert_eq!((&answer["reason"], &answer["ban"]["network"]), (&json!("banned"), &json!("never")));
    let list = desk.operator.get("/v1/allowlist")?;
    let proxies = list["allowlist"].as_array().into_iter().flatten();
    assert_eq!(proxies.filter(|entry| entry["source"] == "proxy").count(), 1, "{list}");
    Ok(())
}

#[test]
fn the_kernel_is_left_out_if_the_operator_or_the_rules_say_so() -> Result<()> {
    let overrides = json!({ "bans": { "network_block_by_type": { "non_browser": "repeat" } } });
    let Some(mut desk) = desk(overrides)? else { return Ok(()) };
    let soft = desk.operator.ban(&json!({ "ip": "192.0.2.7", "network_block": "never" }))?;
    assert_eq!((&soft["network"], &soft["enforced"]), (&json!("never"), &json!(true)), "{soft}");
    assert!(desk.app.is_banned("ip=192.0.2.7")?);
    let visitor = json!({ "ip": "192.0.2.8" });
    for want in ["never", "off"] {
        let answer = desk.app.violation("non_browser", &visitor)?;
        assert_eq!(answer["ban"]["network"], want, "{answer}");
    }
    let answer = desk.app.violation("logins", &json!({ "ip": "192.0.2.9", "score": 20 }))?;
    assert_eq!(answer["ban"]["network"], "off", "{answer}");
    Ok(())
}

#[test]
fn rules_that_have_run_away_are_stopped_and_operators_are_not() -> Result<()> {
    let Some(mut desk) = desk(json!({ "bans": { "max_per_minute": 3 } }))? else { return Ok(()) };
    let mut bans = 0;
    for number in 1..=6 {
        let visitor = json!({ "ip": format!("192.0.2.{number}") });
        let answer = desk.app.violation("non_browser", &visitor)?;
        assert_eq!((&answer["decision"], &answer["score"]), (&json!("deny"), &json!(20)));
        bans += usize::from(answer["ban"].is_object());
    }
    assert_eq!(bans, 3);
    assert_eq!(desk.operator.get("/v1/status")?["automatic_bans"], "stopped");
    assert!(desk.operator.ban(&json!({ "ip": "192.0.2.9" })).is_ok());
    assert_eq!(desk.daemon.log().matches("automatic bans have stopped").count(), 1);
    let text = desk.daemon.ctl(&["status"])?.success()?;
    assert!(text.contains("automatic bans have stopped"), "{text}");
    Ok(())
}

#[test]
fn many_banned_64s_bring_a_ban_on_the_block_around_them() -> Result<()> {
    let overrides = json!({ "bans": { "escalation": { "v6_56": 3, "v6_48": null } } });
    let Some(mut desk) = desk(overrides)? else { return Ok(()) };
    for number in 0..3 {
        let visitor = json!({ "ip": format!("2001:db8:1:{number:x}::7") });
        desk.app.violation("non_browser", &visitor)?;
    }
    let check = desk.app.get("/v1/check?ip=2001:db8:1:ff::7")?;
    assert_eq!(check["ban"]["address"], "2001:db8:1::/56", "{check}");
    assert!(!desk.app.is_banned("ip=2001:db8:1:100::7")?);
    Ok(())
}
