//! Asking the scripts by themselves: one bearer and one limit, unless said otherwise.

use std::time::Duration;

use anyhow::{Context, Result};
use moderation_daemon::engine::{Limiter, ViolationType};
use moderation_daemon::sharing::{
    Act, Claim, Counted, Deed, Group, GroupAnswer, LeaseName, Names, Tag, Ticket, Tickets, Window,
};
use moderation_daemon::store::redis::{Redis, Settings};
use tokio::runtime::Runtime;

/// On a busy machine an answer takes its time; who is late is not what is tested here.
const PATIENCE: Duration = Duration::from_secs(5);

/// The answer to a group, and which of its claims were taken.
type Answered = (GroupAnswer, Vec<bool>);

/// A host's half of the scripts.
pub(crate) struct Host {
    runtime: Runtime,
    pub(crate) redis: Redis,
    pub(crate) tickets: Tickets,
}

impl Host {
    pub(crate) fn of(uris: Vec<String>, seed: u64) -> Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        let redis = Redis::new(&Settings::of(uris, Names::new("test")))?;
        let host = Self { runtime, redis, tickets: Tickets::new(seed) };
        host.runtime.block_on(host.redis.probe("first"))?;
        Ok(host)
    }

    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Asks for groups; returns when, and what became of each.
    pub(crate) fn reserve(&self, groups: &[Group]) -> Result<(u64, Vec<Answered>)> {
        let reserved = self.run(self.redis.reserve(groups, u64::MAX / 4, PATIENCE))?;
        Ok((reserved.now_ms, reserved.answers))
    }

    /// The server's clock.
    pub(crate) fn now(&mut self) -> Result<u64> {
        let looks = Claim { looks: true, ..claim(u128::MAX, Window::Log { ms: 1 }, 1) };
        Ok(self.one(looks)?.0)
    }

    pub(crate) fn one(&mut self, claim: Claim) -> Result<(u64, GroupAnswer)> {
        let group = self.group(&[claim]);
        let (now, mut answers) = self.reserve(&[group])?;
        Ok((now, answers.pop().context("an answer")?.0))
    }

    pub(crate) fn group(&mut self, claims: &[Claim]) -> Group {
        let (scored, alone) = (None, None);
        let claims = claims.iter().copied().collect();
        Group { ticket: self.tickets.next(), in_order: false, claims, scored, alone }
    }

    pub(crate) fn settle(
        &self,
        acts: &[Act],
    ) -> Result<Vec<Option<moderation_daemon::engine::Score>>> {
        Ok(self.run(self.redis.settle(acts))?.scores)
    }

    pub(crate) fn act(&mut self, tag: Tag, deed: Deed) -> Act {
        Act { tag, ticket: self.tickets.next(), deed }
    }
}

pub(crate) fn about(tag: Tag, ticket: Ticket, deed: Deed) -> Act {
    Act { tag, ticket, deed }
}

/// One of a limit of so many.
pub(crate) fn claim(tag: u128, window: Window, max: u64) -> Claim {
    Claim {
        tag: Tag(tag),
        counted: Counted::Limiter(Limiter::MESSAGE_USER, window),
        max,
        cost: 1,
        looks: false,
        counts_rejected: false,
        violation: Some(ViolationType::MESSAGE_LIMIT),
    }
}

pub(crate) fn lease(tag: u128, name: LeaseName, max: u64, ms: u64) -> Claim {
    let violation = Some(ViolationType::CONCURRENT);
    Claim {
        counted: Counted::Leases(name, ms),
        violation,
        ..claim(tag, Window::Log { ms: 1 }, max)
    }
}
