//! Looking at Redis for `moderationctl doctor`: each node that is named by itself, with
//! connections of its own, so that no decision is in the way. It asks for everything that
//! is ever asked for, about a key that there is not, and changes nothing.

use redis::{
    AsyncConnectionConfig, Client, Cmd, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
};

use super::{PATIENCE, Redis, Target, fault, value};
use crate::sharing::{Failure, Fault};

/// What was found of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Its version, if it says.
    pub version: Option<String>,
    /// Its clock, in milliseconds since 1970, if we may ask.
    pub server_unix_ms: Option<u64>,
    /// What we may not do.
    pub denied: Vec<&'static str>,
    /// What it does when its memory is full, if it says.
    pub eviction: Option<Eviction>,
    /// Whether it is a node of a cluster, if it says.
    pub is_node: Option<bool>,
    /// Whether that cluster is whole, if it is one and says so.
    pub is_whole: Option<bool>,
    /// Whether it is one that takes no writes, if it says.
    pub is_replica: Option<bool>,
}

/// What a server does when its memory is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// `maxmemory-policy`.
    pub policy: String,
    /// Whether there is a bound at all (`maxmemory`), if it says.
    pub is_bounded: Option<bool>,
}

impl Redis {
    /// Looks at every node that is named, in their order; those of a cluster that are not
    /// named are not looked at.
    pub async fn examine(&self) -> Vec<Result<Examined, Failure>> {
        let mut all = Vec::new();
        for client in self.clients() {
            let looked = tokio::time::timeout(2 * PATIENCE, self.examine_one(&client)).await;
            all.push(looked.unwrap_or_else(|_| Err(Failure::new(Fault::Slow, ""))));
        }
        all
    }

    /// The nodes that are named.
    pub(super) fn clients(&self) -> Vec<Client> {
        match &self.target {
            Target::One(client) => vec![(**client).clone()],
            Target::Cluster(_, nodes) => nodes.clone(),
        }
    }

    async fn examine_one(&self, client: &Client) -> Result<Examined, Failure> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut node = Node(connection.map_err(|error| fault::of(&error))?);
        let mut denied = Vec::new();
        for (right, command) in self.commands() {
            if let Err(failure) = node.ask(&command).await {
                match failure.fault {
                    Fault::Refused => denied.push(right),
                    Fault::Gone | Fault::Slow => return Err(failure),
                    // It may, and there is nothing there, or it is kept elsewhere.
                    _ => {}
                }
            }
        }
        if self.may_not_listen(client).await? {
            denied.push("subscribe");
        }
        let info = node.info().await?;
        let is_node = info.number("cluster_enabled").map(|enabled| enabled == 1);
        let is_whole = if is_node == Some(true) { node.is_whole().await? } else { None };
        let server_unix_ms = match node.ask(&redis::cmd("TIME")).await {
            Ok(Value::Array(parts)) => milliseconds(&parts),
            Ok(_) | Err(_) => None,
        };
        Ok(Examined {
            version: info.text("redis_version"),
            server_unix_ms,
            denied,
            eviction: node.eviction(&info).await?,
            is_node,
            is_whole,
            is_replica: info.text("role").map(|role| role == "slave"),
        })
    }

    /// Each command that is ever used, and how it is tried: in vain.
    fn commands(&self) -> Vec<(&'static str, Cmd)> {
        let key = self.names.channel("doctor");
        let command = |name: &'static str, arguments: &[&str]| {
            let mut command = redis::cmd(&name.to_uppercase());
            command.arg(arguments);
            (name, command)
        };
        let no_script = "0".repeat(40);
        vec![
            command("eval", &["return 1", "1", &key]),
            command("evalsha", &[&no_script, "1", &key]),
            command("get", &[&key]),
            command("set", &[&key, "", "XX", "PX", "1"]),
            command("del", &[&key]),
            command("pexpire", &[&key, "1"]),
            command("pttl", &[&key]),
            command("type", &[&key]),
            command("time", &[]),
            command("hmget", &[&key, "field"]),
            // A field without a value: that is found out after the rights are.
            command("hset", &[&key, "field", "value", "field"]),
            // Nobody listens there.
            command("publish", &[&key, ""]),
        ]
    }

    async fn may_not_listen(&self, client: &Client) -> Result<bool, Failure> {
        let mut listening = client.get_async_pubsub().await.map_err(|error| fault::of(&error))?;
        match listening.subscribe(self.names.channel("bans")).await {
            Ok(()) => Ok(false),
            Err(error) => match fault::of(&error) {
                failure if failure.fault == Fault::Refused => Ok(true),
                failure => Err(failure),
            },
        }
    }
}

/// A connection to one node.
struct Node(MultiplexedConnection);

impl Node {
    async fn ask(&mut self, command: &Cmd) -> Result<Value, Failure> {
        value(self.0.req_packed_command(command).await)
    }

    /// `None`: we may not ask.
    async fn may_ask(&mut self, command: &Cmd) -> Result<Option<Value>, Failure> {
        match self.ask(command).await {
            Ok(answer) => Ok(Some(answer)),
            Err(failure) if matches!(failure.fault, Fault::Gone | Fault::Slow) => Err(failure),
            Err(_) => Ok(None),
        }
    }

    async fn info(&mut self) -> Result<Lines, Failure> {
        let answer = self.may_ask(&redis::cmd("INFO")).await?;
        Ok(Lines(answer.as_ref().map(text).unwrap_or_default()))
    }

    async fn is_whole(&mut self) -> Result<Option<bool>, Failure> {
        let mut command = redis::cmd("CLUSTER");
        command.arg("INFO");
        let answer = self.may_ask(&command).await?;
        Ok(answer.and_then(|it| Lines(text(&it)).text("cluster_state")).map(|it| it == "ok"))
    }

    async fn eviction(&mut self, info: &Lines) -> Result<Option<Eviction>, Failure> {
        let is_bounded = info.number("maxmemory").map(|bytes| bytes > 0);
        if let Some(policy) = info.text("maxmemory_policy") {
            return Ok(Some(Eviction { policy, is_bounded }));
        }
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("maxmemory-policy");
        let policy = match self.may_ask(&command).await? {
            Some(Value::Array(parts)) => parts.get(1).map(text),
            Some(Value::Map(parts)) => parts.first().map(|(_, policy)| text(policy)),
            _ => None,
        };
        Ok(policy.map(|policy| Eviction { policy, is_bounded }))
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        _ => String::new(),
    }
}

/// Seconds, and microseconds beside them.
fn milliseconds(parts: &[Value]) -> Option<u64> {
    let number = |at: usize| text(parts.get(at)?).parse::<u64>().ok();
    Some(number(0)?.saturating_mul(1_000).saturating_add(number(1)? / 1_000))
}

/// `NAME:VALUE`, one a line.
struct Lines(String);

impl Lines {
    fn text(&self, name: &str) -> Option<String> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value.trim().to_owned())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}
