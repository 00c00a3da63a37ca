//! Listing and reading documents, of which nothing is believed: fields of the wrong type
//! or of impossible length are told as such, and large documents are not read at all.

use std::{collections::HashSet, hash::BuildHasher as _};

use foldhash::fast::FixedState;
use futures_util::TryStreamExt as _;
use mongodb::bson::{Bson, RawBsonRef, RawDocument, RawDocumentBuf, doc};

use super::{Mongo, MongoError, OPERATION, query, within};
use crate::ledger::{Field, Fields, Sign};

/// A document that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its `_id`, as text.
    pub id: String,
    /// Its key.
    pub key: String,
    /// What else there is in it.
    pub fields: Fields,
}

/// A document that was only listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Light {
    /// Its key.
    pub key: String,
    /// Another one if the document is another.
    pub stamp: u64,
}

/// The longest key of ours: a user's id has 128 bytes.
const MOST_KEY_BYTES: usize = 192;
const MOST_ID_BYTES: usize = 256;
/// A reason has 512 bytes, the rest of an envelope less.
const MOST_TEXT_BYTES: usize = 4_096;
/// Keys that are asked about in one go.
const CHUNK: usize = 512;

impl Mongo {
    /// Lists what is any of our business, in the order of keys; at most so many, and
    /// whether that was all.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub async fn list(&self, most: usize) -> Result<(Vec<Light>, bool), MongoError> {
        let what = "list documents";
        let find = self
            .documents
            .find(query::ours())
            .sort(doc! { "key": 1 })
            .limit(i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1))
            .batch_size(1_000)
            .projection(doc! { "key": 1, "uid": 1, "revision": 1, "expiresAt": 1 });
        let mut cursor = within(what, find).await?;
        let mut listed = Vec::new();
        let mut seen = 0;
        while let Some(raw) = within(what, cursor.try_next()).await? {
            seen += 1;
            listed.extend(light(&raw));
        }
        let is_all = seen <= most;
        listed.truncate(most);
        Ok((listed, is_all))
    }

    /// Reads the documents under some keys.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub async fn read(&self, keys: &[String]) -> Result<Vec<Found>, MongoError> {
        let what = "read documents";
        let mut all = Vec::new();
        for chunk in keys.chunks(CHUNK) {
            let aggregate =
                self.documents.aggregate(query::whole(chunk)).with_type::<RawDocumentBuf>();
            let mut cursor = within(what, aggregate).await?;
            // Several documents can have one key; a sane number.
            let mut left = 2 * chunk.len() + CHUNK;
            while left > 0
                && let Some(raw) = within(what, cursor.try_next()).await?
            {
                left -= 1;
                all.extend(found(&raw));
            }
            if left == 0 {
                // Whoever writes that many hides nothing of a host's behind them.
                let aggregate = self.documents.aggregate(query::of_hosts(chunk));
                let mut cursor = within(what, aggregate.with_type::<RawDocumentBuf>()).await?;
                while let Some(raw) = within(what, cursor.try_next()).await? {
                    all.extend(found(&raw));
                }
            }
        }
        Ok(all)
    }

    /// Which of these keys have a document.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub async fn present(&self, keys: &[String]) -> Result<HashSet<String>, MongoError> {
        let what = "look for documents";
        let mut present = HashSet::new();
        for chunk in keys.chunks(CHUNK) {
            let find = self.documents.find(query::under(chunk)).projection(doc! { "key": 1 });
            let mut cursor = within(what, find).await?;
            while let Some(raw) = within(what, cursor.try_next()).await? {
                present.extend(raw.get_str("key").ok().map(str::to_owned));
            }
        }
        Ok(present)
    }

    /// The sign of life under a host's name.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub async fn sign_of_life(&self, host: &str) -> Result<Option<Sign>, MongoError> {
        let find = self.documents.find_one(query::sign_of_life(host));
        Ok(within("read the sign of life", find).await?.and_then(|raw| sign(&raw)))
    }

    /// Leaves a sign of life, as of now in milliseconds since 1970; returns the server's
    /// time, in milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub async fn beat(
        &self,
        host: &str,
        life: &str,
        now_unix_ms: u64,
    ) -> Result<Option<u64>, MongoError> {
        let now = mongodb::bson::DateTime::from_millis(now_unix_ms.cast_signed());
        let key = query::host_key(host);
        let update = doc! {
            "$set": { "type": "host", "beat": now, "life": life },
            "$currentDate": { "at": true },
            "$setOnInsert": { "_id": key },
        };
        let update = self
            .documents
            .find_one_and_update(query::sign_of_life(host), update)
            .upsert(true)
            .return_document(mongodb::options::ReturnDocument::After);
        let after = tokio::time::timeout(OPERATION, update).await;
        let after = after
            .map_err(|_| MongoError::slow("leave a sign of life"))?
            .map_err(|error| MongoError::new("leave a sign of life", &error))?;
        Ok(after.and_then(|raw| sign(&raw)?.at_unix_ms))
    }
}

