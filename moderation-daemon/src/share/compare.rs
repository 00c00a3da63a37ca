//! Comparing everything: at a start, after a gap, and again and again where a server tells
//! of no changes. Only what is another than last time is read as a whole.

use std::collections::HashMap;

use super::{
    ShareState,
    task::{Ended, Task, blocking},
};
use crate::{
    clock,
    ledger::keys,
    moderator::News,
    store::mongo::{Light, Mongo},
};

/// A document's key, and what tells it from another under the same key.
pub(super) type Stamps = HashMap<String, u64>;

/// Bans that are told in one go.
const PAGE: u32 = 64;
/// Keys of which documents are read in one go.
const READ: usize = 1_024;

impl Task {
    /// Everything, with what is gone judged as usual, unless the database was set back.
    pub(super) async fn compare(&mut self, mongo: &Mongo) -> Result<(), Ended> {
        if self.was_set_back(mongo).await? {
            return self.compare_after_a_loss(mongo).await;
        }
        self.poll_thoroughly(mongo).await?;
        self.share_what_is_missing(mongo).await
    }

    /// Everything, and nothing that is gone was meant to be.
    pub(super) async fn compare_after_a_loss(&mut self, mongo: &Mongo) -> Result<(), Ended> {
        let steps = self.follow.lost(clock::now());
        self.perform(mongo, steps, None).await?;
        self.poll_thoroughly(mongo).await?;
        // So that the same loss is not met again.
        self.leave_sign(mongo, None).await?;
        self.share_what_is_missing(mongo).await
    }

    async fn poll_thoroughly(&mut self, mongo: &Mongo) -> Result<(), Ended> {
        let before = self.status.view().state;
        self.status.change(|view| view.state = ShareState::Comparing);
        // First: what finds no room in the outbox meanwhile is a new gap.
        let mut news = News::default();
        news.notes.is_compared = true;
        self.hear(news).await?;
        self.stamps = Stamps::default();
        self.follow.set_thorough(true);
        let polled = self.poll(mongo).await;
        self.follow.set_thorough(false);
        self.status.change(|view| view.state = before);
        polled
    }

    /// Lists all, reads what is another, and notes what is gone.
    pub(super) async fn poll(&mut self, mongo: &Mongo) -> Result<(), Ended> {
        let (listed, is_all) = mongo.list(self.settings.most_documents).await?;
        let is_another = |light: &&Light| self.stamps.get(&light.key) != Some(&light.stamp);
        let changed = listed.iter().filter(is_another).map(|it| it.key.clone());
        // Lifts first: what they beat may be listed, too. Copies last: whose they are is
        // known by then.
        let mut changed: Vec<_> = changed.map(|key| (rank(&key), key)).collect();
        changed.sort_unstable();
        changed.dedup();
        let changed: Vec<_> = changed.into_iter().map(|(_, key)| key).collect();
        // Not all at once: there may be a million of them.
        for keys in changed.chunks(READ) {
            let found = mongo.read(keys).await?;
            let steps = found.into_iter().flat_map(|one| self.see(one)).collect();
            self.perform(mongo, steps, None).await?;
        }
        self.stamps = listed.into_iter().map(|light| (light.key, light.stamp)).collect();
        if is_all {
            let stamps = &self.stamps;
            self.follow.listed(|key| stamps.contains_key(key), clock::now());
        } else {
            // Too many to list: ask about those that were there.
            let known: Vec<_> = self.follow.keys().map(str::to_owned).collect();
            let present = mongo.present(&known).await?;
            self.follow.listed(|key| present.contains(key), clock::now());
        }
        Ok(())
    }

    /// Bans of this host that no document tells of.
    async fn share_what_is_missing(&mut self, mongo: &Mongo) -> Result<(), Ended> {
        let mut after = 0;
        // What is gone is judged first: who knows whether it was meant to be.
        let gone = self.follow.missing();
        loop {
            let (reader, now) = (self.reader.clone(), clock::now().unix_ms);
            let bans = blocking(move || reader.own_bans(after, PAGE, now)).await?;
            let Some(last) = bans.last() else { return Ok(()) };
            after = last.ban.id;
            let is_missing = |key: &String| !self.stamps.contains_key(key) && !gone.contains(key);
            let missing: Vec<_> =
                bans.iter().filter(|it| keys(&it.ban).iter().any(is_missing)).collect();
            if !missing.is_empty() {
                let mut news = News::default();
                news.notes.seen = self.tell_bans(mongo, &missing).await?;
                self.hear(news).await?;
            }
        }
    }
}

fn rank(key: &str) -> u8 {
    match key {
        key if key.starts_with("LIFTS:") => 0,
        key if key.starts_with("BANS:") => 1,
        _ => 2,
    }
}
