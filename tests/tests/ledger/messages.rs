//! Bans by message, where there is a Redis besides: they are felt though the database is not
//! there, nobody who has no key can say any, and when the documents come nothing is doubled.

use anyhow::{Result, ensure};
use moderation_daemon::engine::{Author, Ban, UserId};
use moderation_daemon::ledger::{BanDocument, MacKey, Origin, Said, SharedBan, Uid};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::lab::{ABUSER_V4, HOST_V4, INTERFACE, Lab};
use moderation_tests::mongod::Set;
use moderation_tests::redis::{Redis, Wire};
use moderation_tests::{need, wait};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, DateTime, Document, doc};
use serde_json::{Value, json};

use super::packets::await_dropped;
use super::{
    KEY, PATIENCE, await_banned, await_documents, await_metric, await_told, ban, is_banned, metric,
};

const CHANNEL: &str = "moderation:bans";

fn is_possible() -> bool {
    let found = std::process::Command::new("redis-server").arg("--version").output();
    super::is_possible() && need::is_met("redis-server", found.is_ok())
}

/// With Redis by its Unix socket, which every network namespace reaches.
fn section(redis: &Redis) -> Value {
    let uri = format!("redis+unix://{}", redis.socket().display());
    json!({ "enabled": true, "uri": uri, "longest_pause": "200ms" })
}

fn host(set: &Set, redis: &Redis, name: &str) -> Result<Daemon> {
    let uri = set.members[0].uri();
    let daemon = super::host(&uri, name, json!({ "redis": section(redis) }))?;
    await_listening(&daemon)?;
    Ok(daemon)
}

fn await_listening(daemon: &Daemon) -> Result<()> {
    wait::until("a host to listen", PATIENCE, || {
        Ok((daemon.status()?["sharing"]["messages"]["listening"] == true).then_some(()))
    })
}

fn refused(reason: &str) -> String {
    format!("moderation_ledger_messages_refused_total{{reason=\"{reason}\"}}")
}

/// Hears what hosts say.
struct Eavesdropper(Wire);

impl Eavesdropper {
    fn new(redis: &Redis) -> Result<Self> {
        let mut wire = Wire::open(redis.port())?;
        wire.ask(&["SUBSCRIBE", CHANNEL])?;
        Ok(Self(wire))
    }

    fn next(&mut self) -> Result<String> {
        let message = self.0.read()?;
        Ok(message.lines().last().unwrap_or_default().to_owned())
    }
}

fn say(redis: &Redis, message: &str) -> Result<()> {
    redis.ask(&["PUBLISH", CHANNEL, message]).map(drop)
}

#[test]
fn a_ban_drops_packets_elsewhere_while_mongod_stands_still_and_is_the_same_one_afterwards()
-> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let (set, redis) = (Set::start(1)?, Redis::start()?);
    let lab = Lab::new()?;
    let alpha = host(&set, &redis, "alpha")?;
    let overrides = json!({
        "mongodb": { "enabled": true, "host": "beta" },
        "redis": section(&redis),
    });
    let beta = Setup::new()
        .inside(&lab.host)
        .interface(INTERFACE)
        .overrides(overrides)
        .credential("mongo-uri", &set.members[0].uri())
        .credential("ledger-key", KEY)
        .start()?;
    super::await_sharing(&beta)?;
    await_listening(&beta)?;
    set.members[0].freeze()?;
    let body = json!({ "ip": ABUSER_V4.to_string(), "duration": "1h" });
    ban(&alpha, &body)?;
    await_dropped(&lab, HOST_V4.into(), &beta, true)?;
    Caller::operator(&beta).delete(&format!("/v1/bans?ip={ABUSER_V4}"))?;
    await_dropped(&lab, HOST_V4.into(), &beta, false)?;
    await_banned(&[&alpha], &format!("ip={ABUSER_V4}"), false)?;
    ban(&alpha, &body)?;
    await_dropped(&lab, HOST_V4.into(), &beta, true)?;
    set.members[0].thaw()?;
    await_told(&alpha)?;
    await_told(&beta)?;
    await_documents(&set.members[0].base()?, &doc! { "type": "ban" }, 1)?;
    await_documents(&set.members[0].base()?, &doc! { "type": "lift" }, 1)?;
    for (daemon, by) in [(&alpha, "root"), (&beta, "host:alpha")] {
        let all = Caller::operator(daemon).get("/v1/bans?all=true")?;
        let bans = all["bans"].as_array().cloned().unwrap_or_default();
        let (active, over): (Vec<_>, Vec<_>) =
            bans.iter().partition(|ban| ban["lifted_by"].is_null());
        ensure!(active.len() == 1 && over.len() == 1, "{by}: {all}");
        ensure!(by == "root" || active[0]["by"] == by, "{by}: {all}");
    }
    let status = beta.ctl(&["status"])?.success()?;
    ensure!(status.contains("1 said, 2 heard"), "{status}");
    Ok(())
}

