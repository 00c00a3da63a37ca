//! What somebody sends who wants help: all that helps, and nothing of anybody's secrets.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::need;
use serde_json::{Value, json};

/// Every file of a bundle as one text.
fn unpacked(path: &Path) -> Result<String> {
    let output = Command::new("tar").arg("-xzOf").arg(path).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn listed(path: &Path) -> Result<String> {
    let output = Command::new("tar").arg("-tzf").arg(path).output()?;
    Ok(String::from_utf8(output.stdout)?)
}

/// What must not be in it, wherever it was planted.
const USER: &str = "planted-user-4711";
const PROTECTED: &str = "planted-protected-4712";
const REASON: &str = "planted reason about somebody";
const NOTE: &str = "planted note of an office";
const SECRET: &str = "planted-secret-0815-abcdef";
const ADDRESS: &str = "198.51.100.77";

#[test]
fn a_bundle_has_what_helps_and_no_secrets_users_or_addresses() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let dotenv = folder.path().join(".env");
    let uri = format!("mongodb://root:{SECRET}@db.example/chat");
    fs::write(&dotenv, format!("JWT_SECRET={SECRET}\nMONGO_URI={uri}\n"))?;
    let overrides = json!({
        "librechat": { "env_file": dotenv },
        "bans": { "protected": { "users": [PROTECTED] } },
        "allowlist": [format!("{ADDRESS}/32")],
    });
    let mut daemon = daemon_without_kernel(overrides)?;
    let mut operator = Caller::operator(&daemon);
    operator.ban(&json!({ "user": USER, "ip": "203.0.113.9", "reason": REASON }))?;
    operator.post("/v1/allowlist", &json!({ "prefix": "192.0.2.0/24", "note": NOTE }))?;
    Caller::app(&daemon).event("message", &json!({ "user": USER, "ip": "203.0.113.9" }))?;

    let path = folder.path().join("help.tar.gz");
    let name = path.display().to_string();
    let told: Value =
        serde_json::from_str(&daemon.ctl(&["--json", "support-bundle", &name])?.success()?)?;
    assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    let names = listed(&path)?;
    for file in told["contents"].as_array().context("a list")? {
        let file = file.as_str().context("a name")?;
        assert!(names.contains(&format!("moderation-support/{file}\n")), "{file}: {names}");
    }
    let text = unpacked(&path)?;
    for helps in ["moderationd \"", "kernel version", "uptime_ms", "moderation_bans", "doctor.txt"]
    {
        assert!(text.contains(helps), "{helps}: {text}");
    }
    for planted in [USER, PROTECTED, REASON, NOTE, SECRET, ADDRESS, "203.0.113.9", "db.example"] {
        assert!(!text.contains(planted), "{planted} is in it");
    }

    let again = daemon.ctl(&["support-bundle", &name])?;
    assert_eq!(again.status.code(), Some(74), "nothing is written over: {again:?}");
    let with = folder.path().join("addresses.tar.gz");
    let with_name = with.display().to_string();
    daemon.ctl(&["support-bundle", &with_name, "--with-addresses"])?.success()?;
    let text = unpacked(&with)?;
    assert!(text.contains(ADDRESS), "it was wanted");
    for planted in [USER, PROTECTED, REASON, NOTE, SECRET, "db.example"] {
        assert!(!text.contains(planted), "{planted} is in it");
    }

    daemon.stop()?;
    let alone = folder.path().join("alone.tar.gz");
    daemon.ctl(&["support-bundle", &alone.display().to_string()])?.success()?;
    let text = unpacked(&alone)?;
    assert!(text.contains("no daemon answers"), "{text}");
    for planted in [PROTECTED, SECRET, ADDRESS, "db.example"] {
        assert!(!text.contains(planted), "{planted} is in it");
    }
    Ok(())
}
