//! Counters that hosts share, in Redis: connecting, and asking its scripts. The only room
//! that names the library. What is asked and what an answer means is the affair of
//! `sharing`; when to ask at all, the caller's. Nothing here waits for longer than it is told
//! to, tries anything twice by itself, or says what a URI holds.

mod examine;
mod fault;
mod probe;
mod publish;

use std::{
    fmt,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use futures_util::future::join_all;
use redis::{
    Client, Cmd, ConnectionInfo, IntoConnectionInfo as _, Pipeline, TlsCertificates, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use sha1_smol::Sha1;

use crate::sharing::{
    Act, Failure, Fault, Group, GroupAnswer, Names, Reserved, Settled, Standing, Verdict,
    read_group, read_score,
};

pub use examine::{Eviction, Examined};
pub use publish::{Heard, MESSAGE_BYTES, Messages};

/// Patience with what no decision waits for: connecting, settling, asking how things are.
const PATIENCE: Duration = Duration::from_secs(1);
/// A connection on which nothing comes for so long is looked after, and given up after twice
/// that.
const QUIET: Duration = Duration::from_secs(5);
/// Decisions that one call of a script serves, and acts: a quarter of a millisecond (of 7.8 µs
/// each), for so long the server serves nobody else.
const GROUPS_AT_ONCE: usize = 32;
/// Calls that can wait in the library.
const CALLS: usize = 1_024;
const RESERVE: &str = include_str!("reserve.lua");
const SETTLE: &str = include_str!("settle.lua");

/// Where it is.
#[derive(Clone)]
pub struct Settings {
    /// One server, or some nodes of a cluster.
    pub uris: Vec<String>,
    /// Whether they are a cluster.
    pub is_cluster: bool,
    /// Instead of what the URIs have.
    pub password: Option<String>,
    /// A user and a password where a URI has none.
    pub login: (Option<String>, Option<String>),
    /// The only authority that is trusted, in PEM; with one there is TLS, whatever the URIs
    /// say.
    pub authority: Option<Vec<u8>>,
    /// What counters are called.
    pub names: Names,
}

impl Settings {
    /// With nothing but some URIs: several are a cluster.
    pub fn of(uris: Vec<String>, names: Names) -> Self {
        let is_cluster = uris.len() > 1;
        Self { uris, is_cluster, password: None, login: (None, None), authority: None, names }
    }
}

/// Without what a URI holds.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uris, is_cluster, names, .. } = self;
        let (uris, names) = (uris.len(), names);
        f.debug_struct("Settings")
            .field("uris", &uris)
            .field("is_cluster", is_cluster)
            .field("names", names)
            .finish_non_exhaustive()
    }
}

/// A URI that names no server. What it holds is not told: there may be a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a URI of Redis makes no sense; it has the form redis://USER:PASSWORD@HOST:PORT/DATABASE, \
     rediss:// with TLS, or redis+unix:///PATH"
)]
pub struct BadUri;

/// Counters in Redis.
#[derive(Debug)]
pub struct Redis {
    target: Target,
    names: Names,
    /// By which it is seen that something was forgotten: one key, and of a cluster one in
    /// every piece of its slots.
    epochs: Vec<String>,
    /// `None` until it is reached, and after what only a new connection mends.
    link: RwLock<Option<Link>>,
    reserve: Script,
    settle: Script,
}

enum Target {
    One(Box<Client>),
    Cluster(Box<ClusterClient>, Vec<Client>),
}

/// Without addresses, beside which a password stands.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One(_) => "One",
            Self::Cluster(..) => "Cluster",
        })
    }
}

#[derive(Clone)]
enum Link {
    One(ConnectionManager),
    Cluster(ClusterConnection),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

#[derive(Debug)]
struct Script {
    source: &'static str,
    digest: String,
}

impl Script {
    fn new(source: &'static str) -> Self {
        Self { source, digest: Sha1::from(source).digest().to_string() }
    }

