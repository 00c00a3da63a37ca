//! `moderationctl explain` from end to end: what happened is told by the daemon that saw
//! it, and by the next one.

use std::fs;

use anyhow::{Context, Result};
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::need;
use serde_json::{Value, json};

fn explain(daemon: &Daemon, subject: &str) -> Result<String> {
    daemon.ctl(&["explain", subject])?.success()
}

#[test]
fn a_ban_is_explained_with_each_violation_that_led_there_and_so_is_its_end() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = daemon_without_kernel(Value::Null)?;
    assert_eq!(
        explain(&daemon, "anna")?,
        "user anna is not banned.\n  Nothing is recorded about user anna.\n"
    );
    let mut app = Caller::app(&daemon);
    for points in [7, 6, 8] {
        let body = json!({ "type": "logins", "user": "anna", "ip": "192.0.2.7", "score": points });
        app.post("/v1/violations", &body)?;
    }
    for told in [explain(&daemon, "anna")?, explain(&daemon, "#1")?] {
        assert!(told.contains(" is banned until "), "{told}");
        assert!(told.contains("the score of logins went from 13 to 21"), "{told}");
        assert!(told.contains("3 violations led to it"), "{told}");
        for line in ["7 points, 0 → 7", "6 points, 7 → 13", "8 points, 13 → 21"] {
            assert!(told.contains(line), "{line} is missing from {told}");
        }
        assert!(told.contains("; ban 1 fell"), "{told}");
        assert!(told.contains("Ban 1 holds at the API only: network.mode is off"), "{told}");
        assert!(told.contains("In all: 3 logins (21 points)."), "{told}");
    }
    let at_address = explain(&daemon, "192.0.2.7")?;
    assert!(at_address.contains("13 → 21, by anna"), "{at_address}");

    daemon.ctl(&["lift", "user:anna"])?.success()?;
    daemon.kill()?;
    daemon.start()?;
    let told = explain(&daemon, "anna")?;
    assert!(told.starts_with("user anna is not banned."), "{told}");
    assert!(told.contains("Ban 1 of user anna and 192.0.2.7"), "{told}");
    assert!(told.contains("was lifted by root at"), "{told}");
    assert!(told.contains("8 points, 13 → 21"), "{told}");
    assert!(explain(&daemon, "#99").is_err(), "there is no such ban");
    Ok(())
}

#[test]
fn what_nginx_calls_a_request_is_no_code_unless_a_user_is_called_so() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = daemon_without_kernel(Value::Null)?;
    let request = "0123456789abcdef0123456789abcdef";
    let refused = daemon.ctl(&["explain", request])?;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stdout.is_empty(), "{refused:?}");
    for said in ["nginx's own name for a request", "user:0123456789abcdef0123456789abcdef"] {
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
    let user = format!("user {request} is not banned.\n");
    let told = explain(&daemon, &format!("user:{request}"))?;
    assert_told(&told, &[&user, "Nothing is recorded"]);
    Caller::app(&daemon).violation("logins", &json!({ "user": request, "score": 1 }))?;
    assert_told(&explain(&daemon, request)?, &[&user, "0 → 1"]);
    Ok(())
}

/// What is told about a subject, which must be all of these sentences.
#[track_caller]
fn assert_told(told: &str, sentences: &[&str]) {
    for sentence in sentences {
        assert!(told.contains(sentence), "{sentence:?} is missing from\n{told}");
    }
}

#[test]
fn the_violation_that_ended_sessions_is_told_also_by_the_next_daemon() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = daemon_without_kernel(json!({ "bans": { "duration": "soft" } }))?;
    let mut app = Caller::app(&daemon);
    for (points, logout) in [(13, None), (7, Some(true)), (1, None)] {
        let body = json!({ "type": "logins", "user": "anna", "ip": "192.0.2.7", "score": points });
        let answer = app.post("/v1/violations", &body)?;
        assert_eq!(answer["logout"].as_bool(), logout, "{answer}");
    }
    daemon.kill()?;
    daemon.start()?;
    assert_told(
        &explain(&daemon, "anna")?,
        &[
            "the score of user anna for logins went from 13 to 20: the app was told to end the \
             sessions, and no ban fell",
            "7 points, 13 → 20, by anna, from 192.0.2.7; sessions were to end",
        ],
    );
    Ok(())
}

