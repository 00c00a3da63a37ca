//! Imported lists by the API: parts in, replaced, lifted, and there after a
//! crash.

use anyhow::Result;
use moderation_tests::wire::{Wire, request};
use serde_json::{Value, json};

use crate::{Desk, desk};

const LIST: &str = "/v1/imports/list";

fn entries(desk: &mut Desk, path: &str, text: &str) -> Result<Value> {
    desk.operator.post_text(&format!("{path}/entries"), text)
}

#[test]
fn whoever_is_on_a_list_is_banned_and_the_list_is_named() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let text = "# a list\n192.0.2.7\n198.51.100.0/24, 7d\n2001:db8::/64,2100-01-01T00:00:00Z\n";
    let answer = entries(&mut desk, LIST, text)?;
    assert_eq!((&answer["accepted"], &answer["examples"]), (&json!(3), &json!([])), "{answer}");
    for ip in ["192.0.2.7", "198.51.100.99", "2001:db8::5"] {
        let check = desk.app.get(&format!("/v1/check?ip={ip}"))?;
        assert_eq!((&check["banned"], &check["ban"]["import"]), (&json!(true), &json!("list")));
        assert_eq!((check["ban"].get("id"), &check["ban"]["network"]), (None, &json!("off")));
        let denied = desk.app.event("message", &json!({ "user": "anna", "ip": ip }))?;
        assert_eq!(
            (&denied["reason"], &denied["ban"]["import"]),
            (&json!("banned"), &json!("list"))
        );
    }
    assert!(!desk.app.is_banned("ip=192.0.2.8")?);
    let lists = desk.operator.get("/v1/imports")?;
    let list = &lists["imports"][0];
    assert_eq!((&list["source"], &list["entries"]), (&json!("list"), &json!(3)), "{lists}");
    let status = desk.operator.get("/v1/status")?;
    assert_eq!(status["imports"], json!({ "lists": 1, "entries": 3 }));
    assert_eq!(status["prefixes"]["networks"]["wanted"], 1, "{status}");
    Ok(())
}

#[test]
fn an_acknowledged_list_survives_a_crash() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let many: String = (0..5_000).map(|i| format!("198.18.{}.{}\n", i / 256, i % 256)).collect();
    assert_eq!(entries(&mut desk, LIST, &many)?["accepted"], 5_000);
    desk.daemon.kill()?;
    desk.daemon.start()?;
    let mut desk = Desk::of(desk.daemon);
    assert_eq!(desk.operator.get("/v1/imports")?["imports"][0]["entries"], 5_000);
    assert!(desk.app.is_banned("ip=198.18.19.135")? && !desk.app.is_banned("ip=198.18.19.136")?);
    Ok(())
}

#[test]
fn a_replaced_list_keeps_only_what_came_again() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    entries(&mut desk, LIST, "192.0.2.1\n192.0.2.2")?;
    entries(&mut desk, "/v1/imports/other", "192.0.2.1")?;
    let first = desk.operator.post(&format!("{LIST}/begin"), &Value::Null)?["run"].take();
    let second = desk.operator.post(&format!("{LIST}/begin"), &Value::Null)?["run"].take();
    let late = format!("{LIST}/entries?run={first}");
    let refused = desk.operator.refused("POST", &late, &Value::Null)?;
    assert_eq!(refused.0, 422, "its body is no list: {refused:?}");
    let late = desk.operator.post_text(&late, "192.0.2.9");
    assert!(format!("{:?}", late.expect_err("another has begun")).contains("superseded"));
    let path = format!("{LIST}/entries?run={second}");
    desk.operator.post_text(&path, "192.0.2.2\n192.0.2.3")?;
    let finish = format!("{LIST}/finish?run={second}&replace=true");
    let finished = desk.operator.post(&finish, &Value::Null)?;
    assert_eq!(finished, json!({ "source": "list", "entries": 2, "removed": 1 }));
    let check = desk.app.get("/v1/check?ip=192.0.2.1")?;
    assert_eq!(check["ban"]["import"], "other", "it is on another list still: {check}");
    assert!(desk.app.is_banned("ip=192.0.2.3")? && !desk.app.is_banned("ip=192.0.2.9")?);
    Ok(())
}

