//! Documents that no host has signed: LibreChat's own, and what somebody may write there.

use std::time::Duration;

use anyhow::{Result, ensure};
use moderation_tests::caller::Caller;
use mongodb::bson::{Binary, Bson, Document, doc, spec::BinarySubtype};
use serde_json::json;

use super::{
    LOGS, Mongod, await_banned, await_documents, await_told, ban, is_banned, metric, of_librechat,
};

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn a_ban_of_librechats_own_holds_at_the_api_until_it_ends_or_is_lifted() -> Result<()> {
    Mongod::each(|mongod| {
        let alpha = mongod.host("alpha", json!({}))?;
        let base = mongod.base()?;
        base.insert(
            LOGS,
            vec![
                of_librechat("BANS:anna", HOUR),
                of_librechat("BANS:203.0.113.7", HOUR),
                of_librechat("BANS:bert", HOUR),
            ],
        )?;
        for subject in ["user=anna", "ip=203.0.113.7", "user=bert"] {
            await_banned(&[&alpha], subject, true)?;
        }
        let listed = Caller::operator(&alpha).get("/v1/bans")?;
        for one in listed["bans"].as_array().into_iter().flatten() {
            ensure!(one["by"] == "foreign" && one["network"] != "pending", "{one}");
        }
        // Lifted here, the document goes; deleted there, the ban goes.
        Caller::operator(&alpha).delete("/v1/bans?user=anna")?;
        await_documents(&base, &doc! { "key": "BANS:anna" }, 0)?;
        base.delete(LOGS, doc! { "key": "BANS:bert" })?;
        await_banned(&[&alpha], "user=bert", false)?;
        await_told(&alpha)?;
        ensure!(!is_banned(&alpha, "user=anna")? && is_banned(&alpha, "ip=203.0.113.7")?);
        Ok(())
    })
}

#[test]
fn what_librechat_makes_of_our_document_is_foreign_and_deleting_it_lifts_all() -> Result<()> {
    Mongod::each(|mongod| {
        let alpha = mongod.host("alpha", json!({}))?;
        let base = mongod.base()?;
        ban(&alpha, &json!({ "user": "anna", "duration": "30m" }))?;
        await_told(&alpha)?;
        // LibreChat bans anew, by the key, and knows nothing of the other fields.
        let new = of_librechat("BANS:anna", 2 * HOUR);
        let set =
            doc! { "value": new.get_str("value")?, "expiresAt": *new.get_datetime("expiresAt")? };
        let update = [doc! { "q": { "key": "BANS:anna" }, "u": { "$set": set } }];
        base.run(doc! { "update": LOGS, "updates": update.to_vec() })?;
        moderation_tests::wait::until("a foreign ban", super::PATIENCE, || {
            let bans = Caller::operator(&alpha).get("/v1/bans")?;
            Ok((bans["bans"].as_array().is_some_and(|it| it.len() == 2)).then_some(()))
        })?;
        base.delete(LOGS, doc! { "key": "BANS:anna" })?;
        await_banned(&[&alpha], "user=anna", false)
    })
}

/// Documents by which nobody must be banned, and nothing stop.
fn hostile() -> Vec<Document> {
    let value = |text: &str| Bson::from(text.to_owned());
    let signed = |key: &str| {
        let mut document = of_librechat(key, HOUR);
        document.extend(doc! {
            "type": "ban", "uid": "f".repeat(32), "revision": i64::MAX, "host": "alpha",
            "blocks": true, "by": "root", "reason": "x", "ip": "0.0.0.0/0",
            "createdAt": mongodb::bson::DateTime::now(),
            "mac": Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 32] },
        });
        document
    };
    let mut deep = Bson::Int32(1);
    for _ in 0..50 {
        deep = Bson::Document(doc! { "a": deep });
    }
    vec![
        of_librechat("BANS:127.0.0.1", HOUR),
        of_librechat("BANS:::1", HOUR),
        of_librechat("BANS:::ffff:127.0.0.1", HOUR),
        of_librechat("BANS:10.1.2.3", HOUR),
        of_librechat("BANS:0.0.0.0/0", HOUR),
        of_librechat("BANS:198.51.100.9", HOUR),
        of_librechat("BANS:", HOUR),
        signed("BANS:127.0.0.2"),
        doc! { "key": 7, "value": 7, "expiresAt": "soon" },
        doc! { "key": "BANS:w1", "value": 7, "expiresAt": "soon" },
        doc! { "key": "BANS:w2", "value": value("{{{{"), "expiresAt": true },
        doc! { "key": "BANS:w3", "value": deep },
        doc! { "key": "BANS:w4", "value": "x".repeat(1_000_000) },
        doc! { "key": "BANS:w5", "value": value("{\"value\":{},\"expires\":\"never\"}") },
        doc! { "key": "BANS:w6", "value": value(&"[".repeat(5_000)) },
        doc! { "key": format!("BANS:{}", "k".repeat(100_000)), "value": value("{\"value\":{}}") },
        doc! { "key": "BANS:w7\u{0}\u{1b}[2J", "value": value("{\"value\":{}}") },
        doc! { "key": format!("LIFTS:{}", "f".repeat(32)), "type": "lift", "uid": "f".repeat(32) },
        doc! { "key": "ban:w8", "value": value("{\"value\":{\"moderation_id\":7}}") },
        doc! { "_id": "x".repeat(100_000), "key": "BANS:w9", "value": value("{\"value\":{}}") },
    ]
}

