//! Uploads of some size: unharmed, counted, and refused with an answer that arrives.

use anyhow::{Result, ensure};
use moderation_tests::browser::Body;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::host;

#[test]
fn uploads_pass_unharmed_are_counted_and_refused_with_an_answer() -> Result<()> {
    let overrides = json!({ "limits": { "file_upload_user": { "max": 3 } } });
    let Some(host) = host(overrides)? else { return Ok(()) };
    let alice = host.bystander().log_in("alice")?;
    // Every byte, and what looks like the end of a part.
    let mut content: Vec<u8> = (0..=255).cycle().take(4 << 20).collect();
    content.extend(b"\r\n--limi");
    let hash: String = Sha256::digest(&content).iter().map(|it| format!("{it:02x}")).collect();
    let body = Body::File("file", content.clone());
    for number in 1..=3 {
        let answer = alice.ask("POST", "/api/files", &body)?;
        ensure!(answer.status == 200, "upload {number}: {answer:?}");
        let known = answer.json();
        ensure!(known["bytes"] == content.len() && known["sha256"] == hash, "{known}");
        let left = answer.header("ratelimit").unwrap_or_default();
        ensure!(left.contains(&format!("\"file_upload_user\";r={};", 3 - number)), "{left}");
    }
    let answer = alice.ask("POST", "/api/files", &body)?;
    ensure!((answer.status, &answer.json()["type"]) == (429, &json!("file_upload_limit")));
    // Another user's are others, and what is no upload is none.
    ensure!(host.abuser().log_in("bob")?.ask("POST", "/api/files", &body)?.status == 200);
    ensure!(alice.get("/api/files")?.is_apps());
    Ok(())
}
