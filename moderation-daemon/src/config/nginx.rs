//! The section `nginx`: whether nginx asks before it passes requests on, which request is
//! what, and whose it is. The secret of tokens is a credential and no part of the file.

use std::{path::PathBuf, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, Secret, Socket,
    check::{absolute, socket},
    friendly,
};
use crate::{
    credential::{CredentialError, Credentials},
    engine::{EventType, Rules},
    nginx::{
        generation::Phase,
        log::outcome::{Outcome, Outcomes, statuses},
        route::{Meaning, RouteTable},
    },
};

/// The credential that holds the secret of tokens: LibreChat's `JWT_SECRET`.
const JWT_SECRET: &str = "jwt-secret";

/// What a route counts that is no event.
const NOTHING: &str = "nothing";

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NginxFile {
    /// true: nginx can ask before it passes a request on; see docs/nginx.md.
    enabled: bool,
    /// Where the socket is.
    socket: PathBuf,
    /// The group whose members can open it; null: the daemon's user alone.
    group: Option<String>,
    /// Connections at once; one more is refused. Half as many requests can wait for
    /// a decision.
    max_connections: usize,
    /// What becomes of a request that is not decided, because too much waits or the
    /// store does not write: pass, or deny. Who is banned is denied in any case.
    when_overloaded: Overload,
    /// Who sends a request.
    user: UserFile,
    /// What a denied person can do about it, as a sentence for the page.
    contest: String,
    /// A page to show instead of the built-in one; null: that.
    page: Option<PathBuf>,
    /// Which request is which event: {method: POST, path: /api/auth/login, counts:
    /// login}. method is ANY, or names with | between them; a path's segment can be
    /// :name, its last one *. counts nothing is for exceptions. Of two routes that
    /// match, the more specific holds. config/librechat.yaml has LibreChat's.
    /// generation: start, stream (path ending in :id), abort or whole says which begin,
    /// carry, end or are a generation, of which concurrency.max run at once.
    routes: Vec<RouteFile>,
    /// What the answer to a request means, by its status, told by nginx's access log:
    /// {after: login, status: [401, 5xx], counts: EVENT}. complete: false is for
    /// answers that their client left early, true for others.
    outcomes: Vec<OutcomeFile>,
    /// Where nginx sends its access log.
    log_socket: PathBuf,
    /// How long the line about a request is awaited; longer than any answer takes.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    log_patience: Duration,
    /// How long a generation keeps its place that no request carries and of whose end
    /// nothing is heard; longer than nearly any generation takes.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    generation_patience: Duration,
}

impl Default for NginxFile {
    fn default() -> Self {
        Self {
            enabled: false,
            socket: "/run/moderation/nginx.sock".into(),
            group: Some("moderation-nginx".to_owned()),
            max_connections: 512,
            when_overloaded: Overload::Pass,
            user: UserFile::default(),
            contest: "If you think that this is a mistake, write to whoever runs this site, and \
                      quote the code."
                .to_owned(),
            page: None,
            routes: Vec::new(),
            outcomes: Vec::new(),
            log_socket: "/run/moderation/nginx-log.sock".into(),
            log_patience: Duration::from_secs(15 * 60),
            generation_patience: Duration::from_secs(5 * 60),
        }
    }
}

/// What becomes of requests of which nothing is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overload {
    /// They pass.
    Pass,
    /// They are told to come again.
    Deny,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct UserFile {
    /// nowhere: requests have an address and no user. token: from the JSON Web
    /// Token in Authorization, signed with HS256; needs the credential jwt-secret,
    /// LibreChat's JWT_SECRET, or librechat.env_file. header: from the variable
    /// that the snippet has for it, which only somebody who is trusted may set.
    from: UserFrom,
    /// The claim of a token that is the user's id.
    claim: String,
}

