//! Who is counted in `bench engine`, and in which order.

use std::net::IpAddr;

use moderation_daemon::engine::{Subject, UserId};

use super::super::list;
use crate::random::Random;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Address,
    User,
    /// A user at an address, of whom the address is counted.
    Both,
}

impl By {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::User => "user",
            Self::Both => "user_at_address",
        }
    }

    /// One of them, by number.
    pub(super) fn subject(self, number: u32) -> Subject {
        let user = || format!("64b0c0ffee64b0c0{number:08x}").parse::<UserId>().expect("short");
        let user = (self != Self::Address).then(user);
        let ip = (self != Self::User).then(|| list::address(number));
        Subject::new(user, ip).expect("one of both")
    }
}

/// All of them, in an order.
pub(super) struct Keys {
    subjects: Vec<Subject>,
    order: Vec<u32>,
    random: Random,
}

impl Keys {
    pub(super) fn new(by: By, count: usize) -> Self {
        let order: Vec<u32> = (0..u32::try_from(count).expect("a million")).collect();
        let subjects = order.iter().map(|number| by.subject(*number)).collect();
        // The same order in every run.
        Self { subjects, order, random: Random::new(1) }
    }

    /// Puts them in another order (Fisher and Yates).
    pub(super) fn shuffle(&mut self) {
        for last in (1..self.order.len()).rev() {
            let other = self.random.index(last + 1);
            self.order.swap(last, other);
        }
    }

    pub(super) fn order(&self) -> &[u32] {
        &self.order
    }

    pub(super) fn subject(&self, number: u32) -> &Subject {
        &self.subjects[number as usize]
    }
}

/// What the peer counts by: the very same.
pub(super) trait Counted: std::hash::Hash + Eq + Clone {
    fn of(subject: &Subject) -> Self;
}

impl Counted for IpAddr {
    fn of(subject: &Subject) -> Self {
        subject.ip().expect("counted by address")
    }
}

impl Counted for UserId {
    fn of(subject: &Subject) -> Self {
        subject.user().expect("counted by user").clone()
    }
}
