//! Penalties from end to end: what the app is told to do, what operators see, what
//! each one does until it is taken back, and that a lift leaves nothing of it.

use anyhow::{Context, Result};
use moderation_daemon::network::{BanMaps, Pins};
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::need;
use serde_json::{Value, json};

const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36";

fn laddered() -> Value {
    json!({
        "limits": { "message_user": { "enabled": true, "max": 40 } },
        "penalties": { "by_type": { "illegal_model_request": {
            "forget_after": "30d",
            "severity": "medium",
            "ladder": [
                { "warning": { "message": "Please choose a model from the list." } },
                "remove_content",
                { "reduce": { "factor": 0.5, "duration": "7d" } },
                { "ban": { "duration": "2h" } },
            ],
        } } },
    })
}

fn illegal(app: &mut Caller, user: &str) -> Result<Value> {
    let body = json!({ "user": user, "ip": "192.0.2.7", "score": 20 });
    app.violation("illegal_model_request", &body)
}

/// What a user may send still.
fn allowance(app: &mut Caller, user: &str) -> Result<u64> {
    let limits = app.get(&format!("/v1/limits?type=message&user={user}&ip=192.0.2.7"))?;
    let limits = limits["limits"].as_array().context("limits are a list")?;
    let of_user = limits.iter().find(|limit| limit["name"] == "message_user");
    of_user.and_then(|limit| limit["limit"].as_u64()).context("there is no limit by user")
}

fn ctl(daemon: &Daemon, arguments: &[&str]) -> Result<String> {
    daemon.ctl(arguments)?.success()
}

#[test]
fn each_step_of_a_ladder_is_told_to_the_app_listed_and_can_be_taken_back() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = daemon_without_kernel(laddered())?;
    let mut app = Caller::app(&daemon);
    let warned = illegal(&mut app, "anna")?;
    assert_eq!(warned["penalty"]["kind"], "warning");
    assert_eq!(warned["penalty"]["message"], "Please choose a model from the list.");
    assert_eq!(warned["message"], "Please choose a model from the list.");
    assert_eq!(warned.get("ban"), None);
    let removed = illegal(&mut app, "anna")?;
    assert_eq!(removed["penalty"]["kind"], "remove_content");
    let reduced = illegal(&mut app, "anna")?;
    assert_eq!(
        (&reduced["penalty"]["kind"], &reduced["penalty"]["factor"]),
        (&json!("reduce"), &json!(0.5))
    );
    assert!(reduced["penalty"]["ends_at"].is_string(), "{reduced}");
    assert_eq!((allowance(&mut app, "anna")?, allowance(&mut app, "bert")?), (20, 40));
    let banned = illegal(&mut app, "anna")?;
    assert_eq!(banned["penalty"]["ban"], banned["ban"]["id"]);
    assert_eq!(banned["logout"], true);

    // Each is a record: what, whom, why, since when, until when, by whom.
    let listed: Value =
        serde_json::from_str(&ctl(&daemon, &["--json", "penalties", "--user", "anna", "--all"])?)?;
    let records = listed["penalties"].as_array().context("a list")?;
    assert_eq!(records.len(), 4);
    for record in records {
        assert_eq!((&record["user"], &record["by"]), (&json!("anna"), &json!("rule")));
        for field in ["kind", "reason", "starts_at", "ends_at", "violation"] {
            assert!(record[field].is_string(), "{field} of {record}");
        }
    }
    let text = ctl(&daemon, &["penalties", "--user", "anna"])?;
    assert!(
        text.contains("p3") && text.contains("limits × 0.5") && text.contains("until "),
        "{text}"
    );
    assert!(!text.contains("p1 "), "a word is over when it is said: {text}");
    assert_eq!(ctl(&daemon, &["penalties", "--user", "bert"])?, "no penalties\n");
    assert_eq!(ctl(&daemon, &["penalties", "--ip", "192.0.2.7"])?, "no penalties\n");

    // Each has an inverse, which outlives a crash.
    daemon.kill()?;
    daemon.start()?;
    let mut app = Caller::app(&daemon);
    assert_eq!(allowance(&mut app, "anna")?, 20, "it outlives a crash");
    let said = ctl(&daemon, &["lift", "p3"])?;
    assert_eq!(said, "took back penalty p3 of anna: limits × 0.5\n");
    assert_eq!(allowance(&mut app, "anna")?, 40);
    let error = daemon.ctl(&["lift", "p3"])?.success().expect_err("it has been taken back");
    assert!(format!("{error:#}").contains("there is no such penalty"), "{error:#}");
    assert!(app.is_banned("user=anna")?);
    let said = ctl(&daemon, &["lift", "p4"])?;
    assert!(said.contains("lifted ban 1 of anna and 192.0.2.7"), "{said}");
    assert!(said.contains("took back penalty p4 of anna: ban 1"), "{said}");
    assert!(said.contains("forgot the scores, limits and penalties of anna, 192.0.2.7"), "{said}");
    assert!(!app.is_banned("user=anna")?);
    daemon.kill()?;
    daemon.start()?;
    let mut app = Caller::app(&daemon);
    assert_eq!(ctl(&daemon, &["penalties", "--user", "anna"])?, "no penalties\n");
    let text = ctl(&daemon, &["penalties", "--user", "anna", "--all"])?;
    assert_eq!(text.matches("taken back").count(), 4, "{text}");
    // The first is spared, and then the ladder begins anew.
    assert_eq!(illegal(&mut app, "anna")?.get("penalty"), None);
    assert_eq!(illegal(&mut app, "anna")?["penalty"]["kind"], "warning");
    Ok(())
}

