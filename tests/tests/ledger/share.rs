//! Bans and lifts on their way to other hosts, and as LibreChat sees them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use moderation_tests::caller::Caller;
use mongodb::bson::doc;
use serde_json::{Value, json};

use super::{LOGS, Mongod, await_banned, await_documents, ban, is_banned};

#[test]
fn a_ban_on_one_host_holds_on_the_other_and_is_as_librechat_reads_it() -> Result<()> {
    Mongod::each(|mongod| {
        let (alpha, beta) = (mongod.host("alpha", json!({}))?, mongod.host("beta", json!({}))?);
        let body = json!({
            "user": "64b0c0ffee64b0c0ffee64b0", "ip": "203.0.113.7", "duration": "1h",
            "reason": "spam",
        });
        ban(&alpha, &body)?;
        await_banned(&[&alpha, &beta], "user=64b0c0ffee64b0c0ffee64b0", true)?;
        await_banned(&[&beta], "ip=203.0.113.7", true)?;

        let base = mongod.base()?;
        let documents = await_documents(&base, &doc! { "type": "ban" }, 2)?;
        let mut keys: Vec<_> =
            documents.iter().map(|one| one.get_str("key")).collect::<Result<_, _>>()?;
        keys.sort_unstable();
        ensure!(keys == ["BANS:203.0.113.7", "BANS:64b0c0ffee64b0c0ffee64b0"], "{keys:?}");
        for document in &documents {
            let envelope: Value = serde_json::from_str(document.get_str("value")?)?;
            let ends = envelope["expires"].as_i64().context("it ends")?;
            ensure!(envelope["value"]["expiresAt"] == ends && envelope["value"]["type"] == "admin");
            ensure!(document.get_datetime("expiresAt")?.timestamp_millis() == ends);
            ensure!(envelope["value"]["moderation_id"] == document.get_str("uid")?);
            ensure!(document.get_str("user")? == "64b0c0ffee64b0c0ffee64b0");
            ensure!(document.get_str("ip")? == "203.0.113.7");
            ensure!(document.get_str("reason")? == "spam" && document.get_str("host")? == "alpha");
        }
        // It is not told back: what came from elsewhere is not this host's to share.
        let listed = Caller::operator(&beta).get("/v1/bans")?;
        ensure!(listed["bans"][0]["by"] == "host:alpha", "{listed}");
        ensure!(super::metric(&beta, "moderation_ledger_shipped_total")? == 0.0);
        Ok(())
    })
}

#[test]
fn a_lift_on_any_host_is_one_on_all_and_leaves_no_document_and_no_copy() -> Result<()> {
    Mongod::each(|mongod| {
        let (alpha, beta) = (mongod.host("alpha", json!({}))?, mongod.host("beta", json!({}))?);
        let base = mongod.base()?;
        for (lifting, other) in [(&alpha, &beta), (&beta, &alpha)] {
            ban(&alpha, &json!({ "user": "anna", "ip": "203.0.113.7", "duration": "1h" }))?;
            await_banned(&[&alpha, &beta], "user=anna", true)?;
            let documents = await_documents(&base, &doc! { "type": "ban" }, 2)?;
            // LibreChat's copies, one of them under an address that nobody banned.
            let value = documents[0].get_str("value")?;
            let keys = ["ban:anna", "ban:203.0.113.7"];
            let copies = keys.map(|key| doc! { "key": key, "value": value });
            base.insert(LOGS, copies.to_vec())?;
            Caller::operator(lifting).delete("/v1/bans?user=anna")?;
            await_banned(&[lifting, other], "user=anna", false)?;
            await_banned(&[lifting, other], "ip=203.0.113.7", false)?;
            await_documents(&base, &doc! { "type": "ban" }, 0)?;
            await_documents(&base, &doc! { "key": { "$regex": "^ban:" } }, 0)?;
        }
        Ok(())
    })
}

#[test]
fn a_host_that_was_away_learns_of_bans_and_of_lifts() -> Result<()> {
    Mongod::each(|mongod| {
        let alpha = mongod.host("alpha", json!({}))?;
        let mut beta = mongod.host("beta", json!({}))?;
        ban(&alpha, &json!({ "user": "anna" }))?;
        await_banned(&[&beta], "user=anna", true)?;
        beta.kill()?;
        Caller::operator(&alpha).delete("/v1/bans?user=anna")?;
        ban(&alpha, &json!({ "user": "bert" }))?;
        super::await_told(&alpha)?;
        beta.start()?;
        await_banned(&[&beta], "user=anna", false)?;
        await_banned(&[&beta], "user=bert", true)?;
        ensure!(is_banned(&alpha, "user=bert")? && !is_banned(&alpha, "user=anna")?);
        Ok(())
    })
}

