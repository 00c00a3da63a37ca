//! Following the changes of the collection, on servers that tell of them. What they mean
//! is decided elsewhere.

use futures_util::{FutureExt as _, StreamExt as _};
use mongodb::{
    bson::{self, RawDocumentBuf},
    change_stream::{
        ChangeStream,
        event::{ChangeStreamEvent, OperationType, ResumeToken},
    },
    options::FullDocumentType,
};

use super::{
    Mongo, MongoError, query,
    read::{Found, found, id_text},
    within,
};

/// What happened to a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It is there, or another than before.
    Seen(Box<Found>),
    /// It is gone; this was its `_id`, as text.
    Gone(String),
    /// The collection is gone, or has another name.
    Dropped,
    /// Nothing to us.
    Other,
}

/// Changes as they come.
#[derive(Debug)]
pub struct Changes(ChangeStream<ChangeStreamEvent<RawDocumentBuf>>);

impl Mongo {
    /// Follows from now on, or from behind a position.
    ///
    /// # Errors
    ///
    /// See [`MongoError`]; [`MongoError::is_history_lost`] if the server no longer knows
    /// the position.
    pub async fn watch(&self, position: Option<&[u8]>) -> Result<Changes, MongoError> {
        let token = position.and_then(|bytes| bson::deserialize_from_slice::<Kept>(bytes).ok());
        let mut watch = self
            .documents
            .watch()
            .pipeline(query::changes())
            .full_document(FullDocumentType::UpdateLookup)
            .batch_size(512);
        if let Some(Kept { token }) = token {
            watch = watch.start_after(token);
        }
        Ok(Changes(within("follow changes", watch).await?))
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    token: ResumeToken,
}

impl Changes {
    /// The next change. Can be dropped while it waits, without losing one.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub async fn next(&mut self) -> Result<Event, MongoError> {
        match self.0.next().await {
            Some(Ok(change)) => Ok(event(change)),
            Some(Err(error)) => Err(MongoError::new("follow changes", &error)),
            // After a drop the stream ends by itself.
            None => Ok(Event::Dropped),
        }
    }

    /// The next change, if it is there already.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub fn ready(&mut self) -> Result<Option<Event>, MongoError> {
        self.next().now_or_never().transpose()
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        !self.0.is_alive()
    }

    /// Until where changes were told.
    pub fn position(&self) -> Option<Vec<u8>> {
        bson::serialize_to_vec(&Kept { token: self.0.resume_token()? }).ok()
    }
}

fn event(change: ChangeStreamEvent<RawDocumentBuf>) -> Event {
    match change.operation_type {
        OperationType::Drop
        | OperationType::Rename
        | OperationType::DropDatabase
        | OperationType::Invalidate => Event::Dropped,
        OperationType::Delete => {
            let id = change.document_key.as_ref().and_then(|key| key.get("_id"));
            id.and_then(id_text).map_or(Event::Other, Event::Gone)
        }
        _ => match change.full_document.as_deref().and_then(found) {
            Some(found) => Event::Seen(Box::new(found)),
            None => Event::Other,
        },
    }
}