#[test]
fn a_peek_at_what_would_be_a_step_takes_none() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut overrides = laddered();
    overrides["penalties"]["by_type"]["non_browser"] =
        json!({ "ladder": [{ "warning": { "message": "Use a browser." } }] });
    let daemon = daemon_without_kernel(overrides)?;
    let mut app = Caller::app(&daemon);
    let mut message = json!({ "user": "anna", "user_agent": "curl/8.5.0", "peek": true });
    assert_eq!(app.event("message", &message)?.get("penalty"), None);
    message["peek"] = json!(false);
    assert_eq!(app.event("message", &message)?["penalty"]["message"], "Use a browser.");
    Ok(())
}

#[test]
fn what_is_critical_suspends_for_72_hours_until_a_person_has_looked_at_it() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = daemon_without_kernel(Value::Null)?;
    let mut app = Caller::app(&daemon);
    let body = json!({
        "user": "anna", "score": 0, "severity": "critical", "details": "found by the classifier",
    });
    let answer = app.violation("flagged_content", &body)?;
    assert_eq!(answer["penalty"]["kind"], "suspension");
    let left_ms = answer["ban"]["remaining_ms"].as_u64().context("it ends")?;
    assert!((259_190_000..=259_200_000).contains(&left_ms), "{left_ms} ms are not 72 h");
    let list = ctl(&daemon, &["list"])?;
    assert!(list.contains("(to be looked at)"), "{list}");
    let told = ctl(&daemon, &["explain", "anna"])?;
    assert!(told.contains("Ban 1 is a suspension until a person has looked at it"), "{told}");
    assert!(told.contains("severity critical (found by the classifier)"), "{told}");
    ctl(&daemon, &["lift", "p1"])?;
    assert!(!app.is_banned("user=anna")?);

    for (field, value) in [
        ("severity", json!("awful")),
        ("details", json!("two\nlines")),
        ("details", json!("x".repeat(513))),
    ] {
        let mut body = body.clone();
        body["type"] = json!("flagged_content");
        body[field] = value;
        assert_eq!(
            app.refused("POST", "/v1/violations", &body)?,
            (422, "invalid-field".to_owned())
        );
    }
    Ok(())
}

/// A daemon with the kernel's maps, and no interface.
fn daemon_with_maps(overrides: Value) -> Result<(Daemon, Pins)> {
    let mut daemon = Setup::new().overrides(overrides).prepare()?;
    ctl(&daemon, &["xdp", "attach", "--mode", "off", "--interface", "lo"])?;
    daemon.start()?;
    let pins = Pins::new(daemon.pin_root());
    Ok((daemon, pins))
}

fn is_in_kernel(pins: &Pins, address: &str) -> Result<bool> {
    Ok(BanMaps::open(pins)?.all()?.get(address.parse()?).is_some())
}