#[test]
fn bans_of_before_are_shared_when_sharing_begins() -> Result<()> {
    Mongod::each(|mongod| {
        let uri = mongod.server().uri();
        let mut alpha = moderation_tests::daemon::Setup::new()
            .overrides(json!({ "network": { "mode": "off" } }))
            .credential("mongo-uri", &uri)
            .credential("ledger-key", super::KEY)
            .start()?;
        ban(&alpha, &json!({ "user": "anna" }))?;
        ban(&alpha, &json!({ "ip": "2001:db8:0:7::/64" }))?;
        alpha.reconfigure(&json!({ "mongodb": { "enabled": true, "host": "alpha" } }))?;
        alpha.restart()?;
        let beta = mongod.host("beta", json!({}))?;
        await_banned(&[&beta], "user=anna", true)?;
        await_banned(&[&beta], "ip=2001:db8:0:7::1", true)
    })
}

#[test]
fn no_host_bans_whom_it_guards_allows_or_protects_whatever_others_say() -> Result<()> {
    Mongod::each(|mongod| {
        let alpha = mongod.host("alpha", json!({}))?;
        let beta = mongod.host(
            "beta",
            json!({
                "allowlist": ["203.0.113.0/28"],
                "bans": { "protected": { "users": ["anna"], "roles": [] } },
            }),
        )?;
        ban(&alpha, &json!({ "ip": "203.0.113.7" }))?;
        // One violation is enough: somebody who calls with curl.
        let script = json!({ "user": "anna", "ip": "203.0.113.99", "user_agent": "curl/8" });
        Caller::app(&alpha).event("message", &script)?;
        ensure!(is_banned(&alpha, "user=anna")?, "alpha protects nobody");
        ban(&alpha, &json!({ "user": "last" }))?;
        await_banned(&[&beta], "user=last", true)?;
        ensure!(!is_banned(&beta, "ip=203.0.113.7")? && !is_banned(&beta, "user=anna")?);
        let refused = |reason| format!("moderation_bans_refused_total{{reason=\"{reason}\"}}");
        ensure!(super::metric(&beta, &refused("protected"))? >= 1.0);
        ensure!(super::metric(&beta, &refused("protected_user"))? >= 1.0);
        Ok(())
    })
}

#[test]
fn a_ban_that_ends_is_no_pardon_and_its_documents_vanish() -> Result<()> {
    Mongod::each(|mongod| {
        let (alpha, beta) = (mongod.host("alpha", json!({}))?, mongod.host("beta", json!({}))?);
        ban(&alpha, &json!({ "user": "anna", "duration": "2s" }))?;
        await_banned(&[&beta], "user=anna", true)?;
        let base = mongod.base()?;
        await_documents(&base, &doc! { "type": "ban" }, 1)?;
        await_banned(&[&alpha, &beta], "user=anna", false)?;
        await_documents(&base, &doc! { "type": "ban" }, 0)?;
        for daemon in [&alpha, &beta] {
            let all = Caller::operator(daemon).get("/v1/bans?all=true")?;
            ensure!(all["bans"][0]["lifted_by"].is_null(), "{all}");
        }
        Ok(())
    })
}

#[test]
fn a_ban_ends_the_users_sessions_where_that_is_wanted() -> Result<()> {
    Mongod::each(|mongod| {
        let base = mongod.base()?;
        let id = "64b0c0ffee64b0c0ffee64b0";
        let user = mongodb::bson::oid::ObjectId::parse_str(id)?;
        let other = mongodb::bson::oid::ObjectId::new();
        base.insert("sessions", vec![doc! { "user": user }, doc! { "user": other }])?;
        let alpha = mongod.host("alpha", json!({ "mongodb": { "end_sessions": true } }))?;
        ban(&alpha, &json!({ "user": id }))?;
        moderation_tests::wait::until("the session to end", super::PATIENCE, || {
            Ok((base.find("sessions", doc! { "user": user })?.is_empty()).then_some(()))
        })?;
        ensure!(base.find("sessions", doc! { "user": other })?.len() == 1);
        Ok(())
    })
}

#[test]
fn two_hosts_that_ban_one_user_at_once_leave_one_document() -> Result<()> {
    Mongod::each(|mongod| {
        let (alpha, beta) = (mongod.host("alpha", json!({}))?, mongod.host("beta", json!({}))?);
        ban(&alpha, &json!({ "user": "anna", "duration": "1h" }))?;
        ban(&beta, &json!({ "user": "anna", "duration": "2h" }))?;
        super::await_told(&alpha)?;
        super::await_told(&beta)?;
        let base = mongod.base()?;
        let longest = doc! { "key": "BANS:anna", "host": "beta" };
        await_documents(&base, &longest, 1)?;
        await_documents(&base, &doc! { "key": "BANS:anna" }, 1)?;
        Ok(())
    })
}

#[test]
fn a_ban_is_felt_on_the_other_host_within_a_moment() -> Result<()> {
    Mongod::each(|mongod| {
        let (alpha, beta) = (mongod.host("alpha", json!({}))?, mongod.host("beta", json!({}))?);
        let mut slowest = Duration::ZERO;
        for number in 0..5 {
            let begun = Instant::now();
            ban(&alpha, &json!({ "user": format!("user{number}") }))?;
            await_banned(&[&beta], &format!("user=user{number}"), true)?;
            slowest = slowest.max(begun.elapsed());
        }
        ensure!(slowest < Duration::from_secs(2), "it took {slowest:?}");
        Ok(())
    })
}
