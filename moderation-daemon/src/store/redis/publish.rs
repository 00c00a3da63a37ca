//! Messages between hosts, bytes in and bytes out: what one publishes on a channel all who
//! listen to it get, once at most, in the order of each sender. Nobody hears what was said
//! while he did not listen: messages make news faster, they keep nothing. What is in them,
//! and whether to believe it, is not known here.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis::{Client, aio::PubSub};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::AbortHandle,
};

use super::{PATIENCE, Redis, fault, value};
use crate::sharing::Failure;

/// More than this is no message of ours.
pub const MESSAGE_BYTES: usize = 16 * 1024;
/// Messages that wait to be read. Whoever is that far behind misses some, and is told so.
const QUEUE: usize = 1_024;
/// Between two attempts to listen.
const PAUSE: Duration = Duration::from_millis(500);

/// What is heard on a channel; listens until it is dropped.
#[derive(Debug)]
pub struct Messages {
    queue: mpsc::Receiver<Heard>,
    task: AbortHandle,
}

/// Something heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message(Vec<u8>),
    /// From here on it is listened, for the first time or again: what was said before was
    /// not heard.
    Listening,
    /// From here on nothing is heard, until it is listened again.
    Deaf,
    /// So many messages were not taken, because too many waited.
    Missed(u64),
}

impl Messages {
    /// The next thing heard.
    pub async fn next(&mut self) -> Option<Heard> {
        self.queue.recv().await
    }

    /// The next thing heard, if it is there already.
    pub fn ready(&mut self) -> Option<Heard> {
        self.queue.try_recv().ok()
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Redis {
    /// Says something to all who listen; connects if there is no connection. No decision
    /// waits for this.
    ///
    /// # Errors
    ///
    /// If it could not be said; whether anybody listens is not known.
    ///
    /// # Panics
    ///
    /// If the message is longer than [`MESSAGE_BYTES`].
    pub async fn publish(&self, channel: &str, message: &[u8]) -> Result<(), Failure> {
        assert!(message.len() <= MESSAGE_BYTES, "a message is short");
        let mut command = redis::cmd("PUBLISH");
        command.arg(self.names.channel(channel)).arg(message);
        let said = async {
            let mut link = match self.link() {
                Some(link) => link,
                None => self.connect().await?,
            };
            value(link.ask(&command).await).map(drop)
        };
        self.within(PATIENCE, said).await
    }

    /// Listens to a channel, and connects again for as long as it takes. `nodes` of a cluster
    /// pass on what any of them hears.
    pub fn listen(&self, channel: &str) -> Messages {
        let (sender, queue) = mpsc::channel(QUEUE);
        let task = tokio::spawn(follow(self.clients(), self.names.channel(channel), sender));
        Messages { queue, task: task.abort_handle() }
    }
}

async fn follow(clients: Vec<Client>, channel: String, queue: mpsc::Sender<Heard>) {
    let mut missed = 0;
    for client in clients.iter().cycle() {
        match tokio::time::timeout(PATIENCE, subscribe(client, &channel)).await {
            Ok(Ok(connection)) => {
                if queue.send(Heard::Listening).await.is_err() {
                    return;
                }
                hear(connection, &queue, &mut missed).await;
                if queue.send(Heard::Deaf).await.is_err() {
                    return;
                }
            }
            Ok(Err(error)) => tracing::debug!(fault = error.fault.name(), "cannot listen"),
            Err(_) => tracing::debug!("nobody to listen to"),
        }
        if queue.is_closed() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn subscribe(client: &Client, channel: &str) -> Result<PubSub, Failure> {
    let mut connection = client.get_async_pubsub().await.map_err(|error| fault::of(&error))?;
    connection.subscribe(channel).await.map_err(|error| fault::of(&error))?;
    Ok(connection)
}

/// Until the connection ends.
async fn hear(connection: PubSub, queue: &mpsc::Sender<Heard>, missed: &mut u64) {
    let mut messages = connection.into_on_message();
    while let Some(message) = messages.next().await {
        let bytes = message.get_payload_bytes();
        if bytes.len() > MESSAGE_BYTES {
            *missed += 1;
            continue;
        }
        if *missed > 0 && queue.try_send(Heard::Missed(*missed)).is_ok() {
            *missed = 0;
        }
        match queue.try_send(Heard::Message(bytes.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => *missed += 1,
            Err(TrySendError::Closed(_)) => return,
        }
    }
}
