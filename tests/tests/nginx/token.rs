//! Whose a request is, by the token that it bears.

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use moderation_tests::nginx::{Gone, TIDY_PORT};
use serde_json::{Value, json};
use sha2::{Sha256, Sha512};

use crate::{SECRET, site};

const ANNA: &str = "64b0c0ffee64b0c0ffee64b0";

fn unsigned(alg: &str, exp: u64) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({ "alg": alg, "typ": "JWT" }));
    format!("{header}.{}", part(json!({ "id": ANNA, "username": "anna", "exp": exp })))
}

fn signed(alg: &str, exp: u64, secret: &str) -> Result<String> {
    let body = unsigned(alg, exp);
    let key = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    let sum = key.chain_update(body.as_bytes()).finalize().into_bytes();
    Ok(format!("Bearer {body}.{}", URL_SAFE_NO_PAD.encode(sum)))
}

#[test]
fn only_a_genuine_token_is_its_user_s() -> Result<()> {
    let Some(mut site) = site(Value::Null, Gone::Pass)? else { return Ok(()) };
    let ban = site.operator.ban(&json!({ "user": ANNA, "duration": "1h" }))?;
    let now = u64::try_from(jiff::Timestamp::now().as_second())?;
    let later = now + 900;
    let hs512 = {
        let body = unsigned("HS512", later);
        let key = Hmac::<Sha512>::new_from_slice(SECRET.as_bytes())?;
        let sum = key.chain_update(body.as_bytes()).finalize().into_bytes();
        format!("Bearer {body}.{}", URL_SAFE_NO_PAD.encode(sum))
    };
    let anonymous = [
        ("forged", "forged", signed("HS256", later, "another secret, which is long")?),
        ("expired", "expired", signed("HS256", now - 1, SECRET)?),
        ("alg none", "algorithm", format!("Bearer {}.", unsigned("none", later))),
        ("HS512", "algorithm", hs512),
        ("no token", "malformed", "Bearer x".to_owned()),
    ];
    for (what, _, authorization) in &anonymous {
        // Where nginx asks once.
        let headers = [("Authorization", authorization.as_str())];
        let answer = site.ask_at(TIDY_PORT, "GET", b"/", &headers)?;
        assert!(answer.is_apps(), "{what}: {answer:?}");
    }
    for (reason, count) in [("forged", 1), ("expired", 1), ("algorithm", 2), ("malformed", 1)] {
        let line = format!("moderation_nginx_tokens_refused_total{{reason=\"{reason}\"}} {count}");
        assert!(site.metric(&line)?, "{line}");
    }
    let genuine = signed("HS256", later, SECRET)?;
    let answer = site.ask("GET", "/", &[("Authorization", &genuine)])?;
    assert_eq!((answer.status, &answer.json()["type"]), (403, &json!("ban")), "{answer:?}");
    assert_eq!(answer.json()["code"], format!("#{}", ban["id"]));
    // The account is banned, and not where it was used.
    assert!(site.ask("GET", "/", &[])?.is_apps());
    let config = site.daemon.ctl(&["config"])?.success()?;
    assert!(config.contains("from: token") && !config.contains(SECRET), "{config}");
    assert!(!site.daemon.log().contains(SECRET) && !site.daemon.log().contains(ANNA));
    Ok(())
}

#[test]
fn without_the_secret_the_daemon_does_not_start_and_says_what_is_missing() -> Result<()> {
    if !moderation_tests::need::root() {
        return Ok(());
    }
    let overrides = json!({
        "network": { "mode": "off" },
        "nginx": {
            "enabled": true, "user": { "from": "token" },
            "routes": [{ "method": "POST", "path": "/login", "counts": "login" }],
        },
    });
    let setup = moderation_tests::daemon::Setup::new().overrides(overrides);
    let error = setup.start().err().context("it starts without the secret")?;
    assert!(format!("{error:#}").contains("needs the credential jwt-secret"), "{error:#}");
    Ok(())
}
