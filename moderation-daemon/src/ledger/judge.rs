//! What a document is that was read: ours, if its signature is right; foreign, if it bans
//! somebody all the same; a copy of LibreChat's; or nothing that can be used. Believes
//! nothing of what it reads, and reads no more of it than a document of ours can have.

use serde_json::Value;

use super::{
    BanDocument, LiftDocument, MacKey, Uid,
    document::{BANS, COPIES, ID, LIFTS, address_of, subject},
};
use crate::engine::{Prefix, UserId};

/// A field of a document as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Field<T> {
    /// It is not there, or null.
    #[default]
    Missing,
    /// It is of another type, or longer than it can be.
    Wrong,
    /// As it should be.
    Is(T),
}

impl<T> Field<T> {
    /// `Err` if it is wrong.
    fn optional(self) -> Result<Option<T>, ()> {
        match self {
            Self::Missing => Ok(None),
            Self::Wrong => Err(()),
            Self::Is(value) => Ok(Some(value)),
        }
    }

    /// `Err` if it is wrong or missing.
    fn required(self) -> Result<T, ()> {
        self.optional()?.ok_or(())
    }
}

/// All that is read of a document.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "named as in the documents; see BanDocument and LiftDocument")]
pub struct Fields {
    pub kind: Field<String>,
    pub value: Field<String>,
    /// In milliseconds since 1970.
    pub expires_at: Field<u64>,
    pub user: Field<String>,
    pub ip: Field<String>,
    pub reason: Field<String>,
    pub violation: Field<String>,
    pub score: Field<f64>,
    /// In milliseconds since 1970.
    pub created_at: Field<u64>,
    /// In milliseconds since 1970.
    pub forget_at: Field<u64>,
    pub host: Field<String>,
    pub revision: Field<i64>,
    pub uid: Field<String>,
    pub blocks: Field<bool>,
    pub by: Field<String>,
    pub mac: Field<Vec<u8>>,
}

/// What a document is.
#[derive(Clone, Debug, PartialEq)]
pub enum Judged {
    /// A ban of one of the hosts.
    Ban(BanDocument),
    /// A lift of one of the hosts.
    Lift(LiftDocument),
    /// A ban of nobody who has the key.
    Foreign(ForeignBan),
    /// A copy that LibreChat made of a ban of ours.
    Copy {
        /// Its key.
        key: String,
        /// Under which key the ban itself would be.
        of: String,
        /// The ban's name.
        uid: Uid,
    },
    /// Nothing to us.
    Other,
    /// It should be something, and makes no sense.
    Unusable(Unusable),
}

/// Why a document makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// What it is about is neither a user nor an address.
    Subject,
    /// Its envelope is no JSON, or not as Keyv writes it.
    Envelope,
    /// A lift without a valid signature.
    Forged,
}

/// What a foreign document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignBan {
    /// Its key.
    pub key: String,
    /// What every host calls it.
    pub uid: Uid,
    /// The banned user.
    pub user: Option<UserId>,
    /// Or the banned address; a single one.
    pub prefix: Option<Prefix>,
    /// Until when, in milliseconds since 1970; `None`: for ever.
    pub expires_at_unix_ms: Option<u64>,
}

/// Judges the document under a key.
pub fn judge(key: &str, fields: Fields, mac: &MacKey) -> Judged {
    if key.starts_with(LIFTS) {
        return lift(key, fields, mac).map_or(Judged::Unusable(Unusable::Forged), Judged::Lift);
    }
    if key.starts_with(BANS) {
        let value = fields.value.clone();
        let expires_at = fields.expires_at.clone();
        return match ban(key, fields, mac) {
            Ok(ban) => Judged::Ban(ban),
            Err(()) => {
                foreign(key, value, expires_at, mac).map_or_else(Judged::Unusable, Judged::Foreign)
            }
        };
    }
    match COPIES.iter().find_map(|prefix| key.strip_prefix(prefix)) {
        Some(of) => copy(key, of, fields.value),
        None => Judged::Other,
    }
}