    fn call(&self, keys: &[String], arguments: &[Vec<u8>], is_known: bool) -> Cmd {
        let mut command = if is_known { redis::cmd("EVALSHA") } else { redis::cmd("EVAL") };
        command.arg(if is_known { &self.digest } else { self.source });
        command.arg(keys.len()).arg(keys).arg(arguments);
        command
    }
}

impl Redis {
    /// Connects to nobody yet.
    ///
    /// # Errors
    ///
    /// If a URI makes no sense.
    pub fn new(settings: &Settings) -> Result<Self, BadUri> {
        install_tls();
        let infos = infos(settings)?;
        let certificates = settings.authority.as_ref().map(|authority| TlsCertificates {
            client_tls: None,
            root_cert: Some(authority.clone()),
        });
        let client = |info: ConnectionInfo| match &certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        };
        let target = if settings.is_cluster {
            let nodes = infos.iter().cloned().map(client).collect::<Result<Vec<_>, _>>();
            let nodes = nodes.map_err(|_| BadUri)?;
            let builder = ClusterClient::builder(infos);
            let builder = match &certificates {
                Some(certificates) => builder.certs(certificates.clone()),
                None => builder,
            };
            let client = builder
                .connection_timeout(PATIENCE)
                .response_timeout(PATIENCE)
                .overall_response_timeout(Some(PATIENCE))
                .retries(0)
                .tcp_settings(tcp())
                .build();
            Target::Cluster(Box::new(client.map_err(|_| BadUri)?), nodes)
        } else {
            let info = infos.into_iter().next().ok_or(BadUri)?;
            Target::One(Box::new(client(info).map_err(|_| BadUri)?))
        };
        let names = settings.names.clone();
        let epochs = probe::epochs(&names, settings.is_cluster);
        let (reserve, settle) = (Script::new(RESERVE), Script::new(SETTLE));
        Ok(Self { target, names, epochs, link: RwLock::new(None), reserve, settle })
    }

    /// Asks for groups, all at once; nothing is taken after that moment of the server's clock.
    /// Waits for so long at most.
    ///
    /// # Errors
    ///
    /// See [`Fault`]. Whatever was asked may then have been taken, or not.
    pub async fn reserve(
        &self,
        groups: &[Group],
        until_ms: u64,
        bound: Duration,
    ) -> Result<Reserved, Failure> {
        let Some(mut link) = self.link() else { return Err(gone()) };
        let parts = self.parts(groups);
        let call = |parts: &[(Part, usize)]| {
            let keys = parts.iter().flat_map(|(part, _)| part.group.keys(&self.names)).collect();
            let until = until_ms.to_string().into_bytes();
            let packed = parts.iter().map(|(part, _)| part.group.packed());
            (keys, [until].into_iter().chain(packed).collect())
        };
        let calls: Vec<_> = match self.target {
            Target::One(_) => parts.chunks(GROUPS_AT_ONCE).map(call).collect(),
            Target::Cluster(..) => parts.chunks(1).map(call).collect(),
        };
        let answers = self.within(bound, link.run(&self.reserve, calls)).await?;
        let now_ms = answers.first().and_then(|answer| time(answer)).ok_or_else(nonsense)?;
        let answers = answers.into_iter().flat_map(|answer| answer.into_iter().skip(1));
        Ok(Reserved { now_ms, answers: join(groups, &parts, answers)? })
    }

    /// On a cluster each bearer's counters are asked by themselves.
    fn parts(&self, groups: &[Group]) -> Vec<(Part, usize)> {
        let mut parts = Vec::with_capacity(groups.len());
        for (number, group) in groups.iter().enumerate() {
            match self.target {
                Target::One(_) => parts.push((Part::whole(group), number)),
                Target::Cluster(..) => {
                    let split = group.split().into_iter();
                    parts.extend(
                        split.map(|(group, places)| {
                            (Part { group, places: places.to_vec() }, number)
                        }),
                    );
                }
            }
        }
        parts
    }

    /// Does what has been decided; nobody's decision waits for it.
    ///
    /// # Errors
    ///
    /// See [`Fault`]. Some of it may then have been done; doing all of it again is right.
    pub async fn settle(&self, acts: &[Act]) -> Result<Settled, Failure> {
        let Some(mut link) = self.link() else { return Err(gone()) };
        let most = match self.target {
            Target::One(_) => GROUPS_AT_ONCE,
            Target::Cluster(..) => 1,
        };
        let call = |acts: &[Act]| {
            let keys = acts.iter().flat_map(|act| {
                let key = act.key(&self.names);
                let mark = act.mark(&self.names).unwrap_or_else(|| key.clone());
                [key, mark]
            });
            (keys.collect(), acts.iter().map(Act::packed).collect())
        };
        let calls = acts.chunks(most).map(call).collect();
        let answers = self.within(PATIENCE, link.run(&self.settle, calls)).await?;
        let answers = answers.into_iter().flat_map(|answer| answer.into_iter().skip(1));
        let mut settled = Settled::default();
        for answer in answers {
            let Value::BulkString(bytes) = answer else { return Err(nonsense()) };
            match bytes.first() {
                None => settled.scores.push(None),
                Some(b'!') => {
                    settled.foreign += 1;
                    settled.scores.push(None);
                }
                Some(_) => settled.scores.push(Some(read_score(&bytes).map_err(|_| nonsense())?)),
            }
        }
        if settled.scores.len() == acts.len() { Ok(settled) } else { Err(nonsense()) }
    }

