//! What the doctor says about nginx's two files.

use anyhow::Result;
use moderation_tests::front::Setup;
use moderation_tests::lab::CLIENT_V4;
use moderation_tests::wire::Wire;
use serde_json::Value;

use crate::{PERSON, ask, host, is_apps};

#[test]
fn a_doctor_says_whether_nginx_has_the_snippet_and_the_current_one() -> Result<()> {
    let Some(mut host) = host(Value::Null, Setup::default())? else { return Ok(()) };
    let said = |host: &mut crate::Host| -> Result<(String, String)> {
        Ok(host.findings()?.remove("snippet").unwrap_or_default())
    };
    let pair = |grade: &str, text: &str| (grade.to_owned(), text.to_owned());
    assert_eq!(said(&mut host)?, pair("warning", "not seen since the start"));
    assert!(is_apps(&ask(&host.pair, CLIENT_V4, PERSON)?));
    assert_eq!(said(&mut host)?, pair("ok", "nginx has the one of this version"));
    // An nginx that has had its files for longer than the daemon.
    for (version, grade, text) in [
        ("", "warning", "nginx has one that does not say its version"),
        ("900", "warning", "nginx has one that is newer than this daemon, version 900"),
    ] {
        let head = "GET /v1/nginx/auth HTTP/1.1\r\nhost: moderation\r\nconnection: close\r\n";
        let question = format!("{head}x-moderation-snippet: {version}\r\n\r\n");
        assert_eq!(Wire::ask(&host.daemon.nginx_socket(), question)?.status, 204);
        assert_eq!(said(&mut host)?, pair(grade, text));
    }
    assert!(is_apps(&ask(&host.pair, CLIENT_V4, PERSON)?));
    assert_eq!(said(&mut host)?.0, "ok", "nginx was reloaded");
    Ok(())
}