#[test]
fn what_is_forged_repeated_or_lifted_since_bans_nobody() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let (set, redis) = (Set::start(1)?, Redis::start()?);
    let (alpha, beta) = (host(&set, &redis, "alpha")?, host(&set, &redis, "beta")?);
    let mut ear = Eavesdropper::new(&redis)?;
    ban(&alpha, &json!({ "user": "anna", "duration": "1h" }))?;
    let fell = ear.next()?;
    await_banned(&[&beta], "user=anna", true)?;
    Caller::operator(&beta).delete("/v1/bans?user=anna")?;
    let lifted = ear.next()?;
    await_banned(&[&alpha, &beta], "user=anna", false)?;
    await_told(&alpha)?;
    await_told(&beta)?;

    // Again, as they were, in both orders.
    for message in [&fell, &lifted, &fell] {
        say(&redis, message)?;
    }
    // About somebody else, and signed with another key.
    say(&redis, &fell.replace("anna", "bert"))?;
    let carl = shared("carl", 1);
    let other = MacKey::new(b"another key than the hosts share");
    let message = Said::of(&carl, "gamma", &other).map(|it| it.to_message()).unwrap_or_default();
    say(&redis, &String::from_utf8(message)?)?;
    say(&redis, "!")?;
    await_metric(&beta, &refused("repeated"), 2.0)?;
    await_metric(&beta, &refused("forged"), 2.0)?;
    await_metric(&beta, &refused("nonsense"), 1.0)?;

    // Who has just come knows of the lift by its document alone.
    let delta = host(&set, &redis, "delta")?;
    say(&redis, &fell)?;
    await_metric(&delta, "moderation_ledger_messages_heard_total", 1.0)?;
    // A lift that comes first beats its ban.
    let mut dora = shared("dora", 2);
    let fell = message_of(&dora)?;
    dora.lifted = Some((dora.ban.created_at_unix_ms, "root".to_owned()));
    say(&redis, &message_of(&dora)?)?;
    say(&redis, &fell)?;
    // And if the ban comes by its document.
    let mut eve = shared("eve", 3);
    let document = document_of(&eve);
    eve.lifted = Some((eve.ban.created_at_unix_ms, "root".to_owned()));
    say(&redis, &message_of(&eve)?)?;
    ban(&alpha, &json!({ "user": "last" }))?;
    await_banned(&[&beta, &delta], "user=last", true)?;
    set.members[0].base()?.insert(super::LOGS, vec![document])?;
    for daemon in [&alpha, &beta, &delta] {
        wait::until("both documents to be seen", PATIENCE, || {
            Ok((daemon.status()?["sharing"]["documents"] == 2).then_some(()))
        })?;
    }
    for (daemon, user) in [&alpha, &beta, &delta]
        .into_iter()
        .flat_map(|daemon| ["anna", "bert", "carl", "dora", "eve"].map(|user| (daemon, user)))
    {
        ensure!(!is_banned(daemon, &format!("user={user}"))?, "{user} is banned");
    }
    let log = beta.log();
    ensure!(log.contains("a message about bans is not heeded"), "{log}");
    ensure!(metric(&alpha, "moderation_ledger_messages_sent_total")? >= 2.0);
    Ok(())
}

