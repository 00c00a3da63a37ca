//! Spellings of a path that reach the app's login, or might, and do not slip past its limit.

use anyhow::Result;
use moderation_tests::lab::CLIENT_V4;
use moderation_tests::nginx::{Gone, PORT, TIDY_PORT};
use serde_json::json;

use crate::site;

#[test]
fn no_spelling_slips_past_a_limit() -> Result<()> {
    let overrides = json!({ "bans": { "enabled": false } });
    let Some(site) = site(overrides, Gone::Pass)? else { return Ok(()) };
    for _ in 0..7 {
        assert!(site.post("/api/auth/login")?.is_apps());
    }
    let spellings: [&[u8]; 16] = [
        b"/api/auth/login",
        b"/api/auth/login/",
        b"/API/AUTH/Login?x=1",
        b"//api//auth///login",
        b"/api/./auth/x/../login",
        b"/api/x/%2e%2e/auth/login",
        b"/api/auth/%6Cogin",
        b"/api%2Fauth%2flogin",
        b"/api/auth/%256cogin",
        b"/api/auth/login%3Fx",
        b"/api\\auth\\login",
        b"/api/auth\\login#x",
        b"/api/auth/login\xa0",
        b"/api/files/../auth/login",
        b"http://chat.example/api/auth/login",
        b"http://chat.example//api/auth/./login/",
    ];
    for port in [PORT, TIDY_PORT] {
        for spelling in spellings {
            let answer = site.ask_at(port, "POST", spelling, &[])?;
            let shown = String::from_utf8_lossy(spelling);
            assert_eq!(answer.status, 429, "{shown} at {port}: {answer:?}");
        }
    }
    assert!(site.post("/api/auth/logins")?.is_apps());
    Ok(())
}

#[test]
fn a_question_that_is_long_is_asked_and_one_that_is_too_long_lets_nobody_in() -> Result<()> {
    let Some(mut site) = site(json!({}), Gone::Pass)? else { return Ok(()) };
    // As long as nginx takes them by default.
    let long = "x".repeat(8_000);
    let headers = [("User-Agent", long.as_str()), ("Authorization", &long), ("Cookie", &long)];
    let target = format!("/api/x/{}", &long[..7_900]);
    assert!(site.ask("POST", &target, &headers)?.is_apps());
    site.operator.ban(&json!({ "ip": CLIENT_V4 }))?;
    let denied = site.ask("POST", &target, &headers)?;
    assert_eq!((denied.status, &denied.json()["type"]), (403, &json!("ban")), "{denied:?}");
    // Longer than the daemon takes, where an operator lets nginx take it.
    let longer = "x".repeat(60_000);
    let refused = site.ask("GET", &format!("/{longer}"), &[("Authorization", &longer)])?;
    assert_eq!((refused.status, &refused.json()["type"]), (403, &json!("forbidden")));
    assert!(!site.nginx.log().contains("unexpected status"), "{}", site.nginx.log());
    Ok(())
}
