//! The two kinds of documents that hosts write: a ban, once for each key that it bans, in
//! the form that LibreChat reads; and a lift, which outlives the ban's documents so that
//! hosts that were away learn of it. Whether one that was read can be trusted is decided
//! in `judge`.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{MacKey, SharedBan, Uid, mac::Canonical};
use crate::engine::{Author, Ban, Prefix, UserId, ViolationType};

/// What LibreChat's ban store puts in front of a user's id or an address.
pub(super) const BANS: &str = "BANS:";
/// In front of a lifted ban's name. LibreChat reads no such key.
pub(super) const LIFTS: &str = "LIFTS:";
/// What its ban cache puts there: alone, and with Redis.
pub(super) const COPIES: [&str; 3] = ["ban:ban_cache:user:", "ban:ban_cache:ip:", "ban:"];
/// Of a ban that nobody said how long it lasts, a lift is remembered so long.
const REMEMBERED_MS: u64 = 365 * 24 * 3_600_000;
/// And of any other at least so long, so that a host that is away for a day learns of it.
const AT_LEAST_MS: u64 = 24 * 3_600_000;
/// In the envelope, LibreChat's own word for a ban by hand.
const BY_HAND: &str = "admin";

/// A ban under one of its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct BanDocument {
    /// `BANS:` and a user's id, an address, or a prefix, which LibreChat never asks for.
    pub key: String,
    /// Keyv's envelope, as JSON.
    pub value: String,
    /// When it ends, in milliseconds since 1970; `None`: never.
    pub expires_at_unix_ms: Option<u64>,
    /// The banned user.
    pub user: Option<String>,
    /// The banned address or prefix.
    pub ip: Option<String>,
    /// Why, for people.
    pub reason: String,
    /// The violation that led to it.
    pub violation: Option<String>,
    /// The score that led to it.
    pub score: Option<f64>,
    /// Since when, in milliseconds since 1970.
    pub created_at_unix_ms: u64,
    /// The host that made it.
    pub host: String,
    /// 1; a lift is 2.
    pub revision: i64,
    /// The ban's name.
    pub uid: Uid,
    /// Whether kernels are to drop the address's packets.
    pub blocks: bool,
    /// `rule`, or an operator's name.
    pub by: String,
    /// Over all of the above.
    pub mac: [u8; 32],
}

/// The end of a ban before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiftDocument {
    /// `LIFTS:` and the ban's name.
    pub key: String,
    /// The ban's name.
    pub uid: Uid,
    /// 2.
    pub revision: i64,
    /// The host that says so.
    pub host: String,
    /// Who lifted it.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub created_at_unix_ms: u64,
    /// When nobody needs to know any more, in milliseconds since 1970.
    pub forget_at_unix_ms: u64,
    /// Over all of the above.
    pub mac: [u8; 32],
}

/// The keys under which a ban stands: that of its user, and that of its address.
pub fn keys(ban: &Ban) -> Vec<String> {
    let user = ban.user.as_ref().map(|user| format!("{BANS}{user}"));
    let prefix = ban.prefix.map(|prefix| format!("{BANS}{}", address(prefix)));
    user.into_iter().chain(prefix).collect()
}

/// The keys under which LibreChat keeps a copy of what stands under `key`.
pub fn copy_keys(key: &str) -> Vec<String> {
    let subject = key.strip_prefix(BANS).unwrap_or(key);
    COPIES.iter().map(|prefix| format!("{prefix}{subject}")).collect()
}

/// The address of a key, if there is one that can be written in several ways: in capitals,
/// with or without zeros, as IPv6. `LibreChat` has it from whoever called.
pub fn address_of(key: &str) -> Option<IpAddr> {
    let of_copy = COPIES.iter().find_map(|prefix| key.strip_prefix(prefix));
    let text = key.strip_prefix(BANS).or(of_copy)?;
    Some(text.parse::<IpAddr>().ok()?.to_canonical())
}

/// A single address without its length, as LibreChat writes it.
fn address(prefix: Prefix) -> String {
    let net = prefix.net();
    let is_single = net.prefix_len() == net.max_prefix_len();
    if is_single { net.addr().to_string() } else { net.to_string() }
}

/// Whom a key is about, after `BANS:`; never a prefix of several addresses unless it is
/// written as one.
pub fn subject(key: &str) -> Option<(Option<UserId>, Option<Prefix>)> {
    let text = key.strip_prefix(BANS)?;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((None, Some(Prefix::around(ip, 128))));
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return Some((None, Some(Prefix::new(net).ok()?)));
    }
    Some((Some(text.parse().ok()?), None))
}

impl BanDocument {
    /// All documents of a ban that this host shares, signed.
    pub fn all(shared: &SharedBan, host: &str, mac: &MacKey) -> Vec<Self> {
        keys(&shared.ban).into_iter().map(|key| Self::of(shared, key, host, mac)).collect()
    }

    fn of(shared: &SharedBan, key: String, host: &str, mac: &MacKey) -> Self {
        let SharedBan { uid, ban, .. } = shared;
        let mut document = Self {
            value: envelope(ban, uid),
            expires_at_unix_ms: ban.expires_at_unix_ms,
            user: ban.user.as_ref().map(ToString::to_string),
            ip: ban.prefix.map(address),
            reason: ban.reason.clone(),
            violation: ban.violation.map(|kind| kind.name().to_owned()),
            score: ban.score,
            created_at_unix_ms: ban.created_at_unix_ms,
            host: host.to_owned(),
            revision: 1,
            uid: uid.clone(),
            blocks: ban.blocks,
            by: ban.by.name().to_owned(),
            mac: [0; 32],
            key,
        };
        document.mac = mac.sign(&document.canonical());
        document
    }

