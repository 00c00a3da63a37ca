//! Records of violations in a collection of their own, for people. Writing them twice is no
//! harm; nothing reads them back. When they are sent is not known here.

use std::time::Duration;

use mongodb::{
    Collection, IndexModel,
    bson::{Document, doc},
    error::ErrorKind,
    options::IndexOptions,
};

use super::{Mongo, MongoError, OPERATION, within, write::date};
use crate::store::ViolationRecord;

/// Where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSettings {
    /// What this host is called.
    pub host: String,
    /// The collection.
    pub collection: String,
    /// How long they are kept there, in whole seconds.
    pub retention: Duration,
}

/// Removes what is too old.
const OVER: &str = "moderation_violations_over";

/// For whoever looks for a user, an address or a time.
fn indexes(retention: Duration) -> [IndexModel; 3] {
    let index = |name: &str, keys, expires| {
        let mut options = IndexOptions::builder().name(name.to_owned()).build();
        options.expire_after = expires;
        IndexModel::builder().keys(keys).options(options).build()
    };
    [
        index(OVER, doc! { "createdAt": 1 }, Some(retention)),
        index("moderation_violations_user", doc! { "user": 1, "createdAt": -1 }, None),
        index("moderation_violations_ip", doc! { "ip": 1, "createdAt": -1 }, None),
    ]
}

/// What people ask, by name, to see that an index answers it.
fn questions() -> [(&'static str, Document); 3] {
    [
        ("violations of a user", doc! { "user": "someone" }),
        ("violations from an address", doc! { "ip": "192.0.2.1" }),
        ("recent violations", doc! { "createdAt": { "$gt": date(0) } }),
    ]
}

impl Mongo {
    fn records(&self) -> Option<(Collection<Document>, &RecordSettings)> {
        let settings = self.records.as_ref()?;
        Some((self.database.collection(&settings.collection), settings))
    }

    /// Makes the indexes that are missing, and has the one that removes old records go by
    /// the retention as it is now.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub async fn ensure_record_indexes(&self) -> Result<(), MongoError> {
        let what = "make an index of violations";
        let Some((records, settings)) = self.records() else { return Ok(()) };
        for index in indexes(settings.retention) {
            let is_over = index.options.as_ref().is_some_and(|it| it.name.as_deref() == Some(OVER));
            match within(what, records.create_index(index.clone())).await {
                Ok(_) => {}
                Err(error) if error.is_index_conflict() && is_over => {
                    within("change the retention", records.drop_index(OVER)).await?;
                    within(what, records.create_index(index)).await?;
                }
                // There is one on the same fields, made by somebody else.
                Err(error) if error.is_index_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes records down, but for those that are there.
    ///
    /// # Errors
    ///
    /// See [`MongoError`]; some may be written then.
    pub async fn add_records(&self, violations: &[ViolationRecord]) -> Result<(), MongoError> {
        let what = "write violations";
        let Some((records, settings)) = self.records() else { return Ok(()) };
        let documents = violations.iter().map(|one| document(one, &settings.host));
        let insert = records.insert_many(documents).ordered(false);
        let result = tokio::time::timeout(OPERATION, insert).await;
        match result.map_err(|_| MongoError::slow(what))? {
            Ok(_) => Ok(()),
            Err(error) => match &*error.kind {
                ErrorKind::InsertMany(failed)
                    if failed.write_concern_error.is_none()
                        && failed.write_errors.iter().flatten().all(|it| it.code == 11_000) =>
                {
                    Ok(())
                }
                _ => Err(MongoError::new(what, &error)),
            },
        }
    }

    /// Questions about violations that no index answers, and whether we may write them;
    /// `None`: they are not written.
    pub(super) async fn examine_records(
        &self,
    ) -> Result<Option<(Vec<&'static str>, bool)>, MongoError> {
        let Some((records, _)) = self.records() else { return Ok(None) };
        // Nothing has that name: nothing is removed.
        let nothing = records.delete_one(doc! { "_id": "moderation doctor" });
        let may_write = within("remove nothing", nothing).await.is_ok();
        let unindexed = if may_write {
            self.unanswered(records.name(), questions()).await?
        } else {
            Vec::new()
        };
        Ok(Some((unindexed, may_write)))
    }
}

/// Its name is made of what is never another one's: hosts that lost their store count from
/// 1 again, at another time.
fn document(one: &ViolationRecord, host: &str) -> Document {
    doc! {
        "_id": format!("{host}:{}:{}", one.id, one.at_unix_ms),
        "type": &one.kind,
        "user": one.user.as_deref(),
        "ip": one.ip.as_deref(),
        "score": one.points,
        "previous": one.previous,
        "total": one.total,
        "limiter": one.limiter.as_deref(),
        "limit": one.max.as_deref(),
        "windowSeconds": one.window_ms.map(|ms| Duration::from_millis(ms).as_secs_f64()),
        "repeats": i64::from(one.repeats),
        "severity": one.severity.as_deref(),
        "ban": one.ban.map(u64::cast_signed),
        "createdAt": date(one.at_unix_ms),
        "host": host,
    }
}
