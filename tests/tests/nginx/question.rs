//! The daemon's socket, asked as nginx asks and as nobody should.

use anyhow::Result;
use moderation_tests::nginx::Gone;
use moderation_tests::wire::{Answer, Wire};
use serde_json::{Value, json};

use crate::{Site, site};

impl Site {
    fn question(&self, headers: &[(&str, &str)]) -> Result<Answer> {
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("x-moderation-{name}: {value}\r\n"))
            .collect();
        let head = "GET /v1/nginx/auth HTTP/1.1\r\nhost: moderation\r\nconnection: close\r\n";
        Wire::ask(&self.daemon.nginx_socket(), format!("{head}{headers}\r\n"))
    }
}

#[test]
fn whatever_is_asked_the_answer_is_one_that_nginx_takes() -> Result<()> {
    let Some(mut site) = site(Value::Null, Gone::Pass)? else { return Ok(()) };
    site.operator.ban(&json!({ "ip": "203.0.113.9" }))?;
    let snippet = ("snippet", "1");
    let login = [snippet, ("method", "POST"), ("uri", "/api/auth/login")];
    let cases: [(&[(&str, &str)], u16); 6] = [
        (&[snippet], 204),
        (&[snippet, ("address", "203.0.113.9")], 403),
        (&[snippet, ("address", "unix:")], 204),
        (&[snippet, ("address", "203.0.113.8"), ("method", ""), ("uri", "%%%")], 204),
        (&[login[0], login[1], login[2], ("address", "203.0.113.9")], 403),
        (&[login[0], login[1], login[2]], 204),
    ];
    for (headers, want) in cases {
        assert_eq!(site.question(headers)?.status, want, "{headers:?}");
    }
    assert!(site.metric("moderation_nginx_unknown_total 3")?);
    assert!(site.metric("moderation_nginx_denied_total 2")?);
    assert!(site.metric("moderation_nginx_passed_total 4")?);
    Ok(())
}

#[test]
fn a_snippet_of_another_version_is_told_once() -> Result<()> {
    let Some(site) = site(Value::Null, Gone::Pass)? else { return Ok(()) };
    let told = || site.daemon.log().matches("nginx asks with a snippet of another version").count();
    assert!(site.ask("GET", "/", &[])?.is_apps());
    assert_eq!(told(), 0);
    for snippet in ["0", "", "2"] {
        assert_eq!(site.question(&[("snippet", snippet)])?.status, 204);
    }
    assert_eq!(told(), 1);
    Ok(())
}
