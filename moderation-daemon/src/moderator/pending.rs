//! What a batch is made of between deciding and answering: each command's
//! conclusion, and who waits for it.

use std::{collections::HashMap, sync::Arc};

use super::{Answer, Ask, BanView, Board, Command, Known, Reply, Unavailable};
use crate::{
    engine::{
        Act, Ban, BanRefusal, Cause, Change, Count, Decision, Engine, Lease, Moment, Outcome,
        Overlay, Traits, UserId,
    },
    metrics::{Metrics, Table},
};

/// A decision whose caller waits for the commit.
pub(super) enum Pending {
    Judged(Judged, Reply<Answer>),
    JudgedAll(Vec<Judged>, Reply<Vec<Answer>>),
    Counted(Vec<Count>, Reply<Vec<Count>>),
    Known(Option<Known>, Reply<Option<Known>>),
    Described(Known, Reply<Known>),
    Renewed(Option<Lease>, Reply<Option<Lease>>),
    Released(bool, Reply<bool>),
    Banned(Result<Arc<Ban>, BanRefusal>, Reply<Result<BanView, BanRefusal>>),
    Lifted(Vec<Arc<Ban>>, Reply<Vec<BanView>>),
}

/// One request's conclusion.
pub(super) struct Judged {
    /// `None`: it was a peek, which counts nowhere.
    act: Option<Act>,
    outcome: Outcome,
}

/// A batch while it is decided.
pub(super) struct Desk<'e> {
    engine: &'e Engine,
    overlay: Overlay<'e>,
    /// What this batch says about users.
    described: HashMap<UserId, Traits>,
}

impl<'e> Desk<'e> {
    pub(super) fn new(engine: &'e Engine) -> Self {
        Self { engine, overlay: engine.overlay(), described: HashMap::new() }
    }

    pub(super) fn into_changes(self) -> Vec<Change> {
        self.overlay.into_changes()
    }

    fn known(&self, user: &UserId) -> Option<Known> {
        let traits = self.described.get(user).or_else(|| self.engine.traits(user));
        let factor = self.engine.factor(user);
        (traits.is_some() || factor.is_some())
            .then(|| Known { traits: traits.cloned().unwrap_or_default(), factor })
    }

    /// What is said now goes over what was said before.
    fn describe(&mut self, user: UserId, said: Traits, now: Moment) -> Known {
        let Known { traits: old, factor } = self.known(&user).unwrap_or_default();
        let traits = Traits {
            tier: said.tier.or(old.tier),
            role: said.role.or(old.role),
            created_at_unix_ms: said.created_at_unix_ms.or(old.created_at_unix_ms),
            email_verified: said.email_verified.or(old.email_verified),
            paying: said.paying.or(old.paying),
        };
        let change = Change::Traits(user.clone(), traits.clone(), now.unix_ms);
        // Nobody is answered with this outcome.
        let outcome = Outcome::deny(Cause::NothingToRefund);
        self.overlay.push(&Decision { outcome, changes: vec![change] });
        self.described.insert(user, traits.clone());
        Known { traits, factor }
    }
}

/// Decides one command, on top of those before it in the batch.
pub(super) fn decide(desk: &mut Desk<'_>, command: Command, now: Moment) -> Pending {
    let overlay = &mut desk.overlay;
    match command {
        Command::Judge(ask, reply) => Pending::Judged(judge(overlay, ask, now), reply),
        Command::Usage(request, reply) => {
            // As if it did not happen, so that what is left is left for the next.
            let free = |count: Count| Count { cost: 0, ..count };
            let counts = overlay.counts(&request, now).into_iter().map(free);
            Pending::Counted(counts.collect(), reply)
        }
        Command::Known(user, reply) => Pending::Known(desk.known(&user), reply),
        Command::Describe(user, traits, reply) => {
            Pending::Described(desk.describe(user, traits, now), reply)
        }
        Command::JudgeAll(asks, reply) => {
            let judged = asks.into_iter().map(|ask| judge(overlay, ask, now));
            Pending::JudgedAll(judged.collect(), reply)
        }
        Command::Renew(id, reply) => Pending::Renewed(overlay.renew(id, now), reply),
        Command::Release(id, reply) => Pending::Released(overlay.release(id, now), reply),
        Command::Ban(ban, reply) => Pending::Banned(overlay.ban(ban, now), reply),
        Command::Lift(target, by, reply) => Pending::Lifted(overlay.lift(&target, &by, now), reply),
        Command::Allow(..)
        | Command::Disallow(..)
        | Command::Sample(..)
        | Command::Dossier(..)
        | Command::TakeScores(..)
        | Command::TakeRecords(..) => {
            unreachable!("serve takes these out of the batch")
        }
    }
}

fn judge(overlay: &mut Overlay<'_>, Ask { request, is_peek }: Ask, now: Moment) -> Judged {
    let counts = overlay.counts(&request, now);
    let decision = overlay.decide(&request, &counts, now);
    if is_peek {
        return Judged { act: None, outcome: supposed(decision.outcome) };
    }
    overlay.push(&decision);
    Judged { act: Some(request.act), outcome: decision.outcome }
}

/// What would have come of a request did not.
fn supposed(outcome: Outcome) -> Outcome {
    let ban = outcome.ban.filter(|_| outcome.cause == Some(Cause::Banned));
    Outcome { violation: None, ban, refusal: None, lease: None, logout: false, ..outcome }
}

impl Judged {
    fn answer(self, board: &Board, metrics: &Metrics) -> Answer {
        let outcome = self.outcome;
        if let Some(act) = &self.act {
            metrics.judged(act, outcome.verdict);
            if let Some(refusal) = outcome.refusal {
                metrics.ban_refused(refusal);
            }
            if outcome.cause == Some(Cause::LeasesFull) {
                metrics.overflow(Table::Leases);
            }
            if outcome.counts.iter().any(|count| count.is_shared) {
                metrics.overflow(Table::Windows);
            }
        }
        let ban = outcome.ban.as_ref().map(|ban| board.view(ban));
        Answer { outcome, ban }
    }
}

impl Pending {
    pub(super) fn answer(self, board: &Board, metrics: &Metrics) {
        match self {
            Self::Judged(judged, reply) => respond(reply, Ok(judged.answer(board, metrics))),
            Self::JudgedAll(all, reply) => {
                let answers = all.into_iter().map(|judged| judged.answer(board, metrics));
                respond(reply, Ok(answers.collect()));
            }
            Self::Counted(counts, reply) => respond(reply, Ok(counts)),
            Self::Known(known, reply) => respond(reply, Ok(known)),
            Self::Described(known, reply) => respond(reply, Ok(known)),
            Self::Renewed(lease, reply) => respond(reply, Ok(lease)),
            Self::Released(known, reply) => respond(reply, Ok(known)),
            Self::Banned(result, reply) => respond(reply, Ok(result.map(|ban| board.view(&ban)))),
            Self::Lifted(bans, reply) => {
                respond(reply, Ok(bans.iter().map(|ban| board.view(ban)).collect()));
            }
        }
    }

    /// The store did not take the batch.
    pub(super) fn refuse(self) {
        match self {
            Self::Judged(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::JudgedAll(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Counted(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Known(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Described(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Renewed(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Released(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Banned(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Lifted(_, reply) => respond(reply, Err(Unavailable::Store)),
        }
    }
}

/// A caller who has gone away needs no answer.
pub(super) fn respond<T>(reply: Reply<T>, answer: Result<T, Unavailable>) {
    drop(reply.send(answer));
}
