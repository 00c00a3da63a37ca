//! Tokens that the app made, and those that it did not; and what becomes of somebody
//! whose token is stolen.

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use moderation_tests::browser::{Browser, credentials};
use moderation_tests::lab::{ABUSER_V4, BYSTANDER_V4};
use serde_json::{Value, json};

use super::{Host, host, token_of};

/// One of a token's three parts.
fn part(token: &str, number: usize) -> Result<&str> {
    token.split('.').nth(number).context("a token of three parts")
}

/// The same token with another header or other claims, and its signature as it was.
fn altered(token: &str, header: Option<&Value>, claims: &Value) -> Result<String> {
    let mut parts = [part(token, 0)?.to_owned(), part(token, 1)?.to_owned()];
    if let Some(header) = header {
        parts[0] = URL_SAFE_NO_PAD.encode(header.to_string());
    }
    let mut known: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&parts[1])?)?;
    for (claim, value) in claims.as_object().into_iter().flatten() {
        known[claim] = value.clone();
    }
    parts[1] = URL_SAFE_NO_PAD.encode(known.to_string());
    Ok(format!("{}.{}.{}", parts[0], parts[1], part(token, 2)?))
}

/// A user of the app, by a login: the token, and the id.
fn account(client: &Browser, name: &str) -> Result<(String, String)> {
    let answer = client.post("/api/auth/login", &credentials(name))?.json();
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
    Ok((text(&answer["token"])?, text(&answer["user"]["id"])?))
}

fn refused(host: &Host, reason: &str) -> Result<u64> {
    host.metric(&format!("moderation_nginx_tokens_refused_total{{reason=\"{reason}\"}}"))
}

#[test]
fn the_app_s_own_token_is_its_user_s_and_no_other_is() -> Result<()> {
    let Some(mut host) = host(Value::Null)? else { return Ok(()) };
    let anna = host.bystander();
    let (token, id) = account(&anna, "alice")?;
    let (bobs, _) = account(&anna, "bob")?;
    ensure!(anna.with_token(&token).get("/api/convos")?.is_apps());
    host.operator.ban(&json!({ "user": id, "duration": "1h" }))?;
    let denied = anna.with_token(&token).get("/api/convos")?;
    ensure!((denied.status, &denied.json()["type"]) == (403, &json!("ban")), "{denied:?}");
    // Whoever is nobody for us is answered by the app, which lets none of them in.
    let header = |alg| json!({ "alg": alg, "typ": "JWT" });
    let later = json!({});
    let anonymous = [
        ("forged", altered(&bobs, None, &json!({ "id": id }))?),
        ("forged", altered(&token, None, &json!({ "exp": 4_000_000_000_i64 }))?),
        ("algorithm", altered(&token, Some(&header("none")), &later)?),
        ("algorithm", altered(&token, Some(&header("HS512")), &later)?),
        ("algorithm", altered(&token, Some(&header("RS256")), &later)?),
        ("forged", format!("{}.{}.", part(&token, 0)?, part(&token, 1)?)),
        ("expired", token_of(&id, -1)?),
        ("malformed", format!("{}.{}", part(&token, 0)?, part(&token, 1)?)),
    ];
    for (reason, token) in &anonymous {
        let before = refused(&host, reason)?;
        let answer = anna.with_token(token).get("/api/convos")?;
        ensure!(answer.status == 401, "{reason}: {answer:?}");
        let seen = refused(&host, reason)? - before;
        // nginx asks twice, where it redirects inside; the daemon looks at it once or twice.
        ensure!((1..=2).contains(&seen), "{reason}: {seen}");
    }
    ensure!(anna.with_token(&bobs).get("/api/convos")?.is_apps());
    Ok(())
}

#[test]
fn a_stolen_token_is_the_account_s_and_never_its_owner_s_address() -> Result<()> {
    let Some(mut host) = host(Value::Null)? else { return Ok(()) };
    let (home, thief) = (host.bystander(), host.abuser());
    let (token, id) = account(&home, "alice")?;
    let owner = home.with_token(&token);
    for _ in 0..5 {
        ensure!(owner.get("/api/convos")?.is_apps());
        ensure!(owner.post("/api/agents/chat", &json!({ "ms": 0 }))?.status == 200);
    }
    // One who runs a script with it, where only browsers may be.
    let script = thief.with_token(&token).with_agent("curl/8.5.0");
    let answer = script.get("/api/agents/x")?;
    ensure!((answer.status, &answer.json()["type"]) == (403, &json!("ban")), "{answer:?}");
    let bans = host.operator.bans("all=true")?;
    ensure!(bans.len() == 1 && bans[0]["user"] == id, "{bans:?}");
    ensure!(bans[0]["address"] == ABUSER_V4.to_string(), "{bans:?}");
    // The account is banned wherever it is used, and takes no address along.
    for client in [&owner, &home.with_agent("curl/8.5.0").with_token(&token)] {
        for target in ["/api/convos", "/api/agents/x"] {
            let denied = client.get(target)?;
            ensure!((denied.status, &denied.json()["type"]) == (403, &json!("ban")), "{denied:?}");
        }
    }
    ensure!(host.operator.bans("all=true")?.len() == 1);
    ensure!(!host.operator.is_banned(&format!("ip={BYSTANDER_V4}"))?);
    let at_home = host.operator.get(&format!("/v1/explain?ip={BYSTANDER_V4}"))?;
    ensure!(at_home["violations"] == json!([]), "{at_home}");
    let (others, _) = account(&home, "carol")?;
    ensure!(home.with_token(&others).get("/api/convos")?.is_apps());
    ensure!(home.get("/api/config")?.is_apps());
    // The thief's address is banned for all that comes from there.
    ensure!(thief.get("/api/config")?.status == 403);
    Ok(())
}
