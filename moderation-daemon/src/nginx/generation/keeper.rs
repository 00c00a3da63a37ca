//! Carries out what is found out about generations: places of those that go on are
//! renewed, the others are given back. A daemon that is killed leaves its places to the
//! next one. It decides nothing.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time};

use super::{Answered, Generations, Held, Part, Patience, StreamId};
use crate::{
    clock,
    engine::{Bearer, LeaseId},
    metrics::NginxMetrics,
    moderator::Moderator,
    nginx::log::pending::RequestName,
};

/// How soon it is tried again to give back what could not be given back.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a line can be on its way, while a client that has seen the end of a
/// generation asks for the next.
const LINE_DELAY: Duration = Duration::from_millis(100);

/// All places, for those who ask, hear and keep.
#[derive(Debug)]
pub struct Places {
    generations: Mutex<Generations>,
    is_over: Notify,
    has_room: Notify,
}

impl Places {
    /// None yet.
    pub fn new(patience: Patience) -> Self {
        let generations = Mutex::new(Generations::new(patience));
        Self { generations, is_over: Notify::new(), has_room: Notify::new() }
    }

    /// No await while this is held.
    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that begins a generation got a place.
    pub fn start(&self, bearer: &Bearer, lease: LeaseId) -> Part {
        self.lock().start(bearer, lease, clock::now().boot_ms);
        Part::Start(lease)
    }

    /// A request that is a generation got a place.
    pub fn start_whole(&self, bearer: &Bearer, lease: LeaseId) -> Part {
        self.lock().start_whole(bearer, lease, clock::now().boot_ms);
        Part::Whole(lease)
    }

    /// A request is about to carry a stream.
    pub fn watch(&self, bearer: &Bearer, id: StreamId, name: RequestName) -> Part {
        self.lock().watch(bearer, &id, name, clock::now().boot_ms);
        Part::Stream(id)
    }

    /// A request is about to end a generation.
    pub fn abort(&self) -> Part {
        self.lock().abort()
    }

    /// What became of a request.
    pub fn hear(&self, bearer: &Bearer, name: RequestName, part: &Part, answered: Answered) {
        self.lock().hear(bearer, name, part, answered, clock::now().boot_ms);
        self.is_over.notify_one();
    }

    /// Gives up what nothing was heard of, if it is time to look.
    pub fn sweep(&self, metrics: &NginxMetrics) {
        let mut generations = self.lock();
        let Some(held) = generations.sweep(clock::now().boot_ms) else { return };
        drop(generations);
        metrics.generations.set(i64::try_from(held).unwrap_or(i64::MAX));
        self.is_over.notify_one();
    }

    /// Returns when somebody has less than `most` places, or has had time to.
    pub async fn await_room(&self, bearer: &Bearer, most: usize) {
        let room = async {
            loop {
                let changed = self.has_room.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.lock().held_by(bearer) < most {
                    return;
                }
                changed.await;
            }
        };
        // Whether there is room is decided elsewhere.
        drop(time::timeout(LINE_DELAY, room).await);
    }

    fn forget(&self, held: &Held) {
        self.lock().forget(held);
        self.has_room.notify_waiters();
    }
}

/// Keeps places until it is dropped. Those that live for `lease_ms` without renewal are
/// renewed three times as often.
pub async fn keep(places: &Places, moderator: &Moderator, lease_ms: u64, metrics: &NginxMetrics) {
    let every = Duration::from_millis((lease_ms / 3).max(1));
    tokio::join!(give_back(places, moderator, metrics), renew(places, moderator, every, metrics),);
}

async fn give_back(places: &Places, moderator: &Moderator, metrics: &NginxMetrics) {
    loop {
        // A wake-up that came meanwhile is not lost; what failed waits for the next.
        drop(time::timeout(AGAIN, places.is_over.notified()).await);
        let over = places.lock().take_over();
        for (held, why) in over {
            match moderator.release(held.1).await {
                // It had ended by itself, or it has now.
                Ok(_) => {
                    metrics.generation_ended(why);
                    places.forget(&held);
                }
                Err(_) => places.lock().put_back(held, why),
            }
        }
    }
}

async fn renew(places: &Places, moderator: &Moderator, every: Duration, metrics: &NginxMetrics) {
    let mut ticks = time::interval(every);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let running = places.lock().running();
        for held in running {
            match moderator.renew(held.1).await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    metrics.generations_lapsed.inc();
                    places.forget(&held);
                }
                // There is time for two more.
                Err(reason) => metrics.undecided(reason.name()),
            }
        }
    }
}
