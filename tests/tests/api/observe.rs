//! Status and metrics: the promised names, and numbers that are true.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moderation_tests::chat::{self, Chat};
use moderation_tests::daemon::Setup;
use moderation_tests::lab::{CLIENT_V4, HOST_V4, INTERFACE, Pair};
use moderation_tests::need;
use moderation_tests::visitor::{Outcome, Visitor};
use moderation_tests::wait;
use moderation_tests::wire::{Wire, request};
use serde_json::{Value, json};

use crate::{Desk, desk};

/// The samples of an OpenMetrics text, and nothing but samples and metadata in
/// the order that the format wants.
fn samples(text: &str) -> Result<HashMap<String, f64>> {
    let body = text.strip_suffix("# EOF\n").context("does not end with # EOF")?;
    let (mut samples, mut family) = (HashMap::new(), String::new());
    for line in body.lines() {
        if let Some(metadata) = line.strip_prefix("# ") {
            let mut words = metadata.split(' ');
            let (keyword, name) = (words.next().unwrap_or_default(), words.next());
            ensure!(["HELP", "TYPE", "UNIT"].contains(&keyword), "no metadata: {line}");
            name.context("metadata without a name")?.clone_into(&mut family);
            continue;
        }
        let (name, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line}"))?;
        ensure!(name.starts_with(&family), "{line} is not of the family {family}");
        let value = value.parse().with_context(|| format!("no number: {line}"))?;
        ensure!(samples.insert(name.to_owned(), value).is_none(), "twice: {line}");
    }
    Ok(samples)
}

