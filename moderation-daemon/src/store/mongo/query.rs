//! Every question that is asked of the shared database, and the indexes that answer them.

use std::time::Duration;

use mongodb::{
    IndexModel,
    bson::{Bson, Document, Regex, doc, oid::ObjectId},
    options::IndexOptions,
};

/// LibreChat's collection of sessions.
pub(super) const SESSIONS: &str = "sessions";
/// In front of a host's name, in the key of its sign of life.
const HOSTS: &str = "HOSTS:";

/// On `key`, which LibreChat asks for, too, and two that remove what is over.
pub(super) fn indexes() -> [IndexModel; 3] {
    let named = |name: &str| IndexOptions::builder().name(name.to_owned());
    let key = IndexModel::builder()
        .keys(doc! { "key": 1 })
        .options(named("moderation_key").build())
        .build();
    let over = |name, field: &str, kind: &str| {
        IndexModel::builder()
            .keys(doc! { field: 1 })
            .options(
                named(name)
                    .expire_after(Duration::ZERO)
                    .partial_filter_expression(doc! { "type": kind })
                    .build(),
            )
            .build()
    };
    [
        key,
        over("moderation_bans_over", "expiresAt", "ban"),
        over("moderation_lifts_over", "forgetAt", "lift"),
    ]
}

pub(super) fn index_of_sessions() -> IndexModel {
    let options = IndexOptions::builder().name("moderation_user".to_owned()).build();
    IndexModel::builder().keys(doc! { "user": 1 }).options(options).build()
}

/// All documents that are any of our business.
pub(super) fn ours() -> Document {
    let begins = |prefix: &str| Bson::from(regex(format!("^{prefix}:")));
    let begins = ["BANS", "LIFTS", "ban"].map(begins).to_vec();
    doc! { "key": { "$in": begins } }
}

/// What begins with a fixed text is a range of an index.
fn regex(pattern: String) -> Regex {
    let text = |text: String| text.try_into().expect("there is no zero in it");
    Regex { pattern: text(pattern), options: text(String::new()) }
}

/// Documents larger than this are none of ours, and not read.
const MOST_BYTES: i32 = 32 * 1_024;

/// What is read of documents under some keys.
pub(super) fn whole(keys: &[String]) -> Vec<Document> {
    small(under(keys))
}

/// The same of those that hosts wrote, whose `_id` is their key.
pub(super) fn of_hosts(keys: &[String]) -> Vec<Document> {
    small(doc! { "_id": { "$in": keys.to_vec() } })
}

fn small(filter: Document) -> Vec<Document> {
    let size = doc! { "$lte": [{ "$bsonSize": "$$ROOT" }, MOST_BYTES] };
    vec![doc! { "$match": filter }, doc! { "$match": { "$expr": size } }]
}

pub(super) fn under(keys: &[String]) -> Document {
    doc! { "key": { "$in": keys.to_vec() } }
}

/// Of a ban's documents: those that are still its own.
pub(super) fn of_ban(keys: &[String], uid: &str) -> Document {
    doc! { "key": { "$in": keys.to_vec() }, "uid": uid }
}

/// All copies of LibreChat's.
pub(super) fn copies() -> Document {
    doc! { "key": regex("^ban:".to_owned()) }
}

/// LibreChat's copies of a ban, by its name in them.
pub(super) fn copies_of(uid: &str) -> Document {
    doc! { "key": regex("^ban:".to_owned()), "value": regex(uid.to_owned()) }
}

pub(super) fn sign_of_life(host: &str) -> Document {
    doc! { "key": host_key(host) }
}

pub(super) fn host_key(host: &str) -> String {
    format!("{HOSTS}{host}")
}

/// A user's sessions, as mongoose has written the user's id, or as text.
pub(super) fn sessions_of(user: &str) -> Document {
    let mut forms = vec![Bson::from(user)];
    forms.extend(ObjectId::parse_str(user).ok().map(Bson::from));
    doc! { "user": { "$in": forms } }
}

/// What of a collection's changes is told.
pub(super) fn changes() -> Vec<Document> {
    let begins = regex("^(BANS|LIFTS|ban):".to_owned());
    let small = doc! { "$lte": [{ "$bsonSize": "$fullDocument" }, MOST_BYTES] };
    let over = ["delete", "drop", "rename", "dropDatabase", "invalidate"];
    vec![doc! { "$match": { "$or": [
        { "operationType": { "$in": over.to_vec() } },
        { "fullDocument.key": begins, "$expr": small },
    ] } }]
}

/// Each question by name, to see that an index answers it.
pub(super) fn all() -> Vec<(&'static str, Document)> {
    let keys = ["BANS:someone".to_owned()];
    let uid = "0123456789abcdef0123456789abcdef";
    vec![
        ("listing", ours()),
        ("reading", under(&keys)),
        ("lifting", of_ban(&keys, uid)),
        ("removing copies", copies_of(uid)),
        ("looking through copies", copies()),
        ("the sign of life", sign_of_life("host")),
    ]
}