fn message(app: &mut Caller, user: &str, user_agent: &str) -> Result<Value> {
    let body = json!({ "user": user, "ip": "192.0.2.7", "user_agent": user_agent });
    app.event("message", &body)
}

#[test]
fn a_lift_is_one_act_after_which_nothing_is_held_against_anybody() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut overrides = laddered();
    overrides["limits"]["message_ip"] = json!({ "max": 5 });
    let (mut daemon, pins) = daemon_with_maps(overrides)?;
    let mut app = Caller::app(&daemon);
    // A score, a warning, half a window, and the worst there is: all 20 of 20 at once.
    illegal(&mut app, "anna")?;
    app.violation("logins", &json!({ "user": "anna", "ip": "192.0.2.7" }))?;
    for _ in 0..4 {
        assert_eq!(message(&mut app, "anna", BROWSER)?["decision"], "allow");
    }
    let answer = message(&mut app, "anna", "curl/8.5.0")?;
    assert_eq!(
        (&answer["ban"]["user"], &answer["ban"]["address"]),
        (&json!("anna"), &json!("192.0.2.7"))
    );
    assert!(is_in_kernel(&pins, "192.0.2.7")?);

    let answer = Caller::operator(&daemon).delete("/v1/bans?user=anna")?;
    assert_eq!(answer["lifted"][0]["id"], 1);
    assert_eq!(answer["penalties"][0]["kind"], "warning");
    let scores = json!({ "logins": 1.0, "illegal_model_request": 20.0, "non_browser": 20.0 });
    let forgotten = json!([
        { "user": "anna", "scores": scores, "limits": ["message_user"] },
        { "address": "192.0.2.7", "scores": {}, "limits": ["message_ip"] },
    ]);
    assert_eq!(answer["forgotten"], forgotten);
    for life in ["the same", "the next"] {
        let mut app = Caller::app(&daemon);
        assert!(!is_in_kernel(&pins, "192.0.2.7")?, "in {life} life");
        assert!(!app.is_banned("user=anna&ip=192.0.2.7")?, "in {life} life");
        for (subject, name) in [("anna", "user anna"), ("192.0.2.7", "192.0.2.7")] {
            let told = ctl(&daemon, &["explain", subject])?;
            let free = format!(
                "Nothing is held against {name} any more: no score, no penalty, no limit used up."
            );
            assert!(told.contains(&free), "in {life} life: {told}");
            let json: Value =
                serde_json::from_str(&ctl(&daemon, &["--json", "explain", subject])?)?;
            for field in ["scores", "limits", "leases"] {
                assert_eq!(json[field], json!([]), "{field} in {life} life");
            }
        }
        let left = app.get("/v1/limits?type=message&user=anna&ip=192.0.2.7")?;
        assert_eq!(left["limits"][0]["remaining"], 5, "in {life} life: {left}");
        daemon.kill()?;
        daemon.start()?;
    }
    let mut app = Caller::app(&daemon);
    for (who, user) in [("the user", "anna"), ("the address", "")] {
        let mut body = json!({ "ip": "192.0.2.7", "user_agent": "curl/8.5.0" });
        if !user.is_empty() {
            body["user"] = json!(user);
        }
        let spared = app.event("message", &body)?;
        assert_eq!(
            (&spared["decision"], spared.get("ban")),
            (&json!("deny"), None),
            "{who} is spared once"
        );
    }
    assert!(!is_in_kernel(&pins, "192.0.2.7")?);
    let mut banned = false;
    for _ in 0..20 {
        banned = banned || message(&mut app, "anna", "curl/8.5.0")?["ban"].is_object();
    }
    assert!(banned && is_in_kernel(&pins, "192.0.2.7")?, "but not for ever");
    Ok(())
}

