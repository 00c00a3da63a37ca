//! Whatever the order in which documents come and go: nobody is pardoned who was not
//! deleted, and what was learned twice changes nothing.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

const USERS: [&str; 4] = ["anna", "bert", "carl", "dora"];

#[derive(Clone, Debug)]
enum Happens {
    /// Another host bans.
    Write(usize),
    /// Somebody deletes the document.
    Delete(usize),
    /// Another host lifts: says so, then removes the document.
    Lift(usize),
    /// Everything is listed.
    List,
    /// The stream tells an old change again.
    Again(usize),
    /// So many milliseconds pass.
    Wait(u64),
}

fn any_happening() -> impl Strategy<Value = Happens> {
    let user = 0..USERS.len();
    prop_oneof![
        user.clone().prop_map(Happens::Write),
        user.clone().prop_map(Happens::Delete),
        user.clone().prop_map(Happens::Lift),
        Just(Happens::List),
        user.prop_map(Happens::Again),
        (0_u64..600).prop_map(Happens::Wait),
    ]
}

/// The collection, and what the follower makes of it.
struct World {
    follow: Follow,
    now: Moment,
    /// The ban under each user's key, by its number.
    documents: HashMap<usize, u8>,
    deleted: HashSet<Uid>,
    next: u8,
    held: HashSet<Uid>,
}

impl World {
    fn ban(&self, user: usize) -> Option<SharedBan> {
        self.documents.get(&user).map(|number| shared(*number, Some(USERS[user]), None))
    }

    fn tell(&mut self, shared: &SharedBan) {
        for document in BanDocument::all(shared, "beta", &key()) {
            let judged = judge(&document.key, read(&document), &key());
            let steps = self.follow.see(&format!("\"{}\"", document.key), judged, self.now);
            self.take(steps);
        }
    }

    fn take(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Tell(Change::Ban { uid, .. }) => drop(self.held.insert(uid)),
                Step::Tell(Change::Lift { uid, .. }) => drop(self.held.remove(&uid)),
                Step::Tell(Change::Pardon(entry)) => {
                    assert!(self.deleted.contains(&entry.uid), "{entry:?} was never deleted");
                    self.held.remove(&entry.uid);
                }
                _ => {}
            }
        }
    }

    fn gone(&mut self, user: usize) {
        self.follow.gone(&format!("\"BANS:{}\"", USERS[user]), self.now);
    }

    fn wait(&mut self, ms: u64) {
        self.now.boot_ms += ms;
        self.now.unix_ms += ms;
        let steps = self.follow.settle(self.now);
        self.take(steps);
    }

    fn happen(&mut self, what: &Happens) {
        match *what {
            Happens::Write(user) => {
                if !self.documents.contains_key(&user) {
                    self.documents.insert(user, self.next);
                    self.next = self.next.wrapping_add(1);
                }
                self.again(user);
            }
            Happens::Again(user) => self.again(user),
            Happens::Delete(user) => {
                if let Some(number) = self.documents.remove(&user) {
                    self.deleted.insert(uid(number));
                    self.gone(user);
                }
            }
            Happens::Lift(user) => {
                let Some(mut ban) = self.ban(user) else { return };
                ban.lifted = Some((self.now.unix_ms, "root".to_owned()));
                let lift = LiftDocument::of(&ban, "beta", self.now.unix_ms, &key());
                let judged = judge(&lift.key, read_lift(&lift), &key());
                let steps = self.follow.see(&lift.key, judged, self.now);
                self.take(steps);
                self.documents.remove(&user);
                self.gone(user);
            }
            Happens::List => {
                let keys = self.documents.keys().map(|user| format!("BANS:{}", USERS[*user]));
                let keys: HashSet<_> = keys.collect();
                self.follow.listed(|key| keys.contains(key), self.now);
            }
            Happens::Wait(ms) => self.wait(ms),
        }
    }

    fn again(&mut self, user: usize) {
        if let Some(ban) = self.ban(user) {
            self.tell(&ban);
        }
    }
}

proptest! {
    #[test]
    fn in_the_end_exactly_those_are_banned_of_whom_there_is_a_document(
        happenings in prop::collection::vec(any_happening(), 0..40),
    ) {
        let settings = FollowSettings {
            host: "alpha".to_owned(),
            skew_ms: 5_000,
            most_deleted: usize::MAX,
            settle_ms: 250,
            most_foreign: 3,
            foreign_blocks: false,
            foreign_per_minute: 2,
        };
        let mut world = World {
            follow: Follow::new(settings, Vec::new()),
            now: NOW,
            documents: HashMap::new(),
            deleted: HashSet::new(),
            next: 1,
            held: HashSet::new(),
        };
        for what in &happenings {
            world.happen(what);
        }
        world.wait(1_000);
        let want: HashSet<_> = world.documents.values().map(|number| uid(*number)).collect();
        // A ban that was replaced under its key while its deletion was not judged yet is
        // held until it ends: nobody can tell that from a longer one that took its place.
        let replaced: HashSet<_> = world.held.difference(&want).cloned().collect();
        prop_assert!(want.is_subset(&world.held), "{:?} of {want:?}", world.held);
        prop_assert!(replaced.is_subset(&world.deleted), "{replaced:?}");
    }
}
