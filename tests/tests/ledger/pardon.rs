//! Documents that people delete, as LibreChat's documentation tells them to.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use moderation_tests::caller::Caller;
use mongodb::bson::{Document, doc};
use serde_json::json;

use super::{LOGS, Mongod, await_banned, await_documents, await_told, ban, is_banned};

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
