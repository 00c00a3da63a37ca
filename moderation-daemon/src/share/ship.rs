//! Emptying the outbox: what waits is told in its order, as it stands by now, and is
//! forgotten when the database has taken it. Told twice is no harm.

use std::collections::BTreeSet;

use super::task::{Ended, Task, blocking};
use crate::{
    clock,
    ledger::{BanDocument, Entry, Holder, LiftDocument, Origin, SharedBan, keys},
    moderator::News,
    store::{
        Waiting,
        mongo::{Mongo, Put},
    },
};

/// Rows that are told in one go.
const ROWS: u32 = 64;

impl Task {
    /// Tells some of what waits, and comes again for the rest: others are heard in between,
    /// also while bans fall all the time. If the outbox was full, everything is compared in
    /// the end.
    pub(super) async fn ship(&mut self, mongo: &Mongo) -> Result<(), Ended> {
        let reader = self.reader.clone();
        let waiting = blocking(move || reader.outbox(ROWS)).await?;
        if !waiting.is_empty() {
            self.tell(mongo, &waiting).await?;
            self.outbox.ring();
            return Ok(());
        }
        if self.outbox.has_gap() { self.compare(mongo).await } else { Ok(()) }
    }

    async fn tell(&mut self, mongo: &Mongo, waiting: &[Waiting]) -> Result<(), Ended> {
        let now = clock::now().unix_ms;
        let mut news = News::default();
        news.notes.sent = waiting.iter().map(|one| one.row).collect();
        let mut seen = BTreeSet::new();
        let bans = waiting.iter().map(|one| &one.shared);
        let (lifted, standing): (Vec<_>, Vec<_>) =
            bans.filter(|one| seen.insert(one.ban.id)).partition(|one| one.lifted.is_some());
        // What others made is theirs to tell; what is over nobody needs to know.
        let standing =
            standing.into_iter().filter(|it| it.origin == Origin::Here && it.ban.holds_at(now));
        let standing: Vec<_> = standing.collect();
        news.notes.seen = self.tell_bans(mongo, &standing).await?;
        for shared in lifted {
            news.notes.gone.extend(self.tell_lift(mongo, shared, now).await?);
        }
        self.metrics.ledger_shipped.inc_by(waiting.len() as u64);
        self.hear(news).await
    }

    pub(super) async fn tell_bans(
        &mut self,
        mongo: &Mongo,
        bans: &[&SharedBan],
    ) -> Result<Vec<Entry>, Ended> {
        let (host, mac) = (&self.settings.follow.host, &self.settings.mac);
        let documents = bans.iter().flat_map(|shared| BanDocument::all(shared, host, mac));
        let documents: Vec<_> = documents.collect();
        let is_new = |key: &str| self.follow.entry(key).is_none();
        let puts = mongo.put(&documents, is_new, mac).await?;
        for user in bans.iter().filter_map(|shared| shared.ban.user.as_ref()) {
            mongo.end_sessions(user.as_str()).await?;
        }
        let mut entries = Vec::new();
        for (document, put) in documents.into_iter().zip(puts) {
            let Put::Written(id) = put else { continue };
            let entry = Entry {
                key: document.key,
                id,
                uid: document.uid,
                holder: Holder::Here,
                expires_at_unix_ms: document.expires_at_unix_ms,
            };
            self.follow.wrote(entry.clone());
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Returns the keys under which there is nothing more.
    async fn tell_lift(
        &mut self,
        mongo: &Mongo,
        shared: &SharedBan,
        now_unix_ms: u64,
    ) -> Result<Vec<String>, Ended> {
        let mut gone: BTreeSet<_> = keys(&shared.ban).into_iter().collect();
        gone.extend(self.follow.keys_of(&shared.uid));
        let gone: Vec<_> = gone.into_iter().collect();
        match shared.origin {
            // Its document has no name of ours in it, and whoever reads it next must not
            // take it for a new one.
            Origin::Foreign => mongo.remove(&gone).await?,
            Origin::Here | Origin::Host(_) => {
                let host = &self.settings.follow.host;
                let lift = LiftDocument::of(shared, host, now_unix_ms, &self.settings.mac);
                mongo.lift(&lift, &gone).await?;
            }
        }
        self.follow.removed(&shared.uid, &gone);
        Ok(gone)
    }
}