#[test]
fn entries_and_lists_are_lifted() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    entries(&mut desk, LIST, "192.0.2.1\n192.0.2.2\n198.51.100.0/24\n2001:db8::5")?;
    desk.operator.ban(&json!({ "ip": "192.0.2.1" }))?;
    let lifted = desk.operator.delete("/v1/bans?ip=192.0.2.1")?;
    let lifted = lifted["lifted"].as_array().cloned().unwrap_or_default();
    assert_eq!((&lifted[0]["id"], &lifted[1]["import"]), (&json!(1), &json!("list")), "{lifted:?}");
    assert!(!desk.app.is_banned("ip=192.0.2.1")?);
    desk.operator.delete("/v1/bans?ip=2001:db8::5")?;
    assert!(!desk.app.is_banned("ip=2001:db8::5")?);
    let within = desk.operator.refused("DELETE", "/v1/bans?ip=198.51.100.7", &Value::Null)?;
    assert_eq!(within, (404, "no-such-thing".to_owned()));
    desk.operator.delete("/v1/bans?ip=198.51.100.0/24")?;
    assert!(!desk.app.is_banned("ip=198.51.100.7")?);
    assert_eq!(desk.operator.delete(LIST)?, json!({ "source": "list", "removed": 1 }));
    assert!(!desk.app.is_banned("ip=192.0.2.2")?);
    assert_eq!(desk.operator.get("/v1/imports")?, json!({ "imports": [] }));
    Ok(())
}

#[test]
fn what_finds_no_room_is_refused_and_said() -> Result<()> {
    let overrides = json!({ "network": { "max_bans": 10, "max_networks": 1 } });
    let Some(mut desk) = desk(overrides)? else { return Ok(()) };
    desk.operator.ban(&json!({ "ip": "192.0.2.1" }))?;
    let addresses: String = (1..=12).map(|i| format!("192.0.2.{i}\n")).collect();
    let answer = entries(&mut desk, LIST, &addresses)?;
    assert_eq!((&answer["accepted"], &answer["refused"]["full"]), (&json!(10), &json!(2)));
    assert_eq!(answer["examples"][0]["reason"], "full", "{answer}");
    let answer = entries(&mut desk, LIST, "198.51.100.0/24\n203.0.113.0/24\n192.0.2.5,7d")?;
    assert_eq!((&answer["accepted"], &answer["refused"]["full"]), (&json!(2), &json!(1)));
    let refused = desk.operator.refused("POST", "/v1/bans", &json!({ "ip": "192.0.2.200" }))?;
    assert_eq!(refused, (503, "full".to_owned()));
    assert_eq!(desk.daemon.log().matches("there is little room").count(), 1);
    let metrics = desk.operator.get("/metrics")?;
    let metrics = metrics.as_str().unwrap_or_default();
    assert!(metrics.contains(r#"moderation_import_entries_refused_total{reason="full"} 3"#));
    Ok(())
}

#[test]
fn a_part_that_is_too_long_or_makes_no_sense_changes_nothing() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let long = "# x\n".repeat(1_024 * 1_024 / 4 + 1);
    let bad = "192.0.2.1\nnonsense\n192.0.2.2,someday\n";
    for (text, status, words) in [(long.as_str(), 413, "1048576"), (bad, 422, "line 2")] {
        let path = format!("{LIST}/entries");
        let answer = Wire::ask(&desk.daemon.admin_socket(), request("POST", &path, text))?;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(words), "{}", answer.body);
    }
    assert_eq!(desk.operator.get("/v1/imports")?, json!({ "imports": [] }));
    assert!(!desk.app.is_banned("ip=192.0.2.1")?);
    Ok(())
}

#[test]
fn decisions_go_on_while_a_list_is_imported() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let mut importer = desk.daemon.admin();
    let text: String =
        (0..40_000_u32).map(|i| format!("198.18.{}.{}\n", i / 256, i % 256)).collect();
    let import = std::thread::spawn(move || importer.post_text(&format!("{LIST}/entries"), text));
    let mut slowest = std::time::Duration::ZERO;
    while !import.is_finished() {
        let begin = std::time::Instant::now();
        let answer = desk.app.violation("logins", &json!({ "user": "anna", "score": 0 }))?;
        assert_eq!(answer["score"], 0);
        slowest = slowest.max(begin.elapsed());
    }
    let answer = import.join().expect("no panic")?;
    assert_eq!((answer.status, &answer.body["accepted"]), (200, &json!(40_000)));
    assert!(slowest < std::time::Duration::from_secs(1), "{slowest:?}");
    Ok(())
}