fn sign(raw: &RawDocument) -> Option<Sign> {
    Some(Sign {
        beat_unix_ms: present(time(raw, "beat"))?,
        at_unix_ms: present(time(raw, "at")),
        life: present(text(raw, "life")),
    })
}

fn present<T>(field: Field<T>) -> Option<T> {
    match field {
        Field::Is(value) => Some(value),
        Field::Missing | Field::Wrong => None,
    }
}

fn light(raw: &RawDocument) -> Option<Light> {
    let key = raw.get_str("key").ok().filter(|key| key.len() <= MOST_KEY_BYTES)?;
    Some(Light { key: key.to_owned(), stamp: FixedState::default().hash_one(raw.as_bytes()) })
}

/// A document with a key of ours; `None`: it has none.
pub(super) fn found(raw: &RawDocument) -> Option<Found> {
    let key = raw.get_str("key").ok().filter(|key| key.len() <= MOST_KEY_BYTES)?;
    let fields = Fields {
        kind: text(raw, "type"),
        value: text(raw, "value"),
        expires_at: time(raw, "expiresAt"),
        user: text(raw, "user"),
        ip: text(raw, "ip"),
        reason: text(raw, "reason"),
        violation: text(raw, "violation"),
        score: number(raw, "score"),
        created_at: time(raw, "createdAt"),
        forget_at: time(raw, "forgetAt"),
        host: text(raw, "host"),
        revision: whole_number(raw, "revision"),
        uid: text(raw, "uid"),
        blocks: truth(raw, "blocks"),
        by: text(raw, "by"),
        mac: bytes(raw, "mac"),
    };
    Some(Found { id: id_of(raw)?, key: key.to_owned(), fields })
}

/// An `_id` as text.
fn id_of(raw: &RawDocument) -> Option<String> {
    let id = Bson::try_from(raw.get("_id").ok()??).ok()?;
    id_text(&id)
}

pub(super) fn id_text(id: &Bson) -> Option<String> {
    let text = id.to_string();
    (text.len() <= MOST_ID_BYTES).then_some(text)
}

fn field<'r, T>(
    raw: &'r RawDocument,
    name: &str,
    read: impl FnOnce(RawBsonRef<'r>) -> Option<T>,
) -> Field<T> {
    match raw.get(name) {
        Ok(None | Some(RawBsonRef::Null)) => Field::Missing,
        Ok(Some(value)) => read(value).map_or(Field::Wrong, Field::Is),
        Err(_) => Field::Wrong,
    }
}

fn text(raw: &RawDocument, name: &str) -> Field<String> {
    field(raw, name, |value| {
        let text = value.as_str().filter(|text| text.len() <= MOST_TEXT_BYTES)?;
        Some(text.to_owned())
    })
}

fn time(raw: &RawDocument, name: &str) -> Field<u64> {
    field(raw, name, |value| u64::try_from(value.as_datetime()?.timestamp_millis()).ok())
}

fn number(raw: &RawDocument, name: &str) -> Field<f64> {
    field(raw, name, RawBsonRef::as_f64)
}

fn whole_number(raw: &RawDocument, name: &str) -> Field<i64> {
    field(raw, name, |value| value.as_i64().or_else(|| value.as_i32().map(i64::from)))
}

fn truth(raw: &RawDocument, name: &str) -> Field<bool> {
    field(raw, name, RawBsonRef::as_bool)
}

fn bytes(raw: &RawDocument, name: &str) -> Field<Vec<u8>> {
    field(raw, name, |value| {
        let bytes = value.as_binary()?.bytes;
        (bytes.len() <= 64).then(|| bytes.to_vec())
    })
}
