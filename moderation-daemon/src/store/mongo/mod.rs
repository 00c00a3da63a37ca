//! The shared database: MongoDB, in the collection where LibreChat keeps its bans. The
//! only folder that names the driver. It writes, removes, lists and watches documents,
//! each within a time limit; what they mean and what follows is `ledger`'s affair.

mod error;
mod examine;
mod query;
mod read;
mod records;
mod watch;
mod write;

use std::{fmt, time::Duration};

use mongodb::{
    Client, Collection, Database,
    bson::{Document, RawDocumentBuf, doc},
    options::{ClientOptions, ReadPreference, SelectionCriteria, WriteConcern},
};

pub use error::MongoError;
pub use examine::Examined;
pub use read::{Found, Light};
pub use records::RecordSettings;
pub use watch::{Changes, Event};
pub use write::Put;

/// How long one operation may take. A database that takes longer is as good as gone.
const OPERATION: Duration = Duration::from_secs(4);
/// How long a server is looked for, and connected to.
const SELECTION: Duration = Duration::from_secs(2);
/// Connections: one that follows, one that writes, one for questions.
const CONNECTIONS: u32 = 4;

/// Where bans are shared.
#[derive(Clone)]
pub struct MongoSettings {
    /// The connection string, with its secrets.
    pub uri: String,
    /// The database; `None`: the one that the connection string names.
    pub database: Option<String>,
    /// The collection of LibreChat's bans.
    pub collection: String,
    /// Whether a ban ends its user's sessions in LibreChat.
    pub end_sessions: bool,
    /// Where records of violations go; `None`: nowhere.
    pub records: Option<RecordSettings>,
}

/// Without the connection string.
impl fmt::Debug for MongoSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoSettings")
            .field("database", &self.database)
            .field("collection", &self.collection)
            .field("end_sessions", &self.end_sessions)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

/// What mongoose takes if the connection string names none.
const DEFAULT_DATABASE: &str = "test";

/// A handle to the database; clones share its connections.
#[derive(Clone, Debug)]
pub struct Mongo {
    database: Database,
    documents: Collection<RawDocumentBuf>,
    end_sessions: bool,
    records: Option<RecordSettings>,
}

/// What kind of server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It stands alone and tells of no changes: it has to be asked.
    Alone,
    /// It tells of changes: a replica set, or a cluster of some.
    Telling,
}

impl Mongo {
    /// A handle; connects when it is used.
    ///
    /// # Errors
    ///
    /// If the connection string makes no sense or its name cannot be resolved.
    pub async fn new(settings: &MongoSettings) -> Result<Self, MongoError> {
        let parsed = tokio::time::timeout(OPERATION, ClientOptions::parse(&settings.uri)).await;
        let mut options = parsed
            .map_err(|_| MongoError::slow("read the connection string"))?
            .map_err(|error| MongoError::new("read the connection string", &error))?;
        options.app_name = Some("moderationd".to_owned());
        options.server_selection_timeout = Some(SELECTION);
        options.connect_timeout = Some(SELECTION);
        options.max_pool_size = Some(CONNECTIONS);
        // What is acknowledged outlives the loss of a primary. Changes are told only when
        // they do, too.
        options.write_concern = Some(WriteConcern::majority());
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        let named = settings.database.clone().or_else(|| options.default_database.clone());
        let client = Client::with_options(options)
            .map_err(|error| MongoError::new("use the connection string", &error))?;
        let database = client.database(named.as_deref().unwrap_or(DEFAULT_DATABASE));
        let documents = database.collection(&settings.collection);
        let (end_sessions, records) = (settings.end_sessions, settings.records.clone());
        Ok(Self { database, documents, end_sessions, records })
    }

    /// What kind of server answers.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub async fn kind(&self) -> Result<Kind, MongoError> {
        let hello = self.hello().await?;
        let tells = hello.contains_key("setName")
            || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
        Ok(if tells { Kind::Telling } else { Kind::Alone })
    }

    async fn hello(&self) -> Result<Document, MongoError> {
        let admin = self.database.client().database("admin");
        within("greet the server", admin.run_command(doc! { "hello": 1 })).await
    }

    /// Makes the indexes that are missing: LibreChat makes none of them.
    ///
    /// # Errors
    ///
    /// See [`MongoError`].
    pub async fn ensure_indexes(&self) -> Result<(), MongoError> {
        for index in query::indexes() {
            let made = within("make an index", self.documents.create_index(index)).await;
            match made {
                Ok(_) => {}
                // There is one on the same field, made by somebody else.
                Err(error) if error.is_index_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        if self.end_sessions {
            let sessions = self.database.collection::<Document>(query::SESSIONS);
            let made =
                within("make an index", sessions.create_index(query::index_of_sessions())).await;
            made.map(drop)
                .or_else(|error| if error.is_index_conflict() { Ok(()) } else { Err(error) })?;
        }
        Ok(())
    }
}

/// Runs an operation within its time. Boxed: the driver's futures are large.
async fn within<T, F>(what: &'static str, operation: F) -> Result<T, MongoError>
where
    F: IntoFuture<Output = Result<T, mongodb::error::Error>, IntoFuture: Send>,
{
    match tokio::time::timeout(OPERATION, Box::pin(operation.into_future())).await {
        Ok(result) => result.map_err(|error| MongoError::new(what, &error)),
        Err(_) => Err(MongoError::slow(what)),
    }
}
