//! Whose a request is, by the token that it bears.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use moderation_tests::lab::INTERFACE;
use moderation_tests::nginx::{Gone, PORT, TIDY_PORT};
use serde_json::{Value, json};
use sha2::{Sha256, Sha512};

use crate::{SECRET, request, site};

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
fn a_stolen_token_costs_the_account_and_the_thief_s_address_and_never_its_owner_s() -> Result<()> {
    let Some(mut site) = site(Value::Null, Gone::Pass)? else { return Ok(()) };
    let thief = Ipv4Addr::new(192, 0, 2, 66);
    site.pair.client.configure(&[format!("address add {thief}/24 dev {INTERFACE}")])?;
    let now = u64::try_from(jiff::Timestamp::now().as_second())?;
    let token = signed("HS256", now + 900, SECRET)?;
    let bearer = ("Authorization", token.as_str());
    for _ in 0..3 {
        assert!(site.ask("GET", "/api/agents/x", &[bearer])?.is_apps(), "its owner");
    }
    let stolen = |target: &[u8], headers: &[(&str, &str)]| {
        request(&site.pair, (thief, PORT), "GET", target, headers)
    };
    let answer = stolen(b"/api/agents/x", &[bearer, ("User-Agent", "curl/8.5.0")])?;
    assert_eq!((answer.status, &answer.json()["type"]), (403, &json!("ban")), "{answer:?}");
    assert_eq!(stolen(b"/", &[])?.status, 403);
    // The account is shut, the house of its owner is not.
    assert_eq!(site.ask("GET", "/", &[bearer])?.status, 403);
    assert!(site.ask("GET", "/", &[])?.is_apps());
    let bans = site.operator.bans("all=true")?;
    let of = |key: &str| bans.iter().filter_map(|ban| ban[key].as_str()).collect::<Vec<_>>();
    assert!(!of("user").is_empty() && of("user").iter().all(|user| *user == ANNA), "{bans:?}");
    assert_eq!(of("address"), [thief.to_string()], "{bans:?}");
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
