//! Looking at the shared database for `moderationctl doctor`: what answers, with which
//! rights and indexes, and how far its clock is from ours. It changes nothing.

use mongodb::bson::{Document, doc};

use super::{Kind, Mongo, MongoError, query, within};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Its version.
    pub version: String,
    /// Whether it tells of changes.
    pub kind: Kind,
    /// Members of the replica set, and how many of them are well; `None`: it is none, or
    /// we may not know.
    pub members: Option<(usize, usize)>,
    /// Its clock, in milliseconds since 1970.
    pub server_unix_ms: Option<u64>,
    /// What we may not do.
    pub denied: Vec<&'static str>,
    /// Indexes of ours that are missing.
    pub missing_indexes: Vec<String>,
    /// Questions that no index answers.
    pub unindexed: Vec<&'static str>,
    /// Of records of violations: questions that no index answers, and whether they may be
    /// written; `None`: they are not.
    pub records: Option<(Vec<&'static str>, bool)>,
}

impl Mongo {
    /// Looks at everything.
    ///
    /// # Errors
    ///
    /// If it cannot be reached, or does not know us.
    pub async fn examine(&self) -> Result<Examined, MongoError> {
        let hello = self.hello().await?;
        let build = within("ask for the version", self.run(doc! { "buildInfo": 1 })).await?;
        let mut denied = Vec::new();
        let count = doc! { "count": self.documents.name(), "query": query::ours() };
        if within("count documents", self.run(count)).await.is_err() {
            denied.push("read");
        }
        // Nothing has that key: nothing is removed.
        let nothing = self.documents.delete_one(doc! { "key": "moderation doctor" });
        if within("remove nothing", nothing).await.is_err() {
            denied.push("write");
        }
        let kind = self.kind().await?;
        if kind == Kind::Telling && self.watch(None).await.is_err() {
            denied.push("changeStream");
        }
        Ok(Examined {
            version: build.get_str("version").unwrap_or("?").to_owned(),
            kind,
            members: self.members().await,
            server_unix_ms: hello
                .get_datetime("localTime")
                .ok()
                .and_then(|at| u64::try_from(at.timestamp_millis()).ok()),
            denied,
            missing_indexes: self.missing_indexes().await?,
            unindexed: self.unindexed().await?,
            records: self.examine_records().await?,
        })
    }

    async fn run(&self, command: Document) -> Result<Document, mongodb::error::Error> {
        self.database.run_command(command).await
    }

    async fn members(&self) -> Option<(usize, usize)> {
        let admin = self.database.client().database("admin");
        let status = admin.run_command(doc! { "replSetGetStatus": 1 });
        let status = within("ask for the replica set", status).await.ok()?;
        let members = status.get_array("members").ok()?;
        let is_well = |member: &&mongodb::bson::Bson| {
            let state = member.as_document().and_then(|member| member.get_i32("state").ok());
            matches!(state, Some(1 | 2 | 7))
        };
        Some((members.len(), members.iter().filter(is_well).count()))
    }

    async fn missing_indexes(&self) -> Result<Vec<String>, MongoError> {
        let present = within("list indexes", self.documents.list_index_names()).await;
        let present = present.unwrap_or_default();
        let names = query::indexes().into_iter().filter_map(|index| index.options?.name);
        Ok(names.filter(|name| !present.contains(name)).collect())
    }

    async fn unindexed(&self) -> Result<Vec<&'static str>, MongoError> {
        let mut unindexed = self.unanswered(self.documents.name(), query::all()).await?;
        if self.end_sessions {
            let question = ("sessions of a user", query::sessions_of("someone"));
            unindexed.extend(self.unanswered(query::SESSIONS, [question]).await?);
        }
        Ok(unindexed)
    }

    /// Those of some questions to a collection that no index answers.
    pub(super) async fn unanswered(
        &self,
        collection: &str,
        questions: impl IntoIterator<Item = (&'static str, Document)> + Send,
    ) -> Result<Vec<&'static str>, MongoError> {
        let mut unanswered = Vec::new();
        for (name, filter) in questions.into_iter().collect::<Vec<_>>() {
            let find = doc! { "find": collection, "filter": filter };
            let explain = doc! { "explain": find, "verbosity": "queryPlanner" };
            let plan = within("explain a question", self.run(explain)).await?;
            let planner = plan.get_document("queryPlanner").map(ToString::to_string);
            if planner.is_ok_and(|text| text.contains("COLLSCAN")) {
                unanswered.push(name);
            }
        }
        Ok(unanswered)
    }
}