    /// The bytes that are signed.
    pub(super) fn canonical(&self) -> Vec<u8> {
        let mut bytes = Canonical::new("ban");
        bytes.text(&self.key);
        bytes.text(&self.value);
        bytes.number(self.expires_at_unix_ms);
        bytes.optional(self.user.as_deref());
        bytes.optional(self.ip.as_deref());
        bytes.text(&self.reason);
        bytes.optional(self.violation.as_deref());
        bytes.number(self.score.map(f64::to_bits));
        bytes.number(Some(self.created_at_unix_ms));
        bytes.text(&self.host);
        bytes.number(Some(self.revision.cast_unsigned()));
        bytes.text(self.uid.as_str());
        bytes.number(Some(u64::from(self.blocks)));
        bytes.text(&self.by);
        bytes.finish()
    }

    /// The ban that it stands for, here without a number; `None`: it is about nobody whom
    /// this host could ban.
    pub fn ban(&self) -> Option<Ban> {
        let user = self.user.as_deref().map(str::parse).transpose().ok()?;
        let prefix = self.ip.as_deref().map(str::parse).transpose().ok()?;
        if user.is_none() && prefix.is_none() {
            return None;
        }
        let by = if self.by == Author::Rule.name() {
            Author::Rule
        } else {
            Author::Operator(Arc::from(format!("host:{}", self.host)))
        };
        Some(Ban {
            id: 0,
            user,
            prefix,
            blocks: self.blocks,
            reason: self.reason.clone(),
            violation: self.violation.as_deref().and_then(ViolationType::from_name),
            score: self.score,
            created_at_unix_ms: self.created_at_unix_ms,
            expires_at_unix_ms: self.expires_at_unix_ms,
            by,
            with: None,
            severity: None,
            review: false,
        })
    }

    /// Whether it keeps its place under a key that another ban has, too: the one that ends
    /// last, so that nobody gets in earlier than the longest says.
    pub fn outlasts(&self, other: &Self) -> bool {
        let ends = |it: &Self| it.expires_at_unix_ms.unwrap_or(u64::MAX);
        (ends(self), &self.uid) > (ends(other), &other.uid)
    }
}

impl LiftDocument {
    /// Says that a ban was lifted; `shared` says when and by whom.
    pub fn of(shared: &SharedBan, host: &str, now_unix_ms: u64, mac: &MacKey) -> Self {
        let (at, by) = shared.lifted.clone().unwrap_or((now_unix_ms, String::new()));
        let ends = shared.ban.expires_at_unix_ms;
        let ends = ends.unwrap_or_else(|| at.saturating_add(REMEMBERED_MS));
        let mut document = Self {
            key: format!("{LIFTS}{}", shared.uid),
            uid: shared.uid.clone(),
            revision: 2,
            host: host.to_owned(),
            by,
            created_at_unix_ms: at,
            forget_at_unix_ms: ends.max(at.saturating_add(AT_LEAST_MS)),
            mac: [0; 32],
        };
        document.mac = mac.sign(&document.canonical());
        document
    }

    pub(super) fn canonical(&self) -> Vec<u8> {
        let mut bytes = Canonical::new("lift");
        bytes.text(&self.key);
        bytes.text(self.uid.as_str());
        bytes.number(Some(self.revision.cast_unsigned()));
        bytes.text(&self.host);
        bytes.text(&self.by);
        bytes.number(Some(self.created_at_unix_ms));
        bytes.number(Some(self.forget_at_unix_ms));
        bytes.finish()
    }
}

/// What Keyv wraps around a value, with our name for the ban inside: LibreChat copies it
/// wherever it caches the ban.
fn envelope(ban: &Ban, uid: &Uid) -> String {
    let mut value = Map::new();
    let kind = ban.violation.map_or(BY_HAND, ViolationType::name);
    value.insert("type".to_owned(), json!(kind));
    if let Some(user) = &ban.user {
        value.insert("user_id".to_owned(), json!(user.as_str()));
    }
    value.insert("violation_count".to_owned(), number(ban.score.unwrap_or(0.0)));
    if let Some(expires) = ban.expires_at_unix_ms {
        let duration = expires.saturating_sub(ban.created_at_unix_ms);
        value.insert("duration".to_owned(), json!(duration));
        value.insert("expiresAt".to_owned(), json!(expires));
    }
    value.insert(ID.to_owned(), json!(uid.as_str()));
    let mut envelope = Map::new();
    envelope.insert("value".to_owned(), Value::Object(value));
    if let Some(expires) = ban.expires_at_unix_ms {
        envelope.insert("expires".to_owned(), json!(expires));
    }
    Value::Object(envelope).to_string()
}

/// The field of the envelope's value that holds a ban's name.
pub(super) const ID: &str = "moderation_id";

/// As JavaScript writes it: 20, not 20.0.
#[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53")]
fn number(value: f64) -> Value {
    let is_whole = value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0;
    if is_whole { json!(value as i64) } else { json!(value) }
}
