//! Writing and removing documents. All of it can be done twice without harm, and by
//! several hosts at once.

use std::collections::HashSet;

use futures_util::TryStreamExt as _;
use mongodb::{
    bson::{Binary, Bson, DateTime, Document, RawDocumentBuf, doc, spec::BinarySubtype},
    error::ErrorKind,
};

use super::{Mongo, MongoError, OPERATION, query, within};
use crate::ledger::{BanDocument, Judged, LiftDocument, MacKey, address_of, copy_keys, judge};

/// What became of a document that was to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there, with this `_id` as text.
    Written(String),
    /// Another ban that ends later has its place.
    Outlasted,
}

/// Copies that are looked through; they end by themselves after `BAN_DURATION`.
const MOST_COPIES: i64 = 100_000;
/// Hosts that write the same document at once take turns; more often than this they do not.
const MOST_TRIES: usize = 8;

impl Mongo {
    /// Writes documents. `is_new`: whether nothing is known to stand under a key.
    ///
    /// # Errors
    ///
    /// See [`MongoError`]; some may be written then.
    pub async fn put(
        &self,
        documents: &[BanDocument],
        is_new: impl Fn(&str) -> bool,
        mac: &MacKey,
    ) -> Result<Vec<Put>, MongoError> {
        let mut outcomes: Vec<Option<Put>> = vec![None; documents.len()];
        let fresh: Vec<usize> =
            (0..documents.len()).filter(|index| is_new(&documents[*index].key)).collect();
        let refused = self.insert(fresh.iter().map(|index| &documents[*index])).await?;
        for (place, index) in fresh.into_iter().enumerate() {
            if !refused.contains(&place) {
                outcomes[index] = Some(Put::Written(id_of(&documents[index])));
            }
        }
        self.clear_strangers(documents).await?;
        let mut all = Vec::with_capacity(documents.len());
        for (document, outcome) in documents.iter().zip(outcomes) {
            all.push(match outcome {
                Some(outcome) => outcome,
                None => self.place(document, mac).await?,
            });
        }
        Ok(all)
    }

    /// Nobody can keep the place of a ban, nor hide it behind another document: those of
    /// hosts have their key for an `_id`, all others go.
    async fn clear_strangers(&self, documents: &[BanDocument]) -> Result<(), MongoError> {
        if documents.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = documents.iter().map(|document| document.key.clone()).collect();
        let mut strangers = query::under(&keys);
        strangers.insert("_id", doc! { "$nin": keys });
        within("make room for bans", self.documents.delete_many(strangers)).await.map(drop)
    }