#[test]
fn hostile_documents_ban_nobody_and_stop_nothing() -> Result<()> {
    Mongod::each(|mongod| {
        let base = mongod.base()?;
        base.insert(LOGS, hostile())?;
        let overrides = json!({ "allowlist": ["198.51.100.0/24"] });
        let mut alpha = mongod.host("alpha", overrides)?;
        base.insert(
            LOGS,
            hostile().into_iter().map(|mut it| {
                it.remove("_id");
                it
            }),
        )?;
        ban(&alpha, &json!({ "user": "last" }))?;
        await_told(&alpha)?;
        await_documents(&base, &doc! { "key": "BANS:last" }, 1)?;
        for round in ["while it runs", "after a restart"] {
            for ip in ["127.0.0.1", "127.0.0.2", "::1", "10.1.2.3", "198.51.100.9", "8.8.8.8"] {
                ensure!(!is_banned(&alpha, &format!("ip={ip}"))?, "{ip} {round}");
            }
            for user in ["w1", "w2", "w3", "w4", "w5", "w6", "w8"] {
                ensure!(!is_banned(&alpha, &format!("user={user}"))?, "{user} {round}");
            }
            ensure!(is_banned(&alpha, "user=last")?, "{round}");
            alpha.restart()?;
            super::await_sharing(&alpha)?;
        }
        ensure!(metric(&alpha, "moderation_ledger_alarms_total{reason=\"unusable\"}")? >= 1.0);
        ensure!(metric(&alpha, "moderation_ledger_alarms_total{reason=\"forged\"}")? >= 1.0);
        Ok(())
    })
}

#[test]
fn a_flood_of_foreign_documents_is_bounded_and_keeps_no_ban_out() -> Result<()> {
    Mongod::each(|mongod| {
        let base = mongod.base()?;
        let overrides = json!({ "mongodb": { "foreign": { "max": 100 } } });
        let alpha = mongod.host("alpha", overrides)?;
        let flood = (0..5_000).map(|it| of_librechat(&format!("BANS:flood{it}"), HOUR));
        base.insert(LOGS, flood)?;
        super::await_metric(
            &alpha,
            "moderation_ledger_alarms_total{reason=\"foreign_full\"}",
            1.0,
        )?;
        // Somebody keeps the place of a ban that is to come.
        base.insert(LOGS, vec![of_librechat("BANS:anna", 1_000 * HOUR)])?;
        ban(&alpha, &json!({ "user": "anna", "duration": "1h" }))?;
        await_documents(&base, &doc! { "key": "BANS:anna", "host": "alpha" }, 1)?;
        await_documents(&base, &doc! { "key": "BANS:anna" }, 1)?;
        let status = alpha.status()?;
        ensure!(status["bans"]["active"].as_u64().is_some_and(|it| it <= 102), "{status}");
        let beta = mongod.host("beta", json!({ "mongodb": { "foreign": { "max": 100 } } }))?;
        await_banned(&[&beta], "user=anna", true)
    })
}

#[test]
fn rules_go_on_banning_whatever_foreign_documents_come() -> Result<()> {
    Mongod::each(|mongod| {
        let overrides = json!({
            "bans": { "max_per_minute": 2 },
            "mongodb": { "foreign": { "network_block": true, "max_per_minute": 2 } },
        });
        let alpha = mongod.host("alpha", overrides)?;
        let many = (1..=50).map(|it| of_librechat(&format!("BANS:203.0.113.{it}"), HOUR));
        mongod.base()?.insert(LOGS, many)?;
        let runaway = "moderation_ledger_alarms_total{reason=\"foreign_runaway\"}";
        super::await_metric(&alpha, runaway, 1.0)?;
        ensure!(alpha.status()?["automatic_bans"] == "on");
        let script = json!({ "user": "anna", "user_agent": "curl/8" });
        Caller::app(&alpha).event("message", &script)?;
        ensure!(is_banned(&alpha, "user=anna")?);
        Ok(())
    })
}
