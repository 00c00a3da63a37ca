//! Shared addresses: who else was seen at an address, and who broke rules
//! there. Users are digests here. What that means for a ban is said below; that
//! one falls is decided elsewhere.

use foldhash::fast::FixedState;
use smallvec::SmallVec;
use std::{hash::BuildHasher as _, hint::black_box, net::IpAddr};

use super::{
    Address, Moment, Overlay, Rules, Subject, UserId,
    memory::{Memory, View},
};

/// How long a user counts as one of an address's, in milliseconds.
pub(crate) const SEEN_FOR_MS: u64 = 24 * 3_600_000;
/// How old a sighting may be before it is written again.
const FRESH_FOR_MS: u64 = 3_600_000;
/// Of so many users an address is shared by far.
const MOST_USERS: usize = 3;
/// Of so many it is remembered that they broke rules.
const MOST_BREAKERS: usize = 16;

/// A user as the table has it: ids are the app's, not a stranger's, and if two
/// should meet, an address looks less shared than it is.
pub(super) fn digest(user: &UserId) -> u64 {
    FixedState::default().hash_one(user.as_str())
}

/// One user, and when, in milliseconds since 1970.
type Sighting = (u64, u64);

/// Those at one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Crowd {
    /// The last few, at least one; mostly one, who is found where the crowd is.
    users: SmallVec<[Sighting; 1]>,
    /// Those who broke rules; `None`: strangers.
    breakers: Vec<(Option<u64>, u64)>,
}

impl Crowd {
    pub(super) fn see(&mut self, user: u64, unix_ms: u64) {
        self.users.retain(|(known, _)| *known != user);
        if self.users.len() >= MOST_USERS {
            self.users.remove(0);
        }
        self.users.push((user, unix_ms));
    }

    pub(super) fn blame(&mut self, user: Option<u64>, unix_ms: u64) {
        if let Some(user) = user {
            self.see(user, unix_ms);
        }
        self.breakers.retain(|(known, _)| *known != user);
        if self.breakers.len() >= MOST_BREAKERS {
            self.breakers.remove(0);
        }
        self.breakers.push((user, unix_ms));
    }

    /// The same as if that user had broken no rule; `None`: nobody says so.
    pub(super) fn without(&self, user: u64) -> Option<Self> {
        let mut rest = self.clone();
        rest.breakers.retain(|(known, _)| *known != Some(user));
        (rest != *self).then_some(rest)
    }

    pub(super) fn last_seen_unix_ms(&self) -> u64 {
        self.users.iter().map(|(_, at)| *at).max().unwrap_or(0)
    }

    fn is_fresh(&self, user: u64, unix_ms: u64) -> bool {
        let is_it =
            |(known, at): &Sighting| *known == user && unix_ms < at.saturating_add(FRESH_FOR_MS);
        self.users.iter().any(is_it)
    }

    fn others(&self, user: Option<u64>, unix_ms: u64) -> usize {
        let is_other = |(known, at): &&Sighting| {
            Some(*known) != user && unix_ms < at.saturating_add(SEEN_FOR_MS)
        };
        self.users.iter().filter(is_other).count()
    }
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// As far as is known, one subject's.
    Own,
    /// Several users', of whom too few broke rules.
    Innocent,
    /// Several users', of whom enough did.
    Guilty,
}

impl Memory {
    /// Takes over from an earlier life who was banned for what he did where: without
    /// that a lift would not let him in there. The latest, if there are too many.
    pub(super) fn recall_blames(&mut self, blamed: Vec<(UserId, IpAddr, u64)>, rules: &Rules) {
        if rules.ban.shared.is_none() {
            return;
        }
        let surplus = blamed.len().saturating_sub(rules.bounds.addresses);
        self.forgotten.addresses += surplus as u64;
        for (user, ip, at) in blamed.into_iter().skip(surplus) {
            let address = Address::new(ip, rules.counting.v6_bits);
            let user = Some(digest(&user));
            self.change_crowd(None, address, at, rules, |crowd| crowd.blame(user, at));
        }
    }
}

impl Rules {
    #[inline]
    fn place_at(&self, subject: &Subject) -> Option<Address> {
        subject.ip().map(|ip| Address::new(ip, self.counting.v6_bits))
    }

    /// See [`Overlay::sighting`].
    #[inline]
    pub(super) fn sighting(
        &self,
        memory: View<'_>,
        subject: &Subject,
        now: Moment,
    ) -> Option<(Address, u64)> {
        self.ban.shared?;
        let (user, address) = (subject.user()?, self.place_at(subject)?);
        let user = digest(user);
        let known = memory.crowd(&address);
        let is_fresh = known.is_some_and(|crowd| crowd.is_fresh(user, now.unix_ms));
        (!is_fresh).then_some((address, user))
    }

    /// Waits, beside others who wait, for what that reads.
    #[inline]
    pub(super) fn await_crowd(&self, memory: View<'_>, subject: &Subject) {
        if self.ban.shared.is_some()
            && subject.user().is_some()
            && let Some(address) = self.place_at(subject)
        {
            black_box(memory.crowd(&address).map(Crowd::last_seen_unix_ms));
        }
    }
}

impl Overlay<'_> {
    fn place_at(&self, subject: &Subject) -> Option<Address> {
        self.engine.rules.place_at(subject)
    }

    /// The sighting that is to be remembered of a subject, if any: where, whom. One
    /// for which there is no room is told too, so that it is counted.
    #[inline]
    pub(super) fn sighting(&self, subject: &Subject, now: Moment) -> Option<(Address, u64)> {
        self.engine.rules.sighting(self.memory(), subject, now)
    }

    /// Whose the address of somebody is who is to be banned.
    pub(super) fn place(&self, subject: &Subject, now: Moment) -> Place {
        let Some(rule) = self.engine.rules.ban.shared else { return Place::Own };
        let Some(address) = self.place_at(subject) else { return Place::Own };
        let (view, user) = (self.memory(), subject.user().map(digest));
        let Some(crowd) = view.crowd(&address) else {
            // Nothing is known where there is no room to know it: that punishes
            // less.
            let is_full = view.crowds() >= self.engine.rules.bounds.addresses;
            return if is_full && user.is_some() { Place::Innocent } else { Place::Own };
        };
        let others = crowd.others(user, now.unix_ms);
        // A stranger may be the one user, not logged in yet.
        if others + usize::from(user.is_some()) < 2 {
            return Place::Own;
        }
        let lately =
            |(_, at): &&(Option<u64>, u64)| now.unix_ms < at.saturating_add(rule.within_ms);
        let mut guilty = usize::from(user.is_some());
        for (breaker, _) in crowd.breakers.iter().filter(lately) {
            match breaker {
                None => return Place::Guilty,
                Some(known) => guilty += usize::from(Some(*known) != user),
            }
        }
        let is_enough = user.is_none() || guilty >= rule.subjects as usize;
        if is_enough { Place::Guilty } else { Place::Innocent }
    }
}