    fn link(&self) -> Option<Link> {
        self.link.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_link(&self, link: Option<Link>) {
        *self.link.write().unwrap_or_else(PoisonError::into_inner) = link;
    }

    async fn connect(&self) -> Result<Link, Failure> {
        let link = match &self.target {
            Target::One(client) => {
                let config = ConnectionManagerConfig::new()
                    .set_number_of_retries(0)
                    .set_connection_timeout(Some(PATIENCE))
                    .set_response_timeout(Some(PATIENCE))
                    .set_pipeline_buffer_size(CALLS);
                let manager = ConnectionManager::new_with_config((**client).clone(), config);
                Link::One(manager.await.map_err(|error| fault::of(&error))?)
            }
            Target::Cluster(client, _) => Link::Cluster(
                client.get_async_connection().await.map_err(|error| fault::of(&error))?,
            ),
        };
        self.set_link(Some(link.clone()));
        Ok(link)
    }

    /// Waits no longer than that. What only a new connection mends gets one with the next
    /// probe.
    async fn within<T>(
        &self,
        bound: Duration,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let done = tokio::time::timeout(bound, work).await;
        let result = done.unwrap_or_else(|_| Err(Failure::new(Fault::Slow, "")));
        if let Err(error) = &result
            && matches!(error.fault, Fault::Gone | Fault::ReadOnly | Fault::Refused | Fault::Slow)
        {
            self.set_link(None);
        }
        result
    }
}

/// What one script can do of a group.
#[derive(Debug)]
struct Part {
    group: Group,
    /// Where its claims are in the whole.
    places: Vec<usize>,
}

impl Part {
    fn whole(group: &Group) -> Self {
        Self { group: group.clone(), places: (0..group.claims.len()).collect() }
    }
}

/// The answers to whole groups. Where one part was denied the others may have been taken:
/// that is told, and given back by whoever settles.
fn join(
    groups: &[Group],
    parts: &[(Part, usize)],
    answers: impl Iterator<Item = Value>,
) -> Result<Vec<(GroupAnswer, Vec<bool>)>, Failure> {
    let empty = |group: &Group| {
        let standings = std::iter::repeat_n(Standing::default(), group.claims.len()).collect();
        let answer = GroupAnswer { verdict: Verdict::Taken, standings, score: None };
        (answer, vec![false; group.claims.len()])
    };
    let mut joined: Vec<_> = groups.iter().map(empty).collect();
    let mut count = 0;
    for ((part, number), answer) in parts.iter().zip(answers) {
        count += 1;
        let Value::BulkString(bytes) = answer else { return Err(nonsense()) };
        let answer = read_group(&bytes, part.places.len()).map_err(|_| nonsense())?;
        let (whole, taken) = &mut joined[*number];
        let stopped = match answer.verdict {
            Verdict::Taken => usize::MAX,
            Verdict::Denied(place) => place,
            Verdict::Late | Verdict::Foreign => 0,
        };
        for (index, place) in part.places.iter().enumerate() {
            let claim = &part.group.claims[index];
            let counts = match answer.verdict {
                Verdict::Taken => true,
                Verdict::Denied(_) => {
                    (part.group.in_order && index < stopped)
                        || (index == stopped && claim.counts_rejected)
                }
                Verdict::Late | Verdict::Foreign => false,
            };
            whole.standings[*place] = answer.standings[index];
            taken[*place] = counts && !claim.looks && claim.cost > 0;
        }
        whole.verdict = match (whole.verdict, answer.verdict) {
            (before, Verdict::Taken) => before,
            (Verdict::Taken, Verdict::Denied(place)) => Verdict::Denied(part.places[place]),
            (Verdict::Denied(first), Verdict::Denied(place)) => {
                Verdict::Denied(first.min(part.places[place]))
            }
            (_, worse @ (Verdict::Late | Verdict::Foreign))
            | (worse @ (Verdict::Late | Verdict::Foreign), Verdict::Denied(_)) => worse,
        };
        whole.score = whole.score.or(answer.score);
    }
    if count == parts.len() { Ok(joined) } else { Err(nonsense()) }
}

impl Link {
    async fn ask(&mut self, command: &Cmd) -> Result<Value, redis::RedisError> {
        match self {
            Self::One(link) => link.req_packed_command(command).await,
            Self::Cluster(link) => link.req_packed_command(command).await,
        }
    }

