//! What other hosts did, on its way through the same gate as what operators want: bans and
//! lifts that were decided elsewhere are checked against this host's guards and bounds,
//! written down with where they came from, and then hold. Who tells is not known here.

use std::collections::BTreeMap;

use super::{
    Command, DECISION_TIMEOUT, Moderator, Reply, Unavailable,
    pending::respond,
    task::{StoreLost, Task},
};
use crate::{
    clock,
    engine::{Ban, BanRefusal, LiftTarget, Moment, Overlay},
    ledger::{Change, Entry, Memory, Origin, Uid},
    metrics::Table,
    store::{Named, Notes},
};

/// What happened elsewhere, in its order, and what there is to remember about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// What happened.
    pub changes: Vec<Change>,
    /// What to remember.
    pub notes: Notes,
}

impl News {
    /// Whether there is nothing in it.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It holds here, too.
    Taken,
    /// There was nothing to do.
    Known,
    /// It cannot hold here.
    Refused(BanRefusal),
}

impl Moderator {
    /// Takes over what happened elsewhere, all or nothing; says what became of each
    /// change. When it returns, the kernel has been told.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn hear(&self, news: News) -> Result<Vec<Fate>, Unavailable> {
        self.ask(&self.operators, |reply| Command::Hear(news, reply), DECISION_TIMEOUT).await
    }
}

/// By whom a ban was lifted whose document is gone.
const BY_DELETING: &str = "a deleted document";

impl Task {
    pub(super) fn hear(&mut self, news: News, reply: Reply<Vec<Fate>>) -> Result<(), StoreLost> {
        let News { changes: told, mut notes } = news;
        let now = clock::now();
        notes.at_unix_ms = now.unix_ms;
        let uids = names(&told);
        let named = match self.with_store(|store| store.named(&uids))? {
            Ok(named) => named,
            Err(error) => {
                self.store_failed(&error, "what other hosts did was not taken over");
                respond(reply, Err(Unavailable::Store));
                return Ok(());
            }
        };
        let (overlay, lifted) = (self.engine.overlay(), &mut self.lifted);
        let mut hearing = Hearing { overlay, lifted, named, notes, now };
        let fates: Vec<_> = told.into_iter().map(|change| hearing.hear(change)).collect();
        let Hearing { overlay, notes, lifted, .. } = hearing;
        (0..lifted.take_forgotten()).for_each(|_| self.metrics.overflow(Table::Lifts));
        let changes = overlay.into_changes();
        let answer = match self.with_store(|store| store.commit_noted(&changes, &notes))? {
            Ok(()) => {
                let touched = self.publish(&changes);
                self.engine.apply(changes);
                self.enforcer.project(touched);
                self.board.set_size(self.engine.size());
                self.watch_circuit(now);
                self.watch_fill();
                Ok(fates)
            }
            Err(error) => {
                self.store_failed(&error, "what other hosts did was not taken over");
                Err(Unavailable::Store)
            }
        };
        respond(reply, answer);
        Ok(())
    }
}

fn names(changes: &[Change]) -> Vec<Uid> {
    let names = changes.iter().flat_map(|change| match change {
        Change::Ban { uid, .. } | Change::Lift { uid, .. } => vec![uid.clone()],
        Change::Pardon(entry) => vec![entry.uid.clone()],
        Change::Reship(uids) => uids.clone(),
    });
    names.collect()
}

/// One piece of news on its way.
struct Hearing<'e> {
    overlay: Overlay<'e>,
    /// Bans that were lifted elsewhere before they were heard of here, by whichever way
    /// either of them came: a lift beats its ban.
    lifted: &'e mut Memory<Uid>,
    /// Bans that have a name, from before and from this piece of news.
    named: BTreeMap<Uid, Named>,
    notes: Notes,
    now: Moment,
}

impl Hearing<'_> {
    fn hear(&mut self, change: Change) -> Fate {
        match change {
            Change::Ban { uid, origin, ban } => self.ban(uid, origin, *ban),
            Change::Lift { uid, host } => self.lift(&uid, &host),
            Change::Pardon(entry) => self.pardon(&entry),
            Change::Reship(uids) => {
                let known = uids.iter().filter_map(|uid| self.named.get(uid));
                self.notes.again.extend(known.map(|named| named.id));
                Fate::Known
            }
        }
    }

    fn ban(&mut self, uid: Uid, origin: Origin, ban: Ban) -> Fate {
        if let Some(named) = self.named.get(&uid) {
            if named.is_lifted {
                // Its document came back; a lift beats it.
                self.notes.again.insert(named.id);
            }
            return Fate::Known;
        }
        if !ban.holds_at(self.now.unix_ms) || self.lifted.contains(&uid) {
            return Fate::Known;
        }
        match self.overlay.take_ban(ban) {
            Ok(ban) => {
                self.named.insert(uid.clone(), Named { id: ban.id, is_lifted: false });
                self.notes.taken.insert(ban.id, (uid, origin));
                Fate::Taken
            }
            Err(refusal) => Fate::Refused(refusal),
        }
    }

    fn lift(&mut self, uid: &Uid, host: &str) -> Fate {
        let named = match self.named.get(uid) {
            None => {
                self.lifted.remember(uid);
                return Fate::Known;
            }
            Some(named) if named.is_lifted => return Fate::Known,
            Some(named) => *named,
        };
        let target = LiftTarget::Ban(named.id);
        let lifted = self.overlay.lift(&target, &format!("host:{host}"), self.now);
        self.notes.told.insert(named.id);
        if lifted.bans.is_empty() { Fate::Known } else { Fate::Taken }
    }

    /// The whole ban, and whatever else keeps out whom the key is about: whoever deletes
    /// a document wants that one let in.
    fn pardon(&mut self, entry: &Entry) -> Fate {
        let mut targets = Vec::new();
        targets.extend(self.named.get(&entry.uid).map(|named| LiftTarget::Ban(named.id)));
        if let Some((user, prefix)) = entry.subject() {
            targets.extend(user.map(LiftTarget::User));
            targets.extend(prefix.map(|prefix| {
                let net = prefix.net();
                let is_single = net.prefix_len() == net.max_prefix_len();
                // Of an IPv6 address, the block that rules ban with it, too.
                if is_single { LiftTarget::Address(net.addr()) } else { LiftTarget::Prefix(prefix) }
            }));
        }
        let mut lifted = 0;
        for target in targets {
            lifted += self.overlay.lift(&target, BY_DELETING, self.now).bans.len();
        }
        self.notes.gone.push(entry.key.clone());
        if lifted == 0 { Fate::Known } else { Fate::Taken }
    }
}