#[test]
fn what_counts_against_somebody_is_told_before_it_is_too_much() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = daemon_without_kernel(json!({ "limits": { "message_ip": { "max": 2 } } }))?;
    let mut app = Caller::app(&daemon);
    let message = json!({ "user": "anna", "ip": "192.0.2.7" });
    for _ in 0..3 {
        app.event("message", &message)?;
    }
    app.post("/v1/leases", &message)?;
    assert_told(
        &explain(&daemon, "anna")?,
        &[
            "user anna is not banned.\n",
            "The score of user anna for message_limit is 1; the next ban falls at 20.",
            "1 generation is running, of 2 at once.",
            "message_limit: 1 point, 0 → 1, more than 2 in 1 min (message_ip), by anna, from 192.0.2.7",
        ],
    );
    assert_told(
        &explain(&daemon, "192.0.2.7")?,
        &["192.0.2.7 is not banned.\n", "Of message_ip, 2 of 2 are used up", "0 → 1"],
    );
    Ok(())
}

#[test]
fn who_banned_by_hand_is_told_with_the_reason_and_who_is_on_the_allowlist_too() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = daemon_without_kernel(Value::Null)?;
    daemon.ctl(&["ban", "--user", "bert", "--duration", "7d", "--reason", "spam"])?.success()?;
    daemon.ctl(&["ban", "--ip", "192.0.2.9", "--duration", "permanent"])?.success()?;
    daemon.ctl(&["allow", "add", "198.51.100.0/24"])?.success()?;
    let told = explain(&daemon, "bert")?;
    assert_told(
        &told,
        &[
            "user bert is banned until ",
            "Ban 1 of user bert, for 7 d, was placed by root at ",
            ": spam.",
        ],
    );
    assert_told(
        &explain(&daemon, "192.0.2.9")?,
        &[
            "192.0.2.9 is banned until somebody lifts it.",
            "Ban 2 of 192.0.2.9, for ever, was placed by root at ",
        ],
    );
    let told = explain(&daemon, "198.51.100.7")?;
    let want = "198.51.100.7 is not banned and cannot be: 198.51.100.0/24 is on the allowlist.";
    assert_told(&told, &[want]);
    Ok(())
}

#[test]
fn a_ladder_is_told_step_by_step_and_so_is_a_suspension() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon =
        daemon_without_kernel(json!({ "penalties": { "by_type": { "logins": { "ladder": [
        { "warning": { "message": "slowly" } }, { "reduce": { "factor": 0.5, "duration": "7d" } },
    ] } } } }))?;
    let mut app = Caller::app(&daemon);
    for _ in 0..2 {
        app.violation("logins", &json!({ "user": "anna", "score": 20 }))?;
    }
    assert_told(
        &explain(&daemon, "anna")?,
        &[
            "user anna is not banned.\n",
            ": a warning, \"slowly\"; logins score reached 20.",
            "limits are multiplied by 0.5; logins score reached 40.",
            "The score of user anna for logins is 40; the next step of its ladder falls at 60.",
            "0 → 20, by anna; penalty p1 fell",
            "20 → 40, by anna; penalty p2 fell",
        ],
    );
    app.violation("convo_access", &json!({ "user": "carl", "severity": "critical" }))?;
    let told = explain(&daemon, "carl")?;
    assert_told(
        &told,
        &[
            "user carl is banned until ",
            "Ban 1 of user carl, for 3 d, fell at ",
            ": critical violation of convo_access.",
            "Ban 1 is a suspension until a person has looked at it: lift it, or ban for longer.",
            "convo_access: 0 points, 0 → 0, by carl, severity critical; ban 1 fell; penalty p3 fell",
        ],
    );
    assert!(!told.contains("points are a ban"), "it needed none: {told}");
    Ok(())
}

#[test]
fn at_a_shared_address_it_is_told_who_was_banned_for_what_and_who_was_not() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = daemon_without_kernel(Value::Null)?;
    let mut app = Caller::app(&daemon);
    let at_office = |user: &str| json!({ "user": user, "ip": "192.0.2.7" });
    for user in ["anna", "bert"] {
        app.event("message", &at_office(user))?;
    }
    app.violation("non_browser", &at_office("anna"))?;
    let left_out = "192.0.2.7 was not banned with the user: it is protected, or others who did \
                    nothing are there";
    assert_told(&explain(&daemon, "anna")?, &["Ban 1 of user anna, for 2 h, fell at ", left_out]);
    let told = explain(&daemon, "192.0.2.7")?;
    assert_told(&told, &["192.0.2.7 is not banned.", "by anna, from 192.0.2.7; ban 1 fell"]);
    // Now two of them have broken rules there.
    app.violation("non_browser", &at_office("bert"))?;
    assert_told(
        &explain(&daemon, "192.0.2.7")?,
        &[
            "192.0.2.7 is banned until ",
            "Ban 3 of 192.0.2.7, for 15 min, fell at ",
            "Several users are at that address, so that it is banned for a shorter time: ban 3 \
             came with ban 2 and is lifted with it.",
        ],
    );
    Ok(())
}