    /// Returns the places of those under whose key there is something.
    async fn insert<'d>(
        &self,
        documents: impl Iterator<Item = &'d BanDocument>,
    ) -> Result<Vec<usize>, MongoError> {
        let documents = documents.map(|it| raw(&ban(it))).collect::<Result<Vec<_>, _>>()?;
        if documents.is_empty() {
            return Ok(Vec::new());
        }
        let insert = self.documents.insert_many(documents).ordered(false);
        let result = tokio::time::timeout(OPERATION, insert).await;
        match result.map_err(|_| MongoError::slow("write bans"))? {
            Ok(_) => Ok(Vec::new()),
            Err(error) => match &*error.kind {
                ErrorKind::InsertMany(failed) if failed.write_concern_error.is_none() => {
                    let refused = failed.write_errors.iter().flatten();
                    if refused.clone().any(|it| it.code != 11_000) {
                        return Err(MongoError::new("write bans", &error));
                    }
                    Ok(refused.map(|it| it.index).collect())
                }
                _ => Err(MongoError::new("write bans", &error)),
            },
        }
    }

    /// Gives a document its place under its key, where there may be others.
    async fn place(&self, document: &BanDocument, mac: &MacKey) -> Result<Put, MongoError> {
        let key = std::slice::from_ref(&document.key);
        for _ in 0..MOST_TRIES {
            let standing = self.read(key).await?;
            let ours = standing.iter().filter_map(|found| {
                match judge(&found.key, found.fields.clone(), mac) {
                    Judged::Ban(other) => Some((found.id.clone(), other)),
                    _ => None,
                }
            });
            let ours: Vec<_> = ours.collect();
            if let Some((id, _)) = ours.iter().find(|(_, other)| other.uid == document.uid) {
                return Ok(Put::Written(id.clone()));
            }
            if ours.iter().any(|(_, other)| other.outlasts(document)) {
                return Ok(Put::Outlasted);
            }
            // What is signed and ends sooner makes room, and what is not signed; large
            // documents, which are not read, included.
            let others = self.documents.delete_many(query::under(key));
            within("make room for a ban", others).await?;
            match within("write a ban", self.documents.insert_one(raw(&ban(document))?)).await {
                Ok(_) => return Ok(Put::Written(id_of(document))),
                Err(error) if error.is_duplicate() => {}
                Err(error) => return Err(error),
            }
        }
        Err(MongoError::slow("write a ban"))
    }

    /// Says that a ban was lifted, and removes its documents and the copies of them.
    ///
    /// # Errors
    ///
    /// See [`MongoError`]; some of it may be done then.
    pub async fn lift(&self, lift: &LiftDocument, keys: &[String]) -> Result<(), MongoError> {
        let said = doc! { "key": &lift.key };
        let replace = self.documents.replace_one(said, raw(&lifted(lift))?).upsert(true);
        match within("write a lift", replace).await {
            // Another host says so at the same time.
            Ok(_) => {}
            Err(error) if error.is_duplicate() => {}
            Err(error) => return Err(error),
        }
        let uid = lift.uid.as_str();
        let delete = self.documents.delete_many(query::of_ban(keys, uid));
        within("remove a ban", delete).await?;
        let delete = self.documents.delete_many(query::copies_of(uid));
        within("remove copies of a ban", delete).await?;
        self.remove_copies(keys).await
    }

    /// Removes whatever stands under keys, and LibreChat's copies of it, which have no name
    /// of ours in them: those of an address in whatever way it is written there.
    ///
    /// # Errors
    ///
    /// See [`MongoError`]; some of it may be done then.
    pub async fn remove(&self, keys: &[String]) -> Result<(), MongoError> {
        within("remove a document", self.documents.delete_many(query::under(keys))).await?;
        self.remove_copies(keys).await?;
        let addresses: HashSet<_> = keys.iter().filter_map(|key| address_of(key)).collect();
        if addresses.is_empty() {
            return Ok(());
        }
        let what = "look through copies";
        let find = self.documents.find(query::copies()).projection(doc! { "key": 1 });
        let mut cursor = within(what, find.limit(MOST_COPIES)).await?;
        let mut others = Vec::new();
        while let Some(raw) = within(what, cursor.try_next()).await? {
            let key = raw.get_str("key").unwrap_or_default();
            if address_of(key).is_some_and(|address| addresses.contains(&address)) {
                others.push(key.to_owned());
            }
        }
        if others.is_empty() { Ok(()) } else { self.remove_just(&others).await }
    }

    async fn remove_copies(&self, keys: &[String]) -> Result<(), MongoError> {
        let copies: Vec<_> = keys.iter().flat_map(|key| copy_keys(key)).collect();
        self.remove_just(&copies).await
    }

    /// Removes what stands under keys, and nothing else.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub async fn remove_just(&self, keys: &[String]) -> Result<(), MongoError> {
        let delete = self.documents.delete_many(query::under(keys));
        within("remove copies of a ban", delete).await.map(drop)
    }

    /// Ends a user's sessions in LibreChat, if that is wanted.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub async fn end_sessions(&self, user: &str) -> Result<(), MongoError> {
        if !self.end_sessions {
            return Ok(());
        }
        let sessions = self.database.collection::<Document>(query::SESSIONS);
        let delete = sessions.delete_many(query::sessions_of(user));
        within("end a user's sessions", delete).await.map(drop)
    }
}

/// The `_id` of a document of ours is its key, so that there are no two of them.
fn id_of(document: &BanDocument) -> String {
    Bson::from(document.key.as_str()).to_string()
}

fn ban(document: &BanDocument) -> Document {
    doc! {
        "_id": &document.key,
        "key": &document.key,
        "value": &document.value,
        "expiresAt": document.expires_at_unix_ms.map(date),
        "type": "ban",
        "user": document.user.as_deref(),
        "ip": document.ip.as_deref(),
        "reason": &document.reason,
        "violation": document.violation.as_deref(),
        "score": document.score,
        "createdAt": date(document.created_at_unix_ms),
        "host": &document.host,
        "by": &document.by,
        "blocks": document.blocks,
        "revision": document.revision,
        "uid": document.uid.as_str(),
        "mac": bytes(&document.mac),
    }
}

fn lifted(document: &LiftDocument) -> Document {
    doc! {
        "_id": &document.key,
        "key": &document.key,
        "type": "lift",
        "createdAt": date(document.created_at_unix_ms),
        "forgetAt": date(document.forget_at_unix_ms),
        "host": &document.host,
        "by": &document.by,
        "revision": document.revision,
        "uid": document.uid.as_str(),
        "mac": bytes(&document.mac),
    }
}

pub(super) fn date(unix_ms: u64) -> DateTime {
    DateTime::from_millis(i64::try_from(unix_ms).unwrap_or(i64::MAX))
}

fn bytes(mac: &[u8; 32]) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: mac.to_vec() }
}

fn raw(document: &Document) -> Result<RawDocumentBuf, MongoError> {
    RawDocumentBuf::try_from(document).map_err(|_| MongoError::slow("write a document"))
}