fn metrics(desk: &Desk) -> Result<HashMap<String, f64>> {
    let answer = Wire::ask(&desk.daemon.admin_socket(), request("GET", "/metrics", ""))?;
    ensure!(answer.status == 200, "{answer:?}");
    assert_eq!(answer.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    samples(&answer.body)
}

#[test]
fn metrics_are_openmetrics_and_count_what_happened() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    for _ in 0..9 {
        desk.app.event("login", &json!({ "ip": "192.0.2.7" }))?;
    }
    desk.app.violation("illegal_model_request", &json!({ "user": "anna", "score": 20 }))?;
    desk.app.event("message", &json!({ "user": "anna" }))?;
    desk.app.post("/v1/leases", &json!({ "user": "bert" }))?;
    desk.app.violation("logins", &json!({ "ip": "10.0.0.1", "score": 20 }))?;
    desk.operator.ban(&json!({ "user": "carl" }))?;
    desk.app.refused("POST", "/v1/events", &json!({ "type": "login", "nonsense": 1 }))?;

    let samples = metrics(&desk)?;
    let want = [
        (r#"moderation_events_total{type="login",decision="allow"}"#, 7.0),
        (r#"moderation_events_total{type="login",decision="deny"}"#, 2.0),
        (r#"moderation_events_total{type="message",decision="deny"}"#, 1.0),
        (r#"moderation_events_total{type="violation",decision="deny"}"#, 2.0),
        (r#"moderation_events_total{type="lease",decision="allow"}"#, 1.0),
        // The ninth log-in came at once after the eighth: a repeat.
        (r#"moderation_violations_total{type="logins"}"#, 2.0),
        (r#"moderation_violations_repeated_total{type="logins"}"#, 1.0),
        (r#"moderation_violations_total{type="illegal_model_request"}"#, 1.0),
        (r#"moderation_bans_refused_total{reason="protected"}"#, 1.0),
        (r#"moderation_api_problems_total{reason="unknown-field"}"#, 1.0),
        ("moderation_bans_total", 2.0),
        ("moderation_bans_active", 2.0),
        ("moderation_bans_enforced", 2.0),
        ("moderation_leases", 1.0),
        ("moderation_windows", 1.0),
        ("moderation_scores", 3.0),
        ("moderation_queue_length", 0.0),
        ("moderation_store_failures_total", 0.0),
        ("moderation_kernel_open", 0.0),
        ("moderation_bans_stopped", 0.0),
        (r#"moderation_prefixes{kind="exact"}"#, 0.0),
        (r#"moderation_prefixes_max{kind="network"}"#, 16_384.0),
    ];
    for (name, value) in want {
        assert_eq!(samples.get(name), Some(&value), "{name} in {samples:#?}");
    }
    desk.operator.delete("/v1/bans?user=carl")?;
    assert_eq!(metrics(&desk)?["moderation_bans_active"], 1.0);
    Ok(())
}

#[test]
fn the_status_says_how_things_are() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    desk.operator.ban(&json!({ "user": "anna" }))?;
    desk.operator.ban(&json!({ "ip": "192.0.2.7" }))?;
    let status = desk.operator.get("/v1/status")?;
    assert!(status["version"].is_string() && status["uptime_ms"].is_u64(), "{status}");
    assert_eq!(status["bans"], json!({ "active": 2, "enforced": 2 }));
    assert_eq!(status["automatic_bans"], "on");
    assert_eq!(status["imports"], json!({ "lists": 0, "entries": 0 }));
    let exact = json!({ "wanted": 1, "capacity": 1_000_000 });
    assert_eq!(status["prefixes"]["exact"], exact, "{status}");
    assert_eq!(status["queue"], json!({ "length": 0, "capacity": 1024 }));
    assert_eq!(status["store"]["path"], json!(desk.daemon.store_path()));
    let network = &status["network"];
    assert_eq!(network["state"], "off");
    assert_eq!((&network["desired"], &network["enforced"]), (&json!(0), &json!(0)), "no drift");
    assert_eq!(status["network"]["pin_root"], json!(desk.daemon.pin_root()));
    Ok(())
}

/// Until it is seen that packets of the client are dropped.
fn knock(visitor: &Visitor) -> Result<()> {
    wait::until("the client to be dropped", Duration::from_secs(10), || {
        Ok((visitor.look() == Outcome::Timeout).then_some(()))
    })
}

#[test]
fn packets_are_counted_by_action_and_reason_in_status_and_metrics_alike() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let daemon = Setup::new().inside(&pair.host).interface(INTERFACE).start()?;
    let mut desk = Desk::of(daemon);
    let _chat = Chat::open(&pair.host, &desk.daemon.api_socket())?;
    let server = SocketAddr::new(HOST_V4.into(), chat::PORT);
    let visitor = Visitor::new(&pair.client, CLIENT_V4.into(), server, "anna")
        .patience(Duration::from_millis(300));
    assert!(visitor.look().is_status(200));
    let ban = desk.operator.ban(&json!({ "ip": CLIENT_V4 }))?;
    assert_eq!(ban["enforced"], true, "{ban}");
    knock(&visitor)?;

    let status = desk.operator.get("/v1/status")?;
    let network = &status["network"];
    assert_eq!((&network["state"], &network["interface"]), (&json!("attached"), &json!(INTERFACE)));
    assert!(network["mode"] == "native" || network["mode"] == "generic", "{network}");
    assert_eq!(status["bans"], json!({ "active": 1, "enforced": 1 }));
    let counters = network["counters"].as_object().context("counters")?;
    let reasons: Vec<_> = counters.keys().map(String::as_str).collect();
    for reason in ["pass", "not_ip", "malformed", "ban_v4", "ban_v6", "allow_override"] {
        assert!(reasons.contains(&reason), "{reason} in {reasons:?}");
    }
    let dropped = counters["ban_v4"]["packets"].as_f64().unwrap_or_default();
    assert!(dropped >= 1.0 && counters["ban_v4"]["bytes"].as_f64() >= Some(dropped * 14.0));

    let samples = metrics(&desk)?;
    let packets = |action: &str, reason: &str| {
        let name = format!(r#"moderation_packets_total{{action="{action}",reason="{reason}"}}"#);
        samples.get(&name).copied().with_context(|| format!("{name} in {samples:#?}"))
    };
    // Retransmissions go on, so later counts are no smaller.
    assert!(packets("drop", "ban_v4")? >= dropped);
    assert!(packets("pass", "pass")? >= 1.0);
    assert_eq!(packets("drop", "ban_v6")?, 0.0);
    assert_eq!(samples["moderation_kernel_open"], 1.0);
    assert_eq!(samples["moderation_bans_enforced"], 1.0);
    Ok(())
}