#[test]
fn every_address_that_came_with_a_ban_goes_with_it_and_a_stranger_s_stays() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (daemon, pins) = daemon_with_maps(Value::Null)?;
    let mut app = Caller::app(&daemon);
    // Two users at one address: it has a shorter ban of its own, beside each user's.
    for user in ["anna", "bert"] {
        message(&mut app, user, BROWSER)?;
    }
    app.violation("logins", &json!({ "user": "bert", "ip": "192.0.2.7" }))?;
    app.violation("non_browser", &json!({ "user": "anna", "ip": "192.0.2.7" }))?;
    app.violation("non_browser", &json!({ "user": "anna", "ip": "192.0.2.8" }))?;
    app.violation("non_browser", &json!({ "user": "carl", "ip": "192.0.2.9" }))?;
    let listed = Caller::operator(&daemon).bans("all=false")?;
    assert_eq!(listed.len(), 4, "{listed:?}");
    assert_eq!(listed[1]["with"], listed[0]["id"]);
    for address in ["192.0.2.7", "192.0.2.8", "192.0.2.9"] {
        assert!(is_in_kernel(&pins, address)?, "{address}");
    }
    let said = ctl(&daemon, &["lift", "user:anna"])?;
    assert_eq!(said.matches("lifted ban").count(), 3, "{said}");
    for (address, is_banned) in [("192.0.2.7", false), ("192.0.2.8", false), ("192.0.2.9", true)] {
        assert_eq!(is_in_kernel(&pins, address)?, is_banned, "{address}");
        assert_eq!(app.is_banned(&format!("ip={address}"))?, is_banned, "{address}");
    }
    Ok(())
}

#[test]
fn who_was_banned_without_a_shared_address_is_let_in_there_by_a_lift_of_the_next_daemon()
-> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = daemon_without_kernel(Value::Null)?;
    let mut app = Caller::app(&daemon);
    for user in ["anna", "bert"] {
        message(&mut app, user, BROWSER)?;
    }
    app.violation("non_browser", &json!({ "user": "bert", "ip": "192.0.2.7" }))?;
    assert!(!app.is_banned("ip=192.0.2.7")?, "anna did nothing");
    daemon.kill()?;
    daemon.start()?;
    // Now the address goes, for a short while, with anna's ban.
    let mut app = Caller::app(&daemon);
    app.violation("non_browser", &json!({ "user": "anna", "ip": "192.0.2.7" }))?;
    assert_eq!(Caller::operator(&daemon).bans("all=false")?.len(), 3);
    ctl(&daemon, &["lift", "user:bert"])?;
    assert!(!app.is_banned("user=bert&ip=192.0.2.7")?);
    assert!(app.is_banned("user=anna&ip=192.0.2.7")?);
    Ok(())
}

#[test]
fn no_rule_bans_a_protected_user_or_role_nor_keeps_them_out_of_an_address() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let protected = json!({ "bans": { "protected": { "users": ["root"], "roles": ["ADMIN"] } } });
    let daemon = daemon_without_kernel(protected)?;
    let mut app = Caller::app(&daemon);
    let as_admin = json!({ "user": "dora", "ip": "192.0.2.8", "traits": { "role": "ADMIN" } });
    assert_eq!(app.event("message", &as_admin)?["decision"], "allow");
    for (user, ip) in [("root", "192.0.2.7"), ("dora", "192.0.2.8")] {
        for _ in 0..3 {
            let body = json!({ "user": user, "ip": ip, "severity": "critical" });
            let answer = app.violation("non_browser", &body)?;
            assert_eq!((answer.get("ban"), answer.get("penalty")), (None, None), "{answer}");
        }
        assert!(!app.is_banned(&format!("user={user}&ip={ip}"))?);
        let told = ctl(&daemon, &["explain", user])?;
        assert!(told.contains("No rule bans this user"), "{told}");
        // Somebody else has their address banned.
        app.violation("non_browser", &json!({ "ip": ip }))?;
        let wanted = format!("user={user}&ip={ip}");
        assert!(app.is_banned(&format!("ip={ip}"))?, "{ip}");
        assert!(!app.is_banned(&wanted)?, "{wanted}");
        assert_eq!(app.event("message", &json!({ "user": user, "ip": ip }))?["decision"], "allow");
        assert_eq!(app.event("message", &json!({ "user": "eve", "ip": ip }))?["reason"], "banned");
    }
    // What a person says holds for everybody.
    Caller::operator(&daemon).ban(&json!({ "ip": "192.0.2.8" }))?;
    assert!(app.is_banned("user=dora&ip=192.0.2.8")?);
    Ok(())
}
