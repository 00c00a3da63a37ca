//! Documents that people delete, as LibreChat's documentation tells them to.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use moderation_tests::caller::Caller;
use mongodb::bson::{Document, doc};
use serde_json::json;

use super::{
    LOGS, Mongod, await_banned, await_documents, await_told, ban, is_banned, of_librechat,
};

/// How long a deletion may take to be felt, on a machine that is busy with tests.
const FELT_WITHIN: Duration = Duration::from_secs(2);

fn by_hand(filter: &Document) -> Result<()> {
    Mongod::each(|mongod| {
        let (alpha, beta) = (mongod.host("alpha", json!({}))?, mongod.host("beta", json!({}))?);
        let base = mongod.base()?;
        ban(&alpha, &json!({ "user": "anna", "ip": "203.0.113.7", "duration": "1h" }))?;
        ban(&alpha, &json!({ "user": "bert", "duration": "1h" }))?;
        await_banned(&[&alpha, &beta], "user=anna", true)?;
        await_banned(&[&alpha, &beta], "user=bert", true)?;
        await_told(&alpha)?;
        let document = await_documents(&base, &doc! { "key": "BANS:anna" }, 1)?.remove(0);
        let copy = doc! { "key": "ban:anna", "value": document.get_str("value")? };
        base.insert(LOGS, vec![copy])?;
        let begun = Instant::now();
        ensure!(base.delete(LOGS, filter.clone())? >= 1, "{filter} deletes something");
        await_banned(&[&alpha, &beta], "user=anna", false)?;
        await_banned(&[&alpha, &beta], "ip=203.0.113.7", false)?;
        let elapsed = begun.elapsed();
        ensure!(elapsed < FELT_WITHIN, "it took {elapsed:?}");
        // Siblings and copies go with it, others stay.
        await_documents(&base, &doc! { "type": "ban" }, 1)?;
        await_documents(&base, &doc! { "key": { "$regex": "^ban:" } }, 0)?;
        ensure!(is_banned(&alpha, "user=bert")? && is_banned(&beta, "user=bert")?);
        // It stays so.
        await_told(&alpha)?;
        await_told(&beta)?;
        ensure!(!is_banned(&alpha, "user=anna")? && !is_banned(&beta, "user=anna")?);
        Ok(())
    })
}

#[test]
fn deleting_the_users_document_lifts_the_whole_ban_on_every_host() -> Result<()> {
    by_hand(&doc! { "key": "BANS:anna" })
}

#[test]
fn deleting_the_addresss_document_lifts_the_whole_ban_on_every_host() -> Result<()> {
    by_hand(&doc! { "key": "BANS:203.0.113.7" })
}

#[test]
fn deleting_by_user_and_type_lifts_as_the_documentation_promises() -> Result<()> {
    by_hand(&doc! { "user": "anna", "type": "ban" })
}

#[test]
fn what_is_deleted_while_a_host_is_away_is_lifted_when_it_is_back() -> Result<()> {
    Mongod::each(|mongod| {
        let mut alpha = mongod.host("alpha", json!({}))?;
        ban(&alpha, &json!({ "user": "anna" }))?;
        await_told(&alpha)?;
        ban(&alpha, &json!({ "user": "bert" }))?;
        await_told(&alpha)?;
        alpha.kill()?;
        mongod.base()?.delete(LOGS, doc! { "key": "BANS:anna" })?;
        alpha.start()?;
        await_banned(&[&alpha], "user=anna", false)?;
        ensure!(is_banned(&alpha, "user=bert")?);
        Ok(())
    })
}

#[test]
fn the_next_violation_after_a_pardon_brings_no_ban() -> Result<()> {
    Mongod::each(|mongod| {
        let alpha = mongod.host("alpha", json!({}))?;
        let script = json!({ "user": "anna", "ip": "203.0.113.7", "user_agent": "curl/8" });
        Caller::app(&alpha).event("message", &script)?;
        ensure!(is_banned(&alpha, "user=anna")?);
        await_told(&alpha)?;
        mongod.base()?.delete(LOGS, doc! { "key": "BANS:anna" })?;
        await_banned(&[&alpha], "user=anna", false)?;
        Caller::app(&alpha).event("message", &script)?;
        ensure!(!is_banned(&alpha, "user=anna")?, "one is spared");
        Ok(())
    })
}