impl Default for UserFile {
    fn default() -> Self {
        Self { from: UserFrom::Nowhere, claim: "id".to_owned() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum UserFrom {
    Nowhere,
    Token,
    Header,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RouteFile {
    method: String,
    path: String,
    counts: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<GenerationFile>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum GenerationFile {
    Start,
    Stream,
    Abort,
    Whole,
}

impl From<GenerationFile> for Phase {
    fn from(written: GenerationFile) -> Self {
        match written {
            GenerationFile::Start => Self::Start,
            GenerationFile::Stream => Self::Stream,
            GenerationFile::Abort => Self::Abort,
            GenerationFile::Whole => Self::Whole,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OutcomeFile {
    after: String,
    status: Vec<StatusFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    complete: Option<bool>,
    counts: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum StatusFile {
    One(u16),
    Class(String),
}

/// What is heard of nginx's access log.
#[derive(Clone, Debug)]
pub struct Hearing {
    /// Where it is sent.
    pub socket: Socket,
    /// How long a line is awaited.
    pub patience: Duration,
    /// How long a generation keeps its place of which nothing is heard.
    pub generation_patience: Duration,
    /// What answers mean.
    pub outcomes: Outcomes,
}

/// How nginx is answered.
#[derive(Clone, Debug)]
pub struct Nginx {
    /// The socket.
    pub socket: Socket,
    /// What becomes of requests of which nothing is decided.
    pub when_overloaded: Overload,
    /// Whence the user is known.
    pub user: UserSource,
    /// What a denied person can do about it.
    pub contest: String,
    /// The operator's own page.
    pub page: Option<PathBuf>,
    /// Which request is what.
    pub routes: Arc<RouteTable>,
    /// What is heard of the access log; `None`: nothing.
    pub hearing: Option<Hearing>,
    /// `JWT_SECRET` of LibreChat's `.env`.
    pub jwt_secret: Option<Secret>,
}

/// Whence the user of a request is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserSource {
    /// Not at all.
    Nowhere,
    /// From a token, by this claim.
    Token(String),
    /// From a header that nginx sets.
    Header,
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum JwtSecretError {
    /// It was not handed over.
    #[error(
        "nginx.user.from: token needs the credential {JWT_SECRET}, and there is none: set \
         LoadCredential={JWT_SECRET}:FILE in the unit, or librechat.env_file where LibreChat has \
         its JWT_SECRET"
    )]
    Missing,
    /// It cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

impl Nginx {
    /// The secret of tokens, from this process's credentials, or else from LibreChat.
    ///
    /// # Errors
    ///
    /// See [`JwtSecretError`].
    pub fn jwt_secret(&self) -> Result<Secret, JwtSecretError> {
        let credentials = Credentials::of_process();
        // Its length is checked as of any key; what LibreChat takes for one is a text.
        if credentials.key(JWT_SECRET)?.is_none() {
            return self.jwt_secret.clone().ok_or(JwtSecretError::Missing);
        }
        credentials.text(JWT_SECRET)?.map(Secret::new).ok_or(JwtSecretError::Missing)
    }
}

impl NginxFile {
    /// `None`: nginx does not ask. What is wrong is said all the same.
    pub(super) fn check(
        self,
        rules: &Rules,
        jwt_secret: Option<Secret>,
    ) -> Result<Option<Nginx>, ConfigError> {
        let routes = Arc::new(self.table(rules)?);
        let hearing = self.hearing(rules, &routes)?;
        let socket = socket("nginx", self.socket, self.group, self.max_connections)?;
        let page = self.page.map(|page| absolute("nginx.page", page)).transpose()?;
        let UserFile { from, claim } = self.user;
        if claim.is_empty() {
            return Err(ConfigError::value("nginx.user.claim", "it cannot be empty"));
        }
        if self.enabled && routes.is_empty() {
            let problem = "no request is any event; config/librechat.yaml has LibreChat's routes";
            return Err(ConfigError::value("nginx.routes", problem));
        }
        let user = match from {
            UserFrom::Nowhere => UserSource::Nowhere,
            UserFrom::Token => UserSource::Token(claim),
            UserFrom::Header => UserSource::Header,
        };
        let (when_overloaded, contest) = (self.when_overloaded, self.contest);
        Ok(self.enabled.then_some(Nginx {
            socket,
            when_overloaded,
            user,
            contest,
            page,
            routes,
            hearing,
            jwt_secret,
        }))
    }

    fn hearing(&self, rules: &Rules, routes: &RouteTable) -> Result<Option<Hearing>, ConfigError> {
        let outcome = |(line, file): (usize, &OutcomeFile)| {
            let key = |field: &str| format!("nginx.outcomes[{line}].{field}");
            let status = |status: &StatusFile| match status {
                StatusFile::One(number) => statuses(&number.to_string()),
                StatusFile::Class(text) => statuses(text),
            };
            let bad = |error| ConfigError::value(key("status"), format!("{error}"));
            if file.status.is_empty() {
                return Err(ConfigError::value(key("status"), "say which"));
            }
            Ok(Outcome {
                after: event(&file.after, rules, || key("after"))?,
                complete: file.complete,
                statuses: file.status.iter().map(status).collect::<Result<_, _>>().map_err(bad)?,
                counts: event(&file.counts, rules, || key("counts"))?,
            })
        };
        let outcomes: Vec<_> =
            self.outcomes.iter().enumerate().map(outcome).collect::<Result<_, _>>()?;
        let (path, group) = (self.log_socket.clone(), self.group.clone());
        let socket = socket("nginx", path, group, self.max_connections)?;
        if !(MIN_PATIENCE..=MAX_PATIENCE).contains(&self.log_patience) {
            return Err(ConfigError::value("nginx.log_patience", "between 1s and 1d"));
        }
        let generation_patience = self.generation_patience;
        if !(MIN_PATIENCE..=MAX_PATIENCE).contains(&generation_patience) {
            return Err(ConfigError::value("nginx.generation_patience", "between 1s and 1d"));
        }
        let outcomes = Outcomes(outcomes);
        let matters = !self.outcomes.is_empty() || routes.knows_generations();
        let patience = self.log_patience;
        Ok(matters.then_some(Hearing { socket, patience, generation_patience, outcomes }))
    }

    fn table(&self, rules: &Rules) -> Result<RouteTable, ConfigError> {
        let lines: Result<Vec<_>, ConfigError> = self
            .routes
            .iter()
            .enumerate()
            .map(|(line, route)| {
                let event = counts(line, &route.counts, rules)?;
                let meaning = Meaning { event, phase: route.generation.map(Phase::from) };
                Ok((route.method.as_str(), route.path.as_str(), meaning))
            })
            .collect();
        let table = RouteTable::new(lines?).map_err(|error| {
            let key = error.line().map_or_else(|| "nginx.routes".to_owned(), key);
            ConfigError::value(key, error.to_string())
        })?;
        if table.only_begins() {
            let problem = "generations begin and none is carried: a route with generation: stream \
                           is missing, without which their places are given back late";
            return Err(ConfigError::value("nginx.routes", problem));
        }
        Ok(table)
    }
}

const MIN_PATIENCE: Duration = Duration::from_secs(1);
const MAX_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

fn event(
    name: &str,
    rules: &Rules,
    key: impl FnOnce() -> String,
) -> Result<EventType, ConfigError> {
    find(name, rules).ok_or_else(|| {
        let problem = format!("{name:?} is no event: {}", one_of(rules));
        ConfigError::value(key(), problem)
    })
}

fn find(name: &str, rules: &Rules) -> Option<EventType> {
    rules.events.iter().map(|rule| rule.kind).find(|kind| kind.name() == name)
}

fn one_of(rules: &Rules) -> String {
    let names: Vec<_> = rules.events.iter().map(|rule| rule.kind.name()).collect();
    format!("one of {}", names.join(", "))
}

fn key(line: usize) -> String {
    format!("nginx.routes[{line}]")
}

fn counts(line: usize, name: &str, rules: &Rules) -> Result<Option<EventType>, ConfigError> {
    let problem = match find(name, rules) {
        Some(_) if name == NOTHING => format!("a custom event cannot be named {NOTHING} here"),
        Some(kind) => return Ok(Some(kind)),
        None if name == NOTHING => return Ok(None),
        None => format!("{name:?} is no event: {NOTHING}, or {}", one_of(rules)),
    };
    Err(ConfigError::value(format!("{}.counts", key(line)), problem))
}
