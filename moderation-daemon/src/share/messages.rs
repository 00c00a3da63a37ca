//! Bans and lifts by message, where hosts have a Redis besides the shared database: said as
//! soon as they are written down here, whether the database can be reached or not, and heard
//! long before it tells of them. It keeps nothing and is waited for by nobody: what is missed
//! comes with the documents, and what is heard goes the moderator's way and changes nothing
//! of what is known about documents. What is believed is the affair of `ledger`.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::AbortHandle};

use super::{
    ShareSettings, ShareStatus,
    task::{BATCH, blocking, tell},
};
use crate::{
    clock,
    engine::BanId,
    ledger::{Change, Ear, MacKey, Origin, Said},
    metrics::{Metrics, Table},
    moderator::{Moderator, News},
    sharing::Failure,
    store::{
        Reader,
        redis::{Heard, MESSAGE_BYTES, Redis},
    },
    telemetry::Throttle,
};

/// The channel, behind the prefix.
const CHANNEL: &str = "bans";
/// Bans that can wait to be said. Those beyond are not.
const WAITING: usize = 4_096;
/// Between two attempts to say something: doubled each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Both halves. Dropped, they end.
#[derive(Debug)]
pub struct Messages([AbortHandle; 2]);

impl Drop for Messages {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Starts to speak and to listen. `reader` is waited for by what is said: it had better be
/// nobody else's.
pub fn say_and_hear(
    redis: Redis,
    settings: &ShareSettings,
    (moderator, reader): (&Moderator, Reader),
    status: &Arc<ShareStatus>,
    metrics: &Arc<Metrics>,
) -> Messages {
    let (redis, follow) = (Arc::new(redis), &settings.follow);
    status.messages(|view| view.is_used = true);
    let mouth = Mouth {
        redis: Arc::clone(&redis),
        reader,
        host: follow.host.clone(),
        mac: settings.mac.clone(),
        status: Arc::clone(status),
        metrics: Arc::clone(metrics),
        pause: FIRST_PAUSE,
        lines: Throttle::default(),
    };
    let ears = Ears {
        redis,
        ear: Ear::new(follow.host.clone(), follow.skew_ms, settings.mac.clone()),
        moderator: moderator.clone(),
        status: Arc::clone(status),
        metrics: Arc::clone(metrics),
        lines: Throttle::default(),
    };
    let speaking = tokio::spawn(mouth.speak(status.outbox().fresh(WAITING)));
    let listening = tokio::spawn(ears.listen());
    Messages([speaking.abort_handle(), listening.abort_handle()])
}

/// Says what happened here.
struct Mouth {
    redis: Arc<Redis>,
    reader: Reader,
    host: String,
    mac: MacKey,
    status: Arc<ShareStatus>,
    metrics: Arc<Metrics>,
    pause: Duration,
    lines: Throttle,
}

impl Mouth {
    async fn speak(mut self, mut fresh: mpsc::Receiver<BanId>) {
        let mut ids = Vec::with_capacity(BATCH);
        while fresh.recv_many(&mut ids, BATCH).await > 0 {
            // One that fell and was lifted is read as lifted, twice.
            ids.dedup();
            let (reader, wanted) = (self.reader.clone(), std::mem::take(&mut ids));
            let count = wanted.len() as u64;
            match blocking(move || reader.shared_bans(&wanted)).await {
                Ok(bans) => {
                    for ban in bans {
                        if let Some(said) = Said::of(&ban, &self.host, &self.mac) {
                            self.say(&said).await;
                        }
                    }
                }
                Err(error) => {
                    self.metrics.messages.missed("unread", count);
                    let error = &error as &dyn std::error::Error;
                    if let Some(suppressed) = self.lines.permit(clock::now().boot_ms) {
                        tracing::warn!(error, suppressed, "bans are not told by message");
                    }
                }
            }
        }
    }