#[test]
fn copies_that_librechat_made_for_others_are_removed_while_the_ban_stands() -> Result<()> {
    Mongod::each(|mongod| {
        let alpha = mongod.host("alpha", json!({}))?;
        let base = mongod.base()?;
        ban(&alpha, &json!({ "user": "anna", "ip": "203.0.113.7" }))?;
        let documents = await_documents(&base, &doc! { "type": "ban" }, 2)?;
        await_told(&alpha)?;
        let value = documents[0].get_str("value")?;
        let keys = ["ban:anna", "ban:203.0.113.7", "ban:198.51.100.1", "ban:bert"];
        base.insert(LOGS, keys.map(|key| doc! { "key": key, "value": value }).to_vec())?;
        await_documents(&base, &doc! { "key": { "$in": ["ban:198.51.100.1", "ban:bert"] } }, 0)?;
        let rightful = doc! { "key": { "$in": ["ban:anna", "ban:203.0.113.7"] } };
        ensure!(base.find(LOGS, rightful)?.len() == 2, "these are about whom was banned");
        ensure!(is_banned(&alpha, "user=anna")?);
        Ok(())
    })
}

#[test]
fn copies_go_in_whatever_way_they_write_the_address() -> Result<()> {
    let copies = [
        "ban:2001:DB8::7",
        "ban:2001:0db8:0000:0000:0000:0000:0000:0007",
        "ban:ban_cache:ip:2001:db8:0::7",
        "ban:2001:db8::7",
    ];
    let copy = |key: &str, value: &str| doc! { "key": key, "value": value };
    Mongod::each(|mongod| {
        let (base, alpha) = (mongod.base()?, mongod.host("alpha", json!({}))?);
        // LibreChat's own, whose copies no name of ours is in.
        let foreign = of_librechat("BANS:2001:DB8::7", Duration::from_secs(3_600));
        let value = foreign.get_str("value")?.to_owned();
        base.insert(LOGS, vec![foreign])?;
        await_banned(&[&alpha], "ip=2001:db8::7", true)?;
        let others = ["ban:2001:db8::8", "ban:anna", "ban:192.0.2.7"];
        let all = copies.iter().chain(&others).map(|key| copy(key, &value));
        base.insert(LOGS, all.collect::<Vec<_>>())?;
        base.delete(LOGS, doc! { "key": "BANS:2001:DB8::7" })?;
        await_banned(&[&alpha], "ip=2001:db8::7", false)?;
        await_documents(&base, &doc! { "key": { "$in": copies.to_vec() } }, 0)?;
        await_documents(&base, &doc! { "key": { "$in": others.to_vec() } }, others.len())?;
        // Ours, with its name in them: they stay as long as the ban.
        ban(&alpha, &json!({ "ip": "203.0.113.7" }))?;
        let own = await_documents(&base, &doc! { "key": "BANS:203.0.113.7" }, 1)?.remove(0);
        await_told(&alpha)?;
        let mapped = ["ban:::ffff:203.0.113.7", "ban:::ffff:cb00:7107"];
        base.insert(LOGS, mapped.map(|key| copy(key, own.get_str("value").unwrap_or_default())))?;
        ban(&alpha, &json!({ "user": "last" }))?;
        await_documents(&base, &doc! { "key": "BANS:last" }, 1)?;
        let mapped = doc! { "key": { "$in": mapped.to_vec() } };
        await_documents(&base, &mapped, 2)?;
        Caller::operator(&alpha).delete("/v1/bans?ip=203.0.113.7")?;
        await_documents(&base, &mapped, 0)?;
        Ok(())
    })
}

#[test]
fn a_ban_is_shown_with_where_it_comes_from() -> Result<()> {
    Mongod::each(|mongod| {
        let (alpha, beta) = (mongod.host("alpha", json!({}))?, mongod.host("beta", json!({}))?);
        ban(&alpha, &json!({ "user": "anna" }))?;
        let base = mongod.base()?;
        base.insert(LOGS, vec![of_librechat("BANS:bert", Duration::from_secs(3_600))])?;
        for user in ["anna", "bert"] {
            await_banned(&[&alpha, &beta], &format!("user={user}"), true)?;
        }
        let cases =
            [(&alpha, "anna", "here"), (&beta, "anna", "host:alpha"), (&beta, "bert", "foreign")];
        for (host, user, want) in cases {
            let all = Caller::operator(host).get("/v1/bans")?;
            let of_user = |it: &&serde_json::Value| it["user"] == user;
            let shown = all["bans"].as_array().and_then(|all| all.iter().find(of_user).cloned());
            ensure!(shown.is_some_and(|it| it["origin"] == want), "{want}: {all}");
            let explained = Caller::operator(host).get(&format!("/v1/explain?user={user}"))?;
            ensure!(explained["bans"][0]["origin"] == want, "{explained}");
        }
        ensure!(beta.ctl(&["list"])?.success()?.contains("host:alpha"));
        let told = beta.ctl(&["explain", "anna"])?.success()?;
        ensure!(told.contains("comes from host alpha"), "{told}");
        Ok(())
    })
}
