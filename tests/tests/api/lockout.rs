//! Nobody locks out whom the allowlist or the guards protect: not by the API,
//! not by an import, not by writing into the databases.

use anyhow::Result;
use moderation_daemon::store::ImportStore;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{Desk, desk};

fn protected() -> Value {
    json!({
        "network": { "guards": ["203.0.113.7/32"] },
        "allowlist": ["198.51.100.0/24", "2001:db8:7::/48"],
    })
}

/// Prefixes that cover, are covered by, or are what is protected.
const FORBIDDEN: [&str; 8] = [
    "203.0.113.7",
    "203.0.113.0/24",
    "198.51.100.9",
    "198.51.100.0/24",
    "2001:db8:7:1::/64",
    "10.0.0.0/8",
    "127.0.0.1",
    "fe80::/64",
];

/// Addresses that must never be told that they are banned.
const PROTECTED: [&str; 5] =
    ["203.0.113.7", "198.51.100.9", "2001:db8:7:1::5", "10.1.2.3", "127.0.0.1"];

fn assert_nobody_is_locked_out(desk: &mut Desk) -> Result<()> {
    for ip in PROTECTED {
        assert!(!desk.app.is_banned(&format!("ip={ip}"))?, "{ip}");
        let answer = desk.app.event("message", &json!({ "ip": ip }))?;
        assert_eq!(answer["decision"], "allow", "{ip}: {answer}");
    }
    Ok(())
}

#[test]
fn the_api_refuses_bans_and_names_what_protects() -> Result<()> {
    let Some(mut desk) = desk(protected())? else { return Ok(()) };
    for prefix in FORBIDDEN {
        let response = desk.daemon.admin().post("/v1/bans", &json!({ "ip": prefix }))?;
        assert_eq!(response.status, 409, "{prefix}: {}", response.body);
        let detail = response.body["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("guarded") || detail.contains("allowlist"), "{detail}");
    }
    // It merely holds what an operator allowed: that passes by itself.
    desk.operator.ban(&json!({ "ip": "198.51.0.0/16" }))?;
    assert_nobody_is_locked_out(&mut desk)?;
    assert!(desk.app.is_banned("ip=198.51.101.1")?);
    Ok(())
}

#[test]
fn an_import_leaves_protected_prefixes_out_and_names_them() -> Result<()> {
    let Some(mut desk) = desk(protected())? else { return Ok(()) };
    let text = format!("{}\n192.0.2.7\n", FORBIDDEN.join("\n"));
    let answer = desk.operator.post_text("/v1/imports/list/entries", &text)?;
    // Two of them are within others of the same list.
    assert_eq!((&answer["accepted"], &answer["refused"]["protected"]), (&json!(1), &json!(6)));
    let examples = answer["examples"].as_array().cloned().unwrap_or_default();
    assert_eq!(examples.len(), 6, "{answer}");
    for example in examples {
        assert_eq!(example["reason"], "protected", "{example}");
        assert!(example["detail"].is_string() && example["prefix"].is_string(), "{example}");
    }
    assert_nobody_is_locked_out(&mut desk)
}

#[test]
fn what_is_written_into_the_databases_locks_nobody_out() -> Result<()> {
    let Some(mut desk) = desk(protected())? else { return Ok(()) };
    desk.operator.post_text("/v1/imports/list/entries", "192.0.2.7")?;
    desk.daemon.stop()?;
    let bans = Connection::open(desk.daemon.store_path())?;
    let lists = Connection::open(ImportStore::path(&desk.daemon.store_path()))?;
    for prefix in FORBIDDEN {
        bans.execute(
            "INSERT INTO bans (address, reason, created_at_ms) VALUES (?1, 'by hand', 0)",
            [prefix],
        )?;
        lists.execute(
            "INSERT INTO import_entries (import, prefix, run) SELECT id, ?1, 1 FROM imports",
            [prefix],
        )?;
    }
    drop((bans, lists));
    desk.daemon.start()?;
    let mut desk = Desk::of(desk.daemon);
    assert_nobody_is_locked_out(&mut desk)?;
    assert!(desk.app.is_banned("ip=192.0.2.7")?, "the list was read");
    Ok(())
}