    /// Until it is said, or is no news any more.
    async fn say(&mut self, said: &Said) {
        let message = said.to_message();
        if message.len() > MESSAGE_BYTES {
            self.metrics.messages.missed("long", 1);
            return;
        }
        while said.is_timely(clock::now().unix_ms, 0) {
            match self.redis.publish(CHANNEL, &message).await {
                Ok(()) => {
                    self.metrics.messages.sent.inc();
                    self.status.messages(|view| view.fault = None);
                    self.pause = FIRST_PAUSE;
                    return;
                }
                Err(failure) => self.wait_after(&failure).await,
            }
        }
        self.metrics.messages.missed("late", 1);
    }

    async fn wait_after(&mut self, failure: &Failure) {
        let is_news = self.status.messages(|view| view.fault.replace(failure.fault).is_none());
        if is_news && let Some(suppressed) = self.lines.permit(clock::now().boot_ms) {
            let error = failure as &dyn std::error::Error;
            tracing::warn!(error, suppressed, "bans are not told by message just now");
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
    }
}

/// Hears what happened elsewhere.
struct Ears {
    redis: Arc<Redis>,
    ear: Ear,
    moderator: Moderator,
    status: Arc<ShareStatus>,
    metrics: Arc<Metrics>,
    lines: Throttle,
}

impl Ears {
    async fn listen(mut self) {
        let mut messages = self.redis.listen(CHANNEL);
        while let Some(heard) = messages.next().await {
            let mut changes: Vec<_> = self.hear(heard).into_iter().collect();
            while changes.len() < BATCH
                && let Some(heard) = messages.ready()
            {
                changes.extend(self.hear(heard));
            }
            (0..self.ear.take_forgotten()).for_each(|_| self.metrics.overflow(Table::Messages));
            if !changes.is_empty() {
                self.tell(changes).await;
            }
        }
    }

    fn hear(&mut self, heard: Heard) -> Option<Change> {
        let message = match heard {
            Heard::Message(message) => message,
            Heard::Listening => {
                self.listens(true);
                return None;
            }
            Heard::Deaf => {
                self.listens(false);
                return None;
            }
            Heard::Missed(count) => {
                self.metrics.messages.missed("unheard", count);
                return None;
            }
        };
        match self.ear.hear(&message, clock::now().unix_ms) {
            Ok(None) => None,
            Ok(Some(said)) => {
                self.metrics.messages.heard.inc();
                self.change(said)
            }
            Err(unheeded) => {
                self.refuse(unheeded.name());
                None
            }
        }
    }

    fn change(&mut self, said: Said) -> Option<Change> {
        match said {
            Said::Lift(lift) => Some(Change::Lift { uid: lift.uid, host: lift.host }),
            Said::Ban(document) => match document.ban() {
                Some(ban) => {
                    let (uid, origin) = (document.uid, Origin::Host(document.host));
                    Some(Change::Ban { uid, origin, ban: Box::new(ban) })
                }
                None => {
                    self.refuse("unusable");
                    None
                }
            },
        }
    }

    fn refuse(&mut self, reason: &'static str) {
        self.metrics.messages.refused(reason);
        if let Some(suppressed) = self.lines.permit(clock::now().boot_ms) {
            tracing::warn!(reason, suppressed, "a message about bans is not heeded");
        }
    }

    fn listens(&self, is_listening: bool) {
        self.status.messages(|view| {
            view.is_listening = is_listening;
            // Who is heard there is there; whether he takes anything, the next ban shows.
            view.fault = view.fault.filter(|_| !is_listening);
        });
        self.metrics.messages.listening.set(i64::from(is_listening));
    }

    async fn tell(&mut self, changes: Vec<Change>) {
        let (count, news) = (changes.len() as u64, News { changes, ..News::default() });
        if let Err(error) = tell(&self.moderator, &self.metrics, news).await {
            self.metrics.messages.missed("untaken", count);
            if let Some(suppressed) = self.lines.permit(clock::now().boot_ms) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, suppressed, "what was heard waits for its documents");
            }
        }
    }
}