fn ban(key: &str, fields: Fields, mac: &MacKey) -> Result<BanDocument, ()> {
    let signature = fields.mac.required()?;
    let document = BanDocument {
        key: key.to_owned(),
        value: fields.value.required()?,
        expires_at_unix_ms: fields.expires_at.optional()?,
        user: fields.user.optional()?,
        ip: fields.ip.optional()?,
        reason: fields.reason.required()?,
        violation: fields.violation.optional()?,
        score: fields.score.optional()?,
        created_at_unix_ms: fields.created_at.required()?,
        host: fields.host.required()?,
        revision: fields.revision.required()?,
        uid: fields.uid.required()?.parse().map_err(drop)?,
        blocks: fields.blocks.required()?,
        by: fields.by.required()?,
        mac: signature.as_slice().try_into().map_err(drop)?,
    };
    let is_ban = fields.kind == Field::Is("ban".to_owned());
    let is_ours = is_ban && mac.verifies(&document.canonical(), &document.mac);
    is_ours.then_some(document).ok_or(())
}

fn lift(key: &str, fields: Fields, mac: &MacKey) -> Option<LiftDocument> {
    let read = || -> Result<LiftDocument, ()> {
        Ok(LiftDocument {
            key: key.to_owned(),
            uid: fields.uid.required()?.parse().map_err(drop)?,
            revision: fields.revision.required()?,
            host: fields.host.required()?,
            by: fields.by.required()?,
            created_at_unix_ms: fields.created_at.required()?,
            forget_at_unix_ms: fields.forget_at.required()?,
            mac: fields.mac.required()?.as_slice().try_into().map_err(drop)?,
        })
    };
    read().ok().filter(|document| mac.verifies(&document.canonical(), &document.mac))
}

/// As LibreChat reads it: when it ends says the envelope, else the record in it.
fn foreign(
    key: &str,
    value: Field<String>,
    expires_at: Field<u64>,
    mac: &MacKey,
) -> Result<ForeignBan, Unusable> {
    let (user, prefix) = subject(key).ok_or(Unusable::Subject)?;
    if prefix.is_some_and(|it| it.net().prefix_len() != it.net().max_prefix_len()) {
        // LibreChat knows no prefixes, and one document must not ban many.
        return Err(Unusable::Subject);
    }
    let envelope = envelope(value).ok_or(Unusable::Envelope)?;
    let expires_at = expires_at.optional().map_err(|()| Unusable::Envelope)?;
    let ends = [&envelope["expires"], &envelope["value"]["expiresAt"]];
    let ends = ends.into_iter().find(|it| !it.is_null());
    let ends = match ends {
        None => expires_at,
        Some(ends) => Some(milliseconds(ends).ok_or(Unusable::Envelope)?),
    };
    let uid = mac.name_foreign(key, ends);
    Ok(ForeignBan { key: key.to_owned(), uid, user, prefix, expires_at_unix_ms: ends })
}

/// A number of milliseconds as JavaScript writes it; not a negative one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is not negative, and what is beyond a u64 becomes the largest one"
)]
fn milliseconds(value: &Value) -> Option<u64> {
    let number = value.as_f64().filter(|number| *number >= 0.0)?;
    Some(number as u64)
}

/// Keyv's envelope with an object in it. Its nesting is bounded by the parser.
fn envelope(value: Field<String>) -> Option<Value> {
    let text = value.required().ok()?;
    let parsed: Value = serde_json::from_str(&text).ok()?;
    parsed["value"].is_object().then_some(parsed)
}

fn copy(key: &str, of: &str, value: Field<String>) -> Judged {
    // Only those that carry a name of ours are any of our business.
    let uid = envelope(value).and_then(|it| it["value"][ID].as_str()?.parse().ok());
    let canonical = address_of(key).map_or_else(|| of.to_owned(), |ip| ip.to_string());
    match uid {
        Some(uid) => Judged::Copy { key: key.to_owned(), of: format!("{BANS}{canonical}"), uid },
        None => Judged::Other,
    }
}