const SECRET: &str = "64b0c0ffee64b0c0ffee64b0";

#[test]
fn with_pseudonyms_no_record_has_a_user_s_id_and_whoever_has_the_id_finds_theirs() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let overrides = json!({
        "network": { "mode": "off" },
        "log": { "pseudonyms": true, "level": "debug" },
    });
    let setup = Setup::new().overrides(overrides);
    let mut daemon =
        setup.credential("pseudonym-key", "0123456789abcdef0123456789abcdef\n").start()?;
    let mut app = Caller::app(&daemon);
    let whom = json!({ "user": SECRET, "ip": "192.0.2.7", "score": 7, "id": "one" });
    app.violation("logins", &whom)?;
    app.violation("non_browser", &json!({ "user": SECRET, "ip": "192.0.2.7" }))?;
    app.post("/v1/leases", &json!({ "user": SECRET }))?;
    assert!(app.is_banned(&format!("user={SECRET}"))?);
    daemon.kill()?;
    daemon.start()?;

    let store = rusqlite::Connection::open(daemon.store_path())?;
    for table in ["violations", "totals"] {
        let rows: i64 =
            store.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        assert_eq!(rows, 2, "{table}");
        let sql = format!("SELECT * FROM {table}");
        let mut query = store.prepare(&sql)?;
        let columns = query.column_count();
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                let value = format!("{:?}", row.get_ref(column)?);
                let text = row.get_ref(column)?.as_str().unwrap_or_default().to_owned();
                assert!(!text.contains(SECRET), "{table}: {value}");
            }
        }
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_str().context("a folder's name is text")?;
    daemon.ctl(&["export", "--librechat", path])?.success()?;
    let logs = fs::read_to_string(folder.path().join("logs.json"))?;
    assert!(logs.contains("violations:p_") && !logs.contains(SECRET), "{logs}");
    // Scores are no log: LibreChat has to find its users again.
    let scores = fs::read_to_string(folder.path().join("violations.json"))?;
    assert!(scores.contains(SECRET), "{scores}");

    let told = explain(&daemon, SECRET)?;
    assert_told(
        &told,
        &["logins: 7 points, 0 → 7, by p_", "In all: 1 logins (7 points), 1 non_browser"],
    );
    let pseudonym = logs.split("violations:").nth(1).and_then(|rest| rest.get(..18));
    let told = explain(&daemon, pseudonym.context("a pseudonym is as long as that")?)?;
    assert_told(&told, &["logins: 7 points, 0 → 7, by p_"]);
    assert!(!told.contains(SECRET), "whoever has no more than records: {told}");
    let told = explain(&daemon, "198.51.100.7")?;
    assert!(!told.contains("logins"), "that of nobody else: {told}");
    assert_told(&explain(&daemon, "192.0.2.7")?, &["0 → 7, by p_"]);
    daemon.ctl(&["lift", &format!("user:{SECRET}")])?.success()?;
    assert!(!app_after(&daemon)?, "bans go by ids");
    let log = daemon.log();
    assert!(log.contains("a ban was lifted") && !log.contains(SECRET), "{log}");
    Ok(())
}

fn app_after(daemon: &Daemon) -> Result<bool> {
    Caller::app(daemon).is_banned(&format!("user={SECRET}"))
}

#[test]
fn pseudonyms_without_a_key_that_is_one_are_refused_at_the_start() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let overrides = json!({ "network": { "mode": "off" }, "log": { "pseudonyms": true } });
    let setup = || Setup::new().overrides(overrides.clone());
    let cases = [
        (setup(), "log.pseudonyms needs the credential pseudonym-key"),
        (setup().credential("another-key", "0123456789abcdef"), "which cannot be read"),
        (setup().credential("pseudonym-key", "secret-123456\n"), "holds 13 bytes"),
    ];
    for (setup, want) in cases {
        let error = setup.start().err().with_context(|| format!("it started: {want}"))?;
        let error = format!("{error:#}");
        assert!(error.contains(want) && !error.contains("secret"), "{error}");
    }
    Ok(())
}
