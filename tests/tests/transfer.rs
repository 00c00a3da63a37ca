//! Moving from LibreChat and back: what `export --librechat` writes, `import --librechat`
//! reads, and nothing is different afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::daemon::Daemon;
use moderation_tests::need;
use serde_json::{Value, json};

fn daemon() -> Result<Daemon> {
    daemon_without_kernel(Value::Null)
}

fn text(folder: &Path) -> Result<&str> {
    folder.to_str().context("a folder's name is text")
}

fn export(daemon: &Daemon, folder: &Path) -> Result<[Value; 2]> {
    daemon.ctl(&["export", "--librechat", text(folder)?])?.success()?;
    let read = |name: &str| -> Result<Value> {
        let path = folder.join(name);
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        let mut file: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
        Ok(file["cache"].take())
    };
    Ok([read("violations.json")?, read("logs.json")?])
}

#[test]
fn what_is_exported_and_imported_elsewhere_is_exported_there_the_same() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let here = daemon()?;
    let mut app = Caller::app(&here);
    for (user, kind, score) in [
        ("anna", "logins", json!(19.5)),
        ("anna", "logins", json!(1)),
        ("anna", "illegal_model_request", json!(5)),
        ("bert", "non_browser", json!(20)),
        ("carl", "flagged_content", json!(1)),
    ] {
        let body = json!({ "type": kind, "user": user, "ip": "192.0.2.7", "score": score });
        app.post("/v1/violations", &body)?;
    }
    for _ in 0..3 {
        app.post("/v1/leases", &json!({ "user": "dora" }))?;
    }
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let [scores, logs] = export(&here, first.path())?;
    assert_eq!(
        scores[0],
        json!(["violations:illegal_model_request:anna", { "value": "{\"value\":5}" }])
    );
    assert_eq!(scores.as_array().map(Vec::len), Some(4), "{scores}");
    let records = logs[0][1]["value"].as_str().unwrap_or_default();
    assert!(records.contains("\"ban\":true,\"ban_duration\":7200000"), "{records}");
    assert!(logs.to_string().contains("\\\"limit\\\":2,\\\"pendingRequests\\\":2"), "{logs}");

    let there = daemon()?;
    let import = ["import", "--librechat", text(first.path())?];
    let said = there.ctl(&import)?.success()?;
    assert!(said.contains("took over 4 scores and 5 records"), "{said}");
    assert_eq!(export(&there, second.path())?, [scores, logs]);
    let again = there.ctl(&import)?.success()?;
    assert!(again.contains("took over 0 scores and 0 records"), "{again}");

    let told = there.ctl(&["explain", "anna"])?.success()?;
    assert!(told.contains("The score of user anna for logins is 20.5"), "{told}");
    assert!(told.contains(", imported"), "{told}");
    Ok(())
}

#[test]
fn a_folder_that_librechat_wrote_is_found_under_data_and_a_broken_file_is_refused() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = daemon()?;
    let folder = tempfile::tempdir()?;
    let import = ["import", "--librechat", text(folder.path())?];
    let error = format!("{:#}", daemon.ctl(&import)?.success().expect_err("it is empty"));
    assert!(error.contains("there is neither violations.json nor logs.json"), "{error}");
    let data = folder.path().join("data");
    fs::create_dir(&data)?;
    let scores = r#"{"cache":[["violations:logins:64b0c0ffee64b0c0ffee64b0",{"value":"{\"value\":19}"}]],"lastExpire":1}"#;
    fs::write(data.join("violations.json"), scores)?;
    let said = daemon.ctl(&import)?.success()?;
    assert!(said.contains("took over 1 scores and 0 records"), "{said}");
    let body = json!({ "type": "logins", "user": "64b0c0ffee64b0c0ffee64b0" });
    let answer = Caller::app(&daemon).post("/v1/violations", &body)?;
    assert!(answer["ban"].is_object(), "the score came along: {answer}");

    fs::write(data.join("violations.json"), &scores[..60])?;
    let error = format!("{:#}", daemon.ctl(&import)?.success().expect_err("it is broken"));
    assert!(error.contains("violations.json was imported"), "{error}");
    Ok(())
}
