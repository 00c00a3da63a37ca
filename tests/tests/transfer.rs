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

/// As keyv-file writes them: an envelope in a string, strings that begin with a colon
/// with one more, lists of records by user; once the cache as a list of pairs, once as
/// an object, as older versions had it.
const SCORES: &str = r#"{"cache":[["violations:logins:64b0c0ffee64b0c0ffee64b0",{"value":"{\"value\":19.5}"}],["violations:non_browser:64b0c0ffee64b0c0ffee64b1",{"value":"{\"value\":7,\"expires\":99999999999999}","expire":99999999999999}],["violations:logins:64b0c0ffee64b0c0ffee64b2",{"value":"{\"value\":18,\"expires\":1000}","expire":1000}],["violations:convo_access::64b0c0ffee64b0c0ffee64b0",{"value":"{\"value\":true}"}]],"lastExpire":1763733600000}"#;

fn logs(now_ms: u64) -> String {
    let date = |ago_ms: u64| moderation_daemon::clock::iso8601(now_ms - ago_ms);
    let record = |ago_ms, total: u32| {
        format!(
            r#"{{"type":"logins","max":"7","windowInMinutes":5,"prev_count":{},"violation_count":{total},"date":"{}"}}"#,
            total - 1,
            date(ago_ms)
        )
    };
    // Two are alike, as there can be where points are none.
    let list = [record(4_000, 1), record(3_000, 2), record(3_000, 3), record(3_000, 3)].join(",");
    let envelope = json!(format!("{{\"value\":[{list}]}}"));
    format!(
        r#"{{"cache":{{"violations:64b0c0ffee64b0c0ffee64b0":{{"value":{envelope}}}}},"lastExpire":1763733600000}}"#
    )
}

#[test]
fn what_keyv_file_wrote_is_taken_once_with_its_totals_and_lapsed_entries_are_not() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = daemon()?;
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("violations.json"), SCORES)?;
    fs::write(folder.path().join("logs.json"), logs(moderation_daemon::clock::now().unix_ms))?;
    let import = ["--json", "import", "--librechat", text(folder.path())?];
    let first: Value = serde_json::from_str(&daemon.ctl(&import)?.success()?)?;
    assert_eq!(first, json!({ "scores": 2, "logs": 4, "skipped": 2 }));
    let again: Value = serde_json::from_str(&daemon.ctl(&import)?.success()?)?;
    assert_eq!(again, json!({ "scores": 0, "logs": 0, "skipped": 2 }));
    let told = daemon.ctl(&["explain", "64b0c0ffee64b0c0ffee64b0"])?.success()?;
    assert!(told.contains("In all: 4 logins (4 points)."), "{told}");
    assert!(told.contains("more than 7 in 5 min"), "{told}");
    assert!(
        told.contains("The score of user 64b0c0ffee64b0c0ffee64b0 for logins is 19.5"),
        "{told}"
    );
    Ok(())
}

#[test]
fn of_two_files_of_which_one_is_broken_nothing_is_taken() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = daemon()?;
    let folder = tempfile::tempdir()?;
    let good = logs(moderation_daemon::clock::now().unix_ms);
    // A user whose name no user has, behind more good ones than go into one request.
    let many: Vec<_> = (0..600)
        .map(|i| format!(r#"["violations:logins:user{i:04}",{{"value":"{{\"value\":1}}"}}]"#))
        .collect();
    let bad_name =
        format!(r#"["violations:logins:{}",{{"value":"{{\"value\":1}}"}}]"#, "x".repeat(2_000));
    let with_bad_name = format!(r#"{{"cache":[{},{bad_name}],"lastExpire":1}}"#, many.join(","));
    let cases = [
        ("torn", SCORES.to_owned(), good[..good.len() - 9].to_owned()),
        ("no list", SCORES.to_owned(), good.replace("\\\"value\\\":[", "\\\"value\\\":[[")),
        ("no date", SCORES.to_owned(), good.replace("date", "day")),
        ("no score", SCORES.replace("19.5", "true"), good.clone()),
        ("no user", with_bad_name, good.clone()),
    ];
    for (what, scores, logs) in cases {
        assert!(scores != SCORES || logs != good, "{what} is broken");
        fs::write(folder.path().join("violations.json"), scores)?;
        fs::write(folder.path().join("logs.json"), logs)?;
        let import = ["import", "--librechat", text(folder.path())?];
        let error = daemon.ctl(&import)?.success().expect_err(what);
        assert!(format!("{error:#}").contains("was imported"), "{what}: {error:#}");
        let empty = tempfile::tempdir()?;
        assert_eq!(export(&daemon, empty.path())?, [json!([]), json!([])], "{what}");
    }
    Ok(())
}

#[test]
fn what_an_import_brings_is_bounded_like_everything_else_and_the_oldest_go_first() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let overrides = json!({ "store": { "max_records": 2, "retention": "1d" } });
    let mut daemon = daemon_without_kernel(overrides)?;
    Caller::app(&daemon).violation("logins", &json!({ "user": "anna" }))?;
    let folder = tempfile::tempdir()?;
    let now_ms = moderation_daemon::clock::now().unix_ms;
    // Three of a moment ago; and, in another file, three of two days ago.
    for ago_ms in [0, 2 * 86_400_000] {
        fs::write(folder.path().join("logs.json"), logs(now_ms - ago_ms))?;
        daemon.ctl(&["import", "--librechat", text(folder.path())?])?.success()?;
    }
    daemon.restart()?;
    let folder = tempfile::tempdir()?;
    let [_, logs] = export(&daemon, folder.path())?;
    let records = logs.to_string();
    assert_eq!(records.matches("date").count(), 2, "{records}");
    assert!(records.contains("violations:anna"), "the last one was ours: {records}");
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
