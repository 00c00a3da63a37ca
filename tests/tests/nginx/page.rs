//! What somebody sees who is denied: a page in a browser, JSON in the app's own scripts.

use anyhow::{Context, Result};
use moderation_tests::lab::CLIENT_V4;
use moderation_tests::nginx::Gone;
use serde_json::{Value, json};

use crate::site;

/// As Firefox asks for a page, and axios for data.
const PAGE: (&str, &str) = ("Accept", "text/html,application/xhtml+xml,*/*;q=0.8");
const DATA: (&str, &str) = ("Accept", "application/json, text/plain, */*");

#[test]
fn a_banned_person_gets_a_page_and_a_script_gets_what_librechat_shows() -> Result<()> {
    let Some(mut site) = site(Value::Null, Gone::Pass)? else { return Ok(()) };
    let ban = json!({ "ip": CLIENT_V4, "reason": "<b>spam</b> & noise", "duration": "90m" });
    let ban = site.operator.ban(&ban)?;
    let page = site.ask("GET", "/c/new", &[PAGE])?;
    assert_eq!(page.status, 403);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let until = ban["expires_at"].as_str().context("an end")?;
    let until = until.get(..16).context("a time")?.replacen('T', " ", 1);
    let code = format!("<code>#{}</code>", ban["id"]);
    for want in ["&lt;b&gt;spam&lt;/b&gt; &amp; noise", &until, &code, "quote the code"] {
        assert!(page.body.contains(want), "{want} in {}", page.body);
    }
    assert!(!page.body.contains("<script") && page.body.contains("width=device-width"));

    let data = site.ask("POST", "/api/agents/chat/openAI", &[DATA])?;
    assert_eq!((data.status, data.header("content-type")), (403, Some("application/json")));
    let body = data.json();
    assert_eq!((&body["type"], &body["reason"]), (&json!("ban"), &json!("<b>spam</b> & noise")));
    let said = "Your account has been temporarily banned due to violations of our service.";
    assert_eq!(
        (&body["message"], &body["code"]),
        (&json!(said), &json!(format!("#{}", ban["id"])))
    );
    assert_eq!((&body["until"], body.get("status")), (&ban["expires_at"], None));
    let wait: u64 = data.header("retry-after").context("retry-after")?.parse()?;
    assert!((5_000..=5_400).contains(&wait), "{wait}");
    Ok(())
}

#[test]
fn a_body_that_is_never_wanted_is_not_waited_for() -> Result<()> {
    let Some(mut site) = site(Value::Null, Gone::Pass)? else { return Ok(()) };
    site.operator.ban(&json!({ "ip": CLIENT_V4 }))?;
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"] {
        let answer = site.ask(method, "/api/files", &[DATA])?;
        assert_eq!(answer.status, 403, "{method}: {answer:?}");
    }
    Ok(())
}

#[test]
fn the_page_can_be_the_operator_s_own() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("page.html");
    std::fs::write(&path, "<h1>Gesperrt</h1><p>{{code}} {{contest}}</p>")?;
    let overrides = json!({ "nginx": { "page": path, "contest": "Schreib uns." } });
    let Some(mut site) = site(overrides, Gone::Pass)? else { return Ok(()) };
    let ban = site.operator.ban(&json!({ "ip": CLIENT_V4 }))?;
    let page = site.ask("GET", "/", &[PAGE])?;
    assert_eq!(page.body, format!("<h1>Gesperrt</h1><p>#{} Schreib uns.</p>", ban["id"]));
    Ok(())
}

#[test]
fn headers_that_a_client_makes_up_are_not_believed() -> Result<()> {
    let overrides = json!({ "nginx": { "user": { "from": "header" } } });
    let Some(mut site) = site(overrides, Gone::Pass)? else { return Ok(()) };
    site.operator.ban(&json!({ "user": "anna" }))?;
    site.operator.ban(&json!({ "ip": "203.0.113.9" }))?;
    let forged = [
        ("X-Moderation-User", "anna"),
        ("X-Moderation-Address", "203.0.113.9"),
        ("X-Moderation-Denial", "{}"),
        ("X-Moderation-Uri", "/x"),
        ("X-Forwarded-For", "203.0.113.9"),
    ];
    assert!(site.ask("GET", "/", &forged)?.is_apps());
    // Nor does anybody ask the daemon but nginx itself.
    assert_eq!(site.ask("GET", "/_moderation/auth", &[])?.status, 403);
    assert_eq!(site.ask("GET", "/_moderation/denied", &forged)?.status, 404);
    Ok(())
}