    /// Each by itself: on a cluster some can fail.
    async fn ask_all(&mut self, commands: Vec<Cmd>) -> Result<Vec<Answer>, redis::RedisError> {
        match self {
            Self::One(link) => {
                let count = commands.len();
                let mut pipeline = Pipeline::with_capacity(count);
                for command in commands {
                    pipeline.add_command(command);
                }
                let answers = link.req_packed_commands(&pipeline, 0, count).await?;
                Ok(answers.into_iter().map(Ok).collect())
            }
            Self::Cluster(link) => {
                let asked = commands.iter().map(|command| {
                    let mut link = link.clone();
                    async move { link.req_packed_command(command).await }
                });
                Ok(join_all(asked).await)
            }
        }
    }

    /// Calls a script so many times. A server that does not know it has run nothing: it is
    /// told the source.
    async fn run(
        &mut self,
        script: &Script,
        calls: Vec<(Vec<String>, Vec<Vec<u8>>)>,
    ) -> Result<Vec<Vec<Value>>, Failure> {
        let command = |is_known| {
            move |(keys, arguments): &(Vec<_>, Vec<_>)| script.call(keys, arguments, is_known)
        };
        let ask = |error: redis::RedisError| fault::of(&error);
        let mut answers =
            self.ask_all(calls.iter().map(command(true)).collect()).await.map_err(ask)?;
        let unknown: Vec<_> =
            (0..answers.len()).filter(|at| fault::is_unknown(&answers[*at])).collect();
        if !unknown.is_empty() {
            let again = unknown.iter().map(|at| command(false)(&calls[*at])).collect();
            let told = self.ask_all(again).await.map_err(ask)?;
            for (at, answer) in unknown.into_iter().zip(told) {
                answers[at] = answer;
            }
        }
        let array = |answer| match value(answer)? {
            Value::Array(parts) => Ok(parts),
            _ => Err(nonsense()),
        };
        answers.into_iter().map(array).collect()
    }
}

/// What came back for one command.
type Answer = Result<Value, redis::RedisError>;

fn value(answer: Result<Value, redis::RedisError>) -> Result<Value, Failure> {
    match answer.map_err(|error| fault::of(&error))? {
        Value::ServerError(error) => Err(fault::of_server(&error)),
        value => Ok(value),
    }
}

/// What every answer of a script begins with.
fn time(answer: &[Value]) -> Option<u64> {
    match answer.first()? {
        Value::Int(ms) => u64::try_from(*ms).ok(),
        _ => None,
    }
}

fn nonsense() -> Failure {
    Failure::new(Fault::Nonsense, "")
}

fn gone() -> Failure {
    Failure::new(Fault::Gone, "")
}

fn infos(settings: &Settings) -> Result<Vec<ConnectionInfo>, BadUri> {
    let parse = |uri: &String| {
        let with_tls = uri.strip_prefix("redis://").filter(|_| settings.authority.is_some());
        let uri = with_tls.map_or_else(|| uri.clone(), |rest| format!("rediss://{rest}"));
        uri.into_connection_info().map_err(|_| BadUri)
    };
    let infos = settings.uris.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    // Who says it once means all nodes.
    let first = infos.first().map(ConnectionInfo::redis_settings);
    let own = |it: Option<&str>| it.map(str::to_owned);
    let username = first.and_then(|it| own(it.username())).or_else(|| settings.login.0.clone());
    let password = first.and_then(|it| own(it.password())).or_else(|| settings.login.1.clone());
    let complete = |info: ConnectionInfo| {
        let mut known = info.redis_settings().clone();
        if let Some(username) = username.as_ref().filter(|_| known.username().is_none()) {
            known = known.set_username(username);
        }
        if let Some(password) = password.as_ref().filter(|_| known.password().is_none()) {
            known = known.set_password(password);
        }
        if let Some(password) = &settings.password {
            known = known.set_password(password);
        }
        info.set_redis_settings(known).set_tcp_settings(tcp())
    };
    Ok(infos.into_iter().map(complete).collect())
}

/// Who only listens would never notice that nobody is there any more.
fn tcp() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(QUIET).with_interval(QUIET / 4);
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(2 * QUIET)
}

/// One provider of ciphers for the process; a second call finds the first one's.
fn install_tls() {
    drop(rustls::crypto::ring::default_provider().install_default());
}
