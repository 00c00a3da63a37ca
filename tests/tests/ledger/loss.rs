//! Documents that are gone though nobody meant it: they are written again, and nobody is
//! let in.

use anyhow::{Result, ensure};
use moderation_tests::daemon::Daemon;
use moderation_tests::mongod::Set;
use mongodb::bson::doc;
use serde_json::json;

use super::{LOGS, Mongod, await_documents, await_metric, await_told, ban, host, is_banned};

const LOSS: &str = "moderation_ledger_alarms_total{reason=\"data_loss\"}";

fn ban_many(daemon: &Daemon, count: usize) -> Result<()> {
    for number in 0..count {
        ban(daemon, &json!({ "user": format!("user{number}") }))?;
    }
    await_told(daemon)
}

fn all_banned(daemon: &Daemon, count: usize) -> Result<()> {
    for number in 0..count {
        ensure!(is_banned(daemon, &format!("user=user{number}"))?, "user{number} is let in");
    }
    Ok(())
}

#[test]
fn a_dropped_collection_is_written_again_and_pardons_nobody() -> Result<()> {
    Mongod::each(|mongod| {
        let alpha = mongod.host("alpha", json!({}))?;
        ban_many(&alpha, 3)?;
        let base = mongod.base()?;
        // One that is none of our business, and gone with it.
        base.insert(LOGS, vec![doc! { "key": "ENCODED_DOMAINS:x", "value": "{}" }])?;
        // So that the first sign of life has been left.
        await_documents(&base, &doc! { "key": "HOSTS:alpha" }, 1)?;
        base.run(doc! { "drop": LOGS })?;
        await_metric(&alpha, LOSS, 1.0)?;
        await_documents(&base, &doc! { "type": "ban" }, 3)?;
        all_banned(&alpha, 3)
    })
}

#[test]
fn more_bans_deleted_at_once_than_a_person_deletes_are_written_again() -> Result<()> {
    Mongod::each(|mongod| {
        let alpha = mongod.host("alpha", json!({}))?;
        ban_many(&alpha, 12)?;
        let base = mongod.base()?;
        base.delete(LOGS, doc! { "type": "ban" })?;
        await_metric(&alpha, LOSS, 1.0)?;
        await_documents(&base, &doc! { "type": "ban" }, 12)?;
        all_banned(&alpha, 12)
    })
}

#[test]
fn an_old_backup_lifts_nobody_and_brings_back_no_lifted_ban() -> Result<()> {
    Mongod::each(|mongod| {
        let mut alpha = mongod.host("alpha", json!({}))?;
        let base = mongod.base()?;
        ban(&alpha, &json!({ "user": "lifted" }))?;
        await_told(&alpha)?;
        await_documents(&base, &doc! { "key": "HOSTS:alpha" }, 1)?;
        let backup = base.find(LOGS, doc! {})?;
        moderation_tests::caller::Caller::operator(&alpha).delete("/v1/bans?user=lifted")?;
        ban_many(&alpha, 2)?;
        // A later sign of life than that of the backup is on record.
        alpha.restart()?;
        super::await_sharing(&alpha)?;
        let before = backup.iter().find(|it| it.get_str("key").is_ok_and(|it| it == "HOSTS:alpha"));
        let before = before.and_then(|it| it.get_datetime("beat").ok().copied());
        moderation_tests::wait::until("a later sign of life", super::PATIENCE, || {
            let now = base.find(LOGS, doc! { "key": "HOSTS:alpha" })?;
            let now = now.first().and_then(|it| it.get_datetime("beat").ok().copied());
            Ok((now > before).then_some(()))
        })?;
        // Told by the same task, after that sign of life was written down.
        ban(&alpha, &json!({ "user": "user2" }))?;
        await_told(&alpha)?;
        alpha.stop()?;
        base.delete(LOGS, doc! {})?;
        base.insert(LOGS, backup)?;
        alpha.start()?;
        await_metric(&alpha, LOSS, 1.0)?;
        let missing = doc! { "key": { "$in": ["BANS:user0", "BANS:user1", "BANS:user2"] } };
        await_documents(&base, &missing, 3)?;
        await_documents(&base, &doc! { "key": "BANS:lifted" }, 0)?;
        all_banned(&alpha, 3)?;
        ensure!(!is_banned(&alpha, "user=lifted")?);
        Ok(())
    })
}

#[test]
fn a_host_that_has_lost_its_store_finds_its_bans_again() -> Result<()> {
    Mongod::each(|mongod| {
        let mut alpha = mongod.host("alpha", json!({}))?;
        ban_many(&alpha, 2)?;
        alpha.stop()?;
        for ending in ["", "-wal", "-shm"] {
            let path = format!("{}{ending}", alpha.store_path().display());
            if std::fs::exists(&path)? {
                std::fs::remove_file(path)?;
            }
        }
        alpha.start()?;
        for number in 0..2 {
            super::await_banned(&[&alpha], &format!("user=user{number}"), true)?;
        }
        Ok(())
    })
}

#[test]
fn a_position_that_the_server_has_forgotten_pardons_nobody() -> Result<()> {
    if !super::is_possible() {
        return Ok(());
    }
    let set = Set::start(1)?;
    let uri = set.members[0].uri();
    let mut alpha = host(&uri, "alpha", json!({}))?;
    ban_many(&alpha, 2)?;
    alpha.stop()?;
    let base = set.members[0].base()?;
    // As if the oplog had rolled over: ChangeStreamHistoryLost.
    base.fail(&["aggregate"], 1, 286)?;
    base.delete(LOGS, doc! { "key": "BANS:user0" })?;
    alpha.start()?;
    await_metric(&alpha, LOSS, 1.0)?;
    await_documents(&base, &doc! { "type": "ban" }, 2)?;
    all_banned(&alpha, 2)
}