fn shared(user: &str, number: u8) -> SharedBan {
    let at = DateTime::now().timestamp_millis().unsigned_abs();
    let ban = Ban {
        id: 0,
        user: user.parse::<UserId>().ok(),
        prefix: None,
        blocks: false,
        reason: "test".to_owned(),
        violation: None,
        score: None,
        created_at_unix_ms: at,
        expires_at_unix_ms: Some(at + 3_600_000),
        by: Author::Rule,
        with: None,
        severity: None,
        review: false,
    };
    SharedBan { uid: Uid::from_bytes([number; 16]), origin: Origin::Here, ban, lifted: None }
}

/// As a host of that key writes it.
fn document_of(shared: &SharedBan) -> Document {
    let date = |ms: u64| DateTime::from_millis(ms.cast_signed());
    let all = BanDocument::all(shared, "gamma", &MacKey::new(KEY.as_bytes()));
    let it = &all[0];
    let mac = Binary { subtype: BinarySubtype::Generic, bytes: it.mac.to_vec() };
    doc! {
        "_id": &it.key, "key": &it.key, "value": &it.value, "type": "ban",
        "expiresAt": it.expires_at_unix_ms.map(date), "user": it.user.as_deref(),
        "reason": &it.reason, "createdAt": date(it.created_at_unix_ms), "host": &it.host,
        "by": &it.by, "blocks": it.blocks, "revision": it.revision, "uid": it.uid.as_str(),
        "mac": mac,
    }
}

/// As a host of that key says it.
fn message_of(shared: &SharedBan) -> Result<String> {
    let said = Said::of(shared, "gamma", &MacKey::new(KEY.as_bytes()));
    Ok(String::from_utf8(said.map(|it| it.to_message()).unwrap_or_default())?)
}

#[test]
fn without_redis_bans_travel_by_documents_and_with_it_again_by_message() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let (set, mut redis) = (Set::start(1)?, Redis::start()?);
    let (alpha, beta) = (host(&set, &redis, "alpha")?, host(&set, &redis, "beta")?);
    redis.kill()?;
    ban(&alpha, &json!({ "user": "anna" }))?;
    await_banned(&[&beta], "user=anna", true)?;
    wait::until("a fault to be told", PATIENCE, || {
        let messages = alpha.status()?["sharing"]["messages"].clone();
        Ok((messages["listening"] == false && messages["fault"].is_string()).then_some(()))
    })?;
    redis.launch()?;
    await_listening(&beta)?;
    set.members[0].freeze()?;
    ban(&alpha, &json!({ "user": "bert" }))?;
    await_banned(&[&beta], "user=bert", true)?;
    set.members[0].thaw()?;
    await_told(&alpha)?;
    await_documents(&set.members[0].base()?, &doc! { "type": "ban" }, 2)?;
    for daemon in [&alpha, &beta] {
        let all = Caller::operator(daemon).get("/v1/bans?all=true")?;
        ensure!(all["bans"].as_array().is_some_and(|bans| bans.len() == 2), "{all}");
    }
    Ok(())
}

#[test]
fn a_pardon_by_deleting_is_no_matter_of_how_the_ban_was_heard_of() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let (set, redis) = (Set::start(1)?, Redis::start()?);
    let (alpha, beta) = (host(&set, &redis, "alpha")?, host(&set, &redis, "beta")?);
    set.members[0].freeze()?;
    ban(&alpha, &json!({ "user": "anna" }))?;
    await_banned(&[&beta], "user=anna", true)?;
    set.members[0].thaw()?;
    let base = set.members[0].base()?;
    await_documents(&base, &doc! { "type": "ban", "user": "anna" }, 1)?;
    wait::until("the document to be seen", PATIENCE, || {
        Ok((beta.status()?["sharing"]["documents"] == 1).then_some(()))
    })?;
    ensure!(is_banned(&alpha, "user=anna")? && is_banned(&beta, "user=anna")?, "a pardon");
    base.run(doc! { "delete": super::LOGS, "deletes": [{ "q": { "user": "anna" }, "limit": 0 }] })?;
    await_banned(&[&alpha, &beta], "user=anna", false)
}
