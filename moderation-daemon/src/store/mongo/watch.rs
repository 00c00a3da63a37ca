//! Following the changes of the collection, on servers that tell of them. What they mean
//! is decided elsewhere.

use mongodb::{
    bson::{self, RawDocumentBuf},
    change_stream::{
        ChangeStream,
        event::{ChangeStreamEvent, OperationType, ResumeToken},
    },
    options::FullDocumentType,
};

use tokio::{
    sync::mpsc::{self, error::TryRecvError},
    task::JoinHandle,
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

/// Changes as they come. The driver's own stream can be asked for its position only while
/// nobody waits for it, so a task of its own waits.
#[derive(Debug)]
pub struct Changes {
    told: mpsc::Receiver<Result<Told, MongoError>>,
    position: Option<Vec<u8>>,
    task: JoinHandle<()>,
}

/// A change, and the position behind it.
type Told = (Event, Option<Vec<u8>>);
type Stream = ChangeStream<ChangeStreamEvent<RawDocumentBuf>>;

/// Changes that can wait here; more wait at the server.
const WAITING: usize = 256;

impl Drop for Changes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

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
        let stream = within("follow changes", watch).await?;
        let (tell, told) = mpsc::channel(WAITING);
        let task = tokio::spawn(follow(stream, tell));
        Ok(Changes { told, position: position.map(<[u8]>::to_vec), task })
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    token: ResumeToken,
}

/// Tells all changes until there are no more, or nobody listens.
async fn follow(mut stream: Stream, tell: mpsc::Sender<Result<Told, MongoError>>) {
    while stream.is_alive() {
        let next = stream.next_if_any().await;
        let told = match next {
            Ok(change) => {
                let event = change.as_ref().map_or(Event::Other, event);
                Ok((event, position(&stream)))
            }
            Err(error) => Err(MongoError::new("follow changes", &error)),
        };
        let is_over = told.is_err();
        if tell.send(told).await.is_err() || is_over {
            return;
        }
    }
    // After a drop the stream ends by itself. Whoever does not listen has ended, too.
    drop(tell.send(Ok((Event::Dropped, None))).await);
}

/// Until where changes were told.
fn position(stream: &Stream) -> Option<Vec<u8>> {
    bson::serialize_to_vec(&Kept { token: stream.resume_token()? }).ok()
}

impl Changes {
    /// The next change. Can be dropped while it waits, without losing one.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub async fn next(&mut self) -> Result<Event, MongoError> {
        let told = self.told.recv().await;
        self.take(told)
    }

    /// The first change and those that are there already, at most so many, none behind a
    /// drop; and why no more will come, if that is known: what came before counts all the
    /// same.
    pub fn batch(&mut self, first: Event, most: usize) -> (Vec<Event>, Option<MongoError>) {
        let mut events = vec![first];
        while events.len() < most && events.last() != Some(&Event::Dropped) {
            match self.ready() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
        (events, None)
    }

    fn ready(&mut self) -> Result<Option<Event>, MongoError> {
        match self.told.try_recv() {
            Ok(told) => self.take(Some(told)).map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => self.take(None).map(Some),
        }
    }

    fn take(&mut self, told: Option<Result<Told, MongoError>>) -> Result<Event, MongoError> {
        let (event, position) = told.unwrap_or(Ok((Event::Dropped, None)))?;
        self.position = position.or(self.position.take());
        Ok(event)
    }

    /// Until where changes were taken.
    pub fn position(&self) -> Option<Vec<u8>> {
        self.position.clone()
    }
}

fn event(change: &ChangeStreamEvent<RawDocumentBuf>) -> Event {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What was told, and the stream that goes on or has broken.
    fn changes(told: Vec<Result<Told, MongoError>>) -> Changes {
        let (tell, receiver) = mpsc::channel(WAITING);
        for one in told {
            tell.try_send(one).expect("there is room");
        }
        // Open, as long as the test takes.
        let task = tokio::spawn(async move { tell.closed().await });
        Changes { told: receiver, position: None, task }
    }

    fn gone(number: u8) -> Told {
        (Event::Gone(number.to_string()), Some(vec![number]))
    }

    fn broken() -> MongoError {
        let error = mongodb::error::Error::custom("the server was killed");
        MongoError::new("follow changes", &error)
    }

    #[tokio::test]
    async fn what_was_told_before_the_stream_broke_counts() {
        let mut changes = changes(vec![Ok(gone(1)), Ok(gone(2)), Ok(gone(3)), Err(broken())]);
        let first = changes.next().await.expect("the first is there");
        let (events, error) = changes.batch(first, 128);
        assert_eq!(events, [1, 2, 3].map(|it| Event::Gone(it.to_string())));
        assert!(error.is_some());
        assert_eq!(changes.position(), Some(vec![3]), "behind the last that was told");
    }

    #[tokio::test]
    async fn no_more_is_taken_than_is_wanted_and_none_behind_a_drop() {
        let mut told = changes(vec![Ok(gone(1)), Ok(gone(2)), Ok(gone(3))]);
        let first = told.next().await.expect("the first is there");
        assert_eq!(told.batch(first, 2).0.len(), 2);
        assert_eq!(told.position(), Some(vec![2]));
        let mut told = changes(vec![Ok(gone(1)), Ok((Event::Dropped, None)), Ok(gone(2))]);
        let first = told.next().await.expect("the first is there");
        let (events, error) = told.batch(first, 128);
        assert_eq!(events, [Event::Gone("1".to_owned()), Event::Dropped]);
        assert!(error.is_none());
    }
}
